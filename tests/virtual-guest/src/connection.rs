//! Connection: a program's handle of one vsock connection.
//!
//! in: reads, writes, shutdowns of any thread; out: bytes and errors as a Linux program sees them.
//! Shared by its clones; the last one closes. Kept: a blocking write returns when everything is on
//! the ring or nothing more can be. Bound: the guest's patience per call.

use std::io::{self, Read, Write};
use std::net;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, sync_channel};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use outsock_core::address::ConnectionKey;
use outsock_core::packet::Shutdown;
use outsock_vmrpc::Errno;

use crate::buffer::Payload;
use crate::guest::Owner;
use crate::job::{Content, Job, StreamError, Transfer, Work};
use crate::socket::{BOTH, Failure, State};
use crate::stack::{CallError, SocketId, Stack};
use crate::worker::{BlockError, Shared, lock};

/// Why `connect()` failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ConnectError {
    /// The gateway answered RST.
    #[error("connection reset")]
    Reset,
    /// It did not answer.
    #[error("connection timed out")]
    TimedOut,
    /// It answered something that is no answer.
    #[error("protocol error")]
    Protocol,
    /// The backend is gone, or the device was reset.
    #[error("the gateway is gone")]
    Gone,
}

impl From<Failure> for ConnectError {
    fn from(failure: Failure) -> Self {
        match failure {
            Failure::Refused => Self::Reset,
            Failure::TimedOut => Self::TimedOut,
            Failure::Protocol | Failure::NoBufferSpace => Self::Protocol,
            Failure::TransportReset | Failure::Gone => Self::Gone,
        }
    }
}

/// A vsock connection. Clones are the same connection; the last one closes it.
#[derive(Clone, Debug)]
pub struct Connection {
    handle: Arc<Handle>,
}

#[derive(Debug)]
struct Handle {
    shared: Arc<Shared>,
    /// Keeps the guest alive. A pump's handle does without, so that it does not.
    owner: Option<Arc<Owner>>,
    id: SocketId,
    key: ConnectionKey,
    nonblocking: AtomicBool,
    patience: Mutex<Option<Duration>>,
    /// Another handle has taken over: this one's end means nothing.
    forgotten: AtomicBool,
}

impl Drop for Handle {
    fn drop(&mut self) {
        if self.forgotten.load(Ordering::Relaxed) {
            return;
        }
        let mut stack = self.shared.lock();
        stack.close(self.id);
        self.shared.settle(&mut stack);
    }
}

impl Connection {
    pub(crate) fn new(
        shared: Arc<Shared>,
        owner: Option<Arc<Owner>>,
        id: SocketId,
        key: ConnectionKey,
    ) -> Self {
        let patience = owner.as_ref().map(|owner| owner.patience);
        let nonblocking = AtomicBool::new(false);
        let patience = Mutex::new(patience);
        let forgotten = AtomicBool::new(false);
        let handle = Handle { shared, owner, id, key, nonblocking, patience, forgotten };
        Self { handle: Arc::new(handle) }
    }

    /// The ports of this connection.
    pub fn key(&self) -> ConnectionKey {
        self.handle.key
    }

    /// Another handle of the same connection.
    pub fn try_clone(&self) -> io::Result<Self> {
        Ok(self.clone())
    }

    /// Waits for the answer to REQUEST.
    pub fn wait_connected(&self) -> Result<(), ConnectError> {
        let id = self.handle.id;
        // The socket's own timer ends this wait.
        let outcome = self.shared().block_on(id, None, |stack| {
            let socket = stack.get(id).ok_or(CallError::NotConnected)?;
            match (socket.failure, socket.state) {
                (Some(failure), _) => Err(CallError::Failed(failure)),
                (None, State::Connecting { .. }) => Err(CallError::WouldBlock),
                (None, State::Connected | State::Closing { .. } | State::Done) => Ok(()),
            }
        });
        match outcome {
            Ok(()) => Ok(()),
            Err(BlockError::Call(CallError::Failed(failure))) => Err(failure.into()),
            Err(BlockError::Call(_)) => Err(ConnectError::Gone),
            Err(BlockError::TimedOut) => Err(ConnectError::TimedOut),
        }
    }

    /// Whether reads and writes fail with `WouldBlock` instead of waiting.
    pub fn set_nonblocking(&self, on: bool) {
        self.handle.nonblocking.store(on, Ordering::Relaxed);
    }

    /// How long reads and writes may block; `None` is for ever.
    pub fn set_patience(&self, patience: Option<Duration>) {
        *lock(&self.handle.patience) = patience;
    }

    /// Reads what is there, without waiting.
    pub fn try_read(&self, to: &mut [u8]) -> io::Result<usize> {
        self.read_with(to, true)
    }

    /// Writes what fits, without waiting.
    pub fn try_write(&self, bytes: &[u8]) -> io::Result<usize> {
        self.write_with(bytes, true)
    }

    /// Makes events under this name from now on; what is already true is an event, too.
    pub fn watch(&self, token: u64) {
        self.shared().lock().watch(self.handle.id, token);
    }

    /// `shutdown(2)`.
    pub fn shutdown(&self, how: net::Shutdown) -> io::Result<()> {
        let how = match how {
            net::Shutdown::Read => Shutdown { rcv: true, send: false },
            net::Shutdown::Write => Shutdown { rcv: false, send: true },
            net::Shutdown::Both => BOTH,
        };
        let mut stack = self.shared().lock();
        let outcome = stack.shutdown(self.handle.id, how);
        self.shared().settle(&mut stack);
        outcome.map_err(|error| io_error(BlockError::Call(error)))
    }

    /// Closes now, whoever else holds a clone: SHUTDOWN of both halves, then the wait for RST goes
    /// on without us.
    pub fn close(self) {
        let mut stack = self.shared().lock();
        stack.close(self.handle.id);
        self.shared().settle(&mut stack);
    }

    /// Sends RST at once.
    pub fn reset(&self) {
        let mut stack = self.shared().lock();
        stack.reset(self.handle.id);
        self.shared().settle(&mut stack);
    }

    /// Changes the receive buffer's size (`SO_VM_SOCKETS_BUFFER_SIZE`). The next packet tells.
    pub fn set_buf_alloc(&self, bytes: u32) {
        let mut stack = self.shared().lock();
        if let Some(socket) = stack.get(self.handle.id) {
            socket.credit.set_buf_alloc(bytes);
        }
        if stack.get(self.handle.id).is_some_and(|socket| socket.state == State::Connected) {
            // Linux announces a new buffer size at once.
            stack.send_credit_update(self.handle.id.index);
        }
        self.shared().settle(&mut stack);
    }

    /// Bytes sent and received so far.
    pub fn totals(&self) -> (u64, u64) {
        let mut stack = self.shared().lock();
        stack.get(self.handle.id).map_or((0, 0), |socket| socket.credit.totals())
    }

    /// Bytes and packets in the receive queue.
    pub fn queued(&self) -> (usize, usize) {
        let mut stack = self.shared().lock();
        stack
            .get(self.handle.id)
            .map_or((0, 0), |socket| (socket.queue.bytes(), socket.queue.packets()))
    }

    /// Bytes that may be sent now.
    pub fn credit(&self) -> u64 {
        let mut stack = self.shared().lock();
        stack.get(self.handle.id).map_or(0, |socket| socket.credit.space())
    }

    /// Whether the connection is over.
    pub fn is_done(&self) -> bool {
        let mut stack = self.shared().lock();
        stack.get(self.handle.id).is_none_or(|socket| socket.state == State::Done)
    }

    // === streams that run in the driver thread ===

    /// Sends `bytes` in messages of `message` bytes.
    pub fn send_stream(
        &self,
        bytes: u64,
        message: usize,
        content: Content,
    ) -> Result<Transfer, StreamError> {
        self.start_send(bytes, message, content).wait()
    }

    /// Receives `bytes`.
    pub fn receive_stream(&self, bytes: u64, content: Content) -> Result<Transfer, StreamError> {
        self.start_receive(Some(bytes), content).wait()
    }

    /// Sends and receives `bytes` back, `count` times, and times each.
    pub fn round_trips(
        &self,
        count: u64,
        bytes: usize,
        content: Content,
    ) -> Result<Transfer, StreamError> {
        let work = Work::RoundTrips { payload: bytes.max(1), sent_at: None, unsent: 0, missing: 0 };
        self.start(work, count, content).wait()
    }

    /// Starts [`Self::send_stream`].
    pub fn start_send(&self, bytes: u64, message: usize, content: Content) -> Running {
        let work = Work::Send { message: message.max(1), left_in_message: 0 };
        self.start(work, bytes, content)
    }

    /// Starts [`Self::receive_stream`]; without a number, to the end of the stream.
    pub fn start_receive(&self, bytes: Option<u64>, content: Content) -> Running {
        let work = Work::Receive { to_the_end: bytes.is_none() };
        self.start(work, bytes.unwrap_or(u64::MAX), content)
    }

    fn start(&self, work: Work, remaining: u64, content: Content) -> Running {
        let (sender, receiver) = sync_channel(1);
        let report =
            Transfer { bytes: 0, packets: 0, elapsed: Duration::ZERO, round_trips: Vec::new() };
        let job = Job {
            id: self.handle.id,
            work,
            content,
            remaining,
            report,
            started: Instant::now(),
            done: sender.clone(),
            error: None,
            dirty: false,
        };
        let mut stack = self.shared().lock();
        if let Err(error) = stack.start_job(job) {
            // The channel has room for one, and this is the first.
            let _ = sender.try_send(Err(error));
        }
        drop(stack);
        self.shared().wake();
        Running { done: receiver, connection: self.clone() }
    }

    fn shared(&self) -> &Arc<Shared> {
        &self.handle.shared
    }

    /// A handle that does not keep the guest alive.
    pub(crate) fn without_guest(&self) -> Option<Self> {
        let handle = &self.handle;
        // Two handles of one socket would close it twice; the first one must be the only one.
        let alone = Arc::strong_count(handle) == 1 && handle.owner.is_some();
        alone.then(|| Self::new(Arc::clone(&handle.shared), None, handle.id, handle.key))
    }

    /// Drops the handle without closing the socket.
    pub(crate) fn forget(self) {
        self.handle.forgotten.store(true, Ordering::Relaxed);
    }

    fn deadline(&self) -> Option<Instant> {
        lock(&self.handle.patience).map(|patience| Instant::now() + patience)
    }

    fn read_with(&self, to: &mut [u8], nonblocking: bool) -> io::Result<usize> {
        let id = self.handle.id;
        if to.is_empty() {
            return Ok(0);
        }
        if nonblocking {
            let mut stack = self.shared().lock();
            let outcome = stack.read(id, to);
            self.shared().settle(&mut stack);
            return outcome.map_err(|error| io_error(BlockError::Call(error)));
        }
        self.shared().block_on(id, self.deadline(), |stack| stack.read(id, to)).map_err(io_error)
    }

    fn write_with(&self, bytes: &[u8], nonblocking: bool) -> io::Result<usize> {
        let id = self.handle.id;
        let mut sent = 0;
        let attempt = |stack: &mut Stack| -> Result<(), CallError> {
            while sent < bytes.len() {
                sent += stack.write(id, Payload::Bytes(&bytes[sent..]))?;
            }
            Ok(())
        };
        let outcome = if nonblocking {
            let mut stack = self.shared().lock();
            let mut attempt = attempt;
            let outcome = attempt(&mut stack).map_err(BlockError::Call);
            self.shared().settle(&mut stack);
            outcome
        } else {
            self.shared().block_on(id, self.deadline(), attempt)
        };
        match outcome {
            Ok(()) => Ok(sent),
            Err(_) if sent > 0 => Ok(sent),
            Err(error) => Err(io_error(error)),
        }
    }
}

fn io_error(error: BlockError) -> io::Error {
    let errno = match error {
        BlockError::TimedOut => return io::ErrorKind::TimedOut.into(),
        BlockError::Call(CallError::WouldBlock) => Errno::EAGAIN,
        BlockError::Call(CallError::NotConnected) => Errno::ENOTCONN,
        BlockError::Call(CallError::BrokenPipe) => Errno::EPIPE,
        BlockError::Call(CallError::Failed(failure)) => match failure {
            Failure::Refused | Failure::TransportReset => Errno::ECONNRESET,
            Failure::TimedOut => Errno::ETIMEDOUT,
            Failure::Protocol => Errno::EPROTO,
            Failure::NoBufferSpace => Errno::ENOBUFS,
            Failure::Gone => Errno::ENODEV,
        },
    };
    errno.into()
}

impl Read for &Connection {
    fn read(&mut self, to: &mut [u8]) -> io::Result<usize> {
        self.read_with(to, self.handle.nonblocking.load(Ordering::Relaxed))
    }
}

impl Write for &Connection {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.write_with(bytes, self.handle.nonblocking.load(Ordering::Relaxed))
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Read for Connection {
    fn read(&mut self, to: &mut [u8]) -> io::Result<usize> {
        (&*self).read(to)
    }
}

impl Write for Connection {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        (&*self).write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// A stream under way in the driver thread. Dropping it does not stop the stream; closing the
/// connection does.
#[derive(Debug)]
pub struct Running {
    done: Receiver<Result<Transfer, StreamError>>,
    connection: Connection,
}

impl Running {
    /// Waits for the end, at most the guest's patience without progress.
    pub fn wait(self) -> Result<Transfer, StreamError> {
        let patience = *lock(&self.connection.handle.patience);
        let mut seen = self.connection.totals();
        loop {
            let outcome = match patience {
                Some(patience) => self.done.recv_timeout(patience),
                None => self.done.recv().map_err(|_| RecvTimeoutError::Disconnected),
            };
            match outcome {
                Ok(outcome) => return outcome,
                Err(RecvTimeoutError::Disconnected) => {
                    return Err(StreamError::NotConnected { after: seen.0.max(seen.1) });
                }
                Err(RecvTimeoutError::Timeout) => {
                    let now = self.connection.totals();
                    if now == seen {
                        return Err(StreamError::TimedOut);
                    }
                    seen = now;
                }
            }
        }
    }
}
