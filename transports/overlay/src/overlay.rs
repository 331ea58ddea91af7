//! Overlay: the handle that the daemon holds.
//!
//! in:  an identity and settings; dials; out: streams to peers, streams of peers
//! owner: shared; the node's task does the work
//! keeps: a dial that is dropped leaves nothing behind; names lead to keys before anything is dialled
//! bound: [`limits`]; each dial's own timeout

use std::collections::HashMap;
use std::fmt;
use std::io;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use libp2p::swarm::{Config, Swarm};
use libp2p::{Multiaddr, PeerId};
use outsock_peer::limits::HOPS_MAX;
use outsock_peer::{
    ExchangeError, Framed, Identity, Open, PeerKey, Refusal, StreamKind, ask, exchange,
};
use outsock_transport::{
    Capabilities, Destination, DialError, DialRequest, Dialed, Errno, ListenError, Listener,
    Stream, Transport,
};
use tokio::sync::{Semaphore, mpsc, oneshot};
use tokio::task::{AbortHandle, JoinSet};
use tokio::time::Instant;

use crate::behaviour::Behaviour;
use crate::carried::Carried;
use crate::carriers;
use crate::incoming::{self, Incoming};
use crate::key::{keypair, peer_id, peer_key};
use crate::limits;
use crate::node::{Command, Node};
use crate::record::{Record, now_ms};
use crate::settings::{Address, Settings};
use crate::status::Status;
use crate::streams::Arrived;

/// What the overlay can do.
pub const CAPABILITIES: Capabilities = Capabilities {
    // An address says nothing about which gateway is meant.
    dials_addresses: false,
    dials_names: true,
    dials_unix: false,
    // Peers' streams come to the whole gateway, not to a listener for each.
    listens: false,
    half_close: true,
    reset: true,
    encrypted: true,
};

/// Why the overlay does not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The key cannot be used.
    #[error("the overlay cannot use the gateway's key")]
    Key,
    /// The carriers cannot be set up.
    #[error("the overlay cannot be set up: {0}")]
    Carriers(io::Error),
    /// It cannot listen.
    #[error("the overlay cannot listen at {at}: {reason}")]
    Listen {
        /// Where.
        at: Address,
        /// The system's word.
        reason: String,
    },
}

/// A peer that the configuration names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Known {
    /// Its name: `SERVICE.<name>.peer`.
    pub name: Arc<str>,
    /// Its key.
    pub key: PeerKey,
}

/// See the module.
pub struct Overlay {
    key: PeerKey,
    network: String,
    commands: mpsc::Sender<Command>,
    incoming: tokio::sync::Mutex<mpsc::Receiver<Incoming>>,
    known: Mutex<HashMap<Arc<str>, PeerKey>>,
    tasks: [AbortHandle; 2],
}

impl fmt::Debug for Overlay {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Overlay").field("key", &self.key).finish_non_exhaustive()
    }
}

impl Drop for Overlay {
    fn drop(&mut self) {
        for task in &self.tasks {
            task.abort();
        }
    }
}

impl Overlay {
    /// Listens and joins the network. Must be called within a tokio runtime.
    ///
    /// # Errors
    /// [`StartError`].
    pub fn start(identity: &Identity, settings: Settings) -> Result<Self, StartError> {
        let keypair = keypair(identity).ok_or(StartError::Key)?;
        let (carrier, client) =
            carriers::build(&keypair, Arc::clone(&settings.gate)).map_err(StartError::Carriers)?;
        let (arrived, arriving) = mpsc::channel(limits::INCOMING_WAITING_MAX);
        let behaviour =
            Behaviour::new(&keypair, &settings, client, arrived).map_err(StartError::Carriers)?;
        let config = Config::with_tokio_executor()
            .with_idle_connection_timeout(limits::IDLE_TIME)
            .with_max_negotiating_inbound_streams(limits::NEGOTIATING_MAX)
            .with_substream_upgrade_protocol_override(libp2p::core::upgrade::Version::V1Lazy)
            .with_smart_dial();
        let own = keypair.public().to_peer_id();
        let mut swarm = Swarm::new(carrier, behaviour, own, config);
        for at in &settings.listen {
            let failed = |error: libp2p::TransportError<io::Error>| StartError::Listen {
                at: at.clone(),
                reason: error.to_string(),
            };
            swarm.listen_on(at.0.clone()).map_err(failed)?;
        }
        let (commands, ordered) = mpsc::channel(limits::COMMANDS_WAITING_MAX);
        let (answered, incoming) = mpsc::channel(limits::INCOMING_WAITING_MAX);
        let network = settings.network.clone();
        let node = tokio::spawn(Node::new(swarm, keypair, settings).run(ordered)).abort_handle();
        let headers = tokio::spawn(read_headers(arriving, answered)).abort_handle();
        Ok(Self {
            key: identity.key(),
            network,
            commands,
            incoming: tokio::sync::Mutex::new(incoming),
            known: Mutex::default(),
            tasks: [node, headers],
        })
    }

    /// This gateway's key.
    pub fn key(&self) -> &PeerKey {
        &self.key
    }

    /// From now on these are the names of peers.
    pub fn set_known(&self, known: Vec<Known>) {
        let known = known.into_iter().map(|peer| (peer.name, peer.key)).collect();
        *self.known.lock().unwrap_or_else(PoisonError::into_inner) = known;
    }

    /// The next stream that a peer has opened; `None` when the overlay has ended.
    pub async fn accept(&self) -> Option<Incoming> {
        self.incoming.lock().await.recv().await
    }

    /// How it stands; `None` when it has ended.
    pub async fn status(&self) -> Option<Status> {
        let (reply, status) = oneshot::channel();
        self.commands.send(Command::Status(reply)).await.ok()?;
        status.await.ok()
    }

    /// Cuts every connection with a peer.
    pub async fn cut(&self, key: &PeerKey) {
        if let Some(peer) = peer_id(key) {
            // An overlay that has ended has no connections.
            let _ = self.commands.send(Command::Cut(peer)).await;
        }
    }

    /// Leaves the network.
    pub async fn close(&self, patience: Duration) {
        let (done, closed) = oneshot::channel();
        let close = async {
            if self.commands.send(Command::Close(done)).await.is_ok() {
                let _ = closed.await;
            }
        };
        let _ = tokio::time::timeout(patience, close).await;
    }

    /// What the directory says about a key: the latest good record of those that come.
    ///
    /// # Errors
    /// `HostUnreachable` when it says nothing good.
    pub async fn lookup(&self, key: &PeerKey) -> Result<Record, DialError> {
        let place = Record::place(&self.network, key);
        let (reply, mut found) = mpsc::channel(limits::ANSWERS_MAX);
        let command = Command::Lookup { key: place.clone(), reply };
        self.commands.send(command).await.map_err(|_| DialError::NetworkDown)?;
        let mut best: Option<Record> = None;
        let mut until = Instant::now() + limits::LOOKUP_TIMEOUT;
        while let Ok(Some(value)) = tokio::time::timeout_at(until, found.recv()).await {
            match Record::check(&value, &self.network, &place, now_ms()) {
                Ok(record) => {
                    if best.is_none() {
                        until = Instant::now() + limits::LATER_RECORD_WAIT;
                    }
                    let is_later = best.as_ref().is_none_or(|old| old.issued_ms < record.issued_ms);
                    if is_later {
                        best = Some(record);
                    }
                }
                Err(error) => tracing::info!(%key, %error, "overlay: a record was passed over"),
            }
        }
        best.ok_or(DialError::HostUnreachable)
    }

    /// The site that a name speaks of: `SERVICE.SITE.peer`, `SITE.peer`, or the site alone.
    pub fn site_of(name: &str) -> &str {
        site_of(name).unwrap_or(name)
    }

    /// The key that a site's name means here.
    pub fn resolve(&self, site: &str) -> Option<PeerKey> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner).get(site).copied()
    }

    async fn open(&self, peer: PeerId, at: Option<Vec<Multiaddr>>) -> Result<Carried, DialError> {
        let (reply, stream) = oneshot::channel();
        let command = Command::Open { peer, addresses: at, reply };
        self.commands.send(command).await.map_err(|_| DialError::NetworkDown)?;
        stream.await.map_err(|_| DialError::NetworkDown)?
    }

    /// Over a connection that stands; else where the directory says that the peer is.
    async fn reach(&self, key: &PeerKey) -> Result<Carried, DialError> {
        let peer = peer_id(key).ok_or(DialError::HostUnreachable)?;
        match self.open(peer, None).await {
            Err(DialError::HostUnreachable) => {}
            outcome => return outcome,
        }
        // Not in the directory is not unknown: it may be on the LAN, or a bootstrap.
        let addresses = self.lookup(key).await.map(|record| record.addresses).unwrap_or_default();
        self.open(peer, Some(addresses)).await
    }

    /// Opens a stream to a peer and asks it for a target.
    ///
    /// # Errors
    /// As a dial. The caller sets the time limit.
    pub async fn ask(
        &self,
        key: &PeerKey,
        label: &str,
        request: &DialRequest,
    ) -> Result<Dialed, DialError> {
        let open = header(label, request)?;
        let mut stream = self.reach(key).await?;
        let (mut receive, mut send) = tokio::io::split(&mut stream);
        let bound = ask(&mut send, &mut receive, &open).await?;
        let stream = Stream::Async(Box::pin(Framed::new(stream)));
        Ok(Dialed { stream, local: bound.local })
    }
}

/// The site of `SERVICE.<site>.peer`.
fn site_of(name: &str) -> Option<&str> {
    let rest = name.strip_suffix(".peer")?;
    Some(rest.rsplit_once('.').map_or(rest, |(_, site)| site))
}

fn header(label: &str, request: &DialRequest) -> Result<Open, DialError> {
    Open::to(StreamKind::Stream, &request.destination, label, &request.origin)
}

#[async_trait]
impl Transport for Overlay {
    fn kind(&self) -> &'static str {
        "overlay"
    }

    fn capabilities(&self) -> Capabilities {
        CAPABILITIES
    }

    async fn dial(&self, request: DialRequest) -> Result<Dialed, DialError> {
        let name = match &request.destination {
            Destination::Name { name, .. } => name,
            Destination::Address(_) => {
                return Err(DialError::UnsupportedDestination("addresses: it needs a name"));
            }
            Destination::Unix(_) => {
                return Err(DialError::UnsupportedDestination("Unix sockets of another host"));
            }
        };
        let site = site_of(name).ok_or(DialError::HostUnreachable)?;
        let dial = async {
            let key = self.resolve(site).ok_or(DialError::HostUnreachable)?;
            self.ask(&key, site, &request).await
        };
        tokio::time::timeout(request.timeout, dial).await.unwrap_or(Err(DialError::TimedOut))
    }

    async fn listen(&self, _at: &Destination) -> Result<Box<dyn Listener>, ListenError> {
        Err(ListenError::Unsupported("the overlay: listen = \"service:NAME\" offers to peers"))
    }
}

/// Reads the headers of peers' streams.
async fn read_headers(mut arriving: mpsc::Receiver<Arrived>, answered: mpsc::Sender<Incoming>) {
    let reading = Arc::new(Semaphore::new(limits::HEADERS_MAX));
    let mut tasks = JoinSet::new();
    loop {
        tokio::select! {
            arrived = arriving.recv() => {
                let Some(arrived) = arrived else { return };
                // Waiting here fills the queue before, which refuses with a reason.
                let Ok(place) = Arc::clone(&reading).acquire_owned().await else { return };
                let answered = answered.clone();
                tasks.spawn(async move {
                    header_of(arrived, answered).await;
                    drop(place);
                });
            }
            Some(_) = tasks.join_next() => {}
        }
    }
}

async fn header_of(arrived: Arrived, answered: mpsc::Sender<Incoming>) {
    let Arrived { peer, connection, mut stream } = arrived;
    let Some(key) = peer_key(&peer) else { return };
    let refusal = match exchange::accept(&mut stream).await {
        Ok(open) if open.hops > HOPS_MAX => {
            Refusal::new(Errno::ELOOP, "the routes lead in a circle: too many gateways")
        }
        Ok(open) => {
            let incoming = Incoming::new(key, open, stream);
            match answered.try_send(incoming) {
                Ok(()) => return,
                Err(full) => {
                    let text = "the gateway has too many streams to look at";
                    return full.into_inner().refuse(Refusal::new(Errno::EAGAIN, text)).await;
                }
            }
        }
        // It gave the dial up, or is gone.
        Err(ExchangeError::Broken(_)) => return,
        Err(error) => match error.refusal() {
            Some(refusal) => refusal,
            None => return,
        },
    };
    tracing::debug!(%peer, %connection, reason = refusal.reason, "overlay: refused a stream");
    incoming::refuse(stream, refusal).await;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_site_is_the_last_label_before_peer() {
        assert_eq!(site_of("web.osaka.peer"), Some("osaka"));
        assert_eq!(site_of("a.b.osaka.peer"), Some("osaka"));
        assert_eq!(site_of("osaka.peer"), Some("osaka"));
        assert_eq!(site_of("web.example"), None);
    }
}
