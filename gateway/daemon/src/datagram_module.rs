//! The `datagram` host module: datagrams of guests, as flows of transports.
//!
//! in: channels that agents open ([`outsock_vmrpc::datagram`]); out: flows by the transports that the
//! rules name, datagrams and failures back into the channel. Owner: one task per channel, one per
//! flow, all of which end with the channel. Kept: each flow is decided about by the rules before
//! anything is sent, with the protocol that it is (udp, icmp); a datagram that cannot go on is dropped
//! or answered, never kept back for another one's sake. Bounds: [`limits::CHANNELS_PER_GUEST_MAX`],
//! [`limits::FLOWS_PER_GUEST_MAX`], the guest's own limits.
//!
//! | Module | What it holds |
//! |---|---|
//! | `channel` | one channel: messages in, messages out |
//! | `flows` | the flows of a channel, by their ends |
//! | `flow` | the course of one flow, from its first datagram to its end |
//! | `far` | a flow by a chosen way, for guests and for peers |
//! | `published` | ports of the host at which datagrams come in |
//! | `outbox` | what waits to be written to a guest |

mod channel;
pub(crate) mod far;
mod flow;
mod flows;
mod outbox;
mod published;

use std::collections::HashSet;
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, Mutex, PoisonError};

use outsock_vmrpc::datagram::{self, Open};
use outsock_vmrpc::host::{CallError, Caller, HostModule};
use outsock_vmrpc::{Errno, ModuleName, Version, VersionRange};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::config::DatagramPlace;
use crate::limits;
use crate::socket_module::{Announced, Sockets};
use channel::Channel;

/// A port of the guest, and the place that stands for it.
pub(crate) type Place = (u16, DatagramPlace);

/// A place where datagrams come in.
#[derive(Debug)]
struct Shown {
    open: Arc<Mutex<HashSet<Place>>>,
    place: Place,
}

impl Drop for Shown {
    fn drop(&mut self) {
        self.open.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.place);
    }
}

/// What the gateway knows of one guest's datagrams.
#[derive(Debug)]
pub(crate) struct Datagrams {
    channels: Arc<Semaphore>,
    flows: Arc<Semaphore>,
    open: Arc<Mutex<HashSet<Place>>>,
    /// Datagrams from the guest that went on.
    pub(crate) sent: AtomicU64,
    /// Datagrams to the guest.
    pub(crate) received: AtomicU64,
    /// Datagrams of either direction that found no room.
    pub(crate) dropped: AtomicU64,
    /// Flows that a rule, a limit or a failure ended before they began.
    pub(crate) refused: AtomicU64,
}

impl Default for Datagrams {
    fn default() -> Self {
        Self {
            channels: Arc::new(Semaphore::new(limits::CHANNELS_PER_GUEST_MAX)),
            flows: Arc::new(Semaphore::new(limits::FLOWS_PER_GUEST_MAX)),
            open: Arc::default(),
            sent: AtomicU64::default(),
            received: AtomicU64::default(),
            dropped: AtomicU64::default(),
            refused: AtomicU64::default(),
        }
    }
}

impl Datagrams {
    /// Flows that stand or are about to.
    pub(crate) fn flows(&self) -> u64 {
        (limits::FLOWS_PER_GUEST_MAX - self.flows.available_permits()) as u64
    }

    /// Whether datagrams come in there.
    pub(crate) fn is_open(&self, place: &Place) -> bool {
        self.open.lock().unwrap_or_else(PoisonError::into_inner).contains(place)
    }

    /// Datagrams come in there for as long as the returned value lives.
    fn show(&self, place: &Place) -> Shown {
        let open = Arc::clone(&self.open);
        open.lock().unwrap_or_else(PoisonError::into_inner).insert(place.clone());
        Shown { open, place: place.clone() }
    }

    /// Leave for one flow, for as long as the returned value lives.
    fn admit_flow(&self) -> Option<OwnedSemaphorePermit> {
        Arc::clone(&self.flows).try_acquire_owned().ok()
    }
}

/// The module itself.
#[derive(Debug)]
pub(crate) struct DatagramModule(pub(crate) Arc<Sockets>);

#[async_trait::async_trait]
impl HostModule for DatagramModule {
    fn name(&self) -> ModuleName {
        datagram::NAME.parse().unwrap_or_else(|error| unreachable!("a constant: {error}"))
    }

    fn versions(&self) -> VersionRange {
        datagram::VERSIONS
    }

    async fn call(
        &self,
        caller: &Caller,
        _: Version,
        function: u32,
        arguments: Vec<u8>,
    ) -> Result<Vec<u8>, CallError> {
        match function {
            datagram::OPEN => {
                let open = Open::decode(&arguments)?;
                self.open(caller, open).map_err(CallError::Errno)?;
                Ok(Vec::new())
            }
            _ => Err(CallError::NoSuchFunction),
        }
    }
}

impl DatagramModule {
    fn open(&self, caller: &Caller, open: Open) -> Result<(), Errno> {
        let guest = self.0.guest(caller)?;
        let (announced, _) = Announced::new(Arc::clone(&guest), open.token)?;
        if self.0.is_draining() {
            return Err(Errno::ENETDOWN);
        }
        let place = Arc::clone(&guest.datagrams.channels).try_acquire_owned();
        let place = place.map_err(|_| Errno::EAGAIN)?;
        let (end, stream) = guest.device.bridged();
        announced.succeed(end)?;
        let counted = guest.count_rpc_stream();
        let channel = Channel::new(Arc::clone(&self.0), guest, caller.clone());
        tokio::spawn(async move {
            channel.run(stream, open).await;
            drop((place, counted));
        });
        Ok(())
    }
}
