//! Bounds of external transports, with unit and reason.

use std::time::Duration;

/// How long a process may take until it is ready when nothing else is said. Interpreters on a busy machine
/// take seconds.
pub const START_TIME: Duration = Duration::from_secs(30);

/// Bytes of one line that a process says; the rest of a longer one is dropped. A bridge line with a
/// certificate is about 200 bytes.
pub const LINE_BYTES_MAX: usize = 8 << 10;

/// Lines that a process may say before it is ready.
pub const LINES_MAX: usize = 1_000;

/// Lines of one process that are logged per second, both outputs together; more are counted.
pub const LOGGED_PER_SECOND: u32 = 5;

/// The first pause before a process that died starts again.
pub const PAUSE_FIRST: Duration = Duration::from_millis(200);

/// The longest such pause: what a broken program may cost.
pub const PAUSE_MAX: Duration = Duration::from_secs(60);

/// A process that ran this long was fine: the next pause is a first one.
pub const STABLE: Duration = Duration::from_secs(60);

/// How long a process may go on after its standard input has closed, and again after SIGTERM.
pub const STOP_TIME: Duration = Duration::from_secs(2);

/// Bytes of all arguments of one connection: two fields of SOCKS5.
pub const ARGUMENTS_BYTES_MAX: usize = 510;
