//! Carried: one libp2p stream, counted, for the peer protocol and its own end markers.
//!
//! in:  a negotiated stream; out: tokio's traits. Owner: who opened or serves it. Kept: counted as long
//! as it lives. Its ends say nothing (yamux shows a reset as an end, QUIC's drop sends one): bytes go
//! through [`Framed`](outsock_peer::Framed). Bound: the muxer's windows.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use futures::{AsyncRead as _, AsyncWrite as _};
use libp2p::Stream;
use outsock_transport::Errno;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// Counts by its clones.
#[derive(Clone, Debug, Default)]
pub(crate) struct Counted(Arc<()>);

impl Counted {
    /// How many there are.
    pub(crate) fn count(&self) -> usize {
        Arc::strong_count(&self.0)
    }
}

/// See the module.
#[derive(Debug)]
pub(crate) struct Carried {
    stream: Stream,
    _counted: Vec<Counted>,
}

impl Carried {
    pub(crate) fn new(stream: Stream, counted: Vec<Counted>) -> Self {
        Self { stream, _counted: counted }
    }
}

/// Muxers make errors of their own, without an errno, when the stream or connection is gone.
fn of_muxer(error: io::Error) -> io::Error {
    match error.raw_os_error() {
        Some(_) => error,
        None => Errno::ECONNRESET.into(),
    }
}

impl AsyncRead for Carried {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let room = buf.initialize_unfilled();
        let read = Pin::new(&mut self.stream).poll_read(cx, room);
        read.map_ok(|count| buf.advance(count)).map_err(of_muxer)
    }
}

impl AsyncWrite for Carried {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, bytes).map_err(of_muxer)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx).map_err(of_muxer)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        // Not the muxer's close. yamux sends nothing when a stream is dropped whose half is closed, and
        // leaves the data of the far side unanswered: it would write until its window is full, and
        // then for ever. Dropped open, it sends a reset, behind all that was written.
        self.poll_flush(cx)
    }
}
