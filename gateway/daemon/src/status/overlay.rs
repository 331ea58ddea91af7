//! Status of the overlay: who is reached how.
//!
//! in: the overlay's own status, a policy's names; out: what `status --json` and `overlay peers` print.
//! Bound: the overlay's connections.

use std::collections::HashMap;

use serde::{Deserialize, Serialize};

use crate::policy::Policy;

/// The overlay.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct OverlayStatus {
    pub(crate) key: String,
    /// Where it listens, places at supernodes included.
    pub(crate) listen: Vec<String>,
    /// Addresses by which others reach it.
    pub(crate) external: Vec<String>,
    /// Whether it carries others' connections.
    pub(crate) supernode: bool,
    /// "none" = others have reached its address; "mapped" = it is reached through supernodes; "unknown"
    /// = nobody has said yet.
    pub(crate) nat: String,
    /// Keys of the supernodes at which it has a place.
    pub(crate) relays: Vec<String>,
    /// Connections, the one that new streams take first.
    pub(crate) peers: Vec<OverlayPeerStatus>,
}

/// One connection.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct OverlayPeerStatus {
    pub(crate) key: String,
    /// As a `[[peer]]` calls it.
    pub(crate) name: Option<String>,
    /// "direct" or "relayed".
    pub(crate) path: String,
    /// The key of the supernode that it goes through.
    pub(crate) through: Option<String>,
    /// "tcp" or "quic".
    pub(crate) carrier: String,
    pub(crate) address: String,
    pub(crate) rtt_us: Option<u64>,
    pub(crate) streams: usize,
    /// Whether new streams take it.
    pub(crate) preferred: bool,
    pub(crate) supernode: bool,
    pub(crate) connected_ms: u64,
}

/// What the directory says of a gateway.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct OverlayRecord {
    pub(crate) key: String,
    pub(crate) addresses: Vec<String>,
    /// When it was signed, milliseconds since 1970.
    pub(crate) issued_ms: u64,
    pub(crate) lifetime_s: u64,
}

impl From<outsock_transport_overlay::Record> for OverlayRecord {
    fn from(record: outsock_transport_overlay::Record) -> Self {
        Self {
            key: record.key.to_string(),
            addresses: record.addresses().collect(),
            issued_ms: record.issued_ms,
            lifetime_s: record.lifetime.as_secs(),
        }
    }
}

pub(crate) async fn overlay(policy: &Policy) -> Option<OverlayStatus> {
    let status = policy.peers.overlay_status().await?;
    let peers = policy.config.peers.iter();
    let names: HashMap<String, &str> =
        peers.map(|peer| (peer.settings.key.to_string(), peer.name())).collect();
    let one = |peer: &outsock_transport_overlay::PeerStatus| OverlayPeerStatus {
        key: peer.key.clone(),
        name: names.get(&peer.key).map(|name| (*name).to_owned()),
        path: if peer.through.is_some() { "relayed" } else { "direct" }.to_owned(),
        through: peer.through.clone(),
        carrier: peer.carrier.to_string(),
        address: peer.address.clone(),
        rtt_us: peer.rtt.map(|rtt| number(rtt.as_micros())),
        streams: peer.streams,
        preferred: peer.is_best,
        supernode: peer.is_supernode,
        connected_ms: number(peer.connected_for.as_millis()),
    };
    let nat = match (status.external.is_empty(), status.relays.is_empty()) {
        (false, _) => "none",
        (true, false) => "mapped",
        (true, true) => "unknown",
    };
    Some(OverlayStatus {
        peers: status.peers.iter().map(one).collect(),
        key: status.key,
        listen: status.listen,
        external: status.external,
        supernode: status.supernode,
        nat: nat.to_owned(),
        relays: status.relays,
    })
}

fn number(value: u128) -> u64 {
    u64::try_from(value).unwrap_or(u64::MAX)
}
