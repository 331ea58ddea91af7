//! listen(), and the end of listening sockets.
//!
//! in: notifications, the gateway's answers, time; out: answers, and listeners told to the gateway.
//! Owner: the supervisor's loop. Kept: listen() is the guest kernel's own, with its own errors first;
//! then the gateway is told, and where it cannot publish what its configuration wants, the program
//! gets that errno from listen() and its socket is as it was before. Without a gateway a listener
//! is a local one, until the gateway is back.

use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, OwnedFd};
use std::time::Instant;

use outsock_vmrpc::Errno;
use outsock_vmrpc::socket::inbound::{ListenReply, ListenRequest, ListenerId, Session};

use crate::connect::bound_name;
use crate::gateway;
use crate::listeners::Listening;
use crate::notify::{Answer, Notification};
use crate::supervisor::{Subject, Supervisor, random_number, socket_cookie};
use crate::table::State;
use crate::waiting::{Reason, Waiting};
use crate::{limits, log, sys};

impl Supervisor {
    pub(crate) fn on_listen(
        &mut self,
        notification: &Notification,
        now: Instant,
    ) -> io::Result<Answer> {
        let mut subject = self.subject(notification)?;
        match self.entry(&subject).map(|socket| socket.state) {
            None => {}
            Some(State::Connecting(_) | State::Connected { .. }) => {
                return Ok(Answer::Fail(Errno::EINVAL));
            }
            // It was to be a client, and gave up: the guest's own socket listens.
            Some(State::Failed(_) | State::Idle) => {
                self.restore(notification, subject, now)?;
                subject = self.subject(notification)?;
            }
        }
        if !self.is_own_tcp(&subject.file) {
            return Ok(Answer::Native);
        }
        let backlog = notification.int(1);
        if let Err(error) = sys::socket::listen(subject.file.as_fd(), backlog) {
            return Ok(Answer::Fail(Errno::of(&error)));
        }
        let Some(address) = bound_name(&subject.file) else { return Ok(Answer::Value(0)) };
        self.watch_process(&subject);
        if !self.enter_listener(notification, &subject, address, backlog, now)? {
            return Ok(Answer::Value(0));
        }
        let Some(request) = self.listen_request(subject.inode) else { return Ok(Answer::Value(0)) };
        self.link.listen(&request);
        let deadline = Some(now + limits::LISTEN_PATIENCE);
        let inode = subject.inode;
        let reason = Reason::Listen { file: subject.file, address, tries: 0 };
        let waiting = Waiting::new(*notification, None, reason, deadline, now);
        let key = self.waiting.insert(waiting, now);
        if let Some(listening) = self.listeners.get(inode) {
            listening.call = Some(key);
        }
        Ok(Answer::Later)
    }

    /// Whether a socket is TCP, in the supervisor's own network namespace.
    fn is_own_tcp(&self, file: &OwnedFd) -> bool {
        let file = file.as_fd();
        // Only TCP and what is made of it (MPTCP) answers this.
        let is_tcp = sys::socket::option(file, libc::SOL_TCP, libc::TCP_INFO, &mut [0u8]).is_ok();
        let cookie = sys::socket::NETNS_COOKIE;
        is_tcp && sys::socket::wide_option(file, libc::SOL_SOCKET, cookie).ok() == self.network
    }

    /// Enters a listener, or its change. `false` when there is no room for it.
    fn enter_listener(
        &mut self,
        notification: &Notification,
        subject: &Subject,
        address: SocketAddr,
        backlog: i32,
        now: Instant,
    ) -> io::Result<bool> {
        let option = |level, name| sys::socket::int_option(subject.file.as_fd(), level, name);
        let known = self.listening(subject).map(|listening| listening.id);
        if known.is_none() && self.listeners.is_full() {
            log::say(format_args!(
                "{} sockets listen: this one only locally",
                limits::LISTENERS_MAX
            ));
            return Ok(false);
        }
        let who = self.identities.of(subject.process.id, notification.thread, now);
        let old = self.listeners.remove(subject.inode);
        let (accepting, file) = old.map_or_else(Default::default, |old| (old.accepting, old.file));
        let listening = Listening {
            id: known.unwrap_or_else(|| self.listeners.fresh_id()),
            cookie: socket_cookie(&subject.file),
            address,
            dual: address.is_ipv6() && option(libc::IPPROTO_IPV6, libc::IPV6_V6ONLY)? == 0,
            shared: option(libc::SOL_SOCKET, libc::SO_REUSEPORT)? != 0,
            // The kernel takes a negative one for the most.
            backlog: u32::try_from(backlog).unwrap_or(limits::BACKLOG_MAX).min(limits::BACKLOG_MAX),
            who,
            published: false,
            call: None,
            accepting,
            file,
            ended: 0,
        };
        let (id, dual) = (listening.id, listening.dual);
        self.listeners.insert(subject.inode, subject.file.as_fd(), listening, now)?;
        self.adopt_homeless(id, address, dual);
        Ok(true)
    }

    /// The entry of a listener. An entry of another socket that had the same inode is dropped.
    pub(crate) fn listening(&mut self, subject: &Subject) -> Option<&mut Listening> {
        let cookie = self.listeners.get(subject.inode)?.cookie;
        if cookie != socket_cookie(&subject.file) {
            self.forget_listener(subject.inode);
            return None;
        }
        self.listeners.get(subject.inode)
    }

    /// What the gateway is told of a listener; `None` without a gateway that publishes.
    fn listen_request(&mut self, inode: u64) -> Option<ListenRequest> {
        let random = &mut self.random;
        let session = self.link.inbound_session(|| random_number(random))?;
        let listening = self.listeners.get(inode)?;
        Some(ListenRequest {
            session,
            listener: listening.id,
            address: listening.address,
            dual: listening.dual,
            shared: listening.shared,
            backlog: listening.backlog,
            asserted: listening.who.clone(),
        })
    }

    /// The gateway has answered.
    pub(crate) fn on_listened(
        &mut self,
        session: Session,
        id: ListenerId,
        reply: Result<ListenReply, Errno>,
        now: Instant,
    ) {
        if !self.link.is_inbound(session) {
            return;
        }
        let Some(listening) = self.listeners.of(id) else { return };
        let address = listening.address;
        let call = listening.call.take();
        match reply {
            Ok(reply) => {
                listening.published = !reply.places.is_empty();
                if listening.published {
                    let places = reply.places.join(", ");
                    log::note(format_args!("{address} can be reached at {places}"));
                }
                self.end_listen(call, Answer::Value(0));
            }
            // The gateway's own trouble, not the place's.
            Err(errno @ (gateway::NO_GATEWAY | Errno::ENETDOWN | Errno::ENOBUFS)) => {
                log::say(format_args!("{address} can be reached in the guest only: {errno}"));
                self.end_listen(call, Answer::Value(0));
            }
            Err(errno) => match call {
                Some(key) => self.listen_elsewhere(key, id, errno, now),
                None => log::say(format_args!("{address} cannot be published: {errno}")),
            },
        }
    }

    fn end_listen(&mut self, call: Option<u64>, answer: Answer) {
        if let Some(key) = call {
            self.end_waiting(key, answer);
        }
    }

    /// The place on the host is taken. A port that the kernel has chosen is chosen anew; any other
    /// is the program's to change.
    fn listen_elsewhere(&mut self, key: u64, id: ListenerId, errno: Errno, now: Instant) {
        let Some(inode) = self.listeners.inode_of(id) else { return };
        let backlog = self.listeners.of(id).map_or(1, |listening| listening.backlog);
        let Some(waiting) = self.waiting.get(key) else { return };
        let Reason::Listen { file, address, tries } = &mut waiting.reason else { return };
        *tries += 1;
        // Undoes listen(). A port that was asked for stays bound.
        let undone = sys::socket::shutdown_both(file.as_fd());
        let backlog = i32::try_from(backlog).unwrap_or(i32::MAX);
        let again = *tries < limits::LISTEN_TRIES
            && undone.is_ok()
            && sys::socket::listen(file.as_fd(), backlog).is_ok();
        let moved = bound_name(file).filter(|name| again && name != address);
        match moved {
            Some(name) => {
                *address = name;
                if let Some(listening) = self.listeners.get(inode) {
                    listening.address = name;
                    listening.call = Some(key);
                }
                if let Some(request) = self.listen_request(inode) {
                    self.link.listen(&request);
                }
            }
            None => {
                if again {
                    let _ = sys::socket::shutdown_both(file.as_fd());
                }
                self.forget_listener(inode);
                self.end_listen(Some(key), Answer::Fail(errno));
            }
        }
        self.look_at_listeners(now);
    }

    /// A listener is none any more: the gateway hears of it, and whoever waits in accept() too.
    pub(crate) fn forget_listener(&mut self, inode: u64) {
        let Some(listening) = self.listeners.get(inode) else { return };
        let (id, address) = (listening.id, listening.address);
        let calls: Vec<u64> = listening.accepting.drain(..).collect();
        self.stop_watching_listener(inode);
        self.listeners.remove(inode);
        self.link.unlisten(id);
        log::note(format_args!("{address} is not listened on any more"));
        for key in calls {
            if let Some(waiting) = self.waiting.remove(key) {
                self.listener.answer(waiting.notification.id, Answer::Fail(Errno::EINVAL));
            }
        }
    }

    /// Forgets listeners that have been closed.
    pub(crate) fn look_at_listeners(&mut self, now: Instant) {
        for inode in self.listeners.closed(now) {
            self.forget_listener(inode);
        }
    }

    /// There is no gateway any more.
    pub(crate) fn lose_inbound(&mut self) {
        let calls = self.listeners.each().map(|listening| {
            listening.published = false;
            listening.ended = 0;
            listening.call.take()
        });
        let calls: Vec<Option<u64>> = calls.collect();
        calls.into_iter().for_each(|call| self.end_listen(call, Answer::Value(0)));
        self.drop_all_tickets();
    }

    /// The gateway is back: it is told of everyone who listens.
    pub(crate) fn resume_inbound(&mut self) {
        let ids: Vec<ListenerId> = self.listeners.each().map(|listening| listening.id).collect();
        for id in ids {
            let Some(inode) = self.listeners.inode_of(id) else { continue };
            if let Some(request) = self.listen_request(inode) {
                self.link.listen(&request);
            }
        }
    }

    /// The end of a process that listens or accepts is to be noticed at once.
    pub(crate) fn watch_process(&mut self, subject: &Subject) {
        if let Err(error) = self.ends.watch(&self.poll, &subject.process) {
            log::note(format_args!("cannot watch process {}: {error}", subject.process.id));
        }
    }

    /// A process that listened or accepted has ended.
    pub(crate) fn on_process_end(&mut self, key: u64, now: Instant) {
        self.ends.forget(&self.poll, key);
        self.release_dead(now);
    }

    /// Lets go of the listeners of processes that were killed in accept(): a server that starts anew
    /// wants its port.
    pub(crate) fn release_dead(&mut self, now: Instant) {
        if self.listeners.is_empty() {
            return;
        }
        for key in self.waiting.keys() {
            self.abandon_if_gone(key);
        }
        self.look_at_listeners(now);
    }
}
