//! Ring: the driver's side of one split virtqueue.
//!
//! in: chains of descriptors from the driver, used entries from the device; out: used entries,
//! checked, and the answer whether the device wants a kick. Owned by whoever holds the guest's
//! lock. Kept: the free list and the chains that are out live in private memory, so that nothing
//! the device writes can corrupt them; a head is handed out again only after it came back. Bound:
//! the ring's size. Source: virtio 1.3, 2.7; Linux `drivers/virtio/virtio_ring.c`.

use std::sync::atomic::{Ordering, fence};

use crate::memory::{GuestMemory, MemoryError, Place};
use crate::violation::ViolationKind;

/// The descriptor goes on at `next`.
pub const DESC_NEXT: u16 = 1;
/// The device writes into the buffer.
pub const DESC_WRITE: u16 = 2;
/// The buffer is a table of descriptors.
pub const DESC_INDIRECT: u16 = 4;

/// Bytes of a descriptor.
pub const DESCRIPTOR_BYTES: usize = 16;

const AVAIL_NO_INTERRUPT: u16 = 1;
const USED_NO_NOTIFY: u16 = 1;

/// A descriptor, as it lies in a table.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Descriptor {
    /// Guest physical address of the buffer.
    pub address: u64,
    /// Its bytes.
    pub len: u32,
    /// [`DESC_NEXT`], [`DESC_WRITE`], [`DESC_INDIRECT`].
    pub flags: u16,
    /// The next descriptor's index.
    pub next: u16,
}

impl Descriptor {
    /// Its bytes in a table.
    #[inline]
    pub fn encode(self) -> [u8; DESCRIPTOR_BYTES] {
        let low = u128::from(self.address) | u128::from(self.len) << 64;
        (low | u128::from(self.flags) << 96 | u128::from(self.next) << 112).to_le_bytes()
    }
}

/// A chain that came back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Used {
    /// What [`Ring::add`] was given.
    pub token: u32,
    /// Bytes that the device says it wrote.
    pub len: u32,
}

#[derive(Clone, Copy, Debug, Default)]
struct Chain {
    token: u32,
    /// Descriptors in the table that it took; 0 while it is not out.
    descriptors: u16,
    /// Bytes that the device may write.
    writable: u32,
}

/// Where the parts of a virtqueue lie.
#[derive(Clone, Copy, Debug)]
pub struct RingPlaces {
    /// Descriptor table.
    pub descriptors: Place,
    /// Avail ring.
    pub avail: Place,
    /// Used ring.
    pub used: Place,
    /// Entries.
    pub size: u16,
}

impl RingPlaces {
    /// Takes memory for a ring.
    pub fn allocate(memory: &mut GuestMemory, size: u16) -> Result<Self, MemoryError> {
        let entries = usize::from(size);
        Ok(Self {
            descriptors: memory.allocate(entries * DESCRIPTOR_BYTES)?,
            avail: memory.allocate(6 + 2 * entries)?,
            used: memory.allocate(6 + 8 * entries)?,
            size,
        })
    }

    pub(crate) fn descriptor(&self, index: u16) -> usize {
        self.descriptors.offset + usize::from(index % self.size) * DESCRIPTOR_BYTES
    }

    pub(crate) fn avail_flags(&self) -> usize {
        self.avail.offset
    }

    pub(crate) fn avail_index(&self) -> usize {
        self.avail.offset + 2
    }

    pub(crate) fn avail_entry(&self, index: u16) -> usize {
        self.avail.offset + 4 + usize::from(index % self.size) * 2
    }

    pub(crate) fn used_event(&self) -> usize {
        self.avail.offset + 4 + usize::from(self.size) * 2
    }

    pub(crate) fn used_flags(&self) -> usize {
        self.used.offset
    }

    pub(crate) fn used_index(&self) -> usize {
        self.used.offset + 2
    }

    pub(crate) fn used_entry(&self, index: u16) -> usize {
        self.used.offset + 4 + usize::from(index % self.size) * 8
    }

    pub(crate) fn avail_event(&self) -> usize {
        self.used.offset + 4 + usize::from(self.size) * 8
    }
}

/// One virtqueue, from the driver's side.
#[derive(Debug)]
pub(crate) struct Ring {
    places: RingPlaces,
    event_idx: bool,
    indirect: bool,
    chains: Vec<Chain>,
    /// For each descriptor the next one, both in chains that are out and in the free list.
    next: Vec<u16>,
    free_head: u16,
    free: u16,
    /// The avail index, including entries that are not published yet.
    avail: u16,
    /// What the device sees.
    published: u16,
    /// The avail index when the device was last asked whether it wants a kick.
    asked: u16,
    last_used: u16,
}

impl Ring {
    pub(crate) fn new(places: RingPlaces, event_idx: bool, indirect: bool) -> Self {
        let size = places.size;
        Self {
            places,
            event_idx,
            indirect,
            chains: vec![Chain::default(); usize::from(size)],
            next: (1..=size).collect(),
            free_head: 0,
            free: size,
            avail: 0,
            published: 0,
            asked: 0,
            last_used: 0,
        }
    }

    pub(crate) fn places(&self) -> &RingPlaces {
        &self.places
    }

    /// Chains that are out.
    pub(crate) fn outstanding(&self) -> u16 {
        // Not kept as a count of its own: only slow paths ask.
        u16::try_from(self.chains.iter().filter(|chain| chain.descriptors > 0).count())
            .unwrap_or(u16::MAX)
    }

    /// Whether a chain of that many descriptors fits now.
    #[inline]
    pub(crate) fn fits(&self, descriptors: usize) -> bool {
        let needed = if self.indirect && descriptors > 1 { 1 } else { descriptors };
        usize::from(self.free) >= needed
    }

    /// Makes a chain available; the device sees it after [`Self::publish`]. `table` is where an
    /// indirect table may go.
    #[inline]
    pub(crate) fn add(
        &mut self,
        memory: &GuestMemory,
        chain: &[Descriptor],
        table: Place,
        token: u32,
    ) {
        assert!(self.fits(chain.len()) && !chain.is_empty(), "the caller asked `fits` first");
        let head = self.free_head;
        let descriptors = if self.indirect && chain.len() > 1 {
            write_table(memory, chain, table);
            let bytes = u32::try_from(chain.len() * DESCRIPTOR_BYTES).unwrap_or(u32::MAX);
            let entry =
                Descriptor { address: table.address, len: bytes, flags: DESC_INDIRECT, next: 0 };
            memory.write(self.places.descriptor(head), &entry.encode());
            self.free_head = self.next[usize::from(head)];
            1
        } else {
            self.write_chain(memory, chain)
        };
        self.free -= descriptors;
        let writable = chain.iter().filter(|d| d.flags & DESC_WRITE != 0).map(|d| d.len).sum();
        self.chains[usize::from(head)] = Chain { token, descriptors, writable };
        memory.write(self.places.avail_entry(self.avail), &head.to_le_bytes());
        self.avail = self.avail.wrapping_add(1);
    }

    fn write_chain(&mut self, memory: &GuestMemory, chain: &[Descriptor]) -> u16 {
        let mut count = 0;
        let mut at = self.free_head;
        for (index, descriptor) in chain.iter().enumerate() {
            let next = self.next[usize::from(at)];
            let mut entry = *descriptor;
            if index + 1 < chain.len() {
                entry.flags |= DESC_NEXT;
                entry.next = next;
            }
            memory.write(self.places.descriptor(at), &entry.encode());
            at = next;
            count += 1;
        }
        self.free_head = at;
        count
    }

    /// Shows the device every chain that was added.
    #[inline]
    pub(crate) fn publish(&mut self, memory: &GuestMemory) {
        if self.published != self.avail {
            memory.store_u16(self.places.avail_index(), self.avail);
            self.published = self.avail;
        }
    }

    /// Whether the device wants to be told about what was published since the last question.
    #[inline]
    pub(crate) fn needs_kick(&mut self, memory: &GuestMemory) -> bool {
        if self.asked == self.published {
            return false;
        }
        // The device writes its wish and then looks at the avail index; we wrote the index and now
        // look at the wish. Without a full fence both could miss the other.
        fence(Ordering::SeqCst);
        let old = std::mem::replace(&mut self.asked, self.published);
        if self.event_idx {
            let event = memory.load_u16(self.places.avail_event());
            crossed(event, self.published, old)
        } else {
            memory.load_u16(self.places.used_flags()) & USED_NO_NOTIFY == 0
        }
    }

    /// Whether the device has returned a chain that was not taken yet.
    #[inline]
    pub(crate) fn has_used(&self, memory: &GuestMemory) -> bool {
        memory.load_u16(self.places.used_index()) != self.last_used
    }

    /// Takes the next used entry. An entry that names no chain that is out is an error, and is
    /// skipped.
    #[inline]
    pub(crate) fn pop_used(&mut self, memory: &GuestMemory) -> Option<Result<Used, ViolationKind>> {
        let index = memory.load_u16(self.places.used_index());
        let pending = index.wrapping_sub(self.last_used);
        if pending == 0 {
            return None;
        }
        if pending > self.places.size {
            self.last_used = index;
            return Some(Err(ViolationKind::UsedIndexJump { by: pending }));
        }
        let mut entry = [0; 8];
        memory.read(self.places.used_entry(self.last_used), &mut entry);
        self.last_used = self.last_used.wrapping_add(1);
        let value = u64::from_le_bytes(entry);
        // The id is the low half, the length the high one.
        #[expect(clippy::cast_possible_truncation, reason = "the low half is wanted")]
        let id = value as u32;
        let len = u32::try_from(value >> 32).unwrap_or(u32::MAX);
        Some(self.take_back(id, len))
    }

    fn take_back(&mut self, id: u32, len: u32) -> Result<Used, ViolationKind> {
        let index = usize::try_from(id).unwrap_or(usize::MAX);
        let Some(slot) = self.chains.get_mut(index).filter(|chain| chain.descriptors > 0) else {
            return Err(ViolationKind::UsedIdNotOutstanding { id });
        };
        let chain = std::mem::take(slot);
        let head = u16::try_from(id).unwrap_or(0);
        let mut tail = head;
        for _ in 1..chain.descriptors {
            tail = self.next[usize::from(tail)];
        }
        self.next[usize::from(tail)] = self.free_head;
        self.free_head = head;
        self.free += chain.descriptors;
        if len > chain.writable {
            // The chain is back all the same; its content is not to be looked at.
            return Err(ViolationKind::UsedLenBeyondBuffer {
                len,
                buffer: chain.writable,
                token: chain.token,
            });
        }
        Ok(Used { token: chain.token, len })
    }

    /// Asks for an interrupt for the next used entry; true when there is one already.
    pub(crate) fn enable_interrupts(&mut self, memory: &GuestMemory) -> bool {
        if self.event_idx {
            memory.store_u16(self.places.used_event(), self.last_used);
        } else {
            memory.store_u16(self.places.avail_flags(), 0);
        }
        // Pairs with the device's fence between writing the used index and reading our wish.
        fence(Ordering::SeqCst);
        self.has_used(memory)
    }

    /// Says that no interrupt is needed. A hint: one may still come.
    pub(crate) fn disable_interrupts(&mut self, memory: &GuestMemory) {
        if !self.event_idx {
            memory.store_u16(self.places.avail_flags(), AVAIL_NO_INTERRUPT);
        }
    }
}

fn write_table(memory: &GuestMemory, chain: &[Descriptor], table: Place) {
    for (index, descriptor) in chain.iter().enumerate() {
        let mut entry = *descriptor;
        if index + 1 < chain.len() {
            entry.flags |= DESC_NEXT;
            entry.next = u16::try_from(index + 1).unwrap_or(u16::MAX);
        }
        memory.write(table.offset + index * DESCRIPTOR_BYTES, &entry.encode());
    }
}

/// Whether `event` lies in `old .. new`, wrapping (virtio 1.3, 2.7.10: `vring_need_event`).
pub(crate) fn crossed(event: u16, new: u16, old: u16) -> bool {
    new.wrapping_sub(event).wrapping_sub(1) < new.wrapping_sub(old)
}
