//! Sockets: AF_VSOCK, options by number, names as bytes, descriptors in messages, route look-ups.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};

use super::{check, check_size, socklen_of};

/// `struct timeval` options and `struct linger` are all at most this long.
pub(crate) const OPTION_BYTES_SMALL: usize = 16;

pub(crate) const VM_SOCKETS_BUFFER_SIZE: i32 = 0;
pub(crate) const VM_SOCKETS_BUFFER_MAX_SIZE: i32 = 2;
pub(crate) const VM_SOCKETS_CONNECT_TIMEOUT: i32 = 6;
pub(crate) const NETNS_COOKIE: i32 = 71;
pub(crate) const COOKIE: i32 = 57;

/// A new socket, blocking and close-on-exec.
pub(crate) fn new(family: i32, kind: i32) -> io::Result<OwnedFd> {
    socket(family, kind, 0)
}

/// A new stream socket, non-blocking and close-on-exec.
pub(crate) fn stream(family: i32) -> io::Result<OwnedFd> {
    socket(family, libc::SOCK_STREAM | libc::SOCK_NONBLOCK, 0)
}

/// A socket for one question at a time to the kernel's routing.
pub(crate) fn route_query() -> io::Result<OwnedFd> {
    socket(libc::AF_NETLINK, libc::SOCK_RAW, libc::NETLINK_ROUTE)
}

fn socket(family: i32, kind: i32, protocol: i32) -> io::Result<OwnedFd> {
    // SAFETY: no pointer is passed.
    let fd = check(unsafe { libc::socket(family, kind | libc::SOCK_CLOEXEC, protocol) })?;
    // SAFETY: the call returned a new descriptor that nobody else owns.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

pub(crate) fn connect_vsock(socket: BorrowedFd<'_>, cid: u32, port: u32) -> io::Result<()> {
    let address = libc::sockaddr_vm {
        svm_family: libc::sa_family_t::try_from(libc::AF_VSOCK).unwrap_or(0),
        svm_reserved1: 0,
        svm_port: port,
        svm_cid: cid,
        svm_zero: [0; 4],
    };
    let length = socklen_of::<libc::sockaddr_vm>();
    // SAFETY: `address` is a live `sockaddr_vm` and `length` its size.
    let result = unsafe { libc::connect(socket.as_raw_fd(), (&raw const address).cast(), length) };
    check(result).map(drop)
}

/// Reads an option into `buffer`; returns how much the kernel wrote.
pub(crate) fn option(
    socket: BorrowedFd<'_>,
    level: i32,
    name: i32,
    buffer: &mut [u8],
) -> io::Result<usize> {
    let mut length = libc::socklen_t::try_from(buffer.len()).unwrap_or(0);
    // SAFETY: the kernel writes at most `length` bytes into the live slice, and the new length.
    let result = unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            level,
            name,
            buffer.as_mut_ptr().cast(),
            &raw mut length,
        )
    };
    check(result)?;
    Ok(usize::try_from(length).unwrap_or(0).min(buffer.len()))
}

pub(crate) fn set_option(
    socket: BorrowedFd<'_>,
    level: i32,
    name: i32,
    value: &[u8],
) -> io::Result<()> {
    let length = libc::socklen_t::try_from(value.len()).unwrap_or(0);
    // SAFETY: the kernel reads `length` bytes of the live slice.
    let result =
        unsafe { libc::setsockopt(socket.as_raw_fd(), level, name, value.as_ptr().cast(), length) };
    check(result).map(drop)
}

/// An option that is an int.
pub(crate) fn int_option(socket: BorrowedFd<'_>, level: i32, name: i32) -> io::Result<i32> {
    let mut value = [0u8; 4];
    option(socket, level, name, &mut value)?;
    Ok(i32::from_ne_bytes(value))
}

/// An option that is a u64.
pub(crate) fn wide_option(socket: BorrowedFd<'_>, level: i32, name: i32) -> io::Result<u64> {
    let mut value = [0u8; 8];
    option(socket, level, name, &mut value)?;
    Ok(u64::from_ne_bytes(value))
}

/// The socket's own name, as bytes of a `sockaddr`.
pub(crate) fn local_name(socket: BorrowedFd<'_>) -> io::Result<Vec<u8>> {
    let mut bytes = vec![0u8; size_of::<libc::sockaddr_storage>()];
    let mut length = socklen_of::<libc::sockaddr_storage>();
    // SAFETY: the kernel writes at most `length` bytes into the live buffer, and the new length.
    let result = unsafe {
        libc::getsockname(socket.as_raw_fd(), bytes.as_mut_ptr().cast(), &raw mut length)
    };
    check(result)?;
    bytes.truncate(usize::try_from(length).unwrap_or(0));
    Ok(bytes)
}

/// Gives the socket a name, as bytes of a `sockaddr`.
pub(crate) fn bind(socket: BorrowedFd<'_>, name: &[u8]) -> io::Result<()> {
    let length = libc::socklen_t::try_from(name.len()).unwrap_or(0);
    // SAFETY: the kernel reads `length` bytes of the live slice.
    check(unsafe { libc::bind(socket.as_raw_fd(), name.as_ptr().cast(), length) }).map(drop)
}

/// Starts to connect to an address, given as bytes of a `sockaddr`.
pub(crate) fn connect(socket: BorrowedFd<'_>, address: &[u8]) -> io::Result<()> {
    let length = libc::socklen_t::try_from(address.len()).unwrap_or(0);
    // SAFETY: the kernel reads `length` bytes of the live slice.
    let result = unsafe { libc::connect(socket.as_raw_fd(), address.as_ptr().cast(), length) };
    check(result).map(drop)
}

pub(crate) fn listen(socket: BorrowedFd<'_>, backlog: i32) -> io::Result<()> {
    // SAFETY: no pointer is passed.
    check(unsafe { libc::listen(socket.as_raw_fd(), backlog) }).map(drop)
}

/// Takes a connection off a listener's queue: the connection, close-on-exec and otherwise with no flag,
/// and its peer's name. Waits if there is none and the listener's file says so.
pub(crate) fn accept(socket: BorrowedFd<'_>) -> io::Result<(OwnedFd, Vec<u8>)> {
    let mut bytes = vec![0u8; size_of::<libc::sockaddr_storage>()];
    let mut length = socklen_of::<libc::sockaddr_storage>();
    let flags = libc::SOCK_CLOEXEC;
    // SAFETY: the kernel writes at most `length` bytes into the live buffer, and the new length.
    let result = unsafe {
        libc::accept4(socket.as_raw_fd(), bytes.as_mut_ptr().cast(), &raw mut length, flags)
    };
    let fd = check(result)?;
    bytes.truncate(usize::try_from(length).unwrap_or(0));
    // SAFETY: the call returned a new descriptor that nobody else owns.
    Ok((unsafe { OwnedFd::from_raw_fd(fd) }, bytes))
}

pub(crate) fn shutdown(socket: BorrowedFd<'_>, how: i32) -> io::Result<()> {
    // SAFETY: no pointer is passed.
    check(unsafe { libc::shutdown(socket.as_raw_fd(), how) }).map(drop)
}

/// Whether the socket is connected.
pub(crate) fn has_peer(socket: BorrowedFd<'_>) -> bool {
    let mut bytes = [0u8; size_of::<libc::sockaddr_storage>()];
    let mut length = socklen_of::<libc::sockaddr_storage>();
    // SAFETY: the kernel writes at most `length` bytes into the live buffer, and the new length.
    let result = unsafe {
        libc::getpeername(socket.as_raw_fd(), bytes.as_mut_ptr().cast(), &raw mut length)
    };
    result == 0
}

pub(crate) fn shutdown_write(socket: BorrowedFd<'_>) -> io::Result<()> {
    // SAFETY: no pointer is passed.
    check(unsafe { libc::shutdown(socket.as_raw_fd(), libc::SHUT_WR) }).map(drop)
}

pub(crate) fn shutdown_both(socket: BorrowedFd<'_>) -> io::Result<()> {
    shutdown(socket, libc::SHUT_RDWR)
}

pub(crate) fn send(socket: BorrowedFd<'_>, bytes: &[u8]) -> io::Result<usize> {
    send_with(socket, bytes, 0)
}

/// Sends without waiting and without a signal, and with other flags.
pub(crate) fn send_with(socket: BorrowedFd<'_>, bytes: &[u8], flags: i32) -> io::Result<usize> {
    // SAFETY: the kernel reads `bytes.len()` bytes of the live slice.
    let result = unsafe {
        libc::send(
            socket.as_raw_fd(),
            bytes.as_ptr().cast(),
            bytes.len(),
            flags | libc::MSG_NOSIGNAL | libc::MSG_DONTWAIT,
        )
    };
    check_size(result)
}

pub(crate) fn receive(socket: BorrowedFd<'_>, buffer: &mut [u8]) -> io::Result<usize> {
    // SAFETY: the kernel writes at most `buffer.len()` bytes into the live slice.
    let result =
        unsafe { libc::recv(socket.as_raw_fd(), buffer.as_mut_ptr().cast(), buffer.len(), 0) };
    check_size(result)
}

/// Looks at what could be received, without waiting and without taking it.
pub(crate) fn peek(socket: BorrowedFd<'_>, buffer: &mut [u8]) -> io::Result<usize> {
    let flags = libc::MSG_PEEK | libc::MSG_DONTWAIT;
    // SAFETY: the kernel writes at most `buffer.len()` bytes into the live slice.
    let result =
        unsafe { libc::recv(socket.as_raw_fd(), buffer.as_mut_ptr().cast(), buffer.len(), flags) };
    check_size(result)
}

/// FIONREAD, SIOCOUTQ: an ioctl that tells a number of bytes.
pub(crate) fn queued(socket: BorrowedFd<'_>, request: u32) -> io::Result<u32> {
    let mut bytes: libc::c_int = 0;
    let request = libc::c_ulong::from(request);
    // SAFETY: the kernel writes one int into the live variable.
    check(unsafe { libc::ioctl(socket.as_raw_fd(), request, &raw mut bytes) })?;
    Ok(u32::try_from(bytes).unwrap_or(0))
}

/// Room for one control message that carries one descriptor, aligned as `cmsghdr` wants.
#[repr(C)]
struct OneDescriptor {
    header: libc::cmsghdr,
    descriptor: RawFd,
    padding: u32,
}

const CONTROL_BYTES: usize = size_of::<libc::cmsghdr>() + size_of::<RawFd>();

/// Sends one byte and one descriptor over a Unix stream.
pub(crate) fn send_descriptor(
    stream: BorrowedFd<'_>,
    byte: u8,
    file: BorrowedFd<'_>,
) -> io::Result<()> {
    let mut byte = [byte];
    let mut data = libc::iovec { iov_base: byte.as_mut_ptr().cast(), iov_len: 1 };
    let mut control = OneDescriptor {
        header: libc::cmsghdr {
            cmsg_len: CONTROL_BYTES,
            cmsg_level: libc::SOL_SOCKET,
            cmsg_type: libc::SCM_RIGHTS,
        },
        descriptor: file.as_raw_fd(),
        padding: 0,
    };
    let message = message(&mut data, &mut control);
    // SAFETY: `message` points to live data and control buffers whose sizes it states.
    let result =
        unsafe { libc::sendmsg(stream.as_raw_fd(), &raw const message, libc::MSG_NOSIGNAL) };
    check_size(result).map(drop)
}

/// Receives one byte with one descriptor. `None` at end of stream or without a descriptor.
pub(crate) fn receive_descriptor(stream: BorrowedFd<'_>) -> io::Result<Option<OwnedFd>> {
    Ok(receive_tagged(stream)?.and_then(|(_, file)| file))
}

/// Receives one byte, and the descriptor that came with it. `None` at end of stream.
pub(crate) fn receive_tagged(stream: BorrowedFd<'_>) -> io::Result<Option<(u8, Option<OwnedFd>)>> {
    let mut byte = [0u8];
    let mut data = libc::iovec { iov_base: byte.as_mut_ptr().cast(), iov_len: 1 };
    let mut control = OneDescriptor {
        header: libc::cmsghdr { cmsg_len: 0, cmsg_level: 0, cmsg_type: 0 },
        descriptor: -1,
        padding: 0,
    };
    let mut message = message(&mut data, &mut control);
    // SAFETY: `message` points to live data and control buffers whose sizes it states.
    let result =
        unsafe { libc::recvmsg(stream.as_raw_fd(), &raw mut message, libc::MSG_CMSG_CLOEXEC) };
    if check_size(result)? == 0 {
        return Ok(None);
    }
    let header = control.header;
    let carries_one = message.msg_controllen >= CONTROL_BYTES
        && (header.cmsg_level, header.cmsg_type) == (libc::SOL_SOCKET, libc::SCM_RIGHTS)
        && header.cmsg_len == CONTROL_BYTES;
    if !carries_one {
        return Ok(Some((byte[0], None)));
    }
    // SAFETY: the kernel has just installed this descriptor for us, as the control message says.
    Ok(Some((byte[0], Some(unsafe { OwnedFd::from_raw_fd(control.descriptor) }))))
}

fn message(data: &mut libc::iovec, control: &mut OneDescriptor) -> libc::msghdr {
    libc::msghdr {
        msg_name: std::ptr::null_mut(),
        msg_namelen: 0,
        msg_iov: &raw mut *data,
        msg_iovlen: 1,
        msg_control: (&raw mut *control).cast(),
        msg_controllen: size_of::<OneDescriptor>(),
        msg_flags: 0,
    }
}
