//! What a configuration file may say, key by key. `configs/reference.toml` lists it all.

use std::path::PathBuf;

use outsock_core::route::{Cidr, Entry, PortRange};
use outsock_vmrpc::Errno;
use serde::Deserialize;
use toml::Spanned;

use super::{Target, Text};
use crate::limits;

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Config {
    #[serde(default = "super::defaults")]
    pub(super) gateway: Gateway,
    #[serde(default)]
    pub(super) guest: Vec<Guest>,
    #[serde(default)]
    pub(super) transport: Vec<Transport>,
    #[serde(default)]
    pub(super) route: Vec<Spanned<Route>>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Gateway {
    #[serde(default = "admin_socket")]
    pub(super) admin_socket: PathBuf,
    #[serde(default = "Text::eacces")]
    pub(super) default: Text<Errno>,
    #[serde(default = "dial_timeout_ms")]
    pub(super) dial_timeout_ms: u64,
    #[serde(default = "drain_timeout_ms")]
    pub(super) drain_timeout_ms: u64,
}

fn admin_socket() -> PathBuf {
    PathBuf::from(super::ADMIN_SOCKET)
}

fn dial_timeout_ms() -> u64 {
    limits::DIAL_TIMEOUT_MS
}

fn drain_timeout_ms() -> u64 {
    limits::DRAIN_TIMEOUT_MS
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Guest {
    pub(super) name: Spanned<String>,
    pub(super) cid: Spanned<u64>,
    pub(super) socket: Spanned<PathBuf>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Transport {
    pub(super) name: Spanned<String>,
    pub(super) kind: Spanned<String>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Route {
    pub(super) name: Option<String>,
    #[serde(default)]
    pub(super) to: Vec<Text<Entry<Cidr>>>,
    #[serde(default)]
    pub(super) ports: Vec<Text<Entry<PortRange>>>,
    pub(super) via: Option<Spanned<String>>,
    pub(super) refuse: Option<Spanned<Text<Errno>>>,
    pub(super) target: Option<Spanned<Text<Target>>>,
}
