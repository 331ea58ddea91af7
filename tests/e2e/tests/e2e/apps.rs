//! Apps: what is common to tests of whole programs: servers in the guest, servers and clients on the host.
//!
//! in: a world; out: [`GuestServer`]s, the output of host commands. Owner: the caller; dropping a server ends it.
//! Kept: programs are the distribution's own; what they say is compared with what is known. Bound: [`START`] for a
//! server to listen, [`CLIENT`] for a client on the host.

use std::net::SocketAddr;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use outsock_boot::GuestProcess;
use outsock_site::tied;

use crate::host::{ServerProcess, start};
use crate::servers::is_published;
use crate::world::World;

/// Software emulation on a busy machine, a runtime to load.
const START: Duration = Duration::from_secs(90);
const CLIENT_SECONDS: &str = "60";
const POLL: Duration = Duration::from_millis(50);
const SIGTERM: i32 = 15;

const FILES: [(&str, &str); 5] = [
    ("net.js", include_str!("../../guest/apps/net.js")),
    ("nginx.sh", include_str!("../../guest/apps/nginx.sh")),
    ("postgres.sh", include_str!("../../guest/apps/postgres.sh")),
    ("sshd.sh", include_str!("../../guest/apps/sshd.sh")),
    ("Net.java", include_str!("../../guest/apps/Net.java")),
];

/// Puts the scripts where guests and the host find them; returns the host's path.
pub(crate) fn scripts(world: &World) -> std::path::PathBuf {
    let directory = world.directory.share().join("apps");
    std::fs::create_dir_all(&directory).unwrap();
    for (name, text) in FILES {
        std::fs::write(directory.join(name), text).unwrap();
    }
    directory
}

/// A directory that guests see as `/mnt/share/files`, with a file of the pattern in it.
pub(crate) fn files(world: &World, name: &str, length: usize) {
    let directory = world.directory.share().join("files");
    std::fs::create_dir_all(&directory).unwrap();
    std::fs::write(directory.join(name), outsock_e2e::pattern::bytes(length)).unwrap();
}

/// A server that runs in the guest under `outsock run`.
pub(crate) struct GuestServer {
    process: Option<GuestProcess>,
    /// Where the host reaches it.
    pub(crate) at: SocketAddr,
}

impl GuestServer {
    /// Starts one and waits until it is reachable.
    pub(crate) fn start(world: &World, port: u16, argv: &[&str]) -> Self {
        let mut server = Self::spawn(world, port, argv);
        let deadline = Instant::now() + START;
        // Asked of the gateway: some servers take any connection for their client.
        while !is_published(world, server.at) {
            let running = server.process.as_ref().is_some_and(GuestProcess::is_running);
            assert!(running && Instant::now() < deadline, "{argv:?}: {}", server.said());
            std::thread::sleep(POLL);
        }
        server.process.as_mut().expect("it is there until it is dropped").close_stdin().unwrap();
        server
    }

    /// Starts one that serves a single client: nobody asks whether it listens.
    pub(crate) fn spawn(world: &World, port: u16, argv: &[&str]) -> Self {
        let process = Some(World::spawn(world.guest(), argv));
        Self { process, at: world.places.published(port) }
    }

    /// What it has printed.
    pub(crate) fn said(&self) -> String {
        let (out, err) = self.process.as_ref().map(GuestProcess::output_so_far).unwrap_or_default();
        String::from_utf8_lossy(&out).into_owned() + &String::from_utf8_lossy(&err)
    }
}

impl Drop for GuestServer {
    fn drop(&mut self) {
        if let Some(process) = self.process.take() {
            // Its children end with it when it has time to tell them.
            let _ = process.signal(SIGTERM);
            let deadline = Instant::now() + Duration::from_secs(5);
            while process.is_running() && Instant::now() < deadline {
                std::thread::sleep(POLL);
            }
            // Gone already is as good.
            let _ = process.kill();
        }
    }
}

/// Runs a client on the host; it must succeed. Its output.
pub(crate) fn on_host(argv: &[&str]) -> String {
    on_host_with(argv, &[])
}

/// [`on_host`] with a standard input.
pub(crate) fn on_host_with(argv: &[&str], input: &[u8]) -> String {
    use std::io::Write;
    let mut command = tied("timeout");
    command.arg(CLIENT_SECONDS).args(argv);
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap_or_else(|error| panic!("{argv:?}: {error}"));
    let mut stdin = child.stdin.take().expect("it is piped");
    let input = input.to_vec();
    // A program that does not read its input closes it.
    let writer = std::thread::spawn(move || drop(stdin.write_all(&input)));
    let output = child.wait_with_output().unwrap();
    let _ = writer.join();
    let (out, err) =
        (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{argv:?}: {}\n{out}{err}", output.status);
    out.into_owned()
}

/// Starts a server on the host where the rules expect the service `port`.
pub(crate) fn host_server(world: &World, port: u16, command: &mut Command) -> ServerProcess {
    let log = world.directory.path(&format!("service-{port}.log"));
    start(command, world.places.service(port), &log).unwrap_or_else(|error| panic!("{error}"))
}

/// The first directory of this pattern's that holds a file.
pub(crate) fn newest(parent: &str, inner: &str) -> Option<String> {
    let mut found: Vec<_> = std::fs::read_dir(parent)
        .ok()?
        .flatten()
        .map(|entry| entry.path().join(inner))
        .filter(|path| Path::new(path).exists())
        .collect();
    found.sort();
    found.pop().map(|path| path.display().to_string())
}
