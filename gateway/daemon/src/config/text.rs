//! Text: values that stand in the file as text.
//!
//! in: what TOML says; out: a parsed value, or an error that keeps its place in the file. Plain data.

use std::net::SocketAddr;
use std::path::PathBuf;

use outsock_core::route::canonical_name;
use outsock_transport::Destination;
use outsock_vmrpc::Errno;
use serde::Deserialize;

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
    pub(super) fn eacces() -> Self {
        Self(Errno::EACCES)
    }
}

/// The path of `unix:PATH`; `None` = the text says something else.
pub(super) fn unix_path(text: &str) -> Result<Option<PathBuf>, String> {
    match text.strip_prefix("unix:") {
        None => Ok(None),
        Some("") => Err("unix: needs a path behind it".to_owned()),
        Some(path) => Ok(Some(PathBuf::from(path))),
    }
}

impl std::str::FromStr for Target {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if let Some(path) = unix_path(text)? {
            return Ok(Self::Unix(path));
        }
        text.parse().map(Self::Address).map_err(|_| {
            format!("{text:?} is not a target: write ADDRESS:PORT, [ADDRESS]:PORT or unix:PATH")
        })
    }
}

/// Where a rule sends its connections instead of where the guest wanted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Target {
    Address(SocketAddr),
    Unix(PathBuf),
}

/// Where a proxy is.
#[derive(Clone, Debug)]
pub(crate) struct Server(pub(crate) Destination);

impl std::str::FromStr for Server {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if let Some(path) = unix_path(text)? {
            return Ok(Self(Destination::Unix(path)));
        }
        Ok(Self(match text.parse()? {
            HostPort::Address(address) => Destination::Address(address),
            HostPort::Name(name, port) => Destination::Name { name, port },
        }))
    }
}

/// A host and a port: an address, or a name in canonical form.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum HostPort {
    Address(SocketAddr),
    Name(String, u16),
}

impl std::str::FromStr for HostPort {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let bad = || {
            format!("{text:?} is no destination: write NAME:PORT, ADDRESS:PORT or [ADDRESS]:PORT")
        };
        if let Ok(address) = text.parse() {
            return Ok(Self::Address(address));
        }
        let (host, port) = text.rsplit_once(':').ok_or_else(bad)?;
        let port = port.parse().map_err(|_| bad())?;
        let name = canonical_name(host).ok_or_else(bad)?;
        Ok(Self::Name(name, port))
    }
}

impl std::fmt::Display for HostPort {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Address(address) => address.fmt(f),
            Self::Name(name, port) => write!(f, "{name}:{port}"),
        }
    }
}
