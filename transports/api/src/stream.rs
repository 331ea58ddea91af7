//! Stream: the two speeds of a connection, a kernel socket or an async stream.
//!
//! in:  what a transport's dial or accept made
//! out: bytes and honest ends, to the device (sockets) or to the bridge (async streams)
//! owner: the task that got it; a stream is never shared
//! keeps: a FIN is a FIN and a reset is a reset, each half on its own
//! bound: a stream buffers only what its transport's own limits say

use std::fmt;
use std::io;
use std::os::fd::OwnedFd;
use std::pin::Pin;

use outsock_vmrpc::Errno;
use tokio::io::{AsyncRead, AsyncWrite};

use crate::socket::SocketStream;

/// A byte stream that a transport drives in user space, with honest ends.
///
/// * `poll_read`: `Ok` with nothing read is the far side's FIN, and only that. A reset or a broken
///   path is an error whose [`Errno::of`] the program in the guest gets; later reads repeat it.
/// * `poll_shutdown`: sends FIN after all bytes written; reading goes on.
/// * Dropped before its write half was shut down: the far side must see a reset, never a FIN.
/// * Dropped after that: all bytes and the FIN still arrive, as after `close()`; what the far side
///   goes on to send is answered with a reset.
pub trait AsyncStream: AsyncRead + AsyncWrite + Send + Unpin + 'static {
    /// Aborts both halves: the far side sees a reset with this errno (or as near as the transport
    /// can say it), also where bytes are still queued.
    fn reset(self: Pin<Box<Self>>, errno: Errno);
}

/// What a dial or an accept yields.
pub enum Stream {
    /// A connected, non-blocking stream socket of this host's kernel. The device moves bytes
    /// between guest memory and the socket by itself. FIN is `shutdown(SHUT_WR)`; a reset is a
    /// close with `SO_LINGER {1, 0}` where the family has it.
    Socket(OwnedFd),
    /// Anything else.
    Async(Pin<Box<dyn AsyncStream>>),
}

impl Stream {
    /// The stream for one who reads and writes with tokio whatever the transport made: a socket is
    /// wrapped in a [`SocketStream`], an async stream is passed on.
    ///
    /// Must be called within a tokio runtime.
    ///
    /// ```
    /// use std::os::{fd::OwnedFd, unix::net::UnixStream};
    /// use outsock_transport::Stream;
    /// use tokio::io::{AsyncReadExt, AsyncWriteExt};
    ///
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> std::io::Result<()> {
    /// let (near, far) = UnixStream::pair()?;
    /// let mut near = Stream::Socket(OwnedFd::from(near)).into_async()?;
    /// let mut far = Stream::Socket(OwnedFd::from(far)).into_async()?;
    /// near.write_all(b"hello").await?;
    /// near.shutdown().await?;
    /// let mut text = String::new();
    /// far.read_to_string(&mut text).await?;
    /// assert_eq!(text, "hello");
    /// # Ok(()) }
    /// ```
    pub fn into_async(self) -> io::Result<Pin<Box<dyn AsyncStream>>> {
        match self {
            Self::Socket(fd) => Ok(Box::pin(SocketStream::new(fd)?)),
            Self::Async(stream) => Ok(stream),
        }
    }
}

impl fmt::Debug for Stream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Socket(fd) => f.debug_tuple("Socket").field(fd).finish(),
            Self::Async(_) => f.write_str("Async"),
        }
    }
}
