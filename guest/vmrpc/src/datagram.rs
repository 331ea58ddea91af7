//! The `datagram` host module, version 1: datagrams of a guest, beside its connections.
//!
//! An agent opens one channel: it calls [`OPEN`] with a fresh [`Token`] and opens a vsock connection
//! to the host port of that number, as for a connection. The channel carries [`Message`]s both ways,
//! each with its length before it. A guest's datagram names both its ends, so neither side keeps
//! anything for the other; the gateway makes flows of them, by its rules, and says when one failed.
//!
//! ```
//! use outsock_vmrpc::datagram::{Message, Messages};
//! let query = Message::Datagram {
//!     from: "192.0.0.2:5353".parse().unwrap(),
//!     to: "203.0.113.53:53".parse().unwrap(),
//!     payload: b"which?",
//! };
//! let mut bytes = Vec::new();
//! assert!(query.encode(&mut bytes));
//! let mut messages = Messages::default();
//! messages.push(&bytes);
//! assert_eq!(messages.next(), Ok(Some(query)));
//! ```

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use crate::errno::Errno;
use crate::limits;
use crate::name::{Version, VersionRange};
use crate::socket::Token;
use crate::wire::{Malformed, Reader, Writer};

/// The module's name.
pub const NAME: &str = "datagram";

/// What this crate describes.
pub const VERSIONS: VersionRange = VersionRange::only(Version(1));

/// Function 1: the vsock connection of a token is a channel. Arguments [`Open`], no result; an errno
/// says why there is none.
pub const OPEN: u32 = 1;

/// The host, as a guest knows it: who refuses, and who sends from the host's own loopback. Beside the
/// guest's own address, of a range for what lies between a host and its gateway (RFC 7335).
pub const HOST_V4: Ipv4Addr = Ipv4Addr::new(192, 0, 0, 1);

/// The same for IPv6: a unique local address, outside of the gateway's synthetic ones.
pub const HOST_V6: Ipv6Addr = Ipv6Addr::new(0xfd6f, 0x7574, 0x7370, 0, 0, 0, 0, 1);

/// Arguments of [`OPEN`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Open {
    /// The token that the vsock connection carries as its host port.
    pub token: Token,
    /// The guest's own address, to which datagrams for published ports go.
    pub v4: Option<Ipv4Addr>,
    /// The same for IPv6.
    pub v6: Option<Ipv6Addr>,
}

impl Open {
    /// As arguments.
    pub fn encode(&self) -> Vec<u8> {
        let writer = Writer::new().u32(self.token.raw());
        let writer = match self.v4 {
            Some(v4) => writer.u8(1).raw(&v4.octets()),
            None => writer.u8(0),
        };
        match self.v6 {
            Some(v6) => writer.u8(1).raw(&v6.octets()).finish(),
            None => writer.u8(0).finish(),
        }
    }

    /// From arguments.
    pub fn decode(bytes: &[u8]) -> Result<Self, Malformed> {
        fn address<const N: usize>(reader: &mut Reader<'_>) -> Result<Option<[u8; N]>, Malformed> {
            match reader.u8()? {
                0 => Ok(None),
                1 => Ok(reader.bytes(N)?.first_chunk().copied()),
                _ => Err(Malformed("bad flag")),
            }
        }
        let mut reader = Reader::new(bytes);
        let token = Token::new(reader.u32()?).ok_or(Malformed("not a token"))?;
        let v4 = address(&mut reader)?.map(Ipv4Addr::from);
        let v6 = address(&mut reader)?.map(Ipv6Addr::from);
        reader.finish()?;
        Ok(Self { token, v4, v6 })
    }
}

/// One message of a channel. `from` and `to` are of one family, and `from` is who sent the payload:
/// the guest's end on the way to the host, the far end on the way to the guest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Message<'a> {
    /// A UDP datagram.
    Datagram {
        /// Who sent it.
        from: SocketAddr,
        /// To whom.
        to: SocketAddr,
        /// At most [`limits::DATAGRAM_BYTES_MAX`] bytes.
        payload: &'a [u8],
    },
    /// An ICMP echo request on the way to the host, a reply on the way to the guest.
    Echo {
        /// Who sent it.
        from: IpAddr,
        /// To whom.
        to: IpAddr,
        /// The request's.
        identifier: u16,
        /// The request's sequence number (two bytes, big-endian) and its data.
        payload: &'a [u8],
    },
    /// To the guest: datagrams of this flow do not arrive. The flow may work later.
    Failed {
        /// The flow.
        flow: FlowKey,
        /// Why, as a program would have heard it.
        errno: Errno,
    },
}

/// One flow of a guest.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum FlowKey {
    /// UDP.
    Udp {
        /// The guest's end.
        guest: SocketAddr,
        /// The far end, as the guest knows it.
        far: SocketAddr,
    },
    /// ICMP echo.
    Echo {
        /// The guest's end.
        guest: IpAddr,
        /// The far end, as the guest knows it.
        far: IpAddr,
        /// The identifier of the requests.
        identifier: u16,
    },
}

const DATAGRAM: u8 = 1;
const ECHO: u8 = 2;
const FAILED_UDP: u8 = 3;
const FAILED_ECHO: u8 = 4;

/// Bytes of a message before its payload, at most: length, kind, family, two IPv6 addresses, ports.
const HEADER_BYTES_MAX: usize = 4 + 2 + 32 + 4;

impl<'a> Message<'a> {
    /// Appends the message. `false`, and nothing appended, when its ends are of two families or its
    /// payload is too long.
    pub fn encode(&self, bytes: &mut Vec<u8>) -> bool {
        let (kind, from, to, numbers, payload): (_, _, _, [u16; 2], &[u8]) = match *self {
            Self::Datagram { from, to, payload } => {
                (DATAGRAM, from.ip(), to.ip(), [from.port(), to.port()], payload)
            }
            Self::Echo { from, to, identifier, payload } => {
                (ECHO, from, to, [identifier, 0], payload)
            }
            Self::Failed { flow: FlowKey::Udp { guest, far }, errno } => {
                let errno = errno.raw().cast_unsigned().to_le_bytes();
                let ports = [guest.port(), far.port()];
                return write(bytes, FAILED_UDP, guest.ip(), far.ip(), ports, &errno);
            }
            Self::Failed { flow: FlowKey::Echo { guest, far, identifier }, errno } => {
                let errno = errno.raw().cast_unsigned().to_le_bytes();
                return write(bytes, FAILED_ECHO, guest, far, [identifier, 0], &errno);
            }
        };
        write(bytes, kind, from, to, numbers, payload)
    }

    fn decode(bytes: &'a [u8]) -> Result<Self, Malformed> {
        let mut reader = Reader::new(bytes);
        let kind = reader.u8()?;
        let (from, to) = match reader.u8()? {
            4 => (v4(&mut reader)?, v4(&mut reader)?),
            6 => (v6(&mut reader)?, v6(&mut reader)?),
            _ => return Err(Malformed("unknown address family")),
        };
        let (first, second) = (reader.u16()?, reader.u16()?);
        let payload = reader.rest();
        if payload.len() > limits::DATAGRAM_BYTES_MAX {
            return Err(Malformed("datagram too long"));
        }
        let errno = || {
            let raw = payload.first_chunk().map(|raw| i32::from_le_bytes(*raw));
            raw.and_then(Errno::new).ok_or(Malformed("bad errno"))
        };
        let ends = (SocketAddr::new(from, first), SocketAddr::new(to, second));
        match kind {
            DATAGRAM => Ok(Self::Datagram { from: ends.0, to: ends.1, payload }),
            ECHO => Ok(Self::Echo { from, to, identifier: first, payload }),
            FAILED_UDP => {
                let flow = FlowKey::Udp { guest: ends.0, far: ends.1 };
                Ok(Self::Failed { flow, errno: errno()? })
            }
            FAILED_ECHO => {
                let flow = FlowKey::Echo { guest: from, far: to, identifier: first };
                Ok(Self::Failed { flow, errno: errno()? })
            }
            _ => Err(Malformed("unknown kind of message")),
        }
    }
}

fn v4(reader: &mut Reader<'_>) -> Result<IpAddr, Malformed> {
    let octets: [u8; 4] = *reader.bytes(4)?.first_chunk().ok_or(Malformed("ends early"))?;
    Ok(IpAddr::from(octets))
}

fn v6(reader: &mut Reader<'_>) -> Result<IpAddr, Malformed> {
    let octets: [u8; 16] = *reader.bytes(16)?.first_chunk().ok_or(Malformed("ends early"))?;
    Ok(IpAddr::from(octets))
}

fn write(
    bytes: &mut Vec<u8>,
    kind: u8,
    from: IpAddr,
    to: IpAddr,
    numbers: [u16; 2],
    payload: &[u8],
) -> bool {
    if payload.len() > limits::DATAGRAM_BYTES_MAX {
        return false;
    }
    let start = bytes.len();
    bytes.extend([0; 4]);
    match (from, to) {
        (IpAddr::V4(from), IpAddr::V4(to)) => {
            bytes.extend([kind, 4]);
            bytes.extend(from.octets());
            bytes.extend(to.octets());
        }
        (IpAddr::V6(from), IpAddr::V6(to)) => {
            bytes.extend([kind, 6]);
            bytes.extend(from.octets());
            bytes.extend(to.octets());
        }
        (IpAddr::V4(_), IpAddr::V6(_)) | (IpAddr::V6(_), IpAddr::V4(_)) => {
            bytes.truncate(start);
            return false;
        }
    }
    for number in numbers {
        bytes.extend(number.to_le_bytes());
    }
    bytes.extend(payload);
    let length = u32::try_from(bytes.len() - start - 4).unwrap_or(u32::MAX);
    bytes[start..start + 4].copy_from_slice(&length.to_le_bytes());
    true
}

/// Takes messages off a stream. A stream that breaks the protocol has to be ended: nothing says
/// where its next message begins.
#[derive(Debug, Default)]
pub struct Messages {
    bytes: Vec<u8>,
    read: usize,
}

impl Messages {
    /// Bytes of the stream, as they came. Takes what was read out of the way first.
    pub fn push(&mut self, bytes: &[u8]) {
        self.bytes.drain(..self.read);
        self.read = 0;
        self.bytes.extend(bytes);
    }

    /// The next whole message, if there is one.
    #[allow(clippy::should_implement_trait, reason = "it lends from itself")]
    pub fn next(&mut self) -> Result<Option<Message<'_>>, Malformed> {
        let rest = &self.bytes[self.read..];
        let Some((length, rest)) = rest.split_first_chunk::<4>() else { return Ok(None) };
        let length = usize::try_from(u32::from_le_bytes(*length)).unwrap_or(usize::MAX);
        if length > HEADER_BYTES_MAX + limits::DATAGRAM_BYTES_MAX {
            return Err(Malformed("message too long"));
        }
        let Some(message) = rest.get(..length) else { return Ok(None) };
        self.read += 4 + length;
        Message::decode(message).map(Some)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all(payload: &[u8]) -> Vec<Message<'_>> {
        let v4 = ["192.0.0.2:1000", "203.0.113.1:53"].map(|text| text.parse().unwrap());
        let v6 = ["[fd00::2]:1000", "[2001:db8::1]:53"].map(|text| text.parse().unwrap());
        let mut messages = Vec::new();
        for [from, to] in [v4, v6] {
            let (from, to): (SocketAddr, SocketAddr) = (from, to);
            messages.push(Message::Datagram { from, to, payload });
            let echo = FlowKey::Echo { guest: from.ip(), far: to.ip(), identifier: 9 };
            messages.push(Message::Echo { from: from.ip(), to: to.ip(), identifier: 9, payload });
            for flow in [FlowKey::Udp { guest: from, far: to }, echo] {
                messages.push(Message::Failed { flow, errno: Errno::ECONNREFUSED });
            }
        }
        messages
    }

    #[test]
    fn what_is_encoded_comes_out_again_however_it_is_cut() {
        for payload in [&b""[..], b"x", &[7; 5000]] {
            let mut bytes = Vec::new();
            for message in all(payload) {
                assert!(message.encode(&mut bytes));
            }
            for cut in [1, 7, 4096, bytes.len()] {
                let mut messages = Messages::default();
                let mut expected = all(payload).into_iter();
                for piece in bytes.chunks(cut) {
                    messages.push(piece);
                    while let Some(message) = messages.next().unwrap() {
                        assert_eq!(Some(message), expected.next());
                    }
                }
                assert_eq!(expected.next(), None);
            }
        }
    }

    #[test]
    fn what_cannot_be_said_is_not_said() {
        let (v4, v6) = ("192.0.0.2:1".parse().unwrap(), "[fd00::2]:1".parse().unwrap());
        let mut bytes = Vec::new();
        assert!(!Message::Datagram { from: v4, to: v6, payload: b"" }.encode(&mut bytes));
        let long = vec![0; limits::DATAGRAM_BYTES_MAX + 1];
        assert!(!Message::Datagram { from: v4, to: v4, payload: &long }.encode(&mut bytes));
        assert_eq!(bytes, []);
    }

    #[test]
    fn nonsense_is_an_error_and_never_more_is_kept_than_a_message() {
        for bytes in [&[0xff; 4][..], &[1, 0, 0, 0, 9], &[2, 0, 0, 0, 1, 5], &[2, 0, 0, 0, 1, 4]] {
            let mut messages = Messages::default();
            messages.push(bytes);
            assert!(messages.next().is_err(), "{bytes:?}");
        }
    }

    #[test]
    fn open_says_its_addresses() {
        let token = Token::from_random(5);
        for (v4, v6) in [(None, None), (Some(Ipv4Addr::LOCALHOST), Some(Ipv6Addr::LOCALHOST))] {
            let open = Open { token, v4, v6 };
            assert_eq!(Open::decode(&open.encode()), Ok(open));
        }
        assert!(Open::decode(&[0; 6]).is_err());
    }
}
