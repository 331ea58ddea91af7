//! Namespace: a network of its own for a site, and links between two.
//!
//! in: nothing, as root; out: a namespace, programs in it, veth pairs with addresses and a rate. Owner:
//! a process that sleeps in it, which dies with the lab; with it the namespace and its links are gone.
//! Kept: it has no name, so a crash leaves none behind. Bound: [`limits::NAMESPACE_START`].

use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Instant;

use anyhow::{Context, bail};
use outsock_site::tied;
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

use crate::limits;

/// A network namespace. Dropping it ends it, when no program is left in it.
#[derive(Debug)]
pub struct Namespace {
    holder: Child,
}

impl Namespace {
    /// Makes one.
    ///
    /// # Errors
    /// The system's: it takes root, or the right to.
    pub fn new() -> anyhow::Result<Self> {
        let holder = tied("unshare")
            .args(["--net", "--", "sleep", "infinity"])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .context("cannot start unshare")?;
        let mut namespace = Self { holder };
        let deadline = Instant::now() + limits::NAMESPACE_START;
        while !namespace.is_another() {
            if let Ok(Some(status)) = namespace.holder.try_wait() {
                bail!("this system gives no network namespace (unshare --net: {status})");
            }
            if Instant::now() >= deadline {
                bail!("no network namespace within {:?}", limits::NAMESPACE_START);
            }
            std::thread::sleep(limits::POLL);
        }
        run(&mut namespace.command("ip", &["link", "set", "lo", "up"]))?;
        Ok(namespace)
    }

    /// Its file.
    #[must_use]
    pub fn path(&self) -> PathBuf {
        PathBuf::from(format!("/proc/{}/ns/net", self.holder.id()))
    }

    fn is_another(&self) -> bool {
        let own = std::fs::read_link("/proc/self/ns/net").ok();
        let its = std::fs::read_link(self.path()).ok();
        // `sleep` runs only after `unshare` has done its work.
        let program = std::fs::read_to_string(format!("/proc/{}/comm", self.holder.id()));
        its.is_some() && its != own && program.is_ok_and(|name| name.trim() == "sleep")
    }

    /// A command that runs in it.
    #[must_use]
    pub fn command(&self, program: &str, arguments: &[&str]) -> Command {
        let mut command = Command::new("nsenter");
        command.arg(format!("--net={}", self.path().display())).arg("--").arg(program);
        command.args(arguments);
        command
    }

    /// A script that starts a program in it, for those who start programs by a path.
    ///
    /// # Errors
    /// The system's.
    pub fn script(&self, program: &Path, at: &Path) -> anyhow::Result<()> {
        use std::os::unix::fs::PermissionsExt;
        let text = format!(
            "#!/bin/sh\nexec nsenter --net={} -- {:?} \"$@\"\n",
            self.path().display(),
            program
        );
        std::fs::write(at, text)?;
        std::fs::set_permissions(at, std::fs::Permissions::from_mode(0o755))?;
        Ok(())
    }

    /// Does something in it, such as opening a socket, which stays in it.
    ///
    /// # Errors
    /// The system's; what was to be done panicked.
    pub fn inside<T: Send>(&self, work: impl FnOnce() -> T + Send) -> anyhow::Result<T> {
        let file = std::fs::File::open(self.path())?;
        // A thread of its own: the namespace is the thread's, and ends with it.
        let work = || {
            let kind = Some(LinkNameSpaceType::Network);
            move_into_link_name_space(std::os::fd::AsFd::as_fd(&file), kind)?;
            anyhow::Ok(work())
        };
        let done = std::thread::scope(|scope| scope.spawn(work).join());
        done.map_err(|_| anyhow::anyhow!("a thread in the namespace panicked"))?
    }

    fn id(&self) -> String {
        self.holder.id().to_string()
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        // Errors say that it has ended already.
        let _ = self.holder.kill();
        let _ = self.holder.wait();
    }
}

/// One end of a pair of interfaces.
#[derive(Clone, Copy, Debug)]
pub struct End<'a> {
    /// Where it is.
    pub namespace: &'a Namespace,
    /// What the interface is called there.
    pub interface: &'a str,
    /// Its address.
    pub address: Ipv4Addr,
}

/// Joins two namespaces by a pair of interfaces, with two addresses of one /30.
///
/// # Errors
/// What `ip` said.
pub fn pair(ends: [End<'_>; 2]) -> anyhow::Result<()> {
    let [one, other] = ends;
    run(Command::new("ip")
        .args(["link", "add", one.interface, "netns", &one.namespace.id(), "type", "veth"])
        .args(["peer", "name", other.interface, "netns", &other.namespace.id()]))?;
    for End { namespace, interface, address } in ends {
        let address = format!("{address}/30");
        run(&mut namespace.command("ip", &["address", "add", &address, "dev", interface]))?;
        run(&mut namespace.command("ip", &["link", "set", interface, "up"]))?;
    }
    Ok(())
}

/// The same for a link, with a rate.
///
/// # Errors
/// What `ip` or `tc` said.
pub fn join(
    number: u8,
    ends: [(&Namespace, Ipv4Addr); 2],
    rate_mbit: Option<u32>,
) -> anyhow::Result<()> {
    let name = format!("link{number}");
    let interface = name.as_str();
    pair(ends.map(|(namespace, address)| End { namespace, interface, address }))?;
    for (namespace, _) in ends {
        if let Some(rate) = rate_mbit {
            let rate = format!("{rate}mbit");
            let tbf = ["qdisc", "add", "dev", &name, "root", "tbf", "rate", &rate];
            let limits = ["burst", "128kb", "latency", "50ms"];
            run(&mut namespace.command("tc", &[&tbf[..], &limits].concat()))?;
        }
    }
    Ok(())
}

/// Sets whether anything passes between two joined namespaces.
///
/// # Errors
/// What `ip` said.
pub fn set_up(number: u8, end: &Namespace, up: bool) -> anyhow::Result<()> {
    let state = if up { "up" } else { "down" };
    run(&mut end.command("ip", &["link", "set", &format!("link{number}"), state]))
}

pub(crate) fn run(command: &mut Command) -> anyhow::Result<()> {
    let output = command.stdin(Stdio::null()).output().with_context(|| format!("{command:?}"))?;
    if !output.status.success() {
        bail!("{command:?}: {}", String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(())
}
