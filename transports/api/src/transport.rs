//! Transport: the plugin interface itself.
//!
//! in:  a [`DialRequest`] that the rules allowed, or an address to listen on
//! out: [`Dialed`] or [`Inbound`] connections, or an error that has an errno
//! owner: one value per configured transport, shared by all guests; set-up runs on the daemon's tasks
//! keeps: a dial returns after the far socket has connected; a dropped dial leaves nothing behind
//! bound: [`limits::DIAL_TIMEOUT`], [`limits::ACCEPT_BACKLOG_MAX`]

use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;

use crate::datagram::{Carried, Flow, FlowRequest};
use crate::error::{AcceptError, DialError, ListenError};
use crate::limits;
use crate::option::SocketOption;
use crate::stream::Stream;

/// Where a dial goes.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Destination {
    /// An address, already checked against the rules: it is the one that is dialled.
    Address(SocketAddr),
    /// A name that this transport resolves by itself (an overlay, a proxy).
    Name {
        /// The name, in lower case, without a final dot.
        name: String,
        /// The port.
        port: u16,
    },
    /// A Unix stream socket of this host. Only a rule can say so, never a guest.
    Unix(PathBuf),
}

impl fmt::Display for Destination {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Address(address) => write!(f, "{address}"),
            Self::Name { name, port } => write!(f, "{name}:{port}"),
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

/// What a transport is asked to dial.
///
/// Fields will be added (who asks, which rule chose this transport), always with a meaning for
/// "not said". Callers write [`DialRequest::to`] and set what they know, or end a literal with
/// `..DialRequest::to(destination)`; transports read the fields they know and never take the
/// request apart exhaustively. Both then compile unchanged when a field comes.
///
/// ```
/// use outsock_transport::{Destination, DialRequest};
/// # use std::time::Duration;
/// let to = Destination::Name { name: "db.osaka.peer".into(), port: 5432 };
/// let request = DialRequest { timeout: Duration::from_secs(5), ..DialRequest::to(to) };
/// assert_eq!(request.source, None);
/// ```
#[derive(Clone, Debug)]
pub struct DialRequest {
    /// Where to.
    pub destination: Destination,
    /// A local address to come from, if the program in the guest bound one. Only its port is a
    /// wish; a transport that cannot grant it says [`DialError::AddressInUse`] or ignores it.
    pub source: Option<SocketAddr>,
    /// Give up after this long with [`DialError::TimedOut`].
    pub timeout: Duration,
    /// Options that the program set before it connected, for a transport that makes a TCP
    /// connection of its own ([`crate::option::apply_all`]). None is an error: what cannot be set is
    /// left.
    pub options: Arc<[SocketOption]>,
    /// What the rule says to the transport: only those in processes of their own pass it on, as a
    /// bridge line's `key=value`.
    pub arguments: Arc<[(String, String)]>,
    /// Who asks. Only transports to other gateways pass it on.
    pub origin: Origin,
}

/// Where a dial comes from.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Origin {
    /// The guest's name at its own gateway; `None` = not said.
    pub guest: Option<Arc<str>>,
    /// Names the connection in the logs of every gateway that it passes; 0 = not said.
    pub trace: u64,
    /// Gateways that it has passed before this one.
    pub hops: u8,
    /// An address that stands for the guest, for `accept` and `getpeername` at the far end; `None` =
    /// it has none.
    pub address: Option<SocketAddr>,
}

impl DialRequest {
    /// A request that says only where to, with the patience of a Linux `connect()`.
    pub fn to(destination: Destination) -> Self {
        Self {
            destination,
            source: None,
            timeout: limits::DIAL_TIMEOUT,
            options: Arc::default(),
            arguments: Arc::default(),
            origin: Origin::default(),
        }
    }
}

/// A connection that stands: the far socket has connected.
#[derive(Debug)]
pub struct Dialed {
    /// The bytes.
    pub stream: Stream,
    /// The local name of the far socket, for `getsockname`; `None` where it has none.
    pub local: Option<SocketAddr>,
}

/// A connection that came in.
#[derive(Debug)]
pub struct Inbound {
    /// The bytes.
    pub stream: Stream,
    /// Who connected, for `accept` and `getpeername`; `None` where it has no address.
    pub peer: Option<SocketAddr>,
    /// The address it came to.
    pub local: Option<SocketAddr>,
}

/// What a transport can do, as data.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Capabilities {
    /// Takes [`Destination::Address`].
    pub dials_addresses: bool,
    /// Takes [`Destination::Name`].
    pub dials_names: bool,
    /// Takes [`Destination::Unix`].
    pub dials_unix: bool,
    /// [`Transport::listen`] works.
    pub listens: bool,
    /// Each direction closes on its own.
    pub half_close: bool,
    /// A reset arrives as a reset, not as an end. A Unix socket is the exception that a transport
    /// of kernel sockets documents: the kernel turns its close into `ECONNRESET` for the peer only
    /// where the closing side still had unread bytes, else into an end.
    pub reset: bool,
    /// Bytes are encrypted on the wire.
    pub encrypted: bool,
}

/// A way out of the gateway. One value per configured transport, shared by all guests.
#[async_trait]
pub trait Transport: Send + Sync + fmt::Debug + 'static {
    /// The kind, as in the configuration's `kind = "..."`.
    fn kind(&self) -> &'static str;

    /// What it can do.
    fn capabilities(&self) -> Capabilities;

    /// Connects. Returns when the far socket has connected, not before. Dropping the future gives
    /// the dial up and leaves nothing behind.
    async fn dial(&self, request: DialRequest) -> Result<Dialed, DialError>;

    /// Starts to listen. Dropping the listener closes it.
    async fn listen(&self, at: &Destination) -> Result<Box<dyn Listener>, ListenError>;

    /// Whether [`Self::flow`] can carry such datagrams at all.
    fn carries(&self, carried: Carried) -> bool {
        let _ = carried;
        false
    }

    /// Opens a flow of datagrams. Dropping the future gives it up and leaves nothing behind.
    async fn flow(&self, request: FlowRequest) -> Result<Box<dyn Flow>, DialError> {
        let _ = request;
        Err(DialError::UnsupportedDestination("datagrams"))
    }
}

/// A listening socket of a transport.
#[async_trait]
pub trait Listener: Send + fmt::Debug {
    /// The address that others dial, with the true port where 0 was asked for.
    fn local(&self) -> Destination;

    /// Waits for a connection. Cancel-safe: dropping the future loses none.
    async fn accept(&mut self) -> Result<Inbound, AcceptError>;
}
