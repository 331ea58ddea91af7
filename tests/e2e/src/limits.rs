//! Every limit of this crate, with its unit and its reason.

use std::time::Duration;

/// A silent connection is given up after this: longer than the slowest guest takes, shorter than a
/// test's patience.
pub const CONNECTION_TIMEOUT: Duration = Duration::from_secs(60);

/// Bytes of one read or write.
pub const PIECE_BYTES: usize = 64 * 1024;

/// Bytes that a guest may ask a source for: more would make a test slow, not better.
pub const SOURCE_BYTES_MAX: u64 = 1 << 30;

/// Bytes of a request line or of an HTTP head.
pub const REQUEST_BYTES_MAX: usize = 16 * 1024;

/// Events that a server keeps until a test takes them.
pub const EVENTS_MAX: usize = 1024;

/// Connects that fill a listener's queue of one, so that later SYNs are dropped.
pub const BACKLOG_FILL: usize = 4;
