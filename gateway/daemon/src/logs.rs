//! Logs that a guest can provoke: so many a second, and a count of what was left out.
//!
//! in: a wish to log; out: whether to, and how many were left out before. Kept: whatever a guest
//! does, its lines stay within [`limits::LOG_LINES_PER_SECOND`] after
//! [`limits::LOG_LINES_BURST`].

use std::sync::{Mutex, PoisonError};

use outsock_core::bucket::Bucket;

use crate::{clock, limits};

/// The lines of one guest.
#[derive(Debug)]
pub(crate) struct LogLimit {
    state: Mutex<(Bucket, u64)>,
}

impl LogLimit {
    pub(crate) fn new() -> Self {
        let (rate, burst) = (limits::LOG_LINES_PER_SECOND, limits::LOG_LINES_BURST);
        Self { state: Mutex::new((Bucket::new(rate, burst, clock::now()), 0)) }
    }

    /// `Some` when a line may be logged now: how many were left out since the last one.
    pub(crate) fn admit(&self) -> Option<u64> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if state.0.take(clock::now()) {
            Some(std::mem::take(&mut state.1))
        } else {
            state.1 += 1;
            None
        }
    }
}
