//! Network: all addresses of one memory transport, and the transport itself.
//!
//! in:  dials, listens, and the faults that a test puts on a destination
//! out: connections
//! owner: clones share one table; its lock is never held over an await
//! keeps: one listener per destination; a destination without listener and faults is forgotten
//! bound: as many paths as listeners and destinations with faults, and those whose connections
//!        outlived their listener

use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::atomic::{AtomicU16, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use async_trait::async_trait;
use outsock_transport::{
    AcceptError, Capabilities, Destination, DialError, DialRequest, Dialed, Errno, Inbound,
    ListenError, Listener, Stream, Transport,
};

use crate::door::Door;
use crate::faults::Faults;
use crate::limits;
use crate::link;
use crate::path::Path;

/// Addresses, listeners and faults that belong together. Clones are the same network.
#[derive(Clone, Debug, Default)]
pub struct Network(Arc<Inner>);

#[derive(Debug, Default)]
struct Inner {
    paths: Mutex<HashMap<Destination, Arc<Path>>>,
    next_port: AtomicU16,
}

/// The transport over a [`Network`].
#[derive(Clone, Debug)]
pub struct Memory(Network);

#[derive(Debug)]
struct MemoryListener {
    network: Network,
    at: Destination,
    path: Arc<Path>,
    door: Arc<Door>,
}

impl Network {
    /// A network with nobody on it.
    pub fn new() -> Self {
        Self::default()
    }

    /// A transport that dials and listens here.
    pub fn transport(&self) -> Memory {
        Memory(self.clone())
    }

    /// Replaces the faults on the path to a destination, whether somebody listens there or not.
    /// Connections that stand and dials that wait obey at once; [`Faults::default`] heals.
    pub fn set_faults(&self, to: &Destination, faults: Faults) {
        self.path(to).set_faults(faults);
        self.forget_if_plain(to);
    }

    /// The faults on the path to a destination.
    pub fn faults(&self, to: &Destination) -> Faults {
        self.known(to).map_or_else(Faults::default, |path| path.faults().clone())
    }

    /// Ends the listener at a destination, as if its process had died: its accept gives
    /// [`AcceptError::Ended`], connections that wait are reset, dials are refused. Connections that
    /// were accepted live on. The address is free again.
    pub fn drop_listener(&self, at: &Destination) {
        if let Some(path) = self.known(at) {
            path.close_door();
        }
    }

    /// Resets every connection to a destination with this errno, at both ends.
    pub fn reset(&self, to: &Destination, errno: Errno) {
        if let Some(path) = self.known(to) {
            path.reset(errno);
        }
    }

    /// How many connections to a destination have an end that was not dropped yet.
    pub fn connections(&self, to: &Destination) -> usize {
        self.known(to).map_or(0, |path| path.links().len())
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Destination, Arc<Path>>> {
        self.0.paths.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn known(&self, to: &Destination) -> Option<Arc<Path>> {
        self.lock().get(to).cloned()
    }

    fn path(&self, to: &Destination) -> Arc<Path> {
        Arc::clone(self.lock().entry(to.clone()).or_default())
    }

    /// Keeps the table from growing with every address that was ever used.
    fn forget_if_plain(&self, to: &Destination) {
        let mut paths = self.lock();
        if paths.get(to).is_some_and(|path| path.is_plain() && path.links().is_empty()) {
            paths.remove(to);
        }
    }

    /// Opens a door under the table's lock, so that the path is not forgotten in between.
    fn open(&self, at: &Destination) -> Option<(Arc<Path>, Arc<Door>)> {
        let mut paths = self.lock();
        let path = Arc::clone(paths.entry(at.clone()).or_default());
        path.open_door().map(|door| (path, door))
    }

    fn fresh_port(&self) -> u16 {
        let span = u16::MAX - limits::EPHEMERAL_PORTS_START;
        let count = self.0.next_port.fetch_add(1, Ordering::Relaxed);
        limits::EPHEMERAL_PORTS_START + count % span
    }

    /// The name of a dialer's end. Its port is a number only; nothing reserves it.
    fn source(&self, request: &DialRequest) -> Option<SocketAddr> {
        let host = match &request.destination {
            Destination::Address(SocketAddr::V6(_)) => IpAddr::V6(Ipv6Addr::LOCALHOST),
            Destination::Address(_) | Destination::Name { .. } => IpAddr::V4(Ipv4Addr::LOCALHOST),
            Destination::Unix(_) => return None,
        };
        let wish = request.source.map(|address| address.port()).filter(|port| *port != 0);
        Some((host, wish.unwrap_or_else(|| self.fresh_port())).into())
    }

    async fn connect(&self, request: &DialRequest) -> Result<Dialed, DialError> {
        let path = self.known(&request.destination).ok_or(DialError::Refused)?;
        path.passable().await?;
        let door = path.door().ok_or(DialError::Refused)?;
        let local = self.source(request);
        let at = match &request.destination {
            Destination::Address(address) => Some(*address),
            Destination::Name { .. } | Destination::Unix(_) => None,
        };
        door.enter(|| {
            let (near, far) = link::connect(&path);
            let dialed = Dialed { stream: Stream::Async(Box::pin(near)), local };
            (dialed, Inbound { stream: Stream::Async(Box::pin(far)), peer: local, local: at })
        })
        .await
    }
}

#[async_trait]
impl Transport for Memory {
    fn kind(&self) -> &'static str {
        "memory"
    }

    fn capabilities(&self) -> Capabilities {
        Capabilities {
            dials_addresses: true,
            dials_names: true,
            dials_unix: true,
            listens: true,
            half_close: true,
            reset: true,
            encrypted: false,
        }
    }

    async fn dial(&self, request: DialRequest) -> Result<Dialed, DialError> {
        match tokio::time::timeout(request.timeout, self.0.connect(&request)).await {
            Ok(dialed) => dialed,
            Err(_) => Err(DialError::TimedOut),
        }
    }

    async fn listen(&self, at: &Destination) -> Result<Box<dyn Listener>, ListenError> {
        let network = &self.0;
        let listener = |at: Destination, (path, door)| {
            Box::new(MemoryListener { network: network.clone(), at, path, door })
        };
        let Some(ask) = any_port(at) else {
            let open = network.open(at).ok_or(ListenError::AddressInUse)?;
            return Ok(listener(at.clone(), open));
        };
        for _ in limits::EPHEMERAL_PORTS_START..u16::MAX {
            let at = ask(network.fresh_port());
            if let Some(open) = network.open(&at) {
                return Ok(listener(at, open));
            }
        }
        Err(ListenError::AddressInUse)
    }
}

/// For an address with port 0: the same with another port.
fn any_port(at: &Destination) -> Option<Box<dyn Fn(u16) -> Destination + Send + Sync + '_>> {
    match at {
        Destination::Address(address) if address.port() == 0 => {
            Some(Box::new(|port| Destination::Address((address.ip(), port).into())))
        }
        Destination::Name { name, port: 0 } => {
            Some(Box::new(|port| Destination::Name { name: name.clone(), port }))
        }
        Destination::Address(_) | Destination::Name { .. } | Destination::Unix(_) => None,
    }
}

#[async_trait]
impl Listener for MemoryListener {
    fn local(&self) -> Destination {
        self.at.clone()
    }

    async fn accept(&mut self) -> Result<Inbound, AcceptError> {
        self.door.next().await.ok_or(AcceptError::Ended(Errno::ECONNABORTED))
    }
}

impl Drop for MemoryListener {
    fn drop(&mut self) {
        self.path.close_this_door(&self.door);
        self.network.forget_if_plain(&self.at);
    }
}
