//! Framed: a byte stream with honest ends over a carrier that cannot tell a reset from an end.
//!
//! in:  a carrier's stream, past header and reply
//! out: an [`AsyncStream`]: a FIN is a FIN, a reset is a reset with its errno
//! owner: the task that holds the stream
//! keeps: an end is only what the peer marked as one. A carrier that ends without a mark was cut, and
//!        reads as `ECONNRESET`; dropped unfinished, no mark is sent, so the far side reads a reset
//! bound: one frame of [`limits::FRAME_BYTES_MAX`] each way
//!
//! QUIC resets streams by itself and needs none of this; muxers such as yamux show a reset as a clean
//! end.
//!
//! # On the wire
//!
//! `kind u8, length u16`; kind 1 is data of that length, 2 the FIN (length 0), 3 a reset whose
//! length is the errno.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use outsock_transport::{AsyncStream, Errno};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::limits;

const DATA: u8 = 1;
const FIN: u8 = 2;
const RESET: u8 = 3;
const HEADER_BYTES: usize = 3;

/// See the module.
#[derive(Debug)]
pub struct Framed<S> {
    carrier: S,
    reading: Reading,
    /// A frame that was taken from the writer and is not all with the carrier.
    pending: Vec<u8>,
    sent: usize,
    writing: Writing,
}

#[derive(Debug)]
enum Reading {
    /// Between frames: what there is of the next header.
    Header([u8; HEADER_BYTES], usize),
    /// So many bytes of data are left.
    Data(usize),
    Ended,
    Broken(Errno),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Writing {
    Open,
    /// The FIN is among the pending bytes or behind them.
    Finished,
}

impl<S: AsyncRead + AsyncWrite + Send + Unpin + 'static> Framed<S> {
    /// Takes a carrier's stream over.
    pub fn new(carrier: S) -> Self {
        Self {
            carrier,
            reading: Reading::Header([0; HEADER_BYTES], 0),
            pending: Vec::new(),
            sent: 0,
            writing: Writing::Open,
        }
    }

    fn put(&mut self, kind: u8, length: u16, body: &[u8]) {
        let [low, high] = length.to_le_bytes();
        self.pending.extend([kind, low, high]);
        self.pending.extend(body);
    }

    /// Hands the pending bytes to the carrier.
    fn poll_pending(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while self.sent < self.pending.len() {
            let rest = &self.pending[self.sent..];
            let written = ready!(Pin::new(&mut self.carrier).poll_write(cx, rest));
            match written {
                Ok(0) => return Poll::Ready(Err(self.broken(Errno::ECONNRESET))),
                Ok(count) => self.sent += count,
                Err(error) => return Poll::Ready(Err(self.broken(reset_or(&error)))),
            }
        }
        self.pending.clear();
        self.sent = 0;
        Poll::Ready(Ok(()))
    }

    fn broken(&mut self, errno: Errno) -> io::Error {
        let errno = match self.reading {
            Reading::Broken(first) => first,
            Reading::Header(..) | Reading::Data(_) | Reading::Ended => errno,
        };
        self.reading = Reading::Broken(errno);
        errno.into()
    }

    fn header(&mut self, bytes: [u8; HEADER_BYTES]) {
        let [kind, low, high] = bytes;
        let length = u16::from_le_bytes([low, high]);
        self.reading = match (kind, usize::from(length)) {
            (DATA, 1..=limits::FRAME_BYTES_MAX) => Reading::Data(length.into()),
            (FIN, 0) => Reading::Ended,
            (RESET, _) => {
                let errno = Errno::new(length.into());
                Reading::Broken(errno.unwrap_or(Errno::ECONNRESET))
            }
            // Not this protocol: nothing after it can be trusted.
            _ => Reading::Broken(Errno::EPROTO),
        };
    }
}

/// A carrier's error on this connection: its errno, where it has one that says more than "gone".
fn reset_or(error: &io::Error) -> Errno {
    match Errno::of(error) {
        Errno::EPIPE => Errno::ECONNRESET,
        errno => errno,
    }
}

impl<S: AsyncRead + AsyncWrite + Send + Unpin + 'static> AsyncRead for Framed<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = &mut *self;
        loop {
            let (mut header, have) = match this.reading {
                Reading::Broken(errno) => return Poll::Ready(Err(errno.into())),
                Reading::Ended => return Poll::Ready(Ok(())),
                Reading::Data(left) => return this.poll_data(cx, buf, left),
                Reading::Header(bytes, have) => (bytes, have),
            };
            let mut rest = ReadBuf::new(&mut header[have..]);
            let read = ready!(Pin::new(&mut this.carrier).poll_read(cx, &mut rest));
            let count = rest.filled().len();
            match read {
                Err(error) => return Poll::Ready(Err(this.broken(reset_or(&error)))),
                // The carrier ended and nobody said so.
                Ok(()) if count == 0 => return Poll::Ready(Err(this.broken(Errno::ECONNRESET))),
                Ok(()) if have + count == HEADER_BYTES => this.header(header),
                Ok(()) => this.reading = Reading::Header(header, have + count),
            }
        }
    }
}

impl<S: AsyncRead + AsyncWrite + Send + Unpin + 'static> Framed<S> {
    fn poll_data(
        &mut self,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
        left: usize,
    ) -> Poll<io::Result<()>> {
        if buf.remaining() == 0 {
            return Poll::Ready(Ok(()));
        }
        // Initialized first and read into after: the other way round, what was read would be zeroed.
        let room = left.min(buf.remaining());
        let mut part = ReadBuf::new(buf.initialize_unfilled_to(room));
        let read = ready!(Pin::new(&mut self.carrier).poll_read(cx, &mut part));
        let count = part.filled().len();
        if let Err(error) = read {
            return Poll::Ready(Err(self.broken(reset_or(&error))));
        }
        if count == 0 {
            return Poll::Ready(Err(self.broken(Errno::ECONNRESET)));
        }
        buf.advance(count);
        self.reading = match left - count {
            0 => Reading::Header([0; HEADER_BYTES], 0),
            left => Reading::Data(left),
        };
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncRead + AsyncWrite + Send + Unpin + 'static> AsyncWrite for Framed<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        match (self.writing, &self.reading) {
            (_, Reading::Broken(errno)) => return Poll::Ready(Err((*errno).into())),
            (Writing::Finished, _) => return Poll::Ready(Err(Errno::EPIPE.into())),
            (Writing::Open, _) if bytes.is_empty() => return Poll::Ready(Ok(0)),
            (Writing::Open, _) => {}
        }
        ready!(self.poll_pending(cx))?;
        let count = bytes.len().min(limits::FRAME_BYTES_MAX);
        let length = u16::try_from(count).unwrap_or(u16::MAX);
        self.put(DATA, length, &bytes[..count]);
        // What the carrier does not take now goes with the next write or flush.
        match self.poll_pending(cx) {
            Poll::Ready(Err(error)) => Poll::Ready(Err(error)),
            Poll::Ready(Ok(())) | Poll::Pending => Poll::Ready(Ok(count)),
        }
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_pending(cx))?;
        Pin::new(&mut self.carrier).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if let Reading::Broken(errno) = self.reading {
            return Poll::Ready(Err(errno.into()));
        }
        if self.writing == Writing::Open {
            ready!(self.poll_pending(cx))?;
            self.writing = Writing::Finished;
            self.put(FIN, 0, &[]);
        }
        ready!(self.poll_pending(cx))?;
        ready!(Pin::new(&mut self.carrier).poll_flush(cx))?;
        // A carrier with halves closes its own; what comes back may still come.
        Pin::new(&mut self.carrier).poll_shutdown(cx)
    }
}

impl<S: AsyncRead + AsyncWrite + Send + Unpin + 'static> AsyncStream for Framed<S> {
    fn reset(mut self: Pin<Box<Self>>, errno: Errno) {
        let this = &mut *self;
        // One try without waiting, and only between frames. Where it fails, the carrier's own end
        // without a mark says the same with another errno.
        let waker = std::task::Waker::noop();
        let mut cx = Context::from_waker(waker);
        if this.writing == Writing::Open
            && matches!(this.poll_pending(&mut cx), Poll::Ready(Ok(())))
        {
            let number = u16::try_from(errno.raw()).unwrap_or(0);
            this.put(RESET, number, &[]);
            let _ = this.poll_pending(&mut cx);
            let _ = Pin::new(&mut this.carrier).poll_flush(&mut cx);
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    /// A buffer that nobody has written to before, as `read_to_end` has it, gets the bytes, not zeros.
    #[tokio::test]
    async fn bytes_arrive_in_fresh_buffers() {
        let (near, far) = tokio::io::duplex(64);
        let (mut near, mut far) = (Framed::new(near), Framed::new(far));
        let sent = vec![0xa5; 100_000];
        let writing = sent.clone();
        let writer = tokio::spawn(async move {
            near.write_all(&writing).await.unwrap();
            near.shutdown().await.unwrap();
        });
        let mut back = Vec::new();
        far.read_to_end(&mut back).await.unwrap();
        writer.await.unwrap();
        assert!(back == sent, "{} bytes, not as sent", back.len());
    }
}
