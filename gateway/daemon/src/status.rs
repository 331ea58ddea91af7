//! Status: the gateway's state as one value.
//!
//! in: the running gateway; out: what `status --json` prints. Fields are only ever added. Bound:
//! [`limits::STATUS_CONNECTIONS_MAX`] connections are listed.

use std::sync::atomic::Ordering::Relaxed;

use outsock_device::HostSocket;
use serde::{Deserialize, Serialize};

use crate::connections::Connection;
use crate::gateway::Gateway;
use crate::guests::ServedGuest;
use crate::limits;

/// See the module.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Status {
    pub(crate) version: String,
    pub(crate) guests: Vec<GuestStatus>,
    pub(crate) groups: Vec<GroupStatus>,
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
    pub(crate) bytes_from_guest: u64,
    pub(crate) bytes_to_guest: u64,
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

/// One connection that stands.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct ConnectionStatus {
    pub(crate) guest: String,
    /// Counts the connections of the guest.
    pub(crate) number: u64,
    /// As the guest asserts, like `pid` and `user`.
    pub(crate) program: Option<String>,
    pub(crate) pid: Option<u32>,
    pub(crate) user_id: Option<u32>,
    pub(crate) user_name: Option<String>,
    /// Where the guest wanted to go: by name, where one is known.
    pub(crate) destination: String,
    pub(crate) rule: String,
    pub(crate) transport: String,
    /// What was dialled.
    pub(crate) peer: String,
    pub(crate) age_ms: u64,
    /// How long it took from the guest's call until the far socket had connected.
    pub(crate) dial_us: u64,
    pub(crate) bytes_from_guest: u64,
    pub(crate) bytes_to_guest: u64,
    /// The far socket's smoothed round-trip time, where the host's kernel measures one.
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
    let policy = gateway.sockets.policy();
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
        connections,
        connections_left_out: left_out,
    }
}

fn guest_status(guest: &ServedGuest) -> GuestStatus {
    let device = guest.device.handle().counters();
    let dials = &guest.sockets.counters;
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
        bytes_from_guest: device.tx_bytes.load(Relaxed),
        bytes_to_guest: device.rx_bytes.load(Relaxed),
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
        program: connection.asserted.program.clone(),
        pid: connection.asserted.pid,
        user_id: connection.asserted.user_id,
        user_name: connection.asserted.user_name.clone(),
        destination: connection.destination.clone(),
        rule: connection.rule.clone(),
        transport: connection.transport.clone(),
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
