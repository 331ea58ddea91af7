//! accept() and accept4() on listeners that the agent knows.
//!
//! in: notifications, readiness of listeners; out: answers, with a descriptor that is planted in the
//! caller: the connection within the guest that the kernel has queued, or the stream that a ticket
//! stands for. Owner: the supervisor's loop, which alone takes connections off these queues. Kept:
//! * what was taken off is handed out once, or queued again by another ticket; nothing is lost when
//!   the caller has no descriptor left or is killed;
//! * a call that a signal ends has taken nothing;
//! * names as TCP: the peer's true address; the local one is the listener's, and where that is a
//!   wildcard the address that the client has dialled, always with the listener's port.

use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd, RawFd};
use std::rc::Rc;
use std::time::Instant;

use outsock_vmrpc::Errno;
use outsock_vmrpc::socket::Token;
use outsock_vmrpc::socket::inbound::ListenerId;

use crate::address::{self, Family, Passed};
use crate::connect::bound_name;
use crate::filter::Call;
use crate::names::write_name;
use crate::notify::{Answer, Notification};
use crate::outward::Queue;
use crate::processes::Process;
use crate::supervisor::{Supervisor, socket_cookie};
use crate::sys::poll::{FAILED, HUNG_UP, READABLE};
use crate::table::{Socket, State};
use crate::tickets::Content;
use crate::waiting::{Reason, Waiting};
use crate::{held, options, sys};

/// Keys of these events in the supervisor's set: this and the listener's number.
pub(crate) const LISTENER_KEYS: u64 = 2 << 60;

/// One accept().
#[derive(Clone, Debug)]
pub(crate) struct Accepting {
    process: Rc<Process>,
    pub(crate) inode: u64,
    id: ListenerId,
    flags: i32,
}

impl Supervisor {
    pub(crate) fn on_accept(
        &mut self,
        notification: &Notification,
        now: Instant,
    ) -> io::Result<Answer> {
        if self.listeners.is_empty() {
            return Ok(Answer::Native);
        }
        let subject = self.subject(notification)?;
        let Some(listening) = self.listening(&subject) else { return Ok(Answer::Native) };
        let (id, others_wait) = (listening.id, !listening.accepting.is_empty());
        let flags = if notification.call == Call::AcceptWith { notification.int(3) } else { 0 };
        if flags & !(libc::SOCK_CLOEXEC | libc::SOCK_NONBLOCK) != 0 {
            return Ok(Answer::Fail(Errno::EINVAL));
        }
        self.watch_process(&subject);
        let accepting =
            Accepting { process: Rc::clone(&subject.process), inode: subject.inode, id, flags };
        let blocks = sys::file::status_flags(subject.file.as_fd())? & libc::O_NONBLOCK == 0;
        let first = !others_wait || !blocks;
        if first && let Some(answer) = self.accept_one(notification, &accepting, &subject.file, now)
        {
            return Ok(answer);
        }
        if !blocks {
            return Ok(Answer::Fail(Errno::EAGAIN));
        }
        let timeout = held::timeout_option(&subject.file, libc::SO_RCVTIMEO);
        let reason = Reason::Accept(accepting);
        let deadline = timeout.map(|timeout| now + timeout);
        let mut waiting = Waiting::new(*notification, None, reason, deadline, now);
        waiting.never_restart = timeout.is_some();
        let key = self.waiting.insert(waiting, now);
        let Some(listening) = self.listeners.get(subject.inode) else { return Ok(Answer::Native) };
        listening.accepting.push_back(key);
        if listening.file.is_none() {
            self.poll.add(subject.file.as_fd(), READABLE, LISTENER_KEYS | u64::from(id.0))?;
            listening.file = Some(subject.file);
        }
        Ok(Answer::Later)
    }

    /// Takes one connection off the queue and hands it out. `None` when there is none.
    fn accept_one(
        &mut self,
        notification: &Notification,
        accepting: &Accepting,
        file: &OwnedFd,
        now: Instant,
    ) -> Option<Answer> {
        // Only this loop takes connections off, so what is ready is there.
        let ready = sys::poll::ready(file.as_fd(), READABLE).unwrap_or(FAILED);
        if ready & (READABLE | FAILED | HUNG_UP) == 0 {
            return None;
        }
        let (connection, peer) = match sys::socket::accept(file.as_fd()) {
            Ok(accepted) => accepted,
            Err(error) => return Some(Answer::Fail(accept_errno(&error))),
        };
        let redeemed = match Passed::parse(&peer) {
            Passed::Internet(name) => self.redeem(name),
            Passed::Unspecified | Passed::SystemResolver | Passed::Foreign => None,
        };
        let (listener, content, shadow) = match redeemed {
            Some((listener, content)) => (listener, content, Some(connection)),
            None => (accepting.id, Content::Own(connection, peer), None),
        };
        Some(self.hand_out(notification, accepting, listener, content, shadow, now))
    }

    /// Gives a connection to the caller.
    fn hand_out(
        &mut self,
        notification: &Notification,
        accepting: &Accepting,
        listener: ListenerId,
        content: Content,
        shadow: Option<OwnedFd>,
        now: Instant,
    ) -> Answer {
        let planted = match (&content, shadow) {
            (Content::Own(connection, peer), _) => {
                plant_own(self.listener.as_fd(), notification, accepting.flags, connection, peer)
            }
            (Content::Stream { stream, token, peer, local }, Some(shadow)) => {
                let names = self.names_of(accepting, *peer, *local, &shadow, stream);
                let arriving = Arriving { stream, token: *token, names, shadow };
                self.plant_stream(notification, accepting, arriving, now)
            }
            // A stream always comes with the ticket's other end.
            (Content::Stream { .. }, None) => Err(io::Error::from_raw_os_error(libc::EBADF)),
        };
        match planted {
            Ok(Planted::At(number)) => {
                if let Content::Stream { .. } = content {
                    self.count_ended(listener);
                }
                // Before the answer: the program's close() must be the last one.
                drop(content);
                Answer::Value(i64::from(number))
            }
            // As the kernel, which closes what it cannot tell the name of.
            Ok(Planted::NoNameFor(errno)) if self.listener.is_waiting(notification.id) => {
                if let Content::Stream { stream, token, .. } = content {
                    self.link.refuse(token, Some(stream));
                    self.count_ended(listener);
                }
                Answer::Fail(errno)
            }
            // The caller is gone, and its memory with it.
            Ok(Planted::NoNameFor(_)) => {
                self.queue_again(listener, content);
                Answer::Later
            }
            Err(error) => {
                self.queue_again(listener, content);
                match Errno::of(&error) {
                    Errno::ENOENT => Answer::Later,
                    errno => Answer::Fail(errno),
                }
            }
        }
    }

    fn plant_stream(
        &mut self,
        notification: &Notification,
        accepting: &Accepting,
        arriving: Arriving<'_>,
        now: Instant,
    ) -> io::Result<Planted> {
        let Arriving { stream, token, names: Names { family, peer, local }, shadow } = arriving;
        if let Err(errno) = write_peer(notification, &address::encode(peer)) {
            return Ok(Planted::NoNameFor(errno));
        }
        let nonblocking =
            if accepting.flags & libc::SOCK_NONBLOCK != 0 { libc::O_NONBLOCK } else { 0 };
        options::copy_all(&shadow, stream, 0, self.seen);
        sys::file::set_status_flags(stream.as_fd(), libc::O_RDWR | nonblocking)?;
        let inode = sys::file::identity(stream.as_fd())?.inode;
        let number = plant(self.listener.as_fd(), notification, accepting.flags, stream)?;
        // What the listener was told, its connections have.
        let is_v4 = peer.ip().to_canonical().is_ipv4();
        let options = self.seen.collect(&shadow, stream, is_v4);
        // The program has its connection, whatever fails from here on.
        if self.weak.watch(stream.as_fd(), inode, now).is_ok() {
            let socket = Socket {
                cookie: socket_cookie(stream),
                token,
                family,
                // The shadow is bound to where the ticket came, which is no name for a program.
                bound: None,
                shadow,
                peer,
                state: State::Connected { local: Some(local), told: true },
                reset_told: false,
                outward: Queue::default(),
                home: (Rc::clone(&accepting.process), number),
            };
            self.table.insert(inode, socket);
            self.tell_options(inode, options);
        }
        Ok(Planted::At(number))
    }

    /// The names of a connection that came in.
    fn names_of(
        &mut self,
        accepting: &Accepting,
        peer: Option<SocketAddr>,
        dialled: Option<SocketAddr>,
        shadow: &OwnedFd,
        stream: &OwnedFd,
    ) -> Names {
        let own = bound_name(shadow);
        let bound = self.listeners.get(accepting.inode).map(|listening| listening.address);
        names(own, bound, peer, dialled, socket_cookie(stream))
    }

    /// A listener that is waited for has connections, or is none any more.
    pub(crate) fn on_listener_ready(&mut self, key: u64, now: Instant) {
        let Ok(number) = u32::try_from(key & !LISTENER_KEYS) else { return };
        let Some(inode) = self.listeners.inode_of(ListenerId(number)) else { return };
        while let Some(listening) = self.listeners.get(inode)
            && let Some(call) = listening.accepting.front().copied()
        {
            let Some(file) = listening.file.take() else { return };
            let Some(Waiting { notification, reason: Reason::Accept(accepting), .. }) =
                self.waiting.get(call)
            else {
                listening.accepting.pop_front();
                listening.file = Some(file);
                continue;
            };
            let (notification, accepting) = (*notification, accepting.clone());
            let answer = self.accept_one(&notification, &accepting, &file, now);
            // Whatever came of it, the entry may have gone meanwhile.
            if let Some(listening) = self.listeners.get(inode) {
                listening.file = Some(file);
            }
            let Some(answer) = answer else { return };
            self.stop_waiting(call);
            self.listener.answer(notification.id, answer);
        }
        self.stop_watching_listener(inode);
    }

    /// An accept() does not wait any more.
    pub(crate) fn leave_queue(&mut self, inode: u64, key: u64) {
        let Some(listening) = self.listeners.get(inode) else { return };
        listening.accepting.retain(|other| *other != key);
        if listening.accepting.is_empty() {
            self.stop_watching_listener(inode);
        }
    }

    /// Nobody waits: the agent lets go of the listener.
    pub(crate) fn stop_watching_listener(&mut self, inode: u64) {
        let Some(listening) = self.listeners.get(inode) else { return };
        if let Some(file) = listening.file.take() {
            let _ = self.poll.delete(file.as_fd());
        }
    }
}

/// Names of a connection, as the program sees them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Names {
    family: Family,
    peer: SocketAddr,
    local: SocketAddr,
}

/// A stream on its way to a program.
struct Arriving<'a> {
    token: Token,
    stream: &'a OwnedFd,
    names: Names,
    shadow: OwnedFd,
}

/// What became of a connection.
enum Planted {
    At(RawFd),
    /// The caller's memory does not take the peer's name.
    NoNameFor(Errno),
}

/// `own` is the ticket's end, `bound` the listener's address, `dialled` the host's. `unique` makes up a
/// port where the client has no address.
fn names(
    own: Option<SocketAddr>,
    bound: Option<SocketAddr>,
    peer: Option<SocketAddr>,
    dialled: Option<SocketAddr>,
    unique: u64,
) -> Names {
    let family = match own.or(bound) {
        Some(SocketAddr::V6(_)) => Family::V6,
        Some(SocketAddr::V4(_)) | None => Family::V4,
    };
    let fallback = own.unwrap_or_else(|| address::unspecified(family, 0));
    let wildcard = bound.is_none_or(|bound| bound.ip().is_unspecified());
    let dialled = dialled.filter(|_| wildcard).and_then(|name| address::in_family(name, family));
    let mut local = dialled.unwrap_or(fallback);
    local.set_port(bound.unwrap_or(fallback).port());
    let made_up = 1024 + u16::try_from(unique % 64_512).unwrap_or(0);
    let peer = peer.and_then(|peer| address::in_family(peer, family));
    let peer = peer.unwrap_or_else(|| address::unspecified(family, made_up));
    Names { family, peer, local }
}

/// Writes the peer's name where the caller wants it; the errno when its memory does not take it.
fn write_peer(notification: &Notification, peer: &[u8]) -> Result<(), Errno> {
    if notification.pointer(1) == 0 { Ok(()) } else { write_name(notification, peer) }
}

fn plant_own(
    listener: BorrowedFd<'_>,
    notification: &Notification,
    flags: i32,
    connection: &OwnedFd,
    peer: &[u8],
) -> io::Result<Planted> {
    if let Err(errno) = write_peer(notification, peer) {
        return Ok(Planted::NoNameFor(errno));
    }
    if flags & libc::SOCK_NONBLOCK != 0 {
        sys::file::set_status_flags(connection.as_fd(), libc::O_RDWR | libc::O_NONBLOCK)?;
    }
    plant(listener, notification, flags, connection).map(Planted::At)
}

fn plant(
    listener: BorrowedFd<'_>,
    notification: &Notification,
    flags: i32,
    file: &OwnedFd,
) -> io::Result<RawFd> {
    let close_on_exec = flags & libc::SOCK_CLOEXEC != 0;
    sys::seccomp::add_fd(listener, notification.id, file.as_fd(), close_on_exec)
}

/// The supervisor's own limit of descriptors is the machine's, to the program.
fn accept_errno(error: &io::Error) -> Errno {
    match Errno::of(error) {
        Errno::EMFILE => Errno::ENFILE,
        errno => errno,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(own: &str, bound: &str, peer: &str, dialled: Option<&str>) -> (String, String) {
        let parse = |text: &str| text.parse::<SocketAddr>().unwrap();
        let names =
            names(Some(parse(own)), Some(parse(bound)), Some(parse(peer)), dialled.map(parse), 5);
        (names.peer.to_string(), names.local.to_string())
    }

    #[test]
    fn names_are_as_tcps() {
        let (client, host) = ("203.0.113.9:4711", Some("192.0.2.7:8080"));
        let pair = |peer: &str, local: &str| (peer.to_owned(), local.to_owned());
        assert_eq!(shown("127.0.0.1:80", "0.0.0.0:80", client, host), pair(client, "192.0.2.7:80"));
        assert_eq!(shown("10.0.0.1:80", "10.0.0.1:80", client, host), pair(client, "10.0.0.1:80"));
        assert_eq!(
            shown("[::ffff:127.0.0.1]:80", "[::]:80", client, host),
            pair("[::ffff:203.0.113.9]:4711", "[::ffff:192.0.2.7]:80")
        );
        assert_eq!(
            shown("127.0.0.1:80", "0.0.0.0:80", "[2001:db8::1]:5", None),
            pair("0.0.0.0:1029", "127.0.0.1:80")
        );
    }
}
