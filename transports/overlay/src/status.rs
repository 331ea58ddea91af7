//! Status: how the overlay stands, for people and programs.
//!
//! in: the node's state; out: plain values. Owner: who asked. Kept: keys are texts as in the
//! configuration. Bound: the connections.

use std::time::Duration;

use libp2p::PeerId;
use libp2p::swarm::{ConnectionId, Swarm};

use crate::behaviour::Behaviour;
use crate::table::{Carrier, Table};

/// See the module.
#[derive(Clone, Debug)]
pub struct Status {
    /// This gateway's key.
    pub key: String,
    /// Where it listens, places at supernodes included.
    pub listen: Vec<String>,
    /// Where others can dial it.
    pub external: Vec<String>,
    /// Whether it carries others' connections.
    pub supernode: bool,
    /// Keys of the supernodes at which it has, or asks for, a place.
    pub relays: Vec<String>,
    /// Its connections.
    pub peers: Vec<PeerStatus>,
}

/// One connection.
#[derive(Clone, Debug)]
pub struct PeerStatus {
    /// Whose.
    pub key: String,
    /// The key of the supernode that it goes through; `None` = direct.
    pub through: Option<String>,
    /// What carries it.
    pub carrier: Carrier,
    /// The far address.
    pub address: String,
    /// The round trip, when one was measured.
    pub rtt: Option<Duration>,
    /// Guests' streams.
    pub streams: usize,
    /// New streams take it.
    pub is_best: bool,
    /// It says that it carries others' connections.
    pub is_supernode: bool,
    /// Since when.
    pub connected_for: Duration,
}

impl Status {
    pub(crate) fn new(
        swarm: &Swarm<Behaviour>,
        table: &Table,
        relays: &[PeerId],
        supernode: bool,
        is_supernode: impl Fn(&PeerId) -> bool,
        streams: impl Fn(ConnectionId) -> usize,
    ) -> Self {
        let mut peers = Vec::new();
        for (peer, connections) in table.all() {
            let best = table.best(peer).map(|best| best.id);
            peers.extend(connections.iter().map(|connection| PeerStatus {
                key: peer.to_string(),
                through: connection.through.map(|relay| relay.to_string()),
                carrier: connection.carrier,
                address: connection.address.to_string(),
                rtt: connection.rtt,
                streams: streams(connection.id),
                is_supernode: is_supernode(peer),
                is_best: best == Some(connection.id),
                connected_for: connection.began.elapsed(),
            }));
        }
        peers.sort_by(|one, other| (&one.key, !one.is_best).cmp(&(&other.key, !other.is_best)));
        Self {
            key: swarm.local_peer_id().to_string(),
            listen: swarm.listeners().map(ToString::to_string).collect(),
            external: swarm.external_addresses().map(ToString::to_string).collect(),
            supernode,
            relays: relays.iter().map(ToString::to_string).collect(),
            peers,
        }
    }
}
