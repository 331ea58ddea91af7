//! Every bound of the daemon, with its unit and reason.

/// Bytes of a configuration file. 10,000 routes take about 1 MiB.
pub(crate) const CONFIG_BYTES_MAX: u64 = 16 * 1024 * 1024;

/// Guests of one gateway. Each costs two threads and, with its VMM, a few descriptors.
pub(crate) const GUESTS_MAX: usize = 1024;

/// Configured transports. Routes name them by a 16-bit number.
pub(crate) const TRANSPORTS_MAX: usize = 1024;

/// How long connections may go on after SIGTERM when the configuration does not say,
/// milliseconds. Longer than a request, shorter than systemd's 90 s.
pub(crate) const DRAIN_TIMEOUT_MS: u64 = 10_000;

/// How often a draining gateway looks whether it may end, milliseconds.
pub(crate) const DRAIN_POLL_MS: u64 = 50;

/// How long a dial may take when the configuration does not say, milliseconds: Linux's own
/// patience with SYNs.
pub(crate) const DIAL_TIMEOUT_MS: u64 = 130_000;

/// Dials of one guest under way at the same time. Each has one descriptor or one stream.
pub(crate) const DIALS_PER_GUEST_MAX: usize = 4096;

/// VM RPC streams of one guest at the same time: one per agent, one per program with the SDK.
pub(crate) const RPC_STREAMS_PER_GUEST_MAX: usize = 256;

/// VM RPC streams of one guest that wait because it has that many: a guest that just rebooted must
/// not be refused because its old streams are not all forgotten yet.
pub(crate) const RPC_STREAMS_WAITING_MAX: usize = 1024;

/// How long a VM RPC stream waits for one of those places, milliseconds. Streams of a guest that is
/// gone leave theirs at once.
pub(crate) const RPC_STREAM_WAIT_MS: u64 = 1_000;

/// Bytes that the pump between a bridge and an async stream holds per direction.
pub(crate) const PUMP_BYTES: usize = 64 * 1024;

/// Bytes of one request on the admin socket.
pub(crate) const ADMIN_REQUEST_BYTES_MAX: u64 = 64 * 1024;

/// How long an admin client may take to send its request, milliseconds.
pub(crate) const ADMIN_REQUEST_MS: u64 = 5_000;

/// Admin clients at the same time.
pub(crate) const ADMIN_CLIENTS_MAX: usize = 16;
