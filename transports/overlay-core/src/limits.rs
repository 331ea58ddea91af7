//! Every bound of the overlay's decisions, with its unit and reason.

/// Seconds that a clock may be wrong without anybody noticing: hosts that keep time by NTP are within
/// seconds, those that lost it are off by hours.
pub const SKEW_S: u64 = 300;

/// Bytes of a directory record, signature included. A message of Kademlia holds 16 KiB, and an answer
/// several peers beside the record.
pub const RECORD_BYTES_MAX: usize = 4096;

/// Seconds that a record is valid. A node that is gone is forgotten within a day; records are renewed
/// much earlier.
pub const RECORD_LIFETIME_S_MAX: u32 = 24 * 3600;

/// Addresses of a record: two carriers on a few interfaces, and three relays. A peer dials all of them,
/// so a hostile record makes it dial at most so many.
pub const ADDRESSES_MAX: usize = 16;

/// Services of a record.
pub const SERVICES_MAX: usize = 64;

/// Bytes of a service's name.
pub const SERVICE_BYTES_MAX: usize = 63;

/// Bytes of a certificate: two keys, a name, two moments, a signature.
pub const CERTIFICATE_BYTES_MAX: usize = 256;

/// Seconds that a certificate may be valid, 10 years.
pub const CERTIFICATE_LIFETIME_S_MAX: u64 = 10 * 365 * 86_400;

/// Revoked keys of one network. An entry may go when the last certificate that it voids has expired.
pub const REVOKED_MAX: usize = 1_500;

/// Bytes of a list of revocations: 40 for each, and the frame around them.
pub const REVOCATIONS_BYTES_MAX: usize = 64 * 1024;

/// Bytes of the first message of a connection: a certificate, and room for a later version.
pub const HELLO_BYTES_MAX: usize = 1024;

/// Keys whose newest record's sequence is remembered. One that falls out can be fooled by an old
/// record that has not expired, as a node could that has just started.
pub const FLOOR_KEYS_MAX: usize = 8192;

/// Petnames of one gateway: its peers, and names for nodes that it has no other dealings with.
pub const PETNAMES_MAX: usize = 4096;

/// Bytes of a file with a signed thing as text.
pub const ARMOR_BYTES_MAX: usize = 2 * REVOCATIONS_BYTES_MAX;

/// Addresses of its own that a node collects confirmations for.
pub const OWN_ADDRESSES_MAX: usize = 8;

/// Peers whose confirmation of one address is remembered.
pub const CONFIRMERS_MAX: usize = 16;

/// Milliseconds that a peer's confirmation counts: peers look again every few minutes.
pub const CONFIRMATION_MS: u64 = 3_600_000;

/// Peers that must have reached a node before it serves others.
pub const CONFIRMERS_MIN: usize = 2;

/// Milliseconds between two times that a supernode under load asks some of its nodes to leave: time
/// for those to find another, and for the average to show it.
pub const SHED_EVERY_MS: u64 = 10_000;

/// Of a thousand nodes of a supernode, how many it asks to leave at a time. Few: they go to other
/// supernodes, which must not be the next to be overloaded.
pub const SHED_PER_MILLE: u64 = 50;

/// Load, in thousandths, from which a supernode sheds, and below which it stops.
pub const SHED_FROM_PER_MILLE: u16 = 950;
/// See [`SHED_FROM_PER_MILLE`].
pub const SHED_UNTIL_PER_MILLE: u16 = 800;

/// Peers whose bytes a supernode counts one by one. The one that was quiet for longest is forgotten; it
/// starts with a full bucket again.
pub const THROTTLED_PEERS_MAX: usize = 4096;

/// Supernodes that a node knows of.
pub const CANDIDATES_MAX: usize = 256;

/// Milliseconds until an answer to a wish for a reservation counts as none.
pub const RESERVE_TIMEOUT_MS: u64 = 15_000;

/// Milliseconds over which nodes that start in the same second spread their first wishes.
pub const START_SPREAD_MS: u64 = 5_000;

/// Milliseconds over which the nodes of a supernode that has ended spread.
pub const LOST_SPREAD_MS: u64 = 2_000;

/// The first pause after a supernode has refused, milliseconds; doubled up to [`REFUSED_MS_MAX`].
pub const REFUSED_MS: u64 = 2_000;
/// See [`REFUSED_MS`].
pub const REFUSED_MS_MAX: u64 = 300_000;

/// Milliseconds between two wishes of one node, at least.
pub const PACE_MS: u64 = 500;

/// Milliseconds between two looks around for a better supernode.
pub const LOOK_AROUND_MS: u64 = 600_000;

/// Milliseconds of latency that a supernode must be better by before a node changes to it.
pub const WORTHWHILE_MS: u64 = 10;

/// Latency that is assumed of a supernode not measured yet, milliseconds.
pub const UNKNOWN_LATENCY_MS: u64 = 150;

/// Nodes of the host cache, as many as Skype's had.
pub const HOSTS_MAX: usize = 200;

/// Addresses of one of them.
pub const HOST_ADDRESSES_MAX: usize = 4;

/// Bytes of the host cache's file.
pub const HOST_FILE_BYTES_MAX: u64 = 256 * 1024;

/// Failures in a row after which a host is forgotten.
pub const HOST_FAILURES_MAX: u32 = 8;

/// Supernodes that a node wants to have at least: one may end at any time.
pub const SUPERNODES_MIN: usize = 2;

/// How full a supernode may be, in thousandths, for a node's first, second and third one.
pub const FULL_FOR_PER_MILLE: [u16; 3] = [1000, 900, 700];
