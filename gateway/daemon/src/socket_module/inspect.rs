//! Inspect: options and counters of a connection that stands, for the guest whose it is.
//!
//! in: a token, options; out: `setsockopt` on the host's socket, its counters, or an errno. Owner: the
//! task of the call; no call here blocks. Kept: a guest finds its own connections only, by the table
//! of its own; an option is one of a closed list and the kernel judges its value.

use std::os::fd::AsFd;

use outsock_device::HostSocket;
use outsock_transport::option;
use outsock_vmrpc::socket::Token;
use outsock_vmrpc::socket::options::{Inspection, SetOptions, SocketOption};
use outsock_vmrpc::{Errno, limits};
use socket2::SockRef;

use super::GuestSockets;
use crate::connections::Known;

pub(super) fn set_options(guest: &GuestSockets, set: &SetOptions) -> Result<(), Errno> {
    let Some(Known::Stands { stats, socket }) = guest.connections.find(set.token) else {
        return Err(Errno::ENOTCONN);
    };
    for option in &set.options {
        if let SocketOption::AbortOnClose(abort) = option {
            stats.set_abort_on_close(*abort);
        }
    }
    // Without a kernel socket there is nothing that the others could mean.
    let Some(socket) = socket.as_ref().and_then(HostSocket::upgrade) else { return Ok(()) };
    option::apply_all(socket.as_fd(), &set.options).map_err(|error| Errno::of(&error))
}

pub(super) fn inspect(guest: &GuestSockets, token: Token) -> Result<Inspection, Errno> {
    match guest.connections.find(token) {
        None => Err(Errno::ENOTCONN),
        Some(Known::Reset(errno)) => Ok(Inspection { reset: Some(errno), ..Inspection::default() }),
        Some(Known::Stands { stats, socket }) => {
            let asked = socket.as_ref().map(ask).unwrap_or_default();
            Ok(Inspection { reset: stats.reset(), ..asked })
        }
    }
}

/// What the kernel says, if it is TCP.
fn ask(socket: &HostSocket) -> Inspection {
    let Ok(tcp_info) = socket.tcp_info() else { return Inspection::default() };
    let mut inspection = Inspection {
        tcp_info: Some(tcp_info),
        out_queue: socket.out_queue().ok(),
        ..Inspection::default()
    };
    if let Some(socket) = socket.upgrade() {
        let socket = SockRef::from(&*socket);
        inspection.max_segment = socket.tcp_mss().ok();
        inspection.congestion = socket.tcp_congestion().ok().and_then(name);
    }
    inspection
}

/// The kernel pads with zeros.
fn name(bytes: Vec<u8>) -> Option<String> {
    let name: Vec<u8> = bytes.into_iter().take_while(|byte| *byte != 0).collect();
    let fits = !name.is_empty() && name.len() <= limits::CONGESTION_BYTES_MAX;
    String::from_utf8(name).ok().filter(|_| fits)
}
