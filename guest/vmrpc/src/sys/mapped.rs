//! Pinned memory as a ring sees it. The host writes to it at any moment: nothing here hands out a
//! reference into it.

use std::ptr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering, fence};

use super::pin::Mapping;
use crate::queue::ring::RingMemory;

pub(super) struct Mapped {
    mapping: Arc<Mapping>,
}

impl Mapped {
    pub(super) fn new(mapping: Arc<Mapping>) -> Self {
        Self { mapping }
    }

    #[inline]
    fn at(&self, at: usize, bytes: usize) -> *mut u8 {
        let inside = at.checked_add(bytes).is_some_and(|end| end <= self.mapping.bytes);
        assert!(inside, "outside of the queue's memory: {at} + {bytes}");
        self.mapping.base.as_ptr().wrapping_add(at)
    }

    #[inline]
    fn word(&self, at: usize) -> &AtomicU32 {
        assert!(at.is_multiple_of(4), "a word is aligned");
        let word = self.at(at, 4).cast::<u32>();
        // SAFETY: inside the mapping, which starts on a page, so aligned; it lives as long as `self`;
        // both sides access words atomically.
        unsafe { AtomicU32::from_ptr(word) }
    }
}

impl RingMemory for Mapped {
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
        let from = self.at(at, into.len());
        // SAFETY: `at` checked the range; `into` is our own and cannot overlap the mapping.
        unsafe { ptr::copy_nonoverlapping(from, into.as_mut_ptr(), into.len()) }
    }

    #[inline]
    fn write(&self, at: usize, from: &[u8]) {
        let to = self.at(at, from.len());
        // SAFETY: as in `read`, with the roles turned round.
        unsafe { ptr::copy_nonoverlapping(from.as_ptr(), to, from.len()) }
    }
}
