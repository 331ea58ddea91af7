//! Labs: several sites on one machine, each with a gateway and real guests.
//!
//! Enters: a topology file ([`Topology`]). Leaves: a running [`Lab`], whose guests run commands. Owner:
//! the process; everything it starts dies with it, whatever ends it, and network namespaces have no
//! name that could be left behind. Invariant: traffic stays in namespaces that the lab made, or on
//! loopback. Bound: [`limits`].
//!
//! | Module | What it holds |
//! |---|---|
//! | [`topology`] | the file |
//! | [`config`] | from a topology to the gateways' configurations |
//! | [`internet`] | a network that sites reach by routers with NAT, of several kinds |
//! | [`namespace`] | a network namespace and links between two of them |
//! | [`delay`] | a link's delay, made in user space |
//! | [`run`] | a running lab |
//! | [`control`] | what `exec`, `status`, `logs` and `down` ask a running lab |
#![forbid(unsafe_code)]

pub mod config;
pub mod control;
pub mod delay;
pub mod internet;
pub mod limits;
pub mod namespace;
pub mod run;
pub mod topology;

pub use run::Lab;
pub use topology::Topology;
