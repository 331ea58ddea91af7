//! One side of a queue, as both sides have it: form, waiters, end.
//!
//! in: events, frames of the other side; out: answers, frames. Owner: shared by the callers and the
//! stream's reader. Kept: who waits looks again after it has been added to the waiters, so that
//! nothing passes it by. Bound: the queue's bytes.

use std::sync::atomic::{AtomicU64, Ordering, fence};
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll};

use super::shared::Shared;
use super::stream::Stream;
use super::wait::Waiters;
use super::{Form, Put, QueueError, QueueId, QueueStatus, ring};
use crate::frame::{Body, Handle};
use crate::limits;

/// Sends frames to the other side. Never called with a lock that [`Queue::arrived`] takes.
pub(crate) trait Outbox: Send + Sync {
    /// Sends; whether the stream still lives.
    fn send(&self, body: Body) -> bool;
}

/// Counters of one queue, seen from this side.
#[derive(Debug, Default)]
pub(crate) struct Counters {
    put: AtomicU64,
    got: AtomicU64,
    wakes_sent: AtomicU64,
    wakes_received: AtomicU64,
}

/// A queue as both sides have it.
pub(crate) struct Queue {
    pub(crate) id: QueueId,
    /// On the host: the binding that it belongs to.
    #[cfg_attr(not(feature = "host"), allow(dead_code, reason = "the host's listings and ends"))]
    pub(crate) owner: Handle,
    bytes: u32,
    outbox: Arc<dyn Outbox>,
    shared: OnceLock<Shared>,
    stream: Stream,
    getters: Waiters,
    putters: Waiters,
    ended: OnceLock<QueueError>,
    pub(crate) counters: Counters,
}

impl std::fmt::Debug for Queue {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Queue").field("id", &self.id).field("bytes", &self.bytes).finish()
    }
}

/// Whether a queue may have that size.
pub(crate) fn is_size(bytes: u32) -> bool {
    bytes.is_power_of_two() && (limits::QUEUE_BYTES_MIN..=limits::QUEUE_BYTES_MAX).contains(&bytes)
}

impl Queue {
    /// A queue that is not open: what is put in waits here.
    pub(crate) fn new(
        id: QueueId,
        owner: Handle,
        bytes: u32,
        outbox: Arc<dyn Outbox>,
    ) -> Arc<Self> {
        Arc::new(Self {
            id,
            owner,
            bytes,
            outbox,
            shared: OnceLock::new(),
            stream: Stream::new(bytes),
            getters: Waiters::default(),
            putters: Waiters::default(),
            ended: OnceLock::new(),
            counters: Counters::default(),
        })
    }

    pub(crate) fn bytes(&self) -> u32 {
        self.bytes
    }

    /// The other side is there; from now on events travel as frames.
    pub(crate) fn open_stream(&self) {
        self.stream.open(|event| self.send_event(event));
    }

    /// The other side is there; from now on events travel through `shared`.
    pub(crate) fn open_shared(&self, shared: Shared) {
        let first = self.stream.open_elsewhere(|waiting| {
            let wake = waiting.iter().any(|event| shared.put_first(event));
            // Set only here, by whoever opens the queue, and a queue is opened once.
            let _ = self.shared.set(shared);
            wake
        });
        self.let_go_at_the_end();
        if first {
            self.wake_other_side();
        }
        self.getters.wake();
        self.putters.wake();
    }

    pub(crate) fn is_open(&self) -> bool {
        self.shared.get().is_some() || self.stream.is_open()
    }

    pub(crate) fn form(&self) -> Form {
        if self.shared.get().is_some() { Form::Shared } else { Form::Stream }
    }

    /// Nothing is put in any more; the first reason stays.
    pub(crate) fn end(&self, why: QueueError) {
        // The first reason stays.
        let _ = self.ended.set(why);
        self.let_go_at_the_end();
        self.getters.wake();
        self.putters.wake();
    }

    /// Called by whoever opens the queue and by whoever ends it, each after having said so: one of the
    /// two sees the other.
    fn let_go_at_the_end(&self) {
        fence(Ordering::SeqCst);
        if let (Some(shared), Some(_)) = (self.shared.get(), self.ended.get()) {
            shared.end();
        }
    }

    pub(crate) fn ended(&self) -> Option<QueueError> {
        self.ended.get().copied()
    }

    fn check(&self) -> Result<(), QueueError> {
        self.ended().map_or(Ok(()), Err)
    }

    fn send_event(&self, event: &[u8]) -> bool {
        self.outbox.send(Body::Event { queue: self.id, event: event.to_vec() })
    }

    fn wake_other_side(&self) {
        self.counters.wakes_sent.fetch_add(1, Ordering::Relaxed);
        // A stream that is dead ends the queue by itself.
        let _ = self.outbox.send(Body::Wake(self.id));
    }

    pub(crate) fn put(&self, event: &[u8]) -> Result<Put, QueueError> {
        self.check()?;
        let cost = ring::cost(event.len())
            .filter(|cost| *cost <= self.bytes / 2 && event.len() <= limits::PAYLOAD_BYTES_MAX);
        let Some(cost) = cost else { return Err(QueueError::TooLarge) };
        let placed = match self.shared.get() {
            Some(shared) => shared.put(event),
            None => match self.stream.put(event, cost, |event| self.send_event(event)) {
                Some(placed) => placed,
                // It was opened in the other form this moment.
                None => {
                    self.shared.get().map_or(Ok(ring::Placed::Full), |shared| shared.put(event))
                }
            },
        };
        match placed.map_err(|error| self.broke(error))? {
            ring::Placed::Full => Ok(Put::Full),
            ring::Placed::Taken { wake } => {
                self.counters.put.fetch_add(1, Ordering::Relaxed);
                if wake {
                    self.wake_other_side();
                }
                Ok(Put::Taken)
            }
        }
    }

    pub(crate) fn get(&self) -> Result<Option<Vec<u8>>, QueueError> {
        let event = match self.shared.get() {
            Some(shared) => {
                let taken = shared.get().map_err(|error| self.broke(error))?;
                if taken.as_ref().is_some_and(|taken| taken.wake) {
                    self.wake_other_side();
                }
                taken.map(|taken| taken.event)
            }
            None => {
                let (event, credit) = self.stream.get();
                if credit > 0 {
                    let _ = self.outbox.send(Body::Credit { queue: self.id, bytes: credit });
                }
                event
            }
        };
        match event {
            Some(event) => {
                self.counters.got.fetch_add(1, Ordering::Relaxed);
                Ok(Some(event))
            }
            None => self.check().map(|()| None),
        }
    }

    fn broke(&self, error: ring::RingError) -> QueueError {
        let why = match error {
            ring::RingError::Garbled => QueueError::Garbled,
            ring::RingError::Unmapped => QueueError::Unmapped,
        };
        self.end(why);
        self.ended().unwrap_or(why)
    }

    pub(crate) fn poll_put(
        &self,
        event: &[u8],
        context: &mut Context<'_>,
    ) -> Poll<Result<(), QueueError>> {
        loop {
            match self.put(event) {
                Ok(Put::Taken) => return Poll::Ready(Ok(())),
                Err(error) => return Poll::Ready(Err(error)),
                Ok(Put::Full) => {}
            }
            self.putters.add(context.waker());
            let again = match self.shared.get() {
                Some(shared) => shared.producer_will_sleep(event.len()),
                // Registered now: what comes from here on wakes us.
                None => Ok(self.stream.has_room(event.len())),
            };
            match again {
                Ok(true) => {}
                Ok(false) if self.ended().is_none() => return Poll::Pending,
                Ok(false) => {}
                Err(error) => return Poll::Ready(Err(self.broke(error))),
            }
        }
    }

    pub(crate) fn poll_get(&self, context: &mut Context<'_>) -> Poll<Result<Vec<u8>, QueueError>> {
        loop {
            match self.get() {
                Ok(Some(event)) => return Poll::Ready(Ok(event)),
                Err(error) => return Poll::Ready(Err(error)),
                Ok(None) => {}
            }
            self.getters.add(context.waker());
            let again = match self.shared.get() {
                Some(shared) => shared.consumer_will_sleep(),
                None => Ok(self.stream.has_event()),
            };
            match again {
                Ok(true) => {}
                Ok(false) if self.ended().is_none() => return Poll::Pending,
                Ok(false) => {}
                Err(error) => return Poll::Ready(Err(self.broke(error))),
            }
        }
    }

    /// An event frame came. `false`: the other side sent more than it may.
    pub(crate) fn arrived(&self, event: Vec<u8>) -> bool {
        let fits = self.stream.arrived(event);
        self.getters.wake();
        fits
    }

    /// Credit came back. `false`: more than was taken.
    pub(crate) fn credited(&self, bytes: u32) -> bool {
        let fits = self.stream.credited(bytes);
        self.putters.wake();
        fits
    }

    /// The other side says that there is something to see.
    pub(crate) fn woken(&self) {
        self.counters.wakes_received.fetch_add(1, Ordering::Relaxed);
        self.getters.wake();
        self.putters.wake();
    }

    pub(crate) fn status(&self) -> QueueStatus {
        let (to_take, to_send) = match self.shared.get() {
            Some(shared) => shared.depth_bytes(),
            None => self.stream.depth_bytes(),
        };
        let count = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        QueueStatus {
            id: self.id,
            form: self.is_open().then(|| self.form()),
            bytes: self.bytes,
            to_take_bytes: to_take,
            to_send_bytes: to_send,
            put: count(&self.counters.put),
            got: count(&self.counters.got),
            wakes_sent: count(&self.counters.wakes_sent),
            wakes_received: count(&self.counters.wakes_received),
        }
    }
}
