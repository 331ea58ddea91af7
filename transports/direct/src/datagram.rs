//! Datagram: a flow is one connected UDP socket of the host's kernel.
//!
//! in:  a destination, a source port that other flows have
//! out: a [`Flow`]
//! owner: the flow's holder
//! keeps: only datagrams of the destination come in, also those that came before the socket was
//!     connected are left out
//! bound: the kernel's buffers of the socket

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use async_trait::async_trait;
use outsock_transport::{DialError, Flow};
use rustix::net::{self, RecvFlags, SendFlags};
use socket2::{Domain, Protocol, Socket, Type};
use tokio::io::Interest;
use tokio::net::UdpSocket;

use crate::limits;

/// A datagram socket of the host, of UDP or ICMP.
#[derive(Debug)]
pub(crate) struct Polled(UdpSocket);

/// An ICMP error makes a datagram socket neither readable nor writable.
const NEWS: Interest = Interest::READABLE.add(Interest::ERROR);

impl Polled {
    pub(crate) fn new(socket: Socket) -> io::Result<Self> {
        // The type makes only calls that every datagram socket has.
        UdpSocket::from_std(socket.into()).map(Self)
    }

    /// Sends whether or not the runtime has seen that there is room.
    pub(crate) fn send(&self, bytes: &[u8]) -> io::Result<()> {
        net::send(&self.0, bytes, SendFlags::DONTWAIT | SendFlags::NOSIGNAL)?;
        Ok(())
    }

    /// The next datagram and who sent it.
    pub(crate) fn receive(&self, buffer: &mut [u8]) -> io::Result<(usize, Option<SocketAddr>)> {
        let mut receive = || {
            let (length, _, from) = net::recvfrom(&self.0, &mut *buffer, RecvFlags::DONTWAIT)?;
            Ok((length, from.and_then(|from| from.try_into().ok())))
        };
        // One after the other: the runtime takes a sum of interests for none here.
        match self.0.try_io(Interest::READABLE, &mut receive) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                self.0.try_io(Interest::ERROR, receive)
            }
            outcome => outcome,
        }
    }

    /// Waits for a datagram or an error.
    pub(crate) async fn readable(&self) -> io::Result<()> {
        self.0.ready(NEWS).await.map(drop)
    }
}

#[derive(Debug)]
struct UdpFlow {
    polled: Polled,
    local: Option<SocketAddr>,
    to: SocketAddr,
}

/// Opens a flow.
pub(crate) fn open(to: SocketAddr, source_port: Option<u16>) -> Result<Box<dyn Flow>, DialError> {
    let failed = |error: io::Error| DialError::from_io(&error);
    let socket = connected(to, source_port).map_err(failed)?;
    let local = socket.local_addr().ok().and_then(|local| local.as_socket());
    Ok(Box::new(UdpFlow { polled: Polled::new(socket).map_err(failed)?, local, to }))
}

fn connected(to: SocketAddr, source_port: Option<u16>) -> io::Result<Socket> {
    let kind = Type::DGRAM.nonblocking().cloexec();
    let socket = Socket::new(Domain::for_address(to), kind, Some(Protocol::UDP))?;
    if to.is_ipv6() {
        socket.set_only_v6(true)?;
    }
    // As much as the host gives; what does not fit is lost.
    let _ = socket.set_recv_buffer_size(limits::DATAGRAM_BUFFER_BYTES);
    let _ = socket.set_send_buffer_size(limits::DATAGRAM_BUFFER_BYTES);
    socket.set_reuse_port(true)?;
    let any = match to.ip() {
        IpAddr::V4(_) => IpAddr::V4(Ipv4Addr::UNSPECIFIED),
        IpAddr::V6(_) => IpAddr::V6(Ipv6Addr::UNSPECIFIED),
    };
    let port = source_port.filter(|port| *port >= limits::PRIVILEGED_PORTS_END).unwrap_or(0);
    socket.bind(&SocketAddr::new(any, port).into())?;
    socket.connect(&to.into())?;
    Ok(socket)
}

#[async_trait]
impl Flow for UdpFlow {
    fn local(&self) -> Option<SocketAddr> {
        self.local
    }

    fn try_send(&self, datagram: &[u8]) -> io::Result<()> {
        self.polled.send(datagram)
    }

    fn try_receive(&self, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            let (length, from) = self.polled.receive(buffer)?;
            if from == Some(self.to) {
                return Ok(length);
            }
        }
    }

    async fn readable(&self) -> io::Result<()> {
        self.polled.readable().await
    }
}
