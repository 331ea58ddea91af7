//! The table of outsourced sockets: who each one is, and what its next connect() and SO_ERROR say.
//!
//! in: connects, verdicts, calls; out: answers. Owner: the supervisor's thread. Key: the inode of
//! the socket that the program has now, so that duplicates, forked children and receivers of passed
//! descriptors all find the same entry; the kernel's socket cookie guards against a reused inode.
//! Kept: no entry holds the program's socket, only its shadow. An entry goes when its socket is gone
//! (`weak`). Bound: [`limits::SOCKETS_MAX`].

use std::collections::{HashMap, HashSet};
use std::net::SocketAddr;
use std::os::fd::{OwnedFd, RawFd};
use std::rc::Rc;

use outsock_vmrpc::Errno;
use outsock_vmrpc::socket::Token;

use crate::address::Family;
use crate::limits;
use crate::outward::Queue;
use crate::processes::Process;

/// Where a connection stands, as TCP on Linux sees it (`__inet_stream_connect`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum State {
    /// The verdict is out.
    Connecting(Token),
    /// `told`: a connect() has returned 0. Until then the next one does, as the kernel's does.
    Connected { local: Option<SocketAddr>, told: bool },
    /// The dial failed. The errno is told once, by SO_ERROR or by the next connect().
    Failed(Option<Errno>),
    /// A connect() has told of the failure: the next one starts anew.
    Idle,
}

/// What connect() on an outsourced socket does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Again {
    /// Returns 0: this is the call that reports success.
    Done,
    /// EISCONN.
    IsConnected,
    /// Waits, or EALREADY.
    InProgress(Option<Token>),
    /// Fails.
    Fails(Errno),
    /// Starts a new attempt.
    Fresh,
}

impl State {
    /// Another connect(). `open`: the data connection is established.
    pub(crate) fn connect(&mut self, open: bool) -> Again {
        match *self {
            Self::Connecting(token) => Again::InProgress(Some(token)),
            Self::Connected { told: false, .. } if !open => Again::InProgress(None),
            Self::Connected { local, told: false } => {
                *self = Self::Connected { local, told: true };
                Again::Done
            }
            Self::Connected { told: true, .. } => Again::IsConnected,
            Self::Failed(errno) => {
                *self = Self::Idle;
                // What the kernel says when SO_ERROR has taken the errno away.
                Again::Fails(errno.unwrap_or(Errno::ECONNABORTED))
            }
            Self::Idle => Again::Fresh,
        }
    }

    /// The verdict has come.
    pub(crate) fn settle(&mut self, verdict: Result<Option<SocketAddr>, Errno>) {
        *self = match verdict {
            Ok(local) => Self::Connected { local, told: false },
            Err(errno) => Self::Failed(Some(errno)),
        };
    }

    /// What SO_ERROR reports, once. `None`: what the data connection itself says.
    pub(crate) fn take_error(&mut self) -> Option<Result<(), Errno>> {
        match self {
            Self::Connecting(_) | Self::Connected { .. } => None,
            Self::Failed(errno) => Some(errno.take().map_or(Ok(()), Err)),
            Self::Idle => Some(Ok(())),
        }
    }
}

/// One outsourced socket.
#[derive(Debug)]
pub(crate) struct Socket {
    pub(crate) cookie: u64,
    /// What the gateway calls the connection.
    pub(crate) token: Token,
    pub(crate) family: Family,
    /// The guest's own TCP socket that this one replaced. It is not connected; it answers for
    /// options, and comes back when the program gives up the association.
    pub(crate) shadow: OwnedFd,
    /// What the program had bound before it connected.
    pub(crate) bound: Option<SocketAddr>,
    /// The destination, as the program wrote it.
    pub(crate) peer: SocketAddr,
    pub(crate) state: State,
    /// SO_ERROR has reported a reset by the far side.
    pub(crate) reset_told: bool,
    /// Options on their way to the host.
    pub(crate) outward: Queue,
    /// Where it was when it was connected: a hint, checked before use.
    pub(crate) home: (Rc<Process>, RawFd),
}

/// All outsourced sockets, by inode.
#[derive(Debug, Default)]
pub(crate) struct Table {
    sockets: HashMap<u64, Socket>,
    /// Those that had been bound to a port before they were connected.
    bound: HashSet<u64>,
}

impl Table {
    pub(crate) fn is_empty(&self) -> bool {
        self.sockets.is_empty()
    }

    pub(crate) fn is_full(&self) -> bool {
        self.sockets.len() >= limits::SOCKETS_MAX
    }

    pub(crate) fn len(&self) -> usize {
        self.sockets.len()
    }

    pub(crate) fn has(&self, inode: u64) -> bool {
        self.sockets.contains_key(&inode)
    }

    pub(crate) fn get(&mut self, inode: u64) -> Option<&mut Socket> {
        self.sockets.get_mut(&inode)
    }

    pub(crate) fn insert(&mut self, inode: u64, socket: Socket) {
        if socket.bound.is_some_and(|name| name.port() != 0) {
            self.bound.insert(inode);
        } else {
            self.bound.remove(&inode);
        }
        self.sockets.insert(inode, socket);
    }

    /// Those that are connected, with their inodes.
    pub(crate) fn connected(&mut self) -> impl Iterator<Item = (u64, &mut Socket)> {
        let connected = |socket: &Socket| matches!(socket.state, State::Connected { .. });
        let sockets = self.sockets.iter_mut().map(|(inode, socket)| (*inode, socket));
        sockets.filter(move |(_, socket)| connected(socket))
    }

    pub(crate) fn remove(&mut self, inode: u64) -> Option<Socket> {
        self.bound.remove(&inode);
        self.sockets.remove(&inode)
    }

    /// The inodes of sockets whose shadow has a port.
    pub(crate) fn bound(&self) -> Vec<u64> {
        self.bound.iter().copied().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TOKEN: fn() -> Token = || Token::from_random(1);

    #[test]
    fn a_success_is_told_once() {
        let mut state = State::Connecting(TOKEN());
        assert_eq!(state.connect(false), Again::InProgress(Some(TOKEN())));
        assert_eq!(state.take_error(), None);
        state.settle(Ok(None));
        assert_eq!(state.connect(false), Again::InProgress(None));
        assert_eq!(state.connect(true), Again::Done);
        assert_eq!(state.connect(true), Again::IsConnected);
        assert_eq!(state.take_error(), None);
    }

    #[test]
    fn a_failure_is_told_once_by_whoever_asks_first() {
        let mut state = State::Connecting(TOKEN());
        state.settle(Err(Errno::ECONNREFUSED));
        assert_eq!(state.take_error(), Some(Err(Errno::ECONNREFUSED)));
        assert_eq!(state.take_error(), Some(Ok(())));
        assert_eq!(state.connect(false), Again::Fails(Errno::ECONNABORTED));
        assert_eq!(state.take_error(), Some(Ok(())));
        assert_eq!(state.connect(false), Again::Fresh);

        let mut state = State::Failed(Some(Errno::EHOSTUNREACH));
        assert_eq!(state.connect(false), Again::Fails(Errno::EHOSTUNREACH));
        assert_eq!(state.connect(false), Again::Fresh);
    }
}
