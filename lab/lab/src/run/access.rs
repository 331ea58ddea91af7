//! Access: commands in a running lab, and what its parts say.
//!
//! in: the name of a site or a guest; out: processes, logs, consoles, status. Owner: the lab. Kept: a
//! name that is not there is an error that lists those that are. Bound: every wait has a deadline.

use std::process::Command;
use std::time::Duration;

use anyhow::{Context, bail};
use outsock_boot::{Guest, GuestCommand, GuestProcess};
use outsock_site::Gateway;

use super::{Lab, RunningSite, lock};

impl Lab {
    /// Starts a command in a guest, given as `SITE/GUEST`, under `outsock run`.
    ///
    /// # Errors
    /// There is no such guest, or it is gone.
    pub fn spawn(
        &self,
        place: &str,
        argv: &[String],
        stdin: &[u8],
    ) -> anyhow::Result<GuestProcess> {
        let guest = lock(&self.guest(place)?.guest);
        let guest = guest.as_ref().with_context(|| format!("{place} is not running"))?;
        let agent = ["/mnt/share/outsock", "run", "--"].map(str::to_owned);
        let command = GuestCommand::new(&[&agent[..], argv].concat()).stdin(stdin);
        Ok(guest.spawn(&command)?)
    }

    /// The same, to its end.
    ///
    /// # Errors
    /// There is no such guest, it is gone, or the time is over.
    pub fn exec(
        &self,
        place: &str,
        argv: &[&str],
        timeout: Duration,
    ) -> anyhow::Result<outsock_boot::Output> {
        let argv: Vec<String> = argv.iter().map(ToString::to_string).collect();
        let mut process = self.spawn(place, &argv, &[])?;
        process.close_stdin()?;
        Ok(process.wait(timeout)?)
    }

    /// A command of the host in a site's network: a server beside its gateway, a look at its interfaces.
    ///
    /// # Errors
    /// There is no such site.
    pub fn site_command(&self, site: &str, argv: &[&str]) -> anyhow::Result<Command> {
        let [program, arguments @ ..] = argv else { bail!("which program?") };
        Ok(match &self.site(site)?.namespace {
            Some(namespace) => namespace.command(program, arguments),
            None => {
                let mut command = Command::new(program);
                command.args(arguments);
                command
            }
        })
    }

    /// What a site's gateway says of itself.
    ///
    /// # Errors
    /// It does not answer.
    pub fn gateway_status(&self, site: &str) -> anyhow::Result<String> {
        let gateway = lock(&self.site(site)?.gateway);
        let gateway =
            gateway.as_ref().with_context(|| format!("{site}'s gateway is not running"))?;
        Ok(gateway.status_table()?)
    }

    /// A site's gateway's log.
    ///
    /// # Errors
    /// There is no such site.
    pub fn gateway_log(&self, site: &str) -> anyhow::Result<String> {
        let gateway = lock(&self.site(site)?.gateway);
        Ok(gateway.as_ref().map(Gateway::log).unwrap_or_default())
    }

    /// A guest's console.
    ///
    /// # Errors
    /// There is no such guest.
    pub fn console(&self, place: &str) -> anyhow::Result<String> {
        let guest = lock(&self.guest(place)?.guest);
        Ok(guest.as_ref().map(Guest::console).unwrap_or_default())
    }

    /// The sites and their guests.
    #[must_use]
    pub fn places(&self) -> Vec<(String, Vec<String>)> {
        let guests = |site: &RunningSite| site.guests.iter().map(|g| g.name.clone()).collect();
        self.sites.iter().map(|site| (site.name.clone(), guests(site))).collect()
    }
}
