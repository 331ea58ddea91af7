//! Memory: a transport between tasks of one process, kind `"memory"`, with faults as data.
//!
//! in:  dials and listens on any [`Destination`](outsock_transport::Destination); [`Faults`] of a test
//! out: [`Stream::Async`](outsock_transport::Stream::Async) over bounded pipes
//! owner: a [`Network`] value, shared by its transports, listeners and connections
//! keeps: no thread, no clock and no randomness of its own: what a test sees depends on the order of
//!        its own calls only; the one timer is the dial's timeout, on tokio's clock, which can be paused
//! bound: [`limits`]
//!
//! Addresses are names and nothing more: a dial reaches the listener at the equal destination, and
//! there is no wildcard. Networks know nothing of each other.
//!
//! ```
//! use outsock_transport::{Destination, DialError, DialRequest, Transport};
//! use outsock_transport_memory::{DialFault, Faults, Network};
//! use tokio::io::{AsyncReadExt, AsyncWriteExt};
//!
//! # #[tokio::main(flavor = "current_thread")] async fn main() -> std::io::Result<()> {
//! let network = Network::new();
//! let memory = network.transport();
//! let at = Destination::Name { name: "db.osaka.peer".into(), port: 5432 };
//! let mut listener = memory.listen(&at).await.expect("a free name");
//!
//! let mut near = memory.dial(DialRequest::to(at.clone())).await.unwrap().stream.into_async()?;
//! let mut far = listener.accept().await.unwrap().stream.into_async()?;
//! near.write_all(b"select 1").await?;
//! near.shutdown().await?;
//! let mut query = String::new();
//! far.read_to_string(&mut query).await?;
//! assert_eq!(query, "select 1");
//!
//! let down = DialFault::Fail(DialError::HostUnreachable);
//! network.set_faults(&at, Faults { dial: down, ..Faults::default() });
//! let error = memory.dial(DialRequest::to(at)).await.unwrap_err();
//! assert_eq!(error, DialError::HostUnreachable);
//! # Ok(()) }
//! ```
#![forbid(unsafe_code)]

mod door;
pub mod faults;
pub mod limits;
mod link;
mod network;
mod path;

pub use faults::{DialFault, Faults, Lane};
pub use network::{Memory, Network};
