//! Pinned pages: memory that the kernel does not move, and its guest-physical addresses.
//!
//! in: a number of bytes; out: [`Pinned`] memory, or nothing where the kernel or the privileges are
//! missing. Owner: the queue that it is for. Kept: the pages are pinned before their addresses are
//! looked up, and stay pinned until the gateway does not touch them any more, whatever becomes of this
//! process: a [`Keeper`] holds them, too. `mlock` alone would not do: it keeps pages in memory but lets
//! the kernel migrate them. An io_uring buffer holds them in place (`FOLL_LONGTERM`); a huge page has no
//! other place to go to. Bound: the largest queue.

use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::FileExt;
use std::ptr::{self, NonNull};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use super::check;
use super::keeper::{Keeper, Pin, Slot, memory_file};
use super::mapped::Mapped;
use crate::frame::Pages;
use crate::pages::{PageSource, Pinned};

const PAGE_BYTES: usize = 4096;
const HUGE_PAGE_BYTES: usize = 2 * 1024 * 1024;

/// Pinned pages for the queues of one stream. Needs CAP_SYS_ADMIN (the kernel tells nobody else where
/// pages are) and io_uring or a free huge page.
#[derive(Debug)]
pub struct PinnedPages {
    stream: OwnedFd,
    source: Mutex<Source>,
}

#[derive(Debug)]
enum Source {
    /// No queue has asked yet.
    Fresh,
    Kept(Arc<Kept>),
    /// There is no keeper, so there are no pages.
    Without,
}

/// The keeper, and whether what is dropped may be given back.
#[derive(Debug)]
struct Kept {
    keeper: Keeper,
    abandoned: AtomicBool,
}

impl PinnedPages {
    /// For queues that are opened over `stream`, a socket that this process has connected to the
    /// gateway. The first queue starts a process beside this one that holds their pages: it ends when
    /// this one has ended and the gateway has closed the stream.
    pub fn new(stream: &OwnedFd) -> io::Result<Self> {
        Ok(Self { stream: stream.try_clone()?, source: Mutex::new(Source::Fresh) })
    }

    fn kept(&self) -> Option<Arc<Kept>> {
        let mut source = self.source.lock().unwrap_or_else(PoisonError::into_inner);
        if matches!(*source, Source::Fresh) {
            *source = match Keeper::start(&self.stream) {
                Ok(keeper) => {
                    Source::Kept(Arc::new(Kept { keeper, abandoned: AtomicBool::new(false) }))
                }
                Err(_) => Source::Without,
            };
        }
        match &*source {
            Source::Kept(kept) => Some(Arc::clone(kept)),
            Source::Fresh | Source::Without => None,
        }
    }
}

impl PageSource for PinnedPages {
    fn pin(&self, bytes: usize) -> Option<Pinned> {
        let kept = self.kept()?;
        let bytes = bytes.next_multiple_of(PAGE_BYTES);
        [Pin::IoUring, Pin::HugePage].into_iter().find_map(|pin| {
            let mapping = Mapping::new(&kept, bytes, pin).ok()?;
            let addresses = addresses(mapping.base, bytes)?;
            let mapping = Arc::new(mapping);
            let memory = || Box::new(Mapped::new(Arc::clone(&mapping))) as _;
            let page_bytes = u32::try_from(PAGE_BYTES).unwrap_or(0);
            Some(Pinned { pages: Pages { page_bytes, addresses }, memories: [memory(), memory()] })
        })
    }

    fn abandon(&self) {
        let source = self.source.lock().unwrap_or_else(PoisonError::into_inner);
        if let Source::Kept(kept) = &*source {
            kept.abandoned.store(true, Ordering::Release);
        }
        // The client has done with the stream, and this is one more descriptor of it.
        // SAFETY: no pointer is passed. Fails only on a stream that is dead.
        unsafe { libc::shutdown(self.stream.as_raw_fd(), libc::SHUT_WR) };
    }
}

/// Memory of this process and of the keeper. Unmapped when dropped.
#[derive(Debug)]
pub(super) struct Mapping {
    pub(super) base: NonNull<u8>,
    pub(super) bytes: usize,
    kept: Arc<Kept>,
    slot: Slot,
}

// SAFETY: the mapping belongs to no thread, and everything in it is accessed atomically or copied.
unsafe impl Send for Mapping {}

// SAFETY: as for `Send`.
unsafe impl Sync for Mapping {}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: the range is ours since `new`, and nobody holds a pointer into it any more.
        unsafe { libc::munmap(self.base.as_ptr().cast(), self.bytes) };
        if !self.kept.abandoned.load(Ordering::Acquire) {
            self.kept.keeper.let_go(self.slot);
        }
    }
}

impl Mapping {
    fn new(kept: &Arc<Kept>, bytes: usize, pin: Pin) -> io::Result<Self> {
        let bytes = match pin {
            Pin::IoUring => bytes,
            Pin::HugePage => bytes.next_multiple_of(HUGE_PAGE_BYTES),
        };
        let memory = memory_file(bytes, pin)?;
        let slot = kept.keeper.hold(&memory, bytes, pin)?;
        map(&memory, bytes)
            .map(|base| Self { base, bytes, kept: Arc::clone(kept), slot })
            .inspect_err(|_| kept.keeper.let_go(slot))
    }
}

fn map(memory: &OwnedFd, bytes: usize) -> io::Result<NonNull<u8>> {
    let flags = libc::MAP_SHARED | libc::MAP_POPULATE;
    let access = libc::PROT_READ | libc::PROT_WRITE;
    // SAFETY: a new mapping of the file, wherever the kernel likes.
    let base = unsafe { libc::mmap(ptr::null_mut(), bytes, access, flags, memory.as_raw_fd(), 0) };
    if base == libc::MAP_FAILED {
        return Err(io::Error::last_os_error());
    }
    // A fork has no business with the ring.
    // SAFETY: the range is the mapping that was just made.
    check(unsafe { libc::madvise(base, bytes, libc::MADV_DONTFORK) })?;
    Ok(NonNull::new(base.cast()).ok_or(io::ErrorKind::OutOfMemory)?)
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
