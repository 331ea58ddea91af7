//! Servers: unmodified servers in a guest, with clients on the host.
//!
//! in: a world; out: a verdict each. Owner: the caller; dropping a [`Served`] ends its server. Kept: a guest
//! listens on a port that the host has free, and is reached on the same port of the host's loopback, as its
//! configuration says (`net`). Bound: [`PATIENCE`] for a server to come or go.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::process::Command;
use std::time::{Duration, Instant};

use outsock_boot::{GuestCommand, GuestProcess};
use outsock_e2e::pattern;

use crate::Verdict;
use crate::host::{self, missing, program};
use crate::net::{HOST, RELAY};
use crate::programs::{build_go, need};
use crate::world::{self, World};

const PATIENCE: Duration = Duration::from_secs(60);
const SEMANTICS_TIME: Duration = Duration::from_secs(400);
const PROGRAMS: &str = include_str!("../../../../guest/agent/tests/programs/servers.py");
const KILL: i32 = 9;

/// A server that runs in the first guest.
pub(crate) struct Served {
    process: GuestProcess,
    address: SocketAddr,
}

impl Served {
    /// Starts `argv` in the guest, and waits until it can be reached.
    pub(crate) fn start(world: &World, address: SocketAddr, argv: &[&str]) -> Self {
        let process = World::spawn(world.guest(), argv);
        let served = Self { process, address };
        // Asked of the gateway: some servers take any connection for their client.
        served.eventually("it can be reached", || is_published(world, address));
        served
    }

    fn eventually(&self, what: &str, holds: impl Fn() -> bool) {
        let deadline = Instant::now() + PATIENCE;
        while !holds() {
            let (out, error) = self.process.output_so_far();
            let said = String::from_utf8_lossy(&[out, error].concat()).into_owned();
            assert!(Instant::now() < deadline, "never: {what}; the server said: {said}");
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    pub(crate) fn connect(&self) -> TcpStream {
        let stream = TcpStream::connect(self.address).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream
    }
}

pub(crate) fn is_published(world: &World, address: SocketAddr) -> bool {
    let shown = address.to_string();
    let status = world.gateway().status().unwrap();
    status.listeners.iter().any(|listener| listener.places.contains(&shown))
}

pub(crate) fn free() -> SocketAddr {
    host::closed_address()
}

/// A client program on the host, which must succeed.
fn client(name: &str, arguments: &[&str]) -> String {
    let output = Command::new(name).args(arguments).output().unwrap();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let (out, error) = (text(&output.stdout), text(&output.stderr));
    assert!(output.status.success(), "{name} {arguments:?}: {}\n{out}{error}", output.status);
    out
}

pub(crate) fn semantics(world: &mut World) -> Verdict {
    need!("python3", "python3");
    std::fs::write(world.directory.share().join("servers.py"), PROGRAMS).unwrap();
    let argv = world::outsourced(&["/usr/bin/python3", "/mnt/share/servers.py"]);
    let command = GuestCommand::new(&argv).env("RELAY", format!("{HOST}:{RELAY}"));
    let command = command.timeout(SEMANTICS_TIME);
    let output = world.guest().run_command(&command).unwrap_or_else(|error| panic!("{error}"));
    let text = output.stdout_text() + &output.stderr_text();
    let failed: Vec<&str> = text.lines().filter(|line| line.contains(": FAILED")).collect();
    assert!(output.status.success() && failed.is_empty(), "{failed:#?}\n{text}");
    assert!(text.lines().filter(|line| line.contains(": ok (")).count() > 30, "{text}");
    Verdict::Passed
}

pub(crate) fn http_server(world: &mut World) -> Verdict {
    need!("python3", "python3");
    need!("curl", "curl");
    let size = 3 << 20;
    std::fs::write(world.directory.share().join("page"), pattern::bytes(size)).unwrap();
    let address = free();
    let port = address.port().to_string();
    let argv = ["python3", "-u", "-m", "http.server", "-d", "/mnt/share", &port];
    let served = Served::start(world, address, &argv);
    let url = format!("http://{address}/page");
    let script = format!("curl -sS --local-port 40000-50000 {url} | sha256sum");
    for _ in 0..3 {
        assert!(client("sh", &["-c", &script]).starts_with(&pattern::digest(size)));
    }
    let both = format!("curl -sS -w '%{{local_port}}' -o /dev/null {url}");
    client("sh", &["-c", &both]);
    served.eventually("the log names the client", || {
        let (_, log) = served.process.output_so_far();
        String::from_utf8_lossy(&log).contains("127.0.0.1 - - ")
    });
    Verdict::Passed
}

pub(crate) fn asyncio_server(world: &mut World) -> Verdict {
    need!("python3", "python3");
    let address = free();
    let port = address.port().to_string();
    let argv = ["python3", "/mnt/share/server.py", "asyncio", &port];
    let _served = Served::start(world, address, &argv);
    let many = world.directory.share().join("many.py");
    let output = client("python3", &[many.to_str().unwrap(), "127.0.0.1", &port, "200"]);
    assert_eq!(output, "200 echoes\n");
    Verdict::Passed
}

pub(crate) fn go_server(world: &mut World) -> Verdict {
    let server = match build_go(world, "server", include_str!("../../guest/go/server.go")) {
        Ok(server) => server,
        Err(reason) => return Verdict::Skipped(reason),
    };
    let path = world.directory.share_program(&server, "go-server").unwrap();
    let address = free();
    let served = Served::start(world, address, &[&path, &format!(":{}", address.port())]);
    let mut streams: Vec<TcpStream> = (0..50).map(|_| served.connect()).collect();
    for (number, stream) in streams.iter_mut().enumerate() {
        stream.write_all(format!("line {number}\n").as_bytes()).unwrap();
        let mut line = String::new();
        BufReader::new(&*stream).read_line(&mut line).unwrap();
        // Its listener takes both families, and it shows IPv4 as what it is.
        assert_eq!(line, format!("{} line {number}\n", stream.local_addr().unwrap()));
    }
    let listed = world.gateway().status().unwrap();
    let inbound = listed.connections.iter().filter(|one| one.direction == "in");
    let its: Vec<_> = inbound.filter(|one| one.rule == "servers").collect();
    assert!(its.len() >= 50, "{its:?}");
    assert!(its.iter().any(|one| one.peer == streams[0].local_addr().unwrap().to_string()));
    Verdict::Passed
}

pub(crate) fn iperf3_server(world: &mut World) -> Verdict {
    need!("iperf3", "iperf3");
    let address = free();
    let port = address.port().to_string();
    let served = Served::start(world, address, &["iperf3", "-s", "-p", &port]);
    for more in [&["-P", "16"][..], &["-R"], &["--bidir"]] {
        let arguments = [&["-c", "127.0.0.1", "-p", &port, "-t", "1", "-J"], more].concat();
        // Between two clients it does not listen for a moment, natively too.
        served.eventually("a client is served", || {
            let output = Command::new("iperf3").args(&arguments).output().unwrap();
            let report = String::from_utf8_lossy(&output.stdout).into_owned();
            let busy = report.contains("Connection refused") || report.contains("reset by peer");
            assert!(busy || !report.contains("\"error\""), "{report}");
            !busy
        });
    }
    Verdict::Passed
}

pub(crate) fn ssh_server(world: &mut World) -> Verdict {
    need!("ssh", "openssh-client");
    if program(&["sshd"]).is_none() {
        return Verdict::Skipped(missing("openssh-server"));
    }
    if let Err(reason) = &world.processes.ssh {
        return Verdict::Skipped(reason.clone());
    }
    let address = free();
    let config = format!(
        "Port {}\nHostKey /run/host_key\nPidFile none\nUsePAM no\nStrictModes no\n\
         PermitRootLogin prohibit-password\nAuthorizedKeysFile /mnt/share/ssh_key.pub\n",
        address.port()
    );
    std::fs::write(world.directory.share().join("sshd_config"), config).unwrap();
    let script = "mkdir -p /run/sshd && ssh-keygen -q -t ed25519 -N '' -f /run/host_key && \
                  exec /usr/sbin/sshd -D -e -f /mnt/share/sshd_config";
    let _served = Served::start(world, address, &["sh", "-c", script]);
    let key = world.directory.path("client_key");
    std::fs::copy(world.directory.share().join("ssh_key"), &key).unwrap();
    let restrict = std::os::unix::fs::PermissionsExt::from_mode(0o600);
    std::fs::set_permissions(&key, restrict).unwrap();
    let port = address.port().to_string();
    let options = [
        "-F",
        "/dev/null",
        "-i",
        key.to_str().unwrap(),
        "-p",
        &port,
        "-o",
        "StrictHostKeyChecking=no",
        "-o",
        "UserKnownHostsFile=/dev/null",
        "root@127.0.0.1",
    ];
    let run = |command: &str| client("ssh", &[&options[..], &[command]].concat());
    let seen = run("echo $SSH_CONNECTION; hostname");
    let words: Vec<&str> = seen.split_whitespace().collect();
    assert_eq!(words[0], "127.0.0.1", "{seen}");
    assert_eq!(words[3], port, "{seen}");
    let digest = run("head -c 5000000 /dev/zero | sha256sum");
    assert_eq!(digest.split(' ').next().unwrap().len(), 64, "{digest}");
    Verdict::Passed
}

pub(crate) fn git_daemon_server(world: &mut World) -> Verdict {
    need!("git", "git");
    let Ok(head) = &world.processes.git_head else {
        return Verdict::Skipped(missing("git"));
    };
    let repository = world.directory.path("repositories").join("files");
    let shared = world.directory.share().join("files.git");
    let (from, to) = (repository.to_str().unwrap(), shared.to_str().unwrap());
    client("git", &["clone", "--quiet", "--bare", from, to]);
    let address = free();
    let port = format!("--port={}", address.port());
    let script = format!(
        "exec $(git --exec-path)/git-daemon --export-all --reuseaddr --base-path=/mnt/share {port}"
    );
    // The repository belongs to nobody that the guest's git trusts.
    let script = format!("git config --global safe.directory '*'; {script}");
    let _served = Served::start(world, address, &["sh", "-c", &script]);
    let clone = world.directory.path("cloned");
    let url = format!("git://{address}/files.git");
    client("git", &["clone", "--quiet", &url, clone.to_str().unwrap()]);
    let cloned = client("git", &["-C", clone.to_str().unwrap(), "rev-parse", "HEAD"]);
    assert_eq!(cloned.trim(), head);
    Verdict::Passed
}

pub(crate) fn openssl_server(world: &mut World) -> Verdict {
    need!("openssl", "openssl");
    let share = world.directory.share();
    let (key, cert) = (share.join("tls.key"), share.join("tls.crt"));
    client(
        "openssl",
        &[
            "req",
            "-x509",
            "-newkey",
            "ec",
            "-pkeyopt",
            "ec_paramgen_curve:prime256v1",
            "-nodes",
            "-subj",
            "/CN=guest",
            "-keyout",
            key.to_str().unwrap(),
            "-out",
            cert.to_str().unwrap(),
        ],
    );
    let address = free();
    let argv = [
        "openssl",
        "s_server",
        "-accept",
        &address.port().to_string(),
        "-www",
        "-key",
        "/mnt/share/tls.key",
        "-cert",
        "/mnt/share/tls.crt",
    ];
    let _served = Served::start(world, address, &argv);
    let url = format!("https://{address}/");
    for _ in 0..5 {
        let page = client("curl", &["-sS", "-k", &url]);
        assert!(page.contains("s_server -accept"), "{page}");
    }
    Verdict::Passed
}

/// SIGKILL: the host's port is closed at once, and another server can have it.
pub(crate) fn killed_server(world: &mut World) -> Verdict {
    need!("python3", "python3");
    let address = free();
    let port = address.port().to_string();
    let argv = ["python3", "/mnt/share/server.py", "count", &port];
    for _ in 0..3 {
        let served = Served::start(world, address, &argv);
        let mut stream = served.connect();
        stream.write_all(b"hello").unwrap();
        let mut back = [0; 5];
        stream.read_exact(&mut back).unwrap();
        let waits = served.connect();
        served.process.signal(KILL).unwrap();
        served.eventually("nobody listens", || TcpStream::connect(address).is_err());
        drop(waits);
        let listed = world.gateway().status().unwrap().listeners;
        let shown = format!("0.0.0.0:{port}");
        assert!(listed.iter().all(|listener| listener.address != shown), "{listed:?}");
    }
    Verdict::Passed
}

/// A server that never accepts loses its own clients only, and no more of them than its backlog reach it.
pub(crate) fn backlog(world: &mut World) -> Verdict {
    need!("python3", "python3");
    let address = free();
    let port = address.port();
    let program = format!(
        "import socket,time\ns=socket.socket()\ns.bind(('0.0.0.0',{port}))\ns.listen(5)\ntime.sleep(999)"
    );
    let served = Served::start(world, address, &["python3", "-c", &program]);
    let mut streams: Vec<TcpStream> = (0..40).map(|_| served.connect()).collect();
    let waiting = |world: &World| {
        let listed = world.gateway().status().unwrap().listeners;
        let shown = format!("0.0.0.0:{port}");
        listed.iter().find(|one| one.address == shown).map_or(0, |one| one.waiting)
    };
    served.eventually("the backlog is full", || waiting(world) >= 5);
    std::thread::sleep(Duration::from_millis(200));
    assert!(waiting(world) <= 6, "{}", waiting(world));
    served.process.signal(KILL).unwrap();
    for stream in &mut streams {
        let end = stream.read(&mut [0]);
        let reset = end.as_ref().is_err_and(|error| error.raw_os_error() == Some(104));
        assert!(reset, "who waits is reset: {end:?}");
    }
    Verdict::Passed
}

/// The loopback of the host, for those that check where a name leads.
pub(crate) fn not_published(world: &mut World) -> Verdict {
    need!("python3", "python3");
    let address = free();
    let program = format!(
        "import socket,time\ns=socket.socket()\ns.bind(('127.0.0.1',{}))\ns.listen()\nprint('up',flush=True)\n\
         time.sleep(999)",
        address.port()
    );
    let process = World::spawn(world.guest(), &["python3", "-c", &program]);
    assert!(process.wait_for_text("up", PATIENCE).unwrap(), "{:?}", process.output_so_far());
    assert_eq!(address.ip(), Ipv4Addr::LOCALHOST);
    let refused = TcpStream::connect(address).unwrap_err();
    assert_eq!(refused.kind(), std::io::ErrorKind::ConnectionRefused);
    let listed = world.gateway().status().unwrap().listeners;
    let shown = address.to_string();
    let listener = listed.iter().find(|listener| listener.address == shown).unwrap();
    assert!(listener.places.is_empty(), "{listener:?}");
    Verdict::Passed
}
