//! Settings: what a configuration says about TLS, before any file is read.
//!
//! Plain values. A [`SetupError`] names the setting at fault, so that a configuration can name the line.

use std::fmt;
use std::path::PathBuf;

use crate::pin::Pin;

/// Whom a client trusts, and who it is itself.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ClientSettings {
    /// The name that the server's certificate must have; `None` = the name, else the address, that is
    /// dialled.
    pub server_name: Option<String>,
    /// Who may have signed it. Empty = the system's roots, or with pins: whoever.
    pub roots: Vec<Roots>,
    /// Keys, one of which the server must have. With roots, both must hold.
    pub pins: Vec<Pin>,
    /// The client's own certificate.
    pub identity: Option<Identity>,
    /// Protocols to offer (ALPN), best first.
    pub alpn: Vec<String>,
}

/// Certificates of authorities.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Roots {
    /// Those of this system.
    System,
    /// Those of a PEM file.
    File(PathBuf),
}

/// A certificate with its chain, and its key, as PEM files.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    /// The certificate first, then what leads to its root.
    pub certificate: PathBuf,
    /// The private key: PKCS#8, PKCS#1 or SEC1.
    pub key: PathBuf,
}

/// What a server shows, and whom it lets in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServerSettings {
    /// The server's certificate.
    pub identity: Identity,
    /// PEM files of those who may have signed a client's certificate. Empty = clients need none.
    pub client_roots: Vec<PathBuf>,
    /// Protocols to accept (ALPN), best first.
    pub alpn: Vec<String>,
}

/// A setting, by its name in configurations.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Setting {
    /// `ca`
    Roots,
    /// `pin`
    Pin,
    /// `certificate`
    Certificate,
    /// `key`
    Key,
    /// `alpn`
    Alpn,
    /// `server_name`
    ServerName,
    /// `client_ca`
    ClientRoots,
}

impl fmt::Display for Setting {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Roots => "ca",
            Self::Pin => "pin",
            Self::Certificate => "certificate",
            Self::Key => "key",
            Self::Alpn => "alpn",
            Self::ServerName => "server_name",
            Self::ClientRoots => "client_ca",
        })
    }
}

/// Settings that cannot be used. The text names files, never what is in them.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{setting}: {message}")]
pub struct SetupError {
    /// Which one.
    pub setting: Setting,
    /// Why.
    pub message: String,
}

impl SetupError {
    pub(crate) fn new(setting: Setting, message: impl Into<String>) -> Self {
        Self { setting, message: message.into() }
    }
}

/// Protocol names as rustls takes them.
pub(crate) fn alpn(names: &[String]) -> Result<Vec<Vec<u8>>, SetupError> {
    let one = |name: &String| {
        let fits = (1..=255).contains(&name.len());
        let message = format!("{name:?}: a protocol's name has 1 to 255 bytes");
        if fits {
            Ok(name.clone().into_bytes())
        } else {
            Err(SetupError::new(Setting::Alpn, message))
        }
    };
    names.iter().map(one).collect()
}
