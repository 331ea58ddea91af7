//! The device edge: a vhost-user vsock backend for many guests.
//!
//! | Module | What it holds |
//! |---|---|
//! | `guest` | [`GuestDevice`]: one guest's socket path, its threads, start and stop |
//! | `handle` | [`DeviceHandle`]: what the daemon says to a device and hears from it |
//! | `backend` | the vhost-user face: features, config space, memory tables |
//! | `worker` | the vring thread: events in, passes over the rings, timers |
//! | `tx`, `rx` | the two passes: the hot path |
//! | `ring`, `chain`, `pieces`, `memory` | virtqueues, descriptor chains, guest memory |
//! | `queue_memory` | guest memory for event queues: [`GuestPages`] |
//! | `end`, `ends` | host ends and their table |
//! | `host_socket` | [`HostSocket`]: what the daemon asks a connection's kernel socket |
//! | `stats` | [`ConnectionStats`]: one connection's counters and its end |
//! | `plain` | connections that guests' programs open by themselves, or others to them |
//! | `messages` | SOCK_SEQPACKET: whole messages to and from a host end |
//! | `bridge` | bounded byte rings to async tasks |
//! | [`limits`] | every bound |
//!
//! Threads: per guest one that speaks vhost-user with the frontend and one vring worker; a guest's
//! trouble stays in its own. `unsafe` is allowed here because guest memory is raw: it is confined to
//! `memory`, `queue_memory`, `ring`, `chain`, `pieces`, `end` and `host_socket`.

mod backend;
mod bridge;
mod chain;
mod end;
mod ends;
mod guest;
mod handle;
mod host_socket;
pub mod limits;
mod memory;
mod messages;
mod pieces;
mod plain;
mod queue_memory;
mod ring;
mod rlimit;
mod rx;
mod stats;
mod tx;
mod worker;

pub use bridge::BridgeStream;
pub use guest::{GuestDevice, GuestDeviceConfig, StartError};
pub use handle::{DeviceCounters, DeviceHandle, FarEnd, News, Overloaded};
pub use host_socket::HostSocket;
pub use plain::{Called, Opening};
pub use queue_memory::GuestPages;
pub use rlimit::{close_descriptors, raise_descriptor_limit};
pub use stats::ConnectionStats;
