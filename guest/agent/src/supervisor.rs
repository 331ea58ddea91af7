//! The supervisor: one loop that answers every held call.
//!
//! in: notifications of the filter, verdicts of the gateway, readiness of connecting sockets, time,
//! signals from the front process; out: answers. Owner: the main thread of the supervisor process.
//! Kept: the loop never waits for a program, a dial or the gateway; what takes time is a
//! `waiting::Waiting`. One file per family of calls adds its handlers: `connect`, `names`,
//! `options`, `descriptors`.

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsFd, OwnedFd};
use std::rc::Rc;
use std::time::Instant;

use outsock_vmrpc::Errno;
use outsock_vmrpc::socket::{ConnectReply, Token};

use crate::accept::LISTENER_KEYS;
use crate::command::Command;
use crate::descriptors::Duplicated;
use crate::ends::{Ends, PROCESS_KEYS};
use crate::epoll::Mover;
use crate::filter::Call;
use crate::gateway::{self, Event, Link};
use crate::identity::Identities;
use crate::listeners::Listeners;
use crate::mailbox::Mailbox;
use crate::nameservers::Nameservers;
use crate::notify::{Answer, Listener, Notification};
use crate::outward::Seen;
use crate::processes::{Process, Processes};
use crate::relay::Relays;
use crate::resolver::Resolver;
use crate::route::Routes;
use crate::sys::poll::{Epoll, FAILED, HUNG_UP, PEER_CLOSED, READABLE};
use crate::table::{Socket, State, Table};
use crate::tickets::{TICKET_KEYS, Tickets};
use crate::tun::Tun;
use crate::waiting::{KEY_MIN, WaitingCalls};
use crate::weak::WeakSets;
use crate::{log, sys};

/// What an event of the loop's epoll set is about. Larger numbers are keys of waiting calls.
const FROM_LISTENER: u64 = 0;
const FROM_MAILBOX: u64 = 1;
const FROM_FRONT: u64 = 2;
const FROM_CHILDREN: u64 = 3;
const FROM_LINK: u64 = 4;
const FROM_RESOLVER: u64 = 5;
const _: () = assert!(FROM_RESOLVER < KEY_MIN);
const _: () = assert!(TICKET_KEYS < LISTENER_KEYS && LISTENER_KEYS < PROCESS_KEYS);

/// An attempt whose verdict is out.
#[derive(Debug)]
pub(crate) struct Attempt {
    pub(crate) started: Instant,
    pub(crate) owner: Owner,
}

/// What a verdict is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Owner {
    /// A waiting call, by key.
    Call(u64),
    /// An entry of the table, by inode.
    Socket(u64),
}

/// See the head of this file.
#[derive(Debug)]
pub(crate) struct Supervisor {
    pub(crate) listener: Listener,
    pub(crate) poll: Epoll,
    pub(crate) link: Link,
    pub(crate) routes: Routes,
    pub(crate) mover: Mover,
    pub(crate) processes: Processes,
    pub(crate) identities: Identities,
    pub(crate) table: Table,
    pub(crate) weak: WeakSets,
    pub(crate) waiting: WaitingCalls,
    pub(crate) attempts: HashMap<Token, Attempt>,
    pub(crate) duplicated: Duplicated,
    pub(crate) seen: Seen,
    pub(crate) relays: Relays,
    pub(crate) network: Option<u64>,
    pub(crate) resolver: Option<Resolver>,
    pub(crate) nameservers: Nameservers,
    pub(crate) listeners: Listeners,
    pub(crate) tickets: Tickets,
    pub(crate) ends: Ends,
    /// UDP and ping, where this agent serves them.
    pub(crate) tun: Option<Tun>,
    mailbox: Mailbox,
    command: Command,
    pub(crate) random: io::BufReader<File>,
}

/// A socket that a call is about.
#[derive(Debug)]
pub(crate) struct Subject {
    pub(crate) process: Rc<Process>,
    /// The supervisor's own copy of the descriptor, for the time of the call.
    pub(crate) file: OwnedFd,
    pub(crate) inode: u64,
}

impl Supervisor {
    pub(crate) fn new(
        listener: Listener,
        link: Link,
        mailbox: Mailbox,
        command: Command,
        resolver: Option<Resolver>,
    ) -> io::Result<Self> {
        let poll = Epoll::new()?;
        poll.add(listener.as_fd(), READABLE, FROM_LISTENER)?;
        poll.add(mailbox.as_fd(), READABLE, FROM_MAILBOX)?;
        poll.add(command.front(), READABLE, FROM_FRONT)?;
        poll.add(command.children(), READABLE, FROM_CHILDREN)?;
        if let Some(watch) = link.watch() {
            poll.add(watch, PEER_CLOSED, FROM_LINK)?;
        }
        if let Some(resolver) = &resolver {
            poll.add(resolver.as_fd(), READABLE, FROM_RESOLVER)?;
        }
        let mut nameservers = Nameservers::default();
        nameservers.look(std::process::id());
        Ok(Self {
            listener,
            poll,
            link,
            routes: Routes::open()?,
            mover: Mover::start()?,
            processes: Processes::default(),
            identities: Identities::default(),
            table: Table::default(),
            weak: WeakSets::default(),
            waiting: WaitingCalls::default(),
            attempts: HashMap::new(),
            duplicated: Duplicated::default(),
            seen: Seen::default(),
            relays: Relays::default(),
            network: own_network(),
            resolver,
            nameservers,
            listeners: Listeners::default(),
            tickets: Tickets::default(),
            ends: Ends::default(),
            tun: None,
            mailbox,
            command,
            random: io::BufReader::new(File::open("/dev/urandom")?),
        })
    }

    /// Serves until the last supervised process has ended.
    pub(crate) fn serve(mut self) -> io::Result<()> {
        loop {
            let now = Instant::now();
            let timeout = self.next_due().map(|due| due.saturating_duration_since(now));
            for event in self.poll.wait(timeout)? {
                let now = Instant::now();
                match event.data {
                    FROM_LISTENER if event.events & READABLE != 0 => self.serve_one(now)?,
                    // No process has the filter any more; the command's end is still to be told.
                    FROM_LISTENER => {
                        self.refuse_everything(now);
                        let ended = self.command.wait();
                        self.relays.finish();
                        return ended;
                    }
                    FROM_MAILBOX => self.read_mail(now),
                    FROM_FRONT => self.command.on_front(&self.poll),
                    FROM_CHILDREN => {
                        // Before anybody is told that the command has ended.
                        self.release_dead(now);
                        self.command.on_children();
                    }
                    FROM_LINK => self.lose_gateway(now),
                    FROM_RESOLVER => self.on_resolver(now),
                    key if key >= PROCESS_KEYS => self.on_process_end(key, now),
                    key if key >= LISTENER_KEYS => self.on_listener_ready(key, now),
                    key if key >= TICKET_KEYS => self.on_ticket(key, event.events),
                    key => self.on_socket_ready(key, now),
                }
            }
            self.on_time(Instant::now());
        }
    }

    fn next_due(&self) -> Option<Instant> {
        [
            self.waiting.due(),
            self.weak.due(),
            self.listeners.due(),
            self.tickets.due(),
            self.link_due(),
            self.link.gone_at(),
        ]
        .into_iter()
        .flatten()
        .min()
    }

    fn serve_one(&mut self, now: Instant) -> io::Result<()> {
        if let Some(notification) = self.listener.receive()? {
            self.dispatch(&notification, now);
        }
        Ok(())
    }

    /// Handles a call, for the first time or again after what it waited for has come.
    pub(crate) fn dispatch(&mut self, notification: &Notification, now: Instant) {
        let answer = match notification.call {
            Call::Connect => self.on_connect(notification, now),
            Call::Listen => self.on_listen(notification, now),
            Call::Accept | Call::AcceptWith => self.on_accept(notification, now),
            Call::Shutdown => self.on_shutdown(notification),
            Call::SocketName => self.on_socket_name(notification, now),
            Call::PeerName => self.on_peer_name(notification),
            Call::GetOption => self.on_get_option(notification, now),
            Call::SetOption => self.on_set_option(notification, now),
            Call::Duplicate => self.on_duplicate(notification, now),
            Call::EpollCreate => self.on_epoll_create(notification, now),
            Call::SecondListener => {
                refuse_listener(notification.thread);
                Ok(Answer::Native)
            }
            Call::Bind => self.on_bind(notification, now),
            Call::SendTo | Call::SendMessage => self.on_send(notification, now),
            Call::Ioctl => self.on_ioctl(notification, now),
            Call::Multiplexed => Ok(Answer::Native),
        };
        // What cannot be looked at (a bad descriptor, a process that just died) is the kernel's to
        // refuse, in its own words. The worst that a native connect can reach is the guest's own TCP.
        let answer = answer.unwrap_or_else(|error| {
            log::note(format_args!(
                "{:?} of thread {} is left to the kernel: {error}",
                notification.call, notification.thread
            ));
            Answer::Native
        });
        self.listener.answer(notification.id, answer);
    }

    /// The socket that a call's first argument names.
    pub(crate) fn subject(&mut self, notification: &Notification) -> io::Result<Subject> {
        let process = self.processes.of(notification.thread)?;
        let file = process.copy_descriptor(notification.descriptor(0))?;
        let inode = sys::file::identity(file.as_fd())?.inode;
        // Had the caller died, its number could already be another thread's.
        if !self.listener.is_waiting(notification.id) {
            return Err(io::Error::from_raw_os_error(libc::ESRCH));
        }
        Ok(Subject { process, file, inode })
    }

    /// The entry of a socket. An entry of another socket that had the same inode is dropped.
    pub(crate) fn entry(&mut self, subject: &Subject) -> Option<&mut Socket> {
        let cookie = self.table.get(subject.inode)?.cookie;
        if cookie != socket_cookie(&subject.file) {
            self.table.remove(subject.inode);
            return None;
        }
        self.table.get(subject.inode)
    }

    /// A token that is not in use.
    pub(crate) fn fresh_token(&mut self) -> io::Result<Token> {
        loop {
            let mut bytes = [0u8; 4];
            self.random.read_exact(&mut bytes)?;
            let token = Token::from_random(u32::from_ne_bytes(bytes));
            if !self.attempts.contains_key(&token) {
                return Ok(token);
            }
        }
    }

    pub(crate) fn read_mail(&mut self, now: Instant) {
        for event in self.mailbox.take_all() {
            match event {
                Event::Verdict(token, verdict) => {
                    self.link.heard(now);
                    self.settle(token, verdict, now);
                }
                Event::Answer(key, outcome) => {
                    self.link.heard(now);
                    self.on_answer(key, outcome, now);
                }
                Event::OptionsSet(token, inode) => self.on_options_set(token, inode),
                Event::Alive(number) if self.link.is_present(number) => self.link.heard(now),
                Event::Lost(number) if self.link.is_present(number) => self.lose_gateway(now),
                Event::Alive(_) | Event::Lost(_) => {}
                Event::Listened(session, id, reply) => {
                    self.link.heard(now);
                    self.on_listened(session, id, reply, now);
                }
                Event::Inbound(session, notices) => {
                    self.link.heard(now);
                    self.on_inbound(session, notices);
                }
                Event::Back(session) => {
                    self.link.resume(session, now);
                    self.resume_inbound();
                    if let Some(watch) = self.link.watch()
                        && let Err(error) = self.poll.add(watch, PEER_CLOSED, FROM_LINK)
                    {
                        log::say(format_args!("cannot watch the gateway's stream: {error}"));
                    }
                }
            }
        }
    }

    /// A verdict has come.
    pub(crate) fn settle(
        &mut self,
        token: Token,
        verdict: Result<ConnectReply, Errno>,
        now: Instant,
    ) {
        let Some(attempt) = self.attempts.remove(&token) else { return };
        match attempt.owner {
            Owner::Call(key) => self.on_first_verdict(key, verdict, now),
            Owner::Socket(inode) => {
                if let Some(socket) = self.table.get(inode) {
                    socket.state.settle(verdict.map(|reply| reply.local));
                }
                self.weak.settle(inode);
                self.send_options(inode);
                for key in self.waiting.of(token) {
                    self.dispatch_again(key, now);
                }
            }
        }
    }

    /// Handles a waiting call anew.
    pub(crate) fn dispatch_again(&mut self, key: u64, now: Instant) {
        if let Some(waiting) = self.stop_waiting(key) {
            self.dispatch(&waiting.notification, now);
        }
    }

    fn lose_gateway(&mut self, now: Instant) {
        if let Some(watch) = self.link.watch() {
            // Closing the descriptor is not enough: the reader thread has another one.
            let _ = self.poll.delete(watch);
        }
        self.link.lose();
        if let Some(resolver) = &self.resolver {
            resolver.gateway_lost();
        }
        if let Some(tun) = &self.tun {
            tun.lose_gateway();
        }
        self.lose_inbound();
        let tokens: Vec<_> = self.attempts.keys().copied().collect();
        for token in tokens {
            if let Some(Owner::Socket(inode)) = self.attempts.get(&token).map(|a| a.owner) {
                self.break_connecting(inode);
            }
            self.settle(token, Err(gateway::NO_GATEWAY), now);
        }
    }

    fn on_time(&mut self, now: Instant) {
        while let Some(key) = self.waiting.take_due(now) {
            self.on_wait_time(key, now);
        }
        if self.tickets.due().is_some_and(|due| due <= now) {
            self.on_tickets_time(now);
        }
        if self.listeners.due().is_some_and(|due| due <= now) {
            self.look_at_listeners(now);
        }
        if self.weak.due().is_some_and(|due| due <= now) {
            for inode in self.weak.sweep(now) {
                self.on_socket_gone(inode);
            }
            self.processes.forget_dead();
        }
        if self.link_due().is_some_and(|due| due <= now) {
            let oldest = self.attempts.values().map(|attempt| attempt.started).min();
            if !self.link.look_after(now, oldest) {
                self.lose_gateway(now);
            }
        }
        if self.link.gone_at().is_some_and(|at| at <= now) {
            self.link.forget_connections();
            self.end_connections();
        }
    }

    /// When to look after the gateway; nobody cares while nothing is outsourced.
    fn link_due(&self) -> Option<Instant> {
        let waiting = !self.attempts.is_empty();
        if waiting || !self.table.is_empty() || !self.listeners.is_empty() {
            self.link.due(waiting)
        } else {
            None
        }
    }

    /// The last descriptor of an outsourced socket was closed.
    pub(crate) fn on_socket_gone(&mut self, inode: u64) {
        if self.relays.remove(inode) {
            return;
        }
        let Some(socket) = self.table.remove(inode) else { return };
        if let State::Connecting(token) = socket.state {
            self.attempts.remove(&token);
            self.link.cancel(token);
        }
        log::note(format_args!("{} is closed; {} left", socket.peer, self.table.len()));
    }

    /// Wakes a program that waits for a connecting socket which will never be answered.
    fn break_connecting(&mut self, inode: u64) {
        let Some(socket) = self.table.get(inode) else { return };
        let (process, number) = &socket.home;
        let Ok(file) = process.copy_descriptor(*number) else { return };
        if sys::file::identity(file.as_fd()).is_ok_and(|identity| identity.inode == inode) {
            // Fails only when the socket is not connecting any more.
            let _ = sys::socket::shutdown_both(file.as_fd());
        }
    }
}

/// A number that nobody guesses.
pub(crate) fn random_number(random: &mut io::BufReader<File>) -> u64 {
    let mut bytes = [0u8; 8];
    // The device never ends; were it to, agents of one guest would have to tell themselves apart by
    // their processes.
    if random.read_exact(&mut bytes).is_err() {
        return u64::from(std::process::id());
    }
    u64::from_ne_bytes(bytes)
}

/// Says why the kernel is about to answer EBUSY.
fn refuse_listener(thread: u32) {
    let program = std::fs::read_link(format!("/proc/{thread}/exe")).unwrap_or_default();
    log::say(format_args!(
        "{} (thread {thread}) wants a seccomp listener of its own (as container runtimes do), which \
         gives EBUSY: the kernel allows one, and outsock has it. Start that program outside of outsock",
        program.display()
    ));
}

/// A number that no other socket of this kernel has or had; 0 where the kernel has none.
pub(crate) fn socket_cookie(file: &OwnedFd) -> u64 {
    let cookie = sys::socket::COOKIE;
    sys::socket::wide_option(file.as_fd(), libc::SOL_SOCKET, cookie).unwrap_or(0)
}

/// The network namespace of the supervisor. `None` where the kernel cannot tell (before 5.14).
fn own_network() -> Option<u64> {
    let socket = sys::socket::stream(libc::AF_INET).ok()?;
    let name = sys::socket::NETNS_COOKIE;
    sys::socket::wide_option(socket.as_fd(), libc::SOL_SOCKET, name).ok()
}

/// Whether a socket that is being connected has come to its end, and which: `None` while it has not.
pub(crate) fn progress(file: &OwnedFd) -> Option<Progress> {
    let wanted = READABLE | sys::poll::WRITABLE;
    match sys::poll::ready(file.as_fd(), wanted).unwrap_or(FAILED) {
        0 => None,
        ready if ready & (FAILED | HUNG_UP) != 0 => Some(Progress::Failed),
        _ => Some(Progress::Open),
    }
}

/// See [`progress`]. A connection that has been closed again looks like one that failed; the verdict
/// tells them apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Progress {
    Open,
    Failed,
}
