//! Redirect: a socket on its way to a nameserver becomes one of the resolver's private network.
//!
//! in: connect() and sendto() to port 53; out: the socket replaced, and the call left to the kernel,
//! which runs it on the new one. Owner: the supervisor's loop. Kept: no table and no state, because the
//! kernel tells whose network a socket is of; whatever address the program passes in the end, the
//! private network leads only to the stub resolver. How it works stands in `resolver`.

use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, OwnedFd};
use std::time::Instant;

use crate::address::{self, Passed};
use crate::connect::{bound_name, not_replaced, passed_address};
use crate::notify::{Answer, Notification};
use crate::resolver::{Kind, network_of};
use crate::supervisor::{Subject, Supervisor};
use crate::{limits, log, sys};

impl Supervisor {
    /// sendto() with an address.
    pub(crate) fn on_send_to(
        &mut self,
        notification: &Notification,
        now: Instant,
    ) -> io::Result<Answer> {
        if self.resolver.is_none() {
            return Ok(Answer::Native);
        }
        let passed = passed_address(notification, 4, 5)?;
        let Passed::Internet(peer) = passed else { return Ok(Answer::Native) };
        if peer.port() != limits::DNS_PORT {
            return Ok(Answer::Native);
        }
        let subject = self.subject(notification)?;
        Ok(self.ask_nameserver(notification, &subject, peer, now)?.unwrap_or(Answer::Native))
    }

    /// Whether an address is one that the resolver answers for.
    pub(crate) fn is_nameserver(&mut self, thread: u32, peer: SocketAddr) -> bool {
        peer.port() == limits::DNS_PORT
            && self.resolver.is_some()
            && self.nameservers.has(thread, peer.ip())
    }

    /// A socket of the guest that is about to go to port 53. `None`: it does not go to a nameserver.
    pub(crate) fn ask_nameserver(
        &mut self,
        notification: &Notification,
        subject: &Subject,
        peer: SocketAddr,
        now: Instant,
    ) -> io::Result<Option<Answer>> {
        let Some(resolver) = &mut self.resolver else { return Ok(None) };
        if self.table.has(subject.inode) || !self.nameservers.has(notification.thread, peer.ip()) {
            return Ok(None);
        }
        let network = network_of(subject.file.as_fd());
        if network == resolver.network {
            return Ok(Some(Answer::Native));
        }
        let Some(kind) = kind_of(&subject.file).filter(|_| network == self.network) else {
            return Ok(None);
        };
        let Some(new) = resolver.take(kind) else {
            let parked = resolver.park(notification);
            return Ok(Some(if parked { Answer::Later } else { Answer::Native }));
        };
        log::note(format_args!("thread {} asks nameserver {peer}", notification.thread));
        Ok(Some(self.exchange(notification, subject, &new, now)))
    }

    /// A socket of the private network that goes elsewhere becomes the guest's again. `None`: it is not
    /// one of the private network.
    pub(crate) fn leave_nameserver(
        &mut self,
        notification: &Notification,
        subject: &Subject,
        now: Instant,
    ) -> io::Result<Option<Answer>> {
        let network = network_of(subject.file.as_fd());
        if self.resolver.as_ref().is_none_or(|resolver| resolver.network != network) {
            return Ok(None);
        }
        let Some(kind) = kind_of(&subject.file) else { return Ok(None) };
        let new = kind.socket()?;
        Ok(Some(self.exchange(notification, subject, &new, now)))
    }

    /// Puts `new` in the place of the program's socket and has the kernel run the call.
    fn exchange(
        &mut self,
        notification: &Notification,
        subject: &Subject,
        new: &OwnedFd,
        now: Instant,
    ) -> Answer {
        let Subject { process, file, inode } = subject;
        let number = notification.descriptor(0);
        // What asks a nameserver is not a standard stream as well.
        let numbers = if self.duplicated.has(*inode) {
            self.duplicated.numbers(notification.thread, number, *inode)
        } else {
            vec![number]
        };
        let old = (file, *inode);
        let replaced = make_alike(file, new)
            .and_then(|()| self.replace_at(&numbers, notification, process, old, new, now));
        match replaced {
            Ok(()) => Answer::Native,
            Err(error) => not_replaced(&error),
        }
    }

    /// Sockets of the private network have come; or its process has ended.
    pub(crate) fn on_resolver(&mut self, now: Instant) {
        let Some(resolver) = &mut self.resolver else { return };
        if let Some(parked) = resolver.receive() {
            parked.iter().for_each(|notification| self.dispatch(notification, now));
            return;
        }
        let _ = self.poll.delete(resolver.as_fd());
        log::say(format_args!("the resolver has ended: names are resolved as without outsock"));
        let parked = self.resolver.take().map(crate::resolver::Resolver::abandon);
        for notification in parked.unwrap_or_default() {
            self.listener.answer(notification.id, Answer::Native);
        }
    }
}

/// The kind of a UDP socket, or of a TCP socket that is not connected.
fn kind_of(file: &OwnedFd) -> Option<Kind> {
    let file = file.as_fd();
    let option = |name| sys::socket::int_option(file, libc::SOL_SOCKET, name).ok();
    let kind = match (option(libc::SO_PROTOCOL)?, option(libc::SO_DOMAIN)?) {
        (libc::IPPROTO_UDP, libc::AF_INET) => return Some(Kind::UdpV4),
        (libc::IPPROTO_UDP, libc::AF_INET6) => return Some(Kind::UdpV6),
        (libc::IPPROTO_TCP, libc::AF_INET) => Kind::TcpV4,
        (libc::IPPROTO_TCP, libc::AF_INET6) => Kind::TcpV6,
        _ => return None,
    };
    const TCP_CLOSE: u8 = 7;
    let mut state = [0u8];
    sys::socket::option(file, libc::SOL_TCP, libc::TCP_INFO, &mut state).ok()?;
    (state[0] == TCP_CLOSE).then_some(kind)
}

/// What matters of a socket that asks a nameserver next door: others of its options are about a network
/// that it is not in any more.
const FOLLOWING: &[(i32, i32)] = &[
    (libc::SOL_SOCKET, libc::SO_RCVTIMEO),
    (libc::SOL_SOCKET, libc::SO_SNDTIMEO),
    (libc::IPPROTO_IP, libc::IP_PKTINFO),
    (libc::IPPROTO_IPV6, libc::IPV6_RECVPKTINFO),
];

/// Flags, options and the bound name. What the new socket does not take is left.
fn make_alike(old: &OwnedFd, new: &OwnedFd) -> io::Result<()> {
    let flags = sys::file::status_flags(old.as_fd())?;
    let shared = flags & (libc::O_NONBLOCK | libc::O_ASYNC);
    if shared != 0 {
        sys::file::set_status_flags(new.as_fd(), libc::O_RDWR | shared)?;
    }
    if shared & libc::O_ASYNC != 0 {
        let _ = sys::file::copy_signal_owner(old.as_fd(), new.as_fd());
    }
    let name = bound_name(old);
    for (level, option) in FOLLOWING {
        if *level == libc::IPPROTO_IPV6 && name.is_some_and(|name| name.is_ipv4()) {
            continue;
        }
        let mut value = [0u8; sys::socket::OPTION_BYTES_SMALL];
        let length = sys::socket::option(old.as_fd(), *level, *option, &mut value);
        let Ok(value) = length.map(|length| &value[..length]) else { continue };
        if value.iter().any(|byte| *byte != 0) {
            let _ = sys::socket::set_option(new.as_fd(), *level, *option, value);
        }
    }
    if let Some(name) = name
        && (name.port() != 0 || !name.ip().is_unspecified())
    {
        let _ = sys::socket::bind(new.as_fd(), &address::encode(name));
    }
    Ok(())
}
