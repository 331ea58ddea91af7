//! Bridge: a bounded two-way byte ring between the vring worker and an async task.
//!
//! in: bytes copied out of guest memory by the worker, bytes written by the task; out: the same on
//! the other side. Owners: [`BridgeEnd`] is the worker's, [`BridgeStream`] the task's; they meet
//! under one short lock per direction. Keeps: a FIN and a reset stay apart; whoever is dropped
//! before both directions ended leaves a reset; a side that waits is woken once per change, a side
//! that does not wait is not. Bound: [`limits::BRIDGE_BYTES`] per direction, allocated on demand.

use std::collections::VecDeque;
use std::io;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};

use libc::iovec;
use outsock_vmrpc::Errno;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use vmm_sys_util::eventfd::EventFd;

use crate::limits;
use crate::pieces;

/// How one direction ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    Fin,
    Reset(Errno),
}

#[derive(Debug, Default)]
struct Pipe {
    bytes: VecDeque<u8>,
    end: Option<End>,
    /// The reader is gone: writing is pointless.
    reader_gone: bool,
    /// The async side waits for a change of this direction.
    waker: Option<Waker>,
    /// The worker waits for room in this direction.
    worker_waits: bool,
}

impl Pipe {
    fn room(&self) -> usize {
        limits::BRIDGE_BYTES - self.bytes.len().min(limits::BRIDGE_BYTES)
    }

    /// Whether it is worth while to wake somebody who waits for room: woken for each piece, he would put
    /// in just that and sleep again.
    fn is_half_empty(&self) -> bool {
        self.bytes.len() <= limits::BRIDGE_BYTES / 2
    }

    fn release_if_empty(&mut self) {
        if self.bytes.is_empty() && self.bytes.capacity() > 4096 {
            self.bytes = VecDeque::new();
        }
    }
}

/// Where bridges ring when their worker has something to do.
#[derive(Debug)]
pub(crate) struct Bells {
    rung: Mutex<Vec<u64>>,
    event: EventFd,
}

impl Bells {
    pub(crate) fn new(event: EventFd) -> Arc<Self> {
        Arc::new(Self { rung: Mutex::new(Vec::new()), event })
    }

    fn ring(&self, key: u64) {
        let mut rung = lock(&self.rung);
        rung.push(key);
        if rung.len() == 1 {
            // The counter is full only when the worker has not looked for 2^64 rings.
            let _ = self.event.write(1);
        }
    }

    /// The keys of all bridges that rang since the last call. At most one per bridge.
    pub(crate) fn take(&self) -> Vec<u64> {
        std::mem::take(&mut *lock(&self.rung))
    }
}

const NOT_ATTACHED: u64 = u64::MAX;

#[derive(Debug)]
struct Shared {
    to_task: Mutex<Pipe>,
    to_worker: Mutex<Pipe>,
    bells: Arc<Bells>,
    key: AtomicU64,
    ringing: AtomicBool,
}

impl Shared {
    fn ring(&self) {
        let key = self.key.load(Ordering::Acquire);
        if key != NOT_ATTACHED && !self.ringing.swap(true, Ordering::AcqRel) {
            self.bells.ring(key);
        }
    }
}

/// Nothing that can panic runs under these locks, so poison means nothing.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A new bridge whose worker listens at `bells`.
pub(crate) fn bridge(bells: &Arc<Bells>) -> (BridgeEnd, BridgeStream) {
    let shared = Arc::new(Shared {
        to_task: Mutex::default(),
        to_worker: Mutex::default(),
        bells: Arc::clone(bells),
        key: AtomicU64::new(NOT_ATTACHED),
        ringing: AtomicBool::new(false),
    });
    (BridgeEnd { shared: Arc::clone(&shared) }, BridgeStream { shared })
}

/// The worker's side. Never blocks.
#[derive(Debug)]
pub(crate) struct BridgeEnd {
    shared: Arc<Shared>,
}

impl BridgeEnd {
    /// From now on the bridge rings with `key`. Look at it once after this.
    pub(crate) fn attach(&self, key: u64) {
        self.shared.key.store(key, Ordering::Release);
    }

    /// The worker heard the bell and looks now.
    pub(crate) fn heard(&self) {
        self.shared.ringing.store(false, Ordering::Release);
    }

    /// Takes bytes of the task into `pieces`; 0 is its FIN.
    pub(crate) fn read(&self, pieces: &[iovec]) -> io::Result<usize> {
        let mut pipe = lock(&self.shared.to_worker);
        if let Some(End::Reset(errno)) = pipe.end {
            return Err(errno.into());
        }
        if pipe.bytes.is_empty() {
            if pipe.end == Some(End::Fin) {
                return Ok(0);
            }
            return Err(io::ErrorKind::WouldBlock.into());
        }
        let (first, second) = pipe.bytes.as_slices();
        let copied = pieces::fill(pieces, [first, second]);
        pipe.bytes.drain(..copied);
        pipe.release_if_empty();
        if pipe.is_half_empty() {
            wake(pipe);
        }
        Ok(copied)
    }

    /// Whether a read would give something.
    pub(crate) fn has_news(&self) -> bool {
        let pipe = lock(&self.shared.to_worker);
        !pipe.bytes.is_empty() || pipe.end.is_some()
    }

    /// Gives bytes to the task.
    pub(crate) fn write(&self, pieces: &[iovec]) -> io::Result<usize> {
        let mut pipe = lock(&self.shared.to_task);
        if pipe.reader_gone {
            return Err(io::ErrorKind::BrokenPipe.into());
        }
        let room = pipe.room();
        if room == 0 {
            pipe.worker_waits = true;
            return Err(io::ErrorKind::WouldBlock.into());
        }
        let copied = pieces::take(pieces, room, &mut pipe.bytes);
        pipe.worker_waits = copied < pieces::len(pieces);
        wake(pipe);
        Ok(copied)
    }

    /// FIN to the task.
    pub(crate) fn finish_write(&self) {
        end(&self.shared.to_task, End::Fin);
    }

    /// Resets both directions.
    pub(crate) fn reset(&self, errno: Errno) {
        end(&self.shared.to_task, End::Reset(errno));
        let mut pipe = lock(&self.shared.to_worker);
        pipe.reader_gone = true;
        wake(pipe);
    }
}

impl Drop for BridgeEnd {
    fn drop(&mut self) {
        self.reset(Errno::ECONNRESET);
    }
}

fn end(pipe: &Mutex<Pipe>, end: End) {
    let mut pipe = lock(pipe);
    if pipe.end.is_none() {
        pipe.end = Some(end);
        if matches!(end, End::Reset(_)) {
            pipe.bytes = VecDeque::new();
        }
        wake(pipe);
    }
}

/// Wakes the task, outside the lock.
fn wake(mut pipe: MutexGuard<'_, Pipe>) {
    let waker = pipe.waker.take();
    drop(pipe);
    if let Some(waker) = waker {
        waker.wake();
    }
}

/// The async task's side: a byte stream to and from the guest.
///
/// Reading `Ok(0)` is the guest's FIN; a reset is an error. Shutting down sends FIN to the guest.
/// Dropped before both directions have ended, it resets the guest's connection.
#[derive(Debug)]
pub struct BridgeStream {
    shared: Arc<Shared>,
}

impl BridgeStream {
    /// Aborts both directions: the guest's connection is reset.
    pub fn reset(self, errno: Errno) {
        end(&self.shared.to_worker, End::Reset(errno));
    }
}

impl Drop for BridgeStream {
    fn drop(&mut self) {
        lock(&self.shared.to_task).reader_gone = true;
        // After our FIN this changes nothing: bytes and FIN still go out, and the guest learns
        // that nobody reads any more when it writes, as with TCP.
        end(&self.shared.to_worker, End::Reset(Errno::ECONNRESET));
        self.shared.ring();
    }
}

impl AsyncRead for BridgeStream {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let mut pipe = lock(&self.shared.to_task);
        if pipe.bytes.is_empty() {
            match pipe.end {
                Some(End::Fin) => return Poll::Ready(Ok(())),
                Some(End::Reset(errno)) => return Poll::Ready(Err(errno.into())),
                None => {
                    pipe.waker = Some(cx.waker().clone());
                    return Poll::Pending;
                }
            }
        }
        let (first, second) = pipe.bytes.as_slices();
        let from_first = first.len().min(buf.remaining());
        buf.put_slice(&first[..from_first]);
        let from_second = second.len().min(buf.remaining());
        buf.put_slice(&second[..from_second]);
        pipe.bytes.drain(..from_first + from_second);
        pipe.release_if_empty();
        let ring = pipe.is_half_empty() && std::mem::take(&mut pipe.worker_waits);
        drop(pipe);
        if ring {
            self.shared.ring();
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for BridgeStream {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let mut pipe = lock(&self.shared.to_worker);
        if pipe.reader_gone || pipe.end.is_some() {
            return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()));
        }
        let n = pipe.room().min(bytes.len());
        if n == 0 && !bytes.is_empty() {
            pipe.waker = Some(cx.waker().clone());
            return Poll::Pending;
        }
        // As long as there are bytes the worker comes again by itself ([`BridgeEnd::has_news`]).
        let ring = pipe.bytes.is_empty() && n > 0;
        pipe.bytes.extend(&bytes[..n]);
        drop(pipe);
        if ring {
            self.shared.ring();
        }
        Poll::Ready(Ok(n))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        end(&self.shared.to_worker, End::Fin);
        self.shared.ring();
        Poll::Ready(Ok(()))
    }
}

#[cfg(test)]
mod tests;
