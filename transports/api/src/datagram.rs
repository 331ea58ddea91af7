//! Datagrams: flows of a transport that keep messages apart, and may lose some.
//!
//! in:  a [`FlowRequest`] that the rules allowed
//! out: a [`Flow`], or an error that has an errno
//! owner: the daemon, one flow per socket of a guest and destination; it also ends idle ones
//! keeps: a datagram arrives whole or not at all; sending never waits; news of the far end (nobody
//!     listens there) does not end a flow
//! bound: [`limits::DATAGRAM_BYTES_MAX`]; what a flow buffers is the transport's to bound

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use async_trait::async_trait;

use crate::limits;
use crate::transport::{Destination, Origin};

/// What the datagrams of a flow are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Carried {
    /// Payloads of UDP datagrams.
    Udp,
    /// ICMP echo: requests out, replies in. A datagram is the sequence number (two bytes, big-endian)
    /// and the data behind it; the identifier is the transport's own. The destination's port means
    /// nothing.
    Echo,
}

/// What a transport is asked for. Made and read like a [`DialRequest`](crate::DialRequest).
///
/// ```
/// use outsock_transport::{Carried, Destination, FlowRequest};
/// let to = Destination::Address("192.0.2.1:53".parse().unwrap());
/// let request = FlowRequest { source_port: Some(5353), ..FlowRequest::to(to, Carried::Udp) };
/// assert_eq!(request.carried, Carried::Udp);
/// ```
#[derive(Clone, Debug)]
pub struct FlowRequest {
    /// Where to.
    pub destination: Destination,
    /// What.
    pub carried: Carried,
    /// The port to come from, which another flow of the same guest's socket has already: whoever
    /// that socket speaks to should see one and the same port. A wish.
    pub source_port: Option<u16>,
    /// Give up after this long with [`DialError::TimedOut`](crate::DialError::TimedOut).
    pub timeout: Duration,
    /// Who asks. Only transports to other gateways pass it on.
    pub origin: Origin,
}

impl FlowRequest {
    /// A request that says only where to, and what.
    pub fn to(destination: Destination, carried: Carried) -> Self {
        Self {
            destination,
            carried,
            source_port: None,
            timeout: limits::FLOW_TIMEOUT,
            origin: Origin::default(),
        }
    }
}

/// One flow: what one socket of a guest and one destination say to each other. Dropping it ends it.
#[async_trait]
pub trait Flow: Send + Sync + fmt::Debug {
    /// The local name of the far socket, where it has one.
    fn local(&self) -> Option<SocketAddr>;

    /// Sends one datagram, whole, at once.
    ///
    /// # Errors
    /// `WouldBlock`: there is no room, the datagram is lost. `EMSGSIZE`: it is too long for this way.
    /// Others are news of the far end, such as `ECONNREFUSED` after an earlier datagram; this one has
    /// not been sent and may be sent again.
    fn try_send(&self, datagram: &[u8]) -> io::Result<()>;

    /// Takes the next datagram that has come; what does not fit into the buffer is cut off.
    ///
    /// # Errors
    /// `WouldBlock`: none has come. `UnexpectedEof`: none will. Others are news as with
    /// [`Self::try_send`].
    fn try_receive(&self, buffer: &mut [u8]) -> io::Result<usize>;

    /// Waits until [`Self::try_receive`] is worth a try. Cancel-safe.
    ///
    /// # Errors
    /// The flow is over.
    async fn readable(&self) -> io::Result<()>;
}
