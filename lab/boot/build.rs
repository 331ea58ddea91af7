//! Compiles the program that runs inside the guest, as one static file.
//!
//! Enters: `src/bin/outsock-guest-exec.rs` (std only). Leaves: `$OUT_DIR/guest-exec`, which the library embeds,
//! so that whoever depends on this crate has it without building anything else.
//! Static, because it runs in an initramfs and under kernels whose root may bring another libc.

use std::path::PathBuf;
use std::process::Command;

fn main() {
    println!("cargo::rerun-if-changed=src/bin/outsock-guest-exec.rs");
    println!("cargo::rerun-if-changed=src/frame.rs");
    let variable =
        |name: &str| std::env::var(name).unwrap_or_else(|_| panic!("cargo did not set {name}"));
    let output = PathBuf::from(variable("OUT_DIR")).join("guest-exec");
    let status = Command::new(variable("RUSTC"))
        .args(["--edition", "2024", "--crate-type", "bin", "--crate-name", "outsock_guest_exec"])
        .args([
            "-C",
            "opt-level=3",
            "-C",
            "target-feature=+crt-static",
            "-C",
            "strip=symbols",
            "-C",
            "panic=abort",
        ])
        .args(["--target", &variable("TARGET")])
        .arg("-o")
        .arg(&output)
        .arg("src/bin/outsock-guest-exec.rs")
        .status()
        .unwrap_or_else(|error| panic!("cannot start rustc for the guest's program: {error}"));
    assert!(status.success(), "rustc could not build the guest's program: {status}");
}
