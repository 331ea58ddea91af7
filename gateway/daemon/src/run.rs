//! Run: build everything from a checked configuration, serve, drain, end.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant};

use anyhow::Context;
use outsock_vmrpc::host::Registry;
use tokio::signal::unix::{Signal, SignalKind, signal};

use crate::config::Config;
use crate::datagram_module::DatagramModule;
use crate::gateway::Gateway;
use crate::guests::ServedGuest;
use crate::modules_module::ModulesModule;
use crate::names::Names;
use crate::own::OwnAddresses;
use crate::peers::{self, Peers};
use crate::policy::Policy;
use crate::resolver_module::ResolverModule;
use crate::socket_module::{SocketModule, Sockets};
use crate::{admin, limits};

/// Serves until a signal has come and the connections have ended or the time for that is over.
pub(crate) async fn run(path: &Path, config: Config) -> anyhow::Result<()> {
    raise_descriptor_limit();
    let admin_socket = config.admin_socket.clone();
    let mut signals = Signals::new().context("cannot listen for signals")?;
    let listener = admin::bind(&admin_socket)
        .with_context(|| format!("cannot make the admin socket {}", admin_socket.display()))?;
    let own = OwnAddresses::new().context("cannot ask the kernel for the host's own addresses")?;
    let names = Names::open(&config.names)?;
    let peers = Peers::start(&config)?;
    let policy = Policy::build_with(config, None, Arc::clone(&peers))?;
    peers.set(&policy.config);
    let sockets = Sockets::new(policy, names, own);
    let registry = Registry::new();
    registry.register_hm(SocketModule(Arc::clone(&sockets)))?;
    registry.register_hm(ResolverModule(Arc::clone(&sockets)))?;
    let listed = ModulesModule { registry: registry.clone(), sockets: Arc::clone(&sockets) };
    registry.register_hm(listed)?;
    registry.register_hm(DatagramModule(Arc::clone(&sockets)))?;
    let gateway = Gateway::new(path.to_owned(), registry, Arc::clone(&sockets));
    gateway.start()?;
    if gateway.served().is_empty() {
        tracing::warn!("the configuration has no [[guest]]: there is nobody to serve");
    }
    let tasks = [
        tokio::spawn(admin::serve(listener, Arc::clone(&gateway))),
        tokio::spawn(sweep(Arc::clone(&sockets))),
        tokio::spawn(peers::serve(Arc::clone(&sockets))),
    ];
    serve(&gateway, &mut signals).await;
    sockets.drain();
    peers.drain().await;
    let until = Instant::now() + sockets.policy().config.drain_timeout;
    drain(&gateway, &mut signals).await;
    // What guests have sent is with the peers, or their own connections go on until then.
    peers.close(until.saturating_duration_since(Instant::now())).await;
    for task in tasks {
        task.abort();
        let _ = task.await;
    }
    // Only our own socket: a later gateway would have refused to start over a living one.
    let _ = std::fs::remove_file(&admin_socket);
    gateway.end_modules();
    let served = std::mem::take(&mut *gateway.served());
    // Joins the guests' threads.
    tokio::task::spawn_blocking(move || drop(served)).await?;
    tracing::info!("ended");
    Ok(())
}

/// Until a signal says to end; SIGHUP is a reload.
async fn serve(gateway: &Gateway, signals: &mut Signals) {
    loop {
        let Signals { terminate, interrupt, hangup } = signals;
        tokio::select! {
            _ = terminate.recv() => return,
            _ = interrupt.recv() => return,
            _ = hangup.recv() => {
                // Logged there.
                let _ = admin::reload(gateway).await;
            }
        }
    }
}

async fn sweep(sockets: Arc<Sockets>) {
    loop {
        tokio::time::sleep(Duration::from_millis(limits::SWEEP_MS)).await;
        sockets.sweep();
    }
}

async fn drain(gateway: &Gateway, signals: &mut Signals) {
    let timeout = gateway.sockets.policy().config.drain_timeout;
    // An agent's VM RPC streams stay open for as long as it runs; they carry no program's bytes.
    let busy = || -> u64 {
        let carrying = |guest: &ServedGuest| {
            let open = guest.device.handle().counters().open.load(Relaxed);
            open.saturating_sub(guest.sockets.rpc_streams())
        };
        gateway.served().iter().map(carrying).sum()
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
        () = signals.end() => tracing::warn!(connections = busy(), "second signal: cut off"),
    }
}

/// SIGTERM and SIGINT, SIGHUP.
struct Signals {
    terminate: Signal,
    interrupt: Signal,
    hangup: Signal,
}

impl Signals {
    fn new() -> std::io::Result<Self> {
        Ok(Self {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
            hangup: signal(SignalKind::hangup())?,
        })
    }

    async fn end(&mut self) {
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
