//! Host socket: how the daemon reaches a connection's kernel socket, which is the worker's.
//!
//! in: questions to the host's kernel; out: its answers. Kept: a handle does not keep the socket
//! open, so that the worker's close is the close that the far side sees; who upgrades one holds the
//! socket for the time of a system call that never blocks.

use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::{Arc, Weak};

use outsock_vmrpc::limits::TCP_INFO_BYTES_MAX;

/// A weak handle of a connection's socket.
#[derive(Clone, Debug)]
pub struct HostSocket(pub(crate) Weak<OwnedFd>);

impl HostSocket {
    /// The socket, while the worker has it. Let go of it soon: until then it does not close.
    pub fn upgrade(&self) -> Option<Arc<OwnedFd>> {
        self.0.upgrade()
    }

    /// `TCP_INFO`: the bytes of the kernel's `struct tcp_info`, as many as it has. An error when the
    /// connection is over or the socket is no TCP socket.
    pub fn tcp_info(&self) -> io::Result<Vec<u8>> {
        let socket = self.upgrade().ok_or(io::ErrorKind::NotConnected)?;
        let mut buffer = [0u8; TCP_INFO_BYTES_MAX];
        let mut length = libc::socklen_t::try_from(buffer.len()).unwrap_or(0);
        // SAFETY: the descriptor is open; the kernel writes at most `length` bytes into the live
        // buffer, and the new length.
        let result = unsafe {
            libc::getsockopt(
                socket.as_raw_fd(),
                libc::SOL_TCP,
                libc::TCP_INFO,
                buffer.as_mut_ptr().cast(),
                &raw mut length,
            )
        };
        if result != 0 {
            return Err(io::Error::last_os_error());
        }
        Ok(buffer[..usize::try_from(length).unwrap_or(0).min(buffer.len())].to_vec())
    }

    /// `SIOCOUTQ`: bytes that the far side has not acknowledged.
    pub fn out_queue(&self) -> io::Result<u32> {
        let socket = self.upgrade().ok_or(io::ErrorKind::NotConnected)?;
        let mut bytes = MaybeUninit::<libc::c_int>::uninit();
        // SAFETY: the descriptor is open; the kernel writes one int into the live variable.
        let result = unsafe { libc::ioctl(socket.as_raw_fd(), libc::TIOCOUTQ, bytes.as_mut_ptr()) };
        if result != 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: the call succeeded, so the kernel has written it.
        Ok(u32::try_from(unsafe { bytes.assume_init() }).unwrap_or(0))
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::net::{TcpListener, TcpStream};

    use super::*;

    #[test]
    fn a_handle_answers_and_does_not_keep_the_socket_open() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let mut near = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (far, _) = listener.accept().unwrap();
        near.write_all(b"four").unwrap();
        let socket = Arc::new(OwnedFd::from(far));
        let handle = HostSocket(Arc::downgrade(&socket));
        let info = handle.tcp_info().unwrap();
        assert!(info.len() > 100 && info[0] == 1, "{info:?}");
        assert_eq!(handle.out_queue().unwrap(), 0);
        drop(socket);
        assert!(handle.upgrade().is_none());
        assert_eq!(handle.tcp_info().unwrap_err().kind(), io::ErrorKind::NotConnected);
        assert!(handle.out_queue().is_err());
    }

    #[test]
    fn a_unix_socket_has_no_tcp_counters() {
        let (one, _two) = std::os::unix::net::UnixStream::pair().unwrap();
        let socket = Arc::new(OwnedFd::from(one));
        assert!(HostSocket(Arc::downgrade(&socket)).tcp_info().is_err());
    }
}
