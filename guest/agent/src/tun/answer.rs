//! Answer: packets for the guest.
//!
//! in: datagrams, echo replies, failures; out: IP packets, each behind the header that the TUN device
//! wants. Nothing here touches the system. Kept: what an ICMP error quotes is enough for the guest's
//! kernel to find the socket. Sources: RFC 792, RFC 4443, and `icmp_err_convert`, `tab_unreach` of
//! Linux, for which code becomes which errno of a connected socket.

use std::net::{IpAddr, SocketAddr};

use outsock_vmrpc::Errno;
use outsock_vmrpc::datagram::{FlowKey, HOST_V4, HOST_V6};

use super::packet::{Packet, UDP};
use crate::limits;
use crate::sys::tun::HEADER_BYTES;

const ICMP: u8 = 1;
const ICMP_V6: u8 = 58;

/// Starts a packet; `offload` is where the checksum of a UDP header is to be put.
fn start(offload: Option<u16>, capacity: usize) -> Vec<u8> {
    const NEEDS_CHECKSUM: u8 = 1;
    const CHECKSUM_OF_UDP: u16 = 6;
    let mut packet = Vec::with_capacity(HEADER_BYTES + capacity);
    match offload {
        Some(at) => {
            packet.extend([NEEDS_CHECKSUM, 0, 0, 0, 0, 0]);
            packet.extend(at.to_ne_bytes());
            packet.extend(CHECKSUM_OF_UDP.to_ne_bytes());
        }
        None => packet.extend([0; HEADER_BYTES]),
    }
    packet
}

/// Appends an IP header. `false` when the ends are of two families or the body is too long.
fn ip(packet: &mut Vec<u8>, protocol: u8, from: IpAddr, to: IpAddr, body: usize) -> bool {
    match (from, to) {
        (IpAddr::V4(from), IpAddr::V4(to)) => {
            let Ok(total) = u16::try_from(20 + body) else { return false };
            let total = total.to_be_bytes();
            let mut header = [0x45, 0, total[0], total[1], 0, 0, 0x40, 0, 64, protocol, 0, 0]
                .into_iter()
                .chain(from.octets())
                .chain(to.octets())
                .collect::<Vec<u8>>();
            let sum = (!folded(words(&header))).to_be_bytes();
            header[10..12].copy_from_slice(&sum);
            packet.extend(header);
        }
        (IpAddr::V6(from), IpAddr::V6(to)) => {
            let Ok(length) = u16::try_from(body) else { return false };
            packet.extend([0x60, 0, 0, 0]);
            packet.extend(length.to_be_bytes());
            packet.extend([protocol, 64]);
            packet.extend(from.octets());
            packet.extend(to.octets());
        }
        (IpAddr::V4(_), IpAddr::V6(_)) | (IpAddr::V6(_), IpAddr::V4(_)) => return false,
    }
    true
}

/// A UDP datagram. Its checksum is left to the kernel, which does not look at it.
pub(crate) fn datagram(from: SocketAddr, to: SocketAddr, payload: &[u8]) -> Option<Vec<u8>> {
    let length = 8 + payload.len();
    let at: u16 = if from.is_ipv4() { 20 } else { 40 };
    let mut packet = start(Some(at), usize::from(at) + length);
    if !ip(&mut packet, UDP, from.ip(), to.ip(), length) {
        return None;
    }
    packet.extend(from.port().to_be_bytes());
    packet.extend(to.port().to_be_bytes());
    packet.extend(u16::try_from(length).ok()?.to_be_bytes());
    packet.extend(folded(pseudo_header(from.ip(), to.ip(), UDP, length)).to_be_bytes());
    packet.extend(payload);
    Some(packet)
}

/// An echo reply; `payload` begins with the sequence number.
pub(crate) fn echo(from: IpAddr, to: IpAddr, identifier: u16, payload: &[u8]) -> Option<Vec<u8>> {
    let kind = if from.is_ipv4() { 0 } else { 129 };
    let mut message = vec![kind, 0, 0, 0];
    message.extend(identifier.to_be_bytes());
    message.extend(payload);
    icmp(from, to, message)
}

fn icmp(from: IpAddr, to: IpAddr, mut message: Vec<u8>) -> Option<Vec<u8>> {
    let (protocol, pseudo) = match from {
        IpAddr::V4(_) => (ICMP, 0),
        IpAddr::V6(_) => (ICMP_V6, pseudo_header(from, to, ICMP_V6, message.len())),
    };
    let sum = !folded(pseudo + words(&message));
    message[2..4].copy_from_slice(&sum.to_be_bytes());
    let mut packet = start(None, 40 + message.len());
    ip(&mut packet, protocol, from, to, message.len()).then(|| {
        packet.extend(message);
        packet
    })
}

/// The packet that was sent cannot be: forbidden, by the agent itself.
pub(crate) fn prohibited(packet: &Packet<'_>) -> Option<Vec<u8>> {
    error(Errno::EACCES, packet.from, packet.to, packet.whole)
}

/// Datagrams of a flow do not arrive.
pub(crate) fn failed(flow: FlowKey, errno: Errno) -> Option<Vec<u8>> {
    let mut quoted = Vec::new();
    let (guest, far) = match flow {
        FlowKey::Udp { guest, far } => {
            ip(&mut quoted, UDP, guest.ip(), far.ip(), 8).then_some(())?;
            quoted.extend(guest.port().to_be_bytes());
            quoted.extend(far.port().to_be_bytes());
            quoted.extend([0, 8, 0, 0]);
            (guest.ip(), far.ip())
        }
        FlowKey::Echo { guest, far, identifier } => {
            let (protocol, request) = if far.is_ipv4() { (ICMP, 8) } else { (ICMP_V6, 128) };
            ip(&mut quoted, protocol, guest, far, 8).then_some(())?;
            quoted.extend([request, 0, 0, 0]);
            quoted.extend(identifier.to_be_bytes());
            quoted.extend([0, 0]);
            (guest, far)
        }
    };
    error(errno, guest, far, &quoted)
}

/// An ICMP error that a connected socket of the guest hears as `errno`, or as what is next to it.
fn error(errno: Errno, guest: IpAddr, far: IpAddr, quoted: &[u8]) -> Option<Vec<u8>> {
    let mtu = limits::MTU_SAID.to_be_bytes();
    let nobody = errno == Errno::ECONNREFUSED;
    let too_long = errno == Errno::EMSGSIZE;
    let (kind, code, rest, quoted_max) = match guest {
        IpAddr::V4(_) => {
            let code = match errno {
                Errno::ECONNREFUSED => 3,
                Errno::EMSGSIZE => 4,
                // The codes without "prohibited" are hints only, which no UDP socket hears.
                Errno::ENETUNREACH | Errno::ENETDOWN => 9,
                Errno::EHOSTUNREACH | Errno::EHOSTDOWN | Errno::ETIMEDOUT => 10,
                _ => 13,
            };
            let rest = if too_long { [0, 0, mtu[2], mtu[3]] } else { [0; 4] };
            (3, code, rest, limits::ICMP_QUOTED_V4)
        }
        IpAddr::V6(_) if too_long => (2, 0, mtu, limits::ICMP_QUOTED_V6),
        IpAddr::V6(_) => (1, if nobody { 4 } else { 1 }, [0; 4], limits::ICMP_QUOTED_V6),
    };
    let from = match guest {
        _ if nobody => far,
        IpAddr::V4(_) => HOST_V4.into(),
        IpAddr::V6(_) => HOST_V6.into(),
    };
    let mut message = vec![kind, code, 0, 0];
    message.extend(rest);
    message.extend(&quoted[..quoted.len().min(quoted_max)]);
    icmp(from, guest, message)
}

fn words(bytes: &[u8]) -> u64 {
    let pairs = bytes.chunks_exact(2);
    let last = pairs.remainder().first().map_or(0, |last| u64::from(*last) << 8);
    pairs.map(|pair| u64::from(u16::from_be_bytes([pair[0], pair[1]]))).sum::<u64>() + last
}

fn folded(mut sum: u64) -> u16 {
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    u16::try_from(sum).unwrap_or(0)
}

fn pseudo_header(from: IpAddr, to: IpAddr, protocol: u8, length: usize) -> u64 {
    let octets = |ip: IpAddr| match ip {
        IpAddr::V4(v4) => words(&v4.octets()),
        IpAddr::V6(v6) => words(&v6.octets()),
    };
    octets(from) + octets(to) + u64::from(protocol) + length as u64
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tun::packet::Content;

    fn parsed(packet: &[u8]) -> Packet<'_> {
        Packet::parse(&packet[HEADER_BYTES..]).unwrap()
    }

    #[test]
    fn datagrams_parse_back_in_both_families() {
        for (from, to) in
            [("203.0.113.1:53", "192.0.0.2:5000"), ("[2001:db8::1]:53", "[fd00::2]:5")]
        {
            let (from, to): (SocketAddr, SocketAddr) = (from.parse().unwrap(), to.parse().unwrap());
            for payload in [vec![], vec![1; 65_507]] {
                let packet = datagram(from, to, &payload).unwrap();
                let packet = parsed(&packet);
                let content = packet.content(packet.body);
                assert_eq!(content, Content::Datagram { from, to, payload: &payload });
            }
        }
    }

    #[test]
    fn checksums_are_those_of_the_rfcs() {
        // RFC 1071, 3: the example sums to ddf2.
        assert_eq!(folded(words(&[0x00, 0x01, 0xf2, 0x03, 0xf4, 0xf5, 0xf6, 0xf7])), 0xddf2);
        let packet =
            echo("203.0.113.1".parse().unwrap(), "192.0.0.2".parse().unwrap(), 9, b"\0\x01a");
        let packet = packet.unwrap();
        assert_eq!(folded(words(&packet[HEADER_BYTES..][..20])), 0xffff);
        assert_eq!(folded(words(parsed(&packet).body)), 0xffff);
    }

    #[test]
    fn errors_quote_the_flow_and_say_the_errno() {
        let flow = FlowKey::Udp {
            guest: "192.0.0.2:5000".parse().unwrap(),
            far: "203.0.113.1:53".parse().unwrap(),
        };
        for (errno, code, from) in [
            (Errno::ECONNREFUSED, 3, "203.0.113.1"),
            (Errno::EACCES, 13, "192.0.0.1"),
            (Errno::EHOSTUNREACH, 10, "192.0.0.1"),
            (Errno::EMSGSIZE, 4, "192.0.0.1"),
        ] {
            let packet = failed(flow, errno).unwrap();
            let packet = parsed(&packet);
            assert_eq!((packet.body[0], packet.body[1]), (3, code), "{errno}");
            assert_eq!(packet.from, from.parse::<IpAddr>().unwrap());
            let quoted = Packet::parse(&packet.body[8..]).unwrap();
            assert_eq!((quoted.from.to_string(), quoted.body.len()), ("192.0.0.2".to_owned(), 8));
        }
    }
}
