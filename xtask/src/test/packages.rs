//! Packages: what the tests want from Debian.
//!
//! in: a part; out: what could not be had. Owner: the test command. Kept: a missing program makes
//! tests skip, with a reason, not fail in the middle.

use outsock_boot::install_missing;

use crate::cli::Part;
use crate::report::Report;

/// Programs that run unmodified in guests, and their servers on the host.
const E2E: [&str; 28] = [
    "aria2",
    "bind9-dnsutils",
    "curl",
    "dnsmasq-base",
    "wget",
    "git",
    "iperf3",
    "openssh-client",
    "golang-go",
    "python3",
    "busybox-static",
    "iproute2",
    "musl-tools",
    "gcc",
    "libc6-dev",
    "netcat-openbsd",
    "nftables",
    "nginx",
    "nodejs",
    "openjdk-17-jdk-headless",
    "obfs4proxy",
    "openssl",
    "postgresql",
    "redis-server",
    "rsync",
    "socat",
    "iputils-ping",
    "traceroute",
];
/// The modules' example programs, in C and in Python; an external transport; proxies, without services;
/// NAT.
const UNIT: [&str; 8] = [
    "gcc",
    "iproute2",
    "libc6-dev",
    "microsocks",
    "nftables",
    "obfs4proxy",
    "python3",
    "tinyproxy-bin",
];
/// A gateway with host modules in the kernel, and the compiler for one.
const EBPF: [&str; 4] = ["clang", "libelf-dev", "pkg-config", "zlib1g-dev"];
/// What every part that boots guests wants.
const BOOT: [&str; 3] = ["python3", "busybox-static", "kmod"];

/// Installs what `part` needs; returns what is missing still.
pub(crate) fn install(part: Part, report: &Report) -> Vec<String> {
    let packages: &[&str] = match part {
        Part::Purity | Part::Doc => &[],
        Part::Unit => &UNIT,
        Part::Ebpf => &EBPF,
        Part::Boot => &BOOT,
        Part::E2e => &E2E,
    };
    match install_missing(packages, &mut |line| report.step(format!("  {line}"))) {
        Ok(()) => Vec::new(),
        Err(error) => vec![error.to_string()],
    }
}
