//! Runs the gateway's own binary, with a configuration made for a test, and ends it again.
//!
//! in: a binary, guests, routes; out: a [`Gateway`] with the guests' sockets. Owner: the test. Kept:
//! the process and its folder are gone when the value is dropped, also when the test panics, and
//! the process dies with the one that started it. Bound: [`PATIENCE`].
#![forbid(unsafe_code)]

use std::fmt::Write as _;
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use outsock_virtual_guest::{Options, VirtualGuest};
use tempfile::TempDir;

/// How long the gateway may take to start or to end.
pub const PATIENCE: Duration = Duration::from_secs(20);

/// A running gateway.
#[derive(Debug)]
pub struct Gateway {
    process: Child,
    folder: TempDir,
    binary: PathBuf,
}

/// What to start.
#[derive(Clone, Debug)]
pub struct Setup {
    binary: PathBuf,
    gateway: String,
    guests: Vec<(String, u64)>,
    rest: String,
}

impl Setup {
    /// Starts `binary`; without guests and routes yet.
    pub fn new(binary: impl Into<PathBuf>) -> Self {
        Self {
            binary: binary.into(),
            gateway: String::new(),
            guests: Vec::new(),
            rest: String::new(),
        }
    }

    /// Adds a line to `[gateway]`.
    #[must_use]
    pub fn gateway(mut self, line: &str) -> Self {
        self.gateway += line;
        self.gateway.push('\n');
        self
    }

    /// Adds a guest.
    #[must_use]
    pub fn guest(mut self, name: &str, cid: u64) -> Self {
        self.guests.push((name.to_owned(), cid));
        self
    }

    /// Adds TOML tables, such as `[[route]]`.
    #[must_use]
    pub fn toml(mut self, tables: &str) -> Self {
        self.rest += tables;
        self.rest.push('\n');
        self
    }

    /// Adds a route from one address of the guest's world to a target of the host's.
    #[must_use]
    pub fn route(self, to: &str, port: u16, target: &str) -> Self {
        self.toml(&format!(
            "[[route]]\nto = [\"{to}\"]\nports = [{port}]\nvia = \"direct\"\ntarget = \"{target}\""
        ))
    }

    /// Writes the configuration and starts the gateway; returns when its sockets are there.
    pub fn start(self) -> io::Result<Gateway> {
        let folder = TempDir::with_prefix("outsock-")?;
        let at = |name: &str| folder.path().join(name);
        let mut config = format!(
            "[gateway]\nadmin_socket = {:?}\n{}",
            at("admin.sock").display().to_string(),
            self.gateway
        );
        for (name, cid) in &self.guests {
            let socket = at(&format!("{name}.sock")).display().to_string();
            let _ =
                write!(config, "[[guest]]\nname = {name:?}\ncid = {cid}\nsocket = {socket:?}\n");
        }
        config += &self.rest;
        std::fs::write(at("gateway.toml"), config)?;
        let log = std::fs::File::create(at("log"))?;
        let process = Command::new(&self.binary)
            .args(["run", "--config"])
            .arg(at("gateway.toml"))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()?;
        let mut gateway = Gateway { process, folder, binary: self.binary };
        let last = self.guests.last().map_or("admin", |(name, _)| name.as_str());
        let deadline = Instant::now() + PATIENCE;
        while !listens(gateway.pid(), &gateway.socket(last)) {
            if let Some(status) = gateway.process.try_wait()? {
                return Err(io::Error::other(format!(
                    "the gateway ended: {status}\n{}",
                    gateway.log()
                )));
            }
            if Instant::now() > deadline {
                return Err(io::Error::other(format!("no socket\n{}", gateway.log())));
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        Ok(gateway)
    }
}

impl Gateway {
    /// A guest's vhost-user socket.
    pub fn socket(&self, guest: &str) -> PathBuf {
        self.folder.path().join(format!("{guest}.sock"))
    }

    /// The configuration file, for reloads.
    pub fn config(&self) -> PathBuf {
        self.folder.path().join("gateway.toml")
    }

    /// A folder that is removed with the gateway.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// What the gateway logged.
    pub fn log(&self) -> String {
        std::fs::read_to_string(self.folder.path().join("log")).unwrap_or_default()
    }

    /// The process.
    pub fn pid(&self) -> u32 {
        self.process.id()
    }

    /// Boots a virtual guest on a guest's socket.
    pub fn boot(&self, guest: &str, options: Options) -> io::Result<VirtualGuest> {
        VirtualGuest::connect(self.socket(guest), options).map_err(io::Error::other)
    }

    /// Runs another command of the same binary against this gateway.
    pub fn command(&self, command: &str) -> Command {
        let mut run = Command::new(&self.binary);
        run.arg(command).arg("--config").arg(self.config());
        run
    }

    /// `status --json`.
    pub fn status(&self) -> io::Result<serde_json::Value> {
        let output = self.command("status").arg("--json").output()?;
        serde_json::from_slice(&output.stdout).map_err(io::Error::other)
    }

    /// Memory in use, bytes (`VmRSS`).
    pub fn rss_bytes(&self) -> io::Result<u64> {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.pid()))?;
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
        let kib =
            line.and_then(|line| line.trim().trim_end_matches("kB").trim().parse::<u64>().ok());
        kib.map(|kib| kib * 1024).ok_or_else(|| io::Error::other("no VmRSS"))
    }

    /// Processor time used so far, user and system.
    pub fn cpu_time(&self) -> io::Result<Duration> {
        cpu_time(self.pid())
    }

    /// Open descriptors.
    pub fn descriptors(&self) -> io::Result<usize> {
        Ok(std::fs::read_dir(format!("/proc/{}/fd", self.pid()))?.count())
    }

    /// Sends a signal by its name, such as `TERM`.
    pub fn signal(&self, name: &str) -> io::Result<()> {
        let status =
            Command::new("kill").arg(format!("-{name}")).arg(self.pid().to_string()).status()?;
        if status.success() { Ok(()) } else { Err(io::Error::other("kill failed")) }
    }

    /// Waits for the process to end by itself.
    pub fn wait(&mut self) -> io::Result<ExitStatus> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            if let Some(status) = self.process.try_wait()? {
                return Ok(status);
            }
            if Instant::now() > deadline {
                return Err(io::Error::other(format!("still running\n{}", self.log())));
            }
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// Whether it is still there.
    pub fn is_running(&mut self) -> bool {
        matches!(self.process.try_wait(), Ok(None))
    }
}

impl Drop for Gateway {
    fn drop(&mut self) {
        // Already gone is as good.
        let _ = self.process.kill();
        let _ = self.process.wait();
        if std::thread::panicking() {
            let log = self.log();
            let tail: Vec<_> = log.lines().rev().take(40).collect();
            eprintln!("--- the gateway's last lines");
            tail.into_iter().rev().for_each(|line| eprintln!("{line}"));
        }
    }
}

/// Whether somebody in the network namespace of a process accepts connections there. A socket's
/// file exists a moment before.
fn listens(pid: u32, socket: &Path) -> bool {
    const ACCEPTS: &str = "00010000";
    let table = std::fs::read_to_string(format!("/proc/{pid}/net/unix")).unwrap_or_default();
    let path = socket.display().to_string();
    table.lines().any(|line| {
        line.split_whitespace().nth(3) == Some(ACCEPTS) && line.ends_with(&format!(" {path}"))
    })
}

/// Processor time of a process so far, user and system.
pub fn cpu_time(pid: u32) -> io::Result<Duration> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat"))?;
    let fields: Vec<&str> = stat
        .rsplit_once(')')
        .map(|(_, rest)| rest.split_whitespace().collect())
        .unwrap_or_default();
    // Fields 14 and 15 of proc(5); the first after the name is field 3.
    let ticks = |index: usize| fields.get(index).and_then(|field| field.parse::<u64>().ok());
    let (user, system) = ticks(11).zip(ticks(12)).ok_or_else(|| io::Error::other("/proc stat"))?;
    // Linux reports in hundredths of a second on every architecture (USER_HZ).
    Ok(Duration::from_millis((user + system) * 10))
}
