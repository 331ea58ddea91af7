//! Configuration: from a TOML file to values that cannot be wrong any more.
//!
//! in: text; out: [`Config`], or a [`ConfigError`] that names file, line and key. Reading it
//! touches nothing else: no socket is bound, no name resolved. The raw form ([`raw`]) is exactly
//! what the file may say; unknown keys are errors. Bound: [`limits::CONFIG_BYTES_MAX`].

mod error;
mod raw;
#[cfg(test)]
mod tests;

use std::collections::HashMap;
use std::io::Read;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use outsock_core::address::Cid;
use outsock_core::route::{RouteTable, Rule, RuleAction, WayId};
use outsock_vmrpc::Errno;
use serde::Deserialize;
use toml::Spanned;

pub(crate) use error::ConfigError;
use error::Place;

use crate::limits;

/// Where the admin socket is when nothing else is said.
pub(crate) const ADMIN_SOCKET: &str = "/run/outsock/gateway.sock";

/// A checked configuration.
#[derive(Debug)]
pub(crate) struct Config {
    /// The admin socket.
    pub(crate) admin_socket: PathBuf,
    /// How long a dial may take.
    pub(crate) dial_timeout: Duration,
    /// How long connections may go on after SIGTERM.
    pub(crate) drain_timeout: Duration,
    /// The guests, in file order.
    pub(crate) guests: Vec<Guest>,
    /// The transports, by number.
    pub(crate) transports: Vec<TransportConfig>,
    /// The rules.
    pub(crate) routes: RouteTable,
    /// What else is known of each rule, by its place.
    pub(crate) route_details: Vec<RouteDetail>,
}

/// One guest.
#[derive(Clone, Debug)]
pub(crate) struct Guest {
    pub(crate) name: String,
    pub(crate) cid: Cid,
    pub(crate) socket: PathBuf,
}

/// One transport.
#[derive(Clone, Debug)]
pub(crate) struct TransportConfig {
    pub(crate) name: String,
    pub(crate) kind: TransportKind,
}

/// The kinds of transport that this gateway has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum TransportKind {
    /// The host's own TCP and Unix sockets.
    Direct,
}

impl TransportKind {
    /// Every kind and its name in the configuration.
    pub(crate) const ALL: [(Self, &'static str); 1] = [(Self::Direct, "direct")];
}

/// A rule beside its matching: how to call it, and where its connections really go.
#[derive(Clone, Debug)]
pub(crate) struct RouteDetail {
    pub(crate) name: String,
    pub(crate) target: Option<Target>,
}

/// Where a rule sends its connections instead of where the guest wanted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Target {
    Address(SocketAddr),
    Unix(PathBuf),
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
        let transports = transports(&raw.transport, place)?;
        let (rules, route_details) = routes(&raw.route, &transports, place)?;
        let gateway = raw.gateway;
        Ok(Self {
            admin_socket: gateway.admin_socket,
            dial_timeout: Duration::from_millis(gateway.dial_timeout_ms),
            drain_timeout: Duration::from_millis(gateway.drain_timeout_ms),
            guests: guests(&raw.guest, place)?,
            transports,
            routes: RouteTable::new(rules, gateway.default.0),
            route_details,
        })
    }
}

fn guests(raw: &[raw::Guest], place: Place<'_>) -> Result<Vec<Guest>, ConfigError> {
    let mut guests: Vec<Guest> = Vec::new();
    if let Some(extra) = raw.get(limits::GUESTS_MAX) {
        return Err(place.at(extra.name.span(), "too many guests for one gateway"));
    }
    for guest in raw {
        let name = guest.name.get_ref();
        if name.is_empty() || name.len() > 64 || name.chars().any(|c| c.is_control() || c == '/') {
            let message =
                "a guest's name has 1 to 64 characters, without '/' or control characters";
            return Err(place.at(guest.name.span(), message));
        }
        let cid = Cid(*guest.cid.get_ref());
        if !(Cid::GUEST_MIN..=Cid::GUEST_MAX).contains(&cid) {
            let message = format!("a guest's cid is {} to {}", Cid::GUEST_MIN, Cid::GUEST_MAX);
            return Err(place.at(guest.cid.span(), &message));
        }
        for other in &guests {
            let twice = |what| format!("guest {:?} has the same {what}", other.name);
            if other.name == *name {
                return Err(place.at(guest.name.span(), &twice("name")));
            }
            if other.cid == cid {
                return Err(place.at(guest.cid.span(), &twice("cid")));
            }
            if other.socket == *guest.socket.get_ref() {
                return Err(place.at(guest.socket.span(), &twice("socket")));
            }
        }
        guests.push(Guest { name: name.clone(), cid, socket: guest.socket.get_ref().clone() });
    }
    Ok(guests)
}

fn transports(
    raw: &[raw::Transport],
    place: Place<'_>,
) -> Result<Vec<TransportConfig>, ConfigError> {
    // Everyone has this one, unless they give the name to something else.
    let mut transports: Vec<TransportConfig> = Vec::new();
    if let Some(extra) = raw.get(limits::TRANSPORTS_MAX) {
        return Err(place.at(extra.name.span(), "too many transports"));
    }
    for transport in raw {
        let name = transport.name.get_ref();
        if transports.iter().any(|other| other.name == *name) {
            return Err(place.at(transport.name.span(), "another transport has the same name"));
        }
        let kind = transport.kind.get_ref();
        let Some((kind, _)) = TransportKind::ALL.into_iter().find(|(_, name)| name == kind) else {
            let kinds: Vec<_> = TransportKind::ALL.iter().map(|(_, name)| *name).collect();
            let message =
                format!("there is no transport of kind {kind:?}; kinds: {}", kinds.join(", "));
            return Err(place.at(transport.kind.span(), &message));
        };
        transports.push(TransportConfig { name: name.clone(), kind });
    }
    if !transports.iter().any(|transport| transport.name == "direct") {
        transports.push(TransportConfig { name: "direct".to_owned(), kind: TransportKind::Direct });
    }
    Ok(transports)
}

fn routes(
    raw: &[Spanned<raw::Route>],
    transports: &[TransportConfig],
    place: Place<'_>,
) -> Result<(Vec<Rule>, Vec<RouteDetail>), ConfigError> {
    let by_name: HashMap<&str, WayId> = transports
        .iter()
        .zip(0..)
        .map(|(transport, number)| (transport.name.as_str(), WayId(number)))
        .collect();
    if let Some(extra) = raw.get(outsock_core::limits::ROUTES_MAX) {
        return Err(place.at(extra.span(), "too many routes"));
    }
    let mut rules = Vec::new();
    let mut details = Vec::new();
    for (number, spanned) in raw.iter().enumerate() {
        let route = spanned.get_ref();
        let action = match (&route.via, &route.refuse) {
            (Some(via), None) => match by_name.get(via.get_ref().as_str()) {
                Some(&id) => RuleAction::Via(id),
                None => {
                    let names: Vec<_> = transports.iter().map(|t| t.name.as_str()).collect();
                    let message = format!(
                        "there is no transport named {:?}; there are: {}",
                        via.get_ref(),
                        names.join(", ")
                    );
                    return Err(place.at(via.span(), &message));
                }
            },
            (None, Some(errno)) => RuleAction::Refuse(errno.get_ref().0),
            (None, None) => {
                let message = "a route needs via = \"TRANSPORT\" or refuse = \"ERRNO\"";
                return Err(place.at(spanned.span(), message));
            }
            (Some(_), Some(refuse)) => {
                return Err(place.at(refuse.span(), "a route has either via or refuse, not both"));
            }
        };
        let target = match &route.target {
            None => None,
            Some(target) if route.refuse.is_some() => {
                return Err(place.at(target.span(), "a route that refuses has no target"));
            }
            Some(target) => Some(target.get_ref().0.clone()),
        };
        rules.push(Rule {
            to: route.to.iter().map(|net| net.0.clone()).collect(),
            ports: route.ports.iter().map(|range| range.0.clone()).collect(),
            ..Rule::all(action)
        });
        let name = route.name.clone().unwrap_or_else(|| format!("route {}", number + 1));
        details.push(RouteDetail { name, target });
    }
    Ok((rules, details))
}

/// A value that stands in the file as text and is parsed where it stands, so that an error has its
/// line.
#[derive(Clone, Debug)]
pub(crate) struct Text<T>(pub(crate) T);

impl<'de, T> Deserialize<'de> for Text<T>
where
    T: std::str::FromStr,
    T::Err: std::fmt::Display,
{
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        /// Numbers stand for themselves: `ports = [80, "8000-8999"]`.
        #[derive(Deserialize)]
        #[serde(untagged)]
        enum Form {
            Number(u64),
            Text(String),
        }
        let text = match Form::deserialize(deserializer)? {
            Form::Number(number) => number.to_string(),
            Form::Text(text) => text,
        };
        text.parse().map(Self).map_err(serde::de::Error::custom)
    }
}

impl Text<Errno> {
    fn eacces() -> Self {
        Self(Errno::EACCES)
    }
}

impl std::str::FromStr for Target {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if let Some(path) = text.strip_prefix("unix:") {
            return if path.is_empty() {
                Err("unix: needs a path behind it".to_owned())
            } else {
                Ok(Self::Unix(PathBuf::from(path)))
            };
        }
        text.parse().map(Self::Address).map_err(|_| {
            format!("{text:?} is not a target: write ADDRESS:PORT, [ADDRESS]:PORT or unix:PATH")
        })
    }
}

/// The defaults of a table that is not in the file.
fn defaults<T: serde::de::DeserializeOwned>() -> T {
    toml::from_str("").unwrap_or_else(|error| unreachable!("every key has a default: {error}"))
}
