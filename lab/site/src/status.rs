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
    /// Connections that stand.
    pub connections: Vec<ConnectionStatus>,
    /// Listeners in guests.
    pub listeners: Vec<ListenerStatus>,
}

/// One listener in a guest.
#[derive(Clone, Debug, Deserialize)]
pub struct ListenerStatus {
    /// The guest's name.
    pub guest: String,
    /// The program in the guest, as its agent says.
    pub program: Option<String>,
    /// As the program has bound it.
    pub address: String,
    /// Connections that wait to be accepted.
    pub waiting: u32,
    /// Where it is reached.
    pub places: Vec<String>,
}

/// One connection.
#[derive(Clone, Debug, Deserialize)]
pub struct ConnectionStatus {
    /// The guest's name.
    pub guest: String,
    /// "in" or "out".
    pub direction: String,
    /// The program in the guest, as its agent says.
    pub program: Option<String>,
    /// The process there.
    pub pid: Option<u32>,
    /// The user there.
    pub user_name: Option<String>,
    /// Where it wanted to go.
    pub destination: String,
    /// The rule that decided.
    pub rule: String,
    /// The transport that dialled.
    pub transport: String,
    /// What it dialled.
    pub peer: String,
    /// Since then.
    pub age_ms: u64,
    /// Payload that came from the guest.
    pub bytes_from_guest: u64,
    /// Payload that went to the guest.
    pub bytes_to_guest: u64,
    /// The far socket's round-trip time, where it has one.
    pub rtt_us: Option<u64>,
}

/// What `outsock-gateway explain --json` prints.
#[derive(Clone, Debug, Deserialize)]
pub struct Explanation {
    /// The rule that decides.
    pub rule: String,
    /// `via NAME` or `refuse ERRNO`.
    pub action: String,
    /// The name by which the rules were asked.
    pub name: Option<String>,
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
    /// Connections that came in.
    pub accepted: u64,
    /// Of them, those that wait to be accepted.
    pub waiting: u64,
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
