//! Every bound of the core, with its unit and reason.

/// Bytes that one connection may have on the way from guest to host: what we advertise as
/// `buf_alloc`, and so the most that the device ever buffers for it. A Linux guest uses at most its
/// own `SO_VM_SOCKETS_BUFFER_SIZE` of it (256 KiB unless raised), so more costs nothing until the
/// agent asks for it; 1 MiB keeps a fast stream busy over one scheduling round of the host.
pub const BUF_ALLOC_BYTES: u32 = 1024 * 1024;

/// Bytes of the longest message of a SOCK_SEQPACKET socket, and what such a connection may have on the
/// way from guest to host: a guest's kernel refuses longer ones with EMSGSIZE. A Unix socket of the
/// host takes a message of this size with the buffers that every Linux allows.
pub const MESSAGE_BYTES_MAX: u32 = 128 * 1024;

/// Requests of a guest's own programs that nobody has answered yet. The daemon answers each after one
/// connect to a Unix socket; more than this at once is no honest guest.
pub const ASKED_MAX: usize = 1024;

/// Connections to ports of the guest that it has not answered.
pub const CALLS_MAX: usize = 1024;

/// How long a guest may take to answer one, milliseconds. Its kernel answers by itself; it may be
/// paused, or slow to boot.
pub const CALL_MS: u64 = 5_000;

/// The first of the host's ports that calls come from; tokens begin behind the last.
pub const CALL_PORT_MIN: u32 = 0x2000_0000;

/// The last of them.
pub const CALL_PORT_MAX: u32 = 0x3fff_ffff;

/// Bytes that one queued packet costs a Linux guest besides its payload: `SKB_TRUESIZE(0)`, 576 to
/// 832 by architecture and configuration. A guest resets a connection (ENOBUFS) when the packets in
/// its receive queue times this exceed its `buf_alloc` (Linux 6.12.92, 6.18, 7.0).
pub const PACKET_COST_BYTES: u32 = 832;

/// Packets to one guest connection that are remembered until the guest has taken them. A window of
/// 8 MiB allows 10,082; four bytes each.
pub const PACKETS_IN_FLIGHT_MAX: usize = 8192;

/// Connections of one guest, counted from REQUEST to the last packet. A Linux guest has 2^32
/// ports; this is what the host's descriptors allow.
pub const CONNECTIONS_MAX: usize = 65_536;

/// REQUESTs whose token is not announced (yet). The announcement is on its way on the control
/// stream; more than this at once is no honest guest.
pub const PARKED_MAX: usize = 1024;

/// Tokens announced whose connection does not stand yet: as many as calls may be in flight, for
/// several agents in one guest.
pub const TOKENS_MAX: usize = 16_384;

/// RSTs owed to a guest that does not read its RX queue: one for each connection it could have.
/// Further ones are dropped, as a network would; the guest's own timeouts remain.
pub const RSTS_MAX: usize = CONNECTIONS_MAX;

/// Bytes of credit below which nothing is sent while more are in flight: many tiny packets cost a
/// guest more than one short wait (the silly window of RFC 1122, 4.2.3.4).
pub const CREDIT_WORTHWHILE_BYTES: u32 = 4096;

/// How long a REQUEST waits for its token to be announced, milliseconds. The announcement can only
/// be late by a stalled control stream.
pub const PARKED_MS: u64 = 5_000;

/// How long a dialled connection, or the news that a dial failed, waits for its REQUEST,
/// milliseconds.
pub const TOKEN_UNUSED_MS: u64 = 10_000;

/// Bytes that one connection may move to the guest before the next one has its turn: a full QEMU
/// ring (128 buffers of 4 KiB) is shared by at least two.
pub const TURN_BYTES: u32 = 256 * 1024;

/// The first pause before a guest is asked again for its credit, milliseconds. Doubled up to
/// [`CREDIT_REQUEST_MS_MAX`] while it answers without progress.
pub const CREDIT_REQUEST_MS: u64 = 10;

/// The longest such pause, milliseconds.
pub const CREDIT_REQUEST_MS_MAX: u64 = 1_000;

/// Rules in a route table. A decision among as many takes less than 20 us (`benches/route.rs`).
pub const ROUTES_MAX: usize = 10_000;

/// Bytes of a pattern in a rule: a long path of a program, or the longest host name.
pub const PATTERN_BYTES_MAX: usize = 1024;

/// How long a synthetic address stays with its name after it was last given out or used,
/// milliseconds. Answers carry a TTL of seconds; programs that remember longer mostly keep to
/// minutes. Only a pool (or share) that is full uses an address again at all.
pub const POOL_HOLD_MS: u64 = 600_000;

/// One guest may have the pool's size divided by this many names: 16,383 of 198.18.0.0/15.
pub const POOL_SHARE: u32 = 8;

/// How long a member of a group is left in peace after its first failure, milliseconds. Doubled up
/// to [`GROUP_BACK_OFF_MS_MAX`] while it goes on failing.
pub const GROUP_BACK_OFF_MS: u64 = 2_000;

/// The longest such pause, milliseconds: a path that is back is used again within a minute.
pub const GROUP_BACK_OFF_MS_MAX: u64 = 60_000;

/// Failures that a group remembers, one per guest and member: as many guests as a gateway has,
/// with a few members each.
pub const GROUP_GUESTS_MAX: usize = 8192;

const _: () = assert!(GROUP_BACK_OFF_MS < GROUP_BACK_OFF_MS_MAX);
const _: () = assert!(PARKED_MAX <= CONNECTIONS_MAX);
const _: () = assert!((CALL_PORT_MAX - CALL_PORT_MIN) as usize > CONNECTIONS_MAX);
const _: () = assert!(CALL_PORT_MAX < outsock_vmrpc::limits::TOKEN_MIN);
const _: () = assert!(TURN_BYTES <= BUF_ALLOC_BYTES);
const _: () = assert!(CREDIT_REQUEST_MS < CREDIT_REQUEST_MS_MAX);
