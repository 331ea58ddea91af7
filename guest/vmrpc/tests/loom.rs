//! The wake-up protocol of the ring in every order that the memory model allows.
//!
//! Loom runs each model once per possible interleaving of the atomic operations and fences of
//! `queue::ring`, the same code that guest and host run.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::sync::Arc;

use loom::sync::Notify;
use loom::sync::atomic::{AtomicU32, Ordering, fence};
use outsock_vmrpc::queue::ring::{Consumer, Place, Placed, Producer, RingMemory};

/// Room for two records of eight bytes each way, so that a ring is soon full.
const RING: Place = Place { control: 0, data: 256, bytes: 32 };

/// Control words that loom watches; records, too: the models pass events of one word.
#[derive(Clone)]
struct Memory(Arc<Vec<AtomicU32>>);

impl Memory {
    fn new() -> Self {
        // Four control words and the ring.
        Self(Arc::new((0..4 + RING.bytes / 4).map(|_| AtomicU32::new(0)).collect()))
    }

    fn word(&self, at: usize) -> &AtomicU32 {
        &self.0[if at < RING.data { at / 64 } else { 4 + (at - RING.data) / 4 }]
    }
}

impl RingMemory for Memory {
    fn load(&self, at: usize) -> u32 {
        self.word(at).load(Ordering::Acquire)
    }

    fn store(&self, at: usize, value: u32) {
        self.word(at).store(value, Ordering::Release);
    }

    fn swap(&self, at: usize, value: u32) -> u32 {
        self.word(at).swap(value, Ordering::AcqRel)
    }

    fn fence(&self) {
        fence(Ordering::SeqCst);
    }

    fn read(&self, at: usize, into: &mut [u8]) {
        for (step, piece) in into.chunks_mut(4).enumerate() {
            piece.copy_from_slice(&self.word(at + 4 * step).load(Ordering::Relaxed).to_le_bytes());
        }
    }

    fn write(&self, at: usize, from: &[u8]) {
        for (step, piece) in from.chunks(4).enumerate() {
            let value = u32::from_le_bytes(piece.try_into().unwrap());
            self.word(at + 4 * step).store(value, Ordering::Relaxed);
        }
    }
}

/// Takes every event, sleeping when there is none; wakes a producer that sleeps.
fn consume(memory: Memory, events: u32, wake: &Notify, space: &Notify) {
    let mut consumer = Consumer::new(memory, RING);
    for expected in 0..events {
        let event = loop {
            if let Some(taken) = consumer.get().unwrap() {
                if taken.wake {
                    space.notify();
                }
                break taken.event;
            }
            if !consumer.will_sleep().unwrap() {
                wake.wait();
            }
        };
        assert_eq!(event, expected.to_le_bytes());
    }
}

/// A wake-up that is missed leaves the consumer asleep, which loom reports as a deadlock; an event
/// that is read before it was written has the wrong number.
#[test]
fn a_sleeping_consumer_is_always_woken() {
    let mut model = loom::model::Builder::new();
    model.preemption_bound = Some(4);
    model.check(|| {
        let memory = Memory::new();
        let (wake, space) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
        let (theirs, their_wake, their_space) =
            (memory.clone(), Arc::clone(&wake), Arc::clone(&space));
        let consumer = loom::thread::spawn(move || consume(theirs, 2, &their_wake, &their_space));
        let mut producer = Producer::new(memory, RING);
        for event in 0..2u32 {
            match producer.put(&event.to_le_bytes()).unwrap() {
                Placed::Taken { wake: true } => wake.notify(),
                Placed::Taken { wake: false } => {}
                Placed::Full => panic!("two fit"),
            }
        }
        consumer.join().unwrap();
    });
}

#[test]
fn a_sleeping_producer_is_always_woken() {
    let mut model = loom::model::Builder::new();
    model.preemption_bound = Some(3);
    model.check(|| {
        let memory = Memory::new();
        let (wake, space) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
        let (theirs, their_wake, their_space) =
            (memory.clone(), Arc::clone(&wake), Arc::clone(&space));
        let consumer = loom::thread::spawn(move || consume(theirs, 3, &their_wake, &their_space));
        let mut producer = Producer::new(memory, RING);
        for event in 0..3u32 {
            loop {
                match producer.put(&event.to_le_bytes()).unwrap() {
                    Placed::Taken { wake: true } => break wake.notify(),
                    Placed::Taken { wake: false } => break,
                    Placed::Full => {
                        if !producer.will_sleep(4).unwrap() {
                            space.wait();
                        }
                    }
                }
            }
        }
        consumer.join().unwrap();
    });
}

/// The models can fail: without the fences a wake-up is lost.
#[test]
#[should_panic]
fn without_fences_a_wake_up_is_lost() {
    #[derive(Clone)]
    struct Unfenced(Memory);
    impl RingMemory for Unfenced {
        fn load(&self, at: usize) -> u32 {
            self.0.load(at)
        }
        fn store(&self, at: usize, value: u32) {
            self.0.store(at, value);
        }
        fn swap(&self, at: usize, value: u32) -> u32 {
            self.0.swap(at, value)
        }
        fn fence(&self) {}
        fn read(&self, at: usize, into: &mut [u8]) {
            self.0.read(at, into);
        }
        fn write(&self, at: usize, from: &[u8]) {
            self.0.write(at, from);
        }
    }
    loom::model(|| {
        let memory = Unfenced(Memory::new());
        let wake = Arc::new(Notify::new());
        let (theirs, their_wake) = (memory.clone(), Arc::clone(&wake));
        let consumer = loom::thread::spawn(move || {
            let mut consumer = Consumer::new(theirs, RING);
            while consumer.get().unwrap().is_none() {
                if !consumer.will_sleep().unwrap() {
                    their_wake.wait();
                }
            }
        });
        let mut producer = Producer::new(memory, RING);
        if let Placed::Taken { wake: true } = producer.put(&7u32.to_le_bytes()).unwrap() {
            wake.notify();
        }
        consumer.join().unwrap();
    });
}
