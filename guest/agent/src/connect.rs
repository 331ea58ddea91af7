//! connect(): where it leads to, and how the attempt starts.
//!
//! in: connect() notifications; out: answers, attempts started. Owner: the supervisor's loop. Kept:
//! * the address is copied once; the decision and the dial use that copy;
//! * a blocking connect keeps the program's own TCP socket until it succeeds or is interrupted
//!   (`held`), so a failure leaves nothing to undo; a non-blocking one is replaced at once
//!   (`replace`), because the program will wait for the new file.
//!
//! How connect() ends in each state is `table::State`.

use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, OwnedFd};
use std::time::Instant;

use outsock_vmrpc::Errno;
use outsock_vmrpc::socket::{ConnectRequest, Destination};

use crate::address::{self, Family, Passed};
use crate::held::First;
use crate::notify::{Answer, Notification};
use crate::supervisor::{Attempt, Owner, Progress, Subject, Supervisor, progress};
use crate::table::{Again, State};
use crate::{limits, log, options, sys};

impl Supervisor {
    pub(crate) fn on_connect(
        &mut self,
        notification: &Notification,
        now: Instant,
    ) -> io::Result<Answer> {
        let passed = passed_address(notification, 1, 2)?;
        match passed {
            Passed::Foreign => return Ok(Answer::Native),
            // As if it did not run: the programs then ask the nameservers themselves.
            Passed::SystemResolver if self.resolver.is_some() => {
                return Ok(Answer::Fail(Errno::ENOENT));
            }
            Passed::SystemResolver => return Ok(Answer::Native),
            Passed::Unspecified | Passed::Internet(_) => {}
        }
        let subject = self.subject(notification)?;
        match passed {
            Passed::Foreign | Passed::SystemResolver => Ok(Answer::Native),
            Passed::Unspecified => self.disassociate(notification, subject, now),
            Passed::Internet(peer) => {
                if peer.port() == limits::DNS_PORT
                    && let Some(answer) = self.ask_nameserver(notification, &subject, peer, now)?
                {
                    return Ok(answer);
                }
                if self.entry(&subject).is_none() {
                    return self.connect_own(notification, subject, peer, now);
                }
                let progress = progress(&subject.file);
                // With the verdict there, a connection that has been closed again was open too.
                let ended = progress.is_some();
                match self.entry(&subject).map(|socket| socket.state.connect(ended)) {
                    None => Ok(Answer::Native),
                    Some(Again::Done) => Ok(Answer::Value(0)),
                    Some(Again::IsConnected) => Ok(Answer::Fail(Errno::EISCONN)),
                    Some(Again::Fails(errno)) => Ok(Answer::Fail(errno)),
                    Some(Again::InProgress(Some(token))) if ended => {
                        let lost = progress == Some(Progress::Failed);
                        Ok(self.wait_for_verdict(notification, token, lost, now))
                    }
                    Some(Again::InProgress(token)) => {
                        self.connect_again(notification, subject, token, now)
                    }
                    Some(Again::Fresh) => self.connect_anew(notification, subject, peer, now),
                }
            }
        }
    }

    /// A socket that is still the guest's own.
    pub(crate) fn connect_own(
        &mut self,
        notification: &Notification,
        subject: Subject,
        peer: SocketAddr,
        now: Instant,
    ) -> io::Result<Answer> {
        let own = match self.outsourceable(&subject.file) {
            Some(own) if !self.stays_in_guest(&subject.file, family_of(own), peer)? => own,
            Some(_) => return Ok(Answer::Native),
            None => {
                let back = self.leave_nameserver(notification, &subject, now)?;
                return Ok(back.unwrap_or(Answer::Native));
            }
        };
        self.start(notification, subject, own, peer, now)
    }

    /// A socket whose last attempt failed.
    pub(crate) fn connect_anew(
        &mut self,
        notification: &Notification,
        subject: Subject,
        peer: SocketAddr,
        now: Instant,
    ) -> io::Result<Answer> {
        let Some(socket) = self.entry(&subject) else { return Ok(Answer::Native) };
        let family = socket.family;
        let shadow = socket.shadow.try_clone()?;
        if self.stays_in_guest(&shadow, family, peer)? {
            self.restore(notification, subject, now)?;
            return Ok(Answer::Native);
        }
        let own = bound_name(&shadow).unwrap_or_else(|| address::unspecified(family, 0));
        self.start(notification, subject, own, peer, now)
    }

    /// The name of a TCP socket of the supervisor's own network namespace that has nothing under way.
    /// The networks of containers are left alone.
    fn outsourceable(&self, file: &OwnedFd) -> Option<SocketAddr> {
        const TCP_CLOSE: u8 = 7;
        let file_ = file.as_fd();
        // Only TCP and what is made of it (MPTCP) answers this.
        let mut state = [0u8];
        sys::socket::option(file_, libc::SOL_TCP, libc::TCP_INFO, &mut state).ok()?;
        let cookie = sys::socket::NETNS_COOKIE;
        let network = sys::socket::wide_option(file_, libc::SOL_SOCKET, cookie).ok();
        if state[0] != TCP_CLOSE || network != self.network {
            return None;
        }
        bound_name(file)
    }

    /// Whether a destination is the guest's own, or one that the guest's TCP refuses by itself.
    fn stays_in_guest(
        &mut self,
        socket: &OwnedFd,
        family: Family,
        peer: SocketAddr,
    ) -> io::Result<bool> {
        let mapped = match (family, peer) {
            (Family::V4, SocketAddr::V4(_)) => false,
            (Family::V6, SocketAddr::V6(v6)) => v6.ip().to_ipv4_mapped().is_some(),
            (Family::V4, SocketAddr::V6(_)) | (Family::V6, SocketAddr::V4(_)) => return Ok(true),
        };
        let only = |socket: &OwnedFd| {
            sys::socket::int_option(socket.as_fd(), libc::IPPROTO_IPV6, libc::IPV6_V6ONLY)
        };
        if mapped && only(socket)? != 0 {
            return Ok(true);
        }
        Ok(self.routes.is_guests_own(peer.ip()))
    }

    /// Starts an attempt.
    fn start(
        &mut self,
        notification: &Notification,
        subject: Subject,
        own: SocketAddr,
        peer: SocketAddr,
        now: Instant,
    ) -> io::Result<Answer> {
        if self.table.is_full() {
            log::say(format_args!("{} sockets are outsourced: no more", limits::SOCKETS_MAX));
            return Ok(Answer::Fail(Errno::ENFILE));
        }
        // Nobody listens there, on no machine.
        if peer.port() == 0 {
            return Ok(Answer::Fail(Errno::ECONNREFUSED));
        }
        if self.is_taken(own, peer, now) {
            return Ok(Answer::Fail(Errno::EADDRNOTAVAIL));
        }
        let token = self.fresh_token()?;
        let request = ConnectRequest {
            token,
            destination: Destination::Address(address::canonical(peer)),
            source: (own.port() != 0 || !own.ip().is_unspecified()).then_some(own),
        };
        log::note(format_args!("thread {} connects to {peer}", notification.thread));
        let (process, thread) = (subject.process.id, notification.thread);
        let number = notification.descriptor(0);
        let is_shared = !self.table.has(subject.inode)
            && !self.relays.is_full()
            && subject.process.shares(thread, number, subject.inode);
        let who = || self.identities.of(process, thread, now);
        let tcp = self.table.get(subject.inode).map(|socket| socket.shadow.try_clone());
        let tcp = tcp.transpose()?;
        let tcp = tcp.as_ref().unwrap_or(&subject.file);
        let options = self.seen.collect(tcp, &subject.file, peer.ip().to_canonical().is_ipv4());
        let new = match self.link.connect(&request, who, &options) {
            Ok(new) => new,
            Err(errno) => return Ok(Answer::Fail(errno)),
        };
        let flags = sys::file::status_flags(subject.file.as_fd())?;
        options::copy_all(&subject.file, &new, flags, self.seen);
        let first = First {
            process: subject.process,
            number: notification.descriptor(0),
            old: subject.file,
            old_inode: subject.inode,
            new,
            token,
            flags,
            family: family_of(own),
            peer,
            verdict: None,
            lost: false,
            is_shared,
        };
        if is_shared || flags & libc::O_NONBLOCK == 0 {
            return self.wait_first(notification, first, now);
        }
        match self.hand_over(notification, first, State::Connecting(token), now) {
            Ok(inode) => {
                self.attempts.insert(token, Attempt { started: now, owner: Owner::Socket(inode) });
                Ok(Answer::Fail(Errno::EINPROGRESS))
            }
            Err(error) => {
                self.link.cancel(token);
                Ok(not_replaced(&error))
            }
        }
    }
}

/// The address that a call passes, copied once; the places of its arguments are given.
pub(crate) fn passed_address(
    notification: &Notification,
    pointer: usize,
    length: usize,
) -> io::Result<Passed> {
    let length = usize::try_from(notification.int(length)).unwrap_or(usize::MAX);
    address_at(notification.thread, notification.pointer(pointer), length)
}

/// The address that stands in a program's memory, copied once.
pub(crate) fn address_at(thread: u32, pointer: u64, length: usize) -> io::Result<Passed> {
    if length > limits::ADDRESS_BYTES_MAX {
        return Ok(Passed::Foreign);
    }
    let mut bytes = [0u8; limits::ADDRESS_BYTES_MAX];
    let bytes = &mut bytes[..length];
    sys::memory::read(thread, pointer, bytes)?;
    Ok(Passed::parse(bytes))
}

fn family_of(name: SocketAddr) -> Family {
    if name.is_ipv4() { Family::V4 } else { Family::V6 }
}

/// The name that a socket has been bound to (all zeros when it has not).
pub(crate) fn bound_name(socket: &OwnedFd) -> Option<SocketAddr> {
    match Passed::parse(&sys::socket::local_name(socket.as_fd()).ok()?) {
        Passed::Internet(name) => Some(name),
        Passed::Unspecified | Passed::SystemResolver | Passed::Foreign => None,
    }
}

/// The answer when the socket could not be replaced.
pub(crate) fn not_replaced(error: &io::Error) -> Answer {
    log::note(format_args!("a socket could not be replaced: {error}"));
    match Errno::of(error) {
        // The caller is gone.
        Errno::ENOENT => Answer::Later,
        errno => Answer::Fail(errno),
    }
}
