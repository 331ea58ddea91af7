//! Publishes: which listeners of guests others can reach, and where.
//!
//! in: the `[[publish]]` tables; out: checked [`Publish`]es. Kept: no two of them want the same fixed
//! place by the same transport; nothing else of a guest is reachable. Bound:
//! [`limits::PUBLISHES_MAX`].

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};

use outsock_core::route::{Condition, GuestPattern, PortRange, Protocol, canonical_name};
use outsock_transport::Destination;
use toml::Spanned;

use super::error::{ConfigError, Place};
use super::guests::Guest;
use super::raw;
use super::text::unix_path;
use super::tls::{self, TlsServerConfig};
use super::transports::{TransportConfig, TransportSettings};
use super::ways::list;
use crate::limits;

/// One rule.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Publish {
    pub(crate) name: String,
    pub(crate) guests: Condition<GuestPattern>,
    /// Ports that programs in the guest listen on.
    pub(crate) ports: Condition<PortRange>,
    /// TCP or UDP.
    pub(crate) protocol: Protocol,
    /// The place of the transport.
    pub(crate) via: usize,
    pub(crate) at: PublishAt,
    /// Also those that listen on the guest's loopback only.
    pub(crate) loopback: bool,
    /// Whoever connects must speak TLS, which ends here: the program hears plain text.
    pub(crate) tls: Option<TlsServerConfig>,
}

impl Publish {
    /// Where a listener is to be reached by this rule, if at all.
    pub(crate) fn place(&self, guest: &Guest, listener: SocketAddr) -> Option<Destination> {
        let port = listener.port();
        let is_meant = self.protocol == Protocol::Tcp
            && self.guests.accepts(|pattern| pattern.matches(&guest.name, &guest.tags))
            && self.ports.accepts(|range| range.contains(port))
            && (self.loopback || !listener.ip().to_canonical().is_loopback());
        is_meant.then(|| match &self.at {
            PublishAt::SamePort(ip) => Destination::Address(SocketAddr::new(*ip, port)),
            PublishAt::Address(address) => Destination::Address(*address),
            PublishAt::Unix(path) => Destination::Unix(path.clone()),
            PublishAt::Service(name) => Destination::Name { name: name.clone(), port: 0 },
        })
    }

    /// Whether it offers a service of this name: of streams, of datagrams, or either for an echo.
    pub(crate) fn offers(&self, service: &str, protocol: Protocol) -> bool {
        matches!(&self.at, PublishAt::Service(name) if name == service)
            && (protocol == Protocol::Icmp || protocol == self.protocol)
    }
}

impl Publish {
    /// Ports of the guest whose datagrams come in here, each with its place.
    pub(crate) fn datagram_places(&self, guest: &Guest) -> Vec<(u16, DatagramPlace)> {
        let is_meant = self.protocol == Protocol::Udp
            && self.guests.accepts(|pattern| pattern.matches(&guest.name, &guest.tags));
        if !is_meant {
            return Vec::new();
        }
        let place = |port: u16| match &self.at {
            PublishAt::SamePort(ip) => {
                Some((port, DatagramPlace::Socket(SocketAddr::new(*ip, port))))
            }
            PublishAt::Address(address) => Some((port, DatagramPlace::Socket(*address))),
            PublishAt::Service(name) => Some((port, DatagramPlace::Service(name.clone()))),
            PublishAt::Unix(_) => None,
        };
        datagram_ports(&self.ports).filter_map(place).collect()
    }
}

/// Where datagrams for a guest come in.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) enum DatagramPlace {
    /// At a socket of the host.
    Socket(SocketAddr),
    /// From guests of this gateway and from peers, by a service's name.
    Service(String),
}

impl fmt::Display for DatagramPlace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Socket(address) => write!(f, "{address}"),
            Self::Service(name) => write!(f, "service:{name}"),
        }
    }
}

/// Each port that a condition accepts.
fn datagram_ports(ports: &Condition<PortRange>) -> impl Iterator<Item = u16> {
    let mut all: Vec<u16> =
        ports.any.iter().flat_map(|range| range.first()..=range.last()).collect();
    all.sort_unstable();
    all.dedup();
    all.into_iter().filter(|port| ports.accepts(|range| range.contains(*port)))
}

/// Where to listen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum PublishAt {
    /// On this address, on the port that the program has in the guest.
    SamePort(IpAddr),
    /// On this address and port; port 0 is any free one.
    Address(SocketAddr),
    /// On a Unix socket.
    Unix(PathBuf),
    /// Nowhere on the host: guests of this gateway and peers reach it by this service's name.
    Service(String),
}

impl PublishAt {
    /// Whether only one listener can be reached there.
    fn is_fixed(&self) -> bool {
        match self {
            Self::SamePort(_) => false,
            Self::Address(address) => address.port() != 0,
            Self::Unix(_) | Self::Service(_) => true,
        }
    }
}

impl std::str::FromStr for PublishAt {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if let Some(path) = unix_path(text)? {
            return Ok(Self::Unix(path));
        }
        if let Some(name) = text.strip_prefix("service:") {
            return match canonical_name(name).filter(|plain| plain == name) {
                Some(name) => Ok(Self::Service(name)),
                None => Err(format!("{name:?} is no name for a service: write it as db or my-web")),
            };
        }
        if let Ok(address) = text.parse() {
            return Ok(Self::Address(address));
        }
        let ip = text.strip_prefix('[').and_then(|text| text.strip_suffix(']')).unwrap_or(text);
        ip.parse().map(Self::SamePort).map_err(|_| {
            format!(
                "{text:?} is no place to listen: write ADDRESS (the guest's port), ADDRESS:PORT, \
                 [ADDRESS]:PORT, unix:PATH or service:NAME"
            )
        })
    }
}

/// `own` are the gateway's own socket files.
pub(super) fn check(
    raw: &[Spanned<raw::Publish>],
    transports: &[TransportConfig],
    own: &[&Path],
    place: Place<'_>,
) -> Result<Vec<Publish>, ConfigError> {
    if let Some(extra) = raw.get(limits::PUBLISHES_MAX) {
        return Err(place.at(extra.span(), "too many publishes"));
    }
    let mut publishes: Vec<Publish> = Vec::new();
    for (number, spanned) in raw.iter().enumerate() {
        let publish = one(number, spanned, transports, own, place)?;
        let is_taken = |other: &&Publish| {
            publish.at.is_fixed()
                && other.protocol == publish.protocol
                && other.via == publish.via
                && other.at == publish.at
        };
        if let Some(other) = publishes.iter().find(is_taken) {
            let message = format!("{:?} listens there already", other.name);
            return Err(place.at(spanned.get_ref().listen.span(), &message));
        }
        publishes.push(publish);
    }
    Ok(publishes)
}

fn one(
    number: usize,
    spanned: &Spanned<raw::Publish>,
    transports: &[TransportConfig],
    own: &[&Path],
    place: Place<'_>,
) -> Result<Publish, ConfigError> {
    let publish = spanned.get_ref();
    let is_service = matches!(publish.listen.get_ref().0, PublishAt::Service(_));
    let local = "local".to_owned();
    // A service is nobody's socket: its transport is not asked for.
    let via = if is_service { &local } else { publish.via.get_ref() };
    let Some(via) = transports.iter().position(|transport| transport.name == *via) else {
        let message = format!(
            "there is no transport named {via:?}; there are: {}",
            list(transports.iter().map(|transport| transport.name.as_str()))
        );
        return Err(place.at(publish.via.span(), &message));
    };
    let ports: Condition<PortRange> =
        publish.ports.get_ref().iter().map(|entry| entry.0.clone()).collect();
    if ports.any.is_empty() {
        let message = "which ports do programs in the guest listen on? ports = [PORT, ...]";
        return Err(place.at(publish.ports.span(), message));
    }
    let is_one = matches!(ports.any[..], [range] if range.first() == range.last());
    let at = publish.listen.get_ref().0.clone();
    if at.is_fixed() && !is_one {
        let message = "one place is for one port of the guest: leave the port away to listen on \
                       the guest's own, or write a publish for each";
        return Err(place.at(publish.listen.span(), message));
    }
    if matches!(&at, PublishAt::Unix(path) if own.contains(&path.as_path())) {
        return Err(place.at(publish.listen.span(), "this is the gateway's own socket"));
    }
    let is_socket = matches!(at, PublishAt::SamePort(_) | PublishAt::Address(_));
    let is_direct =
        transports.get(via).map(|via| &via.settings) == Some(&TransportSettings::Direct);
    let takes_datagrams = is_service || (is_socket && is_direct);
    let protocol = protocol(publish, &ports, takes_datagrams, place)?;
    Ok(Publish {
        protocol,
        name: publish.name.clone().unwrap_or_else(|| format!("publish {}", number + 1)),
        guests: publish.guests.iter().map(|entry| entry.0.clone()).collect(),
        ports,
        via,
        at,
        loopback: publish.loopback,
        tls: tls::check_publish(publish, protocol, place)?,
    })
}

/// `takes_datagrams`: it listens on the host's own sockets, or is a service.
fn protocol(
    publish: &raw::Publish,
    ports: &Condition<PortRange>,
    takes_datagrams: bool,
    place: Place<'_>,
) -> Result<Protocol, ConfigError> {
    let Some(said) = &publish.protocol else { return Ok(Protocol::Tcp) };
    let max = limits::PUBLISHED_PORTS_MAX;
    let message = match said.get_ref().0 {
        Protocol::Tcp => return Ok(Protocol::Tcp),
        Protocol::Icmp => "ports are of tcp or udp".to_owned(),
        Protocol::Udp if !takes_datagrams => {
            "datagrams come in at addresses of this host (via = \"direct\") or for a service: \
             listen = \"service:NAME\""
                .to_owned()
        }
        Protocol::Udp if datagram_ports(ports).nth(max).is_some() => {
            format!("each port of udp is a socket from the start: at most {max} of them")
        }
        Protocol::Udp => return Ok(Protocol::Udp),
    };
    Err(place.at(said.span(), &message))
}
