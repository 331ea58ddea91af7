//! Guest memory for event queues: pages that a guest named, reached by threads of the daemon.
//!
//! in: the memory table at each change, and the ends of the guest's lives; out: rings' memory
//! ([`RingMemory`]). Owner: the vring worker tells, each ring looks before every use. Kept: a ring
//! never leaves the pages that were named, and those are looked up anew when the table has changed; a
//! guest that started over is not written to by queues of its former life. Bound: the queue's
//! memory. A look costs two atomic loads.

use std::ptr;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering, fence};
use std::sync::{Arc, Mutex, PoisonError};

use outsock_vmrpc::pages::{GuestMemory, Pages, SharedMemory};
use outsock_vmrpc::queue::ring::RingMemory;

use crate::memory::MemoryMap;

#[derive(Debug, Default)]
struct Shared {
    /// Counts the guest's starts.
    life: AtomicU64,
    /// Counts the changes of the table.
    table: AtomicU64,
    map: Mutex<Option<Arc<MemoryMap>>>,
}

/// The worker's end.
#[derive(Debug, Default)]
pub(crate) struct QueueMemory(Arc<Shared>);

impl QueueMemory {
    /// The table has changed.
    pub(crate) fn set(&self, map: Option<Arc<MemoryMap>>) {
        let mut current = self.0.map.lock().unwrap_or_else(PoisonError::into_inner);
        *current = map;
        self.0.table.fetch_add(1, Ordering::Release);
    }

    /// The guest started over.
    pub(crate) fn end_life(&self) {
        self.0.life.fetch_add(1, Ordering::Release);
    }

    /// For queues of the guest as it runs now.
    pub(crate) fn of_this_life(&self) -> GuestPages {
        GuestPages { shared: Arc::clone(&self.0), life: self.0.life.load(Ordering::Acquire) }
    }
}

/// A guest's memory, for as long as the guest lives. Clones share it.
#[derive(Clone, Debug)]
pub struct GuestPages {
    shared: Arc<Shared>,
    life: u64,
}

impl GuestMemory for GuestPages {
    fn map(&self, pages: &Pages, bytes: usize) -> Option<SharedMemory> {
        let page_bytes = pages.page_bytes as usize;
        let count = bytes.div_ceil(page_bytes);
        let aligned = |address: &u64| address.is_multiple_of(u64::from(pages.page_bytes));
        let addresses = pages.addresses.get(..count)?;
        if !addresses.iter().all(aligned) {
            return None;
        }
        let mut mapped = MappedPages {
            memory: self.clone(),
            table: 0,
            map: None,
            addresses: addresses.into(),
            page_bits: pages.page_bytes.trailing_zeros(),
            pointers: Vec::new(),
        };
        // 0 is the table before the first.
        mapped.is_there().then(|| Box::new(mapped) as SharedMemory)
    }
}

/// The pages of one ring.
struct MappedPages {
    memory: GuestPages,
    /// The table by which `pointers` were looked up, and what keeps them valid.
    table: u64,
    map: Option<Arc<MemoryMap>>,
    addresses: Box<[u64]>,
    page_bits: u32,
    pointers: Vec<*mut u8>,
}

// SAFETY: the pointers refer to shared mappings that `map` keeps alive, which any thread may access.
unsafe impl Send for MappedPages {}

impl MappedPages {
    fn look_up(&mut self, table: u64) -> bool {
        let map = {
            let current = self.memory.shared.map.lock().unwrap_or_else(PoisonError::into_inner);
            current.clone()
        };
        let page_bytes = 1 << self.page_bits;
        let pointers = map.as_ref().and_then(|map| {
            let find = |address: &u64| map.contiguous(*address, page_bytes);
            self.addresses.iter().map(find).collect::<Option<Vec<_>>>()
        });
        // Atomics rely on it; a mapping starts on a page and a region is made of pages.
        let pointers = pointers.filter(|all| all.iter().all(|page| page.align_offset(8) == 0));
        let found = pointers.is_some();
        self.pointers = pointers.unwrap_or_default();
        (self.map, self.table) = (map, table);
        found
    }

    /// The pointer to an offset, and how many bytes follow it in its page.
    #[inline]
    fn at(&self, at: usize) -> (*mut u8, usize) {
        let page_bytes = 1usize << self.page_bits;
        let inside = at & (page_bytes - 1);
        // Panics on an offset outside the queue, which no ring has.
        let page = self.pointers[at >> self.page_bits];
        (page.wrapping_add(inside), page_bytes - inside)
    }

    #[inline]
    fn word(&self, at: usize) -> &AtomicU32 {
        debug_assert!(at.is_multiple_of(4));
        let (pointer, _) = self.at(at);
        // SAFETY: inside a page of guest memory that `map` keeps mapped; pages are 8-aligned and
        // words are at multiples of 4; the guest accesses it as another processor would.
        unsafe { AtomicU32::from_ptr(pointer.cast()) }
    }
}

impl RingMemory for MappedPages {
    #[inline]
    fn is_there(&mut self) -> bool {
        let shared = &self.memory.shared;
        if shared.life.load(Ordering::Acquire) != self.memory.life {
            return false;
        }
        let table = shared.table.load(Ordering::Acquire);
        if table == self.table { !self.pointers.is_empty() } else { self.look_up(table) }
    }

    #[inline]
    fn load(&self, at: usize) -> u32 {
        u32::from_le(self.word(at).load(Ordering::Acquire))
    }

    #[inline]
    fn store(&self, at: usize, value: u32) {
        self.word(at).store(value.to_le(), Ordering::Release);
    }

    #[inline]
    fn swap(&self, at: usize, value: u32) -> u32 {
        u32::from_le(self.word(at).swap(value.to_le(), Ordering::AcqRel))
    }

    #[inline]
    fn fence(&self) {
        fence(Ordering::SeqCst);
    }

    #[inline]
    fn read(&self, at: usize, into: &mut [u8]) {
        let mut done = 0;
        while done < into.len() {
            let (from, here) = self.at(at + done);
            let rest = &mut into[done..];
            let here = here.min(rest.len());
            // SAFETY: `here` bytes of a mapped page; `into` is our own and cannot overlap it.
            unsafe { ptr::copy_nonoverlapping(from, rest.as_mut_ptr(), here) };
            done += here;
        }
    }

    #[inline]
    fn write(&self, at: usize, from: &[u8]) {
        let mut done = 0;
        while done < from.len() {
            let (to, here) = self.at(at + done);
            let rest = &from[done..];
            let here = here.min(rest.len());
            // SAFETY: as in `read`, with the roles turned round.
            unsafe { ptr::copy_nonoverlapping(rest.as_ptr(), to, here) };
            done += here;
        }
    }
}
