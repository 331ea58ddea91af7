//! Scene: the guest, the gateway and the directory of one demo.
//!
//! in: built programs, a configuration; out: commands run in the guest. Owner: the demo. Kept: fields
//! are dropped in order, so the guest ends before the gateway, and the directory last. Bound: a
//! command's time, [`COMMAND_TIMEOUT`].

use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use outsock_boot::{BootOptions, Guest, GuestCommand, Image, Output};
use outsock_site::{Directory, Gateway, Interrupt, Programs};

const COMMAND_TIMEOUT: Duration = Duration::from_secs(30);
const POLL: Duration = Duration::from_millis(20);
/// Any guest CID that nobody else has in this gateway.
const CID: u32 = 3;
const SOCKET: &str = "guest.sock";

/// All that the demo started.
#[derive(Debug)]
pub(crate) struct Scene {
    guest: Option<Guest>,
    pub(crate) gateway: Gateway,
    agent: String,
    directory: Directory,
}

impl Scene {
    pub(crate) fn prepare(programs: &Programs, routes: &str) -> anyhow::Result<Self> {
        let directory = Directory::new().context("cannot make a temporary directory")?;
        let agent = directory
            .share_program(&programs.agent, "outsock")
            .context("cannot copy the agent to where the guest sees it")?;
        let socket = directory.path(SOCKET);
        let config =
            format!("[[guest]]\nname = \"demo\"\ncid = {CID}\nsocket = {socket:?}\n\n{routes}");
        let gateway = Gateway::start(&programs.gateway, &directory, "gateway", &config)?;
        Ok(Self { guest: None, gateway, agent, directory })
    }

    pub(crate) fn boot(&mut self, image: Image) -> anyhow::Result<()> {
        let mut options = BootOptions::new(image);
        options.name = "demo".to_owned();
        options.vsock_socket = Some(self.directory.path(SOCKET));
        options.cid = Some(CID);
        options.share = Some(self.directory.share());
        self.guest = Some(Guest::boot(options)?);
        Ok(())
    }

    pub(crate) fn guest(&self) -> anyhow::Result<&Guest> {
        self.guest.as_ref().context("no guest is booted")
    }

    /// The agent's path in the guest.
    pub(crate) fn agent(&self) -> &str {
        &self.agent
    }

    pub(crate) fn run(&self, interrupt: &Interrupt, argv: &[&str]) -> anyhow::Result<Output> {
        let mut process = self.guest()?.spawn(&GuestCommand::new(argv))?;
        process.close_stdin()?;
        let deadline = Instant::now() + COMMAND_TIMEOUT;
        while process.is_running() && Instant::now() < deadline {
            if interrupt.is_set() {
                bail!("interrupted");
            }
            std::thread::sleep(POLL);
        }
        Ok(process.wait(Duration::ZERO)?)
    }

    /// Powers the guest off and stops the gateway, in this order.
    pub(crate) fn end(self) -> anyhow::Result<()> {
        if let Some(guest) = self.guest {
            guest.shutdown()?;
        }
        self.gateway.stop()?;
        Ok(())
    }
}
