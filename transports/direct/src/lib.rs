//! Direct: TCP and Unix sockets of this host's own kernel, kind `"direct"`.
//!
//! in:  addresses and paths that the rules allowed; names are for transports that resolve
//! out: [`Stream::Socket`](outsock_transport::Stream::Socket): connected, non-blocking, closed on exec
//! owner: one value for all guests; it has no state
//! keeps: the errno of a failed dial is the kernel's own; a dropped dial closes its socket
//! bound: the request's timeout; `ACCEPT_BACKLOG_MAX` per listener; [`limits`]
//!
//! # Decisions
//!
//! * **`TCP_NODELAY` is on**, for dialled and accepted sockets. The program's own kernel has
//!   already decided what to send together; a second Nagle on the host would hold back the tail of
//!   a request until the far side's delayed ACK, 40 ms that native sockets do not cost.
//! * **Source ports** are granted with `SO_REUSEADDR`, from any address of the host, because the
//!   guest's own address means nothing here. Two guests may then share a port towards different
//!   destinations; the same port to the same destination is `EADDRINUSE`. A wish below
//!   [`limits::PRIVILEGED_PORTS_END`] is ignored: some services trust such a port to mean the
//!   host's root, which a guest is not.
//! * **A connection to itself is a refusal.** A dial of a free port in the ephemeral range of the
//!   own host may get that very port as its source, and TCP then connects the socket to itself.
//! * **A missing Unix socket file is a refusal.** The program in the guest called `connect()` on a
//!   TCP address; `ENOENT` is no answer to that. A full Unix backlog is waited for, as a blocking
//!   `connect()` does.
//! * **A flow of datagrams is a connected UDP socket**, so that the kernel hands over only what comes
//!   from its destination, and the ICMP errors of its own datagrams. Flows that share a source port
//!   do so by `SO_REUSEPORT`, which other users of the host cannot join. The kernel fragments what is
//!   longer than the path takes.
//! * **Echo needs no privilege** where `net.ipv4.ping_group_range` holds the gateway's group; else it
//!   takes `CAP_NET_RAW`; else it is refused with `EACCES` and the reason.
//! * **What a reset is on a Unix socket**: see [`outsock_transport::socket`]. `Capabilities::reset`
//!   is true because TCP has it.
//!
//! ```
//! use outsock_transport::{Destination, DialRequest, Transport};
//! use outsock_transport_direct::Direct;
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), outsock_transport::ListenError> {
//! let mut listener = Direct.listen(&Destination::Address(([127, 0, 0, 1], 0).into())).await?;
//! let dialed = Direct.dial(DialRequest::to(listener.local())).await.expect("it listens");
//! let inbound = listener.accept().await.expect("it was dialled");
//! assert_eq!(dialed.local, inbound.peer);
//! # Ok(()) }
//! ```
#![forbid(unsafe_code)]

mod accept;
mod datagram;
mod dial;
mod echo;
pub mod limits;
mod socket_file;
mod tcp;
mod unix;

use async_trait::async_trait;
use outsock_transport::{
    Capabilities, Carried, Destination, DialError, DialRequest, Dialed, Flow, FlowRequest,
    ListenError, Listener, Transport,
};

/// The transport. It has no configuration and no state.
#[derive(Clone, Copy, Debug, Default)]
pub struct Direct;

#[async_trait]
impl Transport for Direct {
    fn kind(&self) -> &'static str {
        "direct"
    }

    fn capabilities(&self) -> Capabilities {
        Capabilities {
            dials_addresses: true,
            dials_names: false,
            dials_unix: true,
            listens: true,
            half_close: true,
            reset: true,
            encrypted: false,
        }
    }

    async fn dial(&self, request: DialRequest) -> Result<Dialed, DialError> {
        let dial = dial::dial(&request);
        match tokio::time::timeout(request.timeout, dial).await {
            Ok(dialed) => dialed,
            Err(_) => Err(DialError::TimedOut),
        }
    }

    async fn listen(&self, at: &Destination) -> Result<Box<dyn Listener>, ListenError> {
        match at {
            Destination::Address(address) => Ok(Box::new(tcp::listen(*address)?)),
            Destination::Unix(path) => Ok(Box::new(unix::listen(path)?)),
            Destination::Name { .. } => Err(ListenError::Unsupported("a name")),
        }
    }

    fn carries(&self, carried: Carried) -> bool {
        match carried {
            Carried::Udp | Carried::Echo => true,
        }
    }

    async fn flow(&self, request: FlowRequest) -> Result<Box<dyn Flow>, DialError> {
        let to = match &request.destination {
            Destination::Address(to) => *to,
            Destination::Name { .. } => return Err(DialError::UnsupportedDestination("names")),
            Destination::Unix(_) => {
                return Err(DialError::UnsupportedDestination("datagrams to Unix sockets"));
            }
        };
        match request.carried {
            Carried::Udp => datagram::open(to, request.source_port),
            Carried::Echo => echo::open(to.ip()),
        }
    }
}
