//! Local: services that guests of one gateway offer, by name, kind `"local"`.
//!
//! in:  listeners with a service's name (`[[publish]]`); dials of `SERVICE.SITE.peer` by guests;
//!      streams of peers, which the daemon hands in by [`Local::reserve`]
//! out: connections that never leave the gateway
//! owner: clones share one table of listeners under a short lock
//! keeps: one listener per service; a dial succeeds when the listener's backlog has taken it, as with
//!        TCP; half-close and reset as on any transport
//! bound: `ACCEPT_BACKLOG_MAX` per service; [`PIPE_BYTES`] each way per connection
//!
//! ```
//! use outsock_transport::{Destination, DialRequest, Transport};
//! use outsock_transport_local::Local;
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), outsock_transport::ListenError> {
//! let local = Local::new(Some("osaka"));
//! let mut listener = local.listen(&Destination::Name { name: "db".into(), port: 0 }).await?;
//! let to = Destination::Name { name: "db.osaka.peer".into(), port: 5432 };
//! local.dial(DialRequest::to(to)).await.expect("a guest offers it");
//! listener.accept().await.expect("it was dialled");
//! # Ok(()) }
//! ```
#![forbid(unsafe_code)]

mod datagrams;

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use async_trait::async_trait;
use outsock_peer::Framed;
use outsock_transport::limits::ACCEPT_BACKLOG_MAX;
use outsock_transport::{
    AcceptError, Capabilities, Carried, Destination, DialError, DialRequest, Dialed, Errno, Flow,
    FlowRequest, Inbound, ListenError, Listener, Stream, Transport,
};
use tokio::sync::mpsc::{self, OwnedPermit};

pub use datagrams::{Pipe, SESSION_BYTES_MAX, Session, SessionListener};

/// Bytes between the two ends of a connection, each way. Enough that the two pumps beside it are not
/// woken for each packet.
pub const PIPE_BYTES: usize = 128 * 1024;

/// Every site's own name, beside the one that it has.
const THIS_SITE: &str = "local";

/// See the crate.
#[derive(Clone, Debug)]
pub struct Local {
    site: Option<Arc<str>>,
    doors: Arc<Mutex<HashMap<String, Door>>>,
    datagrams: datagrams::Doors,
}

#[derive(Debug)]
struct Door {
    number: u64,
    backlog: mpsc::Sender<Inbound>,
}

#[derive(Debug)]
struct ServiceListener {
    local: Local,
    service: String,
    number: u64,
    backlog: mpsc::Receiver<Inbound>,
}

/// A place in a service's backlog.
#[derive(Debug)]
pub struct Place(OwnedPermit<Inbound>);

impl Place {
    /// Puts a connection there.
    pub fn put(self, inbound: Inbound) {
        self.0.send(inbound);
    }
}

impl Local {
    /// Without services yet. `site` is what this gateway's services are called by: `SERVICE.<site>.peer`;
    /// `SERVICE.local.peer` works always.
    pub fn new(site: Option<&str>) -> Self {
        Self {
            site: site.map(Into::into),
            doors: Arc::default(),
            datagrams: datagrams::Doors::default(),
        }
    }

    fn doors(&self) -> MutexGuard<'_, HashMap<String, Door>> {
        self.doors.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The service that a name means here.
    pub fn service<'n>(&self, name: &'n str) -> Option<&'n str> {
        let (service, site) = name.strip_suffix(".peer")?.rsplit_once('.')?;
        let is_ours = site == THIS_SITE || self.site.as_deref() == Some(site);
        (is_ours && !service.is_empty()).then_some(service)
    }

    /// Waits for a place in a service's backlog.
    ///
    /// # Errors
    /// [`DialError::Refused`] when nobody listens.
    pub async fn reserve(&self, service: &str) -> Result<Place, DialError> {
        let backlog = self.doors().get(service).map(|door| door.backlog.clone());
        let permit = backlog.ok_or(DialError::Refused)?.reserve_owned().await;
        permit.map(Place).map_err(|_| DialError::Refused)
    }

    /// Listens for sessions of datagrams.
    ///
    /// # Errors
    /// [`ListenError::AddressInUse`] when somebody does already.
    pub fn listen_datagrams(&self, service: &str) -> Result<SessionListener, ListenError> {
        self.datagrams.listen(service)
    }

    /// Opens a session of datagrams with a service; `client` stands for who asks. An echo request comes
    /// back by itself where anybody listens.
    ///
    /// # Errors
    /// [`DialError::Refused`] when nobody listens.
    pub fn open(
        &self,
        service: &str,
        carried: Carried,
        client: Option<SocketAddr>,
    ) -> Result<Pipe, DialError> {
        match carried {
            Carried::Udp => self.datagrams.open(service, client),
            Carried::Echo if self.listens(service) => Ok(datagrams::mirror()),
            Carried::Echo => Err(DialError::Refused),
        }
    }

    fn listens(&self, service: &str) -> bool {
        let is_stream = self.doors().get(service).is_some_and(|door| !door.backlog.is_closed());
        is_stream || self.datagrams.is_open(service)
    }

    async fn connect(&self, request: &DialRequest) -> Result<Dialed, DialError> {
        let Destination::Name { name, .. } = &request.destination else {
            return Err(DialError::UnsupportedDestination("anything but SERVICE.SITE.peer"));
        };
        let service = self.service(name).ok_or(DialError::HostUnreachable)?;
        let place = self.reserve(service).await?;
        let (near, far) = tokio::io::duplex(PIPE_BYTES);
        let stream = |pipe| Stream::Async(Box::pin(Framed::new(pipe)));
        let peer: Option<SocketAddr> = request.origin.address;
        place.put(Inbound { stream: stream(far), peer, local: None });
        Ok(Dialed { stream: stream(near), local: None })
    }
}

#[async_trait]
impl Transport for Local {
    fn kind(&self) -> &'static str {
        "local"
    }

    fn capabilities(&self) -> Capabilities {
        Capabilities {
            dials_addresses: false,
            dials_names: true,
            dials_unix: false,
            listens: true,
            half_close: true,
            reset: true,
            encrypted: false,
        }
    }

    async fn dial(&self, request: DialRequest) -> Result<Dialed, DialError> {
        let connect = self.connect(&request);
        tokio::time::timeout(request.timeout, connect).await.unwrap_or(Err(DialError::TimedOut))
    }

    async fn listen(&self, at: &Destination) -> Result<Box<dyn Listener>, ListenError> {
        let Destination::Name { name: service, .. } = at else {
            return Err(ListenError::Unsupported("anything but a service's name"));
        };
        let mut doors = self.doors();
        if doors.get(service).is_some_and(|door| !door.backlog.is_closed()) {
            return Err(ListenError::AddressInUse);
        }
        let backlog_max = usize::try_from(ACCEPT_BACKLOG_MAX).unwrap_or(usize::MAX);
        let (sender, backlog) = mpsc::channel(backlog_max);
        let number = doors.get(service).map_or(0, |door| door.number + 1);
        doors.insert(service.clone(), Door { number, backlog: sender });
        let local = self.clone();
        Ok(Box::new(ServiceListener { local, service: service.clone(), number, backlog }))
    }

    fn carries(&self, carried: Carried) -> bool {
        match carried {
            Carried::Udp | Carried::Echo => true,
        }
    }

    async fn flow(&self, request: FlowRequest) -> Result<Box<dyn Flow>, DialError> {
        let Destination::Name { name, .. } = &request.destination else {
            return Err(DialError::UnsupportedDestination("anything but SERVICE.SITE.peer"));
        };
        let service = self.service(name).ok_or(DialError::HostUnreachable)?;
        let pipe = self.open(service, request.carried, request.origin.address)?;
        Ok(Box::new(pipe))
    }
}

#[async_trait]
impl Listener for ServiceListener {
    fn local(&self) -> Destination {
        Destination::Name { name: self.service.clone(), port: 0 }
    }

    async fn accept(&mut self) -> Result<Inbound, AcceptError> {
        self.backlog.recv().await.ok_or(AcceptError::Ended(Errno::ECONNABORTED))
    }
}

impl Drop for ServiceListener {
    fn drop(&mut self) {
        let mut doors = self.local.doors();
        if doors.get(&self.service).is_some_and(|door| door.number == self.number) {
            doors.remove(&self.service);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_this_site_are_services() {
        let local = Local::new(Some("osaka"));
        assert_eq!(local.service("db.osaka.peer"), Some("db"));
        assert_eq!(local.service("db.local.peer"), Some("db"));
        assert_eq!(local.service("a.b.osaka.peer"), Some("a.b"));
        for other in ["db.tokyo.peer", "osaka.peer", ".osaka.peer", "db.osaka", "db", ""] {
            assert_eq!(local.service(other), None, "{other}");
        }
        assert_eq!(Local::new(None).service("db.osaka.peer"), None);
    }
}
