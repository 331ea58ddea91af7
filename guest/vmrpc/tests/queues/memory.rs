//! Memory that both sides share, within one process and without unsafe code: words on the heap.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering, fence};
use std::sync::{Arc, Mutex};

use outsock_vmrpc::pages::{GuestMemory, PageSource, Pages, Pinned, SharedMemory};
use outsock_vmrpc::queue::ring::RingMemory;

/// A guest's memory.
#[derive(Clone, Default)]
pub(crate) struct Guest {
    places: Arc<Mutex<HashMap<u64, Memory>>>,
    next: Arc<AtomicU64>,
    pub(crate) unplugged: Arc<AtomicBool>,
}

/// Words that outlive whoever uses them.
#[derive(Clone)]
pub(crate) struct Memory {
    words: Arc<[AtomicU32]>,
    unplugged: Arc<AtomicBool>,
}

impl PageSource for Guest {
    fn pin(&self, bytes: usize) -> Option<Pinned> {
        let words = (0..bytes.div_ceil(4)).map(|_| AtomicU32::new(0)).collect();
        let memory = Memory { words, unplugged: Arc::clone(&self.unplugged) };
        let first = 4096 * (1 + self.next.fetch_add(1000, Ordering::Relaxed));
        self.places.lock().unwrap().insert(first, memory.clone());
        let addresses = (0..bytes.div_ceil(4096) as u64).map(|page| first + 4096 * page).collect();
        Some(Pinned {
            pages: Pages { page_bytes: 4096, addresses },
            memories: [Box::new(memory.clone()), Box::new(memory)],
        })
    }
}

impl GuestMemory for Guest {
    fn map(&self, pages: &Pages, bytes: usize) -> Option<SharedMemory> {
        pages.addresses.get(bytes.div_ceil(4096) - 1)?;
        let memory = self.places.lock().unwrap().get(&pages.addresses[0])?.clone();
        (memory.words.len() >= bytes / 4).then(|| Box::new(memory) as SharedMemory)
    }
}

impl Guest {
    /// Some memory that a queue lies in.
    pub(crate) fn any(&self) -> Memory {
        self.places.lock().unwrap().values().next().unwrap().clone()
    }
}

impl RingMemory for Memory {
    fn is_there(&mut self) -> bool {
        !self.unplugged.load(Ordering::Relaxed)
    }

    fn load(&self, at: usize) -> u32 {
        self.words[at / 4].load(Ordering::Acquire)
    }

    fn store(&self, at: usize, value: u32) {
        self.words[at / 4].store(value, Ordering::Release);
    }

    fn swap(&self, at: usize, value: u32) -> u32 {
        self.words[at / 4].swap(value, Ordering::AcqRel)
    }

    fn fence(&self) {
        fence(Ordering::SeqCst);
    }

    fn read(&self, at: usize, into: &mut [u8]) {
        for (piece, word) in into.chunks_mut(4).zip(&self.words[at / 4..]) {
            piece.copy_from_slice(&word.load(Ordering::Relaxed).to_le_bytes()[..piece.len()]);
        }
    }

    fn write(&self, at: usize, from: &[u8]) {
        for (piece, word) in from.chunks(4).zip(&self.words[at / 4..]) {
            let mut bytes = word.load(Ordering::Relaxed).to_le_bytes();
            bytes[..piece.len()].copy_from_slice(piece);
            word.store(u32::from_le_bytes(bytes), Ordering::Relaxed);
        }
    }
}
