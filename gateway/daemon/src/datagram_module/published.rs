//! Published: where datagrams come in for a guest: at ports of the host, and for its services.
//!
//! in: datagrams of anybody at a published port, sessions with a service, answers of the guest; out:
//! the same on the other side, with the true sender, or an address that stands for a guest elsewhere. Owner: one task per channel, which keeps to the policy of the moment. Kept: an
//! answer leaves by the very port or session that was asked, to whoever asked, without a rule; nobody else of the
//! guest's sockets is reached. A sender on the host's own loopback is shown as [`HOST_V4`] or
//! [`HOST_V6`], because the guest has a loopback of its own. Bounds:
//! [`limits::PUBLISHED_PORTS_MAX`] by the configuration, [`limits::PUBLISHED_PEERS_MAX`] askers,
//! [`limits::SERVICE_SESSIONS_MAX`] sessions with one service.

use std::collections::HashMap;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use outsock_core::address::Instant;
use outsock_transport::Flow;
use outsock_transport_local::{Pipe, Session, SessionListener};
use outsock_vmrpc::datagram::{FlowKey, HOST_V4, HOST_V6, Message, Open};
use tokio::net::UdpSocket;
use tokio::task::JoinSet;

use super::Place;
use super::channel::Channel;
use crate::config::DatagramPlace;
use crate::{clock, limits};

/// Who has asked a published port of the guest, and where the answer leaves from.
#[derive(Debug)]
struct Asker {
    back: Back,
    used: Instant,
}

/// The way back.
#[derive(Clone, Debug)]
enum Back {
    Socket(Arc<UdpSocket>, SocketAddr),
    Session(Arc<Pipe>),
}

impl Back {
    fn send(&self, payload: &[u8]) -> io::Result<()> {
        match self {
            Self::Socket(socket, to) => socket.try_send_to(payload, *to).map(drop),
            Self::Session(session) => session.try_send(payload),
        }
    }
}

/// A client's ports.
const CLIENT_PORTS_FIRST: u16 = 49_152;

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Published {
    askers: Mutex<HashMap<FlowKey, Asker>>,
}

impl Published {
    fn askers(&self) -> MutexGuard<'_, HashMap<FlowKey, Asker>> {
        self.askers.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Sends an answer. `None`: the datagram answers nobody.
    pub(super) fn answer(&self, key: &FlowKey, payload: &[u8]) -> Option<io::Result<()>> {
        let back = {
            let mut askers = self.askers();
            let asker = askers.get_mut(key)?;
            asker.used = clock::now();
            asker.back.clone()
        };
        Some(back.send(payload))
    }

    /// Listens for as long as the channel lives, where the policy of the moment says.
    pub(super) async fn run(&self, channel: &Arc<Channel>, open: &Open) {
        let mut listening: HashMap<Place, tokio::task::AbortHandle> = HashMap::new();
        let mut tasks = JoinSet::new();
        loop {
            let wanted = wanted(channel);
            listening.retain(|place, task| {
                let stays = wanted.contains(place) && !task.is_finished();
                if !stays {
                    task.abort();
                }
                stays
            });
            for place in wanted {
                let Some(guest) = own(open, &place).filter(|_| !listening.contains_key(&place))
                else {
                    continue;
                };
                match Opened::at(channel, &place.1) {
                    Ok(opened) => {
                        let shown = channel.guest.datagrams.show(&place);
                        let course = opened.run(Arc::clone(channel), guest);
                        let task = tasks.spawn(async move {
                            course.await;
                            drop(shown);
                        });
                        listening.insert(place, task);
                    }
                    Err(error) => self.complain(channel, &place, &error),
                }
            }
            while tasks.try_join_next().is_some() {}
            tokio::time::sleep(Duration::from_millis(limits::SWEEP_MS)).await;
        }
    }

    fn complain(&self, channel: &Channel, (port, at): &Place, error: &io::Error) {
        // Another agent's channel may have it still; and a person may make room.
        if let Some(left_out) = channel.guest.log.admit() {
            let guest = &channel.caller.guest;
            tracing::warn!(%guest, port, %at, %error, left_out, "datagrams are not published");
        }
    }

    /// Notes who asks; shows how the guest will know it. `None`: there are too many.
    fn note(
        &self,
        guest: SocketAddr,
        from: SocketAddr,
        socket: &Arc<UdpSocket>,
    ) -> Option<SocketAddr> {
        let shown = match from.ip().to_canonical() {
            IpAddr::V4(v4) if v4.is_loopback() => IpAddr::V4(HOST_V4),
            IpAddr::V6(v6) if v6.is_loopback() => IpAddr::V6(HOST_V6),
            ip => ip,
        };
        let shown = SocketAddr::new(shown, from.port());
        let key = FlowKey::Udp { guest, far: shown };
        let mut askers = self.askers();
        if !askers.contains_key(&key) && !has_room(&mut askers) {
            return None;
        }
        let back = Back::Socket(Arc::clone(socket), from);
        askers.insert(key, Asker { back, used: clock::now() });
        Some(shown)
    }

    /// Notes a session; its client's address as the guest knows it, which no other session has.
    fn note_session(
        &self,
        guest: SocketAddr,
        session: &Arc<Pipe>,
        client: SocketAddr,
    ) -> Option<FlowKey> {
        let mut askers = self.askers();
        if !has_room(&mut askers) {
            return None;
        }
        let ports = (client.port()..=u16::MAX).chain(CLIENT_PORTS_FIRST..client.port());
        let keys =
            ports.map(|port| FlowKey::Udp { guest, far: SocketAddr::new(client.ip(), port) });
        let key = keys.into_iter().find(|key| !askers.contains_key(key))?;
        let back = Back::Session(Arc::clone(session));
        askers.insert(key, Asker { back, used: clock::now() });
        Some(key)
    }

    fn forget(&self, key: &FlowKey) {
        self.askers().remove(key);
    }
}

/// Those who have not asked for long make room.
fn has_room(askers: &mut HashMap<FlowKey, Asker>) -> bool {
    if askers.len() >= limits::PUBLISHED_PEERS_MAX {
        let now = clock::now();
        let is_session = |back: &Back| matches!(back, Back::Session(_));
        askers.retain(|_, asker| {
            is_session(&asker.back) || asker.used.after_ms(limits::FLOW_IDLE_MS) > now
        });
    }
    askers.len() < limits::PUBLISHED_PEERS_MAX
}

fn wanted(channel: &Channel) -> Vec<Place> {
    let policy = channel.sockets.policy();
    let Some(guest) = policy.guest(&channel.caller.guest) else { return Vec::new() };
    let publishes = policy.config.publishes.iter();
    publishes.flat_map(|publish| publish.datagram_places(guest)).collect()
}

/// The guest's end of a place; `None` where the guest has no address of that family.
fn own(open: &Open, (port, at): &Place) -> Option<SocketAddr> {
    let ip = match at {
        // What stands for the client is an address of the synthetic ones' first family.
        DatagramPlace::Socket(SocketAddr::V4(_)) | DatagramPlace::Service(_) => {
            open.v4.map(IpAddr::V4)
        }
        DatagramPlace::Socket(SocketAddr::V6(_)) => open.v6.map(IpAddr::V6),
    };
    ip.map(|ip| SocketAddr::new(ip, *port))
}

/// A place that is open.
enum Opened {
    Socket(UdpSocket),
    Service(SessionListener),
}

impl Opened {
    fn at(channel: &Channel, place: &DatagramPlace) -> io::Result<Self> {
        match place {
            DatagramPlace::Socket(at) => bind(*at).map(Self::Socket),
            DatagramPlace::Service(name) => {
                let listener = channel.sockets.policy().peers.sessions(name);
                listener.map(Self::Service).map_err(io::Error::other)
            }
        }
    }

    async fn run(self, channel: Arc<Channel>, guest: SocketAddr) {
        match self {
            Self::Socket(socket) => listen(channel, Arc::new(socket), guest).await,
            Self::Service(listener) => serve(channel, listener, guest).await,
        }
    }
}

fn bind(at: SocketAddr) -> io::Result<UdpSocket> {
    let socket = std::net::UdpSocket::bind(at)?;
    socket.set_nonblocking(true)?;
    UdpSocket::from_std(socket)
}

async fn listen(channel: Arc<Channel>, socket: Arc<UdpSocket>, guest: SocketAddr) {
    // From here on answers find the socket ready.
    if socket.writable().await.is_err() {
        return;
    }
    let mut buffer = vec![0; outsock_transport::limits::DATAGRAM_BYTES_MAX];
    loop {
        // An error is of an earlier answer that nobody took.
        let Ok((length, from)) = socket.recv_from(&mut buffer).await else { continue };
        if let Some(from) = channel.published.note(guest, from, &socket) {
            channel.tell(&Message::Datagram { from, to: guest, payload: &buffer[..length] });
        }
    }
}

/// Serves a service's sessions.
async fn serve(channel: Arc<Channel>, mut listener: SessionListener, guest: SocketAddr) {
    let mut sessions = JoinSet::new();
    loop {
        tokio::select! {
            Some(_) = sessions.join_next() => {}
            session = listener.accept() => {
                let Some(session) = session else { return };
                // Dropped, it has ended for who opened it.
                if sessions.len() < limits::SERVICE_SESSIONS_MAX {
                    sessions.spawn(serve_session(Arc::clone(&channel), session, guest));
                }
            }
        }
    }
}

async fn serve_session(channel: Arc<Channel>, session: Session, guest: SocketAddr) {
    let any = SocketAddr::from((HOST_V4, CLIENT_PORTS_FIRST));
    let client = session.client.filter(SocketAddr::is_ipv4).unwrap_or(any);
    let session = Arc::new(session.flow);
    let Some(key) = channel.published.note_session(guest, &session, client) else { return };
    let noted = Noted { channel: &channel, key };
    let FlowKey::Udp { far: from, .. } = key else { return };
    let mut buffer = vec![0; outsock_transport::limits::DATAGRAM_BYTES_MAX];
    loop {
        match session.try_receive(&mut buffer) {
            Ok(length) => {
                let payload = &buffer[..length];
                channel.tell(&Message::Datagram { from, to: guest, payload });
                if let Some(throttle) = channel.guest.throttle() {
                    throttle.pass(length).await;
                }
                tokio::task::coop::consume_budget().await;
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                if session.readable().await.is_err() {
                    break;
                }
            }
            Err(_) => break,
        }
    }
    drop(noted);
}

/// Forgets a session when dropped.
struct Noted<'a> {
    channel: &'a Channel,
    key: FlowKey,
}

impl Drop for Noted<'_> {
    fn drop(&mut self) {
        self.channel.published.forget(&self.key);
    }
}
