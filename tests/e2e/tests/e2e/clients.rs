//! Clients: more programs that connect from within the guest to servers of the host, unmodified.
//!
//! in: a world; out: a verdict each. Owner: the caller. Kept: where a program is client and server, its server on
//! the host is the same program; results are compared with what the host has.

use outsock_e2e::pattern;
use outsock_site::tied;

use crate::Verdict;
use crate::apps::{files, host_server, scripts};
use crate::host::{missing, program};
use crate::net::{ECHO, HOST, HTTP, NGINX, POSTGRES, REDIS, SINK, TLS};
use crate::programs::need;
use crate::serving::{
    JAVA_OPTIONS, benchmark, certificate, java_classes, pgbench, postgres_programs,
};
use crate::world::World;

const BYTES: usize = 3 << 20;

pub(crate) fn scp_and_rsync(world: &mut World) -> Verdict {
    if let Err(reason) = &world.processes.ssh {
        return Verdict::Skipped(reason.clone());
    }
    need!("rsync", "rsync");
    files(world, "file", BYTES);
    let target = world.directory.path("copied");
    std::fs::create_dir_all(&target).unwrap();
    let user = std::env::var("USER").unwrap_or_else(|_| "root".to_owned());
    let options = "-q -i /tmp/ssh_key -o BatchMode=yes -o StrictHostKeyChecking=no -o UserKnownHostsFile=/dev/null";
    // The host's sshd has no sftp here: scp's older protocol does not need it.
    let script = format!(
        "install -m 600 /mnt/share/ssh_key /tmp/ssh_key && \
         scp -O {options} /mnt/share/files/file {user}@{HOST}:{0}/by-scp && \
         rsync -e 'ssh {options}' /mnt/share/files/file {user}@{HOST}:{0}/by-rsync",
        target.display()
    );
    world.succeed(&["sh", "-c", &script]);
    for name in ["by-scp", "by-rsync"] {
        assert!(std::fs::read(target.join(name)).unwrap() == pattern::bytes(BYTES), "{name}");
    }
    Verdict::Passed
}

pub(crate) fn redis(world: &mut World) -> Verdict {
    need!("redis-server", "redis-server");
    need!("redis-benchmark", "redis-tools");
    let port = world.places.service(REDIS).port().to_string();
    let mut command = tied("redis-server");
    command.args(["--port", &port, "--bind", "127.0.0.1", "--save", ""]);
    let _server = host_server(world, REDIS, &mut command);
    benchmark(HOST, &REDIS.to_string(), |argv| world.succeed(argv));
    Verdict::Passed
}

pub(crate) fn postgres(world: &mut World) -> Verdict {
    let Some(programs) = postgres_programs() else {
        return Verdict::Skipped(missing("postgresql"));
    };
    // Its user must be able to reach it.
    let directory = tempfile::tempdir().unwrap();
    let open = std::os::unix::fs::PermissionsExt::from_mode(0o755);
    std::fs::set_permissions(directory.path(), open).unwrap();
    let port = world.places.service(POSTGRES).port().to_string();
    let mut command = tied("sh");
    command.arg(scripts(world).join("postgres.sh"));
    command.args([&programs, &port, "127.0.0.1"]).arg(directory.path().join("cluster"));
    let _server = host_server(world, POSTGRES, &mut command);
    pgbench(HOST, &POSTGRES.to_string(), &programs, |argv| world.succeed(argv));
    Verdict::Passed
}

/// curl and wget with connections that are kept, against nginx.
pub(crate) fn keepalive(world: &mut World) -> Verdict {
    need!("nginx", "nginx");
    need!("curl", "curl");
    files(world, "file", BYTES);
    let port = world.places.service(NGINX).port().to_string();
    let mut command = tied("sh");
    command.arg(scripts(world).join("nginx.sh")).arg(&port);
    command.arg(world.directory.share().join("files")).arg("127.0.0.1:9");
    let server = host_server(world, NGINX, &mut command);
    let url = format!("http://{HOST}:{NGINX}/file");
    let format = "%{num_connects}";
    let argv = ["curl", "-sSf", "-w", format, "-o", "/dev/null", &url, "-o", "/dev/null", &url];
    assert_eq!(world.succeed(&argv), "10");
    let many = format!("{url}?[1-60]");
    let argv =
        ["curl", "-sSfZ", "--parallel-max", "12", "-w", "%{http_code}\n", "-o", "/dev/null", &many];
    assert_eq!(world.succeed(&argv).matches("200").count(), 60);
    drop(server);
    Verdict::Passed
}

pub(crate) fn node(world: &mut World) -> Verdict {
    need!("node", "nodejs");
    scripts(world);
    let url = format!("http://{HOST}:{HTTP}/bytes/{BYTES}");
    let argv = ["node", "/mnt/share/apps/net.js", "get", &url, &pattern::digest(BYTES), "20"];
    assert_eq!(world.succeed(&argv), "20 digests equal\n");
    Verdict::Passed
}

pub(crate) fn java(world: &mut World) -> Verdict {
    let Some(classes) = java_classes(world) else {
        return Verdict::Skipped(missing("openjdk-17-jdk-headless"));
    };
    let url = format!("http://{HOST}:{HTTP}/bytes/{BYTES}");
    let run =
        |words: &[&str]| world.succeed(&[&JAVA_OPTIONS, &["-cp", classes, "Net"], words].concat());
    assert_eq!(run(&["get", &url, &pattern::digest(BYTES)]), "digest equal\n");
    assert_eq!(run(&["echo", HOST, &ECHO.to_string(), "40"]), "40 echoes\n");
    Verdict::Passed
}

pub(crate) fn nc(world: &mut World) -> Verdict {
    need!("nc", "netcat-openbsd");
    files(world, "file", BYTES);
    let script = format!("nc -N {HOST} {SINK} </mnt/share/files/file");
    let answer = world.succeed(&["sh", "-c", &script]);
    assert_eq!(answer.trim(), format!("{BYTES} {}", pattern::digest(BYTES)));
    Verdict::Passed
}

pub(crate) fn openssl(world: &mut World) -> Verdict {
    need!("openssl", "openssl");
    need!("curl", "curl");
    files(world, "file", BYTES);
    let [key, certificate] = certificate(world);
    let port = world.places.service(TLS).port().to_string();
    let mut command = tied("openssl");
    command.args([
        "s_server",
        "-quiet",
        "-accept",
        &port,
        "-key",
        &key,
        "-cert",
        &certificate,
        "-WWW",
    ]);
    command.current_dir(world.directory.share().join("files"));
    let _server = host_server(world, TLS, &mut command);
    let request = format!(
        "printf 'GET /file HTTP/1.0\\r\\n\\r\\n' | openssl s_client -quiet -connect {HOST}:{TLS} 2>/dev/null | \
         tail -c {BYTES} | sha256sum"
    );
    let digest = world.succeed(&["sh", "-c", &request]);
    assert!(digest.starts_with(&pattern::digest(BYTES)), "{digest}");
    let script = format!("curl -sSfk https://{HOST}:{TLS}/file | sha256sum");
    let digest = world.succeed(&["sh", "-c", &script]);
    assert!(digest.starts_with(&pattern::digest(BYTES)), "{digest}");
    Verdict::Passed
}
