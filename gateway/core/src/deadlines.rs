//! Deadlines: which timer is the next. No clock inside.
//!
//! in: moments and what is due then; out: what is due by `now`. Owner: a muxer. An entry is never
//! removed early: whoever gets it checks whether it still means anything. Bound: one entry per
//! parked REQUEST, unused token and blocked connection, each of them bounded itself.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use crate::address::Instant;

/// What is due when.
#[derive(Debug)]
pub struct Deadlines<T: Ord> {
    heap: BinaryHeap<Reverse<(Instant, T)>>,
}

impl<T: Ord> Default for Deadlines<T> {
    fn default() -> Self {
        Self { heap: BinaryHeap::new() }
    }
}

impl<T: Ord> Deadlines<T> {
    /// Remembers that `what` is due at `at`.
    pub fn add(&mut self, at: Instant, what: T) {
        self.heap.push(Reverse((at, what)));
    }

    /// The next moment at which something is due.
    pub fn next(&self) -> Option<Instant> {
        self.heap.peek().map(|Reverse((at, _))| *at)
    }

    /// Takes one thing that is due by `now`.
    pub fn pop_due(&mut self, now: Instant) -> Option<T> {
        if self.next()? > now {
            return None;
        }
        self.heap.pop().map(|Reverse((_, what))| what)
    }
}
