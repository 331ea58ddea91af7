//! Interrupt: Ctrl-C and SIGTERM as a flag that long work looks at, so that what was started is
//! ended in order.
//!
//! in: signals; out: [`Interrupt::is_set`]. Owner: the process. Kept: the first signal only sets the
//! flag, the second one ends the process at once (the kernel then ends its children, see
//! [`tied`](crate::tied)). Bound: one flag.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::flag;

/// What a shell reports for a program that Ctrl-C ended.
const EXIT_INTERRUPTED: i32 = 130;

/// Signals this close together are one wish.
const SAME_WISH: Duration = Duration::from_millis(250);

/// Whether the user wants us to stop.
#[derive(Clone, Debug, Default)]
pub struct Interrupt(Arc<AtomicBool>);

impl Interrupt {
    /// One that follows the signals of this process.
    ///
    /// # Errors
    /// The system's, if it takes no handler.
    pub fn on_signals() -> io::Result<Self> {
        let interrupt = Self::default();
        let impatient = Arc::new(AtomicBool::new(false));
        for signal in [SIGINT, SIGTERM, SIGHUP] {
            flag::register_conditional_shutdown(signal, EXIT_INTERRUPTED, Arc::clone(&impatient))?;
            flag::register(signal, Arc::clone(&interrupt.0))?;
        }
        // timeout(1) and some shells send one wish to stop as two signals.
        let first = interrupt.clone();
        std::thread::Builder::new().name("interrupt".to_owned()).spawn(move || {
            while !first.is_set() {
                std::thread::sleep(SAME_WISH);
            }
            std::thread::sleep(SAME_WISH);
            impatient.store(true, Ordering::Release);
        })?;
        Ok(interrupt)
    }

    /// Whether a signal has come.
    #[must_use]
    pub fn is_set(&self) -> bool {
        self.0.load(Ordering::Acquire)
    }
}
