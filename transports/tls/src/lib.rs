//! TLS: version 1.3 by rustls over any transport, in either direction.
//!
//! in:  a stream that stands ([`Connector`], [`Acceptor`]), or a whole transport ([`Tls`])
//! out: an [`AsyncStream`](outsock_transport::AsyncStream) whose bytes are encrypted below
//! owner: one connector per rule, one acceptor per listener, shared by their connections
//! keeps: no byte of a program leaves before the other side has proved who it is; there is no way back
//!        to plain text; an end without `close_notify` is a reset
//! bound: the dial's timeout; [`limits`]
//!
//! # Decisions
//!
//! * **ring** is the cryptography: no CMake, licences ISC and Apache-2.0, which `deny.toml` allows;
//!   aws-lc-rs has more C to build.
//! * **1.3 only.** A server that cannot is refused: `ECONNRESET`, and the log says why.
//! * **Half-close.** `close_notify` ends one direction only (RFC 8446, 6.1), so each half closes on its
//!   own, over transports too that cannot do so themselves: their FIN is held back until both have
//!   ended. Programs that answer a `close_notify` by closing at once (older ones do) still lose the rest.
//! * **kTLS is not used**: see docs/tls.md for the reasons.
//!
//! ```
//! use outsock_transport_tls::{ClientSettings, Connector, Roots};
//!
//! // A key that nobody has: this trusts one server, whatever its certificate says.
//! let pin = "sha256//AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=".parse().expect("a pin");
//! let settings = ClientSettings { pins: vec![pin], ..ClientSettings::default() };
//! assert!(Connector::new(&settings).is_ok());
//!
//! let missing = ClientSettings {
//!     roots: vec![Roots::File("/nonexistent.pem".into())],
//!     ..ClientSettings::default()
//! };
//! assert!(Connector::new(&missing).unwrap_err().to_string().contains("/nonexistent.pem"));
//! ```
#![forbid(unsafe_code)]

mod client;
mod files;
pub mod hello;
pub mod limits;
mod pin;
mod server;
mod settings;
mod stream;
mod transport;
mod trust;

pub use client::Connector;
pub use pin::Pin;
pub use server::{Acceptor, HandshakeError};
pub use settings::{ClientSettings, Identity, Roots, ServerSettings, Setting, SetupError};
pub use transport::Tls;
