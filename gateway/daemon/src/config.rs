//! Configuration: from a TOML file to values that cannot be wrong any more.
//!
//! in: text; out: [`Config`], or a [`ConfigError`] that names file, line and key. Reading it
//! touches nothing else: no socket is bound, no name resolved. The raw form ([`raw`]) is exactly
//! what the file may say; unknown keys are errors. Bound: [`limits::CONFIG_BYTES_MAX`].

mod error;
mod guests;
mod modules;
mod overlay;
mod peers;
mod publish;
mod raw;
mod routes;
#[cfg(test)]
mod tests;
mod text;
mod tls;
mod transports;
mod vsock;
mod ways;

use std::io::Read;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use outsock_core::muxer::PlainRequest;
use outsock_core::pool::{BadPool, Pool};
use outsock_core::route::{Cidr, RouteTable};
use outsock_vmrpc::ModuleName;
use toml::Spanned;

pub(crate) use error::ConfigError;
use error::Place;
pub(crate) use guests::{Guest, GuestLimits, Resolve, VsockSockets};
pub(crate) use modules::{ModuleConfig, ModuleKind};
pub(crate) use overlay::{Fixed, OverlayConfig, Private};
use peers::Around;
pub(crate) use peers::{IdentityConfig, PeerConfig};
pub(crate) use publish::{DatagramPlace, Publish};
pub(crate) use raw::OwnTls;
pub(crate) use routes::RouteDetail;
pub(crate) use text::{HostPort, Target};
pub(crate) use tls::{Encrypt, TlsConfig, TlsServerConfig};
#[cfg(test)]
pub(crate) use transports::TransportKind;
pub(crate) use transports::{TransportConfig, TransportSettings};
use vsock::VsockRule;
pub(crate) use vsock::VsockWay;
pub(crate) use ways::GroupConfig;

use crate::limits;

/// Where the admin socket is when nothing else is said.
pub(crate) const ADMIN_SOCKET: &str = "/run/outsock/gateway.sock";

/// Where `keygen` puts the key when nothing else is said.
pub(crate) const KEY_FILE: &str = "/etc/outsock/gateway.key";

/// The synthetic IPv4 addresses: a range for benchmarks of devices (RFC 2544), so no honest host
/// has one, and the one that others use for this, too.
const POOL_V4: &str = "198.18.0.0/15";

/// The synthetic IPv6 addresses: a unique local prefix (RFC 4193) that spells "outso".
const POOL_V6: &str = "fd6f:7574:736f::/48";

/// A checked configuration.
#[derive(Debug)]
pub(crate) struct Config {
    /// The admin socket.
    pub(crate) admin_socket: PathBuf,
    /// How long a dial may take.
    pub(crate) dial_timeout: Duration,
    /// How long connections may go on after SIGTERM.
    pub(crate) drain_timeout: Duration,
    /// Names and their synthetic addresses.
    pub(crate) names: NamesConfig,
    /// Who this gateway is to its peers; `None` = it has none.
    pub(crate) identity: Option<IdentityConfig>,
    /// How it talks to them.
    pub(crate) quic: outsock_transport_quic::Settings,
    /// The network of gateways that find each other; `None` = it is in none.
    pub(crate) overlay: Option<OverlayConfig>,
    /// Other gateways.
    pub(crate) peers: Vec<PeerConfig>,
    /// The guests, in file order.
    pub(crate) guests: Vec<Guest>,
    /// Host modules, and who may use which.
    pub(crate) modules: Vec<ModuleConfig>,
    /// The transports, by number.
    pub(crate) transports: Vec<TransportConfig>,
    /// The groups; their numbers follow the transports'.
    pub(crate) groups: Vec<GroupConfig>,
    /// The rules.
    pub(crate) routes: RouteTable,
    /// What else is known of each rule, by its place.
    pub(crate) route_details: Vec<RouteDetail>,
    /// Which listeners of guests others can reach.
    pub(crate) publishes: Vec<Publish>,
    /// What guests' own AF_VSOCK programs may reach.
    vsock: Vec<VsockRule>,
}

/// Names and their synthetic addresses.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct NamesConfig {
    pub(crate) pool_v4: Cidr,
    pub(crate) pool_v6: Cidr,
    /// Where the assignments are kept.
    pub(crate) file: PathBuf,
    /// Whom to ask instead of the host's own resolvers.
    pub(crate) nameservers: Vec<SocketAddr>,
}

impl Config {
    /// Reads and checks a file.
    pub(crate) fn load(path: &Path) -> Result<Self, ConfigError> {
        let mut text = String::new();
        let file =
            std::fs::File::open(path).map_err(|error| ConfigError::unreadable(path, &error))?;
        file.take(limits::CONFIG_BYTES_MAX + 1)
            .read_to_string(&mut text)
            .map_err(|error| ConfigError::unreadable(path, &error))?;
        if text.len() as u64 > limits::CONFIG_BYTES_MAX {
            return Err(ConfigError::too_large(path));
        }
        Self::parse(&text, path)
    }

    /// Checks a text; `path` is for messages.
    pub(crate) fn parse(text: &str, path: &Path) -> Result<Self, ConfigError> {
        let place = Place { text, path };
        let raw: raw::Config = toml::from_str(text).map_err(|error| place.toml_error(&error))?;
        let gateway = raw.gateway;
        let names = names(raw.names, &gateway.admin_socket, place)?;
        let identity = peers::identity(raw.identity.as_ref(), place)?;
        let quic = peers::quic(&raw.quic, place)?;
        let overlay = overlay::check(raw.overlay.as_ref(), identity.as_ref(), place)?;
        let guests = guests::check(&raw.guest, place)?;
        let modules = modules::check(&raw.module, place)?;
        let mut transports = transports::check(&raw.transport, place)?;
        peers::transports(&mut transports, &raw.peer, place)?;
        overlay::transport(&mut transports, raw.overlay.as_ref(), place)?;
        let groups = ways::groups(&raw.group, &transports, place)?;
        let mut own: Vec<&Path> = guests.iter().map(|guest| guest.socket.as_path()).collect();
        own.extend(guests.iter().flat_map(|guest| guest.vsock.paths()));
        own.push(&gateway.admin_socket);
        let vsock = vsock::check(&raw.vsock, place)?;
        let numbers = ways::numbers(&transports, &groups);
        let peers = peers::check(
            &raw.peer,
            &Around {
                identity: identity.as_ref(),
                listens: raw.quic.listen.is_some() || overlay.is_some(),
                ways: &numbers,
                own: &own,
            },
            place,
        )?;
        let (rules, route_details) = routes::check(&raw.route, &numbers, &own, place)?;
        let publishes = publish::check(&raw.publish, &transports, &own, place)?;
        Ok(Self {
            dial_timeout: Duration::from_millis(gateway.dial_timeout_ms),
            drain_timeout: Duration::from_millis(gateway.drain_timeout_ms),
            names,
            identity,
            quic,
            overlay,
            peers,
            routes: RouteTable::new(rules, gateway.default.0),
            route_details,
            publishes,
            vsock,
            admin_socket: gateway.admin_socket,
            guests,
            modules,
            transports,
            groups,
        })
    }

    /// Whether a guest may use a host module.
    pub(crate) fn may_use(&self, guest: &str, module: &ModuleName) -> bool {
        self.guest(guest).is_some_and(|guest| modules::may_use(&self.modules, guest, module))
    }

    /// Whether a rule for programs that open AF_VSOCK sockets by themselves concerns a guest.
    pub(crate) fn has_vsock(&self, guest: &Guest) -> bool {
        self.vsock.iter().any(|rule| rule.concerns(guest))
    }

    /// Where a connection that a guest's program opens by itself goes; `None` = nowhere.
    pub(crate) fn vsock_way(&self, guest: &str, request: &PlainRequest) -> Option<VsockWay> {
        vsock::choose(&self.vsock, self.guest(guest)?, &self.guests, request)
    }

    /// A guest by name.
    pub(crate) fn guest(&self, name: &str) -> Option<&Guest> {
        self.guests.iter().find(|guest| guest.name == name)
    }

    /// How to call the rule at a place; `None` is the default.
    pub(crate) fn rule_name(&self, place: Option<usize>) -> &str {
        let detail = place.and_then(|place| self.route_details.get(place));
        detail.map_or("the default", |detail| detail.name.as_str())
    }
}

fn names(
    raw: raw::Names,
    admin_socket: &Path,
    place: Place<'_>,
) -> Result<NamesConfig, ConfigError> {
    let (v4, v6) = (raw.pool_v4.get_ref().0, raw.pool_v6.get_ref().0);
    if let Err(bad) = Pool::new(v4, v6) {
        let span = match bad {
            BadPool::V4(_) => raw.pool_v4.span(),
            BadPool::V6(..) => raw.pool_v6.span(),
        };
        return Err(place.at(span, &bad.to_string()));
    }
    Ok(NamesConfig {
        pool_v4: v4,
        pool_v6: v6,
        file: raw.file.unwrap_or_else(|| admin_socket.with_extension("names")),
        nameservers: raw.nameservers.into_iter().map(|server| server.0).collect(),
    })
}

/// The defaults of a table that is not in the file.
fn defaults<T: serde::de::DeserializeOwned>() -> T {
    toml::from_str("").unwrap_or_else(|error| unreachable!("every key has a default: {error}"))
}

/// A default that is a text.
fn constant<T: std::str::FromStr<Err: std::fmt::Display>>(text: &str) -> Spanned<text::Text<T>> {
    let value = text.parse().unwrap_or_else(|error| unreachable!("a constant: {error}"));
    Spanned::new(0..0, text::Text(value))
}
