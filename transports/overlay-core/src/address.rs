//! Address: where a node can be reached, as the directory says it.
//!
//! in: bytes of a record, or what a node knows of itself; out: an [`Address`], and how far it reaches.
//! Plain data. Kept: an address names no host that cannot be one (no port 0, no multicast, nothing
//! unspecified). Bound: [`limits::ADDRESSES_MAX`](crate::limits::ADDRESSES_MAX) per record.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use outsock_core::route::{Cidr, canonical, embedded, protected_range};
use outsock_peer::PeerKey;
use outsock_vmrpc::wire::{Malformed, Reader, Writer};

use crate::record::key as read_key;

/// What is spoken at an address.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Carrier {
    /// TCP, the overlay's.
    Tcp,
    /// QUIC, the overlay's.
    Quic,
    /// QUIC of the peers' transport, for bulk.
    Peer,
}

/// Where a node can be reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Address {
    /// What is spoken there.
    pub carrier: Carrier,
    /// Where.
    pub at: SocketAddr,
    /// Whose address this is when not the node's own: the supernode that passes on.
    pub relay: Option<PeerKey>,
}

/// From where an address can be dialled.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Reach {
    /// From its own host only, or it is a service of that host's neighbourhood. Never dialled for a peer.
    Host,
    /// From its own site.
    Site,
    /// From everywhere, or from everywhere in the lab.
    Everywhere,
}

impl Reach {
    /// How far an address reaches. `lab`: networks that count as everywhere.
    ///
    /// ```
    /// use outsock_overlay_core::Reach;
    /// let lab = ["198.51.100.0/24".parse().unwrap()];
    /// assert_eq!(Reach::of("198.51.100.7".parse().unwrap(), &[]), Reach::Site);
    /// assert_eq!(Reach::of("198.51.100.7".parse().unwrap(), &lab), Reach::Everywhere);
    /// assert_eq!(Reach::of("127.0.0.1".parse().unwrap(), &[]), Reach::Host);
    /// ```
    #[must_use]
    pub fn of(ip: IpAddr, lab: &[Cidr]) -> Self {
        let ip = canonical(ip);
        if lab.iter().any(|network| network.contains(ip)) {
            return Self::Everywhere;
        }
        if protected_range(ip).is_some() {
            return Self::Host;
        }
        let global = match ip {
            IpAddr::V4(v4) => is_global_v4(v4),
            IpAddr::V6(v6) => {
                let inside = embedded(ip).into_iter().flatten();
                is_global_v6(v6) && inside.into_iter().all(is_global_v4)
            }
        };
        if global { Self::Everywhere } else { Self::Site }
    }
}

/// By IANA's registry of special-purpose addresses.
fn is_global_v4(ip: Ipv4Addr) -> bool {
    let [a, b, c, _] = ip.octets();
    let shared = a == 100 && b & 0xc0 == 64;
    let benchmark = a == 198 && b & 0xfe == 18;
    let protocols = [a, b, c] == [192, 0, 0] || [a, b, c] == [192, 88, 99];
    let reserved = a == 0 || a == 127 || a >= 224;
    let local = ip.is_private() || ip.is_link_local() || ip.is_documentation();
    !(shared || benchmark || protocols || reserved || local)
}

/// Of 2000::/3 without what is set apart in it.
fn is_global_v6(ip: Ipv6Addr) -> bool {
    let [a, b, ..] = ip.segments();
    let documentation = (a == 0x2001 && b == 0xdb8) || (a == 0x3fff && b < 0x1000);
    let protocols = a == 0x2001 && b < 0x200 && b != 0;
    (a & 0xe000 == 0x2000 || (a == 0x64 && b == 0xff9b)) && !documentation && !protocols
}

impl Address {
    /// Whether it can be an address at all.
    #[must_use]
    pub fn is_possible(&self) -> bool {
        let ip = self.at.ip();
        let host = !ip.is_unspecified() && !ip.is_multicast() && ip != Ipv4Addr::BROADCAST;
        host && self.at.port() != 0
    }

    pub(crate) fn put(&self, writer: Writer) -> Writer {
        let carrier = match self.carrier {
            Carrier::Tcp => 1,
            Carrier::Quic => 2,
            Carrier::Peer => 3,
        };
        let writer = writer.u8(carrier).socket_addr(self.at);
        match &self.relay {
            None => writer.u8(0),
            Some(relay) => writer.u8(1).raw(relay.as_bytes()),
        }
    }

    pub(crate) fn read(reader: &mut Reader<'_>) -> Result<Self, Malformed> {
        let carrier = match reader.u8()? {
            1 => Carrier::Tcp,
            2 => Carrier::Quic,
            3 => Carrier::Peer,
            _ => return Err(Malformed("unknown carrier")),
        };
        let at = reader.socket_addr()?;
        let relay = match reader.u8()? {
            0 => None,
            1 => Some(read_key(reader)?),
            _ => return Err(Malformed("neither a relay nor none")),
        };
        let address = Self { carrier, at, relay };
        address.is_possible().then_some(address).ok_or(Malformed("no host's address"))
    }
}

impl fmt::Display for Carrier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Tcp => "tcp",
            Self::Quic => "quic",
            Self::Peer => "peer",
        })
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.carrier, self.at)?;
        self.relay.map_or(Ok(()), |relay| write!(f, " through {relay}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reach_is_that_of_the_registry() {
        for (text, reach) in [
            ("8.8.8.8", Reach::Everywhere),
            ("::ffff:8.8.8.8", Reach::Everywhere),
            ("2a00:1450::1", Reach::Everywhere),
            ("10.0.0.1", Reach::Site),
            ("::ffff:10.0.0.1", Reach::Site),
            ("172.31.0.1", Reach::Site),
            ("192.168.1.1", Reach::Site),
            ("100.64.0.1", Reach::Site),
            ("198.18.0.1", Reach::Site),
            ("203.0.113.1", Reach::Site),
            ("240.0.0.1", Reach::Site),
            ("2001:db8::1", Reach::Site),
            ("fd00::1", Reach::Site),
            ("64:ff9b::10.0.0.1", Reach::Site),
            ("2002:0a00:0001::1", Reach::Site),
            ("127.0.0.1", Reach::Host),
            ("::1", Reach::Host),
            ("169.254.169.254", Reach::Host),
            ("fe80::1", Reach::Host),
            ("0.0.0.0", Reach::Host),
        ] {
            assert_eq!(Reach::of(text.parse().unwrap(), &[]), reach, "{text}");
        }
    }

    #[test]
    fn what_is_no_host_is_no_address() {
        for text in ["0.0.0.0:1", "10.0.0.1:0", "224.0.0.1:9", "255.255.255.255:9", "[::]:9"] {
            let at = text.parse().unwrap();
            assert!(!Address { carrier: Carrier::Tcp, at, relay: None }.is_possible(), "{text}");
        }
    }
}
