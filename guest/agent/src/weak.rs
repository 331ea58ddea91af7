//! Weak references: which outsourced sockets still exist, without keeping any of them alive.
//!
//! The agent must hold no reference on a socket that it has handed out, or the program's `close()`
//! would send no FIN. But it must learn that the socket is gone, to drop the shadow and to cancel a
//! dial. An epoll set does exactly this: it does not keep a registered file open, the kernel takes a
//! file out when its last descriptor anywhere is closed, and /proc/self/fdinfo lists what is left.
//! No sock_diag module, no walk over processes, no trap on close().
//!
//! in: a file while the agent still has it; out: the inodes that have gone, when a set is looked at.
//! Owner: the supervisor's thread; time is an argument. Nobody ever waits on these sets. Cost for
//! the program: one comparison at every wake-up of its socket (about 50 ns). Bounds:
//! [`limits::WEAK_SET_SOCKETS_MAX`] per set, [`limits::SOCKETS_MAX`] over all.

use std::collections::HashSet;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::time::Instant;

use crate::sys::poll::Epoll;
use crate::{limits, proc};

#[derive(Debug)]
struct Set {
    epoll: Epoll,
    members: HashSet<u64>,
    connecting: HashSet<u64>,
    joined: usize,
    looked: Instant,
}

impl Set {
    fn due(&self) -> Option<Instant> {
        if self.members.is_empty() {
            return None;
        }
        let wait = match (self.connecting.is_empty(), self.joined >= limits::SWEEP_JOINED) {
            (false, _) => limits::SWEEP_CONNECTING,
            (true, true) => return Some(self.looked),
            (true, false) => limits::SWEEP_SETTLED,
        };
        Some(self.looked + wait)
    }

    fn live(&self) -> io::Result<HashSet<u64>> {
        let info = proc::own_fd_info(self.epoll.as_fd().as_raw_fd())?;
        Ok(info.registrations.into_iter().map(|registration| registration.data).collect())
    }
}

/// All weak references.
#[derive(Debug, Default)]
pub(crate) struct WeakSets {
    sets: Vec<Set>,
}

impl WeakSets {
    /// Watches a socket from now on. The caller closes its own descriptor afterwards.
    pub(crate) fn watch(
        &mut self,
        file: BorrowedFd<'_>,
        inode: u64,
        now: Instant,
    ) -> io::Result<()> {
        let room = |set: &&mut Set| set.members.len() < limits::WEAK_SET_SOCKETS_MAX;
        let set = if let Some(set) = self.sets.iter_mut().find(room) {
            set
        } else {
            self.sets.push(Set {
                epoll: Epoll::new()?,
                members: HashSet::new(),
                connecting: HashSet::new(),
                joined: 0,
                looked: now,
            });
            let last = self.sets.last_mut();
            last.ok_or_else(|| io::Error::from_raw_os_error(libc::ENOMEM))?
        };
        set.epoll.add(file, 0, inode)?;
        set.members.insert(inode);
        set.joined += 1;
        Ok(())
    }

    /// The socket is being connected: its end must be noticed soon.
    pub(crate) fn hurry(&mut self, inode: u64) {
        for set in &mut self.sets {
            if set.members.contains(&inode) {
                set.connecting.insert(inode);
            }
        }
    }

    /// No hurry any more.
    pub(crate) fn settle(&mut self, inode: u64) {
        for set in &mut self.sets {
            set.connecting.remove(&inode);
        }
    }

    /// When to look next; `None` while there is nothing to look at.
    pub(crate) fn due(&self) -> Option<Instant> {
        self.sets.iter().filter_map(Set::due).min()
    }

    /// Looks at the sets that are due; returns the inodes of sockets that are gone.
    pub(crate) fn sweep(&mut self, now: Instant) -> Vec<u64> {
        self.look(|set| set.due().is_some_and(|due| due <= now), now)
    }

    /// Looks at the sets of these sockets now; returns the inodes of all in them that are gone.
    pub(crate) fn look_at(&mut self, inodes: &[u64], now: Instant) -> Vec<u64> {
        self.look(|set| inodes.iter().any(|inode| set.members.contains(inode)), now)
    }

    fn look(&mut self, wanted: impl Fn(&Set) -> bool, now: Instant) -> Vec<u64> {
        let mut gone = Vec::new();
        for set in self.sets.iter_mut().filter(|set| wanted(set)) {
            set.looked = now;
            set.joined = 0;
            // A set that cannot be read (no memory) is looked at again at its next time.
            let Ok(live) = set.live() else { continue };
            gone.extend(set.members.difference(&live).copied());
            set.members.retain(|inode| live.contains(inode));
            set.connecting.retain(|inode| live.contains(inode));
        }
        self.sets.retain(|set| !set.members.is_empty());
        // Of two sockets that had one inode after the other, only the later counts.
        gone.retain(|inode| !self.sets.iter().any(|set| set.members.contains(inode)));
        gone
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::UdpSocket;
    use std::time::Duration;

    fn socket() -> (UdpSocket, u64) {
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        let inode = crate::sys::file::identity(socket.as_fd()).unwrap().inode;
        (socket, inode)
    }

    #[test]
    fn a_closed_socket_is_gone_a_duplicated_one_is_not() {
        let _no_child_starts = crate::sys::process::CHILDREN.read();
        let start = Instant::now();
        let mut weak = WeakSets::default();
        assert_eq!(weak.due(), None);
        let (one, one_inode) = socket();
        let (two, two_inode) = socket();
        weak.watch(one.as_fd(), one_inode, start).unwrap();
        weak.watch(two.as_fd(), two_inode, start).unwrap();
        let later = start + limits::SWEEP_SETTLED;
        assert_eq!(weak.due(), Some(later));
        assert_eq!(weak.sweep(later), []);
        let copy = two.try_clone().unwrap();
        drop((one, two));
        assert_eq!(weak.sweep(later), [], "not due yet");
        let later = later + limits::SWEEP_SETTLED;
        assert_eq!(weak.sweep(later), [one_inode]);
        assert_eq!(weak.look_at(&[two_inode], later), []);
        drop(copy);
        assert_eq!(weak.look_at(&[one_inode], later), [], "not in any set");
        assert_eq!(weak.look_at(&[two_inode], later), [two_inode]);
        assert_eq!(weak.due(), None);
    }

    #[test]
    fn connecting_and_crowds_are_looked_at_sooner() {
        let _no_child_starts = crate::sys::process::CHILDREN.read();
        let start = Instant::now();
        let mut weak = WeakSets::default();
        let (one, inode) = socket();
        weak.watch(one.as_fd(), inode, start).unwrap();
        weak.hurry(inode);
        assert_eq!(weak.due(), Some(start + limits::SWEEP_CONNECTING));
        weak.settle(inode);
        assert_eq!(weak.due(), Some(start + limits::SWEEP_SETTLED));
        let crowd: Vec<_> = (0..limits::SWEEP_JOINED).map(|_| socket()).collect();
        for (socket, inode) in &crowd {
            weak.watch(socket.as_fd(), *inode, start).unwrap();
        }
        assert_eq!(weak.due(), Some(start));
        drop(crowd);
        assert_eq!(weak.sweep(start).len(), limits::SWEEP_JOINED);
        assert_eq!(weak.due(), Some(start + limits::SWEEP_SETTLED));
        drop(one);
        assert_eq!(weak.sweep(start + Duration::from_secs(60)), [inode]);
    }
}
