//! Boots a guest and runs one command in it.
//!
//! ```text
//! cargo run --release -p outsock-boot --example boot -- qemu-6.1 [--vsock SOCKET] [--share DIRECTORY] -- COMMAND...
//! ```

use std::error::Error;
use std::io::Write;
use std::process::ExitCode;

use outsock_boot::{BootOptions, Guest, Images, Kernel};

const USAGE: &str =
    "usage: boot qemu-6.1|qemu-6.12|uml-7.2 [--vsock SOCKET] [--share DIRECTORY] -- COMMAND...";

fn main() -> ExitCode {
    boot().unwrap_or_else(|error| {
        eprintln!("boot: {error}");
        ExitCode::FAILURE
    })
}

fn boot() -> Result<ExitCode, Box<dyn Error>> {
    let mut arguments = std::env::args().skip(1);
    let kernel: Kernel = arguments.next().ok_or(USAGE)?.parse()?;
    let image =
        Images::in_target_directory().prepare(kernel, &mut |line| eprintln!("boot: {line}"))?;
    let mut options = BootOptions::new(image);
    loop {
        match arguments.next().as_deref() {
            Some("--vsock") => options.vsock_socket = Some(arguments.next().ok_or(USAGE)?.into()),
            Some("--share") => options.share = Some(arguments.next().ok_or(USAGE)?.into()),
            Some("--") => break,
            _ => return Err(USAGE.into()),
        }
    }
    let command: Vec<String> = arguments.collect();
    let guest = Guest::boot(options)?;
    eprintln!(
        "boot: {} up after {:?}, vsock CID {:?}",
        guest.release(),
        guest.boot_time(),
        guest.cid()
    );
    let output = guest.run(&command)?;
    std::io::stdout().write_all(&output.stdout)?;
    std::io::stderr().write_all(&output.stderr)?;
    eprintln!("boot: {}", output.status);
    guest.shutdown()?;
    Ok(if output.status.success() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
