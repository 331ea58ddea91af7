//! RX pass: from the host's ends to the driver's buffers.
//!
//! The muxer names the next packet or the next connection to read from. One read fills many chains,
//! each behind its own header; chains that stay empty are left for next time, as if never taken.
//! How many chains a read offers follows what the last one needed, so a ping costs one chain and a
//! stream fills a ring with one system call.

use std::io;

use outsock_core::address::Instant;
use outsock_core::muxer::{ConnectionId, Rx, TurnEnd};
use outsock_core::packet::HEADER_BYTES;
use outsock_vmrpc::Errno;
use vhost_user_backend::{VringMutex, VringT};
use virtio_queue::QueueT;

use crate::chain::{self, Chain, Direction};
use crate::handle::DeviceCounters;
use crate::limits;
use crate::pieces;
use crate::ring::{Ring, RingError, is_live, publish};
use crate::worker::{RX, Worker};

impl Worker {
    /// One pass over the RX ring. Returns whether there was anything.
    pub(crate) fn rx_pass(&mut self, now: Instant, vring: &VringMutex) -> bool {
        let Some(memory) = self.memory.clone() else { return false };
        let mut vring = vring.get_mut();
        if !is_live(&vring) {
            return false;
        }
        self.begin_pass(RX, vring.get_queue().next_avail());
        if !self.muxer.has_rx() {
            return false;
        }
        let mut ring = match Ring::new(vring.get_queue(), &memory) {
            Ok(ring) => ring,
            Err(error) => {
                self.ring_broken(error);
                return false;
            }
        };
        let result = self.fill(now, &mut ring);
        publish(&mut ring, &vring, &self.counters);
        ring.save(vring.get_queue_mut());
        self.end_pass(RX, vring.get_queue().next_avail());
        match result {
            Ok(busy) => busy,
            Err(error) => {
                self.ring_broken(error);
                false
            }
        }
    }

    fn fill(&mut self, now: Instant, ring: &mut Ring<'_>) -> Result<bool, RingError> {
        for turn in 0..limits::RX_PASS_TURNS_MAX {
            if !self.muxer.has_rx() {
                return Ok(turn > 0);
            }
            let Some((head, chain)) = self.take_rx(ring)? else {
                // No buffer: the driver kicks when it has refilled.
                return Ok(turn > 0);
            };
            match self.muxer.next_rx() {
                Some(Rx::Control(header)) => {
                    chain.write_header(&header.encode());
                    ring.push_used(head, HEADER_LEN);
                }
                Some(Rx::Data { id, bytes_max, packets_max }) => {
                    self.offered.clear();
                    self.offered.push((head, chain));
                    self.turn(now, ring, id, bytes_max as usize, packets_max)?;
                }
                None => ring.untake(1),
            }
        }
        Ok(true)
    }

    /// Takes the next usable RX chain; its payload's pieces are in `scratch`. Unusable ones go back
    /// empty.
    pub(crate) fn take_rx(
        &mut self,
        ring: &mut Ring<'_>,
    ) -> Result<Option<(u16, Chain)>, RingError> {
        loop {
            let Some(head) = ring.take()? else {
                if ring.want_kick()? {
                    continue;
                }
                return Ok(None);
            };
            self.scratch.clear();
            match chain::walk(ring, head, Direction::DeviceWrites, &mut self.scratch) {
                Ok(chain) => return Ok(Some((head, chain))),
                Err(error) => {
                    DeviceCounters::add(&self.counters.bad_chains, 1);
                    tracing::trace!(%error, "RX chain dropped");
                    ring.push_used(head, 0);
                }
            }
        }
    }

    /// One connection's turn: one read into as many chains as it is likely to fill.
    fn turn(
        &mut self,
        now: Instant,
        ring: &mut Ring<'_>,
        id: ConnectionId,
        bytes_max: usize,
        packets_max: usize,
    ) -> Result<(), RingError> {
        let Some(end) = self.ends.of(id) else {
            ring.untake(1);
            self.muxer.turn_over(now, id, TurnEnd::Drained);
            return Ok(());
        };
        if end.messages.is_some() {
            self.message_turn(now, ring, id, bytes_max, packets_max)?;
            self.run_actions(now);
            return Ok(());
        }
        let chains_max = end.read_chains.min(packets_max).min(limits::SCATTER_CHAINS_MAX);
        let mut room = self.offered.first().map_or(0, |(_, chain)| chain.payload_len);
        while self.offered.len() < chains_max && room < bytes_max {
            let Some(head) = ring.take()? else { break };
            match chain::walk(ring, head, Direction::DeviceWrites, &mut self.scratch) {
                Ok(chain) => {
                    room += chain.payload_len;
                    self.offered.push((head, chain));
                }
                Err(_) => {
                    // Left for the next turn, which meets it first and gives it back.
                    ring.untake(1);
                    break;
                }
            }
        }
        let room = room.min(bytes_max);
        pieces::truncate(&mut self.scratch, room);
        let result = match end.host.read(&self.scratch) {
            // No chain had room for a byte: not an end.
            Ok(0) if room == 0 => Err(io::ErrorKind::WouldBlock.into()),
            other => other,
        };
        self.read_result(now, ring, id, room, result);
        self.run_actions(now);
        Ok(())
    }

    fn read_result(
        &mut self,
        now: Instant,
        ring: &mut Ring<'_>,
        id: ConnectionId,
        room: usize,
        result: io::Result<usize>,
    ) {
        let offered = self.offered.len();
        let Some(end) = self.ends.of(id) else { return untake(ring, offered) };
        match result {
            Ok(0) => {
                let broken = end.broken;
                untake(ring, offered);
                self.muxer.turn_over(now, id, TurnEnd::Drained);
                // Writing failed before, so this end is not a clean one.
                if broken {
                    self.muxer.host_reset(now, id);
                } else {
                    self.muxer.host_finished(now, id);
                }
            }
            Ok(n) => {
                end.stats.count_to_guest(n);
                let rings_no_more = end.hung_up || end.host.has_news();
                let used = self.hand_over(ring, id, n);
                if let Some(end) = self.ends.of(id) {
                    end.read_chains = if used == offered {
                        (used * 2).min(limits::SCATTER_CHAINS_MAX)
                    } else {
                        (used + 1).max(end.read_chains / 2)
                    };
                }
                // A short read has emptied the socket, and the next byte makes a new event; but an
                // end that was announced before makes none.
                let more = n == room || rings_no_more;
                let end = if more { TurnEnd::More } else { TurnEnd::Drained };
                self.muxer.turn_over(now, id, end);
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                untake(ring, offered);
                self.muxer.turn_over(now, id, TurnEnd::Drained);
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {
                untake(ring, offered);
                self.muxer.turn_over(now, id, TurnEnd::More);
            }
            Err(error) => {
                end.stats.note_reset(Errno::of(&error));
                untake(ring, offered);
                self.muxer.host_reset(now, id);
            }
        }
    }

    /// Puts headers before `n` bytes that were read into the offered chains and gives those to the
    /// driver. Returns how many it needed; the rest is left for another time.
    fn hand_over(&mut self, ring: &mut Ring<'_>, id: ConnectionId, n: usize) -> usize {
        DeviceCounters::add(&self.counters.rx_bytes, n as u64);
        let mut left = n;
        let mut used = 0;
        for (head, chain) in &self.offered {
            if left == 0 {
                break;
            }
            let len = left.min(chain.payload_len);
            let len32 = u32::try_from(len).unwrap_or(u32::MAX);
            used += 1;
            if len == 0 {
                // A chain without room for payload cannot carry data.
                ring.push_used(*head, 0);
                continue;
            }
            if let Some(header) = self.muxer.sent(id, len32) {
                chain.write_header(&header.encode());
            }
            ring.push_used(*head, HEADER_LEN + len32);
            left -= len;
        }
        untake(ring, self.offered.len() - used);
        used
    }
}

#[expect(clippy::cast_possible_truncation, reason = "44")]
pub(crate) const HEADER_LEN: u32 = HEADER_BYTES as u32;

pub(crate) fn untake(ring: &mut Ring<'_>, chains: usize) {
    // At most `SCATTER_CHAINS_MAX`.
    ring.untake(u16::try_from(chains).unwrap_or(0));
}
