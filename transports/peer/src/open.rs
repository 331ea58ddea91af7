//! Open: what a gateway asks of its peer when it opens a stream for a guest's connection.
//!
//! in:  bytes of a peer, or a dial of a guest
//! out: an [`Open`], or why the bytes are none
//! owner: nobody; a plain value
//! keeps: the version stands alone before all that it explains, so that a peer of another version is
//!        refused by name; a header never decodes with bytes left over
//! bound: [`limits::OPEN_BYTES_MAX`]
//!
//! # On the wire
//!
//! `version u8, length u16, kind u8, hops u8, trace u64, origin text, target`; integers are
//! little-endian, a text has its length as u16 before it. A target is `1 address`, `2 name port` or
//! `3 service`.

use std::fmt;
use std::net::SocketAddr;

use outsock_transport::{Destination, DialError, Errno, Origin};
use outsock_vmrpc::wire::{Malformed, Reader, Writer};

use crate::limits;

/// The version that this crate speaks.
pub const VERSION: u8 = 1;

/// What the bytes of a stream are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StreamKind {
    /// A byte stream with two halves.
    Stream,
    /// A session of UDP datagrams; see the carrier for how they travel.
    Datagrams,
    /// A session of ICMP echo: a datagram is a request's sequence number and data, and comes back
    /// when it was answered.
    Echo,
}

/// Where a stream is to lead.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Target {
    /// Out of the peer's exit, to this address.
    Address(SocketAddr),
    /// Out of the peer's exit, to a name that the peer resolves.
    Name {
        /// The name, in lower case, without a final dot.
        name: String,
        /// The port.
        port: u16,
    },
    /// A service that the peer's site offers.
    Service {
        /// The service.
        name: String,
        /// The port that the program asked for; a service has its own.
        port: u16,
    },
}

impl Target {
    fn named(name: &str, port: u16, peer: &str) -> Self {
        let service = name
            .strip_suffix(".peer")
            .and_then(|rest| rest.strip_suffix(peer))
            .and_then(|rest| rest.strip_suffix('.'))
            .filter(|service| !service.is_empty());
        match service {
            Some(service) => Self::Service { name: service.to_owned(), port },
            None => Self::Name { name: name.to_owned(), port },
        }
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Address(address) => write!(f, "{address}"),
            Self::Name { name, port } => write!(f, "{name}:{port}"),
            Self::Service { name, port } => write!(f, "service {name} (port {port})"),
        }
    }
}

/// The header.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Open {
    /// What the stream carries.
    pub kind: StreamKind,
    /// Gateways passed so far, the sender included: 1 from a guest's own gateway.
    pub hops: u8,
    /// Names the connection in the logs of every gateway that it passes.
    pub trace: u64,
    /// The guest that dialled, by its name at its own gateway. Says nothing about rights: those
    /// belong to the peer's key.
    pub origin: String,
    /// Where to.
    pub target: Target,
}

/// Why bytes are no header.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum OpenError {
    /// Another version.
    #[error("version {0} of the peer protocol is not spoken here, only {VERSION}")]
    Version(u8),
    /// Longer than any header.
    #[error("a header of {0} bytes is too long")]
    TooLong(usize),
    /// Not formed well.
    #[error(transparent)]
    Malformed(#[from] Malformed),
    /// A value that has no meaning.
    #[error("the header has a bad {0}")]
    Bad(&'static str),
}

impl Open {
    /// What a dial asks of the peer that is called `peer`: `db.osaka.peer` is the service `db` of the
    /// peer `osaka`; other names are the peer's to resolve.
    ///
    /// # Errors
    /// The destination is not the peer's to dial, or the routes lead in a circle.
    pub fn to(
        kind: StreamKind,
        destination: &Destination,
        peer: &str,
        origin: &Origin,
    ) -> Result<Self, DialError> {
        let target = match destination {
            Destination::Address(address) => Target::Address(*address),
            Destination::Name { name, port } => Target::named(name, *port, peer),
            Destination::Unix(_) => {
                return Err(DialError::UnsupportedDestination("Unix sockets of another host"));
            }
        };
        let hops = origin.hops.saturating_add(1);
        if hops > limits::HOPS_MAX {
            let reason =
                format!("the routes lead in a circle: {} gateways passed", limits::HOPS_MAX);
            return Err(DialError::Relayed { errno: Errno::ELOOP, reason });
        }
        let guest = origin.guest.as_deref().unwrap_or_default();
        Ok(Self { kind, hops, trace: origin.trace, origin: guest.to_owned(), target })
    }

    /// The bytes, the version and length included.
    pub fn encode(&self) -> Vec<u8> {
        let kind = match self.kind {
            StreamKind::Stream => 1,
            StreamKind::Datagrams => 2,
            StreamKind::Echo => 3,
        };
        let [low, high] = split(self.trace);
        let writer = Writer::new().u8(kind).u8(self.hops).u32(low).u32(high);
        let writer = writer.text(cut(&self.origin, limits::ORIGIN_BYTES_MAX));
        let body = match &self.target {
            Target::Address(address) => writer.u8(1).socket_addr(*address),
            Target::Name { name, port } => writer.u8(2).text(name).u16(*port),
            Target::Service { name, port } => writer.u8(3).text(name).u16(*port),
        };
        with_prefix(VERSION, &body.finish())
    }

    /// Reads what follows version and length.
    pub fn decode(version: u8, body: &[u8]) -> Result<Self, OpenError> {
        if version != VERSION {
            return Err(OpenError::Version(version));
        }
        let mut reader = Reader::new(body);
        let kind = match reader.u8()? {
            1 => StreamKind::Stream,
            2 => StreamKind::Datagrams,
            3 => StreamKind::Echo,
            _ => return Err(OpenError::Bad("kind")),
        };
        let hops = reader.u8()?;
        if hops == 0 {
            return Err(OpenError::Bad("hop count"));
        }
        let trace = u64::from(reader.u32()?) | u64::from(reader.u32()?) << 32;
        let origin = reader.text(limits::ORIGIN_BYTES_MAX)?.to_owned();
        let target = match reader.u8()? {
            1 => Target::Address(reader.socket_addr()?),
            2 => Target::Name { name: name(&mut reader)?, port: reader.u16()? },
            3 => Target::Service { name: name(&mut reader)?, port: reader.u16()? },
            _ => return Err(OpenError::Bad("target")),
        };
        reader.finish()?;
        if origin.chars().any(char::is_control) {
            return Err(OpenError::Bad("origin"));
        }
        Ok(Self { kind, hops, trace, origin, target })
    }
}

fn name(reader: &mut Reader<'_>) -> Result<String, OpenError> {
    let name = reader.text(limits::NAME_BYTES_MAX)?;
    let plain = |c: char| c.is_ascii_graphic() && !c.is_ascii_uppercase();
    if name.is_empty() || !name.chars().all(plain) || name.ends_with('.') {
        return Err(OpenError::Bad("name"));
    }
    Ok(name.to_owned())
}

/// A text of at most so many bytes, cut at a character.
pub(crate) fn cut(text: &str, bytes_max: usize) -> &str {
    let mut end = text.len().min(bytes_max);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    &text[..end]
}

fn split(value: u64) -> [u32; 2] {
    let half = |shift: u32| u32::try_from(value >> shift & 0xffff_ffff).unwrap_or(u32::MAX);
    [half(0), half(32)]
}

/// Version and length before a body. The bodies of this protocol are far below 65,536 bytes.
pub(crate) fn with_prefix(version: u8, body: &[u8]) -> Vec<u8> {
    let length = u16::try_from(body.len()).unwrap_or(u16::MAX);
    Writer::new().u8(version).u16(length).raw(body).finish()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn targets() -> impl Strategy<Value = Target> {
        let name = "[a-z0-9][a-z0-9.-]{0,60}[a-z0-9]";
        prop_oneof![
            any::<SocketAddr>().prop_map(|address| match address {
                // The flow information does not travel.
                SocketAddr::V6(mut v6) => {
                    v6.set_flowinfo(0);
                    Target::Address(v6.into())
                }
                SocketAddr::V4(_) => Target::Address(address),
            }),
            (name, any::<u16>()).prop_map(|(name, port)| Target::Name { name, port }),
            (name, any::<u16>()).prop_map(|(name, port)| Target::Service { name, port }),
        ]
    }

    proptest! {
        #[test]
        fn a_header_leads_back(
            kind in 0_usize..3, hops in 1_u8.., trace: u64, origin in "[^\\p{Cc}]{0,40}",
            target in targets(),
        ) {
            let kind = [StreamKind::Stream, StreamKind::Datagrams, StreamKind::Echo][kind];
            let open = Open { kind, hops, trace, origin, target };
            let bytes = open.encode();
            prop_assert!(bytes.len() <= 3 + limits::OPEN_BYTES_MAX);
            prop_assert_eq!(Open::decode(bytes[0], &bytes[3..]), Ok(open.clone()));
            // No header is a prefix of another, and none has bytes left over.
            prop_assert!(Open::decode(VERSION, &bytes[3..bytes.len() - 1]).is_err());
            let longer = [&bytes[3..], &[0]].concat();
            prop_assert!(Open::decode(VERSION, &longer).is_err());
        }

        #[test]
        fn any_bytes_are_a_header_or_an_error(
            version: u8, bytes in proptest::collection::vec(any::<u8>(), 0..200),
        ) {
            match Open::decode(version, &bytes) {
                Ok(open) => prop_assert_eq!(&open.encode()[3..], &bytes[..]),
                Err(OpenError::Version(said)) => prop_assert!(said == version && said != VERSION),
                Err(_) => prop_assert_eq!(version, VERSION),
            }
        }
    }
}
