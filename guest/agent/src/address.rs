//! Socket addresses as programs hand them over and want them back. No I/O.
//!
//! in: bytes of a `sockaddr`, copied once; out: a typed address, and bytes again. Kept: the length
//! rules of `tcp_v4_connect`, `tcp_v6_connect` and `move_addr_to_user` in the kernel.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV4, SocketAddrV6};

const V4_BYTES: usize = 16;
const V6_BYTES: usize = 28;
/// RFC 2133 had no scope id; the kernel still takes the shorter form.
const V6_BYTES_SHORT: usize = 24;

/// The address family of a socket, as far as the agent cares.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Family {
    V4,
    V6,
}

/// What a program passed to connect().
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Passed {
    /// An address of the internet families, well formed for a socket of that family.
    Internet(SocketAddr),
    /// AF_UNSPEC: give up the association.
    Unspecified,
    /// systemd-resolved, which would ask the guest's own nameservers.
    SystemResolver,
    /// Something that is none of the agent's business, or that the kernel will refuse.
    Foreign,
}

impl Passed {
    pub(crate) fn parse(bytes: &[u8]) -> Self {
        let Some((family, rest)) = bytes.split_first_chunk::<2>() else {
            return Self::Foreign;
        };
        match i32::from(u16::from_ne_bytes(*family)) {
            libc::AF_UNSPEC => Self::Unspecified,
            libc::AF_UNIX if is_system_resolver(rest) => Self::SystemResolver,
            libc::AF_INET if bytes.len() >= V4_BYTES => parse_v4(rest),
            libc::AF_INET6 if bytes.len() >= V6_BYTES_SHORT => parse_v6(rest),
            _ => Self::Foreign,
        }
    }
}

/// Where glibc's module nss-resolve finds systemd-resolved.
const SYSTEM_RESOLVER: &[u8] = b"/run/systemd/resolve/io.systemd.Resolve";

fn is_system_resolver(path: &[u8]) -> bool {
    path.split(|byte| *byte == 0).next() == Some(SYSTEM_RESOLVER)
}

fn array<const N: usize>(bytes: &[u8], at: usize) -> Option<[u8; N]> {
    bytes.get(at..)?.first_chunk::<N>().copied()
}

fn parse_v4(rest: &[u8]) -> Passed {
    let (Some(port), Some(ip)) = (array(rest, 0), array::<4>(rest, 2)) else {
        return Passed::Foreign;
    };
    let address = SocketAddrV4::new(Ipv4Addr::from(ip), u16::from_be_bytes(port));
    Passed::Internet(SocketAddr::V4(address))
}

fn parse_v6(rest: &[u8]) -> Passed {
    let (Some(port), Some(flow), Some(ip)) = (array(rest, 0), array(rest, 2), array::<16>(rest, 6))
    else {
        return Passed::Foreign;
    };
    let scope = array(rest, 22).map_or(0, u32::from_ne_bytes);
    let ip = Ipv6Addr::from(ip);
    // The flow label stays as the bytes lie in memory: it only goes back to the same program.
    let flow = u32::from_ne_bytes(flow);
    let address = SocketAddrV6::new(ip, u16::from_be_bytes(port), flow, scope);
    Passed::Internet(SocketAddr::V6(address))
}

/// An address as bytes of a `sockaddr`.
pub(crate) fn encode(address: SocketAddr) -> Vec<u8> {
    let family = |family: i32| u16::try_from(family).unwrap_or(0).to_ne_bytes();
    match address {
        SocketAddr::V4(v4) => {
            let mut bytes = Vec::with_capacity(V4_BYTES);
            bytes.extend(family(libc::AF_INET));
            bytes.extend(v4.port().to_be_bytes());
            bytes.extend(v4.ip().octets());
            bytes.resize(V4_BYTES, 0);
            bytes
        }
        SocketAddr::V6(v6) => {
            let mut bytes = Vec::with_capacity(V6_BYTES);
            bytes.extend(family(libc::AF_INET6));
            bytes.extend(v6.port().to_be_bytes());
            bytes.extend(v6.flowinfo().to_ne_bytes());
            bytes.extend(v6.ip().octets());
            bytes.extend(v6.scope_id().to_ne_bytes());
            bytes
        }
    }
}

/// The address as a socket of this family would show it. `None` when it cannot.
pub(crate) fn in_family(address: SocketAddr, family: Family) -> Option<SocketAddr> {
    match (family, address) {
        (Family::V4, SocketAddr::V4(_)) | (Family::V6, SocketAddr::V6(_)) => Some(address),
        (Family::V6, SocketAddr::V4(v4)) => {
            Some(SocketAddr::new(IpAddr::V6(v4.ip().to_ipv6_mapped()), v4.port()))
        }
        (Family::V4, SocketAddr::V6(v6)) => {
            let ip = v6.ip().to_ipv4_mapped()?;
            Some(SocketAddr::new(IpAddr::V4(ip), v6.port()))
        }
    }
}

/// The address that is meant: a v4-mapped one is IPv4.
pub(crate) fn canonical(address: SocketAddr) -> SocketAddr {
    SocketAddr::new(address.ip().to_canonical(), address.port())
}

/// All zeros, of this family.
pub(crate) fn unspecified(family: Family, port: u16) -> SocketAddr {
    match family {
        Family::V4 => SocketAddr::new(IpAddr::V4(Ipv4Addr::UNSPECIFIED), port),
        Family::V6 => SocketAddr::new(IpAddr::V6(Ipv6Addr::UNSPECIFIED), port),
    }
}

/// Where an address leads without asking the routing table. `None`: ask it.
pub(crate) fn is_guests_own(address: IpAddr) -> Option<bool> {
    match address.to_canonical() {
        // Connecting to the unspecified address is connecting to oneself. Multicast and broadcast
        // are refused by the guest's own TCP, in its own words.
        IpAddr::V4(v4) if v4.is_unspecified() || v4.is_loopback() => Some(true),
        IpAddr::V4(v4) if v4.is_multicast() || v4.is_broadcast() => Some(true),
        IpAddr::V6(v6) if v6.is_unspecified() || v6.is_loopback() => Some(true),
        // A link-local address means something only on the guest's own links.
        IpAddr::V6(v6) if v6.is_multicast() || v6.is_unicast_link_local() => Some(true),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(bytes: &[u8]) -> Passed {
        Passed::parse(bytes)
    }

    #[test]
    fn what_is_encoded_parses_back() {
        for text in ["192.0.2.1:80", "[2001:db8::1]:443", "[::ffff:192.0.2.1]:1", "0.0.0.0:0"] {
            let address: SocketAddr = text.parse().unwrap();
            assert_eq!(parse(&encode(address)), Passed::Internet(address), "{text}");
        }
        let scoped = SocketAddrV6::new("fe80::1".parse().unwrap(), 7, 9, 3);
        assert_eq!(parse(&encode(scoped.into())), Passed::Internet(scoped.into()));
    }

    #[test]
    fn lengths_are_the_kernels() {
        let v4 = encode("192.0.2.1:80".parse().unwrap());
        let v6 = encode("[2001:db8::1]:443".parse().unwrap());
        assert_eq!((v4.len(), v6.len()), (16, 28));
        assert_eq!(parse(&v4[..15]), Passed::Foreign);
        assert_eq!(parse(&v6[..23]), Passed::Foreign);
        assert!(matches!(parse(&v6[..24]), Passed::Internet(_)));
        assert_eq!(parse(&[]), Passed::Foreign);
        assert_eq!(parse(&[0]), Passed::Foreign);
        assert_eq!(parse(&[0, 0]), Passed::Unspecified);
        assert_eq!(parse(&[1, 0, b'/', 0]), Passed::Foreign);
        let path = [&[1, 0], SYSTEM_RESOLVER, b"\0rest"].concat();
        assert_eq!(parse(&path), Passed::SystemResolver);
        let mut long = v4.clone();
        long.resize(128, 0xff);
        assert!(matches!(parse(&long), Passed::Internet(SocketAddr::V4(_))));
    }

    #[test]
    fn families_show_each_other_where_they_can() {
        let v4: SocketAddr = "192.0.2.1:80".parse().unwrap();
        let mapped: SocketAddr = "[::ffff:192.0.2.1]:80".parse().unwrap();
        let v6: SocketAddr = "[2001:db8::1]:80".parse().unwrap();
        assert_eq!(in_family(v4, Family::V6), Some(mapped));
        assert_eq!(in_family(mapped, Family::V4), Some(v4));
        assert_eq!(in_family(v6, Family::V4), None);
        assert_eq!(canonical(mapped), v4);
        assert_eq!(canonical(v6), v6);
    }

    #[test]
    fn own_addresses_in_every_spelling() {
        for own in ["127.0.0.1", "127.255.0.9", "0.0.0.0", "::1", "::", "::ffff:127.0.0.1"] {
            assert_eq!(is_guests_own(own.parse().unwrap()), Some(true), "{own}");
        }
        for ask in ["10.0.2.15", "192.0.2.1", "2001:db8::1", "::ffff:192.0.2.1", "169.254.1.1"] {
            assert_eq!(is_guests_own(ask.parse().unwrap()), None, "{ask}");
        }
    }
}
