//! Every bound of the virtual guest, with its unit and reason.

use std::time::Duration;

/// Bytes of payload in one packet (Linux: `VIRTIO_VSOCK_MAX_PKT_BUF_SIZE`).
pub const PACKET_PAYLOAD_BYTES_MAX: usize = 64 * 1024;

/// Bytes of a connection's receive buffer unless asked otherwise (Linux:
/// `VSOCK_DEFAULT_BUFFER_SIZE`).
pub const BUF_ALLOC_BYTES_DEFAULT: u32 = 256 * 1024;

/// Free bytes below which a reader sends a CREDIT_UPDATE unasked: Linux compares with one packet of
/// the largest size.
pub const CREDIT_UPDATE_FREE_BYTES: u64 = PACKET_PAYLOAD_BYTES_MAX as u64;

/// Bytes up to which Linux copies a packet's payload into the room behind the packet before it in
/// the receive queue, instead of queueing one more (`GOOD_COPY_LEN`).
pub const GOOD_COPY_BYTES: usize = 128;

/// Bytes that Linux on x86-64 accounts for a queued packet beside its payload: `SKB_TRUESIZE(0)`.
pub const SKB_OVERHEAD_BYTES: u64 = 576;

/// How long a REQUEST may stay unanswered (Linux: `VSOCK_DEFAULT_CONNECT_TIMEOUT`).
pub const CONNECT_TIMEOUT_DEFAULT: Duration = Duration::from_secs(2);

/// How long `connect()` may take in `dial`, where the agent raises the default because the host
/// dials before it answers.
pub const DIAL_TIMEOUT: Duration = Duration::from_secs(120);

/// How long a closed socket waits for the peer's RST (Linux: `VSOCK_CLOSE_TIMEOUT`).
pub const CLOSE_TIMEOUT: Duration = Duration::from_secs(8);

/// How long a blocking call waits before it fails with `TimedOut`, so that no test hangs on a
/// gateway that does.
pub const PATIENCE_DEFAULT: Duration = Duration::from_secs(30);

/// How long the backend may take for one vhost-user message. It answers from memory; only one that
/// hangs needs longer.
pub const CONTROL_TIMEOUT: Duration = Duration::from_secs(10);

/// Entries of a ring, lowest and highest: a power of two that every backend accepts.
pub const RING_SIZE_MIN: u16 = 8;
/// See [`RING_SIZE_MIN`].
pub const RING_SIZE_MAX: u16 = 1024;

/// Descriptors of one buffer. The longest layout has 49 (a header in 44 one-byte descriptors).
pub const CHAIN_DESCRIPTORS_MAX: usize = 64;

/// Bytes in front of every buffer for its indirect table.
pub const INDIRECT_TABLE_BYTES: usize = CHAIN_DESCRIPTORS_MAX * 16;

/// Buffers in the event queue (Linux: 8).
pub const EVENT_BUFFERS: u16 = 8;

/// Bytes of one event (`struct virtio_vsock_event`).
pub const EVENT_BYTES: u32 = 4;

/// Violations kept with all their details. More are counted only: one broken loop in a gateway
/// makes millions.
pub const VIOLATIONS_KEPT_MAX: usize = 256;

/// Dead connections that are remembered, to tell a late packet from one that must not come.
pub const TOMBSTONES_MAX: usize = 1 << 17;

/// Packets that one pass takes off the RX ring before jobs and other threads get their turn.
pub const RX_PASS_PACKETS_MAX: usize = 256;

/// Packets that one job sends in one pass, for the same reason.
pub const JOB_PASS_PACKETS_MAX: usize = 64;

/// Bytes of payload after which a job looks whether the backend sleeps and needs a kick.
pub const KICK_CHECK_BYTES: usize = 16 * 1024;

/// Bytes of guest memory that are nobody's: raw tests put their descriptors and buffers there.
pub const SCRATCH_BYTES: usize = 1 << 20;

/// Bytes between the regions of guest memory, in guest physical addresses: what lies there is
/// mapped nowhere.
pub const REGION_GAP_BYTES: u64 = 1 << 30;

/// Regions of guest memory. Backends take 8 in one message (vhost-user, `SET_MEM_TABLE`); one is
/// kept for a region that is plugged in later.
pub const REGIONS_MAX: usize = 7;

/// Bytes that a pump between a virtual connection and a descriptor moves at once.
pub const PUMP_BYTES: usize = 64 * 1024;

const _: () = assert!(RING_SIZE_MAX.is_power_of_two() && RING_SIZE_MIN.is_power_of_two());
const _: () = assert!(EVENT_BUFFERS <= RING_SIZE_MIN);

/// Bytes of the memory that event queues lie in: a few of the largest.
pub const QUEUE_POOL_BYTES: usize = 16 * 1024 * 1024;
