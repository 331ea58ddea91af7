//! No guest, no gateway: the client process and the server, over loopback TCP or a Unix socket.

use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};

use super::Contestant;
use crate::case::{Case, Metric, Samples, real};
use crate::cpu;
use crate::lab::{Server, Way};

/// The yardstick.
#[derive(Debug)]
pub(crate) struct Native<'a> {
    name: &'static str,
    way: Way,
    server: &'a Server,
}

impl<'a> Native<'a> {
    /// The name of the yardstick of a kind.
    pub(crate) fn name_of(way: Way) -> &'static str {
        match way {
            Way::Tcp => "native TCP",
            Way::Unix => "native Unix socket",
            Way::Tls | Way::Socks5 | Way::External => way.name(),
        }
    }

    /// To this server.
    pub(crate) fn new(server: &'a Server, way: Way) -> Self {
        Self { name: Self::name_of(way), way, server }
    }
}

impl Contestant for Native<'_> {
    fn name(&self) -> &str {
        self.name
    }

    fn measure(&mut self, case: Case) -> Result<Samples> {
        let to = match self.way {
            Way::Tcp => self.server.tcp(),
            Way::Unix => self.server.unix(),
            Way::Tls | Way::Socks5 | Way::External => bail!("natively there is only TCP"),
        };
        let far = cpu::of_process(self.server.pid());
        let output = Command::new(std::env::current_exe()?)
            .args(["client", &to, &serde_json::to_string(&case)?])
            .stdin(Stdio::null())
            .stderr(Stdio::inherit())
            .output()
            .context("cannot start the client")?;
        if !output.status.success() {
            bail!("the client failed: {}", output.status);
        }
        let mut samples: Samples = serde_json::from_slice(&output.stdout)?;
        if let Case::Stream { bytes, .. } = case {
            let used = cpu::of_process(self.server.pid()).saturating_sub(far);
            samples.push((Metric::FarCpu, used.as_secs_f64() / real(bytes) * 1e9));
        }
        Ok(samples)
    }
}
