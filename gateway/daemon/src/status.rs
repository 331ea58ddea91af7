//! Status: the gateway's state as one value.
//!
//! in: the running gateway; out: what `status --json` prints. Fields are only ever added. Bound:
//! [`limits::STATUS_CONNECTIONS_MAX`] connections and [`limits::STATUS_LISTENERS_MAX`] listeners are
//! listed.

mod overlay;
mod peers;

use std::sync::atomic::Ordering::Relaxed;

use outsock_device::HostSocket;
use serde::{Deserialize, Serialize};

use crate::config::Publish;
use crate::connections::{Connection, Direction};
use crate::gateway::Gateway;
use crate::guests::ServedGuest;
use crate::limits;
use crate::policy::Policy;
pub(crate) use overlay::{OverlayPeerStatus, OverlayRecord, OverlayStatus, overlay};
pub(crate) use peers::{ExitStatus, PeerStatus};

/// See the module.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Status {
    pub(crate) version: String,
    pub(crate) guests: Vec<GuestStatus>,
    pub(crate) groups: Vec<GroupStatus>,
    /// This gateway's key, if it has one.
    pub(crate) key: Option<String>,
    pub(crate) peers: Vec<PeerStatus>,
    /// Where there is an `[overlay]`.
    #[serde(default)]
    pub(crate) overlay: Option<OverlayStatus>,
    pub(crate) exits: Vec<ExitStatus>,
    pub(crate) publishes: Vec<PublishStatus>,
    pub(crate) listeners: Vec<ListenerStatus>,
    pub(crate) listeners_left_out: usize,
    pub(crate) connections: Vec<ConnectionStatus>,
    pub(crate) connections_left_out: usize,
}

/// One guest. Counters grow since the gateway started, all but `connections` and `dials`.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct GuestStatus {
    pub(crate) name: String,
    pub(crate) cid: u64,
    pub(crate) socket: String,
    pub(crate) connections: u64,
    pub(crate) dials: u64,
    pub(crate) opened: u64,
    pub(crate) dialled: u64,
    pub(crate) dials_failed: u64,
    pub(crate) refused_by_rule: u64,
    pub(crate) refused_by_limit: u64,
    /// Connections that came in.
    pub(crate) accepted: u64,
    /// Of them, those that wait until a program takes them.
    pub(crate) waiting: u64,
    pub(crate) bytes_from_guest: u64,
    pub(crate) bytes_to_guest: u64,
    /// Flows of datagrams that stand.
    pub(crate) flows: u64,
    pub(crate) flows_refused: u64,
    pub(crate) datagrams_from_guest: u64,
    pub(crate) datagrams_to_guest: u64,
    /// Of either direction: they found no room.
    pub(crate) datagrams_dropped: u64,
    pub(crate) misbehaved: u64,
    pub(crate) forged_packets: u64,
    pub(crate) bad_chains: u64,
    pub(crate) broken_rings: u64,
    pub(crate) notifications: u64,
}

/// One group of transports.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct GroupStatus {
    pub(crate) name: String,
    pub(crate) members: Vec<MemberStatus>,
}

/// One member of a group.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct MemberStatus {
    pub(crate) transport: String,
    pub(crate) works: bool,
    pub(crate) latency_ms: Option<u64>,
}

/// One rule that publishes, and where it does.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct PublishStatus {
    pub(crate) name: String,
    pub(crate) places: Vec<PlaceStatus>,
}

/// One place on the host where a guest's listeners are reached.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct PlaceStatus {
    pub(crate) guest: String,
    pub(crate) transport: String,
    pub(crate) at: String,
    /// How many listeners stand behind it.
    pub(crate) listeners: usize,
    pub(crate) accepted: u64,
}

/// One listener in a guest, published or not.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct ListenerStatus {
    pub(crate) guest: String,
    /// As the guest asserts.
    pub(crate) program: Option<String>,
    pub(crate) pid: Option<u32>,
    /// As the program has bound it.
    pub(crate) address: String,
    pub(crate) backlog: u32,
    pub(crate) waiting: u32,
    /// Where it is reached; empty when no rule publishes it.
    pub(crate) places: Vec<String>,
    /// Why a rule that came later does not publish it.
    pub(crate) error: Option<String>,
}

/// One connection that stands.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct ConnectionStatus {
    pub(crate) guest: String,
    /// Counts the connections of the guest.
    pub(crate) number: u64,
    /// "out": the guest connected. "in": someone connected to it.
    pub(crate) direction: String,
    /// As the guest asserts, like `pid` and `user`.
    pub(crate) program: Option<String>,
    pub(crate) pid: Option<u32>,
    pub(crate) user_id: Option<u32>,
    pub(crate) user_name: Option<String>,
    /// Where the guest wanted to go: by name, where one is known. Of one that came in: where the guest
    /// listens.
    pub(crate) destination: String,
    pub(crate) rule: String,
    pub(crate) transport: String,
    /// Who encrypts: `no`, `transport`, `tls` or `own tls` (the program's).
    pub(crate) encryption: String,
    /// What was dialled, or who has.
    pub(crate) peer: String,
    pub(crate) age_ms: u64,
    /// How long it took from the guest's call until the far socket had connected.
    pub(crate) dial_us: u64,
    pub(crate) bytes_from_guest: u64,
    pub(crate) bytes_to_guest: u64,
    /// The smoothed round-trip time to the far socket, where the host's kernel measures one, or to the
    /// peer gateway.
    pub(crate) rtt_us: Option<u64>,
}

/// The state of this moment.
pub(crate) fn status(gateway: &Gateway) -> Status {
    let served = gateway.served();
    let mut connections = Vec::new();
    let mut left_out = 0;
    for guest in served.iter() {
        guest.sockets.connections.each(|connection| {
            if connections.len() < limits::STATUS_CONNECTIONS_MAX {
                connections.push(one(&guest.config.name, connection));
            } else {
                left_out += 1;
            }
        });
    }
    let (listeners, listeners_left_out) = listeners(&served);
    let policy = gateway.sockets.policy();
    let peers = peers::peers(&policy);
    // The QUIC connection has measured for all of its streams.
    for connection in &mut connections {
        let by_peer = peers.iter().find(|peer| peer.name == connection.transport);
        connection.rtt_us = connection.rtt_us.or_else(|| by_peer?.rtt_us);
    }
    let groups = policy.groups().iter().map(|group| GroupStatus {
        name: group.config.name.clone(),
        members: group
            .health()
            .into_iter()
            .map(|(transport, works, latency_ms)| MemberStatus { transport, works, latency_ms })
            .collect(),
    });
    Status {
        version: env!("CARGO_PKG_VERSION").to_owned(),
        guests: served.iter().map(guest_status).collect(),
        groups: groups.collect(),
        key: policy.peers.key(),
        peers,
        overlay: None,
        exits: peers::exits(&policy),
        publishes: publishes(&served, &policy),
        listeners,
        listeners_left_out,
        connections,
        connections_left_out: left_out,
    }
}

fn publishes(served: &[ServedGuest], policy: &Policy) -> Vec<PublishStatus> {
    let empty =
        |publish: &Publish| PublishStatus { name: publish.name.clone(), places: Vec::new() };
    let mut all: Vec<_> = policy.config.publishes.iter().map(empty).collect();
    for guest in served {
        for (publish, status) in policy.config.publishes.iter().zip(&mut all) {
            let places = publish.datagram_places(&guest.config).into_iter();
            let open = places.filter(|place| guest.sockets.datagrams.is_open(place));
            status.places.extend(open.map(|(_, at)| {
                PlaceStatus {
                    guest: guest.config.name.clone(),
                    transport: policy
                        .transport(publish.via)
                        .map(|via| via.name.to_string())
                        .unwrap_or_default(),
                    at: at.to_string(),
                    listeners: 1,
                    accepted: 0,
                }
            }));
        }
        guest.sockets.inbound.each_endpoint(|endpoint| {
            let Some(publish) = all.iter_mut().find(|publish| publish.name == endpoint.publish)
            else {
                return;
            };
            publish.places.push(PlaceStatus {
                guest: guest.config.name.clone(),
                transport: endpoint.transport.to_owned(),
                at: endpoint.local.to_string(),
                listeners: endpoint.listeners,
                accepted: endpoint.accepted,
            });
        });
    }
    all
}

fn listeners(served: &[ServedGuest]) -> (Vec<ListenerStatus>, usize) {
    let mut all = Vec::new();
    let mut left_out = 0;
    for guest in served {
        guest.sockets.inbound.each_listener(|listener| {
            if all.len() >= limits::STATUS_LISTENERS_MAX {
                left_out += 1;
                return;
            }
            all.push(ListenerStatus {
                guest: guest.config.name.clone(),
                program: listener.request.asserted.program.clone(),
                pid: listener.request.asserted.pid,
                address: listener.request.address.to_string(),
                backlog: listener.request.backlog,
                waiting: listener.waiting,
                places: listener.places.clone(),
                error: listener.error.map(str::to_owned),
            });
        });
    }
    (all, left_out)
}

fn guest_status(guest: &ServedGuest) -> GuestStatus {
    let device = guest.device.handle().counters();
    let dials = &guest.sockets.counters;
    let datagrams = &guest.sockets.datagrams;
    GuestStatus {
        name: guest.config.name.clone(),
        cid: guest.config.cid.0,
        socket: guest.config.socket.display().to_string(),
        connections: device.open.load(Relaxed),
        dials: guest.sockets.dials_under_way() as u64,
        opened: device.opened.load(Relaxed),
        dialled: dials.dialled.load(Relaxed),
        dials_failed: dials.failed.load(Relaxed),
        refused_by_rule: dials.refused_by_rule.load(Relaxed),
        refused_by_limit: dials.refused_by_limit.load(Relaxed),
        accepted: dials.accepted.load(Relaxed),
        waiting: guest.sockets.inbound.waiting(),
        bytes_from_guest: device.tx_bytes.load(Relaxed),
        bytes_to_guest: device.rx_bytes.load(Relaxed),
        flows: datagrams.flows(),
        flows_refused: datagrams.refused.load(Relaxed),
        datagrams_from_guest: datagrams.sent.load(Relaxed),
        datagrams_to_guest: datagrams.received.load(Relaxed),
        datagrams_dropped: datagrams.dropped.load(Relaxed),
        misbehaved: device.misbehaved.load(Relaxed),
        forged_packets: device.forged.load(Relaxed),
        bad_chains: device.bad_chains.load(Relaxed),
        broken_rings: device.broken_rings.load(Relaxed),
        notifications: device.notifications.load(Relaxed),
    }
}

fn one(guest: &str, connection: &Connection) -> ConnectionStatus {
    let age = connection.begun.elapsed().as_millis();
    ConnectionStatus {
        guest: guest.to_owned(),
        number: connection.number,
        direction: match connection.direction {
            Direction::In => "in",
            Direction::Out => "out",
        }
        .to_owned(),
        program: connection.asserted.program.clone(),
        pid: connection.asserted.pid,
        user_id: connection.asserted.user_id,
        user_name: connection.asserted.user_name.clone(),
        destination: connection.destination.clone(),
        rule: connection.rule.clone(),
        transport: connection.transport.clone(),
        encryption: connection.encryption.to_string(),
        peer: connection.peer.clone(),
        age_ms: u64::try_from(age).unwrap_or(u64::MAX),
        dial_us: connection.dial_us,
        bytes_from_guest: connection.stats.bytes_from_guest(),
        bytes_to_guest: connection.stats.bytes_to_guest(),
        rtt_us: connection.socket.as_ref().and_then(round_trip_us),
    }
}

/// `tcpi_rtt` of the kernel's `struct tcp_info`.
fn round_trip_us(socket: &HostSocket) -> Option<u64> {
    const TCPI_RTT_AT: usize = 68;
    let info = socket.tcp_info().ok()?;
    let rtt = info.get(TCPI_RTT_AT..)?.first_chunk::<4>()?;
    Some(u64::from(u32::from_ne_bytes(*rtt)))
}
