//! Purity: the core can do no I/O, since nothing that it is built with can.
//!
//! in: `cargo tree`; out: one check per crate that must stay pure. Owner: the test command. Kept: the
//! sans-IO ring is cut by Cargo, not by good will. Bound: two calls of cargo.

use outsock_site::{Interrupt, cargo, run_lines};

use super::count::Count;

/// What would let a crate wait, ask the clock or call the kernel by itself.
const FORBIDDEN: [&str; 8] =
    ["tokio", "libc", "rustix", "socket2", "mio", "vhost", "vm-memory", "vmm-sys-util"];

const PURE: [&str; 2] = ["outsock-core", "outsock-vmrpc"];

pub(crate) fn check(interrupt: &Interrupt, count: &mut Count) -> anyhow::Result<()> {
    for package in PURE {
        let mut tree = cargo();
        tree.args(["tree", "--edges", "normal", "--prefix", "none", "--package", package]);
        let mut impure = Vec::new();
        let mut crates = 0;
        let ended = run_lines(&mut tree, interrupt, &mut |line| {
            let name = line.split(' ').next().unwrap_or_default();
            crates += 1;
            if FORBIDDEN.contains(&name) {
                impure.push(name.to_owned());
            }
        })?;
        if !ended.status.success() {
            count.fail(format!("purity/{package}: {}", ended.last_lines.join("; ")));
        } else if impure.is_empty() {
            println!("test purity/{package} ... ok ({crates} crates in its tree)");
            count.pass();
        } else {
            println!("test purity/{package} ... FAILED");
            count.fail(format!("purity/{package} is built with {}", impure.join(", ")));
        }
    }
    Ok(())
}
