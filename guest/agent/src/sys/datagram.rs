//! Datagrams with the address that they were sent to, so that the answer can come from there.

use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd, BorrowedFd};

use super::{check_size, socklen_of};

/// Room for one control message with an `in_pktinfo` (12 bytes) or an `in6_pktinfo` (20).
#[derive(Clone, Copy, Debug)]
#[repr(C)]
struct PacketInfo {
    header: libc::cmsghdr,
    body: [u8; 24],
}

const HEADER_BYTES: usize = size_of::<libc::cmsghdr>();
const V4_BYTES: usize = size_of::<libc::in_pktinfo>();
const V6_BYTES: usize = size_of::<libc::in6_pktinfo>();

/// Where a datagram came from and went to: where its answer goes to and comes from.
#[derive(Clone, Copy)]
pub(crate) struct ReturnPath {
    name: libc::sockaddr_storage,
    name_bytes: libc::socklen_t,
    control: PacketInfo,
    control_bytes: usize,
}

impl std::fmt::Debug for ReturnPath {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ReturnPath").field("control", &self.control).finish_non_exhaustive()
    }
}

/// Takes one datagram, without waiting. A longer one than `buffer` is reported as one byte longer.
pub(crate) fn receive(
    socket: BorrowedFd<'_>,
    buffer: &mut [u8],
) -> io::Result<(usize, ReturnPath)> {
    let mut name = MaybeUninit::<libc::sockaddr_storage>::zeroed();
    let header = libc::cmsghdr { cmsg_len: 0, cmsg_level: 0, cmsg_type: 0 };
    let mut control = PacketInfo { header, body: [0; 24] };
    let mut data = libc::iovec { iov_base: buffer.as_mut_ptr().cast(), iov_len: buffer.len() };
    let mut message = libc::msghdr {
        msg_name: name.as_mut_ptr().cast(),
        msg_namelen: socklen_of::<libc::sockaddr_storage>(),
        msg_iov: &raw mut data,
        msg_iovlen: 1,
        msg_control: (&raw mut control).cast(),
        msg_controllen: size_of::<PacketInfo>(),
        msg_flags: 0,
    };
    // SAFETY: `message` points to live name, data and control buffers whose sizes it states.
    let result = unsafe { libc::recvmsg(socket.as_raw_fd(), &raw mut message, libc::MSG_DONTWAIT) };
    let mut length = check_size(result)?;
    if message.msg_flags & libc::MSG_TRUNC != 0 {
        length = buffer.len() + 1;
    }
    // SAFETY: all zeros, which is a valid `sockaddr_storage`, and then filled by the kernel.
    let name = unsafe { name.assume_init() };
    let mut path = ReturnPath { name, name_bytes: message.msg_namelen, control, control_bytes: 0 };
    path.control_bytes = match (control.header.cmsg_level, control.header.cmsg_type) {
        (libc::IPPROTO_IP, libc::IP_PKTINFO) if message.msg_controllen > HEADER_BYTES => {
            // The interface is the routing's choice; only the source address matters.
            path.control.body[..4].fill(0);
            HEADER_BYTES + V4_BYTES.next_multiple_of(8)
        }
        (libc::IPPROTO_IPV6, libc::IPV6_PKTINFO) if message.msg_controllen > HEADER_BYTES => {
            HEADER_BYTES + V6_BYTES.next_multiple_of(8)
        }
        _ => 0,
    };
    Ok((length, path))
}

/// Sends one datagram back, without waiting.
pub(crate) fn send(socket: BorrowedFd<'_>, bytes: &[u8], path: &ReturnPath) -> io::Result<()> {
    let mut data = libc::iovec { iov_base: bytes.as_ptr().cast_mut().cast(), iov_len: bytes.len() };
    let message = libc::msghdr {
        msg_name: (&raw const path.name).cast_mut().cast(),
        msg_namelen: path.name_bytes,
        msg_iov: &raw mut data,
        msg_iovlen: 1,
        msg_control: (&raw const path.control).cast_mut().cast(),
        msg_controllen: path.control_bytes,
        msg_flags: 0,
    };
    let flags = libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL;
    // SAFETY: `message` points to live buffers whose sizes it states; sendmsg only reads them.
    check_size(unsafe { libc::sendmsg(socket.as_raw_fd(), &raw const message, flags) }).map(drop)
}
