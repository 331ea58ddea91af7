//! Whatever a hostile side writes over a ring, at any moment: events, or an error; never a panic, never an
//! access outside of the ring.
#![no_main]

use std::sync::{Arc, Mutex, MutexGuard};

use libfuzzer_sys::fuzz_target;
use outsock_vmrpc::queue::ring::{Consumer, Place, Producer, RingMemory};

const BYTES: u32 = 4096;
const PLACE: Place = Place { control: 0, data: 256, bytes: BYTES };

/// One thread has all sides of it.
#[derive(Clone)]
struct Memory(Arc<Mutex<Vec<u8>>>);

impl Memory {
    fn bytes(&self) -> MutexGuard<'_, Vec<u8>> {
        self.0.lock().expect("nobody panics with it")
    }
}

impl RingMemory for Memory {
    fn load(&self, at: usize) -> u32 {
        let bytes = self.bytes()[at..at + 4].try_into().expect("four bytes");
        u32::from_le_bytes(bytes)
    }

    fn store(&self, at: usize, value: u32) {
        self.write(at, &value.to_le_bytes());
    }

    fn swap(&self, at: usize, value: u32) -> u32 {
        let old = self.load(at);
        self.store(at, value);
        old
    }

    fn fence(&self) {}

    fn read(&self, at: usize, into: &mut [u8]) {
        into.copy_from_slice(&self.bytes()[at..at + into.len()]);
    }

    fn write(&self, at: usize, from: &[u8]) {
        self.bytes()[at..at + from.len()].copy_from_slice(from);
    }
}

fuzz_target!(|steps: Vec<(u8, u16, u32)>| {
    let memory = Memory(Arc::new(Mutex::new(vec![0; 256 + BYTES as usize])));
    let mut producer = Producer::new(memory.clone(), PLACE);
    let mut consumer = Consumer::new(memory.clone(), PLACE);
    for (what, at, value) in steps {
        match what % 5 {
            0 => _ = producer.put(&vec![what; usize::from(at)]),
            1 => {
                if let Ok(Some(taken)) = consumer.get() {
                    assert!(taken.event.len() <= BYTES as usize);
                }
            }
            2 => _ = producer.will_sleep(usize::from(at)),
            3 => _ = consumer.will_sleep(),
            _ => memory.store(usize::from(at) % (256 + BYTES as usize - 4), value),
        }
        assert!(consumer.depth_bytes() <= BYTES);
        assert!(producer.depth_bytes() <= BYTES);
    }
});
