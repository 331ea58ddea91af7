//! TLS stream: an encrypted connection as an [`AsyncStream`], with honest ends.
//!
//! in:  a finished handshake over any stream
//! out: the program's bytes; `close_notify` as FIN, everything else that ends the stream as a reset
//! owner: the task that holds the stream
//! keeps: an error is said again at each read; what was written goes out while somebody reads, too
//! bound: one record read, [`limits::UNSENT_BYTES`](crate::limits::UNSENT_BYTES) written;
//!        [`limits::LINGER`](crate::limits::LINGER) after a close
//!
//! Where the transport below has only one close for both halves, its FIN waits in the [`Carrier`] until
//! both directions have said `close_notify`; so TLS gives half-close to transports that have none.

use std::future::Future;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, Waker, ready};

use bytes::BytesMut;
use outsock_transport::{AsyncStream, Errno};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadBuf};
use tokio::runtime::Handle;

use crate::limits;

/// The stream below: its FIN goes out when it may.
pub(crate) struct Carrier {
    /// `None` once it was reset.
    stream: Option<Pin<Box<dyn AsyncStream>>>,
    hold_fin: bool,
    /// Read from below, and not taken yet: rustls asks for 4 KiB at a time, a quarter of a record. Nothing
    /// is kept for a stream that is idle.
    ahead: BytesMut,
}

impl Carrier {
    pub(crate) fn new(stream: Pin<Box<dyn AsyncStream>>, half_close: bool) -> Self {
        Self { stream: Some(stream), hold_fin: !half_close, ahead: BytesMut::new() }
    }

    fn below(&mut self) -> io::Result<Pin<&mut dyn AsyncStream>> {
        let stream = self.stream.as_mut();
        stream.map(Pin::as_mut).ok_or_else(|| Errno::ECONNRESET.into())
    }

    /// The handshake failed: an alert that says why should arrive, so no reset.
    pub(crate) fn close(mut self) {
        if let Ok(stream) = self.below() {
            // Whatever is not out by now is no loss.
            let _ = stream.poll_shutdown(&mut Context::from_waker(Waker::noop()));
        }
    }

    fn reset(&mut self, errno: Errno) {
        if let Some(stream) = self.stream.take() {
            stream.reset(errno);
        }
    }
}

impl AsyncRead for Carrier {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if this.ahead.is_empty() {
            let mut ahead = std::mem::take(&mut this.ahead);
            ahead.reserve(limits::READ_AHEAD_BYTES);
            let mut below = this.below()?;
            // Whatever it read stands in the buffer: the future itself keeps nothing.
            let reading = std::pin::pin!(below.read_buf(&mut ahead));
            // What is not put back here is given back: an end, an error, nothing yet.
            if ready!(reading.poll(cx))? == 0 {
                return Poll::Ready(Ok(()));
            }
            this.ahead = ahead;
        }
        let count = this.ahead.len().min(buf.remaining());
        buf.put_slice(&this.ahead.split_to(count));
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Carrier {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.get_mut().below()?.poll_write(cx, bytes)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        pieces: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let mut below = self.get_mut().below()?;
        if below.is_write_vectored() {
            return below.poll_write_vectored(cx, pieces);
        }
        // All of them: an alert that ends a handshake is the last piece, and has only this one try.
        let mut written = 0;
        for piece in pieces {
            match below.as_mut().poll_write(cx, piece) {
                Poll::Ready(Ok(count)) if count == piece.len() => written += count,
                Poll::Ready(Ok(count)) => return Poll::Ready(Ok(written + count)),
                Poll::Ready(Err(_)) | Poll::Pending if written > 0 => break,
                other => return other,
            }
        }
        Poll::Ready(Ok(written))
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.get_mut().below()?.poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if this.hold_fin { this.below()?.poll_flush(cx) } else { this.below()?.poll_shutdown(cx) }
    }
}

type Session = tokio_rustls::TlsStream<Carrier>;

/// See the module.
pub(crate) struct TlsStream {
    /// `None` only once it was dropped.
    tls: Option<Session>,
    /// Our `close_notify` is out.
    finished: bool,
    /// The other side's has come.
    ended: bool,
    failed: Option<Errno>,
    /// Who waits for room to write.
    writer: Option<Waker>,
}

impl TlsStream {
    pub(crate) fn new(tls: Session) -> Self {
        Self { tls: Some(tls), finished: false, ended: false, failed: None, writer: None }
    }

    fn session(&mut self) -> io::Result<Pin<&mut Session>> {
        self.tls.as_mut().map(Pin::new).ok_or_else(|| Errno::ECONNRESET.into())
    }

    /// The transport below, where its FIN still waits.
    fn held(&mut self) -> Option<&mut Carrier> {
        let carrier = self.tls.as_mut()?.get_mut().0;
        carrier.hold_fin.then_some(carrier)
    }

    /// Both directions have ended: the transport below may close.
    fn poll_release(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let both = self.finished && self.ended;
        let Some(carrier) = self.held().filter(|_| both) else { return Poll::Ready(Ok(())) };
        let closed = ready!(carrier.below()?.poll_shutdown(cx));
        carrier.hold_fin = false;
        Poll::Ready(closed)
    }

    /// Remembers what broke the connection, as an errno.
    fn broke(&mut self, error: &io::Error) -> io::Error {
        let errno = match error.kind() {
            // A record that is none, a false MAC, an alert: the connection is not what it was.
            io::ErrorKind::InvalidData => Errno::ECONNRESET,
            _ => Errno::of(error),
        };
        (*self.failed.get_or_insert(errno)).into()
    }

    fn written<T>(&mut self, cx: &Context<'_>, result: Poll<io::Result<T>>) -> Poll<io::Result<T>> {
        self.writer = result.is_pending().then(|| cx.waker().clone());
        result.map(|result| result.map_err(|error| self.broke(&error)))
    }

    /// What was written and is still here goes on, if nobody waits for that anyway.
    fn push(&mut self, cx: &mut Context<'_>) {
        let waits_elsewhere =
            self.writer.as_ref().is_some_and(|writer| !writer.will_wake(cx.waker()));
        let Ok(session) = self.session() else { return };
        if !waits_elsewhere && wants_write(&session) {
            // An error will be met by who reads, which is the caller.
            let _ = session.poll_flush(cx);
        }
    }
}

fn wants_write(tls: &Session) -> bool {
    match tls {
        tokio_rustls::TlsStream::Client(stream) => stream.get_ref().1.wants_write(),
        tokio_rustls::TlsStream::Server(stream) => stream.get_ref().1.wants_write(),
    }
}

impl AsyncRead for TlsStream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = &mut *self;
        if let Some(errno) = this.failed {
            return Poll::Ready(Err(errno.into()));
        }
        if buf.remaining() == 0 {
            return Poll::Ready(Ok(()));
        }
        if !this.ended {
            this.push(cx);
            let before = buf.filled().len();
            // One record at a time, as many as are here: who reads is woken once for all of them.
            loop {
                let had = buf.filled().len();
                let read = this.session()?.poll_read(cx, buf);
                let more = buf.filled().len() > had;
                match read {
                    Poll::Ready(Ok(())) if more && buf.remaining() > 0 => {}
                    Poll::Ready(Ok(())) if more => return Poll::Ready(Ok(())),
                    // What comes behind these bytes, an end or a failure, is said to the next read.
                    Poll::Pending | Poll::Ready(_) if had > before => {
                        match read {
                            Poll::Ready(Ok(())) => this.ended = true,
                            Poll::Ready(Err(error)) => drop(this.broke(&error)),
                            Poll::Pending => {}
                        }
                        return Poll::Ready(Ok(()));
                    }
                    Poll::Pending => return Poll::Pending,
                    Poll::Ready(Ok(())) => {
                        this.ended = true;
                        break;
                    }
                    Poll::Ready(Err(error)) => return Poll::Ready(Err(this.broke(&error))),
                }
            }
        }
        // Everything has come; how the rest goes is no news of this half.
        let _ = ready!(this.poll_release(cx));
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for TlsStream {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        if let Some(errno) = self.failed {
            return Poll::Ready(Err(errno.into()));
        }
        if self.finished {
            return Poll::Ready(Err(Errno::EPIPE.into()));
        }
        let result = self.session()?.poll_write(cx, bytes);
        self.written(cx, result)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if let Some(errno) = self.failed {
            return Poll::Ready(Err(errno.into()));
        }
        let result = self.session()?.poll_flush(cx);
        self.written(cx, result)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if let Some(errno) = self.failed {
            return Poll::Ready(Err(errno.into()));
        }
        let result = self.session()?.poll_shutdown(cx);
        if let Poll::Ready(Ok(())) = result {
            self.finished = true;
            let released = self.poll_release(cx);
            return self.written(cx, released);
        }
        self.written(cx, result)
    }
}

impl AsyncStream for TlsStream {
    fn reset(mut self: Pin<Box<Self>>, errno: Errno) {
        if let Some(mut session) = self.tls.take() {
            session.get_mut().0.reset(errno);
        }
    }
}

impl Drop for TlsStream {
    fn drop(&mut self) {
        // Unfinished: the stream below is dropped unfinished, too, and no `close_notify` was sent.
        if !self.finished || self.ended || self.failed.is_some() {
            return;
        }
        let (Some(session), Ok(runtime)) = (self.tls.take(), Handle::try_current()) else { return };
        runtime.spawn(linger(session));
    }
}

/// Our side has ended, the other's has not, and nobody reads any more. To close at once would be wrong:
/// what TLS says for itself (session tickets) lies there unread, and a kernel's socket answers that with
/// a reset which overtakes our last bytes.
async fn linger(mut session: Session) {
    if session.get_mut().0.hold_fin {
        session.get_mut().0.hold_fin = false;
        // Only when these are out may both halves close.
        let _ = session.shutdown().await;
    }
    let mut byte = [0];
    let read = tokio::time::timeout(limits::LINGER, session.read(&mut byte));
    if let Ok(Ok(1)) = read.await {
        session.get_mut().0.reset(Errno::ECONNRESET);
    }
}

/// An error's text, harmless in a log whatever a peer's certificate says.
pub(crate) fn text(error: &dyn std::fmt::Display) -> String {
    let text = error.to_string();
    let plain = text.chars().map(|letter| if letter.is_control() { ' ' } else { letter });
    plain.take(limits::ERROR_CHARS_MAX).collect()
}
