//! Every size of a measurement, with its unit and reason.

use std::time::Duration;

/// Bytes of a connection's receive buffer in the guest: what the agent sets.
pub(crate) const AGENT_BUFFER_BYTES: u32 = 1024 * 1024;

/// Bytes that one read may take, at either end: more than a socket hands out at once.
pub(crate) const READ_BYTES: usize = 128 * 1024;

/// Bytes of a stream by the bytes of its messages: about a third of a second of native TCP each.
pub(crate) const STREAM_BYTES: [(u32, u64); 3] =
    [(256, 64 << 20), (4096, 512 << 20), (65_536, 1 << 30)];

/// Round trips in one measurement: enough for a 99th percentile of one hundred.
pub(crate) const ROUND_TRIPS: u64 = 10_000;

/// Connections in one measurement. Each leaves a port in TIME_WAIT, and loopback has 28,000.
pub(crate) const CONNECTS: u64 = 3_000;

/// Connections at a time in the parallel measurement.
pub(crate) const CONNECTS_PARALLEL: u32 = 32;

/// Events through shared memory in one measurement: about a second of them.
pub(crate) const EVENTS: u64 = 4_000_000;

/// Events over the stream in one measurement.
pub(crate) const EVENTS_STREAM: u64 = 200_000;

/// Calls of one kind in one measurement: enough for a 99th percentile of twenty.
pub(crate) const CALLS: u64 = 2_000;

/// Further descriptors of a crowded process: ten times what servers have.
pub(crate) const CROWD: usize = 1_000;

/// Names asked for in one measurement: enough for a 99th percentile of five.
pub(crate) const LOOKUPS: u64 = 500;

/// Connections in the two steps of the part `idle`.
pub(crate) const IDLE_CONNECTIONS: [usize; 2] = [5_000, 10_000];

/// Connections that are opened at a time there: the backlog of a listener is 128.
pub(crate) const IDLE_OPENING: usize = 64;

/// Flows in the part `stalled`, with the one that stops.
pub(crate) const FLOWS: usize = 100;

/// Bytes of each of these flows.
pub(crate) const FLOW_BYTES: u64 = 16 << 20;

/// Streams at a time in the part `ways`.
pub(crate) const WAYS_FLOWS: usize = 64;

/// Bytes of each of them.
pub(crate) const WAYS_FLOW_BYTES: u64 = 16 << 20;

/// Connections that stand still while the gateway's processor time is read.
pub(crate) const STALLED_CONNECTIONS: usize = 1_000;

/// How long it is read.
pub(crate) const STALLED_PERIOD: Duration = Duration::from_secs(10);

/// How long a stalled flow is given to fill every buffer on its way.
pub(crate) const STALL_SETTLE: Duration = Duration::from_millis(500);

/// How long all of them are: the kernel's socket buffers grow to some megabytes each.
pub(crate) const STALL_SETTLE_ALL: Duration = Duration::from_secs(5);

/// How long a process may take to start.
pub(crate) const START_TIMEOUT: Duration = Duration::from_secs(10);

/// How long one measurement in a real guest may take.
pub(crate) const GUEST_CASE_TIMEOUT: Duration = Duration::from_secs(120);

/// Events that the far end takes from the kernel at once.
pub(crate) const EVENTS_MAX: usize = 256;

/// The largest message that `vhost-device-vsock` takes from a kernel that sends more than 32 KiB in
/// many descriptors, rounded down to a page.
pub(crate) const PEER_MESSAGE_BYTES_MAX: u32 = 4096;
