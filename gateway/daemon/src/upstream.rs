//! Upstream: the resolvers that this host itself asks.
//!
//! in: names and record types; out: answers, cached. hickory-resolver does the work: it reads
//! /etc/resolv.conf and /etc/hosts, caches by TTL, asks again over TCP what was truncated. Owner:
//! shared. Kept: a changed /etc/resolv.conf is noticed within [`limits::RESOLV_CONF_MS`]. Bounds:
//! [`limits::LOOKUP_MS`], [`limits::DNS_CACHE_ANSWERS`].

use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use hickory_net::runtime::TokioRuntimeProvider;
use hickory_net::{DnsError, NetError, NoRecords};
use hickory_proto::op::ResponseCode;
use hickory_proto::rr::{Name, RData, RecordType};
use hickory_resolver::config::{ConnectionConfig, NameServerConfig, ResolverConfig, ResolverOpts};
use hickory_resolver::lookup::Lookup;
use hickory_resolver::{Resolver, TokioResolver};
use outsock_core::route::canonical;

use crate::limits;

const RESOLV_CONF: &str = "/etc/resolv.conf";

/// How long one of the resolvers has for one try.
const TRY: Duration = Duration::from_secs(3);

/// Why there is no answer.
#[derive(Debug)]
pub(crate) enum LookupError {
    /// The answer is that there are no such records: with the code and what proves it.
    Negative(Box<NoRecords>),
    /// No resolver answered, or none is configured.
    Failed(String),
}

/// The host's resolvers.
pub(crate) struct Upstream {
    nameservers: Vec<SocketAddr>,
    state: Mutex<State>,
}

struct State {
    resolver: Result<TokioResolver, String>,
    /// Of /etc/resolv.conf.
    changed: Option<SystemTime>,
    looked: Instant,
}

impl std::fmt::Debug for Upstream {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Upstream").field("nameservers", &self.nameservers).finish_non_exhaustive()
    }
}

impl Upstream {
    /// Asks `nameservers`, or those of /etc/resolv.conf where that is empty.
    pub(crate) fn new(nameservers: &[SocketAddr]) -> Self {
        let state =
            State { resolver: build(nameservers), changed: changed(), looked: Instant::now() };
        Self { nameservers: nameservers.to_vec(), state: Mutex::new(state) }
    }

    fn resolver(&self) -> Result<TokioResolver, String> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let stale = state.looked.elapsed() > Duration::from_millis(limits::RESOLV_CONF_MS);
        if self.nameservers.is_empty() && stale {
            state.looked = Instant::now();
            let changed = changed();
            if changed != state.changed || state.resolver.is_err() {
                state.changed = changed;
                state.resolver = build(&[]);
            }
        }
        state.resolver.clone()
    }

    /// Looks up records of one type.
    pub(crate) async fn lookup(&self, name: Name, kind: RecordType) -> Result<Lookup, LookupError> {
        let resolver = self.resolver().map_err(LookupError::Failed)?;
        let limit = Duration::from_millis(limits::LOOKUP_MS);
        match tokio::time::timeout(limit, resolver.lookup(name, kind)).await {
            Ok(Ok(lookup)) => Ok(lookup),
            Ok(Err(NetError::Dns(DnsError::NoRecordsFound(none)))) if is_negative(&none) => {
                Err(LookupError::Negative(Box::new(none)))
            }
            Ok(Err(error)) => Err(LookupError::Failed(error.to_string())),
            Err(_) => Err(LookupError::Failed("no resolver answered in time".to_owned())),
        }
    }

    /// The addresses of a name, families in turn; empty where it has none or nobody answers.
    pub(crate) async fn addresses(&self, name: &str) -> Vec<IpAddr> {
        let Ok(mut name) = Name::from_ascii(name) else { return Vec::new() };
        name.set_fqdn(true);
        let one = async |kind| match self.lookup(name.clone(), kind).await {
            Ok(lookup) => lookup.answers().iter().filter_map(|r| address(&r.data)).collect(),
            Err(LookupError::Negative(_)) => Vec::new(),
            Err(LookupError::Failed(why)) => {
                tracing::debug!(%name, why, "cannot resolve");
                Vec::new()
            }
        };
        let (v6, v4): (Vec<IpAddr>, Vec<IpAddr>) =
            tokio::join!(one(RecordType::AAAA), one(RecordType::A));
        let (mut v6, mut v4) = (v6.into_iter(), v4.into_iter());
        let mut addresses = Vec::new();
        loop {
            let before = addresses.len();
            addresses.extend(v6.next().into_iter().chain(v4.next()).map(canonical));
            if addresses.len() == before || addresses.len() >= limits::ADDRESSES_MAX {
                addresses.truncate(limits::ADDRESSES_MAX);
                return addresses;
            }
        }
    }
}

/// The address in an A or AAAA record.
pub(crate) fn address(data: &RData) -> Option<IpAddr> {
    match data {
        RData::A(a) => Some(IpAddr::V4(a.0)),
        RData::AAAA(aaaa) => Some(IpAddr::V6(aaaa.0)),
        _ => None,
    }
}

fn is_negative(none: &NoRecords) -> bool {
    matches!(none.response_code, ResponseCode::NXDomain | ResponseCode::NoError)
}

fn changed() -> Option<SystemTime> {
    std::fs::metadata(Path::new(RESOLV_CONF)).and_then(|found| found.modified()).ok()
}

fn build(nameservers: &[SocketAddr]) -> Result<TokioResolver, String> {
    let provider = TokioRuntimeProvider::default();
    let mut builder = if nameservers.is_empty() {
        Resolver::builder(provider).map_err(|error| format!("{RESOLV_CONF}: {error}"))?
    } else {
        let servers = nameservers.iter().map(name_server).collect();
        let config = ResolverConfig::from_parts(None, Vec::new(), servers);
        Resolver::builder_with_config(config, provider)
    };
    set(builder.options_mut());
    builder.build().map_err(|error| error.to_string())
}

fn name_server(at: &SocketAddr) -> NameServerConfig {
    let mut connections = vec![ConnectionConfig::udp(), ConnectionConfig::tcp()];
    connections.iter_mut().for_each(|connection| connection.port = at.port());
    NameServerConfig::new(at.ip(), true, connections)
}

fn set(options: &mut ResolverOpts) {
    options.cache_size = limits::DNS_CACHE_ANSWERS;
    options.timeout = TRY;
    options.attempts = 2;
    options.try_tcp_on_error = true;
    // Queries of all guests share one socket to each resolver.
    options.max_active_requests = limits::QUERIES_PER_GUEST_MAX;
}
