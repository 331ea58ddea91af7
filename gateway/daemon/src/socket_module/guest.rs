//! GuestSockets: what the gateway knows of one guest while it is served.
//!
//! in: dials, queries, connections; out: leave to go on, or not. Owner: shared by the guest's tasks;
//! short locks. Kept: the guest's limits, also when a reload changes them. Bounds: those limits.

use std::collections::HashMap;
use std::io;
use std::pin::Pin;
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use outsock_core::bucket::Bucket;
use outsock_device::{BridgeStream, DeviceHandle, FarEnd};
use outsock_transport::{AsyncStream, Stream};
use outsock_vmrpc::Errno;
use outsock_vmrpc::socket::Token;
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore};

use super::inbound::Inbound;
use crate::config::GuestLimits;
use crate::connections::Connections;
use crate::datagram_module::Datagrams;
use crate::logs::LogLimit;
use crate::seen::Seen;
use crate::throttle::Throttle;
use crate::{clock, limits};

/// Counters of one guest's dials.
#[derive(Debug, Default)]
pub(crate) struct DialCounters {
    pub(crate) dialled: AtomicU64,
    pub(crate) refused_by_rule: AtomicU64,
    pub(crate) refused_by_limit: AtomicU64,
    pub(crate) failed: AtomicU64,
    /// Connections that came in.
    pub(crate) accepted: AtomicU64,
}

/// Which limit a connect ran into.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum LimitReached {
    /// `connections_max`.
    #[error("too many connections")]
    Connections,
    /// `connects_per_second_max`.
    #[error("too many connects per second")]
    Rate,
    /// [`limits::DIALS_PER_GUEST_MAX`].
    #[error("too many dials under way")]
    Dials,
    /// [`limits::FLOWS_PER_GUEST_MAX`].
    #[error("too many flows of datagrams, all in use")]
    Flows,
}

impl LimitReached {
    /// What the program sees: the errno of the resource that Linux would have run out of.
    pub(crate) fn errno(self) -> Errno {
        match self {
            // As `socket()` of a process at its limit of descriptors.
            Self::Connections => Errno::EMFILE,
            // As `connect()` without a free local port: later it will work.
            Self::Rate => Errno::EAGAIN,
            Self::Dials | Self::Flows => Errno::ENOBUFS,
        }
    }
}

#[derive(Debug)]
struct Allowed {
    limits: GuestLimits,
    connects: Bucket,
    bytes: Option<Arc<Throttle>>,
}

/// The two sides of a pump.
pub(super) type Pumped = (BridgeStream, Pin<Box<dyn AsyncStream>>);

/// See the module.
#[derive(Debug)]
pub(crate) struct GuestSockets {
    pub(crate) device: DeviceHandle,
    dials: Mutex<HashMap<Token, Arc<Notify>>>,
    /// One clone per VM RPC stream that is served.
    rpc_streams: Arc<()>,
    pub(crate) counters: DialCounters,
    pub(crate) connections: Connections,
    pub(crate) inbound: Inbound,
    pub(crate) datagrams: Datagrams,
    pub(crate) log: LogLimit,
    pub(crate) seen: Seen,
    allowed: Mutex<Allowed>,
    queries: Arc<Semaphore>,
    query_rate: Mutex<Bucket>,
}

impl GuestSockets {
    pub(crate) fn new(device: DeviceHandle, limits: GuestLimits) -> Arc<Self> {
        let queries = limits::QUERIES_PER_SECOND;
        Arc::new(Self {
            inbound: Inbound::new(device.clone()),
            device,
            dials: Mutex::default(),
            rpc_streams: Arc::new(()),
            counters: DialCounters::default(),
            connections: Connections::default(),
            datagrams: Datagrams::default(),
            log: LogLimit::new(),
            seen: Seen::default(),
            allowed: Mutex::new(Allowed {
                limits,
                connects: connects(&limits),
                bytes: limits.bytes_per_second_max.map(|max| Arc::new(Throttle::new(max))),
            }),
            queries: Arc::new(Semaphore::new(limits::QUERIES_PER_GUEST_MAX)),
            query_rate: Mutex::new(Bucket::new(queries, queries, clock::now())),
        })
    }

    fn allowed(&self) -> MutexGuard<'_, Allowed> {
        self.allowed.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// From now on these limits count. Connections that stand stay.
    pub(crate) fn set_limits(&self, limits: GuestLimits) {
        let mut allowed = self.allowed();
        if allowed.limits == limits {
            return;
        }
        if allowed.limits.connects_per_second_max != limits.connects_per_second_max {
            allowed.connects = connects(&limits);
        }
        match (&allowed.bytes, limits.bytes_per_second_max) {
            (Some(throttle), Some(max)) => throttle.set(max),
            // Who goes by the old limit already is held up no more.
            (Some(throttle), None) => throttle.set(u64::MAX / 2000),
            (None, _) => {}
        }
        allowed.bytes = match (allowed.bytes.take(), limits.bytes_per_second_max) {
            (old, Some(max)) => Some(old.unwrap_or_else(|| Arc::new(Throttle::new(max)))),
            (_, None) => None,
        };
        allowed.limits = limits;
    }

    /// Whether one more connect is within the limits.
    pub(super) fn admit_connect(&self) -> Result<(), LimitReached> {
        let (max, rate) = {
            let mut allowed = self.allowed();
            (allowed.limits.connections_max, allowed.connects.take(clock::now()))
        };
        if !rate {
            return Err(LimitReached::Rate);
        }
        // This connect's own dial is among those under way.
        let others = self.dials_under_way().saturating_sub(1);
        let left = usize::try_from(max).unwrap_or(usize::MAX).saturating_sub(others);
        if self.connections.are_below(left) { Ok(()) } else { Err(LimitReached::Connections) }
    }

    /// Whether one more connection that came in is within the limits.
    pub(super) fn has_room_for_connection(&self) -> bool {
        let max = usize::try_from(self.allowed().limits.connections_max).unwrap_or(usize::MAX);
        self.connections.are_below(max.saturating_sub(self.dials_under_way()))
    }

    /// A far end for a transport's stream, and what has to be pumped once it is attached: a socket
    /// goes to the device as it is, unless its bytes are counted.
    pub(super) fn far_end(
        &self,
        stream: Stream,
        counted: bool,
    ) -> io::Result<(FarEnd, Option<Pumped>)> {
        match stream {
            Stream::Socket(fd) if !counted => Ok((FarEnd::socket(fd), None)),
            stream => {
                let far = stream.into_async()?;
                let (end, bridge) = self.device.bridged();
                Ok((end, Some((bridge, far))))
            }
        }
    }

    /// Whether one more flow of datagrams is within the limit of connects per second.
    pub(crate) fn admit_rate(&self) -> bool {
        self.allowed().connects.take(clock::now())
    }

    /// The limit of bytes per second.
    pub(crate) fn throttle(&self) -> Option<Arc<Throttle>> {
        self.allowed().bytes.clone()
    }

    /// Leave for one DNS query, for as long as the returned value lives.
    pub(crate) fn admit_query(&self) -> Option<OwnedSemaphorePermit> {
        let mut rate = self.query_rate.lock().unwrap_or_else(PoisonError::into_inner);
        if !rate.take(clock::now()) {
            return None;
        }
        Arc::clone(&self.queries).try_acquire_owned().ok()
    }

    pub(super) fn dials(&self) -> MutexGuard<'_, HashMap<Token, Arc<Notify>>> {
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

fn connects(limits: &GuestLimits) -> Bucket {
    let rate = limits.connects_per_second_max;
    Bucket::new(rate, rate, clock::now())
}
