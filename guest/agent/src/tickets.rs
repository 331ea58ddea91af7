//! Tickets: connections that came in, from the gateway's notice to the accept() that takes them.
//!
//! A listener stays the guest kernel's own. For each connection that the host holds, the agent opens
//! its stream, and then makes one TCP connection to the listener within the guest: the *ticket*. It
//! wakes whoever waits, in whatever way; the kernel queues it, chooses among listeners that share a
//! port, and refuses it when nobody listens any more, as any connection. Whoever accepts it gets the
//! stream instead (`accept`). What could not be handed out (the program has no descriptor left, or was
//! killed) gets another ticket.
//!
//! in: notices, readiness of streams and tickets; out: tickets, reports. Owner: the supervisor's loop.
//! Kept: a stream is open before its ticket is made, so a program never gets one that is not; it is
//! handed out once or refused, which resets its client; the ticket is reset after use, so that neither
//! end lingers. Bounds: the gateway sends no more than each listener's backlog.

use std::collections::HashMap;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::{AsFd, OwnedFd};
use std::time::Instant;

use outsock_vmrpc::socket::Token;
use outsock_vmrpc::socket::inbound::{ListenerId, Notice, Notices, Session};

use crate::connect::bound_name;
use crate::supervisor::{Progress, Supervisor, progress};
use crate::sys::poll::{EDGE, FAILED, HUNG_UP, PEER_CLOSED, WRITABLE};
use crate::{address, limits, log, sys};

/// Keys of these events in the supervisor's set: this and a number.
pub(crate) const TICKET_KEYS: u64 = 1 << 60;

/// What a ticket stands for.
#[derive(Debug)]
pub(crate) enum Content {
    /// A connection from outside.
    Stream {
        stream: OwnedFd,
        token: Token,
        peer: Option<SocketAddr>,
        /// The address on the host that was dialled.
        local: Option<SocketAddr>,
    },
    /// A connection within the guest that was taken off the queue and could not be handed out, with
    /// its peer's name.
    Own(OwnedFd, Vec<u8>),
}

/// A connection that has not been taken yet.
#[derive(Debug)]
struct Pending {
    listener: ListenerId,
    to: SocketAddr,
    content: Content,
    /// The ticket and its name, when it has been made.
    ticket: Option<(OwnedFd, SocketAddr)>,
    /// Nobody listens any more: until then somebody may follow on the same address.
    until: Option<Instant>,
}

/// All of them.
#[derive(Debug, Default)]
pub(crate) struct Tickets {
    pending: HashMap<u64, Pending>,
    by_name: HashMap<SocketAddr, u64>,
    made: u64,
    /// When what has ended must be reported at the latest.
    report: Option<Instant>,
}

impl Tickets {
    /// When there is something to do.
    pub(crate) fn due(&self) -> Option<Instant> {
        let homeless = self.pending.values().filter_map(|pending| pending.until).min();
        [self.report, homeless].into_iter().flatten().min()
    }

    fn insert(&mut self, pending: Pending) -> u64 {
        self.made += 1;
        let key = TICKET_KEYS | (self.made & (TICKET_KEYS - 1));
        self.pending.insert(key, pending);
        key
    }

    fn remove(&mut self, key: u64) -> Option<Pending> {
        let pending = self.pending.remove(&key)?;
        if let Some((_, name)) = &pending.ticket {
            self.by_name.remove(name);
        }
        Some(pending)
    }
}

impl Supervisor {
    /// Someone wants to connect.
    pub(crate) fn on_inbound(&mut self, session: Session, notices: Notices) {
        if !self.link.is_inbound(session) {
            return;
        }
        for notice in notices.0 {
            self.fetch(&notice);
        }
        let ended = self.take_ended();
        self.link.ask_inbound(ended);
    }

    fn take_ended(&mut self) -> Vec<(ListenerId, u32)> {
        self.tickets.report = None;
        self.listeners.take_ended()
    }

    /// Does what is due.
    pub(crate) fn on_tickets_time(&mut self, now: Instant) {
        self.refuse_homeless(now);
        if self.tickets.report.is_some_and(|due| due <= now) {
            self.report_ended();
        }
    }

    /// Reports what has ended, which waits a while so that a busy server costs few calls.
    pub(crate) fn report_ended(&mut self) {
        let ended = self.take_ended();
        if !ended.is_empty() {
            self.link.report(ended);
        }
    }

    /// Opens the stream of a connection that the host holds.
    fn fetch(&mut self, notice: &Notice) {
        let Notice { token, listener, peer, local } = *notice;
        // One that was closed a moment ago, and another listens there.
        let listener = self.listeners.heir(listener).unwrap_or(listener);
        let Some(listening) = self.listeners.of(listener) else {
            return self.link.refuse(token, None);
        };
        let to = ticket_address(listening.address, listening.dual);
        let stream = match self.link.fetch(token) {
            Ok(stream) => stream,
            Err(errno) => {
                log::say(format_args!("a connection from {peer:?} is refused: {errno}"));
                self.link.refuse(token, None);
                return self.count_ended(listener);
            }
        };
        let content = Content::Stream { stream, token, peer, local };
        let key = self.tickets.insert(Pending { listener, to, content, ticket: None, until: None });
        self.advance(key);
        self.watch_stream(key);
    }

    /// Has the loop woken when a stream opens, if it has not yet.
    fn watch_stream(&mut self, key: u64) {
        let Some(Pending { content: Content::Stream { stream, .. }, ticket: None, .. }) =
            self.tickets.pending.get(&key)
        else {
            return;
        };
        if self.poll.add(stream.as_fd(), WRITABLE | EDGE, key).is_err() {
            self.give_up(key);
        }
    }

    /// A stream has opened or failed, or a ticket has been queued or refused.
    pub(crate) fn on_ticket(&mut self, key: u64, events: u32) {
        let Some(pending) = self.tickets.pending.get(&key) else { return };
        match &pending.ticket {
            None => self.advance(key),
            Some(_) if events & (FAILED | HUNG_UP | PEER_CLOSED) != 0 => self.lose_ticket(key),
            // A listener with TCP_DEFER_ACCEPT is only woken by a byte; nobody reads it.
            Some((ticket, _)) => drop(sys::socket::send(ticket.as_fd(), &[0])),
        }
    }

    /// Makes the ticket once the stream is open.
    fn advance(&mut self, key: u64) {
        let Some(Pending { content: Content::Stream { stream, .. }, .. }) =
            self.tickets.pending.get(&key)
        else {
            return;
        };
        match progress(stream) {
            None => {}
            Some(Progress::Failed) if is_refused(stream) => self.give_up(key),
            // Open, or closed again: what came before the end is still to be read, as in TCP.
            Some(Progress::Open | Progress::Failed) => {
                // Not there when the stream was open at once.
                let _ = self.poll.delete(stream.as_fd());
                self.make_ticket(key);
            }
        }
    }

    fn make_ticket(&mut self, key: u64) {
        let Some(pending) = self.tickets.pending.get_mut(&key) else { return };
        let (ticket, name) = match dial(pending.to) {
            Ok(dialled) => dialled,
            Err(error) => {
                log::note(format_args!("no ticket to {}: {error}", pending.to));
                return self.lose_ticket(key);
            }
        };
        let events = WRITABLE | PEER_CLOSED | EDGE;
        let watched = self.poll.add(ticket.as_fd(), events, key);
        pending.ticket = Some((ticket, name));
        self.tickets.by_name.insert(name, key);
        if watched.is_err() {
            self.give_up(key);
        }
    }

    /// What an accepted connection stands for: `None` when it is one within the guest.
    pub(crate) fn redeem(&mut self, peer: SocketAddr) -> Option<(ListenerId, Content)> {
        let key = *self.tickets.by_name.get(&address::canonical(peer))?;
        let Pending { listener, content, ticket, .. } = self.tickets.remove(key)?;
        if let Some((ticket, _)) = ticket {
            discard(&ticket);
        }
        Some((listener, content))
    }

    /// Another ticket for what could not be handed out.
    pub(crate) fn queue_again(&mut self, listener: ListenerId, content: Content) {
        let listener = self.listeners.heir(listener).unwrap_or(listener);
        let Some(listening) = self.listeners.of(listener) else {
            return self.refuse_content(listener, content);
        };
        let to = ticket_address(listening.address, listening.dual);
        let key = self.tickets.insert(Pending { listener, to, content, ticket: None, until: None });
        self.make_ticket(key);
    }

    /// Nobody will take it.
    fn give_up(&mut self, key: u64) {
        let Some(Pending { listener, content, ticket, .. }) = self.tickets.remove(key) else {
            return;
        };
        drop(ticket);
        self.refuse_content(listener, content);
    }

    fn refuse_content(&mut self, listener: ListenerId, content: Content) {
        match content {
            Content::Stream { stream, token, .. } => {
                self.link.refuse(token, Some(stream));
                self.count_ended(listener);
            }
            Content::Own(connection, _) => discard(&connection),
        }
    }

    /// A connection of a listener waits no more.
    pub(crate) fn count_ended(&mut self, listener: ListenerId) {
        let Some(listening) = self.listeners.of(listener) else { return };
        listening.ended += 1;
        if listening.ended >= (listening.backlog / 2).max(1) {
            self.report_ended();
        } else if self.tickets.report.is_none() {
            self.tickets.report = Some(Instant::now() + limits::REPORT_DELAY);
        }
    }

    /// The supervisor is about to end: nobody is left who could take anything.
    pub(crate) fn refuse_everything(&mut self, now: Instant) {
        self.release_dead(now);
        if !self.link.has_listened() {
            return;
        }
        // What the gateway tells of before it has heard that nobody listens is refused as well.
        self.drop_all_tickets();
        self.link.flush(limits::REFUSE_PATIENCE);
        self.read_mail(now);
        self.drop_all_tickets();
        self.link.flush(limits::REFUSE_PATIENCE);
    }

    /// Nobody listens where a ticket went. A server that listens anew may follow in a moment.
    fn lose_ticket(&mut self, key: u64) {
        let now = Instant::now();
        let Some(pending) = self.tickets.pending.get_mut(&key) else { return };
        if let Some((_, name)) = pending.ticket.take() {
            self.tickets.by_name.remove(&name);
        }
        pending.until = Some(now + limits::HEIR_PATIENCE);
        let listener = pending.listener;
        let is_own = matches!(pending.content, Content::Own(..));
        self.look_at_listeners(now);
        match self.listeners.heir(listener) {
            Some(heir) => self.adopt(key, heir),
            // It listens, and yet it does not take connections.
            None if is_own || self.listeners.of(listener).is_some() => self.give_up(key),
            None => {}
        }
    }

    /// Another listener gets what was one's that is gone.
    fn adopt(&mut self, key: u64, heir: ListenerId) {
        let Some(listening) = self.listeners.of(heir) else { return };
        let to = ticket_address(listening.address, listening.dual);
        let Some(pending) = self.tickets.pending.get_mut(&key) else { return };
        (pending.listener, pending.to) = (heir, to);
        // Without a date the stream is not open yet, and gets its ticket when it is.
        if pending.until.take().is_some() {
            self.make_ticket(key);
        }
    }

    /// A listener has come: whoever waits for somebody on its address is its own.
    pub(crate) fn adopt_homeless(&mut self, heir: ListenerId, address: SocketAddr, dual: bool) {
        let to = ticket_address(address, dual);
        let pending = self.tickets.pending.iter();
        let its = pending.filter(|(_, pending)| pending.until.is_some() && pending.to == to);
        let keys: Vec<u64> = its.map(|(key, _)| *key).collect();
        keys.into_iter().for_each(|key| self.adopt(key, heir));
    }

    /// Refuses those for whom nobody has followed.
    pub(crate) fn refuse_homeless(&mut self, now: Instant) {
        let pending = self.tickets.pending.iter();
        let late = pending.filter(|(_, pending)| pending.until.is_some_and(|until| until <= now));
        let keys: Vec<u64> = late.map(|(key, _)| *key).collect();
        keys.into_iter().for_each(|key| self.give_up(key));
    }

    /// The gateway has gone, and all streams with it.
    pub(crate) fn drop_all_tickets(&mut self) {
        let keys: Vec<u64> = self.tickets.pending.keys().copied().collect();
        keys.into_iter().for_each(|key| self.give_up(key));
    }
}

/// Whether a stream has never been open.
fn is_refused(stream: &OwnedFd) -> bool {
    let error = sys::socket::int_option(stream.as_fd(), libc::SOL_SOCKET, libc::SO_ERROR);
    error.map_or(true, |error| error != 0)
}

/// Where a listener can be reached within the guest.
fn ticket_address(listener: SocketAddr, dual: bool) -> SocketAddr {
    let mut to = listener;
    match listener.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => to.set_ip(Ipv4Addr::LOCALHOST.into()),
        IpAddr::V6(ip) if ip.is_unspecified() && dual => {
            to = SocketAddr::new(Ipv4Addr::LOCALHOST.into(), listener.port());
        }
        IpAddr::V6(ip) if ip.is_unspecified() => to.set_ip(Ipv6Addr::LOCALHOST.into()),
        IpAddr::V4(_) | IpAddr::V6(_) => {}
    }
    to
}

/// Starts a connection within the guest: its socket and its own name.
fn dial(to: SocketAddr) -> io::Result<(OwnedFd, SocketAddr)> {
    let to =
        if to.is_ipv6() && to.ip().to_canonical().is_ipv4() { address::canonical(to) } else { to };
    let family = if to.is_ipv4() { libc::AF_INET } else { libc::AF_INET6 };
    let socket = sys::socket::stream(family)?;
    match sys::socket::connect(socket.as_fd(), &address::encode(to)) {
        Err(error) if error.raw_os_error() != Some(libc::EINPROGRESS) => return Err(error),
        Ok(()) | Err(_) => {}
    }
    let name =
        bound_name(&socket).ok_or_else(|| io::Error::from_raw_os_error(libc::EADDRNOTAVAIL))?;
    Ok((socket, address::canonical(name)))
}

/// Ends a connection within the guest by a reset when it is closed, so that nothing of it lingers.
fn discard(socket: &OwnedFd) {
    let now: Vec<u8> = [1i32, 0].into_iter().flat_map(i32::to_ne_bytes).collect();
    let _ = sys::socket::set_option(socket.as_fd(), libc::SOL_SOCKET, libc::SO_LINGER, &now);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_ticket_goes_to_where_the_listener_is() {
        let to = |listener: &str, dual| ticket_address(listener.parse().unwrap(), dual).to_string();
        assert_eq!(to("0.0.0.0:80", false), "127.0.0.1:80");
        assert_eq!(to("[::]:80", true), "127.0.0.1:80");
        assert_eq!(to("[::]:80", false), "[::1]:80");
        assert_eq!(to("10.0.0.1:80", false), "10.0.0.1:80");
        assert_eq!(to("[fd00::1]:80", true), "[fd00::1]:80");
    }

    #[test]
    fn a_ticket_is_known_by_its_name_and_leaves_nothing_behind() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let (ticket, name) = dial(listener.local_addr().unwrap()).unwrap();
        let (accepted, peer) = listener.accept().unwrap();
        assert_eq!(peer, name);
        discard(&ticket);
        drop(ticket);
        let error = io::Read::read(&mut &accepted, &mut [0]).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::ConnectionReset);
    }
}
