//! Guest memory: one memfd, mapped here and in the backend.
//!
//! in: offsets into the memfd from the ring and buffer code; out: bytes, and guest physical
//! addresses for descriptors. Shared by every thread of the guest and by the backend, which may
//! write at any moment: nothing here hands out a reference into the mapping. Kept: every access is
//! checked against the mapping's length. This is the crate's only module with `unsafe`. Bound: the
//! size given at creation.

use std::fs::File;
use std::os::fd::AsRawFd;
use std::ptr;
use std::sync::atomic::{AtomicU16, AtomicU32, Ordering};

use rustix::fs::{MemfdFlags, ftruncate, memfd_create};
use vhost::VhostUserMemoryRegionInfo;
use vm_memory::{FileOffset, MmapRegion};

use crate::limits;

/// Where the first region lies: not at 0, so that a forgotten address does not work by luck.
const FIRST_ADDRESS: u64 = 1 << 20;

/// Userspace addresses in the memory table. They only have to differ from guest physical ones, so
/// that a backend which mixes them up is found out.
const USERSPACE_BASE: u64 = 0x7000_0000_0000;

const PAGE_BYTES: usize = 4096;

/// Why there is no guest memory.
#[derive(Debug, thiserror::Error)]
pub enum MemoryError {
    /// The memfd could not be made.
    #[error("cannot create the memfd for guest memory: {0}")]
    Create(#[source] std::io::Error),
    /// It could not be mapped.
    #[error("cannot map guest memory: {0}")]
    Map(String),
    /// It is full.
    #[error("guest memory has no {0} bytes left")]
    Full(usize),
}

/// A piece of guest memory: where we find it, and where the device does.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Place {
    /// Offset into the mapping.
    pub offset: usize,
    /// Guest physical address.
    pub address: u64,
}

impl Place {
    /// The place `bytes` further on, in the same allocation.
    #[must_use]
    pub fn plus(self, bytes: usize) -> Self {
        Self { offset: self.offset + bytes, address: self.address + bytes as u64 }
    }
}

#[derive(Debug)]
struct Region {
    offset: usize,
    bytes: usize,
    address: u64,
    used: usize,
}

/// The guest's memory.
#[derive(Debug)]
pub struct GuestMemory {
    file: File,
    mapping: MmapRegion,
    regions: Vec<Region>,
    next_region: usize,
}

impl GuestMemory {
    /// Makes a memory of at least `bytes`, cut into regions with holes between them.
    pub fn new(bytes: usize, regions: usize) -> Result<Self, MemoryError> {
        let regions = regions.clamp(1, limits::REGIONS_MAX);
        let each = bytes.div_ceil(regions).next_multiple_of(PAGE_BYTES);
        let total = each * regions;
        let file = memory_file(total)?;
        let copy = file.try_clone().map_err(MemoryError::Create)?;
        let mapping = MmapRegion::from_file(FileOffset::new(copy, 0), total)
            .map_err(|error| MemoryError::Map(error.to_string()))?;
        let regions = (0..regions)
            .map(|index| Region {
                offset: index * each,
                bytes: each,
                address: FIRST_ADDRESS
                    + (index * each) as u64
                    + index as u64 * limits::REGION_GAP_BYTES,
                used: 0,
            })
            .collect();
        Ok(Self { file, mapping, regions, next_region: 0 })
    }

    /// Makes a memory of one region at a guest physical address, to be plugged in later.
    pub fn at_address(bytes: usize, address: u64) -> Result<Self, MemoryError> {
        let mut memory = Self::new(bytes, 1)?;
        memory.regions.iter_mut().for_each(|region| region.address = address);
        Ok(memory)
    }

    /// The memfd.
    pub fn file(&self) -> &File {
        &self.file
    }

    /// Takes `bytes`, page-aligned, from one region; regions take turns.
    pub fn allocate(&mut self, bytes: usize) -> Result<Place, MemoryError> {
        let bytes = bytes.next_multiple_of(PAGE_BYTES);
        for _ in 0..self.regions.len() {
            let index = self.next_region;
            self.next_region = (index + 1) % self.regions.len();
            let region = &mut self.regions[index];
            if region.bytes - region.used >= bytes {
                let at = region.used;
                region.used += bytes;
                return Ok(Place {
                    offset: region.offset + at,
                    address: region.address + at as u64,
                });
            }
        }
        Err(MemoryError::Full(bytes))
    }

    /// The memory table for the backend.
    pub fn table(&self) -> Vec<VhostUserMemoryRegionInfo> {
        self.regions
            .iter()
            .map(|region| VhostUserMemoryRegionInfo {
                guest_phys_addr: region.address,
                memory_size: region.bytes as u64,
                userspace_addr: userspace_address(region.address),
                mmap_offset: region.offset as u64,
                mmap_handle: self.file.as_raw_fd(),
            })
            .collect()
    }

    /// The first guest physical address behind every region.
    pub fn end(&self) -> u64 {
        self.regions.last().map_or(0, |region| region.address + region.bytes as u64)
    }

    /// The offset of a guest physical range, where it lies in one region.
    pub fn offset_of(&self, address: u64, bytes: usize) -> Option<usize> {
        self.regions.iter().find_map(|region| {
            let at = usize::try_from(address.checked_sub(region.address)?).ok()?;
            (at.checked_add(bytes)? <= region.bytes).then_some(region.offset + at)
        })
    }

    /// Copies bytes in.
    #[inline]
    pub fn write(&self, offset: usize, bytes: &[u8]) {
        let to = self.at(offset, bytes.len());
        // SAFETY: `at` checked that all of `to .. to + len` is mapped and writable; our own slice
        // cannot overlap the mapping, into which no reference exists.
        unsafe { ptr::copy_nonoverlapping(bytes.as_ptr(), to, bytes.len()) }
    }

    /// Copies bytes out.
    #[inline]
    pub fn read(&self, offset: usize, bytes: &mut [u8]) {
        let from = self.at(offset, bytes.len());
        // SAFETY: as in `write`, with the roles turned round.
        unsafe { ptr::copy_nonoverlapping(from, bytes.as_mut_ptr(), bytes.len()) }
    }

    /// Reads a `u16` of a ring, before everything that follows.
    #[inline]
    pub fn load_u16(&self, offset: usize) -> u16 {
        u16::from_le(self.atomic(offset).load(Ordering::Acquire))
    }

    /// Writes a `u16` of a ring, after everything before.
    #[inline]
    pub fn store_u16(&self, offset: usize, value: u16) {
        self.atomic(offset).store(value.to_le(), Ordering::Release);
    }

    /// The word at an offset, which the backend accesses at the same time.
    #[inline]
    pub fn word(&self, offset: usize) -> &AtomicU32 {
        assert!(offset.is_multiple_of(4), "a word is aligned");
        let at = self.at(offset, 4).cast::<u32>();
        // SAFETY: as in `atomic`, for four bytes.
        unsafe { AtomicU32::from_ptr(at) }
    }

    #[inline]
    fn atomic(&self, offset: usize) -> &AtomicU16 {
        assert!(offset.is_multiple_of(2), "a ring's u16 is aligned");
        let at = self.at(offset, 2).cast::<u16>();
        // SAFETY: `at` checked that both bytes are mapped; the mapping starts on a page and the
        // offset is even, so it is aligned; the mapping lives as long as `self`; ours and the
        // backend's accesses to these bytes are atomic.
        unsafe { AtomicU16::from_ptr(at) }
    }

    #[inline]
    fn at(&self, offset: usize, bytes: usize) -> *mut u8 {
        let inside = offset.checked_add(bytes).is_some_and(|end| end <= self.mapping.size());
        assert!(inside, "access outside guest memory: {offset} + {bytes}");
        self.mapping.as_ptr().wrapping_add(offset)
    }
}

/// The userspace address that the memory table gives for a guest physical one.
pub fn userspace_address(address: u64) -> u64 {
    USERSPACE_BASE + address
}

/// A memfd of `bytes`, all zero.
pub(crate) fn memory_file(bytes: usize) -> Result<File, MemoryError> {
    let fd = memfd_create("outsock-virtual-guest", MemfdFlags::CLOEXEC)
        .map_err(|errno| MemoryError::Create(errno.into()))?;
    ftruncate(&fd, bytes as u64).map_err(|errno| MemoryError::Create(errno.into()))?;
    Ok(File::from(fd))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn regions_have_holes_and_allocations_stay_inside_one() {
        let mut memory = GuestMemory::new(3 * PAGE_BYTES, 3).unwrap();
        let places: Vec<_> = (0..3).map(|_| memory.allocate(100).unwrap()).collect();
        assert!(places[1].address - places[0].address > limits::REGION_GAP_BYTES);
        assert!(matches!(memory.allocate(1), Err(MemoryError::Full(_))));
        assert_eq!(memory.offset_of(places[2].address + 5, 10), Some(places[2].offset + 5));
        assert_eq!(memory.offset_of(places[0].address + PAGE_BYTES as u64, 1), None);
        memory.write(places[1].offset, b"abc");
        let mut back = [0; 3];
        memory.read(places[1].offset, &mut back);
        assert_eq!(&back, b"abc");
    }

    #[test]
    #[should_panic(expected = "outside guest memory")]
    fn an_access_outside_panics() {
        GuestMemory::new(1, 1).unwrap().write(PAGE_BYTES - 1, b"ab");
    }
}
