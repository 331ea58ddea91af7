//! Peer: another gateway, known by its key.
//!
//! in:  guests' dials; connections that stand
//! out: streams to the peer; what is known of it
//! owner: the endpoint's table and the daemon's registry; `warm` keeps it connected
//! keeps: new streams take a link that both sides prefer (the one that the smaller key dialled), so
//!        that two links of a simultaneous dial become one again; a connection of a new life of the
//!        peer ends those of the old one
//! bound: [`limits::LINKS_PER_PEER_MAX`] links

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use async_trait::async_trait;
use outsock_peer::{Bound, Open, StreamKind, ask};
use outsock_transport::{
    Capabilities, Carried, Destination, DialError, DialRequest, Dialed, Flow, FlowRequest,
    ListenError, Listener, Origin, Stream, Transport,
};
use tokio::sync::{mpsc, watch};

use crate::datagrams::{Datagrams, Sessions};
use crate::endpoint::Shared;
use crate::failure::{self, CLOSE_REMOVED, CLOSE_REPLACED};
use crate::incoming::Incoming;
use crate::limits;
use crate::link::Link;
use crate::settings::PeerSettings;
use crate::stream::QuicStream;
use crate::warm::{self, Phase};

/// See the module.
#[derive(Debug)]
pub struct Peer {
    pub(crate) settings: PeerSettings,
    pub(crate) shared: Arc<Shared>,
    pub(crate) phase: watch::Sender<Phase>,
    state: Mutex<State>,
    next: AtomicUsize,
}

#[derive(Debug, Default)]
struct State {
    links: Vec<Arc<Link>>,
    /// The peer's life, and the one before.
    life: Option<u64>,
    earlier_life: Option<u64>,
    removed: bool,
    connected: u64,
}

/// What is known of a peer.
#[derive(Clone, Debug)]
pub struct PeerStatus {
    /// Its name here.
    pub name: Arc<str>,
    /// Its key.
    pub key: String,
    /// Where it is now; `None` while not connected.
    pub address: Option<std::net::SocketAddr>,
    /// How long it has been connected.
    pub connected_for: Option<std::time::Duration>,
    /// Connections that stand.
    pub connections: usize,
    /// Those of them over which the peer takes no new streams, since it is about to end.
    pub draining: usize,
    /// How often one was made.
    pub connected: u64,
    /// Streams that are open.
    pub streams: usize,
    /// Those of them that are sessions of datagrams.
    pub sessions: usize,
    /// Datagrams of the peer that found no room, or no session.
    pub datagrams_dropped: u64,
    /// Streams of the peer that were refused before anybody looked at them.
    pub refused: u64,
    /// The smoothed round trip.
    pub rtt: Option<std::time::Duration>,
    /// Bytes of UDP payload sent.
    pub bytes_sent: u64,
    /// Bytes of UDP payload received.
    pub bytes_received: u64,
    /// Packets that were lost on the way to the peer.
    pub packets_lost: u64,
    /// The largest packet, bytes of UDP payload.
    pub mtu: Option<u16>,
    /// Why it is not connected, if a try failed.
    pub error: Option<String>,
}

impl Peer {
    pub(crate) fn new(settings: PeerSettings, shared: Arc<Shared>) -> Arc<Self> {
        Arc::new(Self {
            settings,
            shared,
            phase: watch::Sender::new(Phase::default()),
            state: Mutex::default(),
            next: AtomicUsize::new(0),
        })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Its name here.
    pub fn name(&self) -> &Arc<str> {
        &self.settings.name
    }

    pub(crate) fn is_draining(&self) -> bool {
        self.shared.is_draining()
    }

    /// A place for one stream among those that the daemon looks at; `None` when it takes too long.
    pub(crate) async fn place(&self) -> Option<mpsc::Permit<'_, Box<Incoming>>> {
        let place = self.shared.incoming.reserve();
        tokio::time::timeout(limits::STREAM_WAIT, place).await.ok()?.ok()
    }

    pub(crate) fn links(&self) -> Vec<Arc<Link>> {
        self.state().links.clone()
    }

    /// Whether both sides prefer links like this one.
    pub(crate) fn prefers(&self, link: &Link) -> bool {
        link.is_ours() == (self.shared.key < self.settings.key)
    }

    /// How many links take new streams.
    pub(crate) fn open_links(&self) -> usize {
        self.state().links.iter().filter(|link| link.is_open()).count()
    }

    /// Takes a link in, or says why not.
    pub(crate) fn add(&self, link: &Arc<Link>) -> Result<(), &'static str> {
        let mut replaced = Vec::new();
        {
            let mut state = self.state();
            if state.removed {
                return Err("the peer was removed");
            }
            if state.life != Some(link.life) {
                if state.earlier_life == Some(link.life) && !state.links.is_empty() {
                    return Err("another gateway with the same key is connected");
                }
                state.earlier_life = state.life.replace(link.life);
                replaced = std::mem::take(&mut state.links);
            }
            if state.links.len() >= limits::LINKS_PER_PEER_MAX {
                return Err("too many connections");
            }
            state.connected += 1;
            state.links.push(Arc::clone(link));
        }
        for old in replaced {
            old.connection.close(CLOSE_REPLACED.into(), b"the peer has started anew");
        }
        self.phase.send_modify(|phase| *phase = Phase::Up);
        Ok(())
    }

    /// Forgets a link whose connection has ended.
    pub(crate) fn remove(&self, link: &Arc<Link>) {
        let left = {
            let mut state = self.state();
            state.links.retain(|other| !Arc::ptr_eq(other, link));
            state.links.len()
        };
        self.phase.send_modify(|phase| {
            if left == 0 && matches!(phase, Phase::Up) {
                *phase = Phase::Down;
            }
        });
    }

    /// Ends all connections: the peer is not configured any more.
    pub(crate) fn end(&self) {
        let links = {
            let mut state = self.state();
            state.removed = true;
            std::mem::take(&mut state.links)
        };
        for link in links {
            link.connection.close(CLOSE_REMOVED.into(), b"not configured any more");
        }
    }

    /// A link that takes new streams.
    fn pick(&self) -> Option<Arc<Link>> {
        let state = self.state();
        let open = || state.links.iter().filter(|link| link.is_open());
        let preferred: Vec<_> = open().filter(|link| self.prefers(link)).collect();
        let among = if preferred.is_empty() { open().collect() } else { preferred };
        let turn = self.next.fetch_add(1, Ordering::Relaxed).checked_rem(among.len())?;
        among.get(turn).map(|link| Arc::clone(link))
    }

    /// A link, as soon as there is one; or why there is none.
    async fn link(&self) -> Result<Arc<Link>, DialError> {
        let mut phase = self.phase.subscribe();
        let mut asked = false;
        loop {
            if let Some(link) = self.pick() {
                return Ok(link);
            }
            if self.settings.addresses.is_empty() || self.is_draining() {
                return Err(DialError::HostUnreachable);
            }
            let failed = match &*phase.borrow_and_update() {
                Phase::Failed { error, at } => {
                    (asked || at.elapsed() < warm::FRESH).then(|| error.clone())
                }
                Phase::Down | Phase::Dialling | Phase::Up => None,
            };
            if let Some(error) = failed {
                return Err(error);
            }
            asked |= self.ask_for_dial();
            if phase.changed().await.is_err() {
                return Err(DialError::HostUnreachable);
            }
        }
    }

    /// Has `warm` dial now instead of later. Says that a failure from now on is an answer.
    fn ask_for_dial(&self) -> bool {
        self.phase.send_if_modified(|phase| {
            let waits = matches!(phase, Phase::Failed { .. });
            if waits {
                *phase = Phase::Down;
            }
            waits
        });
        true
    }

    /// A new stream to the peer.
    async fn open_stream(&self) -> Result<(Arc<Link>, QuicStream), DialError> {
        let link = self.link().await?;
        let (send, receive) = tokio::time::timeout(limits::STREAM_WAIT, link.connection.open_bi())
            .await
            .map_err(|_| DialError::OutOfResources("streams that the peer allows"))?
            .map_err(|error| lost(&error))?;
        let stream = QuicStream::new(send, receive, link.count());
        Ok((link, stream))
    }

    /// Opens a session of datagrams to a target behind the peer.
    ///
    /// # Errors
    /// As a dial.
    pub async fn datagrams(
        &self,
        carried: Carried,
        to: &Destination,
        origin: &Origin,
    ) -> Result<Datagrams, DialError> {
        let kind = match carried {
            Carried::Udp => StreamKind::Datagrams,
            Carried::Echo => StreamKind::Echo,
        };
        let open = self.header(kind, to, origin)?;
        let (link, mut stream) = self.open_stream().await?;
        // Before the peer says yes, for its first datagram may come before that.
        let id = stream.halves().0.id();
        let place = Sessions::add(&link, id).ok_or(DialError::OutOfResources("sessions"))?;
        ask_on(&link, &mut stream, &open).await?;
        Ok(Datagrams::new(place, stream))
    }

    fn header(
        &self,
        kind: StreamKind,
        to: &Destination,
        origin: &Origin,
    ) -> Result<Open, DialError> {
        Open::to(kind, to, &self.settings.name, origin)
    }

    /// What is known of it.
    pub fn status(&self) -> PeerStatus {
        let (links, connected) = {
            let state = self.state();
            (state.links.clone(), state.connected)
        };
        let first = links.iter().find(|link| self.prefers(link)).or_else(|| links.first());
        let stats: Vec<_> = links.iter().map(|link| link.connection.stats()).collect();
        let error = match &*self.phase.borrow() {
            Phase::Failed { error, .. } => Some(error.to_string()),
            Phase::Down | Phase::Dialling | Phase::Up => None,
        };
        let now = Instant::now();
        PeerStatus {
            name: Arc::clone(&self.settings.name),
            key: self.settings.key.to_string(),
            address: first.map(|link| link.connection.remote_address()),
            connected_for: first.map(|link| now.duration_since(link.began)),
            connections: links.len(),
            draining: links.iter().filter(|link| !link.is_open()).count(),
            connected,
            streams: links.iter().map(|link| link.streams()).sum(),
            sessions: links.iter().map(|link| link.sessions.count()).sum(),
            datagrams_dropped: links
                .iter()
                .map(|link| link.sessions.dropped.load(Ordering::Relaxed))
                .sum(),
            refused: links.iter().map(|link| link.refused.load(Ordering::Relaxed)).sum(),
            rtt: first.map(|link| link.connection.rtt()),
            bytes_sent: stats.iter().map(|stats| stats.udp_tx.bytes).sum(),
            bytes_received: stats.iter().map(|stats| stats.udp_rx.bytes).sum(),
            packets_lost: stats.iter().map(|stats| stats.path.lost_packets).sum(),
            mtu: stats.first().map(|stats| stats.path.current_mtu),
            error,
        }
    }
}

#[async_trait]
impl Transport for Peer {
    fn kind(&self) -> &'static str {
        "quic"
    }

    fn capabilities(&self) -> Capabilities {
        Capabilities {
            dials_addresses: true,
            dials_names: true,
            dials_unix: false,
            // A peer's streams come from its endpoint, not from a listener for each.
            listens: false,
            half_close: true,
            reset: true,
            encrypted: true,
        }
    }

    async fn dial(&self, request: DialRequest) -> Result<Dialed, DialError> {
        let open = self.header(StreamKind::Stream, &request.destination, &request.origin)?;
        let asked = async {
            let (link, mut stream) = self.open_stream().await?;
            let bound = ask_on(&link, &mut stream, &open).await?;
            Ok((stream, bound))
        };
        let asked = tokio::time::timeout(request.timeout, asked).await;
        let (stream, bound) = asked.unwrap_or(Err(DialError::TimedOut))?;
        Ok(Dialed { stream: Stream::Async(Box::pin(stream)), local: bound.local })
    }

    async fn listen(&self, _at: &Destination) -> Result<Box<dyn Listener>, ListenError> {
        Err(ListenError::Unsupported("a peer: it offers its services by [[publish]]"))
    }

    fn carries(&self, carried: Carried) -> bool {
        match carried {
            Carried::Udp | Carried::Echo => true,
        }
    }

    async fn flow(&self, request: FlowRequest) -> Result<Box<dyn Flow>, DialError> {
        let session = self.datagrams(request.carried, &request.destination, &request.origin);
        let session = tokio::time::timeout(request.timeout, session).await;
        Ok(Box::new(session.unwrap_or(Err(DialError::TimedOut))?))
    }
}

fn lost(error: &quinn::ConnectionError) -> DialError {
    DialError::of_errno(failure::of_connection(error))
}

/// Asks by a stream's header, and waits for the reply.
async fn ask_on(link: &Link, stream: &mut QuicStream, open: &Open) -> Result<Bound, DialError> {
    let (send, receive) = stream.halves();
    match ask(send, receive, open).await {
        // Why the stream broke is known by the connection.
        Err(DialError::Reset | DialError::Os(_)) if link.connection.close_reason().is_some() => {
            Err(link.connection.close_reason().map_or(DialError::Reset, |error| lost(&error)))
        }
        outcome => outcome,
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

    use outsock_peer::{Identity, Reply};
    use outsock_transport::Errno;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;
    use crate::{Endpoint, Settings};

    #[tokio::test]
    async fn a_header_of_another_version_is_refused_by_name() {
        let settings = || Settings { listen: ([127, 0, 0, 1], 0).into(), ..Settings::default() };
        let identities = [1, 2].map(|seed| Identity::from_seed([seed; 32]).unwrap());
        let [near, far] = identities.each_ref().map(|it| Endpoint::start(it, settings()).unwrap());
        far.set_peers(&[PeerSettings::new("near", near.key(), &[])]);
        let at = [far.local_addr().unwrap().to_string()];
        let peer = near.set_peers(&[PeerSettings::new("far", far.key(), &at)]).remove(0);
        let (_link, mut stream) = peer.open_stream().await.unwrap();
        stream.write_all(&[outsock_peer::open::VERSION + 1, 3, 0, 1, 2, 3]).await.unwrap();
        let mut reply = Vec::new();
        stream.read_to_end(&mut reply).await.unwrap();
        let Ok(Reply::Refused(refusal)) = Reply::decode(&reply[3..]) else { panic!("{reply:?}") };
        assert_eq!(refusal.errno, Errno::EPROTONOSUPPORT);
        assert!(refusal.reason.contains("version"), "{}", refusal.reason);
        assert_eq!(peer.status().connections, 1, "only the stream is refused");
    }
}
