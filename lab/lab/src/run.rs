//! Run: a lab that is up.
//!
//! in: a topology; out: guests that run commands, gateways that tell their status. Owner: the thread
//! that started it, since what it starts dies with that thread. Kept: dropped in order: guests,
//! gateways, delays, namespaces, folders. Bound: every wait has a deadline, in the crates that wait.

mod access;

use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use anyhow::{Context, bail};
use outsock_boot::{BootOptions, Guest, GuestProcess, Image, Images, Kernel};
use outsock_link::Quality;
use outsock_peer::Identity;
use outsock_site::{Directory, Gateway, Interrupt, Programs};

use crate::config::{self, FIRST_CID, Own, PeerPlace};
use crate::delay::Delay;
use crate::internet::Internet;
use crate::limits;
use crate::namespace::{self, Namespace};
use crate::topology::{LinkSpec, Site, Topology};

/// The gateways' UDP port.
const QUIC_PORT: u16 = 7447;
/// Where a delayed link listens, in the namespace of the site that dials.
const DELAY_PORT: u16 = 17_000;

/// A running lab.
#[derive(Debug)]
pub struct Lab {
    sites: Vec<RunningSite>,
    links: Vec<RunningLink>,
    #[expect(dead_code, reason = "held, so that its networks stay")]
    internet: Option<Internet>,
    topology: Topology,
    /// Whether each site has a network of its own.
    isolated: bool,
}

#[derive(Debug)]
struct RunningSite {
    name: String,
    guests: Vec<RunningGuest>,
    gateway: Mutex<Option<Gateway>>,
    config: String,
    program: PathBuf,
    directory: Directory,
    namespace: Option<Namespace>,
}

#[derive(Debug)]
struct RunningGuest {
    name: String,
    guest: Mutex<Option<Guest>>,
    /// The programs that run in it from the start.
    programs: Mutex<Vec<GuestProcess>>,
}

#[derive(Debug)]
struct RunningLink {
    spec: LinkSpec,
    delay: Option<Delay>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A place before its gateway runs.
struct Prepared {
    directory: Directory,
    namespace: Option<Namespace>,
    identity: Identity,
    key_file: PathBuf,
    listen: SocketAddr,
}

impl Lab {
    /// Brings a lab up; `progress` hears what happens.
    ///
    /// # Errors
    /// What failed; all that was started has ended then.
    pub fn up(
        topology: Topology,
        programs: &Programs,
        interrupt: &Interrupt,
        progress: &mut dyn FnMut(&str),
    ) -> anyhow::Result<Self> {
        let isolated = match Namespace::new() {
            Ok(_) => true,
            Err(error) => {
                progress(&format!("all sites share this machine's loopback: {error:#}"));
                false
            }
        };
        let mut prepared = Vec::new();
        for (number, _) in topology.sites.iter().enumerate() {
            prepared.push(prepare(number, isolated)?);
        }
        let namespaces = prepared.iter().map(|it| it.namespace.as_ref());
        let internet = Internet::join(&topology, namespaces, progress)?;
        let mut lab = Self { sites: Vec::new(), links: Vec::new(), internet, topology, isolated };
        let places = lab.join(&prepared, progress)?;
        for (site, (prepared, peers)) in
            lab.topology.sites.clone().iter().zip(prepared.into_iter().zip(places))
        {
            check(interrupt)?;
            progress(&format!("site {}: starting its gateway", site.name));
            let running = start_site(&lab.topology, site, prepared, &peers, programs)?;
            lab.sites.push(running);
        }
        lab.boot_all(interrupt, progress)?;
        lab.wait_until_connected(interrupt, progress)?;
        lab.start_programs(progress)?;
        lab.wait_until_offered(interrupt, progress)?;
        Ok(lab)
    }

    /// Makes the links. Leaves, for each site, where it finds its peers.
    fn join(
        &mut self,
        prepared: &[Prepared],
        progress: &mut dyn FnMut(&str),
    ) -> anyhow::Result<Vec<Vec<PeerPlace>>> {
        let mut places: Vec<Vec<PeerPlace>> = vec![Vec::new(); prepared.len()];
        let at = |name: &str| self.topology.sites.iter().position(|site| site.name == name);
        for (number, spec) in (0_u8..).zip(&self.topology.links) {
            let [one, other] = &spec.between;
            let (Some(a), Some(b)) = (at(one), at(other)) else { bail!("no such site") };
            let address = |end: u8| Ipv4Addr::new(198, 51, 100, number * 4 + end);
            let mut to = match (&prepared[a].namespace, &prepared[b].namespace) {
                (Some(near), Some(far)) => {
                    let ends = [(near, address(1)), (far, address(2))];
                    namespace::join(number, ends, spec.rate_mbit)?;
                    SocketAddr::from((address(2), QUIC_PORT))
                }
                (Some(_), None) | (None, Some(_) | None) => prepared[b].listen,
            };
            let quality = spec.quality();
            let mut delay = None;
            if quality != Quality::default() {
                let port = if self.isolated { DELAY_PORT + u16::from(number) } else { 0 };
                let at = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
                let path = prepared[a].namespace.as_ref().map(Namespace::path);
                let (started, address) = Delay::start(path, at, to, quality)?;
                (delay, to) = (Some(started), address);
            }
            progress(&format!("link between {one} and {other}: {}", spec.describe(self.isolated)));
            places[a].push(PeerPlace {
                name: other.clone(),
                key: prepared[b].identity.key(),
                address: Some(to),
            });
            places[b].push(PeerPlace {
                name: one.clone(),
                key: prepared[a].identity.key(),
                address: None,
            });
            self.links.push(RunningLink { spec: spec.clone(), delay });
        }
        Ok(places)
    }

    fn boot_all(
        &self,
        interrupt: &Interrupt,
        progress: &mut dyn FnMut(&str),
    ) -> anyhow::Result<()> {
        for (site, spec) in self.sites.iter().zip(&self.topology.sites) {
            for guest in &spec.guests {
                check(interrupt)?;
                let kernel = self.kernel(guest.kernel.as_deref())?;
                progress(&format!("guest {}/{}: booting {kernel}", spec.name, guest.name));
                let image = Images::in_target_directory().prepare(kernel, progress)?;
                self.boot(site, &guest.name, image, guest.memory_mib)?;
            }
        }
        Ok(())
    }

    fn kernel(&self, named: Option<&str>) -> anyhow::Result<Kernel> {
        let name = named.unwrap_or(&self.topology.kernel);
        name.parse().map_err(|error| anyhow::anyhow!("kernel: {error}"))
    }

    fn boot(
        &self,
        site: &RunningSite,
        name: &str,
        image: Image,
        memory_mib: u32,
    ) -> anyhow::Result<()> {
        let number = site.guests.iter().position(|guest| guest.name == name);
        let number = number.with_context(|| format!("site {} has no guest {name}", site.name))?;
        let mut options = BootOptions::new(image);
        options.name = name.to_owned();
        options.memory_mib = memory_mib;
        options.vsock_socket = Some(config::socket(&site.directory.path("."), name));
        options.cid = Some(FIRST_CID + u32::try_from(number)?);
        options.share = Some(site.directory.share());
        *lock(&site.guests[number].guest) = Some(Guest::boot(options)?);
        Ok(())
    }

    fn wait_until_connected(
        &self,
        interrupt: &Interrupt,
        progress: &mut dyn FnMut(&str),
    ) -> anyhow::Result<()> {
        if self.links.is_empty() {
            return Ok(());
        }
        progress("waiting until the gateways are connected");
        let deadline = Instant::now() + limits::CONNECT_TIME;
        for site in &self.sites {
            loop {
                check(interrupt)?;
                let table = self.gateway_status(&site.name)?;
                if !table.contains("not connected") {
                    break;
                }
                if Instant::now() >= deadline {
                    bail!("site {}: not all peers are connected:\n{table}", site.name);
                }
                std::thread::sleep(limits::POLL);
            }
        }
        Ok(())
    }

    fn start_programs(&self, progress: &mut dyn FnMut(&str)) -> anyhow::Result<()> {
        for (site, spec) in self.sites.iter().zip(&self.topology.sites) {
            for (guest, spec) in site.guests.iter().zip(&spec.guests) {
                for argv in &spec.run {
                    progress(&format!("guest {}/{}: {}", site.name, guest.name, argv.join(" ")));
                    let process =
                        self.spawn(&format!("{}/{}", site.name, guest.name), argv, &[])?;
                    lock(&guest.programs).push(process);
                }
            }
        }
        Ok(())
    }

    /// Programs take a moment until they listen. One that never does is no reason to end the lab.
    fn wait_until_offered(
        &self,
        interrupt: &Interrupt,
        progress: &mut dyn FnMut(&str),
    ) -> anyhow::Result<()> {
        let deadline = Instant::now() + limits::SERVICE_START;
        for site in &self.sites {
            while self.gateway_status(&site.name)?.contains("no guest listens") {
                check(interrupt)?;
                if Instant::now() >= deadline {
                    progress(&format!("site {}: not every service has a listener yet", site.name));
                    break;
                }
                std::thread::sleep(limits::POLL);
            }
        }
        Ok(())
    }

    fn site(&self, name: &str) -> anyhow::Result<&RunningSite> {
        let all: Vec<_> = self.sites.iter().map(|site| site.name.as_str()).collect();
        let found = self.sites.iter().find(|site| site.name == name);
        found.with_context(|| format!("there is no site {name:?}; there are: {}", all.join(", ")))
    }

    fn guest(&self, place: &str) -> anyhow::Result<&RunningGuest> {
        let (site, name) = place.split_once('/').context("which guest? SITE/GUEST")?;
        let site = self.site(site)?;
        let all: Vec<_> = site.guests.iter().map(|guest| guest.name.as_str()).collect();
        site.guests.iter().find(|guest| guest.name == name).with_context(|| {
            format!("site {} has no guest {name:?}; it has: {}", site.name, all.join(", "))
        })
    }

    /// Kills a site's gateway (SIGKILL), as a crash would. Its guests lose their vsock device for good.
    ///
    /// # Errors
    /// There is no such site.
    pub fn kill_gateway(&self, site: &str) -> anyhow::Result<()> {
        *lock(&self.site(site)?.gateway) = None;
        Ok(())
    }

    /// Starts a killed gateway again, and boots the site's guests anew.
    ///
    /// # Errors
    /// What failed.
    pub fn restart_site(&self, name: &str) -> anyhow::Result<()> {
        let site = self.site(name)?;
        for guest in &site.guests {
            lock(&guest.programs).clear();
            *lock(&guest.guest) = None;
        }
        *lock(&site.gateway) = None;
        let gateway = Gateway::start(&site.program, &site.directory, "gateway", &site.config)?;
        *lock(&site.gateway) = Some(gateway);
        let specs = self.topology.sites.iter().filter(|spec| spec.name == name);
        for guest in specs.flat_map(|spec| &spec.guests) {
            let kernel = self.kernel(guest.kernel.as_deref())?;
            let image = Images::in_target_directory().prepare(kernel, &mut |_| {})?;
            self.boot(site, &guest.name, image, guest.memory_mib)?;
        }
        Ok(())
    }

    /// Kills a guest, as a power cut would.
    ///
    /// # Errors
    /// There is no such guest.
    pub fn kill_guest(&self, place: &str) -> anyhow::Result<()> {
        let guest = self.guest(place)?;
        lock(&guest.programs).clear();
        *lock(&guest.guest) = None;
        Ok(())
    }

    /// Cuts the link between two sites, or heals it.
    ///
    /// # Errors
    /// There is no such link, or the system's.
    pub fn set_link(&self, between: [&str; 2], up: bool) -> anyhow::Result<()> {
        for (number, link) in (0_u8..).zip(&self.links) {
            let [a, b] = link.spec.between.each_ref().map(String::as_str);
            if [a, b] != between && [b, a] != between {
                continue;
            }
            if let Some(delay) = &link.delay {
                delay.set(Quality { cut: !up, ..link.spec.quality() });
                return Ok(());
            }
            let end = self.site(a)?.namespace.as_ref();
            let end = end.context("a link on loopback without a delay cannot be cut")?;
            return namespace::set_up(number, end, up);
        }
        bail!("there is no link between {} and {}", between[0], between[1])
    }
}

fn check(interrupt: &Interrupt) -> anyhow::Result<()> {
    if interrupt.is_set() {
        bail!("interrupted");
    }
    Ok(())
}

fn prepare(number: usize, isolated: bool) -> anyhow::Result<Prepared> {
    let directory = Directory::new().context("cannot make a temporary directory")?;
    let key_file = directory.path("gateway.key");
    let identity = Identity::create(&key_file)?;
    let namespace = if isolated { Some(Namespace::new()?) } else { None };
    // Each namespace is its own world; on one loopback each site needs a port of its own.
    let listen = match &namespace {
        Some(_) => SocketAddr::from((Ipv4Addr::UNSPECIFIED, QUIC_PORT)),
        None => {
            let free = std::net::UdpSocket::bind((Ipv4Addr::LOCALHOST, 0))?;
            let address = free.local_addr()?;
            drop(free);
            let _ = number;
            address
        }
    };
    Ok(Prepared { directory, namespace, identity, key_file, listen })
}

fn start_site(
    topology: &Topology,
    spec: &Site,
    prepared: Prepared,
    peers: &[PeerPlace],
    programs: &Programs,
) -> anyhow::Result<RunningSite> {
    let Prepared { directory, namespace, key_file, listen, .. } = prepared;
    directory.share_program(&programs.agent, "outsock").context("cannot copy the agent")?;
    let folder = directory.path(".");
    let own = Own { key_file: &key_file, listen, folder: &folder };
    let config = config::gateway(topology, spec, &own, peers);
    let program = match &namespace {
        None => programs.gateway.clone(),
        Some(namespace) => {
            let script = directory.path("outsock-gateway");
            namespace.script(Path::new(&programs.gateway), &script)?;
            script
        }
    };
    let gateway = Gateway::start(&program, &directory, "gateway", &config)?;
    let guest = |guest: &crate::topology::GuestSpec| RunningGuest {
        name: guest.name.clone(),
        guest: Mutex::new(None),
        programs: Mutex::new(Vec::new()),
    };
    Ok(RunningSite {
        name: spec.name.clone(),
        guests: spec.guests.iter().map(guest).collect(),
        gateway: Mutex::new(Some(gateway)),
        config,
        program,
        directory,
        namespace,
    })
}
