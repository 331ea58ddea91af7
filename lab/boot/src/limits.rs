//! Every limit of this crate, with its unit and its reason.

use std::time::Duration;

/// A guest that is not up by then never comes: software emulation on a busy machine takes 20 s.
pub const BOOT_TIMEOUT: Duration = Duration::from_secs(120);
/// How long a vhost-user backend may take to create its socket after the guest is asked for.
pub const VSOCK_SOCKET_TIMEOUT: Duration = Duration::from_secs(10);
/// A command's time unless the caller says otherwise.
pub const COMMAND_TIMEOUT: Duration = Duration::from_secs(60);
/// A killed command's `Exit` must come by then, else the guest counts as hung.
pub const KILL_TIMEOUT: Duration = Duration::from_secs(10);
/// An orderly power-off takes less than a second on an idle machine.
pub const SHUTDOWN_TIMEOUT: Duration = Duration::from_secs(20);
/// Commands that may run in one guest at a time: each has four threads there.
pub const COMMANDS_MAX: usize = 256;
/// Bytes of standard input per command: the guest keeps what the command has not read.
pub const STDIN_BYTES_MAX: usize = 16 * 1024 * 1024;
/// Bytes kept of each of a command's two outputs; more goes through the share directory.
pub const OUTPUT_BYTES_MAX: usize = 64 * 1024 * 1024;
/// Bytes kept of the guest's console: the last ones tell why it died.
pub const CONSOLE_BYTES_MAX: usize = 256 * 1024;
/// Lines of the console that an error shows.
pub const CONSOLE_LINES_IN_ERROR: usize = 25;
/// Length of a Unix socket's path: `sun_path` less its closing zero.
pub const SOCKET_PATH_BYTES_MAX: usize = 107;
/// How long `apt-get` waits for another package manager's lock.
pub const PACKAGE_LOCK_TIMEOUT: Duration = Duration::from_secs(300);
