//! Guest memory as the frontend shared it: guest-physical addresses to host pointers.
//!
//! in: the memory table of the vhost-user frontend; out: pointers that stay valid while the
//! [`MemoryMap`] lives. Owner: the vring worker. Keeps: no pointer leaves the regions, whatever
//! address and length a guest puts into a descriptor.

use vm_memory::{GuestMemoryBackend, GuestMemoryMmap, GuestMemoryRegion};

use std::sync::Arc;

#[derive(Clone, Copy, Debug)]
struct Region {
    guest_start: u64,
    len: u64,
    host: *mut u8,
}

/// A snapshot of the memory table. It holds the mappings, so pointers from it outlive a change of
/// the table; the worker takes a new snapshot at the next event.
#[derive(Debug)]
pub(crate) struct MemoryMap {
    regions: Vec<Region>,
    _mappings: Arc<GuestMemoryMmap>,
}

// SAFETY: the pointers refer to shared mappings that `_mappings` keeps alive, which any thread may
// access; the map itself is never changed.
unsafe impl Send for MemoryMap {}

// SAFETY: as for `Send`: shared references only read the table.
unsafe impl Sync for MemoryMap {}

impl MemoryMap {
    /// Takes a snapshot.
    pub(crate) fn new(mappings: Arc<GuestMemoryMmap>) -> Self {
        let regions = mappings
            .iter()
            .map(|region| Region {
                guest_start: region.start_addr().0,
                len: region.len(),
                host: region.as_ptr(),
            })
            .collect();
        Self { regions, _mappings: mappings }
    }

    /// The host pointer to `guest_addr` and how many of `len` bytes follow it in the same region;
    /// the rest may be in the next one. `None` when the address is in no region.
    #[inline]
    pub(crate) fn translate(&self, guest_addr: u64, len: usize) -> Option<(*mut u8, usize)> {
        for region in &self.regions {
            let offset = guest_addr.wrapping_sub(region.guest_start);
            if offset < region.len {
                let here = usize::try_from(region.len - offset).ok()?.min(len);
                let offset = usize::try_from(offset).ok()?;
                // SAFETY: `offset` is below the length of the region's mapping.
                return Some((unsafe { region.host.add(offset) }, here));
            }
        }
        None
    }

    /// The host pointer to `len` bytes that lie in one region.
    pub(crate) fn contiguous(&self, guest_addr: u64, len: usize) -> Option<*mut u8> {
        match self.translate(guest_addr, len)? {
            (pointer, here) if here == len => Some(pointer),
            _ => None,
        }
    }
}
