//! World: a gateway, a guest, and the servers outside.
//!
//! in: an image, the built programs; out: commands run in the guest under `outsock run`. Owner: the run of
//! one kernel. Kept: fields are dropped in order: guests, gateway, servers, directory. Bound: each command's
//! time limit.

use std::path::Path;
use std::time::Duration;

use outsock_boot::{BootOptions, Guest, GuestCommand, GuestProcess, Image, Kernel, Output};
use outsock_e2e::{BlackHole, Server};
use outsock_site::{Directory, Gateway, Programs};

use crate::datagrams::UdpServers;
use crate::differential::{self, Peer};
use crate::host::{self, ServerProcess};
use crate::modules;
use crate::names;
use crate::net::{self, Service};
use crate::places::Places;

pub(crate) const FIRST: (&str, u32) = ("first", 3);
pub(crate) const SECOND: (&str, u32) = ("second", 4);
/// The slowest guest (software emulation on a busy machine) needs a good part of it for Python alone.
const COMMAND_TIMEOUT: Duration = Duration::from_secs(180);
const LOG_LINES: usize = 30;

const GUEST_FILES: [(&str, &str); 10] = [
    ("once.py", include_str!("../../guest/once.py")),
    ("churn.py", include_str!("../../guest/churn.py")),
    ("datagrams.py", include_str!("../../guest/datagrams.py")),
    ("transfer.py", include_str!("../../guest/transfer.py")),
    ("pages.py", include_str!("../../guest/pages.py")),
    ("errnos.py", include_str!("../../guest/errnos.py")),
    ("many.py", include_str!("../../guest/many.py")),
    ("local.py", include_str!("../../guest/local.py")),
    ("storm.py", include_str!("../../guest/storm.py")),
    ("server.py", include_str!("../../guest/server.py")),
];

/// Servers in this process.
pub(crate) struct Servers {
    pub(crate) echo: Server,
    pub(crate) sink: Server,
    pub(crate) source: Server,
    pub(crate) half: Server,
    pub(crate) endless: Server,
    pub(crate) relay: Server,
    pub(crate) http: Server,
    /// `None` on a host without IPv6.
    pub(crate) echo6: Option<Server>,
    pub(crate) http6: Option<Server>,
    silent: BlackHole,
}

/// Servers as processes; the reason where one cannot run.
pub(crate) struct Processes {
    pub(crate) git: Result<ServerProcess, String>,
    pub(crate) git_head: Result<String, String>,
    pub(crate) ssh: Result<ServerProcess, String>,
    pub(crate) iperf3: Result<ServerProcess, String>,
    pub(crate) ends: Result<ServerProcess, String>,
    pub(crate) peer: Result<Peer, String>,
}

/// All of it.
pub(crate) struct World {
    guest: Option<Guest>,
    pub(crate) second: Option<Guest>,
    pub(crate) gateway: Option<Gateway>,
    pub(crate) servers: Servers,
    pub(crate) udp: UdpServers,
    pub(crate) processes: Processes,
    pub(crate) places: Places,
    pub(crate) directory: Directory,
    pub(crate) programs: Programs,
    pub(crate) image: Image,
    config: String,
}

impl World {
    pub(crate) fn start(image: Image, programs: &Programs) -> Self {
        let directory = Directory::new().unwrap();
        directory.share_program(&programs.agent, "outsock").unwrap();
        for (name, text) in GUEST_FILES {
            std::fs::write(directory.share().join(name), text).unwrap();
        }
        let servers = servers();
        let places = Places::new().unwrap();
        let processes = processes(&directory, &places);
        let guests = [FIRST, SECOND].map(|(name, cid)| {
            (name, cid, directory.path(&format!("{name}.sock")).display().to_string())
        });
        let mut services = services(&servers, &processes);
        services.extend_from_slice(&places.services);
        let mut config = net::config(&guests, &services, &places.published);
        config += &names::rules(&servers);
        let udp = UdpServers::start();
        config += &udp.rules();
        config += &modules::tables(&directory);
        let mut world = Self {
            guest: None,
            second: None,
            gateway: None,
            servers,
            udp,
            processes,
            places,
            directory,
            programs: programs.clone(),
            image,
            config,
        };
        world.restart();
        world
    }

    /// A fresh gateway and a fresh guest, for tests that take them apart.
    pub(crate) fn restart(&mut self) {
        self.guest = None;
        self.second = None;
        self.gateway = None;
        let gateway =
            Gateway::start(&self.programs.gateway, &self.directory, "gateway", &self.config);
        self.gateway = Some(gateway.unwrap_or_else(|error| panic!("{error}")));
        self.guest = Some(self.boot(FIRST));
    }

    /// Boots a guest that the gateway knows.
    pub(crate) fn boot(&self, (name, cid): (&str, u32)) -> Guest {
        let mut options = BootOptions::new(self.image.clone());
        options.name = name.to_owned();
        options.vsock_socket = Some(self.directory.path(&format!("{name}.sock")));
        options.cid = Some(cid);
        options.share = Some(self.directory.share());
        Guest::boot(options).unwrap_or_else(|error| panic!("{error}"))
    }

    pub(crate) fn kernel(&self) -> Kernel {
        self.image.kernel()
    }

    pub(crate) fn guest(&self) -> &Guest {
        self.guest.as_ref().expect("the first guest is there all the time")
    }

    pub(crate) fn gateway(&self) -> &Gateway {
        self.gateway.as_ref().expect("only the last tests take the gateway away")
    }

    pub(crate) fn gateway_log_tail(&self) -> String {
        let log = self.gateway.as_ref().map(Gateway::log).unwrap_or_default();
        let lines: Vec<&str> = log.lines().collect();
        format!("gateway's log:\n{}", lines[lines.len().saturating_sub(LOG_LINES)..].join("\n"))
    }

    /// Runs `argv` in the guest under `outsock run`; whatever its exit code.
    pub(crate) fn outsock(&self, argv: &[&str]) -> Output {
        run(self.guest(), &GuestCommand::new(&outsourced(argv)))
    }

    /// Runs `argv` in the guest under `outsock run`; it must succeed.
    pub(crate) fn succeed(&self, argv: &[&str]) -> String {
        let output = self.outsock(argv);
        assert!(
            output.status.success(),
            "{argv:?}: {}\n{}{}",
            output.status,
            output.stdout_text(),
            output.stderr_text()
        );
        output.stdout_text()
    }

    /// Starts `argv` in `guest` under `outsock run`.
    pub(crate) fn spawn(guest: &Guest, argv: &[&str]) -> GuestProcess {
        guest.spawn(&GuestCommand::new(&outsourced(argv))).unwrap_or_else(|error| panic!("{error}"))
    }
}

pub(crate) fn outsourced<'a>(argv: &[&'a str]) -> Vec<&'a str> {
    [&["/mnt/share/outsock", "run", "--"], argv].concat()
}

pub(crate) fn run(guest: &Guest, command: &GuestCommand) -> Output {
    let command = command.clone().timeout(COMMAND_TIMEOUT);
    guest.run_command(&command).unwrap_or_else(|error| panic!("{error}"))
}

fn servers() -> Servers {
    Servers {
        echo: outsock_e2e::echo().unwrap(),
        sink: outsock_e2e::sink().unwrap(),
        source: outsock_e2e::source().unwrap(),
        half: outsock_e2e::half().unwrap(),
        endless: outsock_e2e::endless().unwrap(),
        relay: outsock_e2e::relay().unwrap(),
        http: outsock_e2e::http().unwrap(),
        echo6: outsock_e2e::echo_on_ipv6().ok(),
        http6: outsock_e2e::http_on_ipv6().ok(),
        silent: BlackHole::new().unwrap(),
    }
}

fn processes(directory: &Directory, places: &Places) -> Processes {
    let repositories = directory.path("repositories");
    Processes {
        git_head: host::repository(&repositories.join("files")),
        git: host::git_daemon(directory, Path::new(&repositories)),
        ssh: host::sshd(directory),
        iperf3: host::iperf3(directory),
        ends: host::ends(directory),
        peer: differential::peer(directory, places),
    }
}

fn services(servers: &Servers, processes: &Processes) -> Vec<Service> {
    let mut services = Vec::new();
    let mut add = |host, port, target| services.push(Service { host, port, target });
    add(net::HOST, net::ECHO, servers.echo.address());
    add(net::HOST, net::SINK, servers.sink.address());
    add(net::HOST, net::SOURCE, servers.source.address());
    add(net::HOST, net::HALF, servers.half.address());
    add(net::HOST, net::ENDLESS, servers.endless.address());
    add(net::HOST, net::RELAY, servers.relay.address());
    add(net::HOST, net::HTTP, servers.http.address());
    add(net::HOST, net::CLOSED, host::closed_address());
    add(net::HOST, net::SILENT, servers.silent.address());
    let programs = [
        (net::GIT, &processes.git),
        (net::SSH, &processes.ssh),
        (net::IPERF3, &processes.iperf3),
        (net::ENDS, &processes.ends),
    ];
    for (port, process) in programs {
        if let Ok(process) = process {
            add(net::HOST, port, process.address);
        }
    }
    if let Ok(peer) = &processes.peer {
        peer.services.iter().for_each(|service| add(service.host, service.port, service.target));
    }
    for (port, server) in [(net::ECHO, &servers.echo6), (net::HTTP, &servers.http6)] {
        if let Some(server) = server {
            add(net::HOST6, port, server.address());
        }
    }
    services
}
