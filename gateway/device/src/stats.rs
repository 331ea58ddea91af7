//! What is known of one connection while it lives, how it shall end, and how it ended.
//!
//! Shared by the worker, which counts, and the daemon, which reads. When the worker drops its share
//! the connection is over, lingering bytes included.

use std::sync::Arc;
use std::sync::atomic::Ordering::{Acquire, Relaxed, Release};
use std::sync::atomic::{AtomicBool, AtomicI32, AtomicU64};

use outsock_vmrpc::Errno;

/// Counters of one connection.
#[derive(Debug, Default)]
pub struct ConnectionStats {
    bytes_from_guest: AtomicU64,
    bytes_to_guest: AtomicU64,
    /// The errno of a reset by the far side; 0 = none.
    reset: AtomicI32,
    /// The guest's close is a reset.
    abort_on_close: AtomicBool,
}

impl ConnectionStats {
    /// Payload bytes that the guest sent.
    pub fn bytes_from_guest(&self) -> u64 {
        self.bytes_from_guest.load(Relaxed)
    }

    /// Payload bytes that the guest was given.
    pub fn bytes_to_guest(&self) -> u64 {
        self.bytes_to_guest.load(Relaxed)
    }

    /// Why the far side's end broke, if it did. A guest's kernel cannot say it (an RST on an
    /// established vsock connection reads as an end), so its agent asks here.
    pub fn reset(&self) -> Option<Errno> {
        Errno::new(self.reset.load(Relaxed))
    }

    /// Makes the guest's close a reset that drops what is unsent (SO_LINGER {1, 0}), or a close in
    /// good order again.
    pub fn set_abort_on_close(&self, abort: bool) {
        self.abort_on_close.store(abort, Release);
    }

    pub(crate) fn aborts_on_close(&self) -> bool {
        self.abort_on_close.load(Acquire)
    }

    /// Whether the worker is done with the connection.
    pub fn is_over(self: &Arc<Self>) -> bool {
        Arc::strong_count(self) == 1
    }

    pub(crate) fn count_from_guest(&self, bytes: usize) {
        self.bytes_from_guest.fetch_add(bytes as u64, Relaxed);
    }

    pub(crate) fn count_to_guest(&self, bytes: usize) {
        self.bytes_to_guest.fetch_add(bytes as u64, Relaxed);
    }

    /// The first reason counts.
    pub(crate) fn note_reset(&self, errno: Errno) {
        let _ = self.reset.compare_exchange(0, errno.raw(), Relaxed, Relaxed);
    }
}
