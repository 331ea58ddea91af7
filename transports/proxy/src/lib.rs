//! Proxies: SOCKS5 (RFC 1928, 1929) and HTTP CONNECT (RFC 9110, 9.3.6), kinds `"socks5"` and
//! `"http-connect"`.
//!
//! in:  destinations by address or by name; names go to the proxy as they are
//! out: the proxy's own socket, with nothing read that is not its word: the device serves it directly
//! owner: one value for all guests; it has no state
//! keeps: a dial returns after the proxy said that it connected; its refusal has the errno of its reason
//! bound: the request's timeout; [`limits`]
//!
//! The proxy itself is reached over another transport (the host's TCP, or any): so proxies chain. What
//! goes wrong between here and the proxy is `ENETUNREACH`: there is no way out, which says nothing about
//! the destination, and lets a group try its next member.
//!
//! Half-closes and resets are as honest as the proxy: those that relay bytes keep the first, few keep
//! the second.
//!
//! ```
//! use std::sync::Arc;
//! use outsock_transport::{Destination, Transport};
//! use outsock_transport_direct::Direct;
//! use outsock_transport_proxy::{Auth, Socks5};
//!
//! let tor = Destination::Address(([127, 0, 0, 1], 9050).into());
//! let transport = Socks5::new(Arc::new(Direct), tor, Auth::None);
//! assert!(transport.capabilities().dials_names);
//! ```
#![forbid(unsafe_code)]

mod auth;
mod head;
mod http;
pub mod limits;
mod socks5;
mod upstream;

pub use auth::{Auth, AuthError};
pub use http::HttpConnect;
pub use socks5::Socks5;
