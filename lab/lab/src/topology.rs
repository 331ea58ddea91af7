//! Topology: what a lab consists of, as a file.
//!
//! in: TOML; out: a checked [`Topology`]. Owner: whoever starts the lab. Kept: names are unique and fit
//! into host names; a link joins two sites that are there. Bound: [`limits`].
//!
//! ```
//! let text = r#"
//! [[site]]
//! name = "tokyo"
//! [[site.guest]]
//! name = "web"
//!
//! [[site]]
//! name = "osaka"
//! [[site.guest]]
//! name = "db"
//! services = { www = 80, dns = [53, "53/udp"] }
//! run = [["python3", "-m", "http.server", "80"]]
//!
//! [[link]]
//! between = ["tokyo", "osaka"]
//! delay_ms = 5
//! "#;
//! let topology = outsock_lab::Topology::parse(text).unwrap();
//! assert_eq!(topology.sites[1].guests[0].services["www"].ports()[0].port, 80);
//! ```

use std::collections::BTreeMap;
use std::io::Read;
use std::path::Path;

use anyhow::{Context, bail};
use outsock_boot::Kernel;
use serde::Deserialize;

use crate::internet::Nat;
use crate::limits;

/// A lab.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Topology {
    /// The guests' kernel, unless a guest says another: uml-7.2, qemu-6.1 or qemu-6.12.
    #[serde(default = "kernel")]
    pub kernel: String,
    /// The sites.
    #[serde(rename = "site", default)]
    pub sites: Vec<Site>,
    /// Which sites have a network between them.
    #[serde(rename = "link", default)]
    pub links: Vec<LinkSpec>,
}

/// A gateway and its guests.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Site {
    /// What peers call it; its services are `SERVICE.<name>.peer`.
    pub name: String,
    /// Its guests.
    #[serde(rename = "guest", default)]
    pub guests: Vec<GuestSpec>,
    /// What each other site may use here. A site that is not named may use every service.
    #[serde(default)]
    pub allows: BTreeMap<String, Allows>,
    /// How it reaches the internet of the lab; needs namespaces (root). Without it, it does not.
    pub nat: Option<Nat>,
    /// More of the gateway's configuration, as its own file has it.
    #[serde(default)]
    pub gateway: String,
}

/// What a peer may use.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Allows {
    /// Services, with * and ?.
    #[serde(default)]
    pub services: Vec<String>,
    /// Exit rules, as in the gateway's `[[peer.exit]]`.
    #[serde(default)]
    pub exit: Vec<toml::Table>,
}

/// One guest.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct GuestSpec {
    /// Its host name.
    pub name: String,
    /// Its kernel.
    pub kernel: Option<String>,
    /// Its memory.
    #[serde(default = "memory_mib")]
    pub memory_mib: u32,
    /// Ports of it that the site offers as services, by the service's name.
    #[serde(default)]
    pub services: BTreeMap<String, ServicePorts>,
    /// Programs that are started under `outsock run` when it is up.
    #[serde(default)]
    pub run: Vec<Vec<String>>,
}

/// Where a service is in its guest: `80`, `"53/udp"`, or several of these.
#[derive(Clone, Debug, Deserialize)]
#[serde(untagged)]
pub enum ServicePorts {
    /// One place.
    One(ServicePort),
    /// Several; at most one of each protocol.
    Several(Vec<ServicePort>),
}

/// A port, and whether it is UDP.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(try_from = "PortText")]
pub struct ServicePort {
    /// The port.
    pub port: u16,
    /// UDP instead of TCP.
    pub udp: bool,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum PortText {
    Number(u16),
    Text(String),
}

impl TryFrom<PortText> for ServicePort {
    type Error = String;

    fn try_from(text: PortText) -> Result<Self, String> {
        match text {
            PortText::Number(port) => Ok(Self { port, udp: false }),
            PortText::Text(text) => {
                let (port, udp) = match text.strip_suffix("/udp") {
                    Some(port) => (port, true),
                    None => (text.strip_suffix("/tcp").unwrap_or(&text), false),
                };
                let port = port.parse().map_err(|_| {
                    format!("{text:?} is no port: write 80, \"80/tcp\" or \"53/udp\"")
                })?;
                Ok(Self { port, udp })
            }
        }
    }
}

impl ServicePorts {
    /// All of them.
    #[must_use]
    pub fn ports(&self) -> &[ServicePort] {
        match self {
            Self::One(port) => std::slice::from_ref(port),
            Self::Several(ports) => ports,
        }
    }
}

/// A network between two sites.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LinkSpec {
    /// Their names.
    pub between: [String; 2],
    /// Megabits per second, each way; needs namespaces of the lab's own (root).
    pub rate_mbit: Option<u32>,
    /// One way. Made in user space, in steps of a millisecond.
    #[serde(default)]
    pub delay_ms: u32,
    /// Of a million packets so many are lost. Made in user space.
    #[serde(default)]
    pub loss_per_million: u32,
}

fn kernel() -> String {
    Kernel::Uml72.to_string()
}

fn memory_mib() -> u32 {
    256
}

impl Topology {
    /// Reads and checks a file.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn load(path: &Path) -> anyhow::Result<Self> {
        let shown = path.display();
        let file = std::fs::File::open(path).with_context(|| format!("cannot read {shown}"))?;
        let mut text = String::new();
        file.take(limits::TOPOLOGY_BYTES_MAX)
            .read_to_string(&mut text)
            .with_context(|| format!("cannot read {shown}"))?;
        Self::parse(&text).with_context(|| format!("{shown}"))
    }

    /// Checks a text.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn parse(text: &str) -> anyhow::Result<Self> {
        let topology: Self = toml::from_str(text)?;
        topology.check()?;
        Ok(topology)
    }

    fn check(&self) -> anyhow::Result<()> {
        let _: Kernel = self.kernel.parse().map_err(|error| anyhow::anyhow!("kernel: {error}"))?;
        if !(1..=limits::SITES_MAX).contains(&self.sites.len()) {
            bail!("a lab has 1 to {} sites ([[site]])", limits::SITES_MAX);
        }
        for (number, site) in self.sites.iter().enumerate() {
            check_name("site", &site.name)?;
            if self.sites[..number].iter().any(|other| other.name == site.name) {
                bail!("two sites are called {:?}", site.name);
            }
            site.check()?;
            for other in site.allows.keys() {
                if !self.sites.iter().any(|site| site.name == *other) {
                    bail!("site {}: allows: there is no site {other:?}", site.name);
                }
            }
        }
        if self.links.len() > limits::LINKS_MAX {
            bail!("a lab has at most {} links", limits::LINKS_MAX);
        }
        for link in &self.links {
            let [one, other] = &link.between;
            for name in [one, other] {
                if !self.sites.iter().any(|site| site.name == *name) {
                    bail!("link between {one:?} and {other:?}: there is no site {name:?}");
                }
            }
            if one == other {
                bail!("link between {one:?} and itself: guests of one site need none");
            }
        }
        Ok(())
    }

    /// Whether a link joins these two sites.
    #[must_use]
    pub fn are_linked(&self, one: &str, other: &str) -> bool {
        self.links.iter().any(|link| {
            let [a, b] = &link.between;
            (a == one && b == other) || (a == other && b == one)
        })
    }
}

impl Site {
    fn check(&self) -> anyhow::Result<()> {
        if self.guests.len() > limits::GUESTS_PER_SITE_MAX {
            bail!("site {}: at most {} guests", self.name, limits::GUESTS_PER_SITE_MAX);
        }
        for (number, guest) in self.guests.iter().enumerate() {
            check_name("guest", &guest.name)?;
            if self.guests[..number].iter().any(|other| other.name == guest.name) {
                bail!("site {}: two guests are called {:?}", self.name, guest.name);
            }
            if let Some(kernel) = &guest.kernel {
                let _: Kernel = kernel
                    .parse()
                    .map_err(|error| anyhow::anyhow!("guest {}: kernel: {error}", guest.name))?;
            }
            if guest.run.iter().any(Vec::is_empty) {
                bail!("guest {}: run: a program needs a name", guest.name);
            }
        }
        Ok(())
    }
}

fn check_name(what: &str, name: &str) -> anyhow::Result<()> {
    let plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
    if name.is_empty() || name.len() > 32 || !name.chars().all(plain) || name == "local" {
        bail!("{what} {name:?}: a name has 1 to 32 of a-z, 0-9 and '-', and is not \"local\"");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mistakes_are_named() {
        for (text, expected) in [
            ("", "a lab has 1 to"),
            ("[[site]]\nname = \"A b\"\n", "site \"A b\""),
            ("[[site]]\nname = \"a\"\n[[site]]\nname = \"a\"\n", "two sites are called"),
            ("[[site]]\nname = \"a\"\n[[link]]\nbetween = [\"a\", \"b\"]\n", "no site \"b\""),
            ("kernel = \"dos\"\n[[site]]\nname = \"a\"\n", "kernel: "),
            ("[[site]]\nname = \"a\"\nspeed = 9\n", "unknown field"),
            ("[[site]]\nname = \"a\"\nnat = \"open\"\n", "unknown variant"),
        ] {
            let error = format!("{:#}", Topology::parse(text).unwrap_err());
            assert!(error.contains(expected), "{text}\n -> {error}");
        }
    }

    #[test]
    fn the_shipped_topology_is_one_and_nats_have_names() {
        let path = outsock_site::workspace().join("configs/two-sites.toml");
        assert!(Topology::load(&path).unwrap().are_linked("osaka", "tokyo"));
        let text = "[[site]]\nname = \"a\"\nnat = \"only-443\"\n";
        assert_eq!(Topology::parse(text).unwrap().sites[0].nat, Some(Nat::Only443));
    }
}
