//! The overlay's decisions, without an overlay: no socket, no task, no clock, no libp2p.
//!
//! Enters: bytes of peers, moments, random numbers, what the network did. Leaves: values and orders.
//! Owner: the transport that holds the sockets. Invariant: no input panics, and nothing is believed that
//! no key has signed. Bound: [`limits`].
//!
//! | Module | What it holds |
//! |---|---|
//! | [`name`] | what a site is called, and who may be called so |
//! | [`network`] | which overlay: protocol names and places of the directory belong to one |
//! | [`certificate`], [`revocations`], [`authority`] | who is a member of a private network, and under which name |
//! | [`hello`] | the first message of every connection: no certificate, no connection |
//! | [`record`], [`address`], [`floor`] | the directory: signed, of one network, young, never an older one again |
//! | [`supernode`] | when a node serves others, and when it stops |
//! | [`throttle`] | how many bytes a second it relays |
//! | [`choice`] | which supernodes a node keeps |
//! | [`host_cache`] | where to begin after a restart, without a bootstrap |
//! | [`armor`], [`signed`], [`replace`] | texts of signed things, signatures, files that are replaced whole |
#![forbid(unsafe_code)]

pub mod address;
pub mod armor;
pub mod authority;
pub mod certificate;
pub mod choice;
pub mod floor;
pub mod hello;
pub mod host_cache;
pub mod limits;
pub mod name;
pub mod network;
pub mod record;
pub mod replace;
pub mod revocations;
pub mod signed;
pub mod supernode;
#[cfg(test)]
mod testing;
pub mod throttle;
pub mod time;

pub use address::{Address, Carrier, Reach};
pub use authority::Authority;
pub use certificate::{Certificate, CertificateError};
pub use choice::Choice;
pub use floor::Floor;
pub use hello::{Admitted, Hello, Membership, Refused};
pub use host_cache::HostCache;
pub use name::{Label, Look, NameError, Names};
pub use network::{Locator, NetworkId};
pub use record::{Load, Record, RecordError, Wanted};
pub use revocations::{Revocations, RevocationsError};
pub use supernode::Supernode;
pub use throttle::Throttle;
pub use time::UnixTime;
