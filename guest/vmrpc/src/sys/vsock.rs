//! A stream to the gateway.
//!
//! out: a connected AF_VSOCK socket, and whether its local port shows that this process is
//! privileged. The kernel gives ports below 1024 only to processes with CAP_NET_BIND_SERVICE
//! (`net/vmw_vsock/af_vsock.c`, `LAST_RESERVED_PORT`), and the gateway sees the port; so no other
//! process can have the gateway write into pages that it names.

use std::io;
use std::mem::size_of;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

use super::check;
use crate::limits;

const VMADDR_CID_ANY: u32 = u32::MAX;
const VMADDR_CID_HOST: u32 = 2;

/// Ports that are tried: not the lowest ones, which services may want.
const FIRST_PORT: u32 = 512;

pub(crate) fn connect() -> io::Result<(OwnedFd, bool)> {
    let span = limits::PRIVILEGED_PORT_MAX + 1 - FIRST_PORT;
    let start = std::process::id() % span;
    for step in 0..span {
        let socket = stream()?;
        let port = FIRST_PORT + (start + step) % span;
        match bind(&socket, port) {
            Ok(()) => {}
            Err(error) if error.raw_os_error() == Some(libc::EADDRINUSE) => continue,
            // Not privileged.
            Err(_) => break,
        }
        match connect_to_gateway(&socket) {
            Ok(()) => return Ok((socket, true)),
            Err(error) if error.raw_os_error() == Some(libc::EADDRINUSE) => {}
            Err(error) => return Err(error),
        }
    }
    let socket = stream()?;
    connect_to_gateway(&socket)?;
    Ok((socket, false))
}

fn stream() -> io::Result<OwnedFd> {
    // SAFETY: no pointer is passed.
    let fd = unsafe { libc::socket(libc::AF_VSOCK, libc::SOCK_STREAM | libc::SOCK_CLOEXEC, 0) };
    let fd = check(fd)?;
    // SAFETY: the call returned a new descriptor that nobody else owns.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

fn address(cid: u32, port: u32) -> libc::sockaddr_vm {
    libc::sockaddr_vm {
        svm_family: libc::sa_family_t::try_from(libc::AF_VSOCK).unwrap_or(0),
        svm_reserved1: 0,
        svm_port: port,
        svm_cid: cid,
        svm_zero: [0; 4],
    }
}

fn length() -> libc::socklen_t {
    libc::socklen_t::try_from(size_of::<libc::sockaddr_vm>()).unwrap_or(0)
}

fn bind(socket: &OwnedFd, port: u32) -> io::Result<()> {
    let address = address(VMADDR_CID_ANY, port);
    // SAFETY: `address` is a live `sockaddr_vm` of that length.
    check(unsafe { libc::bind(socket.as_raw_fd(), (&raw const address).cast(), length()) })
        .map(drop)
}

fn connect_to_gateway(socket: &OwnedFd) -> io::Result<()> {
    let address = address(VMADDR_CID_HOST, limits::VMRPC_PORT);
    loop {
        // SAFETY: `address` is a live `sockaddr_vm` of that length.
        let result =
            unsafe { libc::connect(socket.as_raw_fd(), (&raw const address).cast(), length()) };
        match check(result) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            outcome => return outcome.map(drop),
        }
    }
}
