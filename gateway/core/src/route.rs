//! Routes: which way a connection takes, or why it is refused.
//!
//! in: a destination address; out: a [`Decision`] that names the rule. Pure data, no names of
//! transports: the daemon gives them numbers. First match wins; no match is the default. Keeps: an
//! address of the host itself, or of its neighbourhood (loopback, link-local, metadata services,
//! multicast, in every spelling), is reached only by a rule that names such a range itself, never
//! by one that merely covers it, such as `0.0.0.0/0`. Bound: [`crate::limits::ROUTES_MAX`].

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::str::FromStr;

use outsock_vmrpc::Errno;

/// A network: an address and how many of its leading bits count.
///
/// ```
/// use outsock_core::route::Cidr;
/// let net: Cidr = "10.1.0.0/16".parse().unwrap();
/// assert!(net.contains("10.1.2.3".parse().unwrap()));
/// assert!("10.1.2.3/16".parse::<Cidr>().is_err(), "bits behind the prefix are a mistake");
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cidr {
    base: IpAddr,
    prefix: u8,
}

/// Why a text is no network.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadCidr {
    /// Not `ADDRESS` or `ADDRESS/BITS`.
    #[error("{0:?} is not a network: write ADDRESS/BITS, such as 10.0.0.0/8 or 2001:db8::/32")]
    Syntax(String),
    /// Bits are set behind the prefix.
    #[error("{text:?} has address bits behind its prefix: did you mean {meant}?")]
    HostBits {
        /// As written.
        text: String,
        /// The network it lies in.
        meant: Cidr,
    },
}

fn bits(ip: IpAddr) -> (u128, u8) {
    match ip {
        IpAddr::V4(v4) => (u128::from(u32::from(v4)) << 96, 32),
        IpAddr::V6(v6) => (u128::from(v6), 128),
    }
}

fn mask(prefix: u8) -> u128 {
    u128::MAX.checked_shl(u32::from(128 - prefix)).unwrap_or(0)
}

impl Cidr {
    const fn v4(a: u8, b: u8, c: u8, d: u8, prefix: u8) -> Self {
        Self { base: IpAddr::V4(Ipv4Addr::new(a, b, c, d)), prefix }
    }

    const fn v6(segments: [u16; 8], prefix: u8) -> Self {
        let [a, b, c, d, e, f, g, h] = segments;
        Self { base: IpAddr::V6(Ipv6Addr::new(a, b, c, d, e, f, g, h)), prefix }
    }

    /// Whether the address lies in this network. The families never mix: see [`canonical`].
    pub fn contains(&self, ip: IpAddr) -> bool {
        let ((base, width), (ip, ip_width)) = (bits(self.base), bits(ip));
        width == ip_width && (base ^ ip) & mask(self.prefix) == 0
    }

    /// Whether the whole of `other` lies in this network.
    pub fn covers(&self, other: &Self) -> bool {
        other.prefix >= self.prefix && self.contains(other.base)
    }
}

impl FromStr for Cidr {
    type Err = BadCidr;

    fn from_str(text: &str) -> Result<Self, BadCidr> {
        let syntax = || BadCidr::Syntax(text.to_owned());
        let (address, prefix) = match text.split_once('/') {
            Some((address, prefix)) => (address, Some(prefix)),
            None => (text, None),
        };
        let ip: IpAddr = address.parse().map_err(|_| syntax())?;
        let (value, width) = bits(ip);
        let prefix = match prefix {
            Some(prefix) => prefix.parse::<u8>().map_err(|_| syntax())?,
            None => width,
        };
        if prefix > width {
            return Err(syntax());
        }
        let base = value & mask(prefix);
        let base_ip = match ip {
            IpAddr::V4(_) => {
                IpAddr::V4(Ipv4Addr::from(u32::try_from(base >> 96).unwrap_or_default()))
            }
            IpAddr::V6(_) => IpAddr::V6(Ipv6Addr::from(base)),
        };
        let cidr = Self { base: base_ip, prefix };
        if base_ip == ip {
            Ok(cidr)
        } else {
            Err(BadCidr::HostBits { text: text.to_owned(), meant: cidr })
        }
    }
}

impl fmt::Display for Cidr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.base, self.prefix)
    }
}

/// Ports from first to last, both included.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PortRange {
    first: u16,
    last: u16,
}

/// Why a text is no port range.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not a port or a range of ports: write 443 or 8000-8999")]
pub struct BadPortRange(String);

impl PortRange {
    /// Whether the port lies in the range.
    pub fn contains(&self, port: u16) -> bool {
        (self.first..=self.last).contains(&port)
    }
}

impl FromStr for PortRange {
    type Err = BadPortRange;

    fn from_str(text: &str) -> Result<Self, BadPortRange> {
        let bad = || BadPortRange(text.to_owned());
        let (first, last) = text.split_once('-').unwrap_or((text, text));
        let port = |part: &str| part.trim().parse::<u16>().map_err(|_| bad());
        let (first, last) = (port(first)?, port(last)?);
        if first > last { Err(bad()) } else { Ok(Self { first, last }) }
    }
}

/// The number that the daemon gave a transport.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct TransportId(pub u16);

/// What a rule does with what it matches.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RuleAction {
    /// Dial by this transport.
    Via(TransportId),
    /// Refuse with this errno.
    Refuse(Errno),
}

/// One rule. Empty lists match everything.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rule {
    /// The destination lies in one of these.
    pub to: Vec<Cidr>,
    /// Its port lies in one of these.
    pub ports: Vec<PortRange>,
    /// What then.
    pub action: RuleAction,
}

/// What became of a destination.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Decision {
    /// The rule that decided, by its place; `None` = the default.
    pub rule: Option<usize>,
    /// What it said.
    pub action: RuleAction,
}

/// The ordered rules and the default.
#[derive(Clone, Debug)]
pub struct RouteTable {
    rules: Vec<Rule>,
    default: Errno,
}

impl RouteTable {
    /// A table; what no rule matches is refused with `default`.
    pub fn new(rules: Vec<Rule>, default: Errno) -> Self {
        Self { rules, default }
    }

    /// Decides about a destination.
    pub fn decide(&self, destination: SocketAddr) -> Decision {
        let ip = canonical(destination.ip());
        let protected = protected_range(ip);
        for (place, rule) in self.rules.iter().enumerate() {
            if rule.matches(ip, protected, destination.port()) {
                return Decision { rule: Some(place), action: rule.action };
            }
        }
        Decision { rule: None, action: RuleAction::Refuse(self.default) }
    }
}

impl Rule {
    fn matches(&self, ip: IpAddr, protected: Option<Cidr>, port: u16) -> bool {
        let ports = self.ports.is_empty() || self.ports.iter().any(|range| range.contains(port));
        // A refusal needs no care; only what opens the host must say so itself.
        let opens = matches!(self.action, RuleAction::Via(_));
        let to = match protected {
            Some(range) if opens => self.to.iter().any(|net| net.contains(ip) && range.covers(net)),
            _ => self.to.is_empty() || self.to.iter().any(|net| net.contains(ip)),
        };
        ports && to
    }
}

/// The address that a destination really means: IPv4 written as IPv6 (`::ffff:a.b.c.d`) is IPv4.
pub fn canonical(ip: IpAddr) -> IpAddr {
    ip.to_canonical()
}

/// Ranges that belong to the host or its neighbourhood.
const PROTECTED: [Cidr; 13] = [
    Cidr::v4(0, 0, 0, 0, 8),
    Cidr::v4(127, 0, 0, 0, 8),
    Cidr::v4(169, 254, 0, 0, 16),
    // A cloud's metadata service.
    Cidr::v4(100, 100, 100, 200, 32),
    Cidr::v4(224, 0, 0, 0, 4),
    Cidr::v4(255, 255, 255, 255, 32),
    Cidr::v6([0; 8], 128),
    Cidr::v6([0, 0, 0, 0, 0, 0, 0, 1], 128),
    Cidr::v6([0xfe80, 0, 0, 0, 0, 0, 0, 0], 10),
    // A cloud's metadata service.
    Cidr::v6([0xfd00, 0xec2, 0, 0, 0, 0, 0, 0x254], 128),
    Cidr::v6([0xff00, 0, 0, 0, 0, 0, 0, 0], 8),
    // IPv4-compatible addresses (RFC 4291, 2.5.5.1), deprecated: no honest use.
    Cidr::v6([0; 8], 96),
    // ISATAP-like and mapped spellings that are not canonical.
    Cidr::v6([0, 0, 0, 0, 0xffff, 0, 0, 0], 96),
];

/// The protected range that holds the address, also where the address only carries one inside
/// (NAT64 `64:ff9b::/96`, RFC 6052; 6to4 `2002::/16`, RFC 3056).
pub fn protected_range(ip: IpAddr) -> Option<Cidr> {
    let direct = PROTECTED.into_iter().find(|range| range.contains(ip));
    if direct.is_some() {
        return direct;
    }
    let IpAddr::V6(v6) = ip else { return None };
    let [a, b, c, d, e, f, g, h] = v6.segments();
    let inner =
        |high: u16, low: u16| IpAddr::V4(Ipv4Addr::from(u32::from(high) << 16 | u32::from(low)));
    let embedded = match (a, b) {
        (0x64, 0xff9b) if [c, d, e, f] == [0; 4] => inner(g, h),
        (0x2002, _) => inner(b, c),
        _ => return None,
    };
    // Reached only by a rule for exactly this address.
    PROTECTED
        .into_iter()
        .any(|range| range.contains(embedded))
        .then_some(Cidr { base: ip, prefix: 128 })
}

#[cfg(test)]
#[path = "route/tests.rs"]
mod tests;
