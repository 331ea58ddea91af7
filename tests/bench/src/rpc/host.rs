//! Host: a guest's device and a registry in this process, with a module and plain echo ports.
//!
//! in: a guest's CID; out: a vhost-user socket. Owner: the part. The gateway is the same code around the
//! same device; here the module is a Rust type in it, so that nothing but VM RPC is measured.

use std::io::{Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::Result;
use outsock_core::address::{Cid, VsockPort};
use outsock_device::{FarEnd, GuestDevice, GuestDeviceConfig, News};
use outsock_vmrpc::host::{CallError, Caller, HostModule, Registry, Terms, serve_with};
use outsock_vmrpc::limits::{PRIVILEGED_PORT_MAX, QUEUE_BYTES_MAX, TOKEN_MIN};
use outsock_vmrpc::{ModuleName, Version, VersionRange};
use tempfile::TempDir;

use super::{ECHO, MODULE, QUEUE, serve_events};

/// See the module.
pub(crate) struct Host {
    device: GuestDevice,
    #[cfg(feature = "ttrpc")]
    _ttrpc: ttrpc::Server,
    /// After the device: its news end first.
    _runtime: tokio::runtime::Runtime,
    folder: TempDir,
    next_port: std::sync::atomic::AtomicU32,
}

impl std::fmt::Debug for Host {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Host").field("folder", &self.folder).finish_non_exhaustive()
    }
}

#[cfg(feature = "ttrpc")]
fn ttrpc_socket(folder: &Path) -> PathBuf {
    folder.join("ttrpc.sock")
}

fn socket(folder: &Path) -> PathBuf {
    folder.join("guest.sock")
}

impl Host {
    /// Starts it.
    pub(crate) fn start(cid: u64) -> Result<Self> {
        let folder = tempfile::tempdir()?;
        let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
        let (device, mut news) = GuestDevice::start(GuestDeviceConfig {
            name: "bench".to_owned(),
            cid: Cid(cid),
            socket: socket(folder.path()),
        })?;
        let registry = Registry::new();
        registry.register_hm(Bench)?;
        runtime.spawn(async move {
            while let Some(news) = news.recv().await {
                let News::Service { from, stream, memory, .. } = news else { continue };
                let privileged = from.0 <= PRIVILEGED_PORT_MAX;
                let memory = privileged.then(|| Arc::new(memory) as _);
                let registry = registry.clone();
                tokio::spawn(async move {
                    let terms = Terms { memory, ..Terms::default() };
                    serve_with(stream, &registry, Caller::new("bench", cid), terms).await
                });
            }
        });
        let next_port = std::sync::atomic::AtomicU32::new(TOKEN_MIN);
        Ok(Self {
            device,
            #[cfg(feature = "ttrpc")]
            _ttrpc: super::ttrpc_echo::serve(&ttrpc_socket(folder.path()))?,
            _runtime: runtime,
            folder,
            next_port,
        })
    }

    /// The vhost-user socket.
    pub(crate) fn socket(&self) -> PathBuf {
        socket(self.folder.path())
    }

    /// Makes `count` ports that echo, once each; the first one. They have to be opened soon.
    pub(crate) fn echo_ports(&self, count: u32) -> Result<u32> {
        let first = self.next_port.fetch_add(count, std::sync::atomic::Ordering::Relaxed);
        for port in first..first + count {
            let (near, far) = UnixStream::pair()?;
            self.announce(port, near)?;
            std::thread::spawn(move || echo(far));
        }
        Ok(first)
    }

    /// Makes a port that leads to the server of ttrpc, once.
    #[cfg(feature = "ttrpc")]
    pub(crate) fn ttrpc_port(&self) -> Result<u32> {
        let port = self.next_port.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        self.announce(port, UnixStream::connect(ttrpc_socket(self.folder.path()))?)?;
        Ok(port)
    }

    fn announce(&self, port: u32, near: UnixStream) -> Result<()> {
        near.set_nonblocking(true)?;
        let handle = self.device.handle();
        handle.announce(VsockPort(port))?;
        handle.dial_ok(VsockPort(port), FarEnd::socket(OwnedFd::from(near)))?;
        Ok(())
    }
}

fn echo(mut stream: UnixStream) {
    let mut buffer = vec![0; 64 * 1024];
    while let Ok(n @ 1..) = stream.read(&mut buffer) {
        if stream.write_all(&buffer[..n]).is_err() {
            return;
        }
    }
}

struct Bench;

#[async_trait::async_trait]
impl HostModule for Bench {
    fn name(&self) -> ModuleName {
        MODULE.parse().unwrap_or_else(|error| unreachable!("a constant: {error}"))
    }

    fn versions(&self) -> VersionRange {
        VersionRange::only(Version(1))
    }

    async fn call(
        &self,
        caller: &Caller,
        _: Version,
        function: u32,
        arguments: Vec<u8>,
    ) -> Result<Vec<u8>, CallError> {
        match function {
            ECHO => Ok(arguments),
            QUEUE => {
                let (count, from_guest) = match arguments[..] {
                    [ref count @ .., from_guest] => (count.try_into().ok(), from_guest != 0),
                    [] => (None, false),
                };
                let count = count.map(u64::from_le_bytes).ok_or(CallError::BadArguments)?;
                let queue = caller.make_ev_queue(QUEUE_BYTES_MAX);
                let queue = queue.map_err(|_| CallError::TooMany)?;
                let ticket = queue.ticket().encode();
                std::thread::spawn(move || serve_events(&queue, count, from_guest));
                Ok(ticket)
            }
            _ => Err(CallError::NoSuchFunction),
        }
    }
}
