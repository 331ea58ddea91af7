//! What a transport plugin is: it dials and listens for the gateway, and says how that failed.
//!
//! A transport lives in a crate of its own and imports only this one and its own library. It gets a
//! [`DialRequest`] and returns a [`Dialed`]: either a socket of the host's kernel, which the device
//! then serves without a copy, or an async [`Stream::Async`], which is bridged by a bounded ring.
//! Set-up is object-safe ([`Transport`]); no future is boxed per packet.
//!
//! Ends are honest: a FIN is a FIN, a reset is a reset, each half closes on its own. What a
//! transport cannot do stands in its [`Capabilities`] as data. A transport is done when
//! the suite `conformance` passes.
#![forbid(unsafe_code)]

#[cfg(feature = "conformance")]
pub mod conformance;
pub mod datagram;
pub mod error;
pub mod inbox;
pub mod limits;
pub mod option;
pub mod socket;
pub mod stream;
pub mod transport;

pub use datagram::{Carried, Flow, FlowRequest};
pub use error::{AcceptError, DialError, ListenError};
pub use inbox::{Budget, Inbox};
pub use option::SocketOption;
pub use outsock_vmrpc::Errno;
pub use socket::SocketStream;
pub use stream::{AsyncStream, Stream};
pub use transport::{
    Capabilities, Destination, DialRequest, Dialed, Inbound, Listener, Origin, Transport,
};
