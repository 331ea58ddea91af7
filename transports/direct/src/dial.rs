//! Dial: one `connect()` of the host's kernel, as a future that can be dropped.
//!
//! in:  a destination, a source port wish, options
//! out: a connected socket and its own name, or the kernel's error
//! owner: the future; it holds the only descriptor until the connection stands
//! keeps: dropped half way, the far side sees nothing or a reset, and the descriptor is closed
//! bound: the caller's timeout

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::time::Duration;

use outsock_transport::{
    Destination, DialError, DialRequest, Dialed, Errno, SocketOption, Stream, option,
};
use socket2::{Domain, Protocol, SockRef, Socket, Type};
use tokio::net::{TcpSocket, TcpStream, UnixStream};

use crate::limits;

pub(crate) async fn dial(request: &DialRequest) -> Result<Dialed, DialError> {
    match &request.destination {
        Destination::Address(address) => tcp(*address, request.source, &request.options).await,
        Destination::Unix(path) => unix(path).await,
        Destination::Name { .. } => Err(DialError::UnsupportedDestination("names")),
    }
}

async fn tcp(
    to: SocketAddr,
    source: Option<SocketAddr>,
    options: &[SocketOption],
) -> Result<Dialed, DialError> {
    let socket = prepare(to, source, options).map_err(|error| DialError::from_io(&error))?;
    let stream = socket.connect(to).await.map_err(|error| connect_error(&error, source))?;
    let local = stream.local_addr().map_err(|error| DialError::from_io(&error))?;
    if is_itself(&stream, local) {
        return Err(DialError::Refused);
    }
    // It stands: from here on a close is a close again.
    let calm = SockRef::from(&stream).set_linger(None).and_then(|()| stream.into_std());
    let stream = calm.map_err(|error| DialError::from_io(&error))?;
    Ok(Dialed { stream: Stream::Socket(OwnedFd::from(stream)), local: Some(local) })
}

/// A socket that is ready to connect.
fn prepare(
    to: SocketAddr,
    source: Option<SocketAddr>,
    options: &[SocketOption],
) -> io::Result<TcpSocket> {
    let kind = Type::STREAM.nonblocking().cloexec();
    let socket = Socket::new(Domain::for_address(to), kind, Some(Protocol::TCP))?;
    socket.set_tcp_nodelay(true)?;
    // The guest's own kernel has judged the values; one that this kernel does not have is left.
    let _ = option::apply_all(socket.as_fd(), options);
    // A dial that is dropped after the kernel connected, but before anybody was told, must not look
    // like a client that came and said nothing.
    socket.set_linger(Some(Duration::ZERO))?;
    let port = source.map_or(0, |address| address.port());
    if port >= limits::PRIVILEGED_PORTS_END {
        socket.set_reuse_address(true)?;
        socket.bind(&any_address(to, port, &socket)?.into())?;
    }
    Ok(TcpSocket::from_std_stream(socket.into()))
}

/// The wildcard of the destination's family. IPv6 without IPv4: else the port would be taken in
/// both.
fn any_address(to: SocketAddr, port: u16, socket: &Socket) -> io::Result<SocketAddr> {
    match to.ip() {
        IpAddr::V4(_) => Ok((Ipv4Addr::UNSPECIFIED, port).into()),
        IpAddr::V6(address) => {
            socket.set_only_v6(address.to_ipv4_mapped().is_none())?;
            Ok((Ipv6Addr::UNSPECIFIED, port).into())
        }
    }
}

/// With a bound port, `EADDRNOTAVAIL` is what Linux says when that port already leads to this very
/// destination: to the program its port is in use.
fn connect_error(error: &io::Error, source: Option<SocketAddr>) -> DialError {
    match DialError::from_io(error) {
        DialError::AddressNotAvailable if source.is_some_and(|address| address.port() != 0) => {
            DialError::AddressInUse
        }
        other => other,
    }
}

fn is_itself(stream: &TcpStream, local: SocketAddr) -> bool {
    stream.peer_addr().is_ok_and(|peer| peer == local)
}

async fn unix(path: &Path) -> Result<Dialed, DialError> {
    let mut wait = limits::UNIX_RETRY_FIRST;
    loop {
        match UnixStream::connect(path).await {
            Ok(stream) => {
                let stream = stream.into_std().map_err(|error| DialError::from_io(&error))?;
                return Ok(Dialed { stream: Stream::Socket(OwnedFd::from(stream)), local: None });
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                tokio::time::sleep(wait).await;
                wait = (wait * 2).min(limits::UNIX_RETRY_MAX);
            }
            Err(error) => return Err(unix_error(&error)),
        }
    }
}

fn unix_error(error: &io::Error) -> DialError {
    if error.kind() == io::ErrorKind::InvalidInput && error.raw_os_error().is_none() {
        // Our own library's words: the path does not fit into a socket address.
        return DialError::UnsupportedDestination("a Unix path of this length or with a zero byte");
    }
    match Errno::of(error) {
        Errno::ENOENT => DialError::Refused,
        Errno::EACCES => DialError::Denied("the socket file's permissions".to_owned()),
        _ => DialError::from_io(error),
    }
}
