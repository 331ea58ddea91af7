//! dup() and its relatives, and epoll_create(): what a later connect() must know.
//!
//! in: notifications, which are all let pass; out: which sockets have more than one descriptor, and
//! which processes have to be searched for epoll sets. Looking through all descriptors at every
//! connect would cost 1.7 ms in a program that has 1000 of them; these calls are rare. Owner: the
//! supervisor's loop. Bound: [`limits::DUPLICATED_MAX`].

use std::collections::VecDeque;
use std::io;
use std::os::fd::{AsFd, RawFd};
use std::time::Instant;

use crate::notify::{Answer, Notification};
use crate::supervisor::Supervisor;
use crate::{limits, proc, sys};

/// The copies that shells make all day are not trapped, so these are looked at at every connect.
const STANDARD_STREAMS: std::ops::RangeInclusive<RawFd> = 0..=2;

/// Sockets that were duplicated before they were connected, by inode, oldest first.
#[derive(Debug, Default)]
pub(crate) struct Duplicated {
    inodes: VecDeque<u64>,
}

impl Duplicated {
    fn add(&mut self, inode: u64) {
        if self.inodes.contains(&inode) {
            return;
        }
        if self.inodes.len() >= limits::DUPLICATED_MAX {
            self.inodes.pop_front();
        }
        self.inodes.push_back(inode);
    }

    pub(crate) fn forget(&mut self, inode: u64) {
        self.inodes.retain(|other| *other != inode);
    }

    /// Whether a socket is known to have been duplicated. Copies onto the standard streams are not.
    pub(crate) fn has(&self, inode: u64) -> bool {
        self.inodes.contains(&inode)
    }

    /// All numbers at which a thread has a socket that it has at `number`.
    pub(crate) fn numbers(&self, thread: u32, number: RawFd, inode: u64) -> Vec<RawFd> {
        let is_it =
            |other: &RawFd| *other != number && proc::socket_inode(thread, *other) == Some(inode);
        let mut numbers = vec![number];
        if self.inodes.contains(&inode) || STANDARD_STREAMS.contains(&number) {
            numbers.extend(proc::descriptors(thread).unwrap_or_default().into_iter().filter(is_it));
        } else {
            numbers.extend(STANDARD_STREAMS.filter(is_it));
        }
        numbers
    }
}

impl Supervisor {
    pub(crate) fn on_duplicate(
        &mut self,
        notification: &Notification,
        now: Instant,
    ) -> io::Result<Answer> {
        let subject = self.subject(notification)?;
        // An outsourced socket is found by its inode at whatever number it is, but one that failed
        // may be connected again.
        let file = subject.file.as_fd();
        match sys::socket::int_option(file, libc::SOL_SOCKET, libc::SO_PROTOCOL) {
            Ok(libc::IPPROTO_TCP | libc::IPPROTO_MPTCP | libc::IPPROTO_UDP) => {
                self.duplicated.add(subject.inode)
            }
            Ok(_) if self.table.has(subject.inode) => self.duplicated.add(subject.inode),
            Ok(_) => {}
            // All files without an inode of their own share one: this may be an epoll set.
            Err(_) if sys::file::identity(file)? == sys::file::identity(self.poll.as_fd())? => {
                subject.process.forget_epoll_sets(now);
            }
            Err(_) => {}
        }
        Ok(Answer::Native)
    }

    pub(crate) fn on_epoll_create(
        &mut self,
        notification: &Notification,
        now: Instant,
    ) -> io::Result<Answer> {
        self.processes.of(notification.thread)?.forget_epoll_sets(now);
        Ok(Answer::Native)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::UdpSocket;
    use std::os::fd::AsRawFd;

    #[test]
    fn all_numbers_of_a_duplicated_socket_are_found() {
        let me = std::process::id();
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        let copy = socket.try_clone().unwrap();
        let inode = sys::file::identity(socket.as_fd()).unwrap().inode;
        let mut duplicated = Duplicated::default();
        let (number, other) = (socket.as_raw_fd(), copy.as_raw_fd());
        assert_eq!(duplicated.numbers(me, number, inode), [number]);
        duplicated.add(inode);
        assert_eq!(duplicated.numbers(me, number, inode), [number, other]);
        duplicated.forget(inode);
        assert_eq!(duplicated.numbers(me, number, inode), [number]);
    }

    #[test]
    fn the_oldest_is_forgotten() {
        let mut duplicated = Duplicated::default();
        let last = u64::try_from(limits::DUPLICATED_MAX).unwrap();
        (0..=last).for_each(|inode| duplicated.add(inode));
        duplicated.add(last);
        assert_eq!(duplicated.inodes.len(), limits::DUPLICATED_MAX);
        assert_eq!(duplicated.inodes.front(), Some(&1));
    }
}
