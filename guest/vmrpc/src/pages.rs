//! Pages: where a guest takes the memory of its event queues from.
//!
//! in: a number of bytes; out: [`Pinned`] memory and its guest-physical pages. In a real guest that is
//! `sys::PinnedPages` (feature `guest`); a virtual guest has its own. On the host, [`GuestMemory`]
//! finds the pages again.

pub use crate::frame::Pages;
pub use crate::queue::shared::SharedMemory;

/// Memory that stays where it is for as long as it is held.
pub struct Pinned {
    /// Its pages, in order.
    pub pages: Pages,
    /// The memory, twice: for the ring of each direction. The last one dropped gives the pages back:
    /// see [`PageSource::abandon`].
    pub memories: [SharedMemory; 2],
}

impl std::fmt::Debug for Pinned {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Pinned").field("pages", &self.pages).finish_non_exhaustive()
    }
}

/// Gives out pinned pages.
pub trait PageSource: Send + Sync {
    /// At least `bytes` bytes of zeros; `None` where there is no such memory. Then the queue uses the
    /// stream.
    fn pin(&self, bytes: usize) -> Option<Pinned>;

    /// The stream has ended, or its end is asked for: whether the host still touches memory that is
    /// dropped from here on is not known. It must not have another use before the host has closed its
    /// half of the stream.
    fn abandon(&self) {}
}

/// The memory of a guest, for event queues.
pub trait GuestMemory: Send + Sync {
    /// Maps pages that the guest named, `bytes` of them from the start of the first. `None` where one
    /// is not the guest's memory. The result must notice when the guest's memory changes.
    fn map(&self, pages: &Pages, bytes: usize) -> Option<SharedMemory>;
}
