//! Door: the queue between those who dial an address and the one who listens there.
//!
//! in:  connections of dials
//! out: the same, in order, to the listener
//! owner: the path and the listener share it
//! keeps: a dial or an accept that is given up changes nothing; a closed door resets what waits
//! bound: `ACCEPT_BACKLOG_MAX` connections; further dials wait for room, as a SYN is repeated

use std::collections::VecDeque;
use std::pin::pin;
use std::sync::{Mutex, MutexGuard, PoisonError};

use outsock_transport::limits::ACCEPT_BACKLOG_MAX;
use outsock_transport::{DialError, Dialed, Inbound};
use tokio::sync::Notify;

#[derive(Debug, Default)]
pub(crate) struct Door {
    state: Mutex<State>,
    arrived: Notify,
    room: Notify,
}

#[derive(Debug, Default)]
struct State {
    waiting: VecDeque<Inbound>,
    closed: bool,
}

impl Door {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits for room and only then makes the connection, so that a dial that is dropped before
    /// has made none.
    pub(crate) async fn enter(
        &self,
        connect: impl FnOnce() -> (Dialed, Inbound),
    ) -> Result<Dialed, DialError> {
        loop {
            let mut room = pin!(self.room.notified());
            room.as_mut().enable();
            {
                let mut state = self.lock();
                if state.closed {
                    return Err(DialError::Refused);
                }
                if state.waiting.len() < ACCEPT_BACKLOG_MAX as usize {
                    let (dialed, inbound) = connect();
                    state.waiting.push_back(inbound);
                    self.arrived.notify_one();
                    return Ok(dialed);
                }
            }
            room.await;
        }
    }

    /// The next connection; `None` when the door is closed.
    pub(crate) async fn next(&self) -> Option<Inbound> {
        loop {
            let mut arrived = pin!(self.arrived.notified());
            arrived.as_mut().enable();
            {
                let mut state = self.lock();
                if let Some(inbound) = state.waiting.pop_front() {
                    self.room.notify_one();
                    return Some(inbound);
                }
                if state.closed {
                    return None;
                }
            }
            arrived.await;
        }
    }

    pub(crate) fn close(&self) {
        let waiting = {
            let mut state = self.lock();
            state.closed = true;
            std::mem::take(&mut state.waiting)
        };
        // Unfinished streams: their dialers see a reset.
        drop(waiting);
        self.room.notify_waiters();
        // One listener at most waits; the permit stays for an accept that comes later.
        self.arrived.notify_one();
    }
}
