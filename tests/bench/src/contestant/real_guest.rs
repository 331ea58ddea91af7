//! A real guest: the client process in User Mode Linux, started by the agent, or without it on a peer.
//!
//! in: a guest with a share directory that holds this program and the agent; out: samples. The same
//! client as natively, unmodified.

use anyhow::{Context, Result, bail};
use outsock_boot::{Guest, GuestCommand};
use outsock_harness::Gateway;

use super::Contestant;
use crate::case::{Case, Direction, Metric, Samples, real};
use crate::lab::{self, Server, Way};
use crate::peer::Peer;
use crate::{cpu, limits};

/// Where the guest sees its share directory.
const SHARE: &str = "/mnt/share";
/// The agent's name there.
pub(crate) const AGENT: &str = "outsock";
/// This program's name there.
pub(crate) const CLIENT: &str = "outsock-bench";

/// A guest that can reach the server.
#[derive(Debug)]
pub(crate) struct RealGuest<'a> {
    name: &'static str,
    guest: &'a Guest,
    /// In front of the client's own arguments.
    prefix: Vec<String>,
    /// Where the client connects to.
    to: String,
    backend_pid: u32,
    server: &'a Server,
    message_max: u32,
}

impl<'a> RealGuest<'a> {
    /// Its name, where the gateway and the agent serve it.
    pub(crate) const OURS: &'static str = "outsock";
    /// Its name, where it talks to itself.
    pub(crate) const ALONE: &'static str = "the guest's own loopback";
    /// Its name, where a peer does.
    pub(crate) const THEIRS: &'static str = "peer";

    /// A guest of that gateway, with the agent.
    pub(crate) fn of_gateway(guest: &'a Guest, gateway: &Gateway, server: &'a Server) -> Self {
        let prefix = vec![format!("{SHARE}/{AGENT}"), "run".to_owned(), "--".to_owned()];
        let to = format!("tcp:{}", Way::Tcp.destination());
        let (backend_pid, message_max) = (gateway.pid(), u32::MAX);
        Self { name: Self::OURS, guest, prefix, to, backend_pid, server, message_max }
    }

    /// The same, asking for names.
    pub(crate) fn of_gateways_names(
        guest: &'a Guest,
        gateway: &Gateway,
        server: &'a Server,
    ) -> Self {
        Self { to: "dns:".to_owned(), ..Self::of_gateway(guest, gateway, server) }
    }

    /// A guest whose program talks to itself, without an agent.
    pub(crate) fn alone(guest: &'a Guest, server: &'a Server) -> Self {
        Self {
            name: Self::ALONE,
            guest,
            prefix: Vec::new(),
            to: crate::client::OWN.to_owned(),
            backend_pid: server.pid(),
            server,
            message_max: u32::MAX,
        }
    }

    /// A guest of a peer: the client itself opens vsock connections.
    pub(crate) fn of_peer(guest: &'a Guest, peer: &Peer, server: &'a Server) -> Self {
        let to = format!("vsock:{}", lab::HYBRID_PORT);
        let (backend_pid, message_max) = (peer.pid(), limits::PEER_MESSAGE_BYTES_MAX);
        let (name, prefix) = (Self::THEIRS, Vec::new());
        Self { name, guest, prefix, to, backend_pid, server, message_max }
    }

    fn run(&self, case: Case) -> Result<Samples> {
        let mut argv = self.prefix.clone();
        argv.push(format!("{SHARE}/{CLIENT}"));
        argv.extend(["client".to_owned(), self.to.clone(), serde_json::to_string(&case)?]);
        let command = GuestCommand::new(&argv).timeout(limits::GUEST_CASE_TIMEOUT);
        let output = self.guest.run_command(&command)?;
        if !output.status.success() {
            bail!("the client failed in the guest: {}", output.stderr_text().trim());
        }
        serde_json::from_str(&output.stdout_text()).context("the client gave no samples")
    }
}

impl Contestant for RealGuest<'_> {
    fn name(&self) -> &str {
        self.name
    }

    fn measure(&mut self, case: Case) -> Result<Samples> {
        let Case::Stream { direction, message, bytes } = case else { return self.run(case) };
        // Only what the guest sends is the backend's to take.
        let message = match direction {
            Direction::Out => message.min(self.message_max),
            Direction::In => message,
        };
        let now = || {
            let server = cpu::of_process(self.server.pid());
            [(Metric::GatewayCpu, cpu::of_threads(self.backend_pid)), (Metric::FarCpu, server)]
        };
        let before = now();
        let mut samples = self.run(Case::Stream { direction, message, bytes })?;
        for ((metric, after), (_, before)) in now().into_iter().zip(before) {
            let used = after.saturating_sub(before).as_secs_f64();
            samples.push((metric, used / real(bytes) * 1e9));
        }
        Ok(samples)
    }
}
