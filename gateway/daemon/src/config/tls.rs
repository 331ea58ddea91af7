//! TLS: what a rule says about encryption, of connections that go out and of those that come in.
//!
//! in: `encrypt` and the `[route.tls]` or `[publish.tls]` table; out: settings, and the place of each in
//! the file, since the files that they name are read only when the configuration is put to work.

use outsock_core::route::Protocol;
use outsock_transport_tls::{
    Acceptor, ClientSettings, Connector, Identity, Roots, ServerSettings, Setting, SetupError,
};
use toml::Spanned;

use super::error::{ConfigError, Mark, Place};
use super::raw::{self, OwnTls};
use super::text::Target;

/// How a rule encrypts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Encrypt {
    Tls,
}

impl std::str::FromStr for Encrypt {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "tls" => Ok(Self::Tls),
            _ => Err(format!("{text:?} is no way to encrypt; there is: \"tls\"")),
        }
    }
}

/// TLS as a rule wants it.
#[derive(Clone, Debug)]
pub(crate) struct TlsConfig {
    pub(crate) settings: ClientSettings,
    pub(crate) own_tls: OwnTls,
    marks: Vec<(Setting, Mark)>,
    /// The rule itself.
    here: Mark,
}

impl TlsConfig {
    /// Reads the files.
    pub(crate) fn connector(&self) -> Result<Connector, ConfigError> {
        Connector::new(&self.settings).map_err(|error| self.at(&error))
    }

    fn at(&self, error: &SetupError) -> ConfigError {
        place_of(error, &self.marks, &self.here)
    }
}

/// TLS as a publish ends it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct TlsServerConfig {
    settings: ServerSettings,
    marks: Vec<(Setting, Mark)>,
    /// The rule itself.
    here: Mark,
}

impl TlsServerConfig {
    /// Reads the files.
    pub(crate) fn acceptor(&self) -> Result<Acceptor, ConfigError> {
        Acceptor::new(&self.settings).map_err(|error| place_of(&error, &self.marks, &self.here))
    }
}

fn place_of(error: &SetupError, marks: &[(Setting, Mark)], here: &Mark) -> ConfigError {
    let mark = marks.iter().find(|(setting, _)| *setting == error.setting);
    mark.map_or(here, |(_, mark)| mark).error(&error.message)
}

/// What [`super::routes`] keeps of a rule.
pub(super) fn check(
    route: &raw::Route,
    place: Place<'_>,
) -> Result<Option<TlsConfig>, ConfigError> {
    let Some(encrypt) = &route.encrypt else {
        return match &route.tls {
            None => Ok(None),
            Some(tls) => {
                let message = "settings without encrypt = \"tls\": nothing would be encrypted";
                Err(place.at(tls.span(), message))
            }
        };
    };
    if route.refuse.is_some() {
        return Err(place.at(encrypt.span(), "a route that refuses encrypts nothing"));
    }
    let Encrypt::Tls = encrypt.get_ref().0;
    let here = place.mark(encrypt.span());
    let mut config = TlsConfig {
        settings: ClientSettings::default(),
        own_tls: OwnTls::default(),
        marks: Vec::new(),
        here,
    };
    if let Some(tls) = &route.tls {
        config.take(tls.get_ref(), place)?;
    }
    let is_unix = matches!(route.target.as_ref().map(|t| &t.get_ref().0), Some(Target::Unix(_)));
    let settings = &config.settings;
    let asks_for_a_name = settings.pins.is_empty() || !settings.roots.is_empty();
    if is_unix && asks_for_a_name && settings.server_name.is_none() && route.domains.is_empty() {
        let message = "a Unix socket has no name: set server_name in [route.tls]";
        return Err(place.at(encrypt.span(), message));
    }
    Ok(Some(config))
}

impl TlsConfig {
    fn take(&mut self, tls: &raw::Tls, place: Place<'_>) -> Result<(), ConfigError> {
        let settings = &mut self.settings;
        let mut mark = |setting, span| self.marks.push((setting, place.mark(span)));
        if let Some(name) = &tls.server_name {
            mark(Setting::ServerName, name.span());
            settings.server_name = Some(name.get_ref().clone());
        }
        if let Some(ca) = &tls.ca {
            mark(Setting::Roots, ca.span());
            if ca.get_ref().is_empty() {
                let message = "trusts nobody: name files or \"system\", or leave the key out";
                return Err(place.at(ca.span(), message));
            }
            let one = |text: &String| match text.as_str() {
                "system" => Roots::System,
                path => Roots::File(path.into()),
            };
            settings.roots = ca.get_ref().iter().map(one).collect();
        }
        settings.pins = tls.pin.iter().map(|pin| pin.0).collect();
        settings.identity = identity(tls.certificate.as_ref(), tls.key.as_ref(), place)?;
        if let (Some(certificate), Some(key)) = (&tls.certificate, &tls.key) {
            mark(Setting::Certificate, certificate.span());
            mark(Setting::Key, key.span());
        }
        if let Some(alpn) = &tls.alpn {
            mark(Setting::Alpn, alpn.span());
            settings.alpn.clone_from(alpn.get_ref());
        }
        self.own_tls = tls.own_tls;
        Ok(())
    }
}

fn identity(
    certificate: Option<&Spanned<std::path::PathBuf>>,
    key: Option<&Spanned<std::path::PathBuf>>,
    place: Place<'_>,
) -> Result<Option<Identity>, ConfigError> {
    match (certificate, key) {
        (None, None) => Ok(None),
        (Some(certificate), Some(key)) => Ok(Some(Identity {
            certificate: certificate.get_ref().clone(),
            key: key.get_ref().clone(),
        })),
        (Some(alone), None) => Err(place.at(alone.span(), "a certificate needs its key, too")),
        (None, Some(alone)) => Err(place.at(alone.span(), "a key needs its certificate, too")),
    }
}

/// What [`super::publish`] keeps of a rule.
pub(super) fn check_publish(
    publish: &raw::Publish,
    protocol: Protocol,
    place: Place<'_>,
) -> Result<Option<TlsServerConfig>, ConfigError> {
    let (encrypt, tls) = match (&publish.encrypt, &publish.tls) {
        (None, None) => return Ok(None),
        (Some(encrypt), Some(tls)) => (encrypt, tls.get_ref()),
        (None, Some(tls)) => {
            let message = "settings without encrypt = \"tls\": nothing would be encrypted";
            return Err(place.at(tls.span(), message));
        }
        (Some(encrypt), None) => {
            let message = "a server has a certificate: certificate and key in [publish.tls]";
            return Err(place.at(encrypt.span(), message));
        }
    };
    let Encrypt::Tls = encrypt.get_ref().0;
    if protocol != Protocol::Tcp {
        return Err(place.at(encrypt.span(), "TLS is for tcp; datagrams are not encrypted here"));
    }
    let mut marks = vec![
        (Setting::Certificate, place.mark(tls.certificate.span())),
        (Setting::Key, place.mark(tls.key.span())),
    ];
    let mut settings = ServerSettings {
        identity: Identity {
            certificate: tls.certificate.get_ref().clone(),
            key: tls.key.get_ref().clone(),
        },
        client_roots: Vec::new(),
        alpn: Vec::new(),
    };
    if let Some(roots) = &tls.client_ca {
        marks.push((Setting::ClientRoots, place.mark(roots.span())));
        if roots.get_ref().is_empty() {
            let message = "lets nobody in: name files, or leave the key out for clients without";
            return Err(place.at(roots.span(), message));
        }
        settings.client_roots.clone_from(roots.get_ref());
    }
    if let Some(alpn) = &tls.alpn {
        marks.push((Setting::Alpn, place.mark(alpn.span())));
        settings.alpn.clone_from(alpn.get_ref());
    }
    Ok(Some(TlsServerConfig { settings, marks, here: place.mark(encrypt.span()) }))
}
