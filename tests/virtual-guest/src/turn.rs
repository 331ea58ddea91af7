//! Turn: what the driver thread does each time it wakes, and until when it may sleep.
//!
//! in: the time, the rings; out: packets moved, timers run, threads woken. Runs on the driver
//! thread, under the guest's lock ([`Stack::reclaim`] also on programs' threads). Kept: a turn
//! that moved something is followed by another before the thread sleeps. Bound: the limits of each
//! part, so that programs get the lock between turns.

use std::cmp::Reverse;
use std::time::Instant;

use outsock_core::packet::Op;

use crate::event::Ready;
use crate::socket::{Failure, State};
use crate::stack::{FIRST_PORT, SocketId, Stack};
use crate::tombstone::EndedBy;

impl Stack {
    pub(crate) fn set_timer(&mut self, index: u32, deadline: Instant) {
        let generation = self.at(index).map_or(0, |socket| socket.generation);
        self.timers.push(Reverse((deadline, index, generation)));
    }

    /// The earliest deadline.
    pub(crate) fn next_deadline(&self) -> Option<Instant> {
        self.timers.peek().map(|Reverse((deadline, ..))| *deadline)
    }

    /// After a reboot ports start from the first again.
    pub(crate) fn restart_ports(&mut self) {
        self.next_port = FIRST_PORT;
        self.room_waiters.clear();
    }

    /// Whether the driver thread, asleep, would miss the next deadline.
    pub(crate) fn oversleeps(&self) -> bool {
        match (self.sleeps_until, self.next_deadline()) {
            (Some(None), Some(_)) => true,
            (Some(Some(until)), Some(deadline)) => deadline < until,
            _ => false,
        }
    }

    pub(crate) fn run_timers(&mut self, now: Instant) {
        while let Some(Reverse((deadline, index, generation))) = self.timers.peek().copied() {
            if deadline > now {
                return;
            }
            self.timers.pop();
            let id = SocketId { index, generation };
            let Some(socket) = self.get(id) else { continue };
            match socket.state {
                State::Connecting { deadline } if deadline <= now => {
                    let key = socket.key;
                    self.driver.retain_waiting(|header| {
                        (header.src_port, header.dst_port) != (key.guest, key.host)
                    });
                    self.fail(index, Failure::TimedOut, EndedBy::Guest);
                }
                State::Closing { deadline } if deadline <= now => {
                    self.send_op(index, Op::Rst, false);
                    self.end(index, EndedBy::Guest);
                }
                State::Connecting { .. }
                | State::Closing { .. }
                | State::Connected
                | State::Done => {}
            }
        }
    }

    /// Takes sent packets back, sends what waited, wakes who waits for room.
    pub(crate) fn reclaim(&mut self) -> bool {
        let count = self.driver.reclaim();
        let flushed = self.driver.flush();
        let mut woken = 0;
        while woken < self.driver.room() {
            let Some(index) = self.room_waiters.pop_front() else { break };
            woken += 1;
            if let Some(socket) = self.at(index) {
                socket.waits_for_room = false;
                self.touch(index, Ready::WRITABLE);
            }
        }
        count > 0 || flushed || woken > 0
    }

    /// One turn of the driver thread; true when something moved.
    pub(crate) fn pass(&mut self, now: Instant) -> bool {
        if self.paused || self.gone.is_some() {
            return false;
        }
        self.driver.disarm();
        let mut progress = self.reclaim();
        progress |= self.receive();
        self.run_timers(now);
        progress |= self.run_jobs();
        self.driver.flush();
        self.driver.kick_tx();
        progress
    }

    /// Before the driver thread sleeps; true when it must not.
    pub(crate) fn arm(&mut self) -> bool {
        if self.paused || self.gone.is_some() {
            return false;
        }
        let waits = !self.room_waiters.is_empty();
        self.driver.arm(waits)
    }
}
