//! Internet: a network of all sites, each behind a router of some kind.
//!
//! in: namespaces of sites, and what kind of router each has; out: the same with an address, a route and
//! a NAT between them. Owner: the lab; dropping it ends its namespaces, with them interfaces and rules.
//! Kept: a router forwards what its kind says and answers nothing itself; every site behind a NAT has
//! the same private address, as homes do. Bound: [`limits::SITES_MAX`] sites.
//!
//! The NAT is the kernel's (nftables). A source port that is free is kept, so that all destinations see
//! the same: *endpoint-independent mapping*; with `random`, each sees another: *endpoint-dependent*. Both
//! filter by address and port: only who was sent to may answer (RFC 4787, 4.1 and 5).

use std::net::Ipv4Addr;
use std::process::Stdio;

use anyhow::{Context, bail};
use serde::Deserialize;

use crate::limits;
use crate::namespace::{self, End, Namespace};
use crate::topology::Topology;

/// How a site reaches the internet.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Eq, PartialOrd, Ord)]
#[serde(rename_all = "kebab-case")]
pub enum Nat {
    /// By an address of its own.
    None,
    /// By a NAT whose mapping is the same for all destinations: can be punched.
    EndpointIndependent,
    /// By a NAT with another mapping for each destination, at random ports.
    EndpointDependent,
    /// By a NAT with endpoint-independent mapping that passes no UDP.
    UdpBlocked,
    /// By a NAT that passes TCP to port 443 and nothing else.
    #[serde(rename = "only-443")]
    Only443,
}

impl Nat {
    /// The router's rules: source NAT, and what passes.
    fn rules(self) -> Option<String> {
        let (masquerade, forward) = match self {
            Self::None => return None,
            Self::EndpointIndependent => ("masquerade", "accept"),
            Self::EndpointDependent => ("masquerade random,fully-random", "accept"),
            Self::UdpBlocked => ("masquerade", "meta l4proto udp drop; accept"),
            Self::Only443 => ("masquerade", "tcp dport 443 accept; drop"),
        };
        let forward = forward.replace("; ", "\n        ");
        // What comes unasked is dropped without a word, before the kernel remembers it: an answer
        // would tell the sender to give up, and a memory would take the port from its owner.
        Some(format!(
            "table ip outsock {{
    chain source {{
        type nat hook postrouting priority srcnat;
        oifname \"outside\" {masquerade}
    }}
    chain pass {{
        type filter hook forward priority filter;
        ct state established,related accept
        iifname \"outside\" drop
        {forward}
    }}
    chain own {{
        type filter hook input priority filter;
        iifname \"outside\" drop
    }}
}}
"
        ))
    }
}

impl std::fmt::Display for Nat {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::None => "no NAT",
            Self::EndpointIndependent => "NAT with endpoint-independent mapping",
            Self::EndpointDependent => "NAT with endpoint-dependent mapping",
            Self::UdpBlocked => "NAT, UDP blocked",
            Self::Only443 => "NAT, only TCP to port 443",
        })
    }
}

/// What every site behind a NAT is called at home.
const INSIDE: [Ipv4Addr; 2] = [Ipv4Addr::new(192, 168, 1, 1), Ipv4Addr::new(192, 168, 1, 2)];

/// The network in the middle, and the sites' routers.
#[derive(Debug)]
pub struct Internet {
    middle: Namespace,
    routers: Vec<Namespace>,
    sites: u8,
}

impl Internet {
    /// An internet without sites.
    ///
    /// # Errors
    /// The system's: it takes root, and nftables.
    pub fn new() -> anyhow::Result<Self> {
        let middle = Namespace::new()?;
        forward(&middle)?;
        Ok(Self { middle, routers: Vec::new(), sites: 0 })
    }

    /// With those sites of a topology that want one, if any does.
    ///
    /// # Errors
    /// There are no namespaces, or the system's.
    pub fn join<'a>(
        topology: &Topology,
        namespaces: impl Iterator<Item = Option<&'a Namespace>>,
        progress: &mut dyn FnMut(&str),
    ) -> anyhow::Result<Option<Self>> {
        if topology.sites.iter().all(|site| site.nat.is_none()) {
            return Ok(None);
        }
        let mut internet = Self::new().context("a NAT takes network namespaces")?;
        for (site, namespace) in topology.sites.iter().zip(namespaces) {
            let Some(nat) = site.nat else { continue };
            let namespace = namespace.context("a NAT takes network namespaces")?;
            let address = internet.attach(namespace, nat)?;
            progress(&format!("site {}: on the internet as {address}, {nat}", site.name));
        }
        Ok(Some(internet))
    }

    /// Joins a site; its address as others see it.
    ///
    /// # Errors
    /// What `ip` or `nft` said.
    pub fn attach(&mut self, site: &Namespace, nat: Nat) -> anyhow::Result<Ipv4Addr> {
        if usize::from(self.sites) >= limits::SITES_MAX {
            bail!("at most {} sites", limits::SITES_MAX);
        }
        let number = self.sites;
        self.sites += 1;
        let [gate, own] = [1, 2].map(|end| Ipv4Addr::new(203, 0, 113, number * 4 + end));
        let interface = format!("site{number}");
        let gate_end = End { namespace: &self.middle, interface: &interface, address: gate };
        let Some(rules) = nat.rules() else {
            namespace::pair([
                gate_end,
                End { namespace: site, interface: "outside", address: own },
            ])?;
            route(site, gate)?;
            return Ok(own);
        };
        let router = Namespace::new()?;
        forward(&router)?;
        let outside = End { namespace: &router, interface: "outside", address: own };
        namespace::pair([gate_end, outside])?;
        let [near, far] = INSIDE;
        namespace::pair([
            End { namespace: &router, interface: "inside", address: near },
            End { namespace: site, interface: "outside", address: far },
        ])?;
        route(&router, gate)?;
        route(site, near)?;
        load(&router, &rules)?;
        self.routers.push(router);
        Ok(own)
    }
}

/// Has a namespace pass packets on.
fn forward(namespace: &Namespace) -> anyhow::Result<()> {
    let set = "echo 1 > /proc/sys/net/ipv4/ip_forward";
    namespace::run(&mut namespace.command("sh", &["-c", set]))
}

fn route(namespace: &Namespace, through: Ipv4Addr) -> anyhow::Result<()> {
    let through = through.to_string();
    namespace::run(&mut namespace.command("ip", &["route", "add", "default", "via", &through]))
}

fn load(router: &Namespace, rules: &str) -> anyhow::Result<()> {
    use std::io::Write;
    let mut command = router.command("nft", &["-f", "-"]);
    command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::piped());
    let mut nft = command.spawn().context("cannot start nsenter")?;
    let mut stdin = nft.stdin.take().context("nft has no standard input")?;
    // If it has ended already, it says why.
    let _ = stdin.write_all(rules.as_bytes());
    drop(stdin);
    let output = nft.wait_with_output()?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        bail!("a NAT takes nftables (package nftables, and its kernel modules): {}", said.trim());
    }
    Ok(())
}
