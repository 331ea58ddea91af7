//! The overlay: gateways find each other by name, talk directly when they can, and through a supernode
//! when they cannot.
//!
//! libp2p gives identity, directory, relays and hole punching; the protocol of a stream between two
//! gateways is that of [`outsock_peer`], as over QUIC.
//!
//! | Module | What it holds |
//! |---|---|
//! | [`overlay`] | the handle that the daemon holds, the transport |
//! | [`settings`], [`network`], [`admission`] | what is configured, what keeps networks apart, who is let in |
//! | `node` | the task that owns the swarm |
//! | `carriers`, `behaviour`, `streams` | libp2p, composed; the overlay's own behaviour |
//! | `table`, `lookups`, `directory` | connections, queries, the hash table |
//! | [`record`] | what a gateway puts there: where it is, signed |
//! | [`incoming`], [`status`] | a peer's stream before its answer; how things stand |
//! | [`limits`] | every bound |
#![forbid(unsafe_code)]

pub mod admission;
mod behaviour;
mod carried;
mod carriers;
mod directory;
pub mod incoming;
mod key;
pub mod limits;
mod lookups;
pub mod network;
mod node;
pub mod overlay;
pub mod record;
pub mod settings;
pub mod status;
mod streams;
pub mod table;

pub use admission::Gate;
pub use incoming::Incoming;
pub use network::OpenNetwork;
pub use overlay::{CAPABILITIES, Known, Overlay, StartError};
pub use record::{Record, RecordError};
pub use settings::{Address, BadAddress, Settings, Wish};
pub use status::{PeerStatus, Status};
pub use table::Carrier;
