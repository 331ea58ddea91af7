//! Bounds of the memory transport, with unit and reason.

/// Bytes that a pipe holds in one direction: the window of a young TCP connection, and small
/// enough that a test of backpressure is quick.
pub const PIPE_BYTES: usize = 64 << 10;

/// The first port that is given out where 0 was asked for, and where a dialer has no wish: IANA's
/// range for ephemeral ports.
pub const EPHEMERAL_PORTS_START: u16 = 49_152;

/// Dead connections that a path remembers before it forgets them: a sweep each time would make
/// many short connections quadratic.
pub const DEAD_LINKS_MIN: usize = 64;
