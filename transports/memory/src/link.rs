//! Link: one connection, two pipes with honest ends.
//!
//! in:  reads, writes, shutdowns, resets and drops of two [`End`]s
//! out: the same at the other end, as far as the path's faults let it through
//! owner: the two ends share it; one lock for both pipes, never held over an await
//! keeps: a pipe ends with a FIN after all its bytes, or with an errno, and says so to each read
//! bound: [`limits::PIPE_BYTES`] per direction

use std::collections::VecDeque;
use std::fmt;
use std::io;
use std::num::NonZeroUsize;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};

use outsock_transport::{AsyncStream, Errno};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::faults::{Faults, Lane};
use crate::limits;
use crate::path::Path;

/// The two ends of a connection over this path: the dialer's and the listener's.
pub(crate) fn connect(path: &Arc<Path>) -> (End, End) {
    let link = Arc::new(Link { path: Arc::clone(path), pipes: Mutex::default() });
    path.remember(&link);
    let dialer = End { link: Arc::clone(&link), side: Side::Dialer };
    (dialer, End { link, side: Side::Listener })
}

pub(crate) struct Link {
    path: Arc<Path>,
    pipes: Mutex<Pipes>,
}

#[derive(Default)]
struct Pipes {
    to_listener: Pipe,
    to_dialer: Pipe,
}

#[derive(Default)]
struct Pipe {
    bytes: VecDeque<u8>,
    end: PipeEnd,
    /// Bytes that the reader got, for `reset_after`.
    delivered: u64,
    /// The reader closed its stream properly: further bytes are answered with a reset.
    reader_gone: bool,
    reader: Option<Waker>,
    writer: Option<Waker>,
}

#[derive(Clone, Copy, Default)]
enum PipeEnd {
    #[default]
    Open,
    Finished,
    Broken(Errno),
}

/// One end of a connection.
pub(crate) struct End {
    link: Arc<Link>,
    side: Side,
}

#[derive(Clone, Copy, Debug)]
enum Side {
    Dialer,
    Listener,
}

impl Link {
    fn lock(&self) -> MutexGuard<'_, Pipes> {
        self.pipes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Makes all who wait look again.
    pub(crate) fn wake(&self) {
        let mut pipes = self.lock();
        pipes.to_listener.wake();
        pipes.to_dialer.wake();
    }

    pub(crate) fn reset(&self, errno: Errno) {
        self.lock().reset(errno);
    }
}

impl Pipes {
    /// The pipe that this side writes.
    fn from(&mut self, side: Side) -> &mut Pipe {
        match side {
            Side::Dialer => &mut self.to_listener,
            Side::Listener => &mut self.to_dialer,
        }
    }

    /// The pipe that this side reads.
    fn to(&mut self, side: Side) -> &mut Pipe {
        match side {
            Side::Dialer => &mut self.to_dialer,
            Side::Listener => &mut self.to_listener,
        }
    }

    fn reset(&mut self, errno: Errno) {
        for pipe in [&mut self.to_listener, &mut self.to_dialer] {
            // The first cause stays.
            if !matches!(pipe.end, PipeEnd::Broken(_)) {
                pipe.end = PipeEnd::Broken(errno);
            }
            pipe.bytes = VecDeque::new();
            pipe.wake();
        }
    }
}

impl Pipe {
    fn wake(&mut self) {
        for waker in [self.reader.take(), self.writer.take()].into_iter().flatten() {
            waker.wake();
        }
    }

    fn wait_to_read<T>(&mut self, cx: &Context<'_>) -> Poll<T> {
        self.reader = Some(cx.waker().clone());
        Poll::Pending
    }

    fn wait_to_write<T>(&mut self, cx: &Context<'_>) -> Poll<T> {
        self.writer = Some(cx.waker().clone());
        Poll::Pending
    }

    /// Moves bytes to the reader, as many as fit and as the faults allow.
    fn deliver(&mut self, buf: &mut ReadBuf<'_>, lane: &Lane) {
        let until_reset = lane.reset_after.map_or(u64::MAX, |after| after - self.delivered);
        let most = capped(buf.remaining(), lane.read_bytes_max)
            .min(usize::try_from(until_reset).unwrap_or(usize::MAX))
            .min(self.bytes.len());
        let (front, back) = self.bytes.as_slices();
        let from_front = most.min(front.len());
        buf.put_slice(&front[..from_front]);
        buf.put_slice(&back[..most - from_front]);
        self.bytes.drain(..most);
        self.delivered += most as u64;
        if let Some(writer) = self.writer.take() {
            writer.wake();
        }
    }
}

fn capped(bytes: usize, most: Option<NonZeroUsize>) -> usize {
    most.map_or(bytes, |most| bytes.min(most.get()))
}

impl Side {
    /// What is wrong in the direction that this side reads.
    fn reads(self, faults: &Faults) -> Lane {
        match self {
            Self::Dialer => faults.to_dialer,
            Self::Listener => faults.to_listener,
        }
    }

    /// What is wrong in the direction that this side writes.
    fn writes(self, faults: &Faults) -> Lane {
        match self {
            Self::Dialer => faults.to_listener,
            Self::Listener => faults.to_dialer,
        }
    }
}

impl AsyncRead for End {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        // The lock comes before the faults: who changes them wakes after that, so no change is missed.
        let mut pipes = self.link.lock();
        let (cut, lane) = {
            let faults = self.link.path.faults();
            (faults.cut, self.side.reads(&faults))
        };
        let pipe = pipes.to(self.side);
        if cut || lane.stalled {
            return pipe.wait_to_read(cx);
        }
        if let PipeEnd::Broken(errno) = pipe.end {
            return Poll::Ready(Err(errno.into()));
        }
        if lane.reset_after.is_some_and(|after| pipe.delivered >= after) {
            pipes.reset(Errno::ECONNRESET);
            return Poll::Ready(Err(Errno::ECONNRESET.into()));
        }
        if !pipe.bytes.is_empty() {
            pipe.deliver(buf, &lane);
            return Poll::Ready(Ok(()));
        }
        match pipe.end {
            PipeEnd::Finished => Poll::Ready(Ok(())),
            PipeEnd::Open | PipeEnd::Broken(_) => pipe.wait_to_read(cx),
        }
    }
}

impl AsyncWrite for End {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let mut pipes = self.link.lock();
        let (cut, lane) = {
            let faults = self.link.path.faults();
            (faults.cut, self.side.writes(&faults))
        };
        let pipe = pipes.from(self.side);
        match pipe.end {
            PipeEnd::Open if pipe.reader_gone && !cut => {
                return Poll::Ready(Err(Errno::ECONNRESET.into()));
            }
            PipeEnd::Open => {}
            PipeEnd::Finished => return Poll::Ready(Err(Errno::EPIPE.into())),
            // The news of the reset has not come through.
            PipeEnd::Broken(_) if cut => return pipe.wait_to_write(cx),
            PipeEnd::Broken(errno) => return Poll::Ready(Err(errno.into())),
        }
        let room = limits::PIPE_BYTES.saturating_sub(pipe.bytes.len());
        if room == 0 && !bytes.is_empty() {
            return pipe.wait_to_write(cx);
        }
        let count = capped(bytes.len(), lane.write_bytes_max).min(room);
        pipe.bytes.extend(&bytes[..count]);
        if let Some(reader) = pipe.reader.take() {
            reader.wake();
        }
        Poll::Ready(Ok(count))
    }

    fn poll_flush(self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut pipes = self.link.lock();
        let pipe = pipes.from(self.side);
        match pipe.end {
            PipeEnd::Broken(errno) => Poll::Ready(Err(errno.into())),
            PipeEnd::Open | PipeEnd::Finished => {
                pipe.end = PipeEnd::Finished;
                pipe.wake();
                Poll::Ready(Ok(()))
            }
        }
    }
}

impl AsyncStream for End {
    fn reset(self: Pin<Box<Self>>, errno: Errno) {
        self.link.reset(errno);
    }
}

impl Drop for End {
    fn drop(&mut self) {
        let mut pipes = self.link.lock();
        match pipes.from(self.side).end {
            PipeEnd::Open => pipes.reset(Errno::ECONNRESET),
            PipeEnd::Finished => {
                let unread = pipes.to(self.side);
                unread.reader_gone = true;
                unread.bytes = VecDeque::new();
                unread.wake();
            }
            PipeEnd::Broken(_) => {}
        }
    }
}

impl fmt::Debug for Link {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // The path knows its links; printing it here would go round in a circle.
        f.debug_struct("Link").finish_non_exhaustive()
    }
}
