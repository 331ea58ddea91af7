//! Transports: the ways out that a configuration names, each with what its kind needs.
//!
//! in: the `[[transport]]` tables; out: checked values, in file order, "direct" last where nobody wrote
//! it down. A table may say only what its kind reads. Bound: [`limits::TRANSPORTS_MAX`].

use std::path::PathBuf;
use std::time::Duration;

use outsock_transport::Destination;
use outsock_transport_external::ExternalSettings;
use outsock_transport_proxy::{Auth, AuthError};
use toml::Spanned;

use super::error::{ConfigError, Mark, Place};
use super::raw;
use super::ways::list;
use crate::limits;

/// Where external transports keep their files when nothing else is said, each in a folder of its own.
const STATE: &str = "/var/lib/outsock";

/// One transport.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct TransportConfig {
    pub(crate) name: String,
    /// What carries it: the place of an earlier transport; `None` = the host's own sockets.
    pub(crate) over: Option<usize>,
    pub(crate) settings: TransportSettings,
}

/// The kinds of transport that this gateway has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum TransportKind {
    /// The host's own TCP and Unix sockets.
    Direct,
    /// A SOCKS5 proxy.
    Socks5,
    /// A web proxy.
    HttpConnect,
    /// A program.
    External,
}

impl TransportKind {
    /// Every kind and its name in the configuration.
    pub(crate) const ALL: [(Self, &'static str); 4] = [
        (Self::Direct, "direct"),
        (Self::Socks5, "socks5"),
        (Self::HttpConnect, "http-connect"),
        (Self::External, "external"),
    ];
}

/// A kind, with what it needs to know.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum TransportSettings {
    Direct,
    /// Services of this gateway's own guests. There is one, without being written down.
    Local,
    /// Another gateway: one for each `[[peer]]`.
    Peer,
    /// Gateways that are found by name. There is one, where there is an `[overlay]`.
    Overlay,
    Socks5(ProxyConfig),
    HttpConnect(ProxyConfig),
    External(Box<ExternalConfig>),
}

/// A program, and the user that it runs as.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ExternalConfig {
    pub(crate) settings: ExternalSettings,
    pub(crate) run_as: Option<String>,
}

/// A proxy and who we are there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ProxyConfig {
    pub(crate) server: Destination,
    login: Option<Login>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Login {
    user: String,
    password: PathBuf,
    user_at: Mark,
    password_at: Mark,
}

impl ProxyConfig {
    /// Reads the password.
    pub(crate) fn auth(&self) -> Result<Auth, ConfigError> {
        let Some(login) = &self.login else { return Ok(Auth::None) };
        let path = login.password.display();
        let text = std::fs::read_to_string(&login.password).map_err(|error| {
            login.password_at.error(&format!("{path}: cannot be read: {error}"))
        })?;
        // An editor ends the last line.
        let password = text.strip_suffix('\n').unwrap_or(&text);
        let password = password.strip_suffix('\r').unwrap_or(password);
        Auth::password(&login.user, password).map_err(|error| match error {
            AuthError::User => login.user_at.error(&format!("{error}, and no colon")),
            AuthError::Password => login.password_at.error(&format!("{path}: {error}")),
        })
    }
}

pub(super) fn check(
    raw: &[raw::Transport],
    place: Place<'_>,
) -> Result<Vec<TransportConfig>, ConfigError> {
    if let Some(extra) = raw.get(limits::TRANSPORTS_MAX) {
        return Err(place.at(extra.name.span(), "too many transports"));
    }
    let mut transports: Vec<TransportConfig> = Vec::new();
    for transport in raw {
        let name = transport.name.get_ref();
        if transports.iter().any(|other| other.name == *name) {
            return Err(place.at(transport.name.span(), "another transport has the same name"));
        }
        let kind = transport.kind.get_ref();
        let Some((kind, _)) = TransportKind::ALL.into_iter().find(|(_, name)| name == kind) else {
            let kinds = list(TransportKind::ALL.iter().map(|(_, name)| *name));
            let message = format!("there is no transport of kind {kind:?}; kinds: {kinds}");
            return Err(place.at(transport.kind.span(), &message));
        };
        let over = over(transport, &transports, place)?;
        let settings = settings(transport, kind, place)?;
        transports.push(TransportConfig { name: name.clone(), over, settings });
    }
    // Everyone has this one, unless they give the name to something else.
    if !transports.iter().any(|transport| transport.name == "direct") {
        transports.push(TransportConfig {
            name: "direct".to_owned(),
            over: None,
            settings: TransportSettings::Direct,
        });
    }
    Ok(transports)
}

/// What carries a transport must stand before it: so none carries itself.
fn over(
    transport: &raw::Transport,
    before: &[TransportConfig],
    place: Place<'_>,
) -> Result<Option<usize>, ConfigError> {
    let Some(over) = &transport.over else { return Ok(None) };
    let found = before.iter().position(|other| other.name == *over.get_ref());
    match found {
        Some(found) => Ok(Some(found)),
        None if over.get_ref() == "direct" => Ok(None),
        None => {
            let message = format!(
                "no transport named {:?} stands before this one; there are: direct{}",
                over.get_ref(),
                before.iter().map(|other| format!(", {}", other.name)).collect::<String>()
            );
            Err(place.at(over.span(), &message))
        }
    }
}

fn settings(
    transport: &raw::Transport,
    kind: TransportKind,
    place: Place<'_>,
) -> Result<TransportSettings, ConfigError> {
    match kind {
        TransportKind::Direct => {
            refuse(transport, &proxy_keys(transport), place)?;
            refuse(transport, &external_keys(transport), place)?;
            Ok(TransportSettings::Direct)
        }
        TransportKind::External => {
            refuse(transport, &proxy_keys(transport), place)?;
            Ok(TransportSettings::External(Box::new(external(transport, place)?)))
        }
        TransportKind::Socks5 | TransportKind::HttpConnect => {
            refuse(transport, &external_keys(transport), place)?;
            let proxy = proxy(transport, place)?;
            Ok(if kind == TransportKind::Socks5 {
                TransportSettings::Socks5(proxy)
            } else {
                TransportSettings::HttpConnect(proxy)
            })
        }
    }
}

type Keys = Vec<(&'static str, Option<std::ops::Range<usize>>)>;

/// Keys that only a proxy reads.
fn proxy_keys(transport: &raw::Transport) -> Keys {
    vec![
        ("server", transport.server.as_ref().map(Spanned::span)),
        ("user", transport.user.as_ref().map(Spanned::span)),
        ("password_file", transport.password_file.as_ref().map(Spanned::span)),
        ("over", transport.over.as_ref().map(Spanned::span)),
    ]
}

/// Keys that only a program's transport reads.
fn external_keys(transport: &raw::Transport) -> Keys {
    vec![
        ("program", transport.program.as_ref().map(Spanned::span)),
        ("arguments", transport.arguments.as_ref().map(Spanned::span)),
        ("method", transport.method.as_ref().map(Spanned::span)),
        ("options", transport.options.as_ref().map(Spanned::span)),
        ("server_options", transport.server_options.as_ref().map(Spanned::span)),
        ("state", transport.state.as_ref().map(Spanned::span)),
        ("run_as", transport.run_as.as_ref().map(Spanned::span)),
        ("start_time_ms", transport.start_time_ms.as_ref().map(Spanned::span)),
        ("honest_ends", transport.honest_ends.as_ref().map(Spanned::span)),
        ("encrypts", transport.encrypts.as_ref().map(Spanned::span)),
    ]
}

fn refuse(transport: &raw::Transport, keys: &Keys, place: Place<'_>) -> Result<(), ConfigError> {
    match keys.iter().find_map(|(key, span)| Some((key, span.clone()?))) {
        Some((key, span)) => {
            let message =
                format!("a transport of kind {:?} has no {key}", transport.kind.get_ref());
            Err(place.at(span, &message))
        }
        None => Ok(()),
    }
}

fn proxy(transport: &raw::Transport, place: Place<'_>) -> Result<ProxyConfig, ConfigError> {
    let Some(server) = &transport.server else {
        let message = "a proxy needs server = \"NAME:PORT\", \"ADDRESS:PORT\" or \"unix:PATH\"";
        return Err(place.at(transport.kind.span(), message));
    };
    let login = match (&transport.user, &transport.password_file) {
        (None, None) => None,
        (Some(user), Some(password)) => Some(Login {
            user: user.get_ref().clone(),
            password: password.get_ref().clone(),
            user_at: place.mark(user.span()),
            password_at: place.mark(password.span()),
        }),
        (Some(user), None) => {
            return Err(place.at(user.span(), "a user needs password_file, too"));
        }
        (None, Some(file)) => return Err(place.at(file.span(), "a password needs user, too")),
    };
    Ok(ProxyConfig { server: server.get_ref().0.0.clone(), login })
}

fn external(transport: &raw::Transport, place: Place<'_>) -> Result<ExternalConfig, ConfigError> {
    let missing = |what: &str| place.at(transport.kind.span(), what);
    let program = transport.program.as_ref().map(|program| program.get_ref().clone());
    let program = program.ok_or_else(|| missing("an external transport needs program"))?;
    let Some(method) = &transport.method else {
        return Err(missing("an external transport needs method, such as \"obfs4\""));
    };
    let is_name = |text: &str| {
        let mut letters = text.bytes();
        letters.next().is_some_and(|first| first.is_ascii_alphabetic() || first == b'_')
            && letters.all(|letter| letter.is_ascii_alphanumeric() || letter == b'_')
    };
    if !is_name(method.get_ref()) {
        let message = "a method's name has letters, digits and _ (pt-spec, 3.1)";
        return Err(place.at(method.span(), message));
    }
    let state = transport.state.as_ref().map(|state| state.get_ref().clone());
    let state = state.unwrap_or_else(|| PathBuf::from(STATE).join(transport.name.get_ref()));
    let mut settings = ExternalSettings::new(program, method.get_ref().clone(), state);
    let pairs = |table: &Option<Spanned<_>>| match table {
        Some(table) => std::collections::BTreeMap::clone(table.get_ref()).into_iter().collect(),
        None => Vec::new(),
    };
    settings.options = pairs(&transport.options);
    settings.server_options = pairs(&transport.server_options);
    if let Some(arguments) = &transport.arguments {
        settings.arguments = arguments.get_ref().iter().map(Into::into).collect();
    }
    if let Some(time) = &transport.start_time_ms {
        settings.start_time = Duration::from_millis(*time.get_ref());
    }
    let says = |key: &Option<Spanned<bool>>| key.as_ref().is_some_and(|key| *key.get_ref());
    settings.half_close = says(&transport.honest_ends);
    settings.reset = settings.half_close;
    settings.encrypted = says(&transport.encrypts);
    let run_as = transport.run_as.as_ref().map(|user| user.get_ref().clone());
    Ok(ExternalConfig { settings, run_as })
}
