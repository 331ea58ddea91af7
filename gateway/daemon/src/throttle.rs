//! Throttle: a guest's bytes per second, over all its connections and both directions.
//!
//! in: how many bytes are about to go on; out: after a while, leave. Owner: shared by the pumps of
//! one guest. Kept: bytes wait at their source, so that backpressure reaches whoever sends. A guest
//! with such a limit has all its connections pumped: the device's direct way has nowhere to wait.
//! Bound: each pump waits for its own bytes only.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use outsock_core::bucket::Bucket;

use crate::{clock, limits};

/// A limit of bytes per second.
#[derive(Debug)]
pub(crate) struct Throttle {
    bucket: Mutex<Bucket>,
}

impl Throttle {
    pub(crate) fn new(bytes_per_second: u64) -> Self {
        Self { bucket: Mutex::new(bucket(bytes_per_second)) }
    }

    /// Changes the limit, also for those who go by it already.
    pub(crate) fn set(&self, bytes_per_second: u64) {
        *self.bucket.lock().unwrap_or_else(PoisonError::into_inner) = bucket(bytes_per_second);
    }

    /// Returns when `bytes` may go on.
    pub(crate) async fn pass(&self, bytes: usize) {
        let wait = {
            let mut bucket = self.bucket.lock().unwrap_or_else(PoisonError::into_inner);
            bucket.take_in_debt(clock::now(), bytes as u64)
        };
        if wait > 0 {
            tokio::time::sleep(Duration::from_millis(wait)).await;
        }
    }
}

fn bucket(bytes_per_second: u64) -> Bucket {
    // A tenth of a second at once, so that short exchanges are not chopped up.
    let burst = (bytes_per_second / 10).max(limits::BYTES_BURST_MIN);
    Bucket::new(bytes_per_second, burst, clock::now())
}
