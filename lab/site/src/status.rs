//! Status: what `outsock-gateway status --json` prints.
//!
//! in: JSON; out: numbers per guest. Owner: nobody, plain data. Kept: fields are only ever added on
//! the gateway's side, so unknown ones are ignored. Bound: as many guests as the gateway has.

use serde::Deserialize;

/// A gateway's state.
#[derive(Clone, Debug, Deserialize)]
pub struct Status {
    /// Its guests, in the configuration's order.
    pub guests: Vec<GuestStatus>,
}

/// One guest's counters.
#[derive(Clone, Debug, Deserialize)]
pub struct GuestStatus {
    /// Its name in the configuration.
    pub name: String,
    /// Open vsock connections, the agents' own included.
    pub connections: u64,
    /// Dials under way.
    pub dials: u64,
    /// Dials that connected.
    pub dialled: u64,
    /// Dials that failed.
    pub dials_failed: u64,
    /// Connects that a rule refused.
    pub refused_by_rule: u64,
    /// Payload that came from the guest.
    pub bytes_from_guest: u64,
    /// Payload that went to the guest.
    pub bytes_to_guest: u64,
    /// Connections reset since the guest broke the protocol.
    pub misbehaved: u64,
    /// Packets with another guest's address.
    pub forged_packets: u64,
    /// Descriptor chains that could not be read.
    pub bad_chains: u64,
}
