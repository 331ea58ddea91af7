//! Pages: memory for event queues, as a privileged program in a guest pins it.
//!
//! in: a number of bytes; out: pages that are scattered over a region of their own. Owner: the queues;
//! the last one to drop a page gives it back. Kept: pages of one queue are never neighbours in order,
//! so that a backend which takes the first page's address for all of them is found out. Bound:
//! [`limits::QUEUE_POOL_BYTES`](crate::limits::QUEUE_POOL_BYTES).

use std::sync::atomic::{Ordering, fence};
use std::sync::{Arc, Mutex, PoisonError};

use outsock_vmrpc::pages::{PageSource, Pages, Pinned};
use outsock_vmrpc::queue::ring::RingMemory;

use crate::limits;
use crate::memory::GuestMemory;

const PAGE_BYTES: usize = 4096;

/// All pages.
#[derive(Debug)]
pub(crate) struct Pool {
    memory: GuestMemory,
    address: u64,
    /// Offsets of free pages.
    free: Mutex<Vec<usize>>,
}

impl Pool {
    pub(crate) fn new(memory: GuestMemory, address: u64) -> Self {
        let pages = 0..limits::QUEUE_POOL_BYTES / PAGE_BYTES;
        Self { memory, address, free: Mutex::new(pages.map(|page| page * PAGE_BYTES).collect()) }
    }

    fn free(&self) -> std::sync::MutexGuard<'_, Vec<usize>> {
        self.free.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The source for a client.
#[derive(Debug)]
pub(crate) struct QueuePages(pub(crate) Arc<Pool>);

impl PageSource for QueuePages {
    fn pin(&self, bytes: usize) -> Option<Pinned> {
        let pool = &self.0;
        let offsets = {
            let mut free = pool.free();
            // From the end, so backwards.
            let left = free.len().checked_sub(bytes.div_ceil(PAGE_BYTES))?;
            free.split_off(left).into_iter().rev().collect::<Vec<_>>()
        };
        offsets.iter().for_each(|offset| pool.memory.write(*offset, &[0; PAGE_BYTES]));
        let addresses = offsets.iter().map(|offset| pool.address + *offset as u64).collect();
        let pages = Arc::new(Taken { pool: Arc::clone(pool), offsets });
        let memory = || Box::new(Mapped(Arc::clone(&pages))) as _;
        let page_bytes = u32::try_from(PAGE_BYTES).unwrap_or(0);
        Some(Pinned { pages: Pages { page_bytes, addresses }, memories: [memory(), memory()] })
    }
}

struct Taken {
    pool: Arc<Pool>,
    offsets: Vec<usize>,
}

impl Drop for Taken {
    fn drop(&mut self) {
        self.pool.free().extend(&self.offsets);
    }
}

struct Mapped(Arc<Taken>);

impl Mapped {
    fn at(&self, at: usize) -> usize {
        self.0.offsets[at / PAGE_BYTES] + at % PAGE_BYTES
    }

    /// Pieces of a range that each lie in one page: where, and which part of the range.
    fn pieces(
        &self,
        at: usize,
        len: usize,
    ) -> impl Iterator<Item = (usize, std::ops::Range<usize>)> {
        let mut done = 0;
        std::iter::from_fn(move || {
            let here = (PAGE_BYTES - (at + done) % PAGE_BYTES).min(len - done);
            let piece = (here > 0).then(|| (self.at(at + done), done..done + here));
            done += here;
            piece
        })
    }
}

impl RingMemory for Mapped {
    fn load(&self, at: usize) -> u32 {
        u32::from_le(self.0.pool.memory.word(self.at(at)).load(Ordering::Acquire))
    }

    fn store(&self, at: usize, value: u32) {
        self.0.pool.memory.word(self.at(at)).store(value.to_le(), Ordering::Release);
    }

    fn swap(&self, at: usize, value: u32) -> u32 {
        let word = self.0.pool.memory.word(self.at(at));
        u32::from_le(word.swap(value.to_le(), Ordering::AcqRel))
    }

    fn fence(&self) {
        fence(Ordering::SeqCst);
    }

    fn read(&self, at: usize, into: &mut [u8]) {
        if at % PAGE_BYTES + into.len() <= PAGE_BYTES {
            return self.0.pool.memory.read(self.at(at), into);
        }
        for (offset, part) in self.pieces(at, into.len()) {
            self.0.pool.memory.read(offset, &mut into[part]);
        }
    }

    fn write(&self, at: usize, from: &[u8]) {
        if at % PAGE_BYTES + from.len() <= PAGE_BYTES {
            return self.0.pool.memory.write(self.at(at), from);
        }
        for (offset, part) in self.pieces(at, from.len()) {
            self.0.pool.memory.write(offset, &from[part]);
        }
    }
}
