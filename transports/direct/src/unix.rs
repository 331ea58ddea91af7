//! Unix listener: a listening socket with a name in the file system.
//!
//! in:  a path
//! out: connections, non-blocking; a Unix client has no address
//! owner: the task that accepts; dropped, the file that it made is removed
//! keeps: no connection is lost when an accept is given up (it stays in the kernel's backlog)
//! bound: `ACCEPT_BACKLOG_MAX`; the kernel cuts it to `net.core.somaxconn`
//!
//! Who may connect is decided by the directory and the umask, as for any server.

use std::io;
use std::os::fd::OwnedFd;
use std::path::Path;

use async_trait::async_trait;
use outsock_transport::limits::ACCEPT_BACKLOG_MAX;
use outsock_transport::{AcceptError, Destination, Inbound, ListenError, Listener, Stream};
use socket2::{Domain, SockAddr, Socket, Type};
use tokio::net::UnixListener;

use crate::accept;
use crate::socket_file::{self, SocketFile};

#[derive(Debug)]
struct Unix {
    socket: UnixListener,
    file: SocketFile,
}

pub(crate) fn listen(path: &Path) -> Result<impl Listener + 'static, ListenError> {
    bind(path).map_err(|error| ListenError::from_io(&error))
}

fn bind(path: &Path) -> io::Result<Unix> {
    let socket = Socket::new(Domain::UNIX, Type::STREAM.nonblocking().cloexec(), None)?;
    let address = SockAddr::unix(path)?;
    match socket.bind(&address) {
        Err(error) if error.kind() == io::ErrorKind::AddrInUse => {
            socket_file::remove_stale(path)?;
            socket.bind(&address)?;
        }
        other => other?,
    }
    // From here on a failure removes the file again.
    let file = SocketFile::made(path)?;
    socket.listen(i32::try_from(ACCEPT_BACKLOG_MAX).unwrap_or(i32::MAX))?;
    Ok(Unix { socket: UnixListener::from_std(socket.into())?, file })
}

#[async_trait]
impl Listener for Unix {
    fn local(&self) -> Destination {
        Destination::Unix(self.file.path().to_owned())
    }

    async fn accept(&mut self) -> Result<Inbound, AcceptError> {
        let stream = match self.socket.accept().await {
            Ok((stream, _unnamed)) => stream.into_std(),
            Err(error) => Err(error),
        };
        match stream {
            Ok(stream) => {
                let stream = Stream::Socket(OwnedFd::from(stream));
                Ok(Inbound { stream, peer: None, local: None })
            }
            Err(error) => Err(accept::failed(error).await),
        }
    }
}
