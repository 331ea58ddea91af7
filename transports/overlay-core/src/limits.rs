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
