//! What a configuration file may say, key by key. `configs/reference.toml` lists it all.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;

use outsock_core::route::{
    Cidr, DomainPattern, Entry, Glob, GuestPattern, PortRange, Protocol, UserPattern,
};
use outsock_peer::PeerKey;
use outsock_transport_overlay::Address;
use outsock_transport_tls::Pin;
use outsock_vmrpc::Errno;
use serde::Deserialize;
use toml::Spanned;

use super::publish::PublishAt;
use super::text::{HostPort, Target, Text};
use super::vsock::VsockPorts;
use crate::limits;

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Config {
    #[serde(default = "super::defaults")]
    pub(super) gateway: Gateway,
    #[serde(default = "super::defaults")]
    pub(super) names: Names,
    pub(super) identity: Option<Identity>,
    #[serde(default = "super::defaults")]
    pub(super) quic: Quic,
    pub(super) overlay: Option<Overlay>,
    #[serde(default)]
    pub(super) peer: Vec<Peer>,
    #[serde(default)]
    pub(super) guest: Vec<Guest>,
    #[serde(default)]
    pub(super) transport: Vec<Transport>,
    #[serde(default)]
    pub(super) group: Vec<Group>,
    #[serde(default)]
    pub(super) route: Vec<Spanned<Route>>,
    #[serde(default)]
    pub(super) publish: Vec<Spanned<Publish>>,
    #[serde(default)]
    pub(super) module: Vec<Module>,
    #[serde(default)]
    pub(super) vsock: Vec<Spanned<Vsock>>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Module {
    pub(super) name: Spanned<String>,
    pub(super) guests: Option<Vec<Text<Entry<GuestPattern>>>>,
    pub(super) socket: Option<PathBuf>,
    pub(super) user: Option<u32>,
    pub(super) object: Option<PathBuf>,
    #[serde(default)]
    pub(super) functions: Vec<String>,
    pub(super) version: Option<u16>,
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
pub(super) struct Names {
    #[serde(default = "pool_v4")]
    pub(super) pool_v4: Spanned<Text<Cidr>>,
    #[serde(default = "pool_v6")]
    pub(super) pool_v6: Spanned<Text<Cidr>>,
    pub(super) file: Option<PathBuf>,
    #[serde(default)]
    pub(super) nameservers: Vec<Text<SocketAddr>>,
}

fn pool_v4() -> Spanned<Text<Cidr>> {
    super::constant(super::POOL_V4)
}

fn pool_v6() -> Spanned<Text<Cidr>> {
    super::constant(super::POOL_V6)
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Identity {
    pub(super) key_file: PathBuf,
    pub(super) name: Option<Spanned<String>>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Quic {
    pub(super) listen: Option<Text<SocketAddr>>,
    #[serde(default = "stream_window_bytes")]
    pub(super) stream_window_bytes: Spanned<u32>,
    #[serde(default = "connection_window_bytes")]
    pub(super) connection_window_bytes: u32,
    #[serde(default = "memory_max_bytes")]
    pub(super) memory_max_bytes: u64,
    #[serde(default = "streams_max")]
    pub(super) streams_max: u32,
    #[serde(default = "dead_after_ms")]
    pub(super) dead_after_ms: Spanned<u64>,
    #[serde(default = "socket_buffer_bytes")]
    pub(super) socket_buffer_bytes: usize,
    #[serde(default = "yes")]
    pub(super) offload: bool,
    #[serde(default = "mtu_max_bytes")]
    pub(super) mtu_max_bytes: Spanned<u16>,
    #[serde(default = "yes")]
    pub(super) ack_frequency: bool,
    #[serde(default)]
    pub(super) congestion: Congestion,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Overlay {
    pub(super) network: Spanned<String>,
    #[serde(default)]
    pub(super) listen: Vec<Spanned<Text<Address>>>,
    #[serde(default)]
    pub(super) external: Vec<Spanned<Text<Address>>>,
    #[serde(default)]
    pub(super) bootstrap: Vec<Spanned<Text<Address>>>,
    #[serde(default)]
    pub(super) supernode: Wish,
    #[serde(default)]
    pub(super) mdns: bool,
    #[serde(default)]
    pub(super) services: Vec<Text<Entry<Glob>>>,
    pub(super) authority: Option<Spanned<Text<PeerKey>>>,
    pub(super) certificate_file: Option<Spanned<PathBuf>>,
    pub(super) revocations_file: Option<Spanned<PathBuf>>,
}

#[derive(Clone, Copy, Debug, Default, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Wish {
    #[default]
    Auto,
    Never,
    Always,
}

fn stream_window_bytes() -> Spanned<u32> {
    Spanned::new(0..0, limits::STREAM_WINDOW_BYTES)
}

fn connection_window_bytes() -> u32 {
    limits::CONNECTION_WINDOW_BYTES
}

fn memory_max_bytes() -> u64 {
    limits::PEERS_MEMORY_BYTES
}

fn streams_max() -> u32 {
    limits::STREAMS_PER_PEER
}

fn dead_after_ms() -> Spanned<u64> {
    Spanned::new(0..0, limits::DEAD_AFTER_MS)
}

fn socket_buffer_bytes() -> usize {
    limits::SOCKET_BUFFER_BYTES
}

fn mtu_max_bytes() -> Spanned<u16> {
    Spanned::new(0..0, limits::MTU_BYTES)
}

fn yes() -> bool {
    true
}

#[derive(Clone, Copy, Debug, Default, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "lowercase")]
pub(super) enum Congestion {
    #[default]
    Cubic,
    Bbr,
    NewReno,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Peer {
    pub(super) name: Spanned<String>,
    pub(super) key: Spanned<Text<PeerKey>>,
    #[serde(default)]
    pub(super) addresses: Vec<Spanned<String>>,
    #[serde(default)]
    pub(super) services: Vec<Text<Entry<Glob>>>,
    #[serde(default)]
    pub(super) exit: Vec<Spanned<Route>>,
    #[serde(default)]
    pub(super) congestion: Congestion,
    #[serde(default = "connections")]
    pub(super) connections: Spanned<usize>,
}

fn connections() -> Spanned<usize> {
    Spanned::new(0..0, 1)
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Guest {
    pub(super) name: Spanned<String>,
    pub(super) cid: Spanned<u64>,
    pub(super) socket: Spanned<PathBuf>,
    #[serde(default)]
    pub(super) tags: Vec<Spanned<String>>,
    #[serde(default = "resolve")]
    pub(super) resolve: Text<super::Resolve>,
    #[serde(default = "connections_max")]
    pub(super) connections_max: u64,
    #[serde(default = "connects_per_second_max")]
    pub(super) connects_per_second_max: u64,
    pub(super) bytes_per_second_max: Option<Spanned<u64>>,
    pub(super) vsock_socket: Option<Spanned<PathBuf>>,
    pub(super) vsock_seqpacket_socket: Option<Spanned<PathBuf>>,
}

fn resolve() -> Text<super::Resolve> {
    Text(super::Resolve::All)
}

fn connections_max() -> u64 {
    limits::CONNECTIONS_PER_GUEST
}

fn connects_per_second_max() -> u64 {
    limits::CONNECTS_PER_SECOND
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Transport {
    pub(super) name: Spanned<String>,
    pub(super) kind: Spanned<String>,
    pub(super) server: Option<Spanned<Text<super::text::Server>>>,
    pub(super) user: Option<Spanned<String>>,
    pub(super) password_file: Option<Spanned<PathBuf>>,
    pub(super) over: Option<Spanned<String>>,
    pub(super) program: Option<Spanned<PathBuf>>,
    pub(super) arguments: Option<Spanned<Vec<String>>>,
    pub(super) method: Option<Spanned<String>>,
    pub(super) options: Option<Spanned<BTreeMap<String, String>>>,
    pub(super) server_options: Option<Spanned<BTreeMap<String, String>>>,
    pub(super) state: Option<Spanned<PathBuf>>,
    pub(super) run_as: Option<Spanned<String>>,
    pub(super) start_time_ms: Option<Spanned<u64>>,
    pub(super) honest_ends: Option<Spanned<bool>>,
    pub(super) encrypts: Option<Spanned<bool>>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Group {
    pub(super) name: Spanned<String>,
    pub(super) members: Spanned<Vec<Spanned<String>>>,
    #[serde(default)]
    pub(super) policy: Policy,
    #[serde(default = "tolerance_ms")]
    pub(super) tolerance_ms: u64,
    #[serde(default = "member_timeout_ms")]
    pub(super) member_timeout_ms: u64,
    pub(super) check: Option<Spanned<Text<HostPort>>>,
    #[serde(default = "check_interval_ms")]
    pub(super) check_interval_ms: Spanned<u64>,
}

#[derive(Clone, Copy, Debug, Default, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "lowercase")]
pub(super) enum Policy {
    #[default]
    Failover,
    Latency,
}

fn tolerance_ms() -> u64 {
    limits::GROUP_TOLERANCE_MS
}

fn member_timeout_ms() -> u64 {
    limits::GROUP_MEMBER_TIMEOUT_MS
}

fn check_interval_ms() -> Spanned<u64> {
    Spanned::new(0..0, limits::GROUP_CHECK_INTERVAL_MS)
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Route {
    pub(super) name: Option<String>,
    #[serde(default)]
    pub(super) guests: Vec<Text<Entry<GuestPattern>>>,
    #[serde(default)]
    pub(super) programs: Vec<Text<Entry<Glob>>>,
    #[serde(default)]
    pub(super) users: Vec<Text<Entry<UserPattern>>>,
    pub(super) protocol: Option<Text<Protocol>>,
    #[serde(default)]
    pub(super) to: Vec<Text<Entry<Cidr>>>,
    #[serde(default)]
    pub(super) domains: Vec<Text<Entry<DomainPattern>>>,
    #[serde(default)]
    pub(super) ports: Vec<Text<Entry<PortRange>>>,
    pub(super) via: Option<Spanned<String>>,
    pub(super) refuse: Option<Spanned<Text<Errno>>>,
    pub(super) target: Option<Spanned<Text<Target>>>,
    #[serde(default)]
    pub(super) options: BTreeMap<String, String>,
    pub(super) encrypt: Option<Spanned<Text<super::Encrypt>>>,
    pub(super) tls: Option<Spanned<Tls>>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Tls {
    pub(super) server_name: Option<Spanned<String>>,
    pub(super) ca: Option<Spanned<Vec<String>>>,
    #[serde(default)]
    pub(super) pin: Vec<Text<Pin>>,
    pub(super) certificate: Option<Spanned<PathBuf>>,
    pub(super) key: Option<Spanned<PathBuf>>,
    pub(super) alpn: Option<Spanned<Vec<String>>>,
    #[serde(default)]
    pub(super) own_tls: OwnTls,
}

#[derive(Clone, Copy, Debug, Default, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "lowercase")]
pub(crate) enum OwnTls {
    /// What speaks TLS by itself passes as it is.
    #[default]
    Pass,
    /// Everything is wrapped.
    Wrap,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Publish {
    pub(super) name: Option<String>,
    #[serde(default)]
    pub(super) guests: Vec<Text<Entry<GuestPattern>>>,
    pub(super) ports: Spanned<Vec<Text<Entry<PortRange>>>>,
    pub(super) protocol: Option<Spanned<Text<Protocol>>>,
    pub(super) listen: Spanned<Text<PublishAt>>,
    #[serde(default = "direct")]
    pub(super) via: Spanned<String>,
    #[serde(default)]
    pub(super) loopback: bool,
    pub(super) encrypt: Option<Spanned<Text<super::Encrypt>>>,
    pub(super) tls: Option<Spanned<TlsServer>>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Vsock {
    #[serde(default)]
    pub(super) guests: Vec<Text<Entry<GuestPattern>>>,
    #[serde(default)]
    pub(super) ports: Vec<Text<Entry<VsockPorts>>>,
    pub(super) connect: Option<Spanned<String>>,
    pub(super) to: Option<Spanned<Vec<Text<Entry<GuestPattern>>>>>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct TlsServer {
    pub(super) certificate: Spanned<PathBuf>,
    pub(super) key: Spanned<PathBuf>,
    pub(super) client_ca: Option<Spanned<Vec<PathBuf>>>,
    pub(super) alpn: Option<Spanned<Vec<String>>>,
}

fn direct() -> Spanned<String> {
    Spanned::new(0..0, "direct".to_owned())
}
