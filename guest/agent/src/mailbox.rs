//! Mailbox: how other threads tell the supervisor's loop something.
//!
//! in: [`Event`]s from the VM RPC reader thread and the reconnecting thread; out: all of them at
//! once, to the supervisor's loop, which a counter in its epoll set wakes. Kept: posting never
//! blocks, also not from the loop itself. Bound: one event per call in flight
//! (`outsock_vmrpc::limits::CALLS_IN_FLIGHT_MAX`) and one per attempt to reach the gateway.

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::{Arc, Mutex, PoisonError};

use crate::gateway::Event;
use crate::sys;

/// Clones share one mailbox.
#[derive(Clone, Debug)]
pub(crate) struct Mailbox {
    events: Arc<Mutex<Vec<Event>>>,
    counter: Arc<File>,
}

impl Mailbox {
    pub(crate) fn new() -> io::Result<Self> {
        let counter = Arc::new(File::from(sys::poll::event_counter()?));
        Ok(Self { events: Arc::default(), counter })
    }

    pub(crate) fn post(&self, event: Event) {
        self.events.lock().unwrap_or_else(PoisonError::into_inner).push(event);
        // Fails only when the counter is full, and then the loop is awake anyway.
        let _ = (&*self.counter).write(&1u64.to_ne_bytes());
    }

    pub(crate) fn take_all(&self) -> Vec<Event> {
        // Fails only when the counter is zero, and then there is nothing to reset.
        let _ = (&*self.counter).read(&mut [0u8; 8]);
        std::mem::take(&mut *self.events.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl AsFd for Mailbox {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.counter.as_fd()
    }
}
