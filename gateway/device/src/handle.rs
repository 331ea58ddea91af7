//! What the daemon holds of a guest's device: commands in, news out, counters.
//!
//! Commands go through a bounded queue and an eventfd to the vring worker, which takes them all at
//! each wake-up; news comes back through a bounded tokio channel. Neither side ever waits for the
//! other under a lock.

use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use outsock_core::address::VsockPort;
use outsock_core::muxer::{ConnectionId, PlainRequest};
use tokio::sync::mpsc;
use vmm_sys_util::eventfd::EventFd;

use crate::bridge::{Bells, BridgeEnd, BridgeStream, bridge};
use crate::end::HostEnd;
use crate::host_socket::HostSocket;
use crate::limits;
use crate::messages;
use crate::plain::Opening;
use crate::queue_memory::GuestPages;
use crate::stats::ConnectionStats;

/// What the worker tells the daemon.
#[derive(Debug)]
pub enum News {
    /// The guest opened a service port. Dropping the stream resets it.
    Service {
        /// Which.
        port: VsockPort,
        /// The guest's port. Its kernel gives those below 1024 to privileged processes only.
        from: VsockPort,
        /// The bytes.
        stream: BridgeStream,
        /// The guest's memory, as long as this life of it lasts.
        memory: GuestPages,
    },
    /// A program of the guest opened a port of the host, or of another guest, by itself. Answer by
    /// [`DeviceHandle::accept`] or [`DeviceHandle::refuse`]; until then its connect() waits.
    Asked(ConnectionId, PlainRequest),
    /// Nobody waits for the dial of this token any more, or the guest has too many.
    CancelDial(VsockPort),
    /// The guest was reset, or its VMM is gone: everything of it is dead, also the dials.
    GuestGone,
}

/// A command for the worker.
#[derive(Debug)]
pub(crate) enum Command {
    Announce(VsockPort),
    DialOk(VsockPort, FarEnd),
    DialFailed(VsockPort),
    Reset(VsockPort),
    Plain(bool),
    Accept(ConnectionId, FarEnd),
    Refuse(ConnectionId),
    Call(Opening),
}

/// The worker has not taken its commands for long: it is stuck, or the guest floods it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the guest's device has too many commands waiting")]
pub struct Overloaded;

/// Counters of one guest, for status and metrics. All but `open` only grow.
#[derive(Debug, Default)]
pub struct DeviceCounters {
    /// Connections that exist.
    pub open: AtomicU64,
    /// Connections that reached Open.
    pub opened: AtomicU64,
    /// Payload bytes from the guest.
    pub tx_bytes: AtomicU64,
    /// Payload bytes to the guest.
    pub rx_bytes: AtomicU64,
    /// Connections ended by a guest's broken packet.
    pub misbehaved: AtomicU64,
    /// Packets with a false CID.
    pub forged: AtomicU64,
    /// Malformed descriptor chains.
    pub bad_chains: AtomicU64,
    /// Rings that could not be used.
    pub broken_rings: AtomicU64,
    /// Notifications sent to the driver.
    pub notifications: AtomicU64,
}

#[derive(Debug)]
pub(crate) struct Mailbox {
    pub(crate) commands: Mutex<Vec<Command>>,
    pub(crate) event: EventFd,
}

/// One guest's device, as the daemon sees it. Clones share it.
#[derive(Clone, Debug)]
pub struct DeviceHandle {
    pub(crate) mailbox: Arc<Mailbox>,
    pub(crate) bells: Arc<Bells>,
    pub(crate) counters: Arc<DeviceCounters>,
}

/// The far end of a connection, before it is given to a token.
#[derive(Debug)]
pub struct FarEnd {
    pub(crate) host: HostEnd,
    pub(crate) stats: Arc<ConnectionStats>,
    /// It carries messages.
    pub(crate) messages: bool,
}

impl FarEnd {
    /// A connected stream socket of this host's kernel. The worker makes only non-blocking calls.
    pub fn socket(fd: OwnedFd) -> Self {
        Self::new(HostEnd::Socket(Arc::new(fd)))
    }

    /// A connected SOCK_SEQPACKET Unix socket. One that cannot take the longest message that a guest
    /// may send is an error.
    pub fn messages(fd: OwnedFd) -> std::io::Result<Self> {
        messages::prepare(&fd)?;
        Ok(Self { messages: true, ..Self::socket(fd) })
    }

    pub(crate) fn new(host: HostEnd) -> Self {
        Self { host, stats: Arc::default(), messages: false }
    }

    /// Closes it so that the far side sees a reset, instead of giving it to a token.
    pub fn reset(self) {
        self.host.reset();
    }

    /// The connection's counters, to keep.
    pub fn stats(&self) -> Arc<ConnectionStats> {
        Arc::clone(&self.stats)
    }

    /// The kernel socket, to ask; `None` of a bridge.
    pub fn host_socket(&self) -> Option<HostSocket> {
        match &self.host {
            HostEnd::Socket(fd) => Some(HostSocket(Arc::downgrade(fd))),
            HostEnd::Bridge(_) => None,
        }
    }
}

impl DeviceHandle {
    /// A far end that an async task drives through the returned stream.
    pub fn bridged(&self) -> (FarEnd, BridgeStream) {
        let (end, stream): (BridgeEnd, _) = bridge(&self.bells);
        (FarEnd::new(HostEnd::Bridge(end)), stream)
    }

    /// A dial for this token has begun.
    pub fn announce(&self, token: VsockPort) -> Result<(), Overloaded> {
        self.command(Command::Announce(token))
    }

    /// The dial succeeded; the guest's connection gets this end.
    pub fn dial_ok(&self, token: VsockPort, end: FarEnd) -> Result<(), Overloaded> {
        self.command(Command::DialOk(token, end))
    }

    /// The dial failed, or was given up.
    pub fn dial_failed(&self, token: VsockPort) -> Result<(), Overloaded> {
        self.command(Command::DialFailed(token))
    }

    /// The connection of this token is unwanted: its far side sees a reset, and the guest too. It may
    /// stand already, or wait for the guest; one that is not there is ignored.
    pub fn reset(&self, token: VsockPort) -> Result<(), Overloaded> {
        self.command(Command::Reset(token))
    }

    /// The guest's counters.
    pub fn counters(&self) -> &DeviceCounters {
        &self.counters
    }

    /// Whether programs of the guest may open ports by themselves; at first they may not.
    pub fn set_plain(&self, plain: bool) -> Result<(), Overloaded> {
        self.command(Command::Plain(plain))
    }

    /// Answers [`News::Asked`]: the guest's connection gets this end.
    pub fn accept(&self, id: ConnectionId, end: FarEnd) -> Result<(), Overloaded> {
        self.command(Command::Accept(id, end))
    }

    /// Answers [`News::Asked`]: the guest's connection is reset.
    pub fn refuse(&self, id: ConnectionId) -> Result<(), Overloaded> {
        self.command(Command::Refuse(id))
    }

    /// Opens a connection to a port of the guest; how it went comes by the opening's channel.
    pub fn call(&self, opening: Opening) -> Result<(), Overloaded> {
        self.command(Command::Call(opening))
    }

    fn command(&self, command: Command) -> Result<(), Overloaded> {
        let mut commands = self.mailbox.commands.lock().unwrap_or_else(PoisonError::into_inner);
        if commands.len() >= limits::COMMANDS_MAX {
            return Err(Overloaded);
        }
        commands.push(command);
        if commands.len() == 1 {
            // Fails only when the counter is full, which is a wake-up too.
            let _ = self.mailbox.event.write(1);
        }
        Ok(())
    }
}

impl DeviceCounters {
    pub(crate) fn add(counter: &AtomicU64, n: u64) {
        counter.fetch_add(n, Ordering::Relaxed);
    }
}

pub(crate) type NewsSender = mpsc::Sender<News>;
