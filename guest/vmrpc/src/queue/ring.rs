//! Ring: events of any size through memory that two sides share and neither trusts. Half of a queue.
//!
//! in: events at the [`Producer`]; out: the same events at the [`Consumer`], in order, or
//! [`RingError`] once the other side wrote something that cannot be. Owner: each half belongs to one
//! side and is used by one thread at a time. Kept: a half keeps its own index to itself and never
//! reads it back; the other side's index and each length are read once and checked, so that a
//! hostile side can spoil its own events and nothing else. Bound: [`Place::bytes`]; nothing here
//! waits or allocates more than one event.
//!
//! Both indices are free-running counts of bytes (32 bits, the size is a power of two). A record is
//! its length (32 bits, little-endian), four bytes of nothing, and the event, padded to eight bytes;
//! it may wrap round the end.
//!
//! # Who wakes whom
//!
//! A consumer that finds nothing raises its flag, then looks again; a producer publishes its index,
//! then looks at the flag. Between the two steps of each stands a sequentially consistent fence, so
//! at least one of them sees the other: no event is left behind with a sleeper (`tests/loom.rs`
//! tries every order). Flags are only ever exchanged, so that all changes of one stand in one order. Who takes the flag down sends the one message that wakes. A producer without
//! room does the same with a flag of its own; it is woken once half of the ring is free, not at
//! every event.

/// Memory that both sides see. Offsets are bytes from the start of the queue's memory; those of
/// words are multiples of four. Words are little-endian.
pub trait RingMemory: Send {
    /// Whether the memory is still there. Asked before each use; may map it anew.
    fn is_there(&mut self) -> bool {
        true
    }

    /// Reads a word; what the other side wrote before it is visible after (acquire).
    fn load(&self, at: usize) -> u32;

    /// Writes a word, after everything that was written before (release).
    fn store(&self, at: usize, value: u32);

    /// Exchanges a word, both of the above.
    fn swap(&self, at: usize, value: u32) -> u32;

    /// A sequentially consistent fence.
    fn fence(&self);

    /// Copies bytes out.
    fn read(&self, at: usize, into: &mut [u8]);

    /// Copies bytes in.
    fn write(&self, at: usize, from: &[u8]);
}

impl RingMemory for Box<dyn RingMemory> {
    fn is_there(&mut self) -> bool {
        (**self).is_there()
    }

    fn load(&self, at: usize) -> u32 {
        (**self).load(at)
    }

    fn store(&self, at: usize, value: u32) {
        (**self).store(at, value);
    }

    fn swap(&self, at: usize, value: u32) -> u32 {
        (**self).swap(at, value)
    }

    fn fence(&self) {
        (**self).fence();
    }

    fn read(&self, at: usize, into: &mut [u8]) {
        (**self).read(at, into);
    }

    fn write(&self, at: usize, from: &[u8]) {
        (**self).write(at, from);
    }
}

/// Bytes before a record's event.
const HEADER_BYTES: u32 = 8;

/// Words of a ring's control block, each in a cache line of its own.
const HEAD: usize = 0;
const TAIL: usize = 64;
const CONSUMER_WAITS: usize = 128;
const PRODUCER_WAITS: usize = 192;

/// Bytes of a ring's control block.
pub(super) const CONTROL_BYTES: usize = 256;

/// What an event of `len` bytes takes up; `None` when no ring is that large.
pub fn cost(len: usize) -> Option<u32> {
    let len = u32::try_from(len).ok()?;
    len.checked_next_multiple_of(8)?.checked_add(HEADER_BYTES)
}

/// Where a ring lies in the queue's memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    /// The control block.
    pub control: usize,
    /// The records.
    pub data: usize,
    /// Bytes for records: a power of two.
    pub bytes: u32,
}

/// The other side wrote what cannot be, or the memory is gone. The ring is of no use any more.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RingError {
    /// An index or a length that cannot be.
    #[error("the other side wrote nonsense into the ring")]
    Garbled,
    /// The memory is gone.
    #[error("the ring's memory is gone")]
    Unmapped,
}

/// What became of an event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Placed {
    /// It is in the ring; `wake`: the consumer sleeps and has to be told.
    Taken {
        /// Whether to wake the consumer.
        wake: bool,
    },
    /// There is no room for it now.
    Full,
}

/// The side that puts events in.
#[derive(Debug)]
pub struct Producer<M> {
    memory: M,
    place: Place,
    head: u32,
    /// The consumer's index as last read.
    tail: u32,
}

impl<M: RingMemory> Producer<M> {
    /// A producer for an empty ring.
    pub fn new(memory: M, place: Place) -> Self {
        debug_assert!(place.bytes.is_power_of_two());
        Self { memory, place, head: 0, tail: 0 }
    }

    fn free(&mut self) -> Result<u32, RingError> {
        let free = |tail| self.place.bytes.checked_sub(self.head.wrapping_sub(tail));
        let tail = self.memory.load(self.place.control + TAIL);
        // Between the index as last seen and ours: a consumer takes whole records only.
        let free = free(tail).filter(|free| free % 8 == 0).ok_or(RingError::Garbled)?;
        self.tail = tail;
        Ok(free)
    }

    /// Puts an event in, if there is room. One that is longer than the ring is always refused.
    pub fn put(&mut self, event: &[u8]) -> Result<Placed, RingError> {
        if !self.memory.is_there() {
            return Err(RingError::Unmapped);
        }
        let Some(cost) = cost(event.len()).filter(|cost| *cost <= self.place.bytes) else {
            return Ok(Placed::Full);
        };
        if self.place.bytes - self.head.wrapping_sub(self.tail) < cost && self.free()? < cost {
            return Ok(Placed::Full);
        }
        let mut header = [0; HEADER_BYTES as usize];
        header[..4].copy_from_slice(&length(event).to_le_bytes());
        self.copy_in(self.head, &header);
        self.copy_in(self.head.wrapping_add(HEADER_BYTES), event);
        self.head = self.head.wrapping_add(cost);
        self.memory.store(self.place.control + HEAD, self.head);
        self.memory.fence();
        let flag = self.place.control + CONSUMER_WAITS;
        let wake = self.memory.load(flag) != 0 && self.memory.swap(flag, 0) != 0;
        Ok(Placed::Taken { wake })
    }

    /// Says that the caller will sleep until there is room for an event of `len` bytes. `true`: there
    /// is room already, do not sleep.
    pub fn will_sleep(&mut self, len: usize) -> Result<bool, RingError> {
        if !self.memory.is_there() {
            return Err(RingError::Unmapped);
        }
        let cost = cost(len).unwrap_or(u32::MAX);
        let flag = self.place.control + PRODUCER_WAITS;
        self.memory.swap(flag, cost);
        self.memory.fence();
        let room = self.free()? >= cost;
        if room {
            self.memory.swap(flag, 0);
        }
        Ok(room)
    }

    /// Bytes that are taken up, as far as this side has seen.
    pub fn depth_bytes(&mut self) -> u32 {
        match self.memory.is_there().then(|| self.free()) {
            Some(Ok(free)) => self.place.bytes - free,
            Some(Err(_)) | None => 0,
        }
    }

    fn copy_in(&self, index: u32, bytes: &[u8]) {
        let at = (index & (self.place.bytes - 1)) as usize;
        let (first, second) = bytes.split_at(bytes.len().min(self.place.bytes as usize - at));
        self.memory.write(self.place.data + at, first);
        if !second.is_empty() {
            self.memory.write(self.place.data, second);
        }
    }
}

fn length(event: &[u8]) -> u32 {
    // `cost` has refused what is longer.
    u32::try_from(event.len()).unwrap_or(u32::MAX)
}

/// An event that was taken out.
#[derive(Debug, PartialEq, Eq)]
pub struct Taken {
    /// The event.
    pub event: Vec<u8>,
    /// The producer sleeps and has to be told that there is room.
    pub wake: bool,
}

/// The side that takes events out.
#[derive(Debug)]
pub struct Consumer<M> {
    memory: M,
    place: Place,
    tail: u32,
    /// The producer's index as last read.
    head: u32,
}

impl<M: RingMemory> Consumer<M> {
    /// A consumer for an empty ring.
    pub fn new(memory: M, place: Place) -> Self {
        debug_assert!(place.bytes.is_power_of_two());
        Self { memory, place, tail: 0, head: 0 }
    }

    /// Reads the producer's index; how many bytes are there.
    fn filled(&mut self) -> Result<u32, RingError> {
        let head = self.memory.load(self.place.control + HEAD);
        let filled = head.wrapping_sub(self.tail);
        if filled > self.place.bytes || !filled.is_multiple_of(8) {
            return Err(RingError::Garbled);
        }
        self.head = head;
        Ok(filled)
    }

    /// Takes the next event out; `None` when there is none.
    pub fn get(&mut self) -> Result<Option<Taken>, RingError> {
        if !self.memory.is_there() {
            return Err(RingError::Unmapped);
        }
        let mut filled = self.head.wrapping_sub(self.tail);
        if filled == 0 {
            filled = self.filled()?;
        }
        if filled == 0 {
            return Ok(None);
        }
        let mut header = [0; HEADER_BYTES as usize];
        self.copy_out(self.tail, &mut header);
        let [l0, l1, l2, l3, ..] = header;
        let len = u32::from_le_bytes([l0, l1, l2, l3]) as usize;
        let cost = cost(len).filter(|cost| *cost <= filled).ok_or(RingError::Garbled)?;
        let mut event = vec![0; len];
        self.copy_out(self.tail.wrapping_add(HEADER_BYTES), &mut event);
        self.tail = self.tail.wrapping_add(cost);
        self.memory.store(self.place.control + TAIL, self.tail);
        self.memory.fence();
        let wake = self.producer_has_room()?;
        Ok(Some(Taken { event, wake }))
    }

    fn producer_has_room(&mut self) -> Result<bool, RingError> {
        let flag = self.place.control + PRODUCER_WAITS;
        let wanted = self.memory.load(flag);
        if wanted == 0 {
            return Ok(false);
        }
        let free = self.place.bytes - self.filled()?;
        Ok(free >= wanted.max(self.place.bytes / 2) && self.memory.swap(flag, 0) != 0)
    }

    /// Says that the caller will sleep until there is an event. `true`: there is one already, do not
    /// sleep.
    pub fn will_sleep(&mut self) -> Result<bool, RingError> {
        if !self.memory.is_there() {
            return Err(RingError::Unmapped);
        }
        let flag = self.place.control + CONSUMER_WAITS;
        self.memory.swap(flag, 1);
        self.memory.fence();
        let some = self.filled()? > 0;
        if some {
            self.memory.swap(flag, 0);
        }
        Ok(some)
    }

    /// Bytes that wait to be taken out.
    pub fn depth_bytes(&mut self) -> u32 {
        match self.memory.is_there().then(|| self.filled()) {
            Some(Ok(filled)) => filled,
            Some(Err(_)) | None => 0,
        }
    }

    fn copy_out(&self, index: u32, bytes: &mut [u8]) {
        let at = (index & (self.place.bytes - 1)) as usize;
        let first = bytes.len().min(self.place.bytes as usize - at);
        let (first, second) = bytes.split_at_mut(first);
        self.memory.read(self.place.data + at, first);
        if !second.is_empty() {
            self.memory.read(self.place.data, second);
        }
    }
}
