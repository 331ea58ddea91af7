//! Dialers: how the agent reaches the gateway.
//!
//! in: nothing, or a token; out: the control stream, or a data socket that is being connected. The
//! product dials AF_VSOCK; the stand-in dials Unix sockets of this machine, for tests and
//! experiments without a virtual machine. Any thread.

use std::fmt::Debug;
use std::io::{self, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::time::Duration;

use outsock_vmrpc::Errno;
use outsock_vmrpc::socket::Token;

use crate::{limits, sys};

/// A way to the gateway.
pub(crate) trait Dialer: Debug + Send + Sync {
    /// Where it leads to, for messages.
    fn place(&self) -> String;

    /// Opens the control stream. Blocks, at most about `timeout`.
    fn control(&self, timeout: Duration) -> io::Result<OwnedFd>;

    /// Opens a data connection: a non-blocking stream socket that becomes writable when the gateway
    /// has made the connection, and fails when the gateway refuses it.
    fn data(&self, token: Token) -> io::Result<OwnedFd>;
}

/// AF_VSOCK.
#[derive(Debug)]
pub(crate) struct Vsock {
    pub(crate) cid: u32,
    pub(crate) port: u32,
}

impl Dialer for Vsock {
    fn place(&self) -> String {
        format!("vsock CID {} port {}", self.cid, self.port)
    }

    fn control(&self, timeout: Duration) -> io::Result<OwnedFd> {
        let socket = sys::socket::stream(libc::AF_VSOCK)?;
        set_connect_timeout(socket.as_fd(), timeout)?;
        start(sys::socket::connect_vsock(socket.as_fd(), self.cid, self.port))?;
        if !sys::poll::wait_for(socket.as_fd(), sys::poll::WRITABLE, timeout)? {
            return Err(io::Error::from_raw_os_error(libc::ETIMEDOUT));
        }
        match sys::socket::int_option(socket.as_fd(), libc::SOL_SOCKET, libc::SO_ERROR)? {
            0 => {}
            error => return Err(io::Error::from_raw_os_error(error)),
        }
        let flags = sys::file::status_flags(socket.as_fd())?;
        sys::file::set_status_flags(socket.as_fd(), flags & !libc::O_NONBLOCK)?;
        Ok(socket)
    }

    fn data(&self, token: Token) -> io::Result<OwnedFd> {
        let socket = sys::socket::stream(libc::AF_VSOCK)?;
        let size = limits::VSOCK_BUFFER_BYTES.to_ne_bytes();
        for name in [sys::socket::VM_SOCKETS_BUFFER_MAX_SIZE, sys::socket::VM_SOCKETS_BUFFER_SIZE] {
            sys::socket::set_option(socket.as_fd(), libc::AF_VSOCK, name, &size)?;
        }
        set_connect_timeout(socket.as_fd(), limits::VSOCK_CONNECT_TIMEOUT)?;
        start(sys::socket::connect_vsock(socket.as_fd(), self.cid, token.raw()))?;
        Ok(socket)
    }
}

/// Under way is as good as done.
fn start(result: io::Result<()>) -> io::Result<()> {
    match result {
        Err(error) if error.raw_os_error() == Some(libc::EINPROGRESS) => Ok(()),
        other => other,
    }
}

fn set_connect_timeout(socket: BorrowedFd<'_>, timeout: Duration) -> io::Result<()> {
    let seconds = i64::try_from(timeout.as_secs()).unwrap_or(i64::MAX);
    let microseconds = i64::from(timeout.subsec_micros());
    let value: Vec<u8> = [seconds, microseconds].into_iter().flat_map(i64::to_ne_bytes).collect();
    let name = sys::socket::VM_SOCKETS_CONNECT_TIMEOUT;
    sys::socket::set_option(socket, libc::AF_VSOCK, name, &value)
}

/// Unix sockets in place of vsock. Control at `path`, data at `path.data`.
///
/// A Unix socket has no state "being connected". The stand-in makes one: the agent first sends
/// [`STAND_IN_PREFACE_BYTES`], token first, which is more than a quarter of the socket's buffer, so
/// the socket is not writable until the other side has read them (the dial succeeded), and fails
/// with ECONNRESET when the other side closes without reading them (the dial failed).
#[derive(Debug)]
pub(crate) struct UnixStandIn {
    pub(crate) path: PathBuf,
}

/// See [`UnixStandIn`].
pub(crate) const STAND_IN_PREFACE_BYTES: usize = 64 * 1024;

impl Dialer for UnixStandIn {
    fn place(&self) -> String {
        format!("Unix socket {} (a stand-in for tests)", self.path.display())
    }

    fn control(&self, _: Duration) -> io::Result<OwnedFd> {
        Ok(UnixStream::connect(&self.path)?.into())
    }

    fn data(&self, token: Token) -> io::Result<OwnedFd> {
        let mut path = self.path.clone().into_os_string();
        path.push(".data");
        let mut stream = UnixStream::connect(PathBuf::from(path))?;
        stream.set_nonblocking(true)?;
        let mut preface = vec![0u8; STAND_IN_PREFACE_BYTES];
        preface[..4].copy_from_slice(&token.raw().to_le_bytes());
        stream.write_all(&preface)?;
        Ok(stream.into())
    }
}

/// What a person should do when the gateway cannot be reached.
pub(crate) fn advice(error: &io::Error) -> &'static str {
    match error.raw_os_error() {
        Some(libc::EAFNOSUPPORT) => {
            "this kernel has no AF_VSOCK: load the module vmw_vsock_virtio_transport \
             (modprobe vmw_vsock_virtio_transport), or use a kernel that has it"
        }
        Some(libc::ENODEV) => {
            "this machine has no vsock device: start the virtual machine with a vhost-user-vsock \
             device that is connected to outsock-gateway, and load the module \
             vmw_vsock_virtio_transport"
        }
        Some(libc::ECONNRESET | libc::ECONNREFUSED | libc::ENOENT) => {
            "nothing answers there: is outsock-gateway running for this virtual machine, and are \
             --cid and --port those of the gateway?"
        }
        Some(libc::ETIMEDOUT) => {
            "there is a device, but no gateway behind it answers: is outsock-gateway running and \
             not stopped?"
        }
        Some(libc::EPERM | libc::EACCES) => "this user may not open sockets of that family",
        _ => "check the virtual machine's vsock device and outsock-gateway",
    }
}

/// The errno of connect() when the data connection cannot even be started.
pub(crate) fn data_errno(error: &io::Error) -> Errno {
    match Errno::of(error) {
        // The caller's fault or the machine's, and known to programs as such.
        errno @ (Errno::ENOMEM | Errno::ENOBUFS | Errno::ENFILE) => errno,
        Errno::EMFILE => Errno::ENFILE,
        _ => Errno::ENETUNREACH,
    }
}
