//! The shared form: a ring each way in pages of the guest.
//!
//! in: events of this side; out: events of the other. Owner: one [`super::Queue`]; each ring has a
//! lock of its own, so putting and getting do not wait for each other. Kept: both sides lay the
//! memory out alike ([`Layout`]). Bound: the layout.

use std::sync::Mutex;

use super::ring::{CONTROL_BYTES, Consumer, Place, Placed, Producer, RingError, RingMemory, Taken};
use super::wait::lock;

/// Memory of a queue, as one side reaches it.
pub type SharedMemory = Box<dyn RingMemory>;

/// Bytes before the records: both control blocks, padded to a page so that records are aligned.
const RECORDS_AT: usize = 4096;

/// Which side this is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Side {
    Guest,
    Host,
}

/// Bytes of memory for a queue of so many bytes each way.
pub(crate) fn memory_bytes(bytes: u32) -> usize {
    RECORDS_AT + 2 * bytes as usize
}

fn place(from: Side, bytes: u32) -> Place {
    let second = usize::from(from == Side::Host);
    Place { control: second * CONTROL_BYTES, data: RECORDS_AT + second * bytes as usize, bytes }
}

pub(crate) struct Shared {
    producer: Mutex<Producer<SharedMemory>>,
    consumer: Mutex<Consumer<SharedMemory>>,
}

impl Shared {
    /// Both rings, empty. The two memories are the same one, reached twice.
    pub(crate) fn new(side: Side, bytes: u32, memories: [SharedMemory; 2]) -> Self {
        let other = match side {
            Side::Guest => Side::Host,
            Side::Host => Side::Guest,
        };
        let [one, two] = memories;
        Self {
            producer: Mutex::new(Producer::new(one, place(side, bytes))),
            consumer: Mutex::new(Consumer::new(two, place(other, bytes))),
        }
    }

    pub(super) fn put(&self, event: &[u8]) -> Result<Placed, RingError> {
        lock(&self.producer).put(event)
    }

    /// Puts in an event from before the ring was there, for which there is room. Whether to wake.
    pub(super) fn put_first(&self, event: &[u8]) -> bool {
        matches!(self.put(event), Ok(Placed::Taken { wake: true }))
    }

    pub(super) fn get(&self) -> Result<Option<Taken>, RingError> {
        lock(&self.consumer).get()
    }

    pub(super) fn producer_will_sleep(&self, len: usize) -> Result<bool, RingError> {
        lock(&self.producer).will_sleep(len)
    }

    pub(super) fn consumer_will_sleep(&self) -> Result<bool, RingError> {
        lock(&self.consumer).will_sleep()
    }

    pub(super) fn depth_bytes(&self) -> (u32, u32) {
        (lock(&self.consumer).depth_bytes(), lock(&self.producer).depth_bytes())
    }
}
