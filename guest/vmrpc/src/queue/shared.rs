//! The shared form: a ring each way in pages of the guest.
//!
//! in: events of this side; out: events of the other. Owner: one [`super::Queue`]; each ring has a
//! lock of its own, so putting and getting do not wait for each other. Kept: both sides lay the
//! memory out alike ([`Layout`]). Bound: the layout.

use std::collections::VecDeque;
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
    side: Side,
    /// `None` once the memory is let go.
    producer: Mutex<Option<Producer<SharedMemory>>>,
    consumer: Mutex<Incoming>,
}

enum Incoming {
    Ring(Consumer<SharedMemory>),
    /// The memory is let go; what had arrived.
    Left(VecDeque<Vec<u8>>),
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
            side,
            producer: Mutex::new(Some(Producer::new(one, place(side, bytes)))),
            consumer: Mutex::new(Incoming::Ring(Consumer::new(two, place(other, bytes)))),
        }
    }

    /// Nobody puts in any more. On the host, when this returns, no thread touches the guest's memory or
    /// will: the guest may give it to somebody else. What had arrived is copied out before.
    pub(super) fn end(&self) {
        if self.side == Side::Guest {
            return;
        }
        *lock(&self.producer) = None;
        let mut incoming = lock(&self.consumer);
        if let Incoming::Ring(consumer) = &mut *incoming {
            let mut left = VecDeque::new();
            // What is there now: a guest that goes on putting in does not keep us here.
            let mut bytes = consumer.depth_bytes();
            while bytes > 0
                && let Ok(Some(taken)) = consumer.get()
            {
                bytes = bytes.saturating_sub(super::ring::cost(taken.event.len()).unwrap_or(bytes));
                left.push_back(taken.event);
            }
            *incoming = Incoming::Left(left);
        }
    }

    pub(super) fn put(&self, event: &[u8]) -> Result<Placed, RingError> {
        // The queue has ended, as the next look will say.
        lock(&self.producer).as_mut().map_or(Ok(Placed::Full), |producer| producer.put(event))
    }

    /// Puts in an event from before the ring was there, for which there is room. Whether to wake.
    pub(super) fn put_first(&self, event: &[u8]) -> bool {
        matches!(self.put(event), Ok(Placed::Taken { wake: true }))
    }

    pub(super) fn get(&self) -> Result<Option<Taken>, RingError> {
        match &mut *lock(&self.consumer) {
            Incoming::Ring(consumer) => consumer.get(),
            Incoming::Left(left) => Ok(left.pop_front().map(|event| Taken { event, wake: false })),
        }
    }

    pub(super) fn producer_will_sleep(&self, len: usize) -> Result<bool, RingError> {
        lock(&self.producer).as_mut().map_or(Ok(true), |producer| producer.will_sleep(len))
    }

    pub(super) fn consumer_will_sleep(&self) -> Result<bool, RingError> {
        match &mut *lock(&self.consumer) {
            Incoming::Ring(consumer) => consumer.will_sleep(),
            Incoming::Left(_) => Ok(true),
        }
    }

    pub(super) fn depth_bytes(&self) -> (u32, u32) {
        let incoming = match &mut *lock(&self.consumer) {
            Incoming::Ring(consumer) => consumer.depth_bytes(),
            Incoming::Left(left) => {
                left.iter().filter_map(|event| super::ring::cost(event.len())).sum()
            }
        };
        (incoming, lock(&self.producer).as_mut().map_or(0, Producer::depth_bytes))
    }
}
