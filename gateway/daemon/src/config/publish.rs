//! Publishes: which listeners of guests others can reach, and where.
//!
//! in: the `[[publish]]` tables; out: checked [`Publish`]es. Kept: no two of them want the same fixed
//! place by the same transport; nothing else of a guest is reachable. Bound:
//! [`limits::PUBLISHES_MAX`].

use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};

use outsock_core::route::{Condition, GuestPattern, PortRange, canonical_name};
use outsock_transport::Destination;
use toml::Spanned;

use super::error::{ConfigError, Place};
use super::guests::Guest;
use super::raw;
use super::transports::TransportConfig;
use super::ways::list;
use crate::limits;

/// One rule.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Publish {
    pub(crate) name: String,
    pub(crate) guests: Condition<GuestPattern>,
    /// Ports that programs in the guest listen on.
    pub(crate) ports: Condition<PortRange>,
    /// The place of the transport.
    pub(crate) via: usize,
    pub(crate) at: PublishAt,
    /// Also those that listen on the guest's loopback only.
    pub(crate) loopback: bool,
}

impl Publish {
    /// Where a listener is to be reached by this rule, if at all.
    pub(crate) fn place(&self, guest: &Guest, listener: SocketAddr) -> Option<Destination> {
        let port = listener.port();
        let is_meant = self.guests.accepts(|pattern| pattern.matches(&guest.name, &guest.tags))
            && self.ports.accepts(|range| range.contains(port))
            && (self.loopback || !listener.ip().to_canonical().is_loopback());
        is_meant.then(|| match &self.at {
            PublishAt::SamePort(ip) => Destination::Address(SocketAddr::new(*ip, port)),
            PublishAt::Address(address) => Destination::Address(*address),
            PublishAt::Unix(path) => Destination::Unix(path.clone()),
            PublishAt::Service(name) => Destination::Name { name: name.clone(), port: 0 },
        })
    }

    /// Whether it offers a service of this name.
    pub(crate) fn offers(&self, service: &str) -> bool {
        matches!(&self.at, PublishAt::Service(name) if name == service)
    }
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

impl std::str::FromStr for PublishAt {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if let Some(path) = text.strip_prefix("unix:") {
            return if path.is_empty() {
                Err("unix: needs a path behind it".to_owned())
            } else {
                Ok(Self::Unix(PathBuf::from(path)))
            };
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
            let fixed = match &publish.at {
                PublishAt::SamePort(_) => false,
                PublishAt::Address(address) => address.port() != 0,
                PublishAt::Unix(_) | PublishAt::Service(_) => true,
            };
            fixed && other.via == publish.via && other.at == publish.at
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
    let fixed = match &at {
        PublishAt::SamePort(_) => false,
        PublishAt::Address(address) => address.port() != 0,
        PublishAt::Unix(_) | PublishAt::Service(_) => true,
    };
    if fixed && !is_one {
        let message = "one place is for one port of the guest: leave the port away to listen on \
                       the guest's own, or write a publish for each";
        return Err(place.at(publish.listen.span(), message));
    }
    if matches!(&at, PublishAt::Unix(path) if own.contains(&path.as_path())) {
        return Err(place.at(publish.listen.span(), "this is the gateway's own socket"));
    }
    Ok(Publish {
        name: publish.name.clone().unwrap_or_else(|| format!("publish {}", number + 1)),
        guests: publish.guests.iter().map(|entry| entry.0.clone()).collect(),
        ports,
        via,
        at,
        loopback: publish.loopback,
    })
}
