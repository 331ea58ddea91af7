//! What stands around the near end: the server, the gateway, a place for their files.
//!
//! in: binaries; out: processes that end with their values. Kept: all files are in the folder of
//! temporary files, which the supervisor made and removes.

use std::io::{BufRead, BufReader};
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use anyhow::{Context, Result, bail};
use outsock_harness::{Gateway, Setup};
use tempfile::TempDir;

use crate::cli::Cli;

/// The address in the guest's world that leads to the server: one of those that are nobody's.
pub(crate) const SERVER: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 1);
/// Its port there for the server's TCP socket.
const TCP_PORT: u16 = 1;
/// Its port there for the server's Unix socket.
const UNIX_PORT: u16 = 2;
/// The port that a guest of a hybrid-vsock backend opens: the name of the server's Unix socket ends
/// with it.
pub(crate) const HYBRID_PORT: u32 = 5000;
/// What that name starts with.
const HYBRID_PREFIX: &str = "server";

/// The far end, in its own process.
#[derive(Debug)]
pub(crate) struct Server {
    process: Child,
    tcp: SocketAddr,
    /// TLS, SOCKS5.
    doors: Vec<SocketAddr>,
    folder: TempDir,
}

impl Server {
    /// Starts it.
    pub(crate) fn start() -> Result<Self> {
        Self::start_with(&[])
    }

    /// Starts it with its other doors open: TLS with this certificate, SOCKS5, plain TCP.
    pub(crate) fn with_doors(certificate: &Path, key: &Path) -> Result<Self> {
        Self::start_with(&[certificate, key])
    }

    fn start_with(doors: &[&Path]) -> Result<Self> {
        let folder = tempfile::tempdir()?;
        let unix = unix(folder.path());
        let mut process = Command::new(std::env::current_exe()?)
            .arg("serve")
            .arg(&unix)
            .args(doors)
            // Its end is the server's end.
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .context("cannot start the server")?;
        let stdout = process.stdout.take().context("the server has no standard output")?;
        let mut line = String::new();
        BufReader::new(stdout).read_line(&mut line)?;
        let addresses = line.split_whitespace().map(str::parse).collect::<Result<Vec<_>, _>>()?;
        let [tcp, doors @ ..] = &addresses[..] else { bail!("the server did not start") };
        Ok(Self { process, tcp: *tcp, doors: doors.to_vec(), folder })
    }

    /// TLS, SOCKS5 and plain TCP served in the same way, where they are open.
    pub(crate) fn doors(&self) -> Option<[SocketAddr; 3]> {
        self.doors.as_slice().try_into().ok()
    }

    /// For [`crate::client`], over TCP.
    pub(crate) fn tcp(&self) -> String {
        format!("tcp:{}", self.tcp)
    }

    /// For [`crate::client`], over the Unix socket.
    pub(crate) fn unix(&self) -> String {
        format!("unix:{}", unix(self.folder.path()).display())
    }

    /// The Unix socket's path without `_` and [`HYBRID_PORT`].
    pub(crate) fn hybrid_prefix(&self) -> PathBuf {
        self.folder.path().join(HYBRID_PREFIX)
    }

    /// Its process.
    pub(crate) fn pid(&self) -> u32 {
        self.process.id()
    }
}

fn unix(folder: &Path) -> PathBuf {
    folder.join(format!("{HYBRID_PREFIX}_{HYBRID_PORT}"))
}

impl Drop for Server {
    fn drop(&mut self) {
        // Already gone is as good.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// What a guest dials to come to the server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Way {
    /// To its TCP socket.
    Tcp,
    /// To its Unix socket.
    Unix,
    /// By TLS.
    Tls,
    /// By its SOCKS5 door.
    Socks5,
    /// To its TCP socket, by an external transport.
    External,
}

impl Way {
    /// What it is called in a table.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Tcp => "direct",
            Self::Unix => "unix",
            Self::Tls => "tls",
            Self::Socks5 => "socks5",
            Self::External => "external",
        }
    }

    /// The destination in the guest's world.
    pub(crate) fn destination(self) -> SocketAddr {
        let port = match self {
            Self::Tcp => TCP_PORT,
            Self::Unix => UNIX_PORT,
            Self::Tls => 3,
            Self::Socks5 => 4,
            Self::External => 5,
        };
        (SERVER, port).into()
    }
}

/// Starts a gateway for these guests, with routes to the server.
pub(crate) fn gateway(cli: &Cli, server: &Server, guests: &[(String, u64)]) -> Result<Gateway> {
    let mut setup = Setup::new(&cli.gateway)
        .route(&SERVER.to_string(), TCP_PORT, &server.tcp.to_string())
        .route(&SERVER.to_string(), UNIX_PORT, &server.unix());
    for (name, cid) in guests {
        setup = setup.guest(name, *cid);
    }
    let hint = || format!("cannot start the gateway {}: see --help", cli.gateway.display());
    setup.start().with_context(hint)
}
