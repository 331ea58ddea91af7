//! The ring by itself: any order of puts and gets, and whatever a hostile side may write.

use outsock_vmrpc::pages::PageSource;
use outsock_vmrpc::queue::ring::{Consumer, Place, Placed, Producer, RingMemory};
use proptest::prelude::*;

use crate::memory::{Guest, Memory};

const BYTES: u32 = 4096;
const PLACE: Place = Place { control: 256, data: 4096, bytes: BYTES };

fn memory() -> (Guest, Memory) {
    let guest = Guest::default();
    guest.pin(4096 + BYTES as usize).unwrap();
    let memory = guest.any();
    (guest, memory)
}

proptest! {
    #[test]
    fn events_come_out_as_they_went_in(
        steps in proptest::collection::vec(proptest::option::of(0usize..2000), 1..300),
    ) {
        let (_guest, memory) = memory();
        let mut producer = Producer::new(memory.clone(), PLACE);
        let mut consumer = Consumer::new(memory, PLACE);
        let mut model = std::collections::VecDeque::new();
        let mut number = 0u8;
        for step in steps {
            match step {
                Some(len) => {
                    number = number.wrapping_add(1);
                    let event = vec![number; len];
                    match producer.put(&event).unwrap() {
                        Placed::Taken { wake } => {
                            prop_assert!(!wake, "nobody sleeps");
                            model.push_back(event);
                        }
                        Placed::Full => {
                            let used: usize =
                                model.iter().map(|event| event.len().next_multiple_of(8) + 8).sum();
                            prop_assert!(used + len.next_multiple_of(8) + 8 > BYTES as usize);
                        }
                    }
                }
                None => {
                    let taken = consumer.get().unwrap().map(|taken| taken.event);
                    prop_assert_eq!(taken, model.pop_front());
                }
            }
        }
    }

    /// Whatever is written over the ring, at any moment: answers or an error, never a panic, never
    /// more than the ring holds.
    #[test]
    fn any_contents_are_survived(
        steps in proptest::collection::vec((0usize..8, any::<u32>(), 0usize..200), 1..200),
    ) {
        let (_guest, memory) = memory();
        let mut producer = Producer::new(memory.clone(), PLACE);
        let mut consumer = Consumer::new(memory.clone(), PLACE);
        for (what, value, len) in steps {
            match what {
                0 => { let _ = producer.put(&vec![1; len]); }
                1 => {
                    if let Ok(Some(taken)) = consumer.get() {
                        prop_assert!(taken.event.len() <= BYTES as usize);
                    }
                }
                2 => { let _ = producer.will_sleep(len); }
                3 => { let _ = consumer.will_sleep(); }
                4 => memory.store(PLACE.control, value % (2 * BYTES)),
                5 => memory.store(PLACE.control + 64, value % (2 * BYTES)),
                6 => memory.store(PLACE.control + 64 * (value as usize % 4), value),
                _ => memory.store(PLACE.data + (value as usize % (BYTES as usize)) / 4 * 4, value),
            }
            prop_assert!(consumer.depth_bytes() <= BYTES);
            prop_assert!(producer.depth_bytes() <= BYTES);
        }
    }
}
