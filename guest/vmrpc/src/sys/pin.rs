//! Pinned pages: memory that the kernel does not move, and its guest-physical addresses.
//!
//! in: a number of bytes; out: [`Pinned`] memory, or nothing where the kernel or the privileges are
//! missing. Owner: the queue that it is for. Kept: the pages are pinned before their addresses are
//! looked up, and stay pinned until nobody can reach them any more. `mlock` alone would not do: it
//! keeps pages in memory but lets the kernel migrate them. An io_uring buffer holds them in place
//! (`FOLL_LONGTERM`); a huge page has no other place to go to. Bound: the largest queue.

use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::fs::FileExt;
use std::ptr::{self, NonNull};
use std::sync::Arc;

use super::check;
use super::mapped::Mapped;
use crate::frame::Pages;
use crate::pages::{PageSource, Pinned};

const PAGE_BYTES: usize = 4096;
const HUGE_PAGE_BYTES: usize = 2 * 1024 * 1024;

/// Pinned pages of this process. Needs CAP_SYS_ADMIN (the kernel tells nobody else where pages are)
/// and io_uring or a free huge page.
#[derive(Clone, Copy, Debug)]
pub struct PinnedPages;

impl PageSource for PinnedPages {
    fn pin(&self, bytes: usize) -> Option<Pinned> {
        [by_io_uring, in_a_huge_page].into_iter().find_map(|way| {
            let (mapping, bytes) = way(bytes).ok()?;
            let addresses = addresses(mapping.base, bytes)?;
            let mapping = Arc::new(mapping);
            let memory = || Box::new(Mapped::new(Arc::clone(&mapping))) as _;
            let page_bytes = u32::try_from(PAGE_BYTES).unwrap_or(0);
            Some(Pinned { pages: Pages { page_bytes, addresses }, memories: [memory(), memory()] })
        })
    }
}

/// Memory of this process. Unmapped when dropped.
#[derive(Debug)]
pub(super) struct Mapping {
    pub(super) base: NonNull<u8>,
    pub(super) bytes: usize,
    /// Holds the pages in place.
    _ring: Option<OwnedFd>,
}

// SAFETY: the mapping belongs to no thread, and everything in it is accessed atomically or copied.
unsafe impl Send for Mapping {}

// SAFETY: as for `Send`.
unsafe impl Sync for Mapping {}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: the range is ours since `map`, and nobody holds a pointer into it any more.
        unsafe { libc::munmap(self.base.as_ptr().cast(), self.bytes) };
    }
}

fn map(bytes: usize, flags: i32) -> io::Result<Mapping> {
    let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_POPULATE | flags;
    let access = libc::PROT_READ | libc::PROT_WRITE;
    // SAFETY: a new anonymous mapping, wherever the kernel likes.
    let base = unsafe { libc::mmap(ptr::null_mut(), bytes, access, flags, -1, 0) };
    if base == libc::MAP_FAILED {
        return Err(io::Error::last_os_error());
    }
    let base = NonNull::new(base.cast()).ok_or(io::ErrorKind::OutOfMemory)?;
    let mapping = Mapping { base, bytes, _ring: None };
    // A fork must not make copies of the pages that the host knows.
    // SAFETY: the range is the mapping that was just made.
    check(unsafe { libc::madvise(base.as_ptr().cast(), bytes, libc::MADV_DONTFORK) })?;
    Ok(mapping)
}

fn by_io_uring(bytes: usize) -> io::Result<(Mapping, usize)> {
    /// `struct io_uring_params`, all zero: no option of it is needed.
    const PARAMS_BYTES: usize = 120;
    const IORING_REGISTER_BUFFERS: libc::c_long = 0;
    let bytes = bytes.next_multiple_of(PAGE_BYTES);
    let mut mapping = map(bytes, 0)?;
    let mut params = [0u64; PARAMS_BYTES / 8];
    // SAFETY: the kernel reads and writes one `io_uring_params` at the live array of its size.
    let ring = unsafe { libc::syscall(libc::SYS_io_uring_setup, 1, params.as_mut_ptr()) };
    let ring = i32::try_from(check(ring)?).map_err(|_| io::ErrorKind::InvalidData)?;
    // SAFETY: the call returned a new descriptor that nobody else owns.
    let ring = unsafe { OwnedFd::from_raw_fd(ring) };
    let buffer = libc::iovec { iov_base: mapping.base.as_ptr().cast(), iov_len: bytes };
    // SAFETY: one live `iovec`, whose range is the mapping that was just made.
    let registered = unsafe {
        libc::syscall(
            libc::SYS_io_uring_register,
            ring.as_raw_fd(),
            IORING_REGISTER_BUFFERS,
            &raw const buffer,
            1,
        )
    };
    check(registered)?;
    mapping._ring = Some(ring);
    Ok((mapping, bytes))
}

fn in_a_huge_page(bytes: usize) -> io::Result<(Mapping, usize)> {
    let whole = bytes.next_multiple_of(HUGE_PAGE_BYTES);
    Ok((map(whole, libc::MAP_HUGETLB)?, bytes.next_multiple_of(PAGE_BYTES)))
}

/// The guest-physical addresses of the pages, from `/proc/self/pagemap`
/// (Documentation/admin-guide/mm/pagemap.rst): bits 0-54 of an entry are the page's number, bit 63
/// says that it is there. Without CAP_SYS_ADMIN the number reads as 0.
fn addresses(base: NonNull<u8>, bytes: usize) -> Option<Vec<u64>> {
    const PRESENT: u64 = 1 << 63;
    const NUMBER: u64 = (1 << 55) - 1;
    let pages = bytes / PAGE_BYTES;
    let mut entries = vec![0; pages * 8];
    let first = (base.as_ptr().addr() / PAGE_BYTES * 8) as u64;
    File::open("/proc/self/pagemap").ok()?.read_exact_at(&mut entries, first).ok()?;
    let (entries, _) = entries.as_chunks::<8>();
    let address = |entry: &[u8; 8]| {
        let entry = u64::from_ne_bytes(*entry);
        let number = entry & NUMBER;
        (entry & PRESENT != 0 && number != 0).then_some(number * PAGE_BYTES as u64)
    };
    entries.iter().map(address).collect()
}
