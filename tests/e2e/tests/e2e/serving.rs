//! Serving: programs that serve from within the guest to clients on the host, unmodified.
//!
//! in: a world; out: a verdict each. Owner: the caller. Kept: each is the distribution's own program, reached by
//! nothing but what the gateway publishes; where a program is client and server, its client is the same program.

use outsock_e2e::pattern;

use crate::Verdict;
use crate::apps::{GuestServer, files, newest, on_host, on_host_with, scripts};
use crate::host::{missing, program};
use crate::net::{ECHO, HOST, HTTP};
use crate::programs::{build_go, need};
use crate::world::World;

const NGINX: u16 = 8001;
const SSHD: u16 = 8003;
const REDIS: u16 = 8004;
const POSTGRES: u16 = 8005;
const NODE: u16 = 8006;
const GO: u16 = 8007;
const JAVA: u16 = 8008;
const NC: u16 = 8012;
const SOCAT: u16 = 8013;

const BYTES: usize = 3 << 20;
const REQUESTS: usize = 60;

/// `URL` of a server at `at`.
fn url(server: &GuestServer, path: &str) -> String {
    format!("http://{}{path}", server.at)
}

/// Fetches from the host; the digest must be that of the pattern.
fn fetch(url: &str, length: usize) {
    let script = format!("curl -sSfk {url} | sha256sum");
    let digest = on_host(&["sh", "-c", &script]);
    assert!(digest.starts_with(&pattern::digest(length)), "{url}: {digest}");
}

/// Many requests at a time over connections that are kept.
fn fetch_many(url: &str) {
    let many = format!("{url}?[1-{REQUESTS}]");
    let format = "%{http_code}\\n";
    let codes = on_host(&[
        "curl",
        "-sSf",
        "-Z",
        "--parallel-max",
        "12",
        "-o",
        "/dev/null",
        "-w",
        format,
        &many,
    ]);
    assert_eq!(codes.matches("200").count(), REQUESTS, "{codes}");
}

pub(crate) fn nginx(world: &mut World) -> Verdict {
    need!("nginx", "nginx");
    need!("curl", "curl");
    scripts(world);
    files(world, "file", BYTES);
    let far = format!("{HOST}:{HTTP}");
    let argv = ["sh", "/mnt/share/apps/nginx.sh", &NGINX.to_string(), "/mnt/share/files", &far];
    let server = GuestServer::start(world, NGINX, &argv);
    fetch(&url(&server, "/file"), BYTES);
    fetch_many(&url(&server, "/file"));
    fetch(&url(&server, &format!("/proxy/bytes/{BYTES}")), BYTES);
    // Two requests, one connection.
    let twice = [url(&server, "/file"), url(&server, "/file")];
    let format = "%{num_connects}";
    let connects = on_host(&[
        "curl",
        "-sSf",
        "-w",
        format,
        "-o",
        "/dev/null",
        &twice[0],
        "-o",
        "/dev/null",
        &twice[1],
    ]);
    assert_eq!(connects, "10");
    Verdict::Passed
}

pub(crate) fn sshd(world: &mut World) -> Verdict {
    if let Err(reason) = &world.processes.ssh {
        return Verdict::Skipped(reason.clone());
    }
    need!("rsync", "rsync");
    scripts(world);
    files(world, "file", BYTES);
    let argv = ["sh", "/mnt/share/apps/sshd.sh", &SSHD.to_string(), "/mnt/share/ssh_key.pub"];
    let server = GuestServer::start(world, SSHD, &argv);
    let key = world.directory.path("own_key");
    std::fs::copy(world.directory.share().join("ssh_key"), &key).unwrap();
    on_host(&["chmod", "600", &key.display().to_string()]);
    let options = format!(
        "-q -i {} -o BatchMode=yes -o StrictHostKeyChecking=no -o UserKnownHostsFile=/dev/null",
        key.display()
    );
    let (port, files) = (server.at.port(), world.directory.share().join("files"));
    let script = format!("ssh {options} -p {port} root@127.0.0.1 sha256sum");
    let digest = on_host_with(&["sh", "-c", &script], &pattern::bytes(BYTES));
    assert!(digest.starts_with(&pattern::digest(BYTES)), "{digest}");
    let script = format!(
        "scp {options} -P {port} {0}/file root@127.0.0.1:/tmp/copied && \
         rsync -e 'ssh {options} -p {port}' -r {0}/ root@127.0.0.1:/tmp/synced && \
         ssh {options} -p {port} root@127.0.0.1 'sha256sum /tmp/copied /tmp/synced/file'",
        files.display()
    );
    let digests = on_host(&["sh", "-c", &script]);
    assert_eq!(digests.matches(&pattern::digest(BYTES)).count(), 2, "{digests}");
    Verdict::Passed
}

pub(crate) fn redis(world: &mut World) -> Verdict {
    need!("redis-server", "redis-server");
    need!("redis-benchmark", "redis-tools");
    let port = REDIS.to_string();
    let argv = ["redis-server", "--port", &port, "--save", "", "--protected-mode", "no"];
    let server = GuestServer::start(world, REDIS, &argv);
    let at = server.at.port().to_string();
    let cli = |words: &[&str]| on_host(&[&["redis-cli", "-p", &at], words].concat());
    assert_eq!(cli(&["set", "key", "value"]).trim(), "OK");
    assert_eq!(cli(&["get", "key"]).trim(), "value");
    benchmark("127.0.0.1", &at, on_host);
    Verdict::Passed
}

/// redis-benchmark with pipelining.
pub(crate) fn benchmark(host: &str, port: &str, run: impl Fn(&[&str]) -> String) {
    let counts = ["-n", "2000", "-c", "20", "-P", "16", "-q", "-t", "set,get,lrange_100"];
    let text = run(&[&["redis-benchmark", "-h", host, "-p", port], &counts[..]].concat());
    assert!(text.matches("requests per second").count() >= 3, "{text}");
}

/// The directory of PostgreSQL's own programs.
pub(crate) fn postgres_programs() -> Option<String> {
    newest("/usr/lib/postgresql", "bin")
}

pub(crate) fn postgres(world: &mut World) -> Verdict {
    let Some(programs) = postgres_programs() else {
        return Verdict::Skipped(missing("postgresql"));
    };
    scripts(world);
    let port = POSTGRES.to_string();
    let argv = ["sh", "/mnt/share/apps/postgres.sh", &programs, &port, "*", "/tmp/postgres"];
    let server = GuestServer::start(world, POSTGRES, &argv);
    pgbench("127.0.0.1", &server.at.port().to_string(), &programs, on_host);
    Verdict::Passed
}

/// psql and pgbench against a server.
pub(crate) fn pgbench(host: &str, port: &str, programs: &str, run: impl Fn(&[&str]) -> String) {
    let (psql, pgbench) = (format!("{programs}/psql"), format!("{programs}/pgbench"));
    let at = ["-h", host, "-p", port, "-U", "postgres"];
    // It listens before it is ready.
    run(&[
        "sh",
        "-c",
        &format!("until {programs}/pg_isready -q -h {host} -p {port}; do sleep 0.1; done"),
    ]);
    let sum = "select sum(n) from generate_series(1, 100000) n";
    let answer = run(&[&[psql.as_str()], &at[..], &["-Atc", sum, "postgres"]].concat());
    assert_eq!(answer.trim(), "5000050000");
    run(&[&[pgbench.as_str()], &at[..], &["-i", "-q", "postgres"]].concat());
    let counts = ["-c", "4", "-j", "2", "-t", "25", "postgres"];
    let text = run(&[&[pgbench.as_str()], &at[..], &counts[..]].concat());
    assert!(text.contains("number of transactions actually processed: 100/100"), "{text}");
}

pub(crate) fn node(world: &mut World) -> Verdict {
    need!("node", "nodejs");
    need!("curl", "curl");
    scripts(world);
    let argv = ["node", "/mnt/share/apps/net.js", "serve", &NODE.to_string()];
    let server = GuestServer::start(world, NODE, &argv);
    let url = url(&server, "/");
    let digest =
        on_host_with(&["curl", "-sSf", "--data-binary", "@-", &url], &pattern::bytes(BYTES));
    assert_eq!(digest.trim(), pattern::digest(BYTES));
    fetch_many(&url);
    Verdict::Passed
}

pub(crate) fn go_proxy(world: &mut World) -> Verdict {
    let proxy = match build_go(world, "proxy", include_str!("../../guest/apps/proxy.go")) {
        Ok(proxy) => proxy,
        Err(reason) => return Verdict::Skipped(reason),
    };
    let path = world.directory.share_program(&proxy, "go-proxy").unwrap();
    let server =
        GuestServer::start(world, GO, &[&path, &GO.to_string(), &format!("{HOST}:{HTTP}")]);
    fetch(&url(&server, &format!("/bytes/{BYTES}")), BYTES);
    let digest = on_host_with(&["curl", "-sSf", "-T", "-", &url(&server, "/")], &[]);
    assert!(!digest.is_empty());
    fetch_many(&url(&server, "/bytes/10000"));
    Verdict::Passed
}

/// Compiles for guests; `None` without a compiler.
pub(crate) fn java_classes(world: &World) -> Option<&'static str> {
    program(&["javac"])?;
    let source = scripts(world).join("Net.java");
    let classes = world.directory.share().join("classes");
    if !classes.exists() {
        on_host(&["javac", "-d", &classes.display().to_string(), &source.display().to_string()]);
    }
    Some("/mnt/share/classes")
}

pub(crate) const JAVA_OPTIONS: [&str; 3] = ["java", "-Xmx128m", "-XX:TieredStopAtLevel=1"];

pub(crate) fn java(world: &mut World) -> Verdict {
    let Some(classes) = java_classes(world) else {
        return Verdict::Skipped(missing("openjdk-17-jdk-headless"));
    };
    let port = JAVA.to_string();
    let argv = [&JAVA_OPTIONS[..], &["-cp", classes, "Net", "serve", &port]].concat();
    let server = GuestServer::start(world, JAVA, &argv);
    many_echoes(world, &server);
    Verdict::Passed
}

/// Python's asyncio on the host against an echo server in the guest.
fn many_echoes(world: &World, server: &GuestServer) {
    let many = world.directory.share().join("many.py").display().to_string();
    let at = server.at.port().to_string();
    assert_eq!(on_host(&["/usr/bin/python3", &many, "127.0.0.1", &at, "100"]), "100 echoes\n");
}

pub(crate) fn nc(world: &mut World) -> Verdict {
    need!("nc", "netcat-openbsd");
    let script = format!("nc -l {NC} | sha256sum");
    let server = GuestServer::spawn(world, NC, &["sh", "-c", &script]);
    let at = server.at.port();
    // It serves one client, so the client tries until there is a server.
    let client = format!(
        "tries=0; cat >/dev/null; until head -c {BYTES} {} | nc -N 127.0.0.1 {at}; do \
         tries=$((tries + 1)); [ $tries -lt 600 ] || exit 1; sleep 0.1; done",
        share_file(world)
    );
    on_host(&["sh", "-c", &client]);
    let digest = pattern::digest(BYTES);
    let deadline = std::time::Instant::now() + std::time::Duration::from_secs(30);
    while !server.said().contains(&digest) {
        assert!(std::time::Instant::now() < deadline, "{}", server.said());
        std::thread::sleep(std::time::Duration::from_millis(50));
    }
    Verdict::Passed
}

/// The pattern as a file of the host.
fn share_file(world: &World) -> String {
    files(world, "file", BYTES);
    world.directory.share().join("files/file").display().to_string()
}

pub(crate) fn socat(world: &mut World) -> Verdict {
    need!("socat", "socat");
    let listen = format!("TCP-LISTEN:{SOCAT},reuseaddr,fork");
    let server = GuestServer::start(world, SOCAT, &["socat", &listen, "EXEC:cat"]);
    let script = format!("socat -t 20 - TCP:{} <{} | sha256sum", server.at, share_file(world));
    let digest = on_host(&["sh", "-c", &script]);
    assert!(digest.starts_with(&pattern::digest(BYTES)), "{digest}");
    // And from the guest to the host.
    let script = format!("socat -t 20 - TCP:{HOST}:{ECHO} </mnt/share/files/file | sha256sum");
    let digest = world.succeed(&["sh", "-c", &script]);
    assert!(digest.starts_with(&pattern::digest(BYTES)), "{digest}");
    Verdict::Passed
}

/// A certificate for this run; the paths of its two files for the host, and in guests.
pub(crate) fn certificate(world: &World) -> [String; 2] {
    let share = world.directory.share();
    let [key, certificate] =
        ["tls-key.pem", "tls-cert.pem"].map(|name| share.join(name).display().to_string());
    if !std::path::Path::new(&certificate).exists() {
        let kind =
            ["-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=localhost"];
        on_host(
            &[&["openssl", "req"], &kind[..], &["-keyout", &key, "-out", &certificate]].concat(),
        );
    }
    [key, certificate]
}
