//! Bounds of TLS, with unit and reason.

use std::time::Duration;

/// Bytes of a PEM file. All of a distribution's CA certificates are about 250 KiB.
pub const PEM_BYTES_MAX: u64 = 4 << 20;

/// How long an accepted client may take for its handshake. A round trip and a signature each way; the
/// rest is for a client behind a slow line.
pub const HANDSHAKE_TIME: Duration = Duration::from_secs(10);

/// Handshakes of one listener under way at the same time: each holds a connection that has proved
/// nothing yet. Beyond, clients wait in the backlog.
pub const HANDSHAKES_MAX: usize = 256;

/// Characters of an error's text: what a peer's certificate says may be in it.
pub const ERROR_CHARS_MAX: usize = 300;

/// Encrypted bytes of one connection that are read at a time: some records, one buffer of the pump.
pub const READ_AHEAD_BYTES: usize = 64 << 10;

/// Encrypted bytes of one connection that wait for the transport below to take them.
pub const UNSENT_BYTES: usize = 256 << 10;

/// How long a connection that was closed here may take to be closed over there: as long as Linux keeps
/// one in FIN_WAIT_2 (`tcp_fin_timeout`).
pub const LINGER: Duration = Duration::from_secs(60);
