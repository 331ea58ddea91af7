//! Reading: who takes the host's frames off the stream.
//!
//! in: bytes; out: the ends of calls. Owner: whoever waits. Of the threads that wait for replies one
//! reads for all of them, until it has its own: so a single caller gets its reply without a change of
//! threads. Calls and queues that nobody waits for have a thread of their own read, from the first of
//! them on. Kept: while anybody waits, somebody reads. Bound: one reader; as many waiting threads as
//! there are callers.

use std::io::Read;
use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, TryLockError, Weak};
use std::thread::Thread;

use super::Shared;
use crate::calls::Outcome;
use crate::error::RpcError;
use crate::frame::Decoder;
use crate::queue::lock;

pub(super) struct Reading {
    reader: Arc<Mutex<Reader>>,
    /// A thread reads, or is about to.
    has_thread: AtomicBool,
    /// Threads that wait while another one reads.
    waiting: Mutex<Vec<Thread>>,
}

struct Reader {
    stream: UnixStream,
    decoder: Decoder,
    chunk: Box<[u8]>,
}

/// Where a reply goes that a thread waits for.
pub(super) struct Reply {
    outcome: Mutex<Option<Outcome>>,
    thread: Thread,
}

impl Reply {
    /// For this thread.
    pub(super) fn new() -> Arc<Self> {
        Arc::new(Self { outcome: Mutex::new(None), thread: std::thread::current() })
    }

    pub(super) fn arrived(&self, outcome: Outcome) {
        *lock(&self.outcome) = Some(outcome);
        if self.thread.id() != std::thread::current().id() {
            self.thread.unpark();
        }
    }

    fn is_there(&self) -> bool {
        lock(&self.outcome).is_some()
    }
}

impl Reader {
    fn read(&mut self) -> Result<(), RpcError> {
        loop {
            match self.stream.read(&mut self.chunk) {
                Ok(0) => return Err(RpcError::Disconnected),
                Ok(n) => {
                    self.decoder.push(&self.chunk[..n]);
                    return Ok(());
                }
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
                Err(_) => return Err(RpcError::Disconnected),
            }
        }
    }

    /// Does what has arrived; ends everything when nothing more can.
    fn hand_out(&mut self, shared: &Shared, read: Result<(), RpcError>) -> Result<(), RpcError> {
        read.and_then(|()| {
            let taken = shared.calls.take_all(&mut self.decoder, &shared.queues);
            taken.map_err(|error| RpcError::Protocol(error.0))
        })
        .inspect_err(|error| shared.end(error))
    }
}

impl Reading {
    pub(super) fn new(stream: UnixStream) -> Self {
        let chunk = vec![0; 64 * 1024].into_boxed_slice();
        let reader = Reader { stream, decoder: Decoder::new(), chunk };
        Self {
            reader: Arc::new(Mutex::new(reader)),
            has_thread: AtomicBool::new(false),
            waiting: Mutex::default(),
        }
    }

    /// Waits for a reply, reading for others if nobody else does.
    pub(super) fn wait(&self, shared: &Shared, reply: &Reply) -> Outcome {
        loop {
            if let Some(outcome) = lock(&reply.outcome).take() {
                // Whoever was to read next may have been this thread.
                self.wake_one();
                return outcome;
            }
            self.read_until(shared, reply);
            if reply.is_there() {
                continue;
            }
            let this = std::thread::current();
            lock(&self.waiting).push(this.clone());
            // Only now is it certain that a reader that leaves wakes somebody.
            if !reply.is_there() && !self.is_free() {
                std::thread::park();
            }
            lock(&self.waiting).retain(|waiting| waiting.id() != this.id());
        }
    }

    /// Reads until the reply is there; not at all while somebody else reads.
    fn read_until(&self, shared: &Shared, reply: &Reply) {
        if self.has_thread.load(Ordering::Acquire) {
            return;
        }
        let mut reader = match self.reader.try_lock() {
            Ok(reader) => reader,
            Err(TryLockError::Poisoned(poisoned)) => poisoned.into_inner(),
            Err(TryLockError::WouldBlock) => return,
        };
        while !reply.is_there() {
            let read = reader.read();
            if reader.hand_out(shared, read).is_err() {
                return;
            }
        }
    }

    fn is_free(&self) -> bool {
        !self.has_thread.load(Ordering::Acquire)
            && !matches!(self.reader.try_lock(), Err(TryLockError::WouldBlock))
    }

    fn wake_one(&self) {
        if self.is_free()
            && let Some(next) = lock(&self.waiting).pop()
        {
            next.unpark();
        }
    }

    /// From now on replies, events and wake-ups are taken although nobody waits.
    pub(super) fn need_thread(&self, shared: &Arc<Shared>) -> Result<(), RpcError> {
        if self.has_thread.swap(true, Ordering::AcqRel) {
            return Ok(());
        }
        let (reader, shared) = (Arc::clone(&self.reader), Arc::downgrade(shared));
        let thread = std::thread::Builder::new().name("vmrpc-reader".to_owned());
        let started = thread.spawn(move || read_all(&reader, &shared));
        if started.is_err() {
            self.has_thread.store(false, Ordering::Release);
            self.wake_one();
        }
        started.map(drop).map_err(|_| RpcError::Disconnected)
    }
}

fn read_all(reader: &Mutex<Reader>, shared: &Weak<Shared>) {
    // A caller may still read, until it has its reply.
    let mut reader = lock(reader);
    loop {
        let read = reader.read();
        // The client does not live for its reader.
        let Some(shared) = shared.upgrade() else { return };
        if reader.hand_out(&shared, read).is_err() {
            return;
        }
    }
}
