//! Stream: one guest's connection over QUIC, with honest ends.
//!
//! in:  the two halves of a bidirectional QUIC stream, past header and reply
//! out: an [`AsyncStream`]
//! owner: the task that holds the stream
//! keeps: dropped before its write half was shut down, the far side gets RESET_STREAM and
//!        STOP_SENDING with an errno; dropped after that, what was written still arrives, and the
//!        stream counts until the far gateway has acknowledged it, so that a drain waits for it
//! bound: the windows of [`Settings`](crate::Settings)

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use outsock_transport::{AsyncStream, Errno};
use quinn::{RecvStream, SendStream};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::failure;

/// Counts a stream for as long as it lives.
pub(crate) type Counted = Arc<()>;

/// See the module.
#[derive(Debug)]
pub(crate) struct QuicStream {
    send: SendStream,
    receive: RecvStream,
    /// Our FIN is sent.
    finished: bool,
    /// The far side's FIN was read.
    ended: bool,
    /// What a read failed by; repeated, for quinn says it once.
    failed: Option<Errno>,
    counted: Option<Counted>,
}

impl QuicStream {
    pub(crate) fn new(send: SendStream, receive: RecvStream, counted: Counted) -> Self {
        Self { send, receive, finished: false, ended: false, failed: None, counted: Some(counted) }
    }

    /// The halves, for the exchange of header and reply.
    pub(crate) fn halves(&mut self) -> (&mut SendStream, &mut RecvStream) {
        (&mut self.send, &mut self.receive)
    }

    fn fail(&mut self, errno: Errno) -> io::Error {
        (*self.failed.get_or_insert(errno)).into()
    }

    fn abort(&mut self, errno: Errno) {
        // Errors say that the half is over already.
        let _ = self.send.reset(failure::code(errno));
        if !self.ended {
            let _ = self.receive.stop(failure::code(errno));
        }
        self.finished = true;
        self.ended = true;
        self.counted = None;
    }
}

impl AsyncStream for QuicStream {
    fn reset(mut self: Pin<Box<Self>>, errno: Errno) {
        self.abort(errno);
    }
}

impl Drop for QuicStream {
    fn drop(&mut self) {
        if !self.finished {
            self.abort(Errno::ECONNRESET);
            return;
        }
        if !self.ended {
            let _ = self.receive.stop(failure::code(Errno::ECONNRESET));
        }
        let (Some(counted), Ok(runtime)) =
            (self.counted.take(), tokio::runtime::Handle::try_current())
        else {
            return;
        };
        let acknowledged = self.send.stopped();
        runtime.spawn(async move {
            let _ = acknowledged.await;
            drop(counted);
        });
    }
}

impl AsyncRead for QuicStream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if let Some(errno) = self.failed {
            return Poll::Ready(Err(errno.into()));
        }
        if self.ended {
            return Poll::Ready(Ok(()));
        }
        let (before, room) = (buf.filled().len(), buf.remaining());
        match self.receive.poll_read_buf(cx, buf) {
            Poll::Pending => Poll::Pending,
            Poll::Ready(Ok(())) => {
                self.ended = room > 0 && buf.filled().len() == before;
                Poll::Ready(Ok(()))
            }
            Poll::Ready(Err(error)) => Poll::Ready(Err(self.fail(failure::of_read(&error)))),
        }
    }
}

impl AsyncWrite for QuicStream {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        if self.finished {
            return Poll::Ready(Err(self.failed.unwrap_or(Errno::EPIPE).into()));
        }
        match Pin::new(&mut self.send).poll_write(cx, bytes) {
            Poll::Pending => Poll::Pending,
            Poll::Ready(Ok(count)) => Poll::Ready(Ok(count)),
            // Only that the far side reads no more: what it sent may still be read.
            Poll::Ready(Err(error)) => {
                Poll::Ready(Err(self.failed.unwrap_or_else(|| failure::of_write(&error)).into()))
            }
        }
    }

    fn poll_flush(self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        // quinn sends on its own.
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if let Some(errno) = self.failed {
            return Poll::Ready(Err(errno.into()));
        }
        if !self.finished {
            self.finished = true;
            if self.send.finish().is_err() {
                return Poll::Ready(Err(self.fail(Errno::ECONNRESET)));
            }
        }
        Poll::Ready(Ok(()))
    }
}
