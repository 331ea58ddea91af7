//! One host as the demo, the end-to-end tests and the lab need it.
//!
//! Enters: the workspace's sources, a configuration. Leaves: built programs ([`Programs`]), a running
//! [`Gateway`], a [`Directory`] that a guest can share. Owns what it started: dropping a value ends
//! its process or removes its files. Invariant: nothing outlives the process that started it, also
//! when that is killed. Bound: [`limits`].

#![forbid(unsafe_code)]

mod directory;
mod gateway;
mod interrupt;
pub mod limits;
mod programs;
mod run;
mod status;

pub use directory::Directory;
pub use gateway::{Gateway, GatewayError};
pub use interrupt::Interrupt;
pub use programs::{Programs, ProgramsError, cargo, target_directory, workspace};
pub use run::{Ended, RunError, run_lines, tied};
pub use status::{ConnectionStatus, Explanation, GuestStatus, Status};
