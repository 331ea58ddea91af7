//! Kin: whether a relative of a process has the same socket, which was then shared by fork before it
//! was connected.
//!
//! in: a process that connects a socket; out: whether its ancestors or descendants have that socket at
//! the same number, as fork leaves it. Owner: the supervisor's thread. Costs one read of the list of
//! children and one readlink per relative, about 5 us in all. Bound: [`limits::KIN_MAX`] relatives.
//! What this does not find: a sibling whose parent has closed the socket, a number that one of them
//! has changed, and sockets that were passed over a Unix socket.

use std::os::fd::RawFd;

use crate::{limits, proc};

/// The ancestors of a process, nearest first, up to the supervisor.
pub(crate) fn ancestors(process: u32) -> Vec<u32> {
    let supervisor = std::process::id();
    let mut found = Vec::new();
    let mut at = process;
    while let Some(parent) = proc::parent(at)
        && parent > 1
        && parent != supervisor
        && found.len() < limits::KIN_MAX
    {
        found.push(parent);
        at = parent;
    }
    found
}

/// Whether one of these ancestors, or a descendant, has the socket of `inode` at `number`.
pub(crate) fn share(
    ancestors: &[u32],
    process: u32,
    thread: u32,
    number: RawFd,
    inode: u64,
) -> bool {
    let has = |relative: u32| proc::socket_inode(relative, number) == Some(inode);
    if ancestors.iter().any(|ancestor| has(*ancestor)) {
        return true;
    }
    let mut descendants = proc::children(process, process);
    if thread != process {
        descendants.extend(proc::children(process, thread));
    }
    let mut looked = 0;
    while let Some(descendant) = descendants.pop() {
        if has(descendant) {
            return true;
        }
        looked += 1;
        if looked >= limits::KIN_MAX {
            return false;
        }
        descendants.extend(proc::children(descendant, descendant));
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::fd::{AsFd, AsRawFd};
    use std::process::Command;

    #[test]
    fn a_child_that_has_it_is_found_and_one_that_has_not_is_not() {
        let me = std::process::id();
        let socket = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
        let inode = crate::sys::file::identity(socket.as_fd()).unwrap().inode;
        let thread = std::fs::read_link("/proc/thread-self").unwrap();
        let thread: u32 = thread.file_name().unwrap().to_str().unwrap().parse().unwrap();
        let shares = |number| share(&[], me, thread, number, inode);
        assert!(!shares(socket.as_raw_fd()));
        let input = std::os::fd::OwnedFd::from(socket.try_clone().unwrap());
        let starting = crate::sys::process::CHILDREN.write();
        let mut child = Command::new("sleep").arg("60").stdin(input).spawn().unwrap();
        drop(starting);
        assert!(shares(0), "at the number that the child has");
        assert!(!shares(socket.as_raw_fd()), "which is closed on exec");
        assert_eq!(ancestors(child.id()), Vec::<u32>::new(), "this process is the supervisor");
        child.kill().unwrap();
        child.wait().unwrap();
    }
}
