//! Clock: the core's moments, from the host's monotonic clock.

use std::sync::OnceLock;

use outsock_core::address::Instant;

/// Milliseconds since the process first asked.
pub(crate) fn now() -> Instant {
    static START: OnceLock<std::time::Instant> = OnceLock::new();
    let passed = START.get_or_init(std::time::Instant::now).elapsed();
    Instant(u64::try_from(passed.as_millis()).unwrap_or(u64::MAX))
}
