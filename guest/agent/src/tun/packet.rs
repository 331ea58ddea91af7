//! Packet: what a program of the guest wants to send.
//!
//! in: an IP packet of the TUN device; out: what it is, with its parts. Nothing here touches the
//! system. Kept: lengths are checked against the packet; a fragment is told as such, because only all
//! of them together are a datagram.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use crate::limits;

/// Protocol numbers.
const ICMP: u8 = 1;
pub(crate) const UDP: u8 = 17;
const TCP: u8 = 6;
const ICMP_V6: u8 = 58;
const FRAGMENT_V6: u8 = 44;
/// Extension headers of IPv6 that all have the same shape: hop-by-hop, routing, destination options.
const EXTENSIONS_V6: [u8; 3] = [0, 43, 60];

/// A packet's IP header, and what is behind it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Packet<'a> {
    pub(crate) from: IpAddr,
    pub(crate) to: IpAddr,
    pub(crate) protocol: u8,
    pub(crate) hop_limit: u8,
    /// The whole packet, for answers.
    pub(crate) whole: &'a [u8],
    pub(crate) fragment: Option<Fragment>,
    pub(crate) body: &'a [u8],
}

/// Which part of a datagram a packet carries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Fragment {
    pub(crate) identification: u32,
    /// Bytes.
    pub(crate) offset: usize,
    pub(crate) more: bool,
}

/// What a packet is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Content<'a> {
    /// UDP.
    Datagram { from: SocketAddr, to: SocketAddr, payload: &'a [u8] },
    /// An ICMP echo request; the payload begins with the sequence number.
    Echo { identifier: u16, payload: &'a [u8] },
    /// To be refused with an ICMP error.
    Other,
    /// To be dropped without a word: nobody asks for an answer, or none is allowed (RFC 1122, 3.2.2).
    Silent,
}

impl<'a> Packet<'a> {
    /// `None` when it is no IP packet.
    pub(crate) fn parse(bytes: &'a [u8]) -> Option<Self> {
        match bytes.first()? >> 4 {
            4 => Self::parse_v4(bytes),
            6 => Self::parse_v6(bytes),
            _ => None,
        }
    }

    fn parse_v4(bytes: &'a [u8]) -> Option<Self> {
        let header = bytes.first_chunk::<20>()?;
        let length = usize::from(header[0] & 0x0f) * 4;
        let total = usize::from(short(header, 2)?);
        let whole = bytes.get(..total)?;
        let flags = short(header, 6)?;
        let fragment = Fragment {
            identification: short(header, 4)?.into(),
            offset: usize::from(flags & 0x1fff) * 8,
            more: flags & 0x2000 != 0,
        };
        Some(Self {
            from: Ipv4Addr::from(*header.get(12..)?.first_chunk::<4>()?).into(),
            to: Ipv4Addr::from(*header.get(16..)?.first_chunk::<4>()?).into(),
            protocol: header[9],
            hop_limit: header[8],
            whole,
            fragment: (fragment.more || fragment.offset != 0).then_some(fragment),
            body: whole.get(length.max(20)..)?,
        })
    }

    fn parse_v6(bytes: &'a [u8]) -> Option<Self> {
        let header = bytes.first_chunk::<40>()?;
        let whole = bytes.get(..40 + usize::from(short(header, 4)?))?;
        let (mut protocol, mut fragment) = (header[6], None);
        let mut body = whole.get(40..)?;
        for _ in 0..limits::EXTENSION_HEADERS_MAX {
            if protocol == FRAGMENT_V6 {
                let extension = body.first_chunk::<8>()?;
                let flags = short(extension, 2)?;
                fragment = Some(Fragment {
                    identification: u32::from_be_bytes(*extension.last_chunk::<4>()?),
                    offset: usize::from(flags & 0xfff8),
                    more: flags & 1 != 0,
                });
                protocol = extension[0];
                body = body.get(8..)?;
                break;
            }
            if !EXTENSIONS_V6.contains(&protocol) {
                break;
            }
            let extension = body.first_chunk::<2>()?;
            protocol = extension[0];
            body = body.get((usize::from(extension[1]) + 1) * 8..)?;
        }
        Some(Self {
            from: Ipv6Addr::from(*header.get(8..)?.first_chunk::<16>()?).into(),
            to: Ipv6Addr::from(*header.get(24..)?.first_chunk::<16>()?).into(),
            protocol,
            hop_limit: header[7],
            whole,
            fragment,
            body,
        })
    }

    /// What it is. `body` is that of the whole datagram.
    pub(crate) fn content(&self, body: &'a [u8]) -> Content<'a> {
        if is_for_many(self.to) || is_for_many(self.from) || self.from.is_unspecified() {
            return Content::Silent;
        }
        match (self.protocol, self.to) {
            (UDP, _) => self.datagram(body),
            // Errors and replies.
            (ICMP, IpAddr::V4(_)) => {
                self.icmp(body, 8, |kind| [0, 3, 4, 5, 11, 12, 14].contains(&kind))
            }
            // Errors, replies, and what neighbours say to each other.
            (ICMP_V6, IpAddr::V6(_)) => self.icmp(body, 128, |kind| kind != 128),
            // The answer to a RST is nothing.
            (TCP, _) if body.get(13).is_none_or(|flags| flags & 4 != 0) => Content::Silent,
            _ => Content::Other,
        }
    }

    fn datagram(&self, body: &'a [u8]) -> Content<'a> {
        let parts = || {
            let (from, to) = (short(body, 0)?, short(body, 2)?);
            let length = usize::from(short(body, 4)?);
            let payload = body.get(8..length)?;
            Some((SocketAddr::new(self.from, from), SocketAddr::new(self.to, to), payload))
        };
        match parts() {
            Some(_) if self.counts_hops() => Content::Other,
            Some((from, to, payload)) => Content::Datagram { from, to, payload },
            None => Content::Silent,
        }
    }

    fn icmp(&self, body: &'a [u8], request: u8, is_silent: impl Fn(u8) -> bool) -> Content<'a> {
        let Some(header) = body.first_chunk::<8>() else { return Content::Silent };
        if (header[0], header[1]) == (request, 0) && !self.counts_hops() {
            let identifier = u16::from_be_bytes([header[4], header[5]]);
            return Content::Echo { identifier, payload: &body[6..] };
        }
        if is_silent(header[0]) { Content::Silent } else { Content::Other }
    }

    /// Whoever counts hops does not want to get there.
    fn counts_hops(&self) -> bool {
        self.hop_limit <= limits::HOPS_TRACED_MAX
    }
}

fn is_for_many(ip: IpAddr) -> bool {
    match ip {
        IpAddr::V4(v4) => v4.is_multicast() || v4.is_broadcast(),
        IpAddr::V6(v6) => v6.is_multicast(),
    }
}

fn short(bytes: &[u8], at: usize) -> Option<u16> {
    bytes.get(at..)?.first_chunk().map(|two| u16::from_be_bytes(*two))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn v4(protocol: u8, hop_limit: u8, body: &[u8]) -> Vec<u8> {
        let total = u16::try_from(20 + body.len()).unwrap().to_be_bytes();
        let mut packet =
            vec![0x45, 0, total[0], total[1], 0, 7, 0x40, 0, hop_limit, protocol, 0, 0];
        packet.extend([192, 0, 0, 2, 203, 0, 113, 1]);
        packet.extend(body);
        packet
    }

    fn content(bytes: &[u8]) -> Content<'_> {
        let packet = Packet::parse(bytes).unwrap();
        packet.content(packet.body)
    }

    const DATAGRAM: [u8; 10] = [0x13, 0x88, 0, 53, 0, 10, 0, 0, b'h', b'i'];

    #[test]
    fn datagrams_and_echo_requests_are_what_goes_out() {
        let (from, to) = ("192.0.0.2:5000".parse().unwrap(), "203.0.113.1:53".parse().unwrap());
        let expected = Content::Datagram { from, to, payload: b"hi" };
        assert_eq!(content(&v4(17, 64, &DATAGRAM)), expected);
        let echo = [8, 0, 0, 0, 0, 9, 0, 1, b'x'];
        let expected = Content::Echo { identifier: 9, payload: &[0, 1, b'x'] };
        assert_eq!(content(&v4(1, 64, &echo)), expected);
    }

    #[test]
    fn the_rest_is_refused_or_dropped() {
        let mut syn = [0u8; 20];
        syn[13] = 2;
        assert_eq!(content(&v4(6, 64, &syn)), Content::Other);
        syn[13] = 4;
        assert_eq!(content(&v4(6, 64, &syn)), Content::Silent);
        assert_eq!(content(&v4(47, 64, b"tunnel")), Content::Other);
        assert_eq!(content(&v4(1, 64, &[3, 3, 0, 0, 0, 0, 0, 0])), Content::Silent);
        assert_eq!(content(&v4(1, 64, &[13, 0, 0, 0, 0, 0, 0, 0])), Content::Other);
        // A traceroute's probes.
        assert_eq!(content(&v4(17, 1, &DATAGRAM)), Content::Other);
        assert_eq!(content(&v4(1, 5, &[8, 0, 0, 0, 0, 9, 0, 1])), Content::Other);
        let mut to_many = v4(17, 64, &DATAGRAM);
        to_many[16] = 224;
        assert_eq!(content(&to_many), Content::Silent);
    }

    #[test]
    fn ipv6_with_extension_headers_and_fragments() {
        let mut packet = vec![0x60, 0, 0, 0, 0, 34, 0, 64];
        packet.extend([0xfd; 16]);
        packet.extend([0x20; 16]);
        packet.extend([44, 0, 1, 4, 0, 0, 0, 0]);
        packet.extend([17, 0, 0, 0x11, 0, 0, 0, 5]);
        packet.extend(DATAGRAM);
        packet.extend([0; 8]);
        let parsed = Packet::parse(&packet).unwrap();
        let fragment = Fragment { identification: 5, offset: 16, more: true };
        assert_eq!((parsed.protocol, parsed.fragment), (17, Some(fragment)));
        assert_eq!(parsed.body.len(), 18);
    }

    #[test]
    fn no_packet_panics() {
        for bytes in [v4(17, 64, &DATAGRAM), vec![0x60; 80], vec![0x6f; 41]] {
            for end in 0..bytes.len() {
                if let Some(packet) = Packet::parse(&bytes[..end]) {
                    let _ = packet.content(packet.body);
                }
                let mut bent = bytes.clone();
                bent[end] ^= 0xff;
                if let Some(packet) = Packet::parse(&bent) {
                    let _ = packet.content(packet.body);
                }
            }
        }
    }
}
