//! TCP listener: an ordinary listening socket of the host.
//!
//! in:  an address; port 0 asks for any
//! out: connections, non-blocking, with both names
//! owner: the task that accepts; dropped, the port is free
//! keeps: no connection is lost when an accept is given up (it stays in the kernel's backlog)
//! bound: `ACCEPT_BACKLOG_MAX`; the kernel cuts it to `net.core.somaxconn`
//!
//! `SO_REUSEADDR` is set, so that a restart does not wait for TIME_WAIT; `[::]` takes IPv4 as well,
//! unless the host says otherwise (`net.ipv6.bindv6only`), as for any server.

use std::io;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;

use async_trait::async_trait;
use outsock_transport::limits::ACCEPT_BACKLOG_MAX;
use outsock_transport::{AcceptError, Destination, Inbound, ListenError, Listener, Stream};
use socket2::{Domain, Protocol, Socket, Type};
use tokio::net::TcpListener;

use crate::accept;

#[derive(Debug)]
struct Tcp {
    socket: TcpListener,
    local: SocketAddr,
}

pub(crate) fn listen(at: SocketAddr) -> Result<impl Listener + 'static, ListenError> {
    bind(at).map_err(|error| ListenError::from_io(&error))
}

fn bind(at: SocketAddr) -> io::Result<Tcp> {
    let kind = Type::STREAM.nonblocking().cloexec();
    let socket = Socket::new(Domain::for_address(at), kind, Some(Protocol::TCP))?;
    socket.set_reuse_address(true)?;
    socket.bind(&at.into())?;
    socket.listen(i32::try_from(ACCEPT_BACKLOG_MAX).unwrap_or(i32::MAX))?;
    let socket = TcpListener::from_std(socket.into())?;
    let local = socket.local_addr()?;
    Ok(Tcp { socket, local })
}

#[async_trait]
impl Listener for Tcp {
    fn local(&self) -> Destination {
        Destination::Address(self.local)
    }

    async fn accept(&mut self) -> Result<Inbound, AcceptError> {
        let (stream, peer) = match self.socket.accept().await {
            Ok(accepted) => accepted,
            Err(error) => return Err(accept::failed(error).await),
        };
        // Both calls fail only on a connection that is already gone, and its first read says so.
        let _ = stream.set_nodelay(true);
        let local = stream.local_addr().ok();
        match stream.into_std() {
            Ok(stream) => {
                let stream = Stream::Socket(OwnedFd::from(stream));
                Ok(Inbound { stream, peer: Some(peer), local })
            }
            Err(error) => Err(accept::failed(error).await),
        }
    }
}
