//! Raw: a guest that does what it wants with its rings, for hostile tests and fuzzing.
//!
//! in: descriptors, indices and bytes, right or wrong; out: what the device returned. One thread,
//! no driver behind it. Kept: only our own memory is written, whatever addresses the descriptors
//! name; what was made available and what came back is counted. Bound: one ring's worth of chains
//! per queue; each wait has a timeout.

use std::collections::{HashMap, VecDeque};
use std::os::fd::AsRawFd;
use std::path::Path;
use std::time::{Duration, Instant};

use outsock_core::address::Cid;
use outsock_core::packet::{HEADER_BYTES, Header};
use vmm_sys_util::epoll::{ControlOperation, Epoll, EpollEvent, EventSet};
use vmm_sys_util::eventfd::EventFd;

use crate::driver::{RX, TX, kick};
use crate::frontend::Frontend;
use crate::guest::{GuestError, event_fds};
use crate::limits;
use crate::memory::{GuestMemory, Place};
use crate::options::Options;
use crate::ring::{DESC_NEXT, DESC_WRITE, DESCRIPTOR_BYTES, Descriptor, RingPlaces};

/// Bytes that each chain of [`RawGuest::send`] and [`RawGuest::post_rx`] may use: one of the
/// largest packets.
const SLOT_BYTES: usize = HEADER_BYTES + limits::PACKET_PAYLOAD_BYTES_MAX;

/// Slots in the arena that packets and RX buffers come from, in turn.
const SLOTS: usize = 512;

/// A used entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct UsedElement {
    /// The chain's head, as the device says.
    pub id: u32,
    /// Bytes written, as the device says.
    pub len: u32,
}

/// What a queue was given and gave back.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Heads put into the avail ring with [`RawGuest::push_avail`] and everything above it.
    pub made_available: u64,
    /// Used entries.
    pub returned: u64,
    /// Used entries for heads that were not out: made up, or returned twice.
    pub unasked: u64,
}

impl Counts {
    /// Chains that are still with the device.
    pub fn outstanding(self) -> u64 {
        self.made_available.saturating_sub(self.returned - self.unasked)
    }
}

#[derive(Debug)]
struct RawRing {
    places: RingPlaces,
    avail: u16,
    next_descriptor: u16,
    last_used: u16,
    out: HashMap<u32, u32>,
    counts: Counts,
}

/// A guest without a driver.
#[derive(Debug)]
pub struct RawGuest {
    frontend: Frontend,
    memory: GuestMemory,
    rings: Vec<RawRing>,
    kicks: Vec<EventFd>,
    calls: Vec<EventFd>,
    epoll: Epoll,
    scratch: Place,
    slots: Vec<Place>,
    next_slot: usize,
    rx_buffers: HashMap<u32, (Place, usize)>,
    received: VecDeque<Vec<u8>>,
    cid: Cid,
}

impl RawGuest {
    /// Connects and starts empty rings.
    pub fn connect(path: impl AsRef<Path>, options: &Options) -> Result<Self, GuestError> {
        let mut frontend = Frontend::connect(path.as_ref(), options)?;
        let cid = match options.cid {
            Some(cid) => cid,
            None => frontend.cid()?,
        };
        let slot = SLOT_BYTES.next_multiple_of(4096);
        let bytes = limits::SCRATCH_BYTES + SLOTS * slot + options.regions * (512 << 10);
        let mut memory = GuestMemory::new(bytes, options.regions)?;
        let scratch = memory.allocate(limits::SCRATCH_BYTES / 4)?;
        let (kicks, calls) = (event_fds(options.queues)?, event_fds(options.queues)?);
        let rings = (0..options.queues)
            .map(|_| RingPlaces::allocate(&mut memory, options.ring_size).map(RawRing::new))
            .collect::<Result<Vec<_>, _>>()?;
        let slots = (0..SLOTS).map(|_| memory.allocate(slot)).collect::<Result<Vec<_>, _>>()?;
        frontend.set_memory(&memory.table())?;
        let epoll = Epoll::new()?;
        for (queue, ring) in rings.iter().enumerate() {
            frontend.start_ring(queue, &ring.places, 0, &kicks[queue], &calls[queue])?;
            let event = EpollEvent::new(EventSet::IN | EventSet::EDGE_TRIGGERED, queue as u64);
            epoll.ctl(ControlOperation::Add, calls[queue].as_raw_fd(), event)?;
        }
        Ok(Self {
            frontend,
            memory,
            rings,
            kicks,
            calls,
            epoll,
            scratch,
            slots,
            next_slot: 0,
            rx_buffers: HashMap::new(),
            received: VecDeque::new(),
            cid,
        })
    }

    /// Our CID.
    pub fn cid(&self) -> Cid {
        self.cid
    }

    /// Queues that the device has.
    pub fn queues(&self) -> usize {
        self.rings.len()
    }

    /// Guest memory that nothing else uses: 256 KiB.
    pub fn scratch(&self) -> Place {
        self.scratch
    }

    /// Where a queue's parts lie, for descriptors that point at the rings themselves.
    pub fn places(&self, queue: usize) -> RingPlaces {
        self.rings[queue].places
    }

    /// Writes guest memory; false when the range is not all in one region.
    pub fn write(&self, address: u64, bytes: &[u8]) -> bool {
        let offset = self.memory.offset_of(address, bytes.len());
        offset.inspect(|offset| self.memory.write(*offset, bytes)).is_some()
    }

    /// Reads guest memory; `None` when the range is not all in one region.
    pub fn read(&self, address: u64, len: usize) -> Option<Vec<u8>> {
        let offset = self.memory.offset_of(address, len)?;
        let mut bytes = vec![0; len];
        self.memory.read(offset, &mut bytes);
        Some(bytes)
    }

    // === single writes into a ring ===

    /// Writes one entry of the descriptor table, as it is.
    pub fn write_descriptor(&self, queue: usize, index: u16, descriptor: Descriptor) {
        let at = self.rings[queue].places.descriptor(index);
        self.memory.write(at, &descriptor.encode());
    }

    /// Writes an indirect table, as it is; false when it does not fit there.
    pub fn write_table(&self, address: u64, descriptors: &[Descriptor]) -> bool {
        let bytes: Vec<u8> = descriptors.iter().flat_map(|entry| entry.encode()).collect();
        self.write(address, &bytes)
    }

    /// Puts a head into the avail ring and moves the index.
    pub fn push_avail(&mut self, queue: usize, head: u16) {
        let ring = &mut self.rings[queue];
        self.memory.write(ring.places.avail_entry(ring.avail), &head.to_le_bytes());
        ring.avail = ring.avail.wrapping_add(1);
        self.memory.store_u16(ring.places.avail_index(), ring.avail);
        ring.counts.made_available += 1;
        *ring.out.entry(u32::from(head)).or_default() += 1;
    }

    /// Moves the avail index by any step: entries that were never written, or backwards.
    pub fn jump_avail(&mut self, queue: usize, by: u16) {
        let ring = &mut self.rings[queue];
        ring.avail = ring.avail.wrapping_add(by);
        self.memory.store_u16(ring.places.avail_index(), ring.avail);
    }

    /// Writes the avail ring's flags and the used_event field.
    pub fn set_interrupt_wish(&self, queue: usize, flags: u16, used_event: u16) {
        let places = &self.rings[queue].places;
        self.memory.store_u16(places.avail_flags(), flags);
        self.memory.store_u16(places.used_event(), used_event);
    }

    /// Writes what is the device's to write: used index, flags and avail_event.
    pub fn scribble_used(&self, queue: usize, index: u16, flags: u16, avail_event: u16) {
        let places = &self.rings[queue].places;
        self.memory.store_u16(places.used_index(), index);
        self.memory.store_u16(places.used_flags(), flags);
        self.memory.store_u16(places.avail_event(), avail_event);
    }

    /// Kicks, whatever the device wished.
    pub fn kick(&self, queue: usize) {
        kick(&self.kicks[queue]);
    }

    // === chains and packets ===

    /// Makes a chain available out of the next entries of the table, linked; flags are taken as
    /// they are except for NEXT. The answer is its head. Nothing is kicked.
    pub fn post_chain(&mut self, queue: usize, chain: &[Descriptor]) -> u16 {
        let size = self.rings[queue].places.size;
        let head = self.rings[queue].next_descriptor;
        let mut index = head;
        for (position, descriptor) in chain.iter().enumerate() {
            let next = index.wrapping_add(1) % size;
            let mut entry = *descriptor;
            if position + 1 < chain.len() {
                entry.flags |= DESC_NEXT;
                entry.next = next;
            }
            self.write_descriptor(queue, index, entry);
            index = next;
        }
        self.rings[queue].next_descriptor = index;
        self.push_avail(queue, head);
        head
    }

    /// Sends bytes as a packet in two descriptors (44 and the rest), or one when they are fewer.
    /// At most 44 + 64 KiB are sent.
    pub fn send_bytes(&mut self, bytes: &[u8]) -> u16 {
        let bytes = &bytes[..bytes.len().min(SLOT_BYTES)];
        let place = self.next_slot();
        self.memory.write(place.offset, bytes);
        let split = bytes.len().min(HEADER_BYTES);
        let mut chain = vec![readable(place, split)];
        if bytes.len() > split {
            chain.push(readable(place.plus(split), bytes.len() - split));
        }
        let head = self.post_chain(TX, &chain);
        self.kick(TX);
        head
    }

    /// Sends a packet. The header's `len` is sent as it is.
    pub fn send(&mut self, header: &Header, payload: &[u8]) -> u16 {
        let mut bytes = header.encode().to_vec();
        bytes.extend_from_slice(payload);
        self.send_bytes(&bytes)
    }

    /// Makes one RX buffer of `len` bytes available. What the device puts into it comes out of
    /// [`Self::received`].
    pub fn post_rx(&mut self, len: usize) -> u16 {
        let place = self.next_slot();
        let len = len.min(SLOT_BYTES);
        let mut buffer = readable(place, len);
        buffer.flags = DESC_WRITE;
        let head = self.post_chain(RX, &[buffer]);
        self.rx_buffers.insert(u32::from(head), (place, len));
        head
    }

    fn next_slot(&mut self) -> Place {
        let place = self.slots[self.next_slot];
        self.next_slot = (self.next_slot + 1) % self.slots.len();
        place
    }

    // === what came back ===

    /// Takes the used entries that are there.
    pub fn used(&mut self, queue: usize) -> Vec<UsedElement> {
        let mut elements = Vec::new();
        let ring = &mut self.rings[queue];
        let index = self.memory.load_u16(ring.places.used_index());
        let pending = index.wrapping_sub(ring.last_used).min(ring.places.size);
        for _ in 0..pending {
            let mut entry = [0; 8];
            self.memory.read(ring.places.used_entry(ring.last_used), &mut entry);
            ring.last_used = ring.last_used.wrapping_add(1);
            let [a, b, c, d, len @ ..] = entry;
            let id = u32::from_le_bytes([a, b, c, d]);
            elements.push(UsedElement { id, len: u32::from_le_bytes(len) });
            ring.counts.returned += 1;
            match ring.out.get_mut(&id).filter(|count| **count > 0) {
                Some(count) => *count -= 1,
                None => ring.counts.unasked += 1,
            }
        }
        ring.last_used = index;
        if queue == RX {
            self.take_received(&elements);
        }
        elements
    }

    fn take_received(&mut self, elements: &[UsedElement]) {
        for element in elements {
            if let Some((place, room)) = self.rx_buffers.remove(&element.id) {
                let len = usize::try_from(element.len).unwrap_or(usize::MAX).min(room);
                let mut bytes = vec![0; len];
                self.memory.read(place.offset, &mut bytes);
                self.received.push_back(bytes);
            }
        }
    }

    /// Waits until that many used entries came, or the time is over.
    pub fn wait_used(&mut self, queue: usize, count: usize, timeout: Duration) -> Vec<UsedElement> {
        let deadline = Instant::now() + timeout;
        let mut elements = Vec::new();
        loop {
            let last = self.rings[queue].last_used;
            self.set_interrupt_wish(queue, 0, last);
            std::sync::atomic::fence(std::sync::atomic::Ordering::SeqCst);
            elements.extend(self.used(queue));
            let left = deadline.saturating_duration_since(Instant::now());
            if elements.len() >= count || left.is_zero() {
                return elements;
            }
            // Short waits: a fuzzed ring may have lost its interrupt, its entries come all the
            // same.
            let ms = i32::try_from(left.as_millis()).unwrap_or(i32::MAX).clamp(1, 20);
            // An interrupted wait only looks once more.
            let _ = self.epoll.wait(ms, &mut [EpollEvent::default(); 4]);
        }
    }

    /// The next packet that the device put into a buffer of [`Self::post_rx`]: whatever bytes it
    /// says it wrote. Waits until there is one, or the time is over.
    pub fn received(&mut self, timeout: Duration) -> Option<Vec<u8>> {
        if self.received.is_empty() {
            self.wait_used(RX, 1, timeout);
        }
        self.received.pop_front()
    }

    /// As [`Self::received`], parsed; `None` also when it is no packet.
    pub fn received_packet(&mut self, timeout: Duration) -> Option<(Header, Vec<u8>)> {
        let bytes = self.received(timeout)?;
        let header = Header::parse(bytes.first_chunk::<HEADER_BYTES>()?).ok()?;
        Some((header, bytes[HEADER_BYTES..].to_vec()))
    }

    /// What the queue was given and gave back, so far as it was looked at.
    pub fn counts(&self, queue: usize) -> Counts {
        self.rings[queue].counts
    }

    // === vhost-user ===

    /// Sends the memory table again, with everything in it or only the first region.
    pub fn set_memory(&mut self, first_region_only: bool) -> Result<(), GuestError> {
        let mut table = self.memory.table();
        if first_region_only {
            table.truncate(1);
        }
        Ok(self.frontend.set_memory(&table)?)
    }

    /// Disables or enables a ring.
    pub fn enable_ring(&mut self, queue: usize, on: bool) -> Result<(), GuestError> {
        Ok(self.frontend.enable_ring(queue, on)?)
    }

    /// Stops a ring; the answer is the avail index up to which the device took entries.
    pub fn stop_ring(&mut self, queue: usize) -> Result<u16, GuestError> {
        Ok(self.frontend.stop_ring(queue)?)
    }

    /// Starts a stopped ring at an index.
    pub fn start_ring(&mut self, queue: usize, base: u16) -> Result<(), GuestError> {
        let places = self.rings[queue].places;
        self.start_ring_at(queue, &places, base)
    }

    /// Starts a stopped ring at any places, in guest memory or not.
    pub fn start_ring_at(
        &mut self,
        queue: usize,
        places: &RingPlaces,
        base: u16,
    ) -> Result<(), GuestError> {
        let (kick, call) = (&self.kicks[queue], &self.calls[queue]);
        Ok(self.frontend.start_ring(queue, places, base, kick, call)?)
    }

    /// Hangs up.
    pub fn disconnect(self) {
        self.frontend.disconnect();
    }
}

impl RawRing {
    fn new(places: RingPlaces) -> Self {
        Self {
            places,
            avail: 0,
            next_descriptor: 0,
            last_used: 0,
            out: HashMap::new(),
            counts: Counts::default(),
        }
    }
}

/// A descriptor of bytes that the device reads.
pub fn readable(place: Place, len: usize) -> Descriptor {
    let len = u32::try_from(len).unwrap_or(u32::MAX);
    Descriptor { address: place.address, len, flags: 0, next: 0 }
}

const _: () = assert!(SLOT_BYTES > DESCRIPTOR_BYTES);
