//! Resolver: names for the supervised programs, whatever the guest's own resolver can do.
//!
//! A program asks its nameserver by UDP or TCP, port 53, at an address that stands in its
//! /etc/resolv.conf. That address may be unreachable, on loopback, or missing. No file is changed:
//! when a supervised program connects or sends to a nameserver, its socket is replaced by a socket of
//! a *private network namespace* in which every address is local and a stub resolver answers at port
//! 53 (`crate::redirect`). The answer comes from the very address that was asked, which is what
//! glibc, musl, c-ares and dig check. Nothing else of the guest can see that network, it needs no free
//! port, and it is gone with its last socket.
//!
//! in: a dialer; out: fresh sockets of the private network for the supervisor. Owner: a process of
//! its own, forked before anything has threads, because only a process with one thread may make a user
//! namespace, which an agent without privileges needs. Kept: the supervisor never waits for it; it ends
//! when the supervisor's end of its stream does, so also when the supervisor is killed.
//!
//! | Module | What it holds |
//! |---|---|
//! | `process` | the process, from fork to exit; hands out sockets |
//! | `network` | the private network namespace |
//! | `stub` | DNS in, VM RPC out, and back |
//! | `stream` | DNS over TCP |
//! | `upstream` | the gateway's `resolver` module |

mod network;
mod process;
mod stream;
mod stub;
mod upstream;

use std::collections::VecDeque;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::dial::Dialer;
use crate::notify::Notification;
use crate::sys::process::Fork;
use crate::{limits, sys};

/// The kinds of sockets in stock: their number is what goes over the stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    UdpV4,
    UdpV6,
    TcpV4,
    TcpV6,
}

impl Kind {
    const ALL: [Self; 4] = [Self::UdpV4, Self::UdpV6, Self::TcpV4, Self::TcpV6];

    fn number(self) -> u8 {
        self as u8
    }

    fn family(self) -> i32 {
        match self {
            Self::UdpV4 | Self::TcpV4 => libc::AF_INET,
            Self::UdpV6 | Self::TcpV6 => libc::AF_INET6,
        }
    }

    /// A new socket of this kind in the network of the caller.
    pub(crate) fn socket(self) -> io::Result<OwnedFd> {
        let kind = match self {
            Self::UdpV4 | Self::UdpV6 => libc::SOCK_DGRAM,
            Self::TcpV4 | Self::TcpV6 => libc::SOCK_STREAM,
        };
        sys::socket::new(self.family(), kind)
    }
}

/// What the process hears besides orders: the supervisor has lost the gateway.
const LOST: u8 = b'L';

/// What the process says besides sockets: all is ready, or why not, as text to the end.
const READY: u8 = b'R';
const FAILED: u8 = b'E';

/// Why there is no resolver.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ResolverError {
    /// The process has said so.
    #[error("{0}")]
    Said(String),
    /// It has said nothing.
    #[error("its process did not start in time")]
    Silent,
    #[error(transparent)]
    Io(#[from] io::Error),
}

/// The process, which may not be ready yet.
#[derive(Debug)]
pub(crate) struct Prepared(UnixStream);

/// Forks the process.
pub(crate) fn prepare(dialer: &Arc<dyn Dialer>) -> io::Result<Prepared> {
    let (stream, child) = UnixStream::pair()?;
    match sys::process::fork()? {
        Fork::Child => {
            drop(stream);
            std::process::exit(process::run(child, dialer))
        }
        Fork::Parent(_) => Ok(Prepared(stream)),
    }
}

impl Prepared {
    /// Waits until names can be resolved; called before the program starts.
    pub(crate) fn ready(self) -> Result<Resolver, ResolverError> {
        let deadline = Instant::now() + limits::RESOLVER_START;
        let mut resolver = Resolver {
            stream: self.0,
            stock: Kind::ALL.map(|_| VecDeque::new()),
            ordered: [0; 4],
            network: None,
            parked: Vec::new(),
        };
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            let stream = resolver.stream.as_fd();
            if left == Duration::ZERO || !sys::poll::wait_for(stream, sys::poll::READABLE, left)? {
                return Err(ResolverError::Silent);
            }
            match sys::socket::receive_tagged(stream)? {
                Some((READY, None)) => break,
                Some((FAILED, None)) => {
                    let mut text = String::new();
                    (&resolver.stream).take(limits::MESSAGE_BYTES_MAX).read_to_string(&mut text)?;
                    return Err(ResolverError::Said(text));
                }
                Some((number, Some(socket))) => resolver.put(number, socket),
                Some(_) | None => return Err(ResolverError::Silent),
            }
        }
        resolver.stream.set_nonblocking(true)?;
        Ok(resolver)
    }
}

/// The running resolver, as the supervisor sees it.
#[derive(Debug)]
pub(crate) struct Resolver {
    stream: UnixStream,
    stock: [VecDeque<OwnedFd>; 4],
    /// How many of each kind are ordered and have not come.
    ordered: [usize; 4],
    /// The cookie of the private network.
    pub(crate) network: Option<u64>,
    /// Calls that found the stock empty.
    parked: Vec<Notification>,
}

impl AsFd for Resolver {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.stream.as_fd()
    }
}

impl Resolver {
    fn put(&mut self, number: u8, socket: OwnedFd) {
        self.network = self.network.or_else(|| network_of(socket.as_fd()));
        let at = usize::from(number);
        if let Some((stock, ordered)) = self.stock.get_mut(at).zip(self.ordered.get_mut(at)) {
            *ordered = ordered.saturating_sub(1);
            stock.push_back(socket);
        }
    }

    /// A fresh socket of the private network. More are ordered in time.
    pub(crate) fn take(&mut self, kind: Kind) -> Option<OwnedFd> {
        let at = usize::from(kind.number());
        let socket = self.stock[at].pop_front()?;
        if self.stock[at].len() + self.ordered[at] <= limits::SOCKETS_PER_ORDER {
            self.ordered[at] += limits::SOCKETS_PER_ORDER;
            // Fails only when the process is gone, which the loop sees.
            let _ = (&self.stream).write(&[kind.number()]);
        }
        Some(socket)
    }

    /// The gateway has been lost: a silent one is noticed sooner by who waits for connects.
    pub(crate) fn gateway_lost(&self) {
        // Fails only when the process is gone, which the loop sees.
        let _ = (&self.stream).write(&[LOST]);
    }

    /// Keeps a call until there are sockets again; `false` when too many wait already.
    pub(crate) fn park(&mut self, notification: &Notification) -> bool {
        let room = self.parked.len() < limits::PARKED_MAX;
        if room {
            self.parked.push(*notification);
        }
        room
    }

    /// Takes the sockets that have come; returns the calls to handle again. `None`: the process is
    /// gone.
    pub(crate) fn receive(&mut self) -> Option<Vec<Notification>> {
        loop {
            match sys::socket::receive_tagged(self.stream.as_fd()) {
                Ok(Some((number, Some(socket)))) => self.put(number, socket),
                Ok(Some((_, None))) => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    return Some(std::mem::take(&mut self.parked));
                }
                Ok(None) | Err(_) => return None,
            }
        }
    }

    /// The calls that wait for a socket which will not come.
    pub(crate) fn abandon(self) -> Vec<Notification> {
        self.parked
    }
}

/// The cookie of a socket's network.
pub(crate) fn network_of(socket: BorrowedFd<'_>) -> Option<u64> {
    sys::socket::wide_option(socket, libc::SOL_SOCKET, sys::socket::NETNS_COOKIE).ok()
}
