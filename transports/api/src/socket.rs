//! Socket stream: a kernel socket as an [`AsyncStream`], for those who do not move bytes by hand.
//!
//! in:  a connected stream socket (TCP over IPv4 or IPv6, or Unix), by its descriptor
//! out: tokio's reads and writes, with a FIN and a reset kept apart
//! owner: the task that holds the stream, within a tokio runtime
//! keeps: dropped before its write half was shut down, the far side sees a reset (see below)
//! bound: no buffer of its own; the kernel's socket buffers
//!
//! The kernel says each error of a connection once: after a write has reported `ECONNRESET`, a read
//! returns 0, which looks like a FIN. The stream therefore remembers the error and repeats it.
//!
//! # What a reset is on a Unix socket
//!
//! `AF_UNIX` has no RST and ignores `SO_LINGER`. Its peer gets `ECONNRESET` only where the side that
//! closes still had unread bytes in its receive queue, else the peer reads an end and its writes
//! give `EPIPE`. Nothing in user space can do better, so a reset over a Unix socket is a close.

use std::io::{self, IoSlice};
use std::net::Shutdown;
use std::os::fd::{AsFd, OwnedFd};
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use outsock_vmrpc::Errno;
use socket2::{Domain, SockRef};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpStream, UnixStream};

use crate::stream::AsyncStream;

/// A TCP or Unix socket that tokio drives.
#[derive(Debug)]
pub struct SocketStream {
    socket: Socket,
    /// Our FIN is sent: dropping the stream is a plain close now.
    finished: bool,
    /// The error that the kernel reported and will not repeat.
    failed: Option<Errno>,
}

#[derive(Debug)]
enum Socket {
    Tcp(TcpStream),
    Unix(UnixStream),
}

impl SocketStream {
    /// Takes a connected stream socket over; its family decides how it is driven.
    ///
    /// Must be called within a tokio runtime. Another family than IPv4, IPv6 or Unix is
    /// [`io::ErrorKind::Unsupported`].
    pub fn new(fd: OwnedFd) -> io::Result<Self> {
        let domain = SockRef::from(&fd).domain()?;
        // The contract of `Stream::Socket` says so already, but tokio would block on a slip.
        SockRef::from(&fd).set_nonblocking(true)?;
        let socket = match domain {
            Domain::IPV4 | Domain::IPV6 => Socket::Tcp(TcpStream::from_std(fd.into())?),
            Domain::UNIX => Socket::Unix(UnixStream::from_std(fd.into())?),
            other => {
                let text = format!("a stream socket of family {other:?}");
                return Err(io::Error::new(io::ErrorKind::Unsupported, text));
            }
        };
        Ok(Self { socket, finished: false, failed: None })
    }

    /// The socket itself, for one who moves bytes by hand after a set-up: nothing is buffered here.
    pub fn into_fd(mut self) -> io::Result<OwnedFd> {
        // What is closed below is one of two descriptors of the socket.
        let fd = match &self.socket {
            Socket::Tcp(stream) => stream.as_fd().try_clone_to_owned()?,
            Socket::Unix(stream) => stream.as_fd().try_clone_to_owned()?,
        };
        self.finished = true;
        Ok(fd)
    }

    /// Remembers what ended the connection. `EPIPE` is no news of the read half: the far side's FIN
    /// had come before.
    fn note(&mut self, error: &io::Error) {
        let errno = Errno::of(error);
        if self.failed.is_none() && errno != Errno::EPIPE {
            self.failed = Some(errno);
        }
    }

    fn written(&mut self, result: Poll<io::Result<usize>>) -> Poll<io::Result<usize>> {
        let Poll::Ready(Err(error)) = &result else { return result };
        if self.failed.is_none() && Errno::of(error) == Errno::EPIPE {
            // A Unix socket puts EPIPE before the error that the reader is going to get.
            self.failed = self.pending();
        }
        self.note(error);
        self.failed.map_or(result, |errno| Poll::Ready(Err(errno.into())))
    }

    /// The error that the kernel has for us and has not told yet.
    fn pending(&self) -> Option<Errno> {
        let error = match &self.socket {
            Socket::Tcp(stream) => SockRef::from(stream).take_error(),
            Socket::Unix(stream) => SockRef::from(stream).take_error(),
        };
        error.ok().flatten().map(|error| Errno::of(&error))
    }
}

impl AsyncStream for SocketStream {
    /// TCP carries no errno with its RST: the far side reads `ECONNRESET` whatever is said here.
    fn reset(mut self: Pin<Box<Self>>, _errno: Errno) {
        self.finished = false;
    }
}

impl Drop for SocketStream {
    fn drop(&mut self) {
        if let (Socket::Tcp(stream), false) = (&self.socket, self.finished) {
            // Fails only on a descriptor that is no socket. The close itself never blocks: with a
            // linger time of zero the kernel drops what is queued and sends RST.
            let _ = SockRef::from(stream).set_linger(Some(Duration::ZERO));
        }
    }
}

impl AsyncRead for SocketStream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let (before, room) = (buf.filled().len(), buf.remaining());
        let result = match &mut self.socket {
            Socket::Tcp(stream) => Pin::new(stream).poll_read(cx, buf),
            Socket::Unix(stream) => Pin::new(stream).poll_read(cx, buf),
        };
        match &result {
            Poll::Ready(Err(error)) => self.note(error),
            Poll::Ready(Ok(())) if room > 0 && buf.filled().len() == before => {
                if let Some(errno) = self.failed {
                    return Poll::Ready(Err(errno.into()));
                }
            }
            Poll::Ready(Ok(())) | Poll::Pending => {}
        }
        result
    }
}

impl AsyncWrite for SocketStream {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        let result = match &mut self.socket {
            Socket::Tcp(stream) => Pin::new(stream).poll_write(cx, buf),
            Socket::Unix(stream) => Pin::new(stream).poll_write(cx, buf),
        };
        self.written(result)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let result = match &mut self.socket {
            Socket::Tcp(stream) => Pin::new(stream).poll_write_vectored(cx, bufs),
            Socket::Unix(stream) => Pin::new(stream).poll_write_vectored(cx, bufs),
        };
        self.written(result)
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        // The kernel sends on its own; there is no buffer here.
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        // Not tokio's own: that one hides ENOTCONN, and with it that the bytes never arrived.
        let result = match &self.socket {
            Socket::Tcp(stream) => SockRef::from(stream).shutdown(Shutdown::Write),
            Socket::Unix(stream) => SockRef::from(stream).shutdown(Shutdown::Write),
        };
        match result {
            Ok(()) => {
                self.finished = true;
                Poll::Ready(Ok(()))
            }
            // The connection is gone already; a program wants to know why.
            Err(error) if Errno::of(&error) == Errno::ENOTCONN && !self.finished => {
                let errno = self.failed.or_else(|| self.pending()).unwrap_or(Errno::ECONNRESET);
                self.failed = Some(errno);
                Poll::Ready(Err(errno.into()))
            }
            // Both halves have ended and the kernel has let the connection go.
            Err(error) if Errno::of(&error) == Errno::ENOTCONN => Poll::Ready(Ok(())),
            Err(error) => Poll::Ready(Err(error)),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::{TcpListener as StdListener, TcpStream as StdStream};

    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    fn tcp_pair() -> (SocketStream, SocketStream) {
        let listener = StdListener::bind("127.0.0.1:0").unwrap();
        let near = StdStream::connect(listener.local_addr().unwrap()).unwrap();
        let (far, _) = listener.accept().unwrap();
        (SocketStream::new(near.into()).unwrap(), SocketStream::new(far.into()).unwrap())
    }

    fn unix_pair() -> (SocketStream, SocketStream) {
        let (near, far) = std::os::unix::net::UnixStream::pair().unwrap();
        (SocketStream::new(near.into()).unwrap(), SocketStream::new(far.into()).unwrap())
    }

    #[tokio::test]
    async fn a_reset_seen_by_a_write_is_no_end_for_a_later_read() {
        let (near, mut far) = tcp_pair();
        Box::pin(near).reset(Errno::ECONNABORTED);
        let written = loop {
            // The RST may take a moment; until then the kernel takes bytes.
            if let Err(error) = far.write(b"x").await {
                break Errno::of(&error);
            }
            tokio::task::yield_now().await;
        };
        assert_eq!(written, Errno::ECONNRESET);
        let read = far.read(&mut [0; 8]).await.unwrap_err();
        assert_eq!(Errno::of(&read), Errno::ECONNRESET);
        let shut = far.shutdown().await.unwrap_err();
        assert_eq!(Errno::of(&shut), Errno::ECONNRESET);
        let written = far.write(b"x").await.unwrap_err();
        assert_eq!(Errno::of(&written), Errno::ECONNRESET);
    }

    #[tokio::test]
    async fn dropped_tcp_is_a_reset_before_shutdown_and_an_end_after() {
        let (near, mut far) = tcp_pair();
        drop(near);
        let error = far.read(&mut [0; 8]).await.unwrap_err();
        assert_eq!(Errno::of(&error), Errno::ECONNRESET);

        let (mut near, mut far) = tcp_pair();
        near.write_all(b"last words").await.unwrap();
        near.shutdown().await.unwrap();
        drop(near);
        let mut text = String::new();
        far.read_to_string(&mut text).await.unwrap();
        assert_eq!(text, "last words");
    }

    #[tokio::test]
    async fn a_socket_taken_out_again_goes_on() {
        let (mut near, mut far) = tcp_pair();
        near.write_all(b"one ").await.unwrap();
        let mut near = SocketStream::new(near.into_fd().unwrap()).unwrap();
        near.write_all(b"two").await.unwrap();
        near.shutdown().await.unwrap();
        let mut text = String::new();
        far.read_to_string(&mut text).await.unwrap();
        assert_eq!(text, "one two");
    }

    #[tokio::test]
    async fn unix_says_reset_only_where_bytes_were_left_unread() {
        let (near, mut far) = unix_pair();
        Box::pin(near).reset(Errno::ECONNRESET);
        assert_eq!(far.read(&mut [0; 8]).await.unwrap(), 0);
        assert_eq!(Errno::of(&far.write(b"x").await.unwrap_err()), Errno::EPIPE);

        let (near, mut far) = unix_pair();
        far.write_all(b"unread").await.unwrap();
        Box::pin(near).reset(Errno::ECONNRESET);
        let error = far.read(&mut [0; 8]).await.unwrap_err();
        assert_eq!(Errno::of(&error), Errno::ECONNRESET);
    }

    #[tokio::test]
    async fn what_is_no_socket_is_an_error() {
        let (read, _write) = io::pipe().unwrap();
        assert!(SocketStream::new(read.into()).is_err());
    }
}
