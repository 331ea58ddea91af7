//! Every limit of this crate, with its unit and its reason.

use std::time::Duration;

/// How long a gateway may take until it listens: it reads one file and makes a few sockets.
pub const GATEWAY_START: Duration = Duration::from_secs(10);

/// How long a gateway may take to end after SIGTERM, beside its own drain time.
pub const GATEWAY_STOP: Duration = Duration::from_secs(15);

/// How often a condition is looked at that nothing tells of.
pub const POLL: Duration = Duration::from_millis(10);

/// Lines of a failed program's output that its error shows.
pub const LINES_IN_ERROR: usize = 25;

/// Lines that wait between a program and who reads them; the program waits when there are more.
pub const LINES_IN_FLIGHT: usize = 1024;
