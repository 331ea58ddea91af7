//! Lost: what becomes of connections whose gateway is gone.
//!
//! A virtual device whose other side has died says nothing to the guest, so a program that only reads
//! would wait for ever. in: a gateway that has been silent for [`GATEWAY_GONE`](crate::limits::GATEWAY_GONE); out: every
//! connection ended in both directions, so that whoever waits on one wakes. Owner: the supervisor's
//! loop; a thread for sockets that are not where they were connected. Kept: no reference on a socket
//! stays; the cookie makes sure that it is the one. Bound: one walk over /proc per loss.

use std::collections::HashMap;
use std::os::fd::{AsFd, OwnedFd};

use outsock_vmrpc::Errno;

use crate::supervisor::{Supervisor, socket_cookie};
use crate::{log, proc, sys};

/// What SO_ERROR and the next connect() say: as of a path that has gone dead.
const GONE: Errno = Errno::ETIMEDOUT;

impl Supervisor {
    /// Ends all connections. The programs read an end of file and then, by SO_ERROR, why.
    pub(crate) fn end_connections(&mut self) {
        let mut ended = 0;
        let mut elsewhere = HashMap::new();
        for (inode, socket) in self.table.connected() {
            socket.state.settle(Err(GONE));
            ended += 1;
            let (process, number) = &socket.home;
            let at_home = process.copy_descriptor(*number).ok();
            if !at_home.is_some_and(|file| end(&file, socket.cookie)) {
                elsewhere.insert(inode, socket.cookie);
            }
        }
        if ended == 0 {
            return;
        }
        log::say(format_args!("the gateway is gone: {ended} connections have ended ({GONE})"));
        if !elsewhere.is_empty() {
            let search = std::thread::Builder::new().name("ends".to_owned());
            if let Err(error) = search.spawn(move || end_elsewhere(elsewhere)) {
                log::say(format_args!("some of them wait on: {error}"));
            }
        }
    }
}

/// Ends a connection, if the file is the socket that is meant.
fn end(file: &OwnedFd, cookie: u64) -> bool {
    // Fails only when it has ended already.
    socket_cookie(file) == cookie && sys::socket::shutdown_both(file.as_fd()).is_ok()
}

/// Finds sockets that were passed on: to another number, another process.
fn end_elsewhere(mut sockets: HashMap<u64, u64>) {
    let Ok(processes) = std::fs::read_dir("/proc") else { return };
    let ids = processes.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok());
    for process in ids {
        let numbers = proc::descriptors(process).unwrap_or_default();
        for number in numbers {
            let inode = proc::socket_inode(process, number);
            let Some(cookie) = inode.and_then(|inode| sockets.get(&inode)) else { continue };
            let file = sys::process::open_process(process)
                .and_then(|process| sys::process::copy_descriptor(process.as_fd(), number));
            if file.is_ok_and(|file| end(&file, *cookie)) {
                inode.map(|inode| sockets.remove(&inode));
            }
            if sockets.is_empty() {
                return;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Read;
    use std::os::unix::net::UnixStream;

    #[test]
    fn a_socket_that_was_passed_on_is_found_and_only_that() {
        let (mut peer, socket) = UnixStream::pair().unwrap();
        let (other_peer, other) = UnixStream::pair().unwrap();
        let file = OwnedFd::from(socket);
        let inode = |file: &OwnedFd| sys::file::identity(file.as_fd()).unwrap().inode;
        let other = OwnedFd::from(other);
        // The other one's cookie is false: it has the inode of one that is gone.
        let sockets = [(inode(&file), socket_cookie(&file)), (inode(&other), 1)];
        end_elsewhere(sockets.into());
        assert_eq!(peer.read(&mut [0]).unwrap(), 0);
        other_peer.set_nonblocking(true).unwrap();
        let error = (&other_peer).read(&mut [0]).unwrap_err();
        assert_eq!(error.kind(), std::io::ErrorKind::WouldBlock);
    }
}
