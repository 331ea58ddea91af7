//! Run: build everything from a checked configuration, serve, drain, end.

use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use outsock_vmrpc::host::Registry;
use tokio::signal::unix::{Signal, SignalKind, signal};

use crate::config::Config;
use crate::guests::{self, ServedGuest};
use crate::registry::Transports;
use crate::socket_module::{SocketModule, Sockets};
use crate::{admin, limits};

/// Serves until a signal has come and the connections have ended or the time for that is over.
pub(crate) async fn run(config: Config) -> anyhow::Result<()> {
    raise_descriptor_limit();
    let config = Arc::new(config);
    let sockets = Sockets::new(Arc::clone(&config), Transports::build(&config.transports));
    let registry = Registry::new();
    registry.register_hm(SocketModule(Arc::clone(&sockets)))?;
    let mut signals = Signals::new().context("cannot listen for signals")?;
    let admin = admin::bind(&config.admin_socket).with_context(|| {
        format!("cannot make the admin socket {}", config.admin_socket.display())
    })?;
    let mut served = Vec::new();
    for guest in &config.guests {
        served.push(guests::start(guest, &registry, &sockets)?);
        let socket = guest.socket.display();
        tracing::info!(guest = guest.name, cid = guest.cid.0, %socket, "waiting for its VMM");
    }
    if served.is_empty() {
        tracing::warn!("the configuration has no [[guest]]: there is nobody to serve");
    }
    let served = Arc::new(served);
    let admin = tokio::spawn(admin::serve(admin, Arc::clone(&served)));
    signals.wait().await;
    sockets.drain();
    drain(&served, config.drain_timeout, &mut signals).await;
    admin.abort();
    let _ = admin.await;
    // Only our own socket: a later gateway would have refused to start over a living one.
    let _ = std::fs::remove_file(&config.admin_socket);
    // Joins the guests' threads.
    tokio::task::spawn_blocking(move || drop(served)).await?;
    tracing::info!("ended");
    Ok(())
}

async fn drain(served: &[ServedGuest], timeout: Duration, signals: &mut Signals) {
    // An agent's VM RPC streams stay open for as long as it runs; they carry no program's bytes.
    let busy = || -> u64 {
        let carrying = |guest: &ServedGuest| {
            let open =
                guest.device.handle().counters().open.load(std::sync::atomic::Ordering::Relaxed);
            open.saturating_sub(guest.sockets.rpc_streams())
        };
        served.iter().map(carrying).sum()
    };
    if busy() == 0 {
        return;
    }
    tracing::info!(connections = busy(), timeout_ms = timeout.as_millis(), "draining");
    let all_ended = async {
        while busy() > 0 {
            tokio::time::sleep(Duration::from_millis(limits::DRAIN_POLL_MS)).await;
        }
    };
    tokio::select! {
        () = all_ended => {}
        () = tokio::time::sleep(timeout) => tracing::warn!(connections = busy(), "cut off"),
        () = signals.wait() => tracing::warn!(connections = busy(), "second signal: cut off"),
    }
}

/// SIGTERM and SIGINT.
struct Signals {
    terminate: Signal,
    interrupt: Signal,
}

impl Signals {
    fn new() -> std::io::Result<Self> {
        Ok(Self {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
        })
    }

    async fn wait(&mut self) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
        }
    }
}

/// A connection is a descriptor here, and the usual soft limit of 1024 is for programs that use
/// `select()`.
fn raise_descriptor_limit() {
    if let Err(error) = outsock_device::raise_descriptor_limit() {
        tracing::warn!(%error, "cannot raise the limit of open descriptors");
    }
}
