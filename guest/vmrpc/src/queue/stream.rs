//! The stream form: events as frames, held back by credit.
//!
//! in: events from this side's callers, event and credit frames from the other side; out: frames,
//! events. Owner: one [`super::Queue`]. Kept: no more bytes are on their way or waiting at the other
//! side than the queue has; an event that was put in before the queue was open goes first. Bound:
//! the queue's bytes, counted as the ring counts them.

use std::collections::VecDeque;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU32, Ordering};

use super::ring::{self, Placed, RingError};
use super::wait::lock;

#[derive(Debug)]
pub(super) struct Stream {
    bytes: u32,
    /// What may still be sent.
    free: AtomicU32,
    out: Mutex<Out>,
    arrived: Mutex<Arrived>,
}

#[derive(Debug)]
enum Out {
    /// The other side has not opened the queue.
    Waiting(Vec<Vec<u8>>),
    Open,
    /// It is open, in the other form.
    Elsewhere,
}

#[derive(Debug, Default)]
struct Arrived {
    events: VecDeque<Vec<u8>>,
    /// What the events take up, and what was taken out but not given back yet.
    held: u32,
    owed: u32,
}

fn cost(event: &[u8]) -> u32 {
    ring::cost(event.len()).unwrap_or(u32::MAX)
}

impl Stream {
    pub(super) fn new(bytes: u32) -> Self {
        Self {
            bytes,
            free: AtomicU32::new(bytes),
            out: Mutex::new(Out::Waiting(Vec::new())),
            arrived: Mutex::default(),
        }
    }

    pub(super) fn open(&self, mut send: impl FnMut(&[u8]) -> bool) {
        let mut out = lock(&self.out);
        if let Out::Waiting(waiting) = std::mem::replace(&mut *out, Out::Open) {
            for event in waiting {
                send(&event);
            }
        }
    }

    pub(super) fn open_elsewhere<T>(&self, move_over: impl FnOnce(&[Vec<u8>]) -> T) -> T {
        let mut out = lock(&self.out);
        match std::mem::replace(&mut *out, Out::Elsewhere) {
            Out::Waiting(waiting) => move_over(&waiting),
            Out::Open | Out::Elsewhere => move_over(&[]),
        }
    }

    pub(super) fn is_open(&self) -> bool {
        matches!(*lock(&self.out), Out::Open)
    }

    /// `None` when the queue is open in the other form.
    pub(super) fn put(
        &self,
        event: &[u8],
        cost: u32,
        send: impl FnOnce(&[u8]) -> bool,
    ) -> Option<Result<Placed, RingError>> {
        let mut out = lock(&self.out);
        if matches!(*out, Out::Elsewhere) {
            return None;
        }
        let take = |free: u32| free.checked_sub(cost);
        if self.free.fetch_update(Ordering::AcqRel, Ordering::Acquire, take).is_err() {
            return Some(Ok(Placed::Full));
        }
        match &mut *out {
            Out::Waiting(waiting) => waiting.push(event.to_vec()),
            Out::Open => {
                send(event);
            }
            Out::Elsewhere => return None,
        }
        Some(Ok(Placed::Taken { wake: false }))
    }

    pub(super) fn has_room(&self, len: usize) -> bool {
        ring::cost(len).is_some_and(|cost| self.free.load(Ordering::Acquire) >= cost)
    }

    /// The next event, and how much credit to give back now.
    pub(super) fn get(&self) -> (Option<Vec<u8>>, u32) {
        let mut arrived = lock(&self.arrived);
        let Some(event) = arrived.events.pop_front() else { return (None, 0) };
        arrived.owed += cost(&event);
        // Half at a time: an event is at most half a queue, so the other side never waits for more.
        if arrived.owed < self.bytes / 2 {
            return (Some(event), 0);
        }
        let credit = std::mem::take(&mut arrived.owed);
        arrived.held -= credit;
        (Some(event), credit)
    }

    pub(super) fn has_event(&self) -> bool {
        !lock(&self.arrived).events.is_empty()
    }

    pub(super) fn arrived(&self, event: Vec<u8>) -> bool {
        let mut arrived = lock(&self.arrived);
        let held = arrived.held.saturating_add(cost(&event));
        if held > self.bytes {
            return false;
        }
        arrived.held = held;
        arrived.events.push_back(event);
        true
    }

    pub(super) fn credited(&self, bytes: u32) -> bool {
        let add = |free: u32| free.checked_add(bytes).filter(|free| *free <= self.bytes);
        self.free.fetch_update(Ordering::AcqRel, Ordering::Acquire, add).is_ok()
    }

    /// Bytes for this side, bytes for the other.
    pub(super) fn depth_bytes(&self) -> (u32, u32) {
        let arrived = lock(&self.arrived);
        (arrived.held - arrived.owed, self.bytes - self.free.load(Ordering::Relaxed))
    }
}
