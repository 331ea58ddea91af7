//! Listeners: the listening sockets of the supervised programs, none of which is kept alive.
//!
//! in: listening sockets as they come; out: who each one is, and that it is gone. Owner: the
//! supervisor's thread; time is an argument. Key: the inode, guarded by the kernel's socket cookie, as
//! for outsourced sockets. A listener stays the program's and the guest kernel's own: the agent holds
//! a descriptor of it only while a blocking accept() waits, as the kernel would. That it was closed
//! is seen in an epoll set, which forgets a file when its last descriptor is closed (`weak` says
//! more); the set is looked at when a process that listens has ended, and else every
//! [`limits::LISTENERS_LOOK`]. Bound: [`limits::LISTENERS_MAX`].

use std::collections::{HashMap, HashSet, VecDeque};
use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::time::Instant;

use outsock_vmrpc::socket::Asserted;
use outsock_vmrpc::socket::inbound::ListenerId;

use crate::sys::poll::Epoll;
use crate::{limits, proc};

/// One listening socket.
#[derive(Debug)]
pub(crate) struct Listening {
    pub(crate) id: ListenerId,
    pub(crate) cookie: u64,
    pub(crate) address: SocketAddr,
    /// An IPv6 socket that takes IPv4, too.
    pub(crate) dual: bool,
    /// SO_REUSEPORT.
    pub(crate) shared: bool,
    pub(crate) backlog: u32,
    pub(crate) who: Asserted,
    /// Others can reach it.
    pub(crate) published: bool,
    /// The listen() that waits until the gateway has answered, by key.
    pub(crate) call: Option<u64>,
    /// Blocking accept()s, by key, the longest first.
    pub(crate) accepting: VecDeque<u64>,
    /// A descriptor, while there are any.
    pub(crate) file: Option<OwnedFd>,
    /// Connections that have been taken or have ended since the last report.
    pub(crate) ended: u32,
}

/// All of them, by inode.
#[derive(Debug, Default)]
pub(crate) struct Listeners {
    by_inode: HashMap<u64, Listening>,
    inodes: HashMap<ListenerId, u64>,
    made: u32,
    /// Where the last ones that are gone have listened.
    gone: VecDeque<(ListenerId, SocketAddr)>,
    set: Option<Epoll>,
    looked: Option<Instant>,
}

impl Listeners {
    pub(crate) fn is_empty(&self) -> bool {
        self.by_inode.is_empty()
    }

    pub(crate) fn is_full(&self) -> bool {
        self.by_inode.len() >= limits::LISTENERS_MAX
    }

    /// A number that no listener has.
    pub(crate) fn fresh_id(&mut self) -> ListenerId {
        loop {
            self.made = self.made.wrapping_add(1);
            let id = ListenerId(self.made);
            if !self.inodes.contains_key(&id) {
                return id;
            }
        }
    }

    /// Enters a listener, which is watched from now on.
    pub(crate) fn insert(
        &mut self,
        inode: u64,
        file: BorrowedFd<'_>,
        listening: Listening,
        now: Instant,
    ) -> io::Result<()> {
        if self.set.is_none() {
            self.set = Some(Epoll::new()?);
            self.looked = Some(now);
        }
        if let Some(set) = &self.set {
            match set.add(file, 0, inode) {
                Err(error) if error.raw_os_error() != Some(libc::EEXIST) => return Err(error),
                _ => {}
            }
        }
        self.inodes.insert(listening.id, inode);
        self.by_inode.insert(inode, listening);
        Ok(())
    }

    pub(crate) fn get(&mut self, inode: u64) -> Option<&mut Listening> {
        self.by_inode.get_mut(&inode)
    }

    pub(crate) fn of(&mut self, id: ListenerId) -> Option<&mut Listening> {
        self.by_inode.get_mut(self.inodes.get(&id)?)
    }

    pub(crate) fn inode_of(&self, id: ListenerId) -> Option<u64> {
        self.inodes.get(&id).copied()
    }

    pub(crate) fn remove(&mut self, inode: u64) -> Option<Listening> {
        let removed = self.by_inode.remove(&inode)?;
        self.inodes.remove(&removed.id);
        self.gone.truncate(limits::LISTENERS_GONE - 1);
        self.gone.push_front((removed.id, removed.address));
        Some(removed)
    }

    /// Another listener on the address of one that is gone: it shared the port, or has followed.
    pub(crate) fn heir(&self, id: ListenerId) -> Option<ListenerId> {
        let (_, address) = self.gone.iter().find(|(gone, _)| *gone == id)?;
        let heir = self.by_inode.values().find(|listening| listening.address == *address)?;
        Some(heir.id)
    }

    pub(crate) fn each(&mut self) -> impl Iterator<Item = &mut Listening> {
        self.by_inode.values_mut()
    }

    /// When to look for closed ones next.
    pub(crate) fn due(&self) -> Option<Instant> {
        let looked = self.looked?;
        if self.by_inode.is_empty() {
            return None;
        }
        let published = self.by_inode.values().any(|listening| listening.published);
        let pause = if published { limits::LISTENERS_LOOK } else { limits::SWEEP_SETTLED };
        Some(looked + pause)
    }

    /// The inodes of those that have been closed.
    pub(crate) fn closed(&mut self, now: Instant) -> Vec<u64> {
        self.looked = Some(now);
        let Some(set) = &self.set else { return Vec::new() };
        // Looked at again in time where there is no memory now.
        let Ok(info) = proc::own_fd_info(set.as_fd().as_raw_fd()) else { return Vec::new() };
        let live: HashSet<u64> =
            info.registrations.into_iter().map(|registration| registration.data).collect();
        self.by_inode.keys().copied().filter(|inode| !live.contains(inode)).collect()
    }

    /// What has to be reported, and counts as reported then.
    pub(crate) fn take_ended(&mut self) -> Vec<(ListenerId, u32)> {
        let with_some = self.by_inode.values_mut().filter(|listening| listening.ended > 0);
        with_some
            .take(outsock_vmrpc::limits::REPORT_LISTENERS_MAX)
            .map(|listening| (listening.id, std::mem::take(&mut listening.ended)))
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::TcpListener;

    fn listening(id: ListenerId) -> Listening {
        Listening {
            id,
            cookie: 0,
            address: "127.0.0.1:80".parse().unwrap(),
            dual: false,
            shared: false,
            backlog: 1,
            who: Asserted::default(),
            published: true,
            call: None,
            accepting: VecDeque::new(),
            file: None,
            ended: 0,
        }
    }

    #[test]
    fn a_closed_listener_is_noticed_a_shared_one_not() {
        let _no_child_starts = crate::sys::process::CHILDREN.read();
        let mut listeners = Listeners::default();
        let now = Instant::now();
        assert_eq!(listeners.due(), None);
        let sockets: Vec<_> = (0..2).map(|_| TcpListener::bind("127.0.0.1:0").unwrap()).collect();
        let mut inodes = Vec::new();
        for socket in &sockets {
            let inode = crate::sys::file::identity(socket.as_fd()).unwrap().inode;
            let id = listeners.fresh_id();
            listeners.insert(inode, socket.as_fd(), listening(id), now).unwrap();
            inodes.push(inode);
        }
        assert_eq!(listeners.due(), Some(now + limits::LISTENERS_LOOK));
        let copy = sockets[1].try_clone().unwrap();
        drop(sockets);
        assert_eq!(listeners.closed(now), [inodes[0]]);
        drop(copy);
        let mut closed = listeners.closed(now);
        closed.sort_unstable();
        inodes.sort_unstable();
        assert_eq!(closed, inodes);
        for inode in inodes {
            listeners.remove(inode).unwrap();
        }
        assert!(listeners.is_empty());
        assert_eq!(listeners.due(), None);
    }

    #[test]
    fn a_report_is_made_once() {
        let mut listeners = Listeners::default();
        let socket = TcpListener::bind("127.0.0.1:0").unwrap();
        let id = listeners.fresh_id();
        listeners.insert(7, socket.as_fd(), listening(id), Instant::now()).unwrap();
        assert_eq!(listeners.take_ended(), []);
        listeners.of(id).unwrap().ended = 3;
        assert_eq!(listeners.take_ended(), [(id, 3)]);
        assert_eq!(listeners.take_ended(), []);
    }
}
