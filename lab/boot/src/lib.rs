//! Boots one real Linux guest on this machine and runs commands in it.
//!
//! Enters: a [`Kernel`], the socket of a vhost-user vsock backend, commands. Leaves: their exit status and output.
//! Owns: the cache of guest images ([`Images`]) and, per [`Guest`], the monitor's process group.
//! Invariant: commands travel over a serial channel, never over vsock, which is what is being tested; a guest dies
//! with the process that booted it. Bound: [`limits`].
//!
//! ```no_run
//! use outsock_boot::{BootOptions, Guest, Images, Kernel};
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let image = Images::in_target_directory().prepare(Kernel::Qemu61, &mut |line| eprintln!("{line}"))?;
//! let guest = Guest::boot(BootOptions { vsock_socket: Some("gateway.sock".into()), ..BootOptions::new(image) })?;
//! let output = guest.run(&["uname", "-r"])?;
//! assert!(output.status.success());
//! guest.shutdown()?;
//! # Ok(())
//! # }
//! ```
//!
//! The guest sees the host's root file system below a private, writable overlay: every program of the host runs in
//! it. `/tmp`, `/var/tmp`, `/run` and `/root` are the guest's own. The only network device is `lo`.
//!
//! From an image to a guest: [`image`] (with `packages`, `modules`, `initramfs`, `elf`) makes what is booted,
//! [`guest`] boots it (with `qemu` or `uml`, and `process`), `init.sh` runs first inside, and [`command`] talks to
//! `outsock-guest-exec` there (over `channel` and `frame`).

pub mod accel;
mod channel;
pub mod command;
mod console;
mod elf;
#[allow(dead_code, reason = "the guest's program uses the other half of this file")]
mod frame;
pub mod guest;
pub mod image;
mod initramfs;
pub mod kernel;
pub mod limits;
pub mod modules;
pub mod packages;
mod process;
mod qemu;
mod sys;
mod uml;

pub use accel::Accelerator;
pub use command::{GuestCommand, GuestProcess, Output, RunError, Status};
pub use guest::{BootError, BootOptions, Guest, ShutdownError};
pub use image::{Image, ImageError, Images};
pub use kernel::Kernel;
pub use packages::{PackageError, install_missing};
