//! A guest without a VM: a vhost-user frontend and a vsock driver that behaves like Linux.
//!
//! It drives a gateway over real shared-memory virtqueues, in one process with a test, and checks
//! everything that it receives.
//!
//! ```no_run
//! use std::io::{Read, Write};
//! use outsock_virtual_guest::{Layout, Options, VirtualGuest};
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let guest = VirtualGuest::connect("/tmp/vsock.sock", Options::for_layout(Layout::linux_7_2()))?;
//! let mut connection = guest.open(1234)?;
//! connection.write_all(b"hello")?;
//! connection.shutdown(std::net::Shutdown::Write)?;
//! let mut answer = Vec::new();
//! connection.read_to_end(&mut answer)?;
//! guest.assert_clean();
//! # Ok(()) }
//! ```
//!
//! | Module | What it holds |
//! |---|---|
//! | [`guest`] | [`VirtualGuest`]: connections, events, violations |
//! | [`connection`] | [`Connection`]: `Read + Write`, and streams inside the driver thread |
//! | [`machine`] | what a VMM does: pause, resume, reboot, plug memory, die |
//! | [`rpc`] | what the agent does: VM RPC and `dial` |
//! | [`raw`] | any descriptor, index and packet, for hostile tests |
//! | [`operation`] | the same as a list of operations, for fuzz targets |
//! | [`layout`], [`options`] | which kernel to play |
//! | [`violation`] | what a gateway must not do |
//! | `worker`, `turn`, `stack`, `receive`, `socket`, `job` | the vsock stack |
//! | `driver`, `buffer`, [`ring`], [`memory`], [`frontend`] | virtqueues in shared memory, vhost-user |

mod buffer;
pub mod connection;
mod driver;
pub mod event;
pub mod frontend;
pub mod guest;
mod job;
pub mod layout;
pub mod limits;
pub mod machine;
pub mod memory;
pub mod operation;
pub mod options;
mod pages;
pub mod pattern;
pub mod raw;
mod receive;
pub mod ring;
pub mod rpc;
mod socket;
mod stack;
pub mod stats;
mod tombstone;
mod turn;
pub mod violation;
mod worker;

pub use connection::{ConnectError, Connection, Running};
pub use driver::{EVENT, RX, TX};
pub use event::{Event, Ready};
pub use guest::{GuestError, OpenOptions, VirtualGuest};
pub use job::{Content, StreamError, Transfer};
pub use layout::{Layout, RxLayout, TxLayout};
pub use operation::Operation;
pub use options::{CreditRule, Options, PacketLimit, TxInterrupts};
pub use raw::RawGuest;
pub use stats::Stats;
pub use violation::{Violation, ViolationKind};
