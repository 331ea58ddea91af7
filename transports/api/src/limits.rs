//! Bounds that every transport shares, with unit and reason.

use std::time::Duration;

/// How long a dial may take when the configuration does not say. Linux gives up on a TCP connect
/// after about 130 s (`tcp_syn_retries` = 6); a program must see the same patience.
pub const DIAL_TIMEOUT: Duration = Duration::from_secs(130);

/// Connections that wait in a listener until they are accepted.
pub const ACCEPT_BACKLOG_MAX: u32 = 1024;
