//! Peers: who this gateway is to other gateways, who they are, and what each may use.
//!
//! in: `[identity]`, `[quic]` and the `[[peer]]` tables; out: checked values. Kept: a peer's key and
//! name are its alone; a peer may use nothing that is not written down; what it may dial from here is a
//! list of rules like a guest's, checked by the same code. Bound: [`limits::PEERS_MAX`].

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use outsock_core::route::{Condition, Glob, RouteTable, WayId};
use outsock_peer::PeerKey;
use outsock_transport_quic::{Congestion, PeerSettings, Settings};
use outsock_vmrpc::Errno;
use toml::Spanned;

use super::error::{ConfigError, Place};
use super::raw;
use super::routes::{self, RouteDetail};
use super::transports::{TransportConfig, TransportSettings};
use crate::limits;

/// What every gateway calls itself, so no peer is called so.
const LOCAL: &str = "local";

/// This gateway among others.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct IdentityConfig {
    pub(crate) key_file: PathBuf,
    /// What this site's services are called by: `SERVICE.<site>.peer`.
    pub(crate) site: Option<String>,
}

/// One peer.
#[derive(Clone, Debug)]
pub(crate) struct PeerConfig {
    pub(crate) settings: PeerSettings,
    /// Services that it may use; none when empty.
    pub(crate) services: Condition<Glob>,
    /// What it may dial from here.
    pub(crate) exit: RouteTable,
    pub(crate) exit_details: Vec<RouteDetail>,
}

impl PeerConfig {
    pub(crate) fn name(&self) -> &str {
        &self.settings.name
    }

    /// Whether it may use a service.
    pub(crate) fn may_use(&self, service: &str) -> bool {
        !self.services.any.is_empty() && self.services.accepts(|glob| glob.matches(service))
    }
}

pub(super) fn identity(
    raw: Option<&raw::Identity>,
    place: Place<'_>,
) -> Result<Option<IdentityConfig>, ConfigError> {
    let Some(raw) = raw else { return Ok(None) };
    let site = raw.name.as_ref().map(|name| label(name, place)).transpose()?;
    Ok(Some(IdentityConfig { key_file: raw.key_file.clone(), site }))
}

/// A name that is one part of a domain name.
fn label(name: &Spanned<String>, place: Place<'_>) -> Result<String, ConfigError> {
    let text = name.get_ref();
    let plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
    if text.is_empty() || text.len() > 63 || !text.chars().all(plain) || text.starts_with('-') {
        let message =
            "a site's or peer's name is a part of a domain name: 1 to 63 of a-z, 0-9 and '-'";
        return Err(place.at(name.span(), message));
    }
    if text == LOCAL {
        return Err(
            place.at(name.span(), "every gateway calls itself \"local\": take another name")
        );
    }
    Ok(text.clone())
}

pub(super) fn quic(raw: &raw::Quic, place: Place<'_>) -> Result<Settings, ConfigError> {
    let dead_after = *raw.dead_after_ms.get_ref();
    if dead_after < limits::DEAD_AFTER_MS_MIN {
        let message = format!("at least {} ms", limits::DEAD_AFTER_MS_MIN);
        return Err(place.at(raw.dead_after_ms.span(), &message));
    }
    let mtu_max = *raw.mtu_max_bytes.get_ref();
    if mtu_max < limits::MTU_BYTES_MIN {
        let message = format!("QUIC needs {} bytes", limits::MTU_BYTES_MIN);
        return Err(place.at(raw.mtu_max_bytes.span(), &message));
    }
    let window = *raw.stream_window_bytes.get_ref();
    if window < limits::STREAM_WINDOW_BYTES_MIN {
        let message = format!("at least {} bytes", limits::STREAM_WINDOW_BYTES_MIN);
        return Err(place.at(raw.stream_window_bytes.span(), &message));
    }
    let any = std::net::SocketAddr::from(([0, 0, 0, 0], 0));
    Ok(Settings {
        listen: raw.listen.as_ref().map_or(any, |listen| listen.0),
        stream_window: window,
        connection_window: raw.connection_window_bytes,
        memory_max: raw.memory_max_bytes,
        streams_max: raw.streams_max,
        dead_after: Duration::from_millis(dead_after),
        socket_buffer: raw.socket_buffer_bytes,
        offload: raw.offload,
        mtu_max,
        ack_frequency: raw.ack_frequency,
        congestion: raw.congestion.into(),
    })
}

impl From<raw::Congestion> for Congestion {
    fn from(raw: raw::Congestion) -> Self {
        match raw {
            raw::Congestion::Cubic => Self::Cubic,
            raw::Congestion::Bbr => Self::Bbr,
            raw::Congestion::NewReno => Self::NewReno,
        }
    }
}

/// Adds what every gateway has, "local", and a transport for each peer.
pub(super) fn transports(
    transports: &mut Vec<TransportConfig>,
    raw: &[raw::Peer],
    place: Place<'_>,
) -> Result<(), ConfigError> {
    if !transports.iter().any(|transport| transport.name == LOCAL) {
        transports.push(TransportConfig {
            name: LOCAL.to_owned(),
            over: None,
            settings: TransportSettings::Local,
        });
    }
    if let Some(extra) = raw.get(limits::PEERS_MAX) {
        return Err(place.at(extra.name.span(), "too many peers"));
    }
    for peer in raw {
        let name = label(&peer.name, place)?;
        if transports.iter().any(|transport| transport.name == name) {
            let message = "another peer or a transport has the same name";
            return Err(place.at(peer.name.span(), message));
        }
        transports.push(TransportConfig { name, over: None, settings: TransportSettings::Peer });
    }
    Ok(())
}

/// What the rest of the configuration has to do with peers.
#[derive(Debug)]
pub(super) struct Around<'a> {
    pub(super) identity: Option<&'a IdentityConfig>,
    /// Whether peers can dial this gateway.
    pub(super) listens: bool,
    pub(super) ways: &'a HashMap<&'a str, WayId>,
    /// The gateway's own socket files.
    pub(super) own: &'a [&'a Path],
}

pub(super) fn check(
    raw: &[raw::Peer],
    around: &Around<'_>,
    place: Place<'_>,
) -> Result<Vec<PeerConfig>, ConfigError> {
    let mut peers: Vec<PeerConfig> = Vec::new();
    for peer in raw {
        let Some(identity) = around.identity else {
            let message = "a gateway with peers needs an identity: outsock-gateway keygen FILE, then \
                           [identity] key_file = \"FILE\"";
            return Err(place.at(peer.name.span(), message));
        };
        let key: PeerKey = peer.key.get_ref().0;
        if let Some(other) = peers.iter().find(|other| other.settings.key == key) {
            let message = format!("peer {:?} has the same key", other.name());
            return Err(place.at(peer.key.span(), &message));
        }
        if identity.site.as_deref() == Some(peer.name.get_ref()) {
            return Err(place.at(peer.name.span(), "this site itself has this name"));
        }
        if peer.addresses.is_empty() && !around.listens {
            let message = "neither can dial the other: give the peer addresses, or this gateway \
                           [quic] listen";
            return Err(place.at(peer.name.span(), message));
        }
        peers.push(one(peer, key, around, place)?);
    }
    Ok(peers)
}

fn one(
    peer: &raw::Peer,
    key: PeerKey,
    around: &Around<'_>,
    place: Place<'_>,
) -> Result<PeerConfig, ConfigError> {
    let mut addresses = Vec::new();
    for address in &peer.addresses {
        let text = address.get_ref();
        let port = text.rsplit_once(':').and_then(|(_, port)| port.parse::<u16>().ok());
        if port.is_none_or(|port| port == 0) {
            let message = format!("{text:?} is no address: write HOST:PORT, the peer's UDP port");
            return Err(place.at(address.span(), &message));
        }
        addresses.push(text.clone());
    }
    let connections = *peer.connections.get_ref();
    if !(1..=limits::PEER_CONNECTIONS_MAX).contains(&connections) {
        let message = format!("1 to {}", limits::PEER_CONNECTIONS_MAX);
        return Err(place.at(peer.connections.span(), &message));
    }
    for rule in &peer.exit {
        let route = rule.get_ref();
        if !route.guests.is_empty() || !route.programs.is_empty() || !route.users.is_empty() {
            let message = "an exit is the whole peer's: it has no guests, programs or users";
            return Err(place.at(rule.span(), message));
        }
        if route.encrypt.is_some() || route.tls.is_some() {
            let message = "an exit does not encrypt: let the peer's own route do it";
            return Err(place.at(rule.span(), message));
        }
    }
    let (rules, exit_details) = routes::check(&peer.exit, around.ways, around.own, place)?;
    Ok(PeerConfig {
        settings: PeerSettings {
            name: peer.name.get_ref().as_str().into(),
            key,
            addresses,
            congestion: peer.congestion.into(),
            connections,
        },
        services: peer.services.iter().map(|entry| entry.0.clone()).collect(),
        exit: RouteTable::new(rules, Errno::EACCES),
        exit_details,
    })
}
