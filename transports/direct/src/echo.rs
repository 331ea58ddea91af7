//! Echo: a flow of ICMP echo is one ICMP socket of the host's kernel.
//!
//! in:  a destination
//! out: a [`Flow`] whose datagrams are sequence number and data
//! owner: the flow's holder
//! keeps: only replies to this flow's own requests come in. An unprivileged ICMP socket has an
//!     identifier of its own, which the kernel compares; a raw one, the fallback, sees all ICMP of
//!     the destination, and is told apart here
//! bound: [`limits::ECHO_BYTES_MAX`], the kernel's buffers of the socket

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicU16, Ordering};

use async_trait::async_trait;
use outsock_transport::{DialError, Flow};
use socket2::{Domain, Protocol, Socket, Type};

use crate::datagram::Polled;
use crate::limits;

const HEADER_BYTES: usize = 8;
const REQUEST_V4: u8 = 8;
const REPLY_V4: u8 = 0;
const REQUEST_V6: u8 = 128;
const REPLY_V6: u8 = 129;

/// The next identifier of a raw socket. They may meet another program's; then both see a reply
/// too many.
static IDENTIFIER: AtomicU16 = AtomicU16::new(1);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    /// The kernel sets identifier and checksum.
    Unprivileged,
    /// We do. IPv4 messages come with their IP header.
    Raw { identifier: u16 },
}

#[derive(Debug)]
struct EchoFlow {
    polled: Polled,
    kind: Kind,
    to: IpAddr,
}

/// Opens a flow.
pub(crate) fn open(to: IpAddr) -> Result<Box<dyn Flow>, DialError> {
    let (socket, kind) = match connected(to, Type::DGRAM) {
        Ok(socket) => (socket, Kind::Unprivileged),
        Err(error) if is_not_permitted(&error) => {
            let raw = connected(to, Type::RAW).map_err(|error| refused(&error))?;
            (raw, Kind::Raw { identifier: IDENTIFIER.fetch_add(1, Ordering::Relaxed) })
        }
        Err(error) => return Err(refused(&error)),
    };
    let polled = Polled::new(socket).map_err(|error| DialError::from_io(&error))?;
    Ok(Box::new(EchoFlow { polled, kind, to }))
}

fn connected(to: IpAddr, kind: Type) -> io::Result<Socket> {
    let address = SocketAddr::new(to, 0);
    let protocol = if to.is_ipv4() { Protocol::ICMPV4 } else { Protocol::ICMPV6 };
    let kind = kind.nonblocking().cloexec();
    let socket = Socket::new(Domain::for_address(address), kind, Some(protocol))?;
    socket.connect(&address.into())?;
    Ok(socket)
}

fn is_not_permitted(error: &io::Error) -> bool {
    // EACCES by `ping_group_range`; EPERM by a sandbox.
    error.kind() == io::ErrorKind::PermissionDenied
}

fn refused(error: &io::Error) -> DialError {
    if is_not_permitted(error) {
        return DialError::Denied(
            "this host lets the gateway send no ICMP echo: widen net.ipv4.ping_group_range, or give \
             the gateway CAP_NET_RAW"
                .to_owned(),
        );
    }
    DialError::from_io(error)
}

impl EchoFlow {
    fn request(&self, datagram: &[u8]) -> io::Result<Vec<u8>> {
        let Some((sequence, data)) = datagram.split_first_chunk::<2>() else {
            return Err(io::ErrorKind::InvalidInput.into());
        };
        let request = if self.to.is_ipv4() { REQUEST_V4 } else { REQUEST_V6 };
        let mut message = vec![request, 0, 0, 0, 0, 0];
        message.extend(sequence);
        message.extend(data);
        if let Kind::Raw { identifier } = self.kind {
            message[4..6].copy_from_slice(&identifier.to_be_bytes());
            // The kernel does it itself for ICMPv6.
            if self.to.is_ipv4() {
                let sum = checksum(&message);
                message[2..4].copy_from_slice(&sum.to_be_bytes());
            }
        }
        Ok(message)
    }

    /// Sequence number and data of a reply to this flow; `None` of anything else.
    fn reply<'a>(&self, bytes: &'a [u8]) -> Option<&'a [u8]> {
        let message = match self.kind {
            Kind::Raw { .. } if self.to.is_ipv4() => {
                bytes.get(usize::from(bytes.first()? & 0x0f) * 4..)?
            }
            Kind::Raw { .. } | Kind::Unprivileged => bytes,
        };
        let header = message.first_chunk::<HEADER_BYTES>()?;
        let reply = if self.to.is_ipv4() { REPLY_V4 } else { REPLY_V6 };
        let is_ours = match self.kind {
            Kind::Unprivileged => true,
            Kind::Raw { identifier } => header[4..6] == identifier.to_be_bytes(),
        };
        (header[0] == reply && is_ours).then(|| &message[6..])
    }
}

#[async_trait]
impl Flow for EchoFlow {
    fn local(&self) -> Option<SocketAddr> {
        None
    }

    fn try_send(&self, datagram: &[u8]) -> io::Result<()> {
        self.polled.send(&self.request(datagram)?)
    }

    fn try_receive(&self, buffer: &mut [u8]) -> io::Result<usize> {
        let mut bytes = vec![0; limits::ECHO_BYTES_MAX];
        loop {
            let (length, from) = self.polled.receive(&mut bytes)?;
            if from.map(|from| from.ip()) != Some(self.to) {
                continue;
            }
            if let Some(reply) = self.reply(&bytes[..length]) {
                let length = reply.len().min(buffer.len());
                buffer[..length].copy_from_slice(&reply[..length]);
                return Ok(length);
            }
        }
    }

    async fn readable(&self) -> io::Result<()> {
        self.polled.readable().await
    }
}

/// The Internet checksum (RFC 1071).
fn checksum(bytes: &[u8]) -> u16 {
    let words = bytes.chunks(2).map(|pair| match *pair {
        [high, low] => u32::from(u16::from_be_bytes([high, low])),
        [high] => u32::from(u16::from_be_bytes([high, 0])),
        _ => 0,
    });
    let mut sum: u32 = words.sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !u16::try_from(sum).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_with_its_checksum_sums_to_zero() {
        let mut message = vec![8, 0, 0, 0, 0, 1, 0, 2, b'a', b'b', b'c'];
        let sum = checksum(&message);
        message[2..4].copy_from_slice(&sum.to_be_bytes());
        assert_eq!(checksum(&message), 0);
        assert_eq!(checksum(&[]), 0xffff);
    }

    async fn answers(to: IpAddr) {
        let flow = match open(to) {
            Ok(flow) => flow,
            Err(error @ DialError::Denied(_)) => return println!("skipped: {error}"),
            Err(error) => panic!("{error}"),
        };
        flow.try_send(b"\x01\x02hello").unwrap();
        let mut buffer = [0; 64];
        let length = loop {
            match flow.try_receive(&mut buffer) {
                Ok(length) => break length,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    flow.readable().await.unwrap();
                }
                Err(error) => panic!("{error}"),
            }
        };
        assert_eq!(&buffer[..length], b"\x01\x02hello");
    }

    #[tokio::test]
    async fn loopback_answers() {
        answers("127.0.0.1".parse().unwrap()).await;
        if std::net::UdpSocket::bind("[::1]:0").is_ok() {
            answers("::1".parse().unwrap()).await;
        }
    }

    #[tokio::test]
    async fn a_raw_socket_tells_its_own_replies_apart() {
        let to = "127.0.0.1".parse().unwrap();
        let Ok(socket) = connected(to, Type::RAW) else {
            return println!("skipped: no CAP_NET_RAW");
        };
        let polled = Polled::new(socket).unwrap();
        let flow = EchoFlow { polled, kind: Kind::Raw { identifier: 0xfffe }, to };
        flow.try_send(b"\x00\x07x").unwrap();
        let mut buffer = [0; 64];
        loop {
            match flow.try_receive(&mut buffer) {
                Ok(length) => break assert_eq!(&buffer[..length], b"\x00\x07x"),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    flow.readable().await.unwrap();
                }
                Err(error) => panic!("{error}"),
            }
        }
    }
}
