//! Table: the event queues of one stream, by number.
//!
//! in: event, credit and wake frames; out: what they mean for their queue. Owner: shared by the
//! stream's reader and whoever opens and closes queues. Kept: a frame for a queue that was closed
//! meanwhile is dropped. Bounds: [`limits::QUEUES_PER_STREAM_MAX`],
//! [`limits::QUEUE_BYTES_PER_STREAM_MAX`].

use std::collections::HashMap;
use std::sync::{Arc, Mutex};

use super::wait::lock;
use super::{Outbox, Queue, QueueError, QueueId, is_size};
use crate::frame::{FrameError, Handle};
use crate::limits;

#[derive(Debug)]
pub(crate) struct Table {
    queues: Mutex<Queues>,
    queues_max: usize,
    bytes_max: u32,
}

#[derive(Debug, Default)]
struct Queues {
    last: u32,
    bytes: u32,
    /// The stream is gone: nothing is added any more.
    over: bool,
    by_id: HashMap<QueueId, Arc<Queue>>,
}

impl Table {
    /// For the stream of a guest.
    pub(crate) fn of_a_stream() -> Self {
        Self::new(limits::QUEUES_PER_STREAM_MAX, limits::QUEUE_BYTES_PER_STREAM_MAX)
    }

    pub(crate) fn new(queues_max: usize, bytes_max: u32) -> Self {
        Self { queues: Mutex::default(), queues_max, bytes_max }
    }

    /// Makes a queue under a new number, or under one that the other side gave.
    pub(crate) fn make(
        &self,
        id: Option<QueueId>,
        owner: Handle,
        bytes: u32,
        outbox: Arc<dyn Outbox>,
    ) -> Result<Arc<Queue>, QueueError> {
        let mut queues = lock(&self.queues);
        if queues.over {
            return Err(QueueError::Disconnected);
        }
        let all = queues.bytes.saturating_add(bytes);
        if !is_size(bytes) || queues.by_id.len() >= self.queues_max || all > self.bytes_max {
            return Err(QueueError::TooMany);
        }
        let id = id.unwrap_or_else(|| {
            // The upper half is for numbers that were agreed on. At most as many tries as there are
            // queues.
            let free = |id: &QueueId| !queues.by_id.contains_key(id);
            let number = |step| QueueId(queues.last.wrapping_add(step) & !limits::QUEUE_ID_AGREED);
            let next = (1..).map(number).find(free);
            next.unwrap_or(QueueId(0))
        });
        if queues.by_id.contains_key(&id) {
            return Err(QueueError::TooMany);
        }
        let queue = Queue::new(id, owner, bytes, outbox);
        if id.0 & limits::QUEUE_ID_AGREED == 0 {
            queues.last = id.0;
        }
        queues.bytes = all;
        queues.by_id.insert(id, Arc::clone(&queue));
        Ok(queue)
    }

    pub(crate) fn find(&self, id: QueueId) -> Option<Arc<Queue>> {
        lock(&self.queues).by_id.get(&id).cloned()
    }

    /// Takes a queue off the stream.
    pub(crate) fn remove(&self, id: QueueId, why: QueueError) -> Option<Arc<Queue>> {
        let removed = {
            let mut queues = lock(&self.queues);
            let removed = queues.by_id.remove(&id);
            if let Some(queue) = &removed {
                queues.bytes -= queue.bytes();
            }
            removed
        };
        removed.inspect(|queue| queue.end(why))
    }

    /// The queues of one binding.
    #[cfg_attr(not(feature = "host"), allow(dead_code, reason = "the host's listings and ends"))]
    pub(crate) fn of(&self, owner: Handle) -> Vec<Arc<Queue>> {
        let queues = lock(&self.queues);
        let mut of: Vec<_> =
            queues.by_id.values().filter(|queue| queue.owner == owner).cloned().collect();
        of.sort_by_key(|queue| queue.id);
        of
    }

    /// The stream is gone.
    pub(crate) fn end(&self) {
        let all = {
            let mut queues = lock(&self.queues);
            queues.over = true;
            queues.bytes = 0;
            std::mem::take(&mut queues.by_id)
        };
        all.into_values().for_each(|queue| queue.end(QueueError::Disconnected));
    }

    pub(crate) fn event(&self, id: QueueId, event: Vec<u8>) -> Result<(), FrameError> {
        match self.find(id) {
            Some(queue) if !queue.arrived(event) => Err(FrameError("an event beyond the credit")),
            Some(_) | None => Ok(()),
        }
    }

    pub(crate) fn credit(&self, id: QueueId, bytes: u32) -> Result<(), FrameError> {
        match self.find(id) {
            Some(queue) if !queue.credited(bytes) => Err(FrameError("credit for nothing")),
            Some(_) | None => Ok(()),
        }
    }

    pub(crate) fn wake(&self, id: QueueId) {
        if let Some(queue) = self.find(id) {
            queue.woken();
        }
    }
}
