//! Table: the connections to each peer, and which one a new stream takes.
//!
//! in:  connections as they come and go, round trips; out: the one to use, those to close. Owner: the
//! swarm's task. Kept: a direct connection before a relayed one, always; among equals the quicker
//! carrier, then the older. Who closes a spare one is decided by the keys, so that the two sides never
//! close both. Bound: [`limits::CONNECTIONS_MAX`](crate::limits::CONNECTIONS_MAX).

use std::collections::HashMap;
use std::time::{Duration, Instant};

use libp2p::core::ConnectedPoint;
use libp2p::multiaddr::Protocol;
use libp2p::swarm::ConnectionId;
use libp2p::{Multiaddr, PeerId};

/// What carries a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Carrier {
    /// TCP with noise and yamux.
    Tcp,
    /// QUIC.
    Quic,
}

impl std::fmt::Display for Carrier {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Tcp => "tcp",
            Self::Quic => "quic",
        })
    }
}

/// One connection.
#[derive(Clone, Debug)]
pub(crate) struct Connection {
    pub(crate) id: ConnectionId,
    pub(crate) address: Multiaddr,
    /// Whom it goes through.
    pub(crate) through: Option<PeerId>,
    pub(crate) carrier: Carrier,
    pub(crate) rtt: Option<Duration>,
    pub(crate) began: Instant,
    /// We dialled it.
    pub(crate) ours: bool,
    pub(crate) failures: u32,
}

impl Connection {
    pub(crate) fn new(id: ConnectionId, point: &ConnectedPoint) -> Self {
        // Who is dialled through a supernode sees that in its own address only.
        let path = match point {
            ConnectedPoint::Dialer { address, .. } => address,
            ConnectedPoint::Listener { local_addr, .. } => local_addr,
        };
        Self {
            id,
            through: relay_of(path),
            carrier: carrier_of(path),
            address: point.get_remote_address().clone(),
            rtt: None,
            began: Instant::now(),
            ours: point.is_dialer(),
            failures: 0,
        }
    }

    fn rank(&self) -> (bool, Carrier, Instant) {
        (self.through.is_some(), self.carrier, self.began)
    }
}

/// Whom an address goes through.
pub(crate) fn relay_of(address: &Multiaddr) -> Option<PeerId> {
    let mut relay = None;
    for part in address {
        match part {
            Protocol::P2p(peer) => relay = Some(peer),
            Protocol::P2pCircuit => return relay,
            _ => {}
        }
    }
    None
}

fn carrier_of(address: &Multiaddr) -> Carrier {
    let is_quic = address.iter().any(|part| matches!(part, Protocol::QuicV1));
    if is_quic { Carrier::Quic } else { Carrier::Tcp }
}

/// See the module.
#[derive(Debug, Default)]
pub(crate) struct Table {
    peers: HashMap<PeerId, Vec<Connection>>,
}

impl Table {
    pub(crate) fn add(&mut self, peer: PeerId, connection: Connection) {
        self.peers.entry(peer).or_default().push(connection);
    }

    /// Says whether it was the peer's last.
    pub(crate) fn remove(&mut self, peer: &PeerId, id: ConnectionId) -> bool {
        let Some(connections) = self.peers.get_mut(peer) else { return true };
        connections.retain(|connection| connection.id != id);
        let is_last = connections.is_empty();
        if is_last {
            self.peers.remove(peer);
        }
        is_last
    }

    /// The one that a new stream takes.
    pub(crate) fn best(&self, peer: &PeerId) -> Option<&Connection> {
        self.peers.get(peer)?.iter().min_by_key(|connection| connection.rank())
    }

    pub(crate) fn find(&mut self, peer: &PeerId, id: ConnectionId) -> Option<&mut Connection> {
        self.peers.get_mut(peer)?.iter_mut().find(|connection| connection.id == id)
    }

    pub(crate) fn all(&self) -> impl Iterator<Item = (&PeerId, &Vec<Connection>)> {
        self.peers.iter()
    }

    /// Connections beside a better one that has stood for `spare_time`. Of two direct ones only the
    /// side with the smaller key closes one.
    pub(crate) fn spare(
        &self,
        own: &PeerId,
        now: Instant,
        spare_time: Duration,
    ) -> Vec<(PeerId, ConnectionId)> {
        let mut spare = Vec::new();
        for (peer, connections) in &self.peers {
            let Some(best) = self.best(peer) else { continue };
            if now.duration_since(best.began) < spare_time {
                continue;
            }
            let others = connections.iter().filter(|other| other.id != best.id);
            let may_close = |other: &&Connection| {
                let relayed_beside_direct = other.through.is_some() && best.through.is_none();
                relayed_beside_direct || own < peer
            };
            let old = |other: &&Connection| now.duration_since(other.began) >= spare_time;
            spare.extend(others.filter(may_close).filter(old).map(|other| (*peer, other.id)));
        }
        spare
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn connection(id: usize, address: &str) -> Connection {
        let point = ConnectedPoint::Dialer {
            address: address.parse().unwrap(),
            role_override: libp2p::core::Endpoint::Dialer,
            port_use: libp2p::core::transport::PortUse::Reuse,
        };
        Connection::new(ConnectionId::new_unchecked(id), &point)
    }

    #[test]
    fn direct_goes_before_relayed_and_the_relayed_one_becomes_spare() {
        let (own, peer, relay) = (PeerId::random(), PeerId::random(), PeerId::random());
        let mut table = Table::default();
        let circuit = format!("/ip4/192.0.2.1/tcp/1/p2p/{relay}/p2p-circuit/p2p/{peer}");
        table.add(peer, connection(1, &circuit));
        assert_eq!(table.best(&peer).unwrap().through, Some(relay));
        table.add(peer, connection(2, "/ip4/192.0.2.2/udp/2/quic-v1"));
        assert_eq!(table.best(&peer).unwrap().id, ConnectionId::new_unchecked(2));
        let now = Instant::now();
        assert!(table.spare(&own, now, Duration::from_secs(5)).is_empty(), "too early");
        let later = now + Duration::from_secs(6);
        let spare = table.spare(&own, later, Duration::from_secs(5));
        assert_eq!(spare, [(peer, ConnectionId::new_unchecked(1))]);
        assert!(!table.remove(&peer, ConnectionId::new_unchecked(2)));
        assert!(table.remove(&peer, ConnectionId::new_unchecked(1)));
    }

    #[test]
    fn of_two_direct_connections_one_side_closes_one() {
        let (one, other) = (PeerId::random(), PeerId::random());
        let later = Instant::now() + Duration::from_secs(60);
        let closed = [(one, other), (other, one)].map(|(own, peer)| {
            let mut table = Table::default();
            table.add(peer, connection(1, "/ip4/192.0.2.2/tcp/2"));
            table.add(peer, connection(2, "/ip4/192.0.2.2/tcp/3"));
            table.spare(&own, later, Duration::from_secs(5)).len()
        });
        assert_eq!(closed.iter().sum::<usize>(), 1);
    }
}
