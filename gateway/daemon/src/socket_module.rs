//! The `socket` host module: connects on behalf of guests.
//!
//! in: VM RPC calls of agents ([`outsock_vmrpc::socket`]); out: dials by the transport that the
//! rules name, and the news of them to the guest's device. It is registered like any user's module.
//! Owner: the caller's VM RPC stream runs each call as a task; when that stream ends, its dials end
//! with it. Kept: every announced token is either dialled or reported failed, exactly once, also
//! when the call is dropped. Bounds: the guest's limits, [`limits::DIALS_PER_GUEST_MAX`] beneath
//! them.
//!
//! | Module | What it holds |
//! |---|---|
//! | `guest` | what is known of one guest: its device, limits, connections |
//! | `announced` | a token between its announcement and its end |
//! | `connect` | the course of one connect |
//! | `inspect` | options and counters of a connection that stands |
//! | `inbound` | listeners, and the connections that come in for them |

mod announced;
mod connect;
mod guest;
mod inbound;
mod inspect;

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, PoisonError, RwLock};

use outsock_core::route::canonical_name;
use outsock_vmrpc::host::{CallError, Caller, HostModule};
use outsock_vmrpc::socket::inbound::{
    self as wire, ListenRequest, Refuse, Report, Session, Unlisten,
};
use outsock_vmrpc::socket::options::{self, SetOptions};
use outsock_vmrpc::socket::{self, Asserted, ConnectRequest, Hello, Token};
use outsock_vmrpc::{Errno, ModuleName, Version, VersionRange};

pub(crate) use announced::Announced;
pub(crate) use guest::{GuestSockets, LimitReached};

use crate::names::Names;
use crate::own::OwnAddresses;
use crate::policy::Policy;

#[cfg(doc)]
use crate::limits;

/// State that the modules share with the daemon.
#[derive(Debug)]
pub(crate) struct Sockets {
    guests: RwLock<HashMap<u64, Arc<GuestSockets>>>,
    policy: RwLock<Arc<Policy>>,
    pub(crate) names: Arc<Names>,
    pub(crate) own: OwnAddresses,
    draining: AtomicBool,
    /// For clients that have no port of their own.
    next_port: AtomicU32,
}

impl Sockets {
    pub(crate) fn new(policy: Arc<Policy>, names: Arc<Names>, own: OwnAddresses) -> Arc<Self> {
        Arc::new(Self {
            guests: RwLock::default(),
            policy: RwLock::new(policy),
            names,
            own,
            draining: AtomicBool::new(false),
            next_port: AtomicU32::new(0),
        })
    }

    /// Serves a guest from now on.
    pub(crate) fn add_guest(&self, cid: u64, guest: Arc<GuestSockets>) {
        self.guests.write().unwrap_or_else(PoisonError::into_inner).insert(cid, guest);
    }

    /// Serves a guest no more.
    pub(crate) fn remove_guest(&self, cid: u64) {
        let removed = self.guests.write().unwrap_or_else(PoisonError::into_inner).remove(&cid);
        if let Some(guest) = removed {
            guest.inbound.close();
        }
    }

    /// The policy of this moment. Who holds it acts by it to the end.
    pub(crate) fn policy(&self) -> Arc<Policy> {
        Arc::clone(&self.policy.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// What begins from now on goes by another policy.
    pub(crate) fn set_policy(&self, policy: Arc<Policy>) {
        *self.policy.write().unwrap_or_else(PoisonError::into_inner) = policy;
    }

    /// Refuses new connections: the gateway is about to end.
    pub(crate) fn drain(&self) {
        self.draining.store(true, Ordering::Release);
        self.all_guests().iter().for_each(|guest| guest.inbound.close());
    }

    fn all_guests(&self) -> Vec<Arc<GuestSockets>> {
        let guests = self.guests.read().unwrap_or_else(PoisonError::into_inner);
        guests.values().cloned().collect()
    }

    /// An address that stands for a guest of this site or another: its name resolves to it. Never one
    /// of the host's, least of all its loopback, which servers trust. `None` when the pool of synthetic
    /// addresses has none left for its site.
    pub(crate) fn stand_in(&self, guest: &str, site: &str) -> Option<SocketAddr> {
        let plain = |c: char| if c.is_ascii_alphanumeric() { c.to_ascii_lowercase() } else { '-' };
        let guest: String = guest.chars().map(plain).collect();
        let name = canonical_name(&format!("{guest}.{site}.peer"))?;
        let addresses = self.names.assign(&name, &format!("peer {site}")).ok()?;
        // A port that looks like a client's; it leads nowhere.
        let turn = self.next_port.fetch_add(1, Ordering::Relaxed) % 16_384;
        let port = 49_152 + u16::try_from(turn).ok()?;
        Some(SocketAddr::new(addresses.v4.into(), port))
    }

    /// Forgets connections that are over.
    pub(crate) fn sweep(&self) {
        self.all_guests().iter().for_each(|guest| guest.connections.sweep());
    }

    /// The guest behind a call.
    pub(crate) fn guest(&self, caller: &Caller) -> Result<Arc<GuestSockets>, Errno> {
        self.guest_of(caller.cid).ok_or(Errno::ENETDOWN)
    }

    pub(crate) fn is_draining(&self) -> bool {
        self.draining.load(Ordering::Acquire)
    }

    pub(crate) fn guest_of(&self, cid: u64) -> Option<Arc<GuestSockets>> {
        self.guests.read().unwrap_or_else(PoisonError::into_inner).get(&cid).cloned()
    }
}

/// The module itself.
#[derive(Debug)]
pub(crate) struct SocketModule(pub(crate) Arc<Sockets>);

#[async_trait::async_trait]
impl HostModule for SocketModule {
    fn name(&self) -> ModuleName {
        socket::NAME.parse().unwrap_or_else(|error| unreachable!("a constant: {error}"))
    }

    fn versions(&self) -> VersionRange {
        socket::ALL_VERSIONS
    }

    async fn call(
        &self,
        caller: &Caller,
        version: Version,
        function: u32,
        arguments: Vec<u8>,
    ) -> Result<Vec<u8>, CallError> {
        match function {
            socket::CONNECT => {
                let (request, asserted) = if version >= socket::V2 {
                    ConnectRequest::decode_v2(&arguments)?
                } else {
                    (ConnectRequest::decode(&arguments)?, Asserted::default())
                };
                let reply = self.0.connect(caller, request, asserted, &[]).await;
                Ok(reply.map_err(CallError::Errno)?.encode())
            }
            options::CONNECT_WITH if version >= socket::V3 => {
                let (request, asserted, options) = options::decode_connect(&arguments)?;
                let reply = self.0.connect(caller, request, asserted, &options).await;
                Ok(reply.map_err(CallError::Errno)?.encode())
            }
            options::SET_OPTIONS if version >= socket::V3 => {
                let guest = self.0.guest(caller).map_err(CallError::Errno)?;
                let set = SetOptions::decode(&arguments)?;
                inspect::set_options(&guest, &set).map_err(CallError::Errno)?;
                Ok(Vec::new())
            }
            options::INSPECT if version >= socket::V3 => {
                let guest = self.0.guest(caller).map_err(CallError::Errno)?;
                let token = Token::decode(&arguments)?;
                Ok(inspect::inspect(&guest, token).map_err(CallError::Errno)?.encode())
            }
            socket::CANCEL => {
                let guest = self.0.guest(caller).map_err(CallError::Errno)?;
                guest.cancel(Token::decode(&arguments)?);
                Ok(Vec::new())
            }
            wire::ATTEND..=wire::REFUSE | wire::LISTEN..=wire::REPORT if version >= socket::V3 => {
                self.call_inbound(caller, function, &arguments).await
            }
            socket::HELLO => Ok(Hello {
                guest: caller.guest.to_string(),
                gateway_version: env!("CARGO_PKG_VERSION").to_owned(),
            }
            .encode()),
            _ => Err(CallError::NoSuchFunction),
        }
    }
}

impl SocketModule {
    /// The functions of version 3.
    async fn call_inbound(
        &self,
        caller: &Caller,
        function: u32,
        arguments: &[u8],
    ) -> Result<Vec<u8>, CallError> {
        let sockets = &self.0;
        let nothing = |()| Vec::new();
        let answer = match function {
            wire::LISTEN => {
                let request = ListenRequest::decode(arguments)?;
                sockets.listen(caller, request).await.map(|reply| reply.encode())
            }
            wire::UNLISTEN => {
                sockets.unlisten(caller, Unlisten::decode(arguments)?).await.map(nothing)
            }
            wire::INBOUND => {
                let report = Report::decode(arguments)?;
                sockets.inbound(caller, report).await.map(|notices| notices.encode())
            }
            wire::REPORT => sockets.report(caller, Report::decode(arguments)?).map(nothing),
            wire::ATTEND => {
                let ended = sockets.attend(caller, Session::decode(arguments)?).await;
                ended.map(|never| match never {})
            }
            wire::REFUSE => sockets.refuse(caller, Refuse::decode(arguments)?.0).map(nothing),
            _ => return Err(CallError::NoSuchFunction),
        };
        answer.map_err(CallError::Errno)
    }
}
