//! The host's end of a connection: a kernel socket, or a bridge to an async stream.
//!
//! in: slices of guest memory; out: the same bytes on the far side, or the other way round. Nothing
//! blocks: every call that could says `WouldBlock`. Owner: the vring worker.

use std::io;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::sync::Arc;

use libc::iovec;
use outsock_vmrpc::Errno;

use crate::bridge::BridgeEnd;

/// One far end.
#[derive(Debug)]
pub(crate) enum HostEnd {
    /// A connected stream socket of the host's kernel. The worker owns it; others hold it for the
    /// time of a system call at most (`host_socket`).
    Socket(Arc<OwnedFd>),
    /// A ring to an async task.
    Bridge(BridgeEnd),
}

fn checked(result: isize) -> io::Result<usize> {
    usize::try_from(result).map_err(|_| io::Error::last_os_error())
}

fn message(pieces: &[iovec]) -> libc::msghdr {
    // SAFETY: all zeroes is a valid `msghdr`.
    let mut message: libc::msghdr = unsafe { std::mem::zeroed() };
    message.msg_iov = pieces.as_ptr().cast_mut();
    message.msg_iovlen = pieces.len();
    message
}

impl HostEnd {
    /// Sends from the pieces; returns how many bytes the far side took.
    pub(crate) fn write(&self, pieces: &[iovec]) -> io::Result<usize> {
        match self {
            Self::Socket(fd) => {
                let message = message(pieces);
                let flags = libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL;
                // SAFETY: the descriptor is open; the pieces are mapped memory, which the kernel
                // checks again; it does not write through `msg_iov` here.
                checked(unsafe { libc::sendmsg(fd.as_raw_fd(), &raw const message, flags) })
            }
            Self::Bridge(bridge) => bridge.write(pieces),
        }
    }

    /// Receives into the pieces; 0 is the far side's FIN.
    pub(crate) fn read(&self, pieces: &[iovec]) -> io::Result<usize> {
        match self {
            Self::Socket(fd) => {
                let mut message = message(pieces);
                // SAFETY: the descriptor is open; the pieces are guest memory for the device to
                // write, to which no reference exists.
                checked(unsafe {
                    libc::recvmsg(fd.as_raw_fd(), &raw mut message, libc::MSG_DONTWAIT)
                })
            }
            Self::Bridge(bridge) => bridge.read(pieces),
        }
    }

    /// Sends FIN. An error means that the connection is dead already, which reading will tell.
    pub(crate) fn finish_write(&self) {
        match self {
            Self::Socket(fd) => {
                // SAFETY: the descriptor is open; no memory is involved.
                unsafe { libc::shutdown(fd.as_raw_fd(), libc::SHUT_WR) };
            }
            Self::Bridge(bridge) => bridge.finish_write(),
        }
    }

    /// Closes so that the far side sees a reset.
    pub(crate) fn reset(self) {
        match self {
            Self::Socket(fd) => {
                let linger = libc::linger { l_onoff: 1, l_linger: 0 };
                let len = libc::socklen_t::try_from(size_of_val(&linger)).unwrap_or(0);
                // SAFETY: the descriptor is open, and the option's value and length agree. A Unix
                // socket takes the option and ignores it: its peer sees an end.
                unsafe {
                    libc::setsockopt(
                        fd.as_raw_fd(),
                        libc::SOL_SOCKET,
                        libc::SO_LINGER,
                        (&raw const linger).cast(),
                        len,
                    );
                }
                drop(fd);
            }
            Self::Bridge(bridge) => bridge.reset(Errno::ECONNRESET),
        }
    }

    /// Closes in good order: everything was written.
    pub(crate) fn close(self) {
        if let Self::Bridge(bridge) = &self {
            bridge.finish_write();
        }
        drop(self);
    }

    /// Whether a bridge has bytes or an end which it has rung for already; a socket's are polled for.
    pub(crate) fn has_news(&self) -> bool {
        match self {
            Self::Socket(_) => false,
            Self::Bridge(bridge) => bridge.has_news(),
        }
    }

    /// The descriptor to poll; a bridge has none, it rings.
    pub(crate) fn poll_fd(&self) -> Option<RawFd> {
        match self {
            Self::Socket(fd) => Some(fd.as_raw_fd()),
            Self::Bridge(_) => None,
        }
    }
}
