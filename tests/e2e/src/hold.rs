//! Black hole: an address on loopback that never answers a SYN.
//!
//! in: nothing; out: an address to dial. Owner: the [`BlackHole`] holds the listener and what fills its
//! queue. Kept: nobody accepts, so the kernel drops every further SYN. Bound: `limits::BACKLOG_FILL`.

use std::io;
use std::net::{Ipv4Addr, SocketAddr};

use socket2::{Domain, Socket, Type};

use crate::limits;

/// A listener whose queue is full.
#[derive(Debug)]
pub struct BlackHole {
    address: SocketAddr,
    _listener: Socket,
    _fill: Vec<Socket>,
}

impl BlackHole {
    /// Makes one.
    ///
    /// # Errors
    /// The system's.
    pub fn new() -> io::Result<Self> {
        let listener = Socket::new(Domain::IPV4, Type::STREAM, None)?;
        listener.bind(&SocketAddr::from((Ipv4Addr::LOCALHOST, 0)).into())?;
        listener.listen(0)?;
        let address = listener
            .local_addr()?
            .as_socket()
            .ok_or_else(|| io::Error::other("an IPv4 socket without an IPv4 address"))?;
        let mut fill = Vec::new();
        for _ in 0..limits::BACKLOG_FILL {
            let socket = Socket::new(Domain::IPV4, Type::STREAM, None)?;
            socket.set_nonblocking(true)?;
            // In progress, for ever.
            let _ = socket.connect(&address.into());
            fill.push(socket);
        }
        Ok(Self { address, _listener: listener, _fill: fill })
    }

    /// Where nobody answers.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }
}
