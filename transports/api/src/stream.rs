//! The two speeds of a connection: a kernel socket, or an async stream.

use std::fmt;
use std::os::fd::OwnedFd;
use std::pin::Pin;

use outsock_vmrpc::Errno;
use tokio::io::{AsyncRead, AsyncWrite};

/// A byte stream that a transport drives in user space, with honest ends.
///
/// * `poll_read`: `Ok` with nothing read is the far side's FIN, and only that. A reset or a broken
///   path is an error whose [`Errno::of`] the program in the guest gets.
/// * `poll_shutdown`: sends FIN after all bytes written; reading goes on.
/// * Dropped before both halves ended: the far side must see a reset, never a FIN.
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

impl fmt::Debug for Stream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Socket(fd) => f.debug_tuple("Socket").field(fd).finish(),
            Self::Async(_) => f.write_str("Async"),
        }
    }
}
