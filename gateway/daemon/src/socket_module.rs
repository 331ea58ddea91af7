//! The `socket` host module: connects on behalf of guests.
//!
//! in: VM RPC calls of agents ([`outsock_vmrpc::socket`]); out: dials by the transport that the
//! rules name, and the news of them to the guest's device. It is registered like any user's module.
//! Owner: the caller's VM RPC stream runs each call as a task; when that stream ends, its dials end
//! with it. Kept: every announced token is either dialled or reported failed, exactly once, also
//! when the call is dropped. Bound: [`limits::DIALS_PER_GUEST_MAX`] per guest.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};

use outsock_core::address::VsockPort;
use outsock_core::route::{Query, RuleAction, canonical};
use outsock_device::{DeviceHandle, FarEnd};
use outsock_transport::{Destination, DialRequest, Stream};
use outsock_vmrpc::host::{CallError, Caller, HostModule};
use outsock_vmrpc::socket::{self, ConnectReply, ConnectRequest, Hello, Token};
use outsock_vmrpc::{Errno, ModuleName, Version, VersionRange};
use tokio::sync::Notify;

use crate::config::{Config, Target};
use crate::limits;
use crate::pump::pump;
use crate::registry::Transports;

/// Counters of one guest's dials.
#[derive(Debug, Default)]
pub(crate) struct DialCounters {
    pub(crate) dialled: AtomicU64,
    pub(crate) refused_by_rule: AtomicU64,
    pub(crate) failed: AtomicU64,
}

/// What the module knows of one guest.
#[derive(Debug)]
pub(crate) struct GuestSockets {
    device: DeviceHandle,
    dials: Mutex<HashMap<Token, Arc<Notify>>>,
    /// One clone per VM RPC stream that is served.
    rpc_streams: Arc<()>,
    pub(crate) counters: DialCounters,
}

impl GuestSockets {
    pub(crate) fn new(device: DeviceHandle) -> Arc<Self> {
        Arc::new(Self {
            device,
            dials: Mutex::default(),
            rpc_streams: Arc::new(()),
            counters: DialCounters::default(),
        })
    }

    fn dials(&self) -> MutexGuard<'_, HashMap<Token, Arc<Notify>>> {
        self.dials.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Nobody waits for the dial any more.
    pub(crate) fn cancel(&self, token: Token) {
        if let Some(dial) = self.dials().get(&token) {
            dial.notify_one();
        }
    }

    /// Counts a VM RPC stream for as long as the returned value lives.
    pub(crate) fn count_rpc_stream(&self) -> Arc<()> {
        Arc::clone(&self.rpc_streams)
    }

    /// How many VM RPC streams are served.
    pub(crate) fn rpc_streams(&self) -> u64 {
        Arc::strong_count(&self.rpc_streams) as u64 - 1
    }

    /// How many dials are under way.
    pub(crate) fn dials_under_way(&self) -> usize {
        self.dials().len()
    }
}

/// State that the module shares with the daemon.
#[derive(Debug)]
pub(crate) struct Sockets {
    guests: RwLock<HashMap<u64, Arc<GuestSockets>>>,
    config: Arc<Config>,
    transports: Transports,
    draining: AtomicBool,
}

impl Sockets {
    pub(crate) fn new(config: Arc<Config>, transports: Transports) -> Arc<Self> {
        Arc::new(Self {
            guests: RwLock::default(),
            config,
            transports,
            draining: AtomicBool::new(false),
        })
    }

    /// Serves a guest from now on.
    pub(crate) fn add_guest(&self, cid: u64, guest: Arc<GuestSockets>) {
        self.guests.write().unwrap_or_else(PoisonError::into_inner).insert(cid, guest);
    }

    /// Refuses new connections: the gateway is about to end.
    pub(crate) fn drain(&self) {
        self.draining.store(true, Ordering::Release);
    }

    fn guest(&self, caller: &Caller) -> Result<Arc<GuestSockets>, CallError> {
        let guests = self.guests.read().unwrap_or_else(PoisonError::into_inner);
        guests.get(&caller.cid).cloned().ok_or(CallError::Errno(Errno::ENETDOWN))
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
        socket::VERSIONS
    }

    async fn call(
        &self,
        caller: &Caller,
        _: Version,
        function: u32,
        arguments: Vec<u8>,
    ) -> Result<Vec<u8>, CallError> {
        match function {
            socket::CONNECT => {
                let request = ConnectRequest::decode(&arguments)?;
                let reply = self.0.connect(caller, request).await.map_err(CallError::Errno)?;
                Ok(reply.encode())
            }
            socket::CANCEL => {
                self.0.guest(caller)?.cancel(Token::decode(&arguments)?);
                Ok(Vec::new())
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

/// An announced token. Dropped before the dial succeeded, it reports the failure.
struct Announced {
    guest: Arc<GuestSockets>,
    token: Token,
    dialled: bool,
}

impl Announced {
    fn new(guest: Arc<GuestSockets>, token: Token) -> Result<(Self, Arc<Notify>), Errno> {
        let cancelled = Arc::new(Notify::new());
        {
            let mut dials = guest.dials();
            if dials.len() >= limits::DIALS_PER_GUEST_MAX {
                return Err(Errno::ENOBUFS);
            }
            if dials.contains_key(&token) {
                return Err(Errno::EADDRINUSE);
            }
            dials.insert(token, Arc::clone(&cancelled));
        }
        let announced = Self { guest, token, dialled: false };
        let told = announced.guest.device.announce(VsockPort(token.raw()));
        told.map(|()| (announced, cancelled)).map_err(|_| Errno::ENOBUFS)
    }

    fn succeed(mut self, end: FarEnd) -> Result<(), Errno> {
        self.dialled = true;
        let told = self.guest.device.dial_ok(VsockPort(self.token.raw()), end);
        told.map_err(|_| Errno::ENOBUFS)
    }
}

impl Drop for Announced {
    fn drop(&mut self) {
        self.guest.dials().remove(&self.token);
        if !self.dialled {
            // An overloaded device times the REQUEST out by itself.
            let _ = self.guest.device.dial_failed(VsockPort(self.token.raw()));
        }
    }
}

/// Where a connection goes, by the rules.
struct Way {
    destination: Destination,
    transport: outsock_core::route::WayId,
}

impl Sockets {
    async fn connect(
        &self,
        caller: &Caller,
        request: ConnectRequest,
    ) -> Result<ConnectReply, Errno> {
        let guest = self.guest(caller).map_err(|_| Errno::ENETDOWN)?;
        let (announced, cancelled) = Announced::new(Arc::clone(&guest), request.token)?;
        if self.draining.load(Ordering::Acquire) {
            return Err(Errno::ENETDOWN);
        }
        let socket::Destination::Address(asked) = request.destination else {
            return Err(Errno::EAFNOSUPPORT);
        };
        let way = self.decide(caller, asked).inspect_err(|_| {
            guest.counters.refused_by_rule.fetch_add(1, Ordering::Relaxed);
        })?;
        let Some((name, transport)) = self.transports.find(way.transport) else {
            return Err(Errno::ENETUNREACH);
        };
        let dial = transport.dial(DialRequest {
            destination: way.destination,
            source: request.source,
            timeout: self.config.dial_timeout,
        });
        let outcome = tokio::select! {
            outcome = dial => outcome,
            () = cancelled.notified() => return Err(Errno::ECANCELED),
        };
        let dialed = outcome.map_err(|error| {
            guest.counters.failed.fetch_add(1, Ordering::Relaxed);
            tracing::debug!(guest = %caller.guest, to = %asked, transport = name, %error, "dial failed");
            error.errno()
        })?;
        guest.counters.dialled.fetch_add(1, Ordering::Relaxed);
        tracing::debug!(guest = %caller.guest, to = %asked, transport = name, "connected");
        match dialed.stream {
            Stream::Socket(fd) => announced.succeed(FarEnd::socket(fd))?,
            Stream::Async(far) => {
                let (end, bridge) = guest.device.bridged();
                announced.succeed(end)?;
                tokio::spawn(pump(bridge, far));
            }
        }
        Ok(ConnectReply { local: dialed.local })
    }

    fn decide(&self, caller: &Caller, asked: SocketAddr) -> Result<Way, Errno> {
        let decision = self.config.routes.decide(&Query {
            address: Some(canonical(asked.ip())),
            ..Query::tcp(&caller.guest, asked.port())
        });
        let detail = decision.rule.and_then(|rule| self.config.route_details.get(rule));
        match decision.action {
            RuleAction::Refuse(errno) => {
                let rule = detail.map_or("the default", |detail| detail.name.as_str());
                tracing::debug!(guest = %caller.guest, to = %asked, rule, %errno, "refused");
                Err(errno)
            }
            RuleAction::Via(transport) => {
                let destination = match detail.and_then(|detail| detail.target.as_ref()) {
                    Some(Target::Address(address)) => Destination::Address(*address),
                    Some(Target::Unix(path)) => Destination::Unix(path.clone()),
                    // What was checked is what is dialled.
                    None => {
                        Destination::Address(SocketAddr::new(canonical(asked.ip()), asked.port()))
                    }
                };
                Ok(Way { destination, transport })
            }
        }
    }
}
