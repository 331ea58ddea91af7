//! TX pass: from the driver's packets to the host's ends.
//!
//! Drains the TX ring. Payloads of consecutive packets of one connection are gathered and go to its
//! end in one call, straight from guest memory; what the end does not take is copied into its
//! bounded buffer, and the guest's credit says so. Every chain taken is given back exactly once:
//! at once when it has no payload to wait for, with its gather otherwise.

use outsock_core::address::Instant;
use outsock_core::muxer::{ConnectionId, Verdict};
use outsock_core::packet::{Header, Op};
use outsock_vmrpc::Errno;
use std::io;
use vhost_user_backend::{VringMutex, VringT};
use virtio_queue::QueueT;

use crate::chain::{self, Direction};
use crate::handle::DeviceCounters;
use crate::limits;
use crate::pieces;
use crate::ring::{Ring, RingError, is_live, publish};
use crate::worker::{TX, Worker};

impl Worker {
    /// One pass over the TX ring. Returns whether there was anything.
    pub(crate) fn tx_pass(&mut self, now: Instant, vring: &VringMutex) -> bool {
        let Some(memory) = self.memory.clone() else { return false };
        let mut vring = vring.get_mut();
        if !is_live(&vring) {
            return false;
        }
        self.begin_pass(TX, vring.get_queue().next_avail());
        let mut ring = match Ring::new(vring.get_queue(), &memory) {
            Ok(ring) => ring,
            Err(error) => {
                self.ring_broken(error);
                return false;
            }
        };
        ring.suppress_kicks();
        let result = self.drain(now, &mut ring);
        self.flush_gather(now, &mut ring);
        publish(&mut ring, &vring, &self.counters);
        ring.save(vring.get_queue_mut());
        self.end_pass(TX, vring.get_queue().next_avail());
        self.publish_counters();
        match result {
            Ok(busy) => busy,
            Err(error) => {
                self.ring_broken(error);
                false
            }
        }
    }

    fn drain(&mut self, now: Instant, ring: &mut Ring<'_>) -> Result<bool, RingError> {
        let mut taken = 0;
        while taken < limits::TX_PASS_CHAINS_MAX {
            let Some(head) = ring.take()? else {
                if ring.want_kick()? {
                    continue;
                }
                break;
            };
            taken += 1;
            self.chain(now, ring, head);
        }
        Ok(taken > 0)
    }

    fn chain(&mut self, now: Instant, ring: &mut Ring<'_>, head: u16) {
        self.scratch.clear();
        let chain = match chain::walk(ring, head, Direction::DeviceReads, &mut self.scratch) {
            Ok(chain) => chain,
            Err(error) => {
                DeviceCounters::add(&self.counters.bad_chains, 1);
                tracing::trace!(%error, "TX chain dropped");
                return ring.push_used(head, 0);
            }
        };
        let parsed = Header::parse(&chain.read_header());
        // Whatever is no RW may act on bytes that are still gathered: those go first.
        if !matches!(parsed, Ok(Header { op: Op::Rw, .. })) {
            self.flush_gather(now, ring);
        }
        let payload_len = u32::try_from(chain.payload_len).unwrap_or(u32::MAX);
        match self.muxer.packet(now, parsed, payload_len) {
            Verdict::Write(id, len) => self.gather(now, ring, head, id, len),
            Verdict::Message(id, len, part) => {
                self.flush_gather(now, ring);
                self.message_part(now, id, len, part);
                ring.push_used(head, 0);
            }
            Verdict::NoPayload => {
                self.flush_gather(now, ring);
                ring.push_used(head, 0);
            }
        }
        self.run_actions(now);
    }

    fn gather(&mut self, now: Instant, ring: &mut Ring<'_>, head: u16, id: ConnectionId, len: u32) {
        let len = len as usize;
        pieces::truncate(&mut self.scratch, len);
        let full = self.gather.bytes + len > limits::GATHER_BYTES_MAX
            || self.gather.pieces.len() + self.scratch.len() > limits::PIECES_MAX;
        if full || self.gather.id != Some(id) {
            self.flush_gather(now, ring);
        }
        self.gather.id = Some(id);
        self.gather.pieces.append(&mut self.scratch);
        self.gather.bytes += len;
        self.gather.heads.push(head);
    }

    fn flush_gather(&mut self, now: Instant, ring: &mut Ring<'_>) {
        let Some(id) = self.gather.id.take() else { return };
        self.write(now, id);
        for head in self.gather.heads.drain(..) {
            ring.push_used(head, 0);
        }
        self.gather.pieces.clear();
        self.gather.bytes = 0;
        self.run_actions(now);
    }

    /// Moves the gathered bytes to the end of `id`.
    fn write(&mut self, now: Instant, id: ConnectionId) {
        let bytes = self.gather.bytes;
        DeviceCounters::add(&self.counters.tx_bytes, bytes as u64);
        let Some(end) = self.ends.of(id) else { return };
        end.stats.count_from_guest(bytes);
        if end.broken {
            return self.muxer.forwarded(id, as_u32(bytes));
        }
        if !end.pending.is_empty() {
            return pieces::take_rest(&self.gather.pieces, 0, &mut end.pending);
        }
        let written = match end.host.write(&self.gather.pieces) {
            Ok(written) => written,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => 0,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => 0,
            Err(error) => {
                end.broken = true;
                end.stats.note_reset(Errno::of(&error));
                self.muxer.forwarded(id, as_u32(bytes));
                return self.far_side_broke(now, id);
            }
        };
        if written < bytes {
            pieces::take_rest(&self.gather.pieces, written, &mut end.pending);
        }
        self.muxer.forwarded(id, as_u32(written));
    }
}

/// A gather is at most one packet over [`limits::GATHER_BYTES_MAX`].
fn as_u32(bytes: usize) -> u32 {
    u32::try_from(bytes).unwrap_or(u32::MAX)
}
