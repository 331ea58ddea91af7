//! VM RPC: calls from programs in a guest to named, versioned host modules.
//!
//! The guest opens one stream per client (an AF_VSOCK connection to [`limits::VMRPC_PORT`]), says
//! [`Body::Hello`], binds modules by name and version, and calls their functions by number. Calls
//! are pipelined: every call has an id, replies come in any order.
//!
//! | Module | What it holds |
//! |---|---|
//! | [`errno`] | [`Errno`], the POSIX error that crosses the wire, and its one name table |
//! | [`name`] | [`ModuleName`], [`Version`], [`VersionRange`] |
//! | [`frame`] | the frames and their codec; no I/O |
//! | [`wire`] | reader and writer for the arguments inside a frame |
//! | [`socket`] | the arguments of the `socket` host module |
//! | [`datagram`] | the `datagram` host module's channel of datagrams |
//! | [`resolver`] | the arguments of the `resolver` host module, and what a stub resolver does |
//! | [`modules`] | the arguments of the `modules` host module: who uses what |
//! | [`client`] | the guest SDK: bind_module, perform_rpc, unbind_module, event queues |
//! | `async_client` | the same for async programs (feature `async`) |
//! | [`queue`] | event queues: put_event, get_event, their ring and their stream form |
//! | [`pages`] | where a guest takes the memory of its event queues from |
//! | [`host`] | the host side: register_hm, unregister_hm, make_ev_queue, the server (feature `host`) |
//! | `sys` | vsock and pinned pages in a real guest (feature `guest`): the one place with unsafe code |
//! | [`limits`] | every bound, with its unit and reason |
#![deny(unsafe_code)]

#[cfg(feature = "async")]
pub mod async_client;
mod calls;
pub mod client;
pub mod datagram;
pub mod errno;
pub mod error;
pub mod frame;
#[cfg(feature = "host")]
pub mod host;
pub mod limits;
pub mod modules;
pub mod name;
pub mod pages;
pub mod queue;
pub mod resolver;
pub mod socket;
#[cfg(feature = "guest")]
#[allow(unsafe_code, reason = "system calls and memory that the host shares")]
pub mod sys;
pub mod wire;

#[cfg(feature = "async")]
pub use async_client::{AsyncBinding, AsyncClient};
pub use client::{Binding, Client};
pub use errno::Errno;
pub use error::{Fault, RpcError};
pub use frame::{Body, Decoder, Frame};
pub use name::{ModuleName, Version, VersionRange};
pub use queue::{EventQueue, Form, Put, QueueError, QueueId, Ticket};
