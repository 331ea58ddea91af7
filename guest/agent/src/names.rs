//! getsockname() and getpeername() of outsourced sockets.
//!
//! in: notifications; out: names, written into the caller's memory by the rules of the kernel's
//! `move_addr_to_user`: as much as fits, then the full length. Owner: the supervisor's loop.
//! All other sockets' names are the kernel's to tell.

use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, OwnedFd};
use std::time::Instant;

use outsock_vmrpc::Errno;

use crate::address::{self, Family};
use crate::connect::bound_name;
use crate::notify::{Answer, Notification};
use crate::supervisor::{Progress, Subject, Supervisor, progress};
use crate::sys;
use crate::sys::poll::HUNG_UP;
use crate::table::State;

impl Supervisor {
    pub(crate) fn on_socket_name(
        &mut self,
        notification: &Notification,
        now: Instant,
    ) -> io::Result<Answer> {
        if self.table.is_empty() && self.relays.is_empty() {
            return Ok(Answer::Native);
        }
        let subject = self.subject(notification)?;
        if let Some(relayed) = self.relays.get(subject.inode, &subject.file) {
            let (local, bound, family) = (relayed.local, relayed.bound, relayed.family);
            let name = far_name(local, bound, family, subject.inode);
            return Ok(answer_name(notification, name));
        }
        let open = |state| match state {
            State::Connecting(token) if progress(&subject.file) == Some(Progress::Open) => {
                Some(token)
            }
            State::Connecting(_) | State::Connected { .. } | State::Failed(_) | State::Idle => None,
        };
        let Some(socket) = self.entry(&subject) else { return Ok(Answer::Native) };
        let name = match socket.state {
            State::Connected { local, .. } => {
                far_name(local, socket.bound, socket.family, subject.inode)
            }
            State::Connecting(_) | State::Failed(_) | State::Idle => {
                let bound = bound_name(&socket.shadow);
                bound.unwrap_or_else(|| address::unspecified(socket.family, 0))
            }
        };
        if let Some(token) = open(socket.state) {
            return Ok(self.wait_for_verdict(notification, token, false, now));
        }
        Ok(answer_name(notification, name))
    }

    pub(crate) fn on_peer_name(&mut self, notification: &Notification) -> io::Result<Answer> {
        if self.table.is_empty() && self.relays.is_empty() {
            return Ok(Answer::Native);
        }
        let subject = self.subject(notification)?;
        if let Some(relayed) = self.relays.get(subject.inode, &subject.file) {
            // The guest's own TCP knows whether it is still connected.
            let peer = relayed.peer;
            let connected = sys::socket::has_peer(subject.file.as_fd());
            let name = connected.then(|| answer_name(notification, peer));
            return Ok(name.unwrap_or(Answer::Fail(Errno::ENOTCONN)));
        }
        if self.entry(&subject).is_none() {
            return Ok(Answer::Native);
        }
        let peer = self.peer_of(&subject);
        Ok(peer.map_or(Answer::Fail(Errno::ENOTCONN), |peer| answer_name(notification, peer)))
    }

    /// The peer of an outsourced socket, while it is connected.
    pub(crate) fn peer_of(&mut self, subject: &Subject) -> Option<SocketAddr> {
        let socket = self.entry(subject)?;
        let connected = match socket.state {
            // As TCP, which forgets its peer when both directions have been closed, or one was reset.
            State::Connected { .. } => !is_closed(&subject.file) && !socket.reset_told,
            // The verdict is about to come; the peer is known without it.
            State::Connecting(_) => progress(&subject.file) == Some(Progress::Open),
            State::Failed(_) | State::Idle => false,
        };
        connected.then_some(socket.peer)
    }
}

/// Whether both directions have ended, as far as the guest's kernel knows.
pub(crate) fn is_closed(file: &OwnedFd) -> bool {
    sys::poll::ready(file.as_fd(), 0).is_ok_and(|ready| ready & HUNG_UP != 0)
}

/// The local name of a connected socket: what the program has bound stays, as behind a NAT; what it has
/// not is the far socket's, where a socket of this family can show it. Never port 0, which some programs
/// take for "not connected".
fn far_name(
    local: Option<SocketAddr>,
    bound: Option<SocketAddr>,
    family: Family,
    inode: u64,
) -> SocketAddr {
    let far = local.and_then(|local| address::in_family(local, family));
    let mut name = bound.unwrap_or_else(|| address::unspecified(family, 0));
    if name.ip().is_unspecified()
        && let Some(far) = far
    {
        let port = if name.port() == 0 { far.port() } else { name.port() };
        name = far;
        name.set_port(port);
    }
    if name.port() == 0 {
        let port = local.map_or(0, |local| local.port());
        // Any port of the ephemeral range that stays the same for this socket.
        let made_up = 32_768 + u16::try_from(inode % 28_232).unwrap_or(0);
        name.set_port(if port == 0 { made_up } else { port });
    }
    name
}

fn answer_name(notification: &Notification, name: SocketAddr) -> Answer {
    let written = write_name(notification, &address::encode(name));
    written.map_or_else(Answer::Fail, |()| Answer::Value(0))
}

/// Writes a name where the call's arguments 1 and 2 want it.
pub(crate) fn write_name(notification: &Notification, name: &[u8]) -> Result<(), Errno> {
    let (thread, to, length_at) =
        (notification.thread, notification.pointer(1), notification.pointer(2));
    write_truncated(thread, to, length_at, name)
}

fn write_truncated(thread: u32, to: u64, length_at: u64, name: &[u8]) -> Result<(), Errno> {
    let fault = |_: io::Error| Errno::EFAULT;
    let mut room = [0u8; 4];
    sys::memory::read(thread, length_at, &mut room).map_err(fault)?;
    let room = usize::try_from(i32::from_ne_bytes(room)).map_err(|_| Errno::EINVAL)?;
    let part = &name[..room.min(name.len())];
    sys::memory::write(thread, to, part).map_err(fault)?;
    let full = i32::try_from(name.len()).unwrap_or(0);
    sys::memory::write(thread, length_at, &full.to_ne_bytes()).map_err(fault)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn write(buffer: &mut [u8], length: &mut i32, name: &[u8]) -> Result<(), Errno> {
        let at = |pointer: usize| u64::try_from(pointer).unwrap();
        let to = at(buffer.as_mut_ptr().expose_provenance());
        let length_at = at(std::ptr::from_mut(length).expose_provenance());
        write_truncated(std::process::id(), to, length_at, name)
    }

    #[test]
    fn names_are_truncated_and_their_full_length_told() {
        let name = address::encode("192.0.2.1:80".parse().unwrap());
        let mut buffer = [0xee_u8; 32];
        for (room, copied) in [(16, 16), (28, 16), (5, 5), (0, 0)] {
            buffer.fill(0xee);
            let mut length = room;
            assert_eq!(write(&mut buffer, &mut length, &name), Ok(()));
            assert_eq!(length, 16);
            assert_eq!(buffer[..copied], name[..copied]);
            assert!(buffer[copied..].iter().all(|byte| *byte == 0xee));
        }
        let mut length = -1;
        assert_eq!(write(&mut buffer, &mut length, &name), Err(Errno::EINVAL));
        let me = std::process::id();
        assert_eq!(write_truncated(me, 0, 0, &name), Err(Errno::EFAULT));
    }

    #[test]
    fn a_name_that_the_family_cannot_show_keeps_the_port() {
        let name = |local: &str, bound: Option<&str>, family| {
            let parse = |text: &str| text.parse::<SocketAddr>().unwrap();
            far_name(Some(parse(local)), bound.map(parse), family, 5).to_string()
        };
        assert_eq!(name("192.0.2.1:80", None, Family::V4), "192.0.2.1:80");
        assert_eq!(name("192.0.2.1:80", None, Family::V6), "[::ffff:192.0.2.1]:80");
        assert_eq!(name("[2001:db8::1]:80", None, Family::V4), "0.0.0.0:80");
        assert_eq!(name("[2001:db8::1]:80", Some("10.0.0.1:7"), Family::V4), "10.0.0.1:7");
        assert_eq!(name("192.0.2.1:80", Some("10.0.0.1:7"), Family::V4), "10.0.0.1:7");
        assert_eq!(name("192.0.2.1:80", Some("10.0.0.1:0"), Family::V4), "10.0.0.1:80");
        assert_eq!(name("192.0.2.1:80", Some("0.0.0.0:7"), Family::V4), "192.0.2.1:7");
        assert_eq!(name("192.0.2.1:80", Some("[::]:7"), Family::V6), "[::ffff:192.0.2.1]:7");
        assert_eq!(far_name(None, None, Family::V4, 5).port(), 32_773);
    }
}
