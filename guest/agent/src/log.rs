//! Messages to standard error.
//!
//! in: formatted text; out: one line each, prefixed with the program's name. Any thread. Standard
//! error is the supervised program's too, so by default only what a person must act on is said.

use std::fmt::Arguments;
use std::io::Write;
use std::sync::atomic::{AtomicBool, Ordering};

static VERBOSE: AtomicBool = AtomicBool::new(false);

/// Turns on what `-v` shows.
pub(crate) fn set_verbose(verbose: bool) {
    VERBOSE.store(verbose, Ordering::Relaxed);
}

/// Something that a person must know.
pub(crate) fn say(text: Arguments<'_>) {
    // One write, so that lines of several writers do not mix. Nobody to tell if it fails.
    let _ = std::io::stderr().write_all(format!("outsock: {text}\n").as_bytes());
}

/// Something that helps to see what the agent does; only with `-v`.
pub(crate) fn note(text: Arguments<'_>) {
    if VERBOSE.load(Ordering::Relaxed) {
        say(text);
    }
}
