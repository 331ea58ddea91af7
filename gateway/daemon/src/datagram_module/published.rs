//! Published: ports of the host at which datagrams come in for a guest.
//!
//! in: datagrams of anybody at a published port, answers of the guest; out: the same on the other side,
//! with the true sender. Owner: one task per channel, which keeps to the policy of the moment. Kept: an
//! answer leaves from the very port that was asked, to whoever asked, without a rule; nobody else of the
//! guest's sockets is reached. A sender on the host's own loopback is shown as [`HOST_V4`] or
//! [`HOST_V6`], because the guest has a loopback of its own. Bounds:
//! [`limits::PUBLISHED_PORTS_MAX`] by the configuration, [`limits::PUBLISHED_PEERS_MAX`].

use std::collections::HashMap;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use outsock_core::address::Instant;
use outsock_vmrpc::datagram::{FlowKey, HOST_V4, HOST_V6, Message, Open};
use tokio::net::UdpSocket;
use tokio::task::JoinSet;

use super::channel::Channel;
use crate::{clock, limits};

/// Who has asked a published port of the guest, and where the answer leaves from.
#[derive(Debug)]
struct Asker {
    socket: Arc<UdpSocket>,
    address: SocketAddr,
    used: Instant,
}

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Published {
    askers: Mutex<HashMap<FlowKey, Asker>>,
}

/// A port of the guest, and the place on the host that stands for it.
type Place = (u16, SocketAddr);

impl Published {
    fn askers(&self) -> MutexGuard<'_, HashMap<FlowKey, Asker>> {
        self.askers.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Sends an answer. `None`: the datagram answers nobody.
    pub(super) fn answer(&self, key: &FlowKey, payload: &[u8]) -> Option<io::Result<()>> {
        let (socket, to) = {
            let mut askers = self.askers();
            let asker = askers.get_mut(key)?;
            asker.used = clock::now();
            (Arc::clone(&asker.socket), asker.address)
        };
        Some(socket.try_send_to(payload, to).map(drop))
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
                if let (false, Some(guest)) = (listening.contains_key(&place), own(open, place)) {
                    match bind(place.1) {
                        Ok(socket) => {
                            let course = listen(Arc::clone(channel), Arc::new(socket), guest);
                            listening.insert(place, tasks.spawn(course));
                        }
                        Err(error) => self.complain(channel, place, &error),
                    }
                }
            }
            while tasks.try_join_next().is_some() {}
            tokio::time::sleep(Duration::from_millis(limits::SWEEP_MS)).await;
        }
    }

    fn complain(&self, channel: &Channel, (port, at): Place, error: &io::Error) {
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
        let now = clock::now();
        let mut askers = self.askers();
        if askers.len() >= limits::PUBLISHED_PEERS_MAX && !askers.contains_key(&key) {
            askers.retain(|_, asker| asker.used.after_ms(limits::FLOW_IDLE_MS) > now);
            if askers.len() >= limits::PUBLISHED_PEERS_MAX {
                return None;
            }
        }
        askers.insert(key, Asker { socket: Arc::clone(socket), address: from, used: now });
        Some(shown)
    }
}

fn wanted(channel: &Channel) -> Vec<Place> {
    let policy = channel.sockets.policy();
    let Some(guest) = policy.guest(&channel.caller.guest) else { return Vec::new() };
    let publishes = policy.config.publishes.iter();
    publishes.flat_map(|publish| publish.datagram_places(guest)).collect()
}

/// The guest's end of a place; `None` where the guest has no address of that family.
fn own(open: &Open, (port, at): Place) -> Option<SocketAddr> {
    let ip = match at {
        SocketAddr::V4(_) => open.v4.map(IpAddr::V4),
        SocketAddr::V6(_) => open.v6.map(IpAddr::V6),
    };
    ip.map(|ip| SocketAddr::new(ip, port))
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
