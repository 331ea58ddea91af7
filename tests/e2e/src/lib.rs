//! Servers on the host's loopback that end-to-end tests send guests to.
//!
//! Enters: connections. Leaves: what came, as a digest; a known pattern of bytes; an echo. Owner: one
//! accepting thread per [`Server`], ended by dropping it, and one thread per connection. Invariant: each
//! listens on a port that the system chose, on loopback only. Bound: [`limits`].
#![forbid(unsafe_code)]

mod datagrams;
pub mod differential;
pub mod document;
mod hold;
mod http;
pub mod limits;
pub mod pattern;
mod relay;
mod server;
mod services;

pub use datagrams::UdpEcho;
pub use hold::BlackHole;
pub use http::{http, http_on_ipv6};
pub use relay::relay;
pub use server::{Server, ServerEvent};
pub use services::{echo, echo_on_ipv6, endless, half, sink, source};
