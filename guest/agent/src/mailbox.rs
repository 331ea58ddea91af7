//! Mailbox: how other threads tell a loop something.
//!
//! in: events from the VM RPC reader thread and the reconnecting thread; out: all of them at once,
//! to the one loop that a counter in its epoll set wakes. Kept: posting never blocks, also not from
//! the loop itself. Bound: one event per call in flight
//! (`outsock_vmrpc::limits::CALLS_IN_FLIGHT_MAX`) and one per attempt to reach the gateway.

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::{Arc, Mutex, PoisonError};

use crate::gateway::Event;
use crate::sys;

/// Clones share one mailbox.
#[derive(Debug)]
pub(crate) struct Mailbox<E = Event> {
    events: Arc<Mutex<Vec<E>>>,
    counter: Arc<File>,
}

impl<E> Clone for Mailbox<E> {
    fn clone(&self) -> Self {
        Self { events: Arc::clone(&self.events), counter: Arc::clone(&self.counter) }
    }
}

impl<E> Mailbox<E> {
    pub(crate) fn new() -> io::Result<Self> {
        let counter = Arc::new(File::from(sys::poll::event_counter()?));
        Ok(Self { events: Arc::default(), counter })
    }

    pub(crate) fn post(&self, event: E) {
        self.events.lock().unwrap_or_else(PoisonError::into_inner).push(event);
        // Fails only when the counter is full, and then the loop is awake anyway.
        let _ = (&*self.counter).write(&1u64.to_ne_bytes());
    }

    pub(crate) fn take_all(&self) -> Vec<E> {
        // Fails only when the counter is zero, and then there is nothing to reset.
        let _ = (&*self.counter).read(&mut [0u8; 8]);
        std::mem::take(&mut *self.events.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl<E> AsFd for Mailbox<E> {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.counter.as_fd()
    }
}
