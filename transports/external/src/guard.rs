//! Guard: a stream through a process, whose death is no end.
//!
//! in:  the socket to the process; out: the same, but where the process dies the stream is reset
//! owner: the connection's task
//! keeps: a kernel closes a dead process's sockets in good order; the reader here gets `ECONNRESET`
//! bound: no buffer

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use outsock_transport::{AsyncStream, Errno};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::process::Life;

/// See the module.
pub(crate) struct Guarded {
    /// `None` once it was reset.
    stream: Option<Pin<Box<dyn AsyncStream>>>,
    life: Arc<Life>,
    failed: bool,
}

impl Guarded {
    pub(crate) fn new(stream: Pin<Box<dyn AsyncStream>>, life: Arc<Life>) -> Self {
        Self { stream: Some(stream), life, failed: false }
    }

    fn inner(&mut self) -> io::Result<Pin<&mut dyn AsyncStream>> {
        if self.failed {
            return Err(Errno::ECONNRESET.into());
        }
        let stream = self.stream.as_mut();
        stream.map(Pin::as_mut).ok_or_else(|| Errno::ECONNRESET.into())
    }
}

impl AsyncRead for Guarded {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let (before, room) = (buf.filled().len(), buf.remaining());
        let result = self.inner()?.poll_read(cx, buf);
        let is_end = matches!(result, Poll::Ready(Ok(()))) && buf.filled().len() == before;
        if is_end && room > 0 && self.life.is_over() {
            self.failed = true;
            return Poll::Ready(Err(Errno::ECONNRESET.into()));
        }
        result
    }
}

impl AsyncWrite for Guarded {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.inner()?.poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.inner()?.poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.inner()?.poll_shutdown(cx)
    }
}

impl AsyncStream for Guarded {
    fn reset(mut self: Pin<Box<Self>>, errno: Errno) {
        if let Some(stream) = self.stream.take() {
            stream.reset(errno);
        }
    }
}
