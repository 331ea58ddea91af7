//! Another vhost-user vsock backend: a process with the command line of `vhost-device-vsock`.
//!
//! in: its binary, a CID, the prefix of the Unix sockets that it connects to; out: a vhost-user
//! socket. Kept: the process ends with the value.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use tempfile::TempDir;

use crate::limits;

/// A running backend for one guest.
#[derive(Debug)]
pub(crate) struct Peer {
    process: Child,
    folder: TempDir,
}

impl Peer {
    /// Starts it.
    pub(crate) fn start(binary: &Path, cid: u64, hybrid_prefix: &Path) -> Result<Self> {
        let folder = tempfile::tempdir()?;
        let log = std::fs::File::create(folder.path().join("log"))?;
        let process = Command::new(binary)
            .arg("--guest-cid")
            .arg(cid.to_string())
            .arg("--socket")
            .arg(folder.path().join("guest.sock"))
            .arg("--uds-path")
            .arg(hybrid_prefix)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .with_context(|| format!("cannot start the peer {}", binary.display()))?;
        let mut peer = Self { process, folder };
        let deadline = Instant::now() + limits::START_TIMEOUT;
        while !peer.socket().exists() {
            if peer.process.try_wait()?.is_some() || Instant::now() > deadline {
                let log = std::fs::read_to_string(peer.folder.path().join("log"));
                bail!("the peer did not start: {}", log.unwrap_or_default());
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        Ok(peer)
    }

    /// Its vhost-user socket.
    pub(crate) fn socket(&self) -> PathBuf {
        self.folder.path().join("guest.sock")
    }

    /// Its process.
    pub(crate) fn pid(&self) -> u32 {
        self.process.id()
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        // Already gone is as good.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}
