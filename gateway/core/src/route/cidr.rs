//! Cidr: a network, written as ADDRESS/BITS.
//!
//! in: text of a configuration; out: a value that says whether an address lies in it. Plain data.
//! Kept: no bits are set behind the prefix; IPv4 and IPv6 never match each other.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

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

pub(super) fn bits(ip: IpAddr) -> (u128, u8) {
    match ip {
        IpAddr::V4(v4) => (u128::from(u32::from(v4)) << 96, 32),
        IpAddr::V6(v6) => (u128::from(v6), 128),
    }
}

pub(super) fn mask(prefix: u8) -> u128 {
    u128::MAX.checked_shl(u32::from(128 - prefix)).unwrap_or(0)
}

impl Cidr {
    pub(super) const fn v4(a: u8, b: u8, c: u8, d: u8, prefix: u8) -> Self {
        Self { base: IpAddr::V4(Ipv4Addr::new(a, b, c, d)), prefix }
    }

    pub(super) const fn v6(segments: [u16; 8], prefix: u8) -> Self {
        let [a, b, c, d, e, f, g, h] = segments;
        Self { base: IpAddr::V6(Ipv6Addr::new(a, b, c, d, e, f, g, h)), prefix }
    }

    /// The network of this one address.
    pub fn host(ip: IpAddr) -> Self {
        Self { base: ip, prefix: bits(ip).1 }
    }

    /// Its lowest address.
    pub fn base(&self) -> IpAddr {
        self.base
    }

    /// How many leading bits count.
    pub fn prefix(&self) -> u8 {
        self.prefix
    }

    /// Whether the address lies in this network. The families never mix: see
    /// [`canonical`](super::canonical).
    pub fn contains(&self, ip: IpAddr) -> bool {
        let ((base, width), (ip, ip_width)) = (bits(self.base), bits(ip));
        width == ip_width && (base ^ ip) & mask(self.prefix) == 0
    }

    /// IPv4 written as IPv6 (`::ffff:10.0.0.0/104`) is IPv4, as in destinations.
    fn canonical(self) -> Self {
        match (self.base.to_canonical(), self.prefix.checked_sub(96)) {
            (IpAddr::V4(v4), Some(prefix)) if self.base.is_ipv6() => {
                Self { base: IpAddr::V4(v4), prefix }
            }
            _ => self,
        }
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
            Ok(cidr.canonical())
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
