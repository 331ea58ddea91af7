//! A real guest: the client process, started by the agent, in User Mode Linux.
//!
//! in: a guest with a share directory that holds this program and the agent; out: samples. The same
//! client as natively, unmodified.

use anyhow::{Context, Result, bail};
use outsock_boot::{Guest, GuestCommand};
use outsock_harness::Gateway;

use super::Contestant;
use crate::case::{Case, Metric, Samples, real};
use crate::lab::{Server, Way};
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
    name: String,
    guest: &'a Guest,
    gateway: &'a Gateway,
    server: &'a Server,
}

impl<'a> RealGuest<'a> {
    /// A booted guest of that gateway.
    pub(crate) fn new(guest: &'a Guest, gateway: &'a Gateway, server: &'a Server) -> Self {
        Self { name: "outsock".to_owned(), guest, gateway, server }
    }
}

impl Contestant for RealGuest<'_> {
    fn name(&self) -> &str {
        &self.name
    }

    fn measure(&mut self, case: Case) -> Result<Samples> {
        let (agent, client) = (format!("{SHARE}/{AGENT}"), format!("{SHARE}/{CLIENT}"));
        let to = format!("tcp:{}", Way::Tcp.destination());
        let case_text = serde_json::to_string(&case)?;
        let argv = [&agent, "run", "--", &client, "client", &to, &case_text];
        let command = GuestCommand::new(&argv).timeout(limits::GUEST_CASE_TIMEOUT);
        let (gateway, far) =
            (cpu::of_threads(self.gateway.pid()), cpu::of_process(self.server.pid()));
        let output = self.guest.run_command(&command)?;
        if !output.status.success() {
            bail!("the client failed in the guest: {}", output.stderr_text().trim());
        }
        let mut samples: Samples =
            serde_json::from_str(&output.stdout_text()).context("the client gave no samples")?;
        if let Case::Stream { bytes, .. } = case {
            let used = [
                (Metric::GatewayCpu, cpu::of_threads(self.gateway.pid()), gateway),
                (Metric::FarCpu, cpu::of_process(self.server.pid()), far),
            ];
            samples.extend(used.map(|(metric, after, before)| {
                (metric, after.saturating_sub(before).as_secs_f64() / real(bytes) * 1e9)
            }));
        }
        Ok(samples)
    }
}
