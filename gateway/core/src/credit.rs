//! Credit: how many bytes, and how many packets, may be on the way of one connection.
//!
//! The primer. Each side has a receive buffer of `buf_alloc` bytes and counts in `fwd_cnt` the
//! bytes it has taken out of it; both travel in every header. A sender counts in `tx_cnt` what it
//! has sent, and may send `peer_buf_alloc - (tx_cnt - peer_fwd_cnt)` more. All counters wrap at
//! 2^32. Source: virtio 1.3, 5.10.6.3.
//!
//! Two rules come from Linux, not from the specification. A guest also counts *packets*: each costs
//! it [`limits::PACKET_COST_BYTES`], and one too many resets the connection; so we remember where
//! each packet in flight ended and count those not yet taken. And a guest never asks for credit, so
//! ours is told unasked.
//!
//! in: headers' counters, bytes moved; out: how much may move, whether an update is due.
//! owner: one connection. Keeps: bytes in flight to the guest <= its `buf_alloc`, bytes in flight
//! from it <= ours, whatever the guest claims.

use std::collections::VecDeque;

use crate::limits;

/// Bytes on the way from guest to host.
#[derive(Debug)]
pub struct FromGuest {
    /// What we advertise.
    buf_alloc: u32,
    /// Bytes that the guest has sent.
    received: u32,
    /// Bytes that the far side has taken.
    fwd_cnt: u32,
    /// The `fwd_cnt` that the guest knows.
    told: u32,
}

/// The guest sent more than it had credit for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the guest sent {over} bytes more than its credit")]
pub struct Overrun {
    over: u32,
}

impl FromGuest {
    /// A fresh connection that advertises `buf_alloc` bytes.
    pub fn new(buf_alloc: u32) -> Self {
        Self { buf_alloc, received: 0, fwd_cnt: 0, told: 0 }
    }

    /// What we advertise.
    pub fn buf_alloc(&self) -> u32 {
        self.buf_alloc
    }

    /// Bytes received that the far side has not taken yet.
    pub fn buffered(&self) -> u32 {
        self.received.wrapping_sub(self.fwd_cnt)
    }

    /// The guest sent `len` bytes.
    pub fn receive(&mut self, len: u32) -> Result<(), Overrun> {
        // `buffered` never exceeds `buf_alloc`, so the subtraction cannot wrap.
        let free = self.buf_alloc - self.buffered();
        if len > free {
            return Err(Overrun { over: len - free });
        }
        self.received = self.received.wrapping_add(len);
        Ok(())
    }

    /// The far side took `len` bytes, at most what is buffered.
    pub fn forward(&mut self, len: u32) {
        debug_assert!(len <= self.buffered(), "forwarded more than was received");
        self.fwd_cnt = self.fwd_cnt.wrapping_add(len.min(self.buffered()));
    }

    /// The counter for a header; the guest knows it from now on.
    pub fn tell(&mut self) -> u32 {
        self.told = self.fwd_cnt;
        self.fwd_cnt
    }

    /// Whether the guest must be told now. Its window is the smaller of our `buf_alloc` and its own
    /// (CVE-2026-23086), and it never asks: telling at a quarter of that window leaves it room to
    /// send while the news is on its way.
    pub fn update_due(&self, guest_buf_alloc: u32) -> bool {
        let window = self.buf_alloc.min(guest_buf_alloc);
        self.has_news() && self.fwd_cnt.wrapping_sub(self.told) >= window / 4
    }

    /// Whether there is anything to tell.
    pub fn has_news(&self) -> bool {
        self.fwd_cnt != self.told
    }
}

/// Bytes and packets on the way from host to guest.
#[derive(Debug)]
pub struct ToGuest {
    peer_buf_alloc: u32,
    peer_fwd_cnt: u32,
    tx_cnt: u32,
    /// `tx_cnt` after each packet that the guest may not have taken yet.
    packet_ends: VecDeque<u32>,
}

impl ToGuest {
    /// A fresh connection: nothing may be sent before the guest has told its buffer.
    pub fn new(peer_buf_alloc: u32) -> Self {
        Self { peer_buf_alloc, peer_fwd_cnt: 0, tx_cnt: 0, packet_ends: VecDeque::new() }
    }

    /// The guest's receive buffer, bytes.
    pub fn peer_buf_alloc(&self) -> u32 {
        self.peer_buf_alloc
    }

    /// Bytes that the guest's program has not read, as far as the guest has told. A packet counts until
    /// its last byte is read.
    pub fn in_flight(&self) -> u32 {
        self.tx_cnt.wrapping_sub(self.peer_fwd_cnt)
    }

    /// Bytes that may be sent now. Zero while only a sliver is free: the guest tells more by itself
    /// once it has read most of what is in flight.
    pub fn bytes_free(&self) -> u32 {
        let free = self.peer_buf_alloc.saturating_sub(self.in_flight());
        let worthwhile = limits::CREDIT_WORTHWHILE_BYTES.min(self.peer_buf_alloc / 2);
        if free < worthwhile { 0 } else { free }
    }

    /// Packets that may be sent now.
    pub fn packets_free(&self) -> usize {
        self.packets_max().saturating_sub(self.packet_ends.len())
    }

    /// Whether so many packets are in flight that the guest should be asked which it has taken: it
    /// tells bytes by itself, but only when they run short.
    pub fn packets_run_short(&self) -> bool {
        self.packet_ends.len() >= self.packets_max().div_ceil(2)
    }

    fn packets_max(&self) -> usize {
        // One below the guest's own limit, and never zero: a guest with a tiny buffer is old.
        let allowed = self.peer_buf_alloc / limits::PACKET_COST_BYTES;
        (allowed.saturating_sub(1).max(1) as usize).min(limits::PACKETS_IN_FLIGHT_MAX)
    }

    /// Takes the counters of a header from the guest. Counters that go backwards are older news
    /// (two threads of the guest queue packets), ones that run ahead are lies: both are ignored.
    /// Returns whether there is anything new.
    pub fn learn(&mut self, buf_alloc: u32, fwd_cnt: u32) -> bool {
        let mut news = buf_alloc != self.peer_buf_alloc;
        self.peer_buf_alloc = buf_alloc;
        let taken = fwd_cnt.wrapping_sub(self.peer_fwd_cnt);
        if taken == 0 || taken > self.in_flight() {
            return news;
        }
        news = true;
        self.peer_fwd_cnt = fwd_cnt;
        let in_flight = self.in_flight();
        while let Some(&end) = self.packet_ends.front() {
            let not_taken = end.wrapping_sub(fwd_cnt);
            if not_taken > 0 && not_taken <= in_flight {
                break;
            }
            self.packet_ends.pop_front();
        }
        if self.packet_ends.is_empty() && self.packet_ends.capacity() > 64 {
            self.packet_ends = VecDeque::new();
        }
        news
    }

    /// One packet of `len` bytes (more than none) goes to the guest.
    pub fn send(&mut self, len: u32) {
        debug_assert!(len <= self.bytes_free());
        self.send_reserved(len);
    }

    /// The same for a part of a message, for all of which [`Self::bytes_free`] was enough.
    pub fn send_reserved(&mut self, len: u32) {
        debug_assert!(self.packets_free() > 0);
        self.tx_cnt = self.tx_cnt.wrapping_add(len);
        self.packet_ends.push_back(self.tx_cnt);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn an_overrun_is_an_error_and_changes_nothing() {
        let mut credit = FromGuest::new(1000);
        credit.receive(600).unwrap();
        assert_eq!(credit.receive(401), Err(Overrun { over: 1 }));
        credit.receive(400).unwrap();
        assert_eq!(credit.buffered(), 1000);
    }

    #[test]
    fn updates_come_at_a_quarter_of_the_smaller_window() {
        let mut credit = FromGuest::new(4000);
        credit.receive(1500).unwrap();
        credit.forward(499);
        assert!(!credit.update_due(2000));
        credit.forward(1);
        assert!(credit.update_due(2000));
        assert!(!credit.update_due(1 << 20));
        assert_eq!(credit.tell(), 500);
        assert!(!credit.update_due(2000));
    }

    #[test]
    fn small_packets_are_limited_by_number() {
        let mut credit = ToGuest::new(256 * 1024);
        let mut sent = 0;
        while credit.packets_free() > 0 {
            credit.send(1);
            sent += 1;
        }
        assert!((sent + 1) * limits::PACKET_COST_BYTES <= 256 * 1024);
        assert!(sent > 300);
        assert!(credit.packets_run_short());
        assert!(credit.learn(256 * 1024, 10));
        assert_eq!(credit.packets_free(), 10);
    }

    #[test]
    fn nonsense_counters_are_ignored() {
        let mut credit = ToGuest::new(1000);
        credit.send(100);
        assert!(!credit.learn(1000, 101));
        assert!(!credit.learn(1000, u32::MAX));
        assert!(credit.learn(1000, 60));
        assert!(!credit.learn(1000, 50));
        assert_eq!(credit.bytes_free(), 960);
        credit.send(470);
        assert_eq!(credit.bytes_free(), 0, "490 of 1000 are not worth a packet");
        assert!(credit.learn(1000, 110));
        assert!(credit.learn(10, 60));
        assert_eq!(credit.bytes_free(), 0);
    }

    proptest! {
        /// Against a model with counters that do not wrap, over more than 2^32 bytes.
        #[test]
        fn counters_wrap(moves in proptest::collection::vec((1u32..1 << 20, 0u32..1 << 20), 1..200)) {
            let start = u32::MAX - 100_000;
            let mut credit = ToGuest::new(1 << 20);
            credit.tx_cnt = start;
            credit.peer_fwd_cnt = start;
            let (mut sent, mut taken) = (0u64, 0u64);
            for (send, take) in moves {
                let len = send.min(credit.bytes_free());
                if len > 0 && credit.packets_free() > 0 {
                    credit.send(len);
                    sent += u64::from(len);
                }
                taken = (taken + u64::from(take)).min(sent);
                let fwd_cnt = start.wrapping_add(u32::try_from(taken & 0xffff_ffff).unwrap());
                credit.learn(1 << 20, fwd_cnt);
                prop_assert_eq!(u64::from(credit.in_flight()), sent - taken);
                if sent == taken {
                    prop_assert!(credit.packet_ends.is_empty());
                }
            }
        }
    }
}
