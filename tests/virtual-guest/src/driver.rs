//! Driver: packets on the rings.
//!
//! in: headers and payload from the sockets, used entries from the device; out: packets for the
//! sockets, kicks for the device. Owned by whoever holds the guest's lock. Kept: control packets
//! wait in order when the TX ring is full, and no data overtakes them; RX stops while too many of
//! our own replies wait, as in Linux; RX buffers are refilled when fewer than half are left. Bound:
//! data never waits here (the writer does); replies: the RX ring's size; other control packets: a
//! few per connection. Source: Linux `net/vmw_vsock/virtio_transport.c`.

use std::collections::VecDeque;

use outsock_core::packet::{HEADER_BYTES, Header};
use vmm_sys_util::eventfd::EventFd;

use crate::buffer::{Payload, RxSlot, descriptor, scatter};
use crate::layout::{Piece, TX_SLOT_BYTES, TxLayout};
use crate::limits;
use crate::memory::{GuestMemory, MemoryError, Place};
use crate::options::{Options, TxInterrupts};
use crate::ring::{DESC_WRITE, Descriptor, Ring, RingPlaces};
use crate::stats::Stats;
use crate::violation::{ViolationKind, Violations};

/// RX queue's index.
pub const RX: usize = 0;
/// TX queue's index.
pub const TX: usize = 1;
/// Event queue's index.
pub const EVENT: usize = 2;

/// A packet that the device delivered. Its buffer is ours until [`Driver::release`].
#[derive(Clone, Copy, Debug)]
pub(crate) struct RxPacket {
    pub slot: u32,
    pub used: u32,
    pub header: Header,
}

/// The driver's rings and buffers.
#[derive(Debug)]
pub(crate) struct Driver {
    pub(crate) memory: GuestMemory,
    pub(crate) violations: Violations,
    pub(crate) stats: Stats,
    rx: Ring,
    tx: Ring,
    event: Option<(Ring, Vec<Place>)>,
    kicks: Vec<EventFd>,
    rx_slots: Vec<RxSlot>,
    rx_free: Vec<u32>,
    rx_chain_len: usize,
    rx_posted: usize,
    rx_posted_max: usize,
    tx_slots: Vec<Place>,
    tx_free: Vec<u32>,
    tx_layout: TxLayout,
    tx_chain_len_max: usize,
    waiting: VecDeque<(Header, bool)>,
    replies_waiting: usize,
    interrupts: TxInterrupts,
    canaries: bool,
    pieces: Vec<Piece>,
    chain: Vec<Descriptor>,
}

impl Driver {
    /// Bytes of guest memory that a guest of these options needs.
    pub(crate) fn memory_bytes(options: &Options) -> usize {
        let ring = usize::from(options.ring_size);
        let slots = ring * (TX_SLOT_BYTES + options.layout.rx.slot_bytes());
        // Rings, event buffers and rounding: generous, untouched pages cost nothing.
        slots + 4 * ring * 32 + (64 << 10) + limits::SCRATCH_BYTES + options.regions * (128 << 10)
    }

    /// Takes memory for rings and buffers. Nothing is made available yet.
    pub(crate) fn new(
        mut memory: GuestMemory,
        options: &Options,
        event_idx: bool,
        indirect: bool,
        kicks: Vec<EventFd>,
    ) -> Result<Self, MemoryError> {
        let size = options.ring_size;
        let rx = RingPlaces::allocate(&mut memory, size)?;
        let tx = RingPlaces::allocate(&mut memory, size)?;
        let event = if options.queues > EVENT {
            let ring = Ring::new(RingPlaces::allocate(&mut memory, size)?, event_idx, indirect);
            let page = memory.allocate(usize::from(limits::EVENT_BUFFERS) * 64)?;
            let buffers =
                (0..usize::from(limits::EVENT_BUFFERS)).map(|n| page.plus(n * 64)).collect();
            Some((ring, buffers))
        } else {
            None
        };
        let rx_slots = (0..usize::from(size))
            .map(|index| RxSlot::allocate(&mut memory, options, index))
            .collect::<Result<Vec<_>, _>>()?;
        let tx_slots =
            (0..size).map(|_| memory.allocate(TX_SLOT_BYTES)).collect::<Result<Vec<_>, _>>()?;
        Ok(Self {
            memory,
            violations: Violations::default(),
            stats: Stats::default(),
            rx: Ring::new(rx, event_idx, indirect),
            tx: Ring::new(tx, event_idx, indirect),
            event,
            kicks,
            rx_free: (0..u32::from(size)).rev().collect(),
            rx_chain_len: options.layout.rx.descriptors.len(),
            rx_slots,
            rx_posted: 0,
            rx_posted_max: 0,
            tx_slots,
            tx_free: (0..u32::from(size)).rev().collect(),
            tx_layout: options.layout.tx,
            tx_chain_len_max: options.layout.tx.descriptors_max(),
            waiting: VecDeque::new(),
            replies_waiting: 0,
            interrupts: options.tx_interrupts,
            canaries: options.canaries,
            pieces: Vec::with_capacity(limits::CHAIN_DESCRIPTORS_MAX),
            chain: Vec::with_capacity(limits::CHAIN_DESCRIPTORS_MAX),
        })
    }

    /// Where each queue's ring lies.
    pub(crate) fn places(&self) -> Vec<RingPlaces> {
        let event = self.event.as_ref().map(|(ring, _)| *ring.places());
        [*self.rx.places(), *self.tx.places()].into_iter().chain(event).collect()
    }

    /// Fills the RX and event rings; call after the backend started them.
    pub(crate) fn start(&mut self) {
        self.fill_rx();
        if let Some((ring, buffers)) = &mut self.event {
            for (token, place) in (0u32..).zip(buffers.iter()) {
                add_event_buffer(ring, &self.memory, *place, token);
            }
            ring.publish(&self.memory);
            if ring.needs_kick(&self.memory) {
                kick(&self.kicks[EVENT]);
            }
        }
    }

    /// Kicks every queue: a backend that starts in the middle has to look.
    pub(crate) fn kick_all(&self) {
        self.kicks.iter().for_each(kick);
    }

    /// Avail indices as the device sees them.
    pub(crate) fn avail_indices(&self) -> Vec<u16> {
        self.places().iter().map(|places| self.memory.load_u16(places.avail_index())).collect()
    }

    // === TX ===

    /// Whether a data packet can go on the ring now: there is room, and no control packet waits.
    #[inline]
    pub(crate) fn can_send(&self) -> bool {
        self.waiting.is_empty() && self.has_room()
    }

    #[inline]
    fn has_room(&self) -> bool {
        !self.tx_free.is_empty() && self.tx.fits(self.tx_chain_len_max)
    }

    /// Data packets that may fit on the ring now.
    pub(crate) fn room(&self) -> usize {
        if self.can_send() { self.tx_free.len() } else { 0 }
    }

    /// Puts a data packet on the ring. Only after [`Self::can_send`].
    #[inline]
    pub(crate) fn send_data(&mut self, header: &Header, payload: Payload<'_>) {
        self.stats.tx_bytes += payload.len() as u64;
        self.put(header, payload);
    }

    /// Sends a control packet, at once or when there is room. A reply is one that the other side's
    /// packet has caused.
    pub(crate) fn send_control(&mut self, header: Header, reply: bool) {
        if !self.can_send() {
            self.replies_waiting += usize::from(reply);
            self.waiting.push_back((header, reply));
        } else {
            self.put(&header, Payload::InPlace(0));
        }
    }

    /// Puts waiting control packets on the ring, as many as fit.
    pub(crate) fn flush(&mut self) -> bool {
        let before = self.waiting.len();
        while self.has_room() {
            let Some((header, reply)) = self.waiting.pop_front() else { break };
            self.replies_waiting -= usize::from(reply);
            self.put(&header, Payload::InPlace(0));
        }
        self.waiting.len() < before
    }

    /// Drops waiting control packets that `keep` does not want (Linux cancels the packets of a
    /// connect that timed out).
    pub(crate) fn retain_waiting(&mut self, keep: impl Fn(&Header) -> bool) {
        let replies = &mut self.replies_waiting;
        self.waiting.retain(|(header, reply)| {
            let kept = keep(header);
            *replies -= usize::from(!kept && *reply);
            kept
        });
    }

    fn put(&mut self, header: &Header, payload: Payload<'_>) {
        let Some(slot) = self.tx_free.pop() else { return };
        let index = slot as usize;
        let place = self.tx_slots[index];
        self.tx_layout.pieces(index, payload.len(), &mut self.pieces);
        scatter(&self.memory, place, &self.pieces, &header.encode(), payload);
        self.chain.clear();
        self.chain.extend(self.pieces.iter().map(|piece| descriptor(place, *piece, 0)));
        self.tx.add(&self.memory, &self.chain, place, slot);
        self.tx.publish(&self.memory);
        self.stats.tx_packets += 1;
    }

    /// Takes sent packets back from the device.
    #[inline]
    pub(crate) fn reclaim(&mut self) -> usize {
        let mut count = 0;
        while let Some(used) = self.tx.pop_used(&self.memory) {
            match used {
                Ok(used) => self.tx_free.push(used.token),
                Err(kind) => {
                    if let ViolationKind::UsedLenBeyondBuffer { token, .. } = kind {
                        self.tx_free.push(token);
                    }
                    self.violations.add(None, kind);
                }
            }
            count += 1;
        }
        count
    }

    /// Kicks the TX queue if the device sleeps.
    #[inline]
    pub(crate) fn kick_tx(&mut self) {
        if self.tx.needs_kick(&self.memory) {
            kick(&self.kicks[TX]);
            self.stats.tx_kicks += 1;
        }
    }

    // === RX ===

    /// Whether RX may go on: Linux stops it while a ringful of replies waits.
    fn replies_allow_rx(&self) -> bool {
        self.replies_waiting < usize::from(self.rx.places().size)
    }

    /// Takes the next packet. Buffers with nonsense in them are recorded and skipped.
    #[inline]
    pub(crate) fn next_rx(&mut self) -> Option<RxPacket> {
        loop {
            if !self.replies_allow_rx() {
                self.stats.rx_stops += u64::from(self.rx.has_used(&self.memory));
                return None;
            }
            match self.rx.pop_used(&self.memory)? {
                Ok(used) => {
                    self.rx_posted -= 1;
                    match self.parse(used.token, used.len) {
                        Ok(packet) => return Some(packet),
                        Err(kind) => {
                            self.release(used.token);
                            self.violations.add(None, kind);
                        }
                    }
                }
                Err(kind) => {
                    if let ViolationKind::UsedLenBeyondBuffer { token, .. } = kind {
                        self.rx_posted -= 1;
                        self.release(token);
                    }
                    self.violations.add(None, kind);
                }
            }
        }
    }

    fn parse(&mut self, slot: u32, used: u32) -> Result<RxPacket, ViolationKind> {
        if self.canaries {
            self.rx_slots[slot as usize].check_canaries(&self.memory)?;
        }
        if (used as usize) < HEADER_BYTES {
            return Err(ViolationKind::NoHeader { len: used });
        }
        let mut bytes = [0; HEADER_BYTES];
        self.copy_out(slot, 0, &mut bytes);
        let header =
            Header::parse(&bytes).map_err(|bad| ViolationKind::BadHeader(bad.error.to_string()))?;
        self.stats.rx_packets += 1;
        self.stats.rx_bytes += u64::from(header.len);
        Ok(RxPacket { slot, used, header })
    }

    /// Copies bytes of a received packet, from `skip` bytes behind its start.
    #[inline]
    pub(crate) fn copy_out(&self, slot: u32, skip: usize, to: &mut [u8]) {
        self.rx_slots[slot as usize].copy_out(&self.memory, skip, to);
    }

    /// Gives a packet's buffer back; it is made available again by [`Self::refill`].
    #[inline]
    pub(crate) fn release(&mut self, slot: u32) {
        self.rx_free.push(slot);
    }

    /// Refills the RX ring if fewer than half of its buffers are left, as Linux.
    pub(crate) fn refill(&mut self) {
        if self.rx_posted < self.rx_posted_max / 2 {
            self.fill_rx();
        }
    }

    fn fill_rx(&mut self) {
        while self.rx.fits(self.rx_chain_len) {
            let Some(slot) = self.rx_free.pop() else { break };
            let buffer = &self.rx_slots[slot as usize];
            self.rx.add(&self.memory, &buffer.chain, buffer.place, slot);
            self.rx_posted += 1;
        }
        self.rx_posted_max = self.rx_posted_max.max(self.rx_posted);
        self.rx.publish(&self.memory);
        if self.rx.needs_kick(&self.memory) {
            kick(&self.kicks[RX]);
            self.stats.rx_kicks += 1;
        }
    }

    // === events and interrupts ===

    /// Takes the next event.
    pub(crate) fn next_event(&mut self) -> Option<u32> {
        let (ring, buffers) = self.event.as_mut()?;
        let used = match ring.pop_used(&self.memory)? {
            Ok(used) => used,
            Err(kind) => {
                self.violations.add(None, kind);
                return None;
            }
        };
        let place = buffers[used.token as usize];
        let mut id = [0; 4];
        self.memory.read(place.offset, &mut id);
        add_event_buffer(ring, &self.memory, place, used.token);
        ring.publish(&self.memory);
        if ring.needs_kick(&self.memory) {
            kick(&self.kicks[EVENT]);
        }
        Some(u32::from_le_bytes(id))
    }

    /// Asks for interrupts before the driver sleeps; true when there is work already.
    pub(crate) fn arm(&mut self, somebody_waits_for_tx: bool) -> bool {
        let tx_wanted = somebody_waits_for_tx
            || !self.waiting.is_empty()
            || self.interrupts == TxInterrupts::Always;
        let mut work = self.replies_allow_rx() && self.rx.enable_interrupts(&self.memory);
        work |= tx_wanted && self.tx.enable_interrupts(&self.memory);
        if let Some((ring, _)) = &mut self.event {
            work |= ring.enable_interrupts(&self.memory);
        }
        work
    }

    /// Asks for a TX interrupt; true when there is something to reclaim already.
    pub(crate) fn arm_tx(&mut self) -> bool {
        self.tx.enable_interrupts(&self.memory)
    }

    /// Says that the driver is awake.
    pub(crate) fn disarm(&mut self) {
        self.rx.disable_interrupts(&self.memory);
        self.tx.disable_interrupts(&self.memory);
    }

    /// Chains that the device holds, by queue.
    pub(crate) fn outstanding(&self) -> Vec<u16> {
        let event = self.event.as_ref().map(|(ring, _)| ring.outstanding());
        [self.rx.outstanding(), self.tx.outstanding()].into_iter().chain(event).collect()
    }
}

fn add_event_buffer(ring: &mut Ring, memory: &GuestMemory, place: Place, token: u32) {
    let buffer =
        Descriptor { address: place.address, len: limits::EVENT_BYTES, flags: DESC_WRITE, next: 0 };
    ring.add(memory, &[buffer], place, token);
}

/// Writes to a kick eventfd.
pub(crate) fn kick(event: &EventFd) {
    // Fails only when the counter is full, and then the other side is awake already.
    let _ = event.write(1);
}
