//! Deliver: from a connection that a transport accepted to a notice for the guest's agent.
//!
//! in: an accepted connection; out: a far end that the device holds for a fresh token, a notice, an
//! entry in the table. Owner: the endpoint's task. Kept: the device has the far end before anyone
//! hears of its token; what cannot be delivered is reset. A client's address decides among listeners
//! of one port on different addresses: IPv4 goes to IPv4 where it can.

use std::hash::{BuildHasher, Hasher, RandomState};
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Instant;

use outsock_core::address::VsockPort;
use outsock_transport::AcceptError;
use outsock_vmrpc::socket::Token;
use outsock_vmrpc::socket::inbound::{ListenRequest, ListenerId, Notice, Session};

use super::endpoint::EndpointId;
use super::{Inbound, State};
use crate::connections::{Connection, Direction, Encrypted};
use crate::limits;
use crate::pump::pump;
use crate::socket_module::GuestSockets;

impl GuestSockets {
    /// Whether a connection to this endpoint could be delivered now.
    pub(super) fn has_room_for(&self, id: EndpointId) -> bool {
        {
            let state = self.inbound.state();
            let Some(endpoint) = state.endpoints.get(&id) else { return false };
            let has_room = |member: &(Session, ListenerId)| state.room_of(*member) > 0;
            let is_full = state.waiting() >= limits::INBOUND_WAITING_MAX;
            if is_full || !endpoint.members.iter().any(has_room) {
                return false;
            }
        }
        self.has_room_for_connection()
    }

    /// Gives a connection to one of the endpoint's listeners.
    pub(super) fn deliver(self: &Arc<Self>, id: EndpointId, inbound: outsock_transport::Inbound) {
        let outsock_transport::Inbound { stream, peer, local } = inbound;
        let throttle = self.throttle();
        let (end, pumped) = match self.far_end(stream, throttle.is_some()) {
            Ok(made) => made,
            // The stream is gone, and the client has seen that.
            Err(error) => return tracing::debug!(%error, "an accepted connection was lost"),
        };
        let (stats, socket) = (end.stats(), end.host_socket());
        let mut state = self.inbound.state();
        let Some(((session, listener), of)) = state.choose(id, peer) else {
            drop(state);
            return end.reset();
        };
        let token = self.fresh_token();
        let port = VsockPort(token.raw());
        if self.device.announce(port).and_then(|()| self.device.dial_ok(port, end)).is_err() {
            return;
        }
        let Some(attended) = state.sessions.get_mut(&session) else { return };
        let Some(registered) = attended.listeners.get_mut(&listener) else { return };
        registered.waiting += 1;
        let ListenRequest { address, asserted, .. } = registered.request.clone();
        attended.notices.push_back(Notice { token, listener, peer, local });
        attended.ready.notify_one();
        drop(state);
        if let Some((bridge, far)) = pumped {
            tokio::spawn(pump(bridge, far, throttle));
        }
        self.counters.accepted.fetch_add(1, Relaxed);
        self.connections.add(|number| Connection {
            number,
            token,
            socket,
            direction: Direction::In,
            destination: address.to_string(),
            asserted,
            rule: of.publish,
            transport: of.transport.to_string(),
            encryption: of.encryption,
            peer: peer.map_or_else(|| "unnamed".to_owned(), |peer| peer.to_string()),
            begun: Instant::now(),
            dial_us: 0,
            stats,
            _held: None,
        });
    }

    fn fresh_token(&self) -> Token {
        loop {
            // The standard library's only source of randomness: a hasher with random keys.
            let random = RandomState::new().build_hasher().finish();
            let token = Token::from_random(u32::try_from(random >> 32).unwrap_or(0));
            if !self.dials().contains_key(&token) {
                return token;
            }
        }
    }
}

impl Inbound {
    /// The transport's listener has ended by itself: nobody is reached there any more.
    pub(super) fn endpoint_failed(&self, id: EndpointId, error: &AcceptError) {
        let mut state = self.state();
        let Some(endpoint) = state.endpoints.remove(&id) else { return };
        tracing::warn!(publish = endpoint.publish, at = %endpoint.local, %error, "listens no more");
        for (session, listener) in &endpoint.members {
            if let Some(registered) = state.registered(*session, *listener) {
                registered.error = Some(error.to_string());
            }
        }
    }
}

impl State {
    fn room_of(&self, (session, listener): (Session, ListenerId)) -> u32 {
        let attended = self.sessions.get(&session);
        let registered = attended.and_then(|attended| attended.listeners.get(&listener));
        registered.map_or(0, |registered| registered.backlog().saturating_sub(registered.waiting))
    }

    /// The listener for a client: one of the best family with room, in turn.
    fn choose(
        &mut self,
        id: EndpointId,
        peer: Option<SocketAddr>,
    ) -> Option<((Session, ListenerId), Of)> {
        let endpoint = self.endpoints.get(&id)?;
        let count = endpoint.members.len();
        let in_turn = (0..count).map(|n| endpoint.members[(endpoint.turn + n) % count]);
        let fitness = |member: &(Session, ListenerId)| {
            let attended = self.sessions.get(&member.0)?;
            let registered = attended.listeners.get(&member.1)?;
            Some((self.room_of(*member) > 0, suits(&registered.request, peer)))
        };
        // The first of equals, so that their turns come round.
        let best = in_turn.rev().max_by_key(|member| fitness(member))?;
        fitness(&best)?;
        let of = Of {
            publish: endpoint.publish.clone(),
            transport: Arc::clone(&endpoint.key.transport),
            encryption: endpoint.encryption.clone(),
        };
        let endpoint = self.endpoints.get_mut(&id)?;
        let at = endpoint.members.iter().position(|member| *member == best).unwrap_or(0);
        endpoint.turn = (at + 1) % count;
        endpoint.accepted += 1;
        Some((best, of))
    }
}

/// What is said of an endpoint's connections.
struct Of {
    publish: String,
    transport: Arc<str>,
    encryption: Encrypted,
}

/// How well a listener's family suits a client: it can show its address, better as what it is.
fn suits(request: &ListenRequest, peer: Option<SocketAddr>) -> u8 {
    let Some(peer) = peer else { return 0 };
    match (peer.ip().to_canonical().is_ipv4(), request.address.is_ipv4()) {
        (true, true) | (false, false) => 2,
        (true, false) if request.dual => 1,
        (true, false) | (false, true) => 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use outsock_vmrpc::socket::Asserted;

    #[test]
    fn a_clients_family_chooses() {
        let request = |address: &str, dual| ListenRequest {
            session: Session(1),
            listener: ListenerId(1),
            address: address.parse().unwrap(),
            dual,
            shared: false,
            backlog: 1,
            asserted: Asserted::default(),
        };
        let v4 = request("0.0.0.0:80", false);
        let (dual, v6) = (request("[::]:80", true), request("[::]:80", false));
        let order = |peer: &str| {
            let peer = Some(peer.parse().unwrap());
            [suits(&v4, peer), suits(&dual, peer), suits(&v6, peer)]
        };
        assert_eq!(order("192.0.2.1:9"), [2, 1, 0]);
        assert_eq!(order("[::ffff:192.0.2.1]:9"), [2, 1, 0]);
        assert_eq!(order("[2001:db8::1]:9"), [0, 2, 2]);
    }
}
