//! Modules in processes, programs in all three languages, with a gateway and virtual
//! guests.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod faults;
mod tours;
mod world;
