//! Status of peers: who they are, how they are reached, what they use here.
//!
//! in: a policy's peers; out: what `status --json` prints of them. Bound:
//! [`limits::STATUS_CONNECTIONS_MAX`] connections of peers are listed.

use std::sync::atomic::Ordering::Relaxed;

use serde::{Deserialize, Serialize};

use crate::limits;
use crate::policy::Policy;

/// One peer. Counters grow since the gateway started, or since the connection was made.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct PeerStatus {
    pub(crate) name: String,
    pub(crate) key: String,
    pub(crate) connected: bool,
    /// Where it is, while it is connected.
    pub(crate) address: Option<String>,
    pub(crate) connected_ms: Option<u64>,
    /// How often a connection was made.
    pub(crate) connections_made: u64,
    /// QUIC connections that stand.
    pub(crate) connections: usize,
    /// Guests' connections, both ways.
    pub(crate) streams: usize,
    pub(crate) rtt_us: Option<u64>,
    pub(crate) mtu_bytes: Option<u16>,
    pub(crate) bytes_sent: u64,
    pub(crate) bytes_received: u64,
    pub(crate) packets_lost: u64,
    /// Streams of the peer that were connected here.
    pub(crate) served: u64,
    /// Streams of the peer that it may not have, or that came too fast.
    pub(crate) refused: u64,
    /// Streams of the peer whose far end could not be reached.
    pub(crate) failed: u64,
    /// Why the last try to connect failed.
    pub(crate) error: Option<String>,
}

/// One connection of a peer that leaves from here.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct ExitStatus {
    pub(crate) peer: String,
    /// Counts the exits.
    pub(crate) number: u64,
    /// The guest, as the peer says.
    pub(crate) origin: String,
    pub(crate) destination: String,
    pub(crate) rule: String,
    pub(crate) transport: String,
    pub(crate) age_ms: u64,
}

pub(super) fn peers(policy: &Policy) -> Vec<PeerStatus> {
    let one = |peer: std::sync::Arc<outsock_transport_quic::Peer>| {
        let (known, counts) = (peer.status(), policy.peers.exits.of(peer.name()));
        PeerStatus {
            name: known.name.to_string(),
            key: known.key,
            connected: known.address.is_some(),
            address: known.address.map(|address| address.to_string()),
            connected_ms: known.connected_for.map(|time| millis(time.as_millis())),
            connections_made: known.connected,
            connections: known.connections,
            streams: known.streams,
            rtt_us: known.rtt.map(|rtt| millis(rtt.as_micros())),
            mtu_bytes: known.mtu,
            bytes_sent: known.bytes_sent,
            bytes_received: known.bytes_received,
            packets_lost: known.packets_lost,
            served: counts.served.load(Relaxed),
            refused: counts.refused.load(Relaxed) + known.refused,
            failed: counts.failed.load(Relaxed),
            error: known.error,
        }
    };
    policy.peers.all().into_iter().map(one).collect()
}

pub(super) fn exits(policy: &Policy) -> Vec<ExitStatus> {
    let mut all = Vec::new();
    policy.peers.exits.each(|exit| {
        if all.len() < limits::STATUS_CONNECTIONS_MAX {
            all.push(ExitStatus {
                peer: exit.peer.to_owned(),
                number: exit.number,
                origin: exit.origin.to_owned(),
                destination: exit.to.to_owned(),
                rule: exit.rule.to_owned(),
                transport: exit.via.to_owned(),
                age_ms: millis(exit.began.elapsed().as_millis()),
            });
        }
    });
    all
}

fn millis(time: u128) -> u64 {
    u64::try_from(time).unwrap_or(u64::MAX)
}
