//! Protect: addresses that belong to the host or its neighbourhood, in every spelling.
//!
//! in: an address; out: the protected range that holds it, if any. Decimal or octal spellings never
//! get here: an address is 4 or 16 bytes, or text that only `std` parses. The host's own addresses
//! are not known here: whoever asks says so ([`Query::own`](super::Query::own)).

use std::net::{IpAddr, Ipv4Addr};

use super::cidr::Cidr;

/// The address that a destination really means: IPv4 written as IPv6 (`::ffff:a.b.c.d`) is IPv4.
pub fn canonical(ip: IpAddr) -> IpAddr {
    ip.to_canonical()
}

/// Ranges that belong to the host or its neighbourhood.
const PROTECTED: [Cidr; 17] = [
    Cidr::v4(0, 0, 0, 0, 8),
    Cidr::v4(127, 0, 0, 0, 8),
    Cidr::v4(169, 254, 0, 0, 16),
    // Metadata and wire services of clouds, outside 169.254.0.0/16.
    Cidr::v4(100, 100, 100, 200, 32),
    Cidr::v4(168, 63, 129, 16, 32),
    Cidr::v4(192, 0, 0, 192, 32),
    Cidr::v4(224, 0, 0, 0, 4),
    Cidr::v4(255, 255, 255, 255, 32),
    Cidr::v6([0; 8], 128),
    Cidr::v6([0, 0, 0, 0, 0, 0, 0, 1], 128),
    // Link-local, and site-local (deprecated, RFC 3879).
    Cidr::v6([0xfe80, 0, 0, 0, 0, 0, 0, 0], 9),
    // Metadata, DNS and time services of clouds.
    Cidr::v6([0xfd00, 0xec2, 0, 0, 0, 0, 0, 0], 32),
    Cidr::v6([0xfd20, 0xce, 0, 0, 0, 0, 0, 0x254], 128),
    Cidr::v6([0xff00, 0, 0, 0, 0, 0, 0, 0], 8),
    // IPv4-compatible addresses (RFC 4291, 2.5.5.1), deprecated: no honest use.
    Cidr::v6([0; 8], 96),
    // IPv4-mapped where it was not canonical, and IPv4-translated (RFC 2765).
    Cidr::v6([0, 0, 0, 0, 0, 0xffff, 0, 0], 96),
    Cidr::v6([0, 0, 0, 0, 0xffff, 0, 0, 0], 96),
];

/// The protected range that holds the address, also where the address only carries one inside
/// ([`embedded`]); then the range is that one address.
pub fn protected_range(ip: IpAddr) -> Option<Cidr> {
    let listed = |ip| PROTECTED.into_iter().find(|range| range.contains(ip));
    listed(ip).or_else(|| {
        let inside = embedded(ip).into_iter().flatten();
        inside.map(IpAddr::V4).any(|v4| listed(v4).is_some()).then(|| Cidr::host(ip))
    })
}

/// The IPv4 addresses that an IPv6 address carries, by which some router may send its packets on:
/// NAT64 (`64:ff9b::/96`, RFC 6052; `64:ff9b:1::/48`, RFC 8215, in its /96 form), 6to4
/// (`2002::/16`, RFC 3056), Teredo (`2001::/32`, RFC 4380: server and client) and ISATAP
/// (interface id `[02]00:5efe`, RFC 5214).
pub fn embedded(ip: IpAddr) -> [Option<Ipv4Addr>; 2] {
    let IpAddr::V6(v6) = ip else { return [None, None] };
    let [a, b, c, d, e, f, g, h] = v6.segments();
    let inner = |high: u16, low: u16| Some(Ipv4Addr::from(u32::from(high) << 16 | u32::from(low)));
    match (a, b) {
        (0x64, 0xff9b) if [c, d, e, f] == [0; 4] || c == 1 => [inner(g, h), None],
        (0x2002, _) => [inner(b, c), None],
        (0x2001, 0) => [inner(c, d), inner(!g, !h)],
        _ if matches!(e, 0 | 0x200) && f == 0x5efe => [inner(g, h), None],
        _ => [None, None],
    }
}
