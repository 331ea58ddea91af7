//! Relay: sockets that several processes had before they were connected.
//!
//! The supervisor can put a descriptor into the table of the calling process only, so such a socket
//! is not replaced: it stays the guest's own TCP socket, in all processes that have it, and is
//! connected to the supervisor, which moves the bytes between it and the data connection.
//!
//! in: a socket, its data connection; out: both connected by two threads. Owner: the threads own the
//! two streams; the supervisor's loop knows the names. Kept: the call is answered when the dial has
//! ended, also a non-blocking one, because a connection to the supervisor stands at once; at the end of
//! the last program the supervisor waits until all bytes are out. Cost: one copy more each way. Bound:
//! [`limits::RELAYS_MAX`].

use std::collections::HashMap;
use std::fs::File;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream};
use std::os::fd::{AsFd, OwnedFd};
use std::thread::JoinHandle;

use crate::address::{self, Family};
use crate::connect::bound_name;
use crate::supervisor::socket_cookie;
use crate::{limits, sys};

/// A relayed socket, as its programs see it.
#[derive(Debug)]
pub(crate) struct Relayed {
    cookie: u64,
    pub(crate) family: Family,
    pub(crate) peer: SocketAddr,
    pub(crate) local: Option<SocketAddr>,
    /// What the program had bound.
    pub(crate) bound: Option<SocketAddr>,
}

/// All of them, by inode.
#[derive(Debug, Default)]
pub(crate) struct Relays {
    sockets: HashMap<u64, Relayed>,
    threads: Vec<JoinHandle<()>>,
}

impl Relays {
    pub(crate) fn is_empty(&self) -> bool {
        self.sockets.is_empty()
    }

    pub(crate) fn is_full(&self) -> bool {
        self.sockets.len() >= limits::RELAYS_MAX
    }

    pub(crate) fn remove(&mut self, inode: u64) -> bool {
        self.threads.retain(|thread| !thread.is_finished());
        self.sockets.remove(&inode).is_some()
    }

    /// The entry of a socket that is still connected.
    pub(crate) fn get(&self, inode: u64, file: &OwnedFd) -> Option<&Relayed> {
        self.sockets.get(&inode).filter(|relayed| relayed.cookie == socket_cookie(file))
    }

    /// Connects a socket with its data connection.
    pub(crate) fn add(
        &mut self,
        inode: u64,
        socket: &OwnedFd,
        stream: OwnedFd,
        (family, peer, local): (Family, SocketAddr, Option<SocketAddr>),
    ) -> io::Result<()> {
        let bound = bound_name(socket).filter(|name| name.port() != 0);
        let near = connect_here(socket, family)?;
        sys::file::set_status_flags(stream.as_fd(), libc::O_RDWR)?;
        let relayed = Relayed { cookie: socket_cookie(socket), family, peer, local, bound };
        self.sockets.insert(inode, relayed);
        let (near, stream) = (OwnedFd::from(near), stream);
        let back = (stream.try_clone()?, near.try_clone()?);
        for (from, to) in [(near, stream), back] {
            let thread = std::thread::Builder::new().name("relay".to_owned());
            self.threads.push(thread.spawn(move || move_bytes(from, to))?);
        }
        Ok(())
    }

    /// Waits until all bytes are out: the last program has ended.
    pub(crate) fn finish(self) {
        for thread in self.threads {
            // One that panicked has nothing to move any more.
            let _ = thread.join();
        }
    }
}

/// Moves bytes until the end, and passes that on.
fn move_bytes(from: OwnedFd, to: OwnedFd) {
    let (mut from, mut to) = (File::from(from), File::from(to));
    let moved = io::copy(&mut from, &mut to);
    let _ = sys::socket::shutdown_write(to.as_fd());
    if moved.is_err() {
        // Whoever sends has nobody to read it.
        let _ = sys::socket::shutdown_both(from.as_fd());
    }
}

/// Connects a program's socket to this process, over the guest's loopback; returns the other end.
fn connect_here(socket: &OwnedFd, family: Family) -> io::Result<TcpStream> {
    let loopback: &[IpAddr] = match family {
        Family::V4 => &[IpAddr::V4(Ipv4Addr::LOCALHOST)],
        Family::V6 => &[IpAddr::V6(Ipv6Addr::LOCALHOST), IpAddr::V4(Ipv4Addr::LOCALHOST)],
    };
    let mut error = io::Error::from_raw_os_error(libc::ENETUNREACH);
    for ip in loopback {
        match connect_over(socket, *ip, family) {
            Ok(near) => return Ok(near),
            Err(other) => error = other,
        }
    }
    Err(error)
}

fn connect_over(socket: &OwnedFd, ip: IpAddr, family: Family) -> io::Result<TcpStream> {
    let listener = TcpListener::bind((ip, 0))?;
    let to = listener.local_addr()?;
    let to = address::in_family(to, family).unwrap_or(to);
    match sys::socket::connect(socket.as_fd(), &address::encode(to)) {
        Err(error) if error.raw_os_error() == Some(libc::EINPROGRESS) => {}
        other => other?,
    }
    if !sys::poll::wait_for(listener.as_fd(), sys::poll::READABLE, limits::RELAY_PATIENCE)? {
        return Err(io::Error::from_raw_os_error(libc::ETIMEDOUT));
    }
    let (near, from) = listener.accept()?;
    let own = bound_name(socket).map(|name| name.port());
    if own != Some(from.port()) {
        // Somebody else has found the port in between.
        return Err(io::Error::from_raw_os_error(libc::ECONNREFUSED));
    }
    near.set_nodelay(true)?;
    Ok(near)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Read, Write};
    use std::os::unix::net::UnixStream;

    #[test]
    fn bytes_and_ends_pass_both_ways() {
        for (kind, family) in [(libc::AF_INET, Family::V4), (libc::AF_INET6, Family::V6)] {
            let socket = sys::socket::stream(kind).unwrap();
            let inode = sys::file::identity(socket.as_fd()).unwrap().inode;
            let (stream, mut far) = UnixStream::pair().unwrap();
            let mut relays = Relays::default();
            let peer = "192.0.2.1:80".parse().unwrap();
            relays.add(inode, &socket, stream.into(), (family, peer, None)).unwrap();
            assert_eq!(relays.get(inode, &socket).unwrap().peer, peer);
            let mut program = TcpStream::from(socket);
            program.set_nonblocking(false).unwrap();
            program.write_all(b"there").unwrap();
            program.shutdown(std::net::Shutdown::Write).unwrap();
            let mut text = String::new();
            far.read_to_string(&mut text).unwrap();
            assert_eq!(text, "there");
            far.write_all(b"and back").unwrap();
            drop(far);
            text.clear();
            program.read_to_string(&mut text).unwrap();
            assert_eq!(text, "and back");
            drop(program);
            assert!(relays.remove(inode) && relays.is_empty());
            relays.finish();
        }
    }
}
