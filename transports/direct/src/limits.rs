//! Bounds of the direct transport, with unit and reason.

use std::time::Duration;

/// The first source port that a guest may ask for: Linux's default `ip_unprivileged_port_start`.
pub const PRIVILEGED_PORTS_END: u16 = 1024;

/// The first wait for a Unix listener whose backlog is full. The kernel has no notification for a
/// non-blocking `connect()`; a server that is alive accepts within a millisecond or so.
pub const UNIX_RETRY_FIRST: Duration = Duration::from_millis(1);

/// The longest such wait: twenty tries a second cost nothing and add little to a slow server.
pub const UNIX_RETRY_MAX: Duration = Duration::from_millis(50);

/// How long an accept waits before it reports that descriptors or memory have run out. The
/// connection stays in the backlog, so whoever tries again at once would spin.
pub const EXHAUSTED_PAUSE: Duration = Duration::from_millis(100);

/// The kernel's buffers of one flow of datagrams, bytes each way: a burst of 700 full Ethernet frames.
/// The host's `net.core.rmem_max` may allow less.
pub const DATAGRAM_BUFFER_BYTES: usize = 1024 * 1024;

/// Bytes of an ICMP echo message that is sent or received: a datagram's payload with headers.
pub const ECHO_BYTES_MAX: usize = 65_535;
