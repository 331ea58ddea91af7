//! Endpoint: this gateway's place in the QUIC world, one UDP socket.
//!
//! in:  an identity, settings, peers; handshakes of others
//! out: [`Peer`]s, which dial; [`Incoming`] streams of peers
//! owner: the daemon; one task accepts handshakes, one per peer keeps it connected
//! keeps: nobody without a configured key gets past the handshake; strangers cost little: from
//!        [`limits::HANDSHAKES_TRUSTED_MAX`] on they must prove their address, beyond
//!        [`limits::HANDSHAKES_MAX`] they are refused
//! bound: [`limits`]

use std::collections::{HashMap, HashSet};
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use outsock_peer::{Identity, PeerKey};
use outsock_transport::DialError;
use quinn::{ConnectionId, ConnectionIdGenerator, EndpointConfig, TokioRuntime};
use ring::rand::{SecureRandom, SystemRandom};
use tokio::sync::{Mutex, mpsc, watch};
use tokio::task::JoinHandle;

use crate::failure::CLOSE_ENDING;
use crate::incoming::Incoming;
use crate::limits;
use crate::link::Link;
use crate::peer::Peer;
use crate::settings::{PeerSettings, Settings};
use crate::tls::{self, Credentials, KnownKeys};
use crate::tuning::{self, Rate};
use crate::warm;

/// Why QUIC does not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The UDP address cannot be had.
    #[error("cannot listen on UDP {at}: {source}")]
    Bind {
        /// Which.
        at: SocketAddr,
        /// The system's word.
        source: io::Error,
    },
    /// The identity makes no certificate.
    #[error("cannot make a certificate: {0}")]
    Certificate(String),
}

/// What the endpoint and its peers share.
#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) endpoint: quinn::Endpoint,
    pub(crate) key: PeerKey,
    /// Which life of this gateway this is.
    pub(crate) life: u64,
    pub(crate) incoming: mpsc::Sender<Box<Incoming>>,
    credentials: Credentials,
    settings: Settings,
    known: KnownKeys,
    sharing: AtomicUsize,
    draining: AtomicBool,
}

impl Shared {
    pub(crate) fn is_draining(&self) -> bool {
        self.draining.load(Ordering::Acquire)
    }

    pub(crate) fn client_config(&self, peer: &Peer) -> Result<quinn::ClientConfig, DialError> {
        let crypto = self.credentials.client(peer.settings.key);
        let crypto = crypto.map_err(|error| DialError::NotAuthenticated(error.to_string()))?;
        let mut config = quinn::ClientConfig::new(Arc::new(crypto));
        let sharing = self.sharing.load(Ordering::Relaxed);
        let transport = tuning::transport(&self.settings, peer.settings.congestion, sharing);
        config.transport_config(Arc::new(transport));
        Ok(config)
    }

    fn server_config(&self, identity: &Identity) -> Result<quinn::ServerConfig, StartError> {
        let bad = |error: rustls::Error| StartError::Certificate(error.to_string());
        let crypto = self.credentials.server(Arc::clone(&self.known)).map_err(bad)?;
        let token = ring::hkdf::Salt::new(ring::hkdf::HKDF_SHA256, &[])
            .extract(&identity.derive("outsock quic address tokens"));
        let mut config = quinn::ServerConfig::new(Arc::new(crypto), Arc::new(token));
        config.max_incoming(limits::HANDSHAKES_MAX).migration(true);
        Ok(config)
    }

    /// The address as our socket's family spells it.
    pub(crate) fn to_dial(&self, address: SocketAddr) -> SocketAddr {
        let is_v6 = self.endpoint.local_addr().is_ok_and(|local| local.is_ipv6());
        match address.ip() {
            IpAddr::V4(v4) if is_v6 => SocketAddr::new(v4.to_ipv6_mapped().into(), address.port()),
            IpAddr::V4(_) | IpAddr::V6(_) => address,
        }
    }
}

/// See the module. Dropping it ends all connections.
#[derive(Debug)]
pub struct Endpoint {
    shared: Arc<Shared>,
    peers: Arc<RwLock<HashMap<PeerKey, Kept>>>,
    incoming: Mutex<mpsc::Receiver<Box<Incoming>>>,
    ended: watch::Sender<bool>,
    accepting: JoinHandle<()>,
    server: quinn::ServerConfig,
}

/// A peer and the task that keeps it connected.
#[derive(Debug)]
struct Kept {
    peer: Arc<Peer>,
    warm: Option<JoinHandle<()>>,
}

impl Drop for Kept {
    fn drop(&mut self) {
        if let Some(warm) = &self.warm {
            warm.abort();
        }
        self.peer.end();
    }
}

impl Endpoint {
    /// Starts within a tokio runtime, without peers.
    ///
    /// # Errors
    /// [`StartError`].
    pub fn start(identity: &Identity, settings: Settings) -> Result<Self, StartError> {
        let bad = |error: rcgen::Error| StartError::Certificate(error.to_string());
        let credentials = Credentials::new(identity).map_err(bad)?;
        let at = settings.listen;
        let failed = |source| StartError::Bind { at, source };
        let socket = tuning::bind(at, settings.socket_buffer).map_err(failed)?;
        let endpoint =
            quinn::Endpoint::new(endpoint_config(identity), None, socket, Arc::new(TokioRuntime))
                .map_err(failed)?;
        let (sender, incoming) = mpsc::channel(limits::INCOMING_WAITING_MAX);
        let shared = Arc::new(Shared {
            endpoint,
            key: identity.key(),
            life: random(),
            incoming: sender,
            credentials,
            settings,
            known: Arc::default(),
            sharing: AtomicUsize::new(1),
            draining: AtomicBool::new(false),
        });
        let server = shared.server_config(identity)?;
        let peers: Arc<RwLock<HashMap<PeerKey, Kept>>> = Arc::default();
        let accepting = tokio::spawn(accept(Arc::clone(&shared), Arc::clone(&peers)));
        let this = Self {
            shared,
            peers,
            incoming: Mutex::new(incoming),
            ended: watch::Sender::new(false),
            accepting,
            server,
        };
        this.retune();
        Ok(this)
    }

    /// The handshakes of others get the windows that fit the number of peers.
    fn retune(&self) {
        let (shared, mut server) = (&self.shared, self.server.clone());
        let sharing = shared.sharing.load(Ordering::Relaxed);
        let transport = tuning::transport(&shared.settings, shared.settings.congestion, sharing);
        server.transport_config(Arc::new(transport));
        shared.endpoint.set_server_config(Some(server));
    }

    /// Replaces the peers. Those that are the same live on with their connections; those that are gone
    /// are cut off.
    pub fn set_peers(&self, settings: &[PeerSettings]) -> Vec<Arc<Peer>> {
        let keys: HashSet<PeerKey> = settings.iter().map(|peer| peer.key).collect();
        *self.shared.known.write().unwrap_or_else(PoisonError::into_inner) = keys;
        let connections: usize = settings.iter().map(|peer| peer.connections.max(1)).sum();
        self.shared.sharing.store(connections.max(1), Ordering::Relaxed);
        self.retune();
        let mut peers = self.peers.write().unwrap_or_else(PoisonError::into_inner);
        let mut old = std::mem::take(&mut *peers);
        let mut made = Vec::new();
        for one in settings {
            let kept = match old.remove(&one.key) {
                Some(kept) if kept.peer.settings == *one => kept,
                Some(_) | None => {
                    let peer = Peer::new(one.clone(), Arc::clone(&self.shared));
                    let dials = !one.addresses.is_empty();
                    let warm = dials.then(|| tokio::spawn(warm::keep(Arc::clone(&peer))));
                    Kept { peer, warm }
                }
            };
            made.push(Arc::clone(&kept.peer));
            peers.insert(one.key, kept);
        }
        drop(peers);
        // Those that are left are gone.
        drop(old);
        made
    }

    /// The peers.
    pub fn peers(&self) -> Vec<Arc<Peer>> {
        let peers = self.peers.read().unwrap_or_else(PoisonError::into_inner);
        let mut peers: Vec<_> = peers.values().map(|kept| Arc::clone(&kept.peer)).collect();
        peers.sort_by(|a, b| a.name().cmp(b.name()));
        peers
    }

    /// Our UDP address.
    ///
    /// # Errors
    /// The system's.
    pub fn local_addr(&self) -> io::Result<SocketAddr> {
        self.shared.endpoint.local_addr()
    }

    /// Our key.
    pub fn key(&self) -> PeerKey {
        self.shared.key
    }

    /// Waits for a stream of a peer. `None` when the endpoint has ended. Cancel-safe.
    pub async fn accept(&self) -> Option<Incoming> {
        let mut ended = self.ended.subscribe();
        let next = async { self.incoming.lock().await.recv().await.map(|incoming| *incoming) };
        tokio::select! {
            incoming = next => incoming,
            // The sender lives in `self`.
            _ = ended.wait_for(|ended| *ended) => None,
        }
    }

    /// Moves to another UDP address; connections that we dialled live on.
    ///
    /// # Errors
    /// The system's.
    pub fn rebind(&self, at: SocketAddr) -> io::Result<()> {
        let socket = tuning::bind(at, self.shared.settings.socket_buffer)?;
        self.shared.endpoint.rebind(socket)
    }

    /// Takes no new streams, and tells the peers.
    pub async fn drain(&self) {
        self.shared.draining.store(true, Ordering::Release);
        for peer in self.peers() {
            for link in peer.links() {
                link.say_drain().await;
            }
        }
    }

    /// Streams that are not over: open, or with bytes that a peer has not acknowledged.
    pub fn streams(&self) -> usize {
        let links = |peer: Arc<Peer>| peer.links().iter().map(|link| link.streams()).sum::<usize>();
        self.peers().into_iter().map(links).sum()
    }

    /// Ends: drains for at most `patience`, then closes.
    pub async fn close(&self, patience: Duration) {
        self.drain().await;
        let done = async {
            while self.streams() > 0 {
                tokio::time::sleep(limits::DRAIN_POLL).await;
            }
        };
        // What is left is cut off.
        let _ = tokio::time::timeout(patience, done).await;
        self.accepting.abort();
        self.ended.send_replace(true);
        self.shared.endpoint.close(CLOSE_ENDING.into(), b"the gateway has ended");
        let _ = tokio::time::timeout(limits::CLOSE_TIMEOUT, self.shared.endpoint.wait_idle()).await;
    }
}

impl Drop for Endpoint {
    fn drop(&mut self) {
        self.accepting.abort();
        self.shared.endpoint.close(CLOSE_ENDING.into(), b"the gateway has ended");
    }
}

/// Reset tokens follow from the identity, and connection ids are plain random numbers: a gateway that
/// was killed and started anew can tell its peers at once that it knows nothing of their connections.
fn endpoint_config(identity: &Identity) -> EndpointConfig {
    let reset = identity.derive("outsock quic stateless reset");
    let reset = ring::hmac::Key::new(ring::hmac::HMAC_SHA256, &reset);
    let mut config = EndpointConfig::new(Arc::new(reset));
    config.cid_generator(|| Box::new(RandomIds));
    config
}

/// quinn's own ids carry a mark by which it drops those of an earlier life without a word.
struct RandomIds;

impl ConnectionIdGenerator for RandomIds {
    fn generate_cid(&mut self) -> ConnectionId {
        ConnectionId::new(&random().to_le_bytes())
    }

    fn cid_len(&self) -> usize {
        size_of::<u64>()
    }

    fn cid_lifetime(&self) -> Option<Duration> {
        None
    }
}

/// Zero where the system has no random numbers; then a life cannot be told from the next.
fn random() -> u64 {
    let mut bytes = [0; 8];
    let _ = SystemRandom::new().fill(&mut bytes);
    u64::from_le_bytes(bytes)
}

async fn accept(shared: Arc<Shared>, peers: Arc<RwLock<HashMap<PeerKey, Kept>>>) {
    let under_way = Arc::new(());
    let log = Arc::new(Rate::for_log());
    while let Some(incoming) = shared.endpoint.accept().await {
        let handshakes = Arc::strong_count(&under_way) - 1;
        if handshakes >= limits::HANDSHAKES_MAX || shared.is_draining() {
            incoming.refuse();
            continue;
        }
        if handshakes >= limits::HANDSHAKES_TRUSTED_MAX && incoming.may_retry() {
            // The address was checked already, or the packet cannot be answered.
            let _ = incoming.retry();
            continue;
        }
        let (shared, peers, log) = (Arc::clone(&shared), Arc::clone(&peers), Arc::clone(&log));
        let counted = Arc::clone(&under_way);
        tokio::spawn(async move {
            let from = incoming.remote_address();
            let outcome =
                tokio::time::timeout(limits::HANDSHAKE_TIMEOUT, receive(incoming, &shared, &peers));
            let outcome = outcome.await.unwrap_or_else(|_| Err("no handshake in time".to_owned()));
            if let Err(error) = outcome
                && let Some(left_out) = log.admit()
            {
                tracing::warn!(%from, error, left_out, "a handshake failed");
            }
            drop(counted);
        });
    }
}

/// One handshake that somebody else began.
async fn receive(
    incoming: quinn::Incoming,
    shared: &Shared,
    peers: &RwLock<HashMap<PeerKey, Kept>>,
) -> Result<(), String> {
    let connecting = incoming.accept().map_err(|error| error.to_string())?;
    let connection = connecting.await.map_err(|error| error.to_string())?;
    let key = tls::key_of(&connection).ok_or("no key")?;
    let peer = {
        let peers = peers.read().unwrap_or_else(PoisonError::into_inner);
        peers.get(&key).map(|kept| Arc::clone(&kept.peer))
    };
    // Removed since the handshake looked.
    let Some(peer) = peer else {
        connection.close(crate::failure::CLOSE_REMOVED.into(), b"not configured");
        return Err(format!("no [[peer]] has the key {key}"));
    };
    let greeted = Link::greet(connection, shared.life).await;
    let (link, control) = greeted.map_err(|error| format!("{}: {error}", peer.name()))?;
    warm::establish(&peer, link, control).map_err(|error| format!("{}: {error}", peer.name()))
}
