//! Event queues: bounded, both ways, between a host module and one guest.
//!
//! in: events (bytes) at one side; out: the same events at the other, in order. Two forms with the
//! same calls: rings in guest memory ([`ring`]), which take no transition between guest and host
//! while both sides are awake, and frames on the VM RPC stream, for guests that may not name their
//! pages. Owner: any thread or task of either side. Kept: `Full` and `None` are answers, not waits;
//! an event that was taken is delivered unless the stream or the module dies. Bounds:
//! [`limits::QUEUE_BYTES_MAX`] per direction, [`limits::QUEUES_PER_STREAM_MAX`].
//!
//! | Module | What it holds |
//! |---|---|
//! | [`ring`] | one direction in shared memory |
//! | `shared`, `stream` | the two forms |
//! | `side` | one side of a queue, in either form |
//! | `wait` | who waits, and how a thread does |
//! | `table` | the queues of one stream |

pub mod ring;
pub(crate) mod shared;
mod side;
mod stream;
pub(crate) mod table;
mod wait;

use std::future::poll_fn;
use std::sync::Arc;
use std::time::{Duration, Instant};

#[cfg(doc)]
use crate::limits;
use crate::wire::{Malformed, Reader, Writer};
pub(crate) use side::{Outbox, Queue, is_size};
pub(crate) use wait::lock;

/// Names an event queue on its stream. Given out by the host.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct QueueId(pub u32);

/// What a guest needs to open a queue that a module made: the module passes it on in a result.
///
/// ```
/// use outsock_vmrpc::queue::{QueueId, Ticket};
/// let ticket = Ticket { queue: QueueId(7), bytes: 65_536 };
/// assert_eq!(Ticket::decode(&ticket.encode()), Ok(ticket));
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ticket {
    /// The queue.
    pub queue: QueueId,
    /// Bytes of each direction.
    pub bytes: u32,
}

impl Ticket {
    /// Eight bytes.
    pub fn encode(self) -> Vec<u8> {
        Writer::new().u32(self.queue.0).u32(self.bytes).finish()
    }

    /// From eight bytes.
    pub fn decode(bytes: &[u8]) -> Result<Self, Malformed> {
        let mut reader = Reader::new(bytes);
        let ticket = Self { queue: QueueId(reader.u32()?), bytes: reader.u32()? };
        reader.finish()?;
        Ok(ticket)
    }
}

/// How a queue's events travel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// Through rings in pages of the guest.
    Shared,
    /// As frames on the stream.
    Stream,
}

impl std::fmt::Display for Form {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Shared => "shared memory",
            Self::Stream => "stream",
        })
    }
}

/// What became of an event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use = "an event that met a full queue was not taken"]
pub enum Put {
    /// The queue has it.
    Taken,
    /// There is no room now.
    Full,
}

/// Why a queue takes and gives no more events. Events that had arrived before can still be taken
/// out; then every call gives this.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum QueueError {
    /// The event is longer than half of the queue, or than a frame.
    #[error("the event is longer than half of the queue or than 65,536 bytes")]
    TooLarge,
    /// The module deleted the queue, or this side closed it.
    #[error("the event queue was deleted")]
    Deleted,
    /// The module went away or may not be used by this guest any more.
    #[error("the event queue's host module is gone")]
    ModuleGone,
    /// The stream ended: the gateway is gone, or the guest is.
    #[error("the other side of the event queue is gone")]
    Disconnected,
    /// The other side wrote nonsense into the shared memory.
    #[error("the other side garbled the event queue")]
    Garbled,
    /// The guest's memory is no longer where it was.
    #[error("the event queue's memory is gone")]
    Unmapped,
    /// Nothing happened for as long as the caller wanted to wait.
    #[error("timed out")]
    TimedOut,
    /// One of the limits of this stream is reached, or the size is none that a queue may have.
    #[error("too many or too large event queues on this stream")]
    TooMany,
}

impl QueueError {
    /// As it stands on the wire when the host closes a queue.
    pub(crate) fn code(self) -> u32 {
        match self {
            Self::ModuleGone => 1,
            Self::Garbled => 2,
            Self::Unmapped => 3,
            Self::Deleted
            | Self::TooLarge
            | Self::Disconnected
            | Self::TimedOut
            | Self::TooMany => 0,
        }
    }

    pub(crate) fn from_code(code: u32) -> Self {
        match code {
            1 => Self::ModuleGone,
            2 => Self::Garbled,
            3 => Self::Unmapped,
            _ => Self::Deleted,
        }
    }
}

/// What a queue looks like from one side, at this moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct QueueStatus {
    /// The queue.
    pub id: QueueId,
    /// How its events travel; `None` until the guest opened it.
    pub form: Option<Form>,
    /// Bytes of each direction.
    pub bytes: u32,
    /// Bytes that wait for this side.
    pub to_take_bytes: u32,
    /// Bytes that wait for the other side.
    pub to_send_bytes: u32,
    /// Events that this side has put in.
    pub put: u64,
    /// Events that this side has taken out.
    pub got: u64,
    /// Messages sent to wake the other side. Only in the shared form.
    pub wakes_sent: u64,
    /// Messages that woke this side.
    pub wakes_received: u64,
}

/// One side of an event queue. Clones are the same side; dropping the last one deletes the queue
/// (on the host, `del_ev_queue`) or closes it (in the guest).
#[derive(Clone, Debug)]
pub struct EventQueue {
    owner: Arc<Owner>,
}

struct Owner {
    queue: Arc<Queue>,
    /// The guest's number for it.
    ticket: QueueId,
    close: Close,
}

/// Takes a queue off its stream.
type Close = Box<dyn Fn(&Queue, QueueError) + Send + Sync>;

impl std::fmt::Debug for Owner {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.queue.fmt(f)
    }
}

impl Drop for Owner {
    fn drop(&mut self) {
        (self.close)(&self.queue, QueueError::Deleted);
    }
}

impl EventQueue {
    pub(crate) fn new(
        queue: Arc<Queue>,
        ticket: QueueId,
        close: impl Fn(&Queue, QueueError) + Send + Sync + 'static,
    ) -> Self {
        Self { owner: Arc::new(Owner { queue, ticket, close: Box::new(close) }) }
    }

    /// Deletes the queue and says why.
    #[cfg(feature = "host")]
    pub(crate) fn end(&self, why: QueueError) {
        (self.owner.close)(self.queue(), why);
    }

    fn queue(&self) -> &Queue {
        &self.owner.queue
    }

    /// What the guest needs to open this queue.
    pub fn ticket(&self) -> Ticket {
        Ticket { queue: self.owner.ticket, bytes: self.queue().bytes() }
    }

    /// How events travel. On the host `Stream` until the guest has opened the queue.
    pub fn form(&self) -> Form {
        self.queue().form()
    }

    /// Counters and depths of this moment.
    pub fn status(&self) -> QueueStatus {
        self.queue().status()
    }

    /// Puts an event in, if there is room. Does not wait.
    pub fn put_event(&self, event: &[u8]) -> Result<Put, QueueError> {
        self.queue().put(event)
    }

    /// Takes the next event out; `None` when there is none. Does not wait.
    pub fn get_event(&self) -> Result<Option<Vec<u8>>, QueueError> {
        self.queue().get()
    }

    /// Puts an event in, waiting for room: at most `timeout`, or for as long as it takes. Blocks the
    /// thread, so no async task may call it.
    pub fn put_event_wait(
        &self,
        event: &[u8],
        timeout: Option<Duration>,
    ) -> Result<(), QueueError> {
        let queue = self.queue();
        let soon = || match queue.put(event) {
            Ok(Put::Full) => None,
            Ok(Put::Taken) => Some(Ok(())),
            Err(error) => Some(Err(error)),
        };
        wait::spin(self.form(), soon)
            .or_else(|| {
                let deadline = timeout.map(|timeout| Instant::now() + timeout);
                wait::block_on(deadline, |context| queue.poll_put(event, context))
            })
            .unwrap_or(Err(QueueError::TimedOut))
    }

    /// Takes the next event out, waiting for one: at most `timeout`, or for as long as it takes.
    /// Blocks the thread, so no async task may call it.
    pub fn get_event_wait(&self, timeout: Option<Duration>) -> Result<Vec<u8>, QueueError> {
        let queue = self.queue();
        wait::spin(self.form(), || queue.get().transpose())
            .or_else(|| {
                let deadline = timeout.map(|timeout| Instant::now() + timeout);
                wait::block_on(deadline, |context| queue.poll_get(context))
            })
            .unwrap_or(Err(QueueError::TimedOut))
    }

    /// Puts an event in once there is room. Works in any async runtime; dropping it puts nothing in.
    pub async fn put_event_async(&self, event: &[u8]) -> Result<(), QueueError> {
        let queue = self.queue();
        let soon = || match queue.put(event) {
            Ok(Put::Full) => None,
            Ok(Put::Taken) => Some(Ok(())),
            Err(error) => Some(Err(error)),
        };
        match wait::spin_async(self.form(), soon).await {
            Some(outcome) => outcome,
            None => poll_fn(|context| queue.poll_put(event, context)).await,
        }
    }

    /// Takes the next event out once there is one. Works in any async runtime; dropping it loses
    /// nothing.
    pub async fn get_event_async(&self) -> Result<Vec<u8>, QueueError> {
        let queue = self.queue();
        match wait::spin_async(self.form(), || queue.get().transpose()).await {
            Some(outcome) => outcome,
            None => poll_fn(|context| queue.poll_get(context)).await,
        }
    }

    /// Deletes the queue (on the host) or closes it (in the guest). The other side can still take
    /// out what arrived, then learns of it. Other clones of this side get [`QueueError::Deleted`].
    pub fn del_ev_queue(self) {
        (self.owner.close)(self.queue(), QueueError::Deleted);
    }
}
