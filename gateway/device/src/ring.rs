//! Split virtqueue, the device's side: one pass over one ring.
//!
//! in: the ring's addresses and indices as the frontend set them; out: heads of available
//! descriptor chains, used entries in bulk, one answer to "does the driver want a notification".
//! Owner: the vring worker, under the vring's lock. Keeps: what a guest writes into its ring can
//! only spoil that ring; indices are read once and checked. Source: virtio 1.3, 2.7.
//!
//! Unlike `virtio_queue::Queue`, whose state it borrows, this looks up the three areas once per pass
//! and publishes the used index once per batch.

use std::sync::atomic::{AtomicU16, Ordering, fence};

use vhost_user_backend::VringState;
use virtio_queue::{Queue, QueueT};

use crate::handle::DeviceCounters;
use crate::memory::MemoryMap;

const AVAIL_F_NO_INTERRUPT: u16 = 1;
const USED_F_NO_NOTIFY: u16 = 1;

/// The ring cannot be used: its areas are outside memory, or its index jumped. Nothing is served
/// until the driver sets it up again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum RingError {
    #[error("a ring area lies outside guest memory")]
    OutsideMemory,
    #[error("the avail index jumped by more than the ring size")]
    AvailIndexJumped,
}

/// One pass over a ring.
pub(crate) struct Ring<'m> {
    pub(crate) memory: &'m MemoryMap,
    /// Guest address of the descriptor table, for chains.
    desc: *const u8,
    avail: *const u8,
    used: *mut u8,
    size: u16,
    next_avail: u16,
    /// The driver's avail index as last read.
    avail_seen: u16,
    next_used: u16,
    used_published: u16,
    event_idx: bool,
}

impl<'m> Ring<'m> {
    /// Starts a pass where the last one ended.
    pub(crate) fn new(queue: &Queue, memory: &'m MemoryMap) -> Result<Self, RingError> {
        let size = queue.size();
        let entries = usize::from(size);
        let area = |addr, len| memory.contiguous(addr, len).ok_or(RingError::OutsideMemory);
        let desc = area(queue.desc_table(), 16 * entries)?;
        let avail = area(queue.avail_ring(), 6 + 2 * entries)?;
        let used = area(queue.used_ring(), 6 + 8 * entries)?;
        // virtio-queue checks the alignment when the addresses are set; atomics rely on it.
        if avail.align_offset(2) != 0 || used.align_offset(4) != 0 {
            return Err(RingError::OutsideMemory);
        }
        Ok(Self {
            memory,
            desc,
            avail,
            used,
            size,
            next_avail: queue.next_avail(),
            avail_seen: queue.next_avail(),
            next_used: queue.next_used(),
            used_published: queue.next_used(),
            event_idx: queue.event_idx_enabled(),
        })
    }

    /// Ends the pass: the next one goes on from here. Everything pushed must be published.
    pub(crate) fn save(&self, queue: &mut Queue) {
        debug_assert_eq!(self.next_used, self.used_published);
        queue.set_next_avail(self.next_avail);
        queue.set_next_used(self.next_used);
    }

    fn avail_u16(&self, offset: usize) -> &AtomicU16 {
        // SAFETY: `offset` is even and below the area's length, checked in `new`; the area is
        // 2-aligned.
        let pointer = unsafe { self.avail.add(offset) };
        // SAFETY: the memory is shared with the guest, so it is accessed atomically; it outlives
        // `self` by `memory`.
        unsafe { AtomicU16::from_ptr(pointer.cast_mut().cast()) }
    }

    fn used_u16(&self, offset: usize) -> &AtomicU16 {
        // SAFETY: as in `avail_u16`, for the used area.
        let pointer = unsafe { self.used.add(offset) };
        // SAFETY: as in `avail_u16`, for the used area.
        unsafe { AtomicU16::from_ptr(pointer.cast()) }
    }

    fn slot(&self, index: u16) -> usize {
        // The size is a power of two: virtio-queue takes no other.
        usize::from(index & (self.size - 1))
    }

    /// How many chains the driver has made available and we have not taken.
    pub(crate) fn available(&mut self) -> Result<u16, RingError> {
        if self.avail_seen == self.next_avail {
            self.avail_seen = u16::from_le(self.avail_u16(2).load(Ordering::Acquire));
        }
        let available = self.avail_seen.wrapping_sub(self.next_avail);
        if available > self.size {
            self.avail_seen = self.next_avail;
            return Err(RingError::AvailIndexJumped);
        }
        Ok(available)
    }

    /// Takes the head of the next chain. The caller gives it back with [`Self::push_used`], or,
    /// last taken first, with [`Self::untake`].
    pub(crate) fn take(&mut self) -> Result<Option<u16>, RingError> {
        if self.available()? == 0 {
            return Ok(None);
        }
        let entry = self.avail_u16(4 + 2 * self.slot(self.next_avail));
        let head = u16::from_le(entry.load(Ordering::Relaxed));
        self.next_avail = self.next_avail.wrapping_add(1);
        Ok(Some(head))
    }

    /// Leaves the last `count` chains taken for another time, as if never taken.
    pub(crate) fn untake(&mut self, count: u16) {
        self.next_avail = self.next_avail.wrapping_sub(count);
    }

    /// Gives a chain back, with `len` bytes written into it. The driver sees it at
    /// [`Self::publish`].
    pub(crate) fn push_used(&mut self, head: u16, len: u32) {
        let offset = 4 + 8 * self.slot(self.next_used);
        let entry = (u64::from(len) << 32 | u64::from(head)).to_le_bytes();
        // SAFETY: the slot is below the ring size, so the entry is inside the used area.
        let pointer = unsafe { self.used.add(offset) };
        // SAFETY: 8 bytes inside the used area; no reference to it exists, and the driver does not
        // read the entry before the index says so.
        unsafe { pointer.cast::<[u8; 8]>().write_volatile(entry) };
        self.next_used = self.next_used.wrapping_add(1);
    }

    /// Shows the driver everything pushed. Returns whether it wants to be notified.
    #[must_use]
    pub(crate) fn publish(&mut self) -> bool {
        let (old, new) = (self.used_published, self.next_used);
        if old == new {
            return false;
        }
        self.used_u16(2).store(new.to_le(), Ordering::Release);
        self.used_published = new;
        // The index must be visible before the driver's wish is read (virtio 1.3, 2.7.7.2).
        fence(Ordering::SeqCst);
        if self.event_idx {
            let wish = self.avail_u16(4 + 2 * usize::from(self.size));
            let used_event = u16::from_le(wish.load(Ordering::Relaxed));
            new.wrapping_sub(used_event).wrapping_sub(1) < new.wrapping_sub(old)
        } else {
            let flags = u16::from_le(self.avail_u16(0).load(Ordering::Relaxed));
            flags & AVAIL_F_NO_INTERRUPT == 0
        }
    }

    /// Asks the driver not to kick for a while. With EVENT_IDX it stops by itself after one kick.
    pub(crate) fn suppress_kicks(&self) {
        if !self.event_idx {
            self.used_u16(0).store(USED_F_NO_NOTIFY.to_le(), Ordering::Relaxed);
        }
    }

    /// Asks for a kick at the next chain. Returns whether one came meanwhile: then take it.
    pub(crate) fn want_kick(&mut self) -> Result<bool, RingError> {
        if self.event_idx {
            let wish = self.used_u16(4 + 8 * usize::from(self.size));
            wish.store(self.next_avail.to_le(), Ordering::Relaxed);
        } else {
            self.used_u16(0).store(0, Ordering::Relaxed);
        }
        // The wish must be visible before the index is read again (virtio 1.3, 2.7.7.1).
        fence(Ordering::SeqCst);
        self.avail_seen = self.next_avail;
        Ok(self.available()? > 0)
    }

    /// The descriptor table and its number of entries.
    pub(crate) fn table(&self) -> (*const u8, u16) {
        (self.desc, self.size)
    }
}

/// Tells the driver, when it wants to know.
pub(crate) fn publish(ring: &mut Ring<'_>, vring: &VringState, counters: &DeviceCounters) {
    if ring.publish() {
        DeviceCounters::add(&counters.notifications, 1);
        // A frontend that closed its eventfd learns nothing; that is its own affair.
        let _ = vring.signal_used_queue();
    }
}

/// Whether the ring can be served at all.
pub(crate) fn is_live(vring: &VringState) -> bool {
    vring.is_enabled() && vring.get_queue().ready()
}
