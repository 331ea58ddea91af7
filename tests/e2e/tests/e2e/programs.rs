//! Programs: clients that people use, unmodified.
//!
//! in: a world; out: a verdict each. Owner: the caller. Kept: each is the distribution's own program, and
//! its result is compared with what the host has.

use std::path::PathBuf;
use std::process::Command;

use outsock_boot::GuestCommand;
use outsock_e2e::pattern;

use crate::Verdict;
use crate::host::{missing, program};
use crate::net::{ECHO, HOST, HOST6, IPERF3};
use crate::world::{World, outsourced, run};

const DOWNLOAD_BYTES: usize = 8 << 20;
const UPLOAD_BYTES: usize = 3 << 20;

/// Skips unless the program is there.
macro_rules! need {
    ($name:literal, $package:literal) => {
        if program(&[$name]).is_none() {
            return Verdict::Skipped(missing($package));
        }
    };
}
pub(crate) use need;

pub(crate) fn only_lo(world: &mut World) -> Verdict {
    let output = run(world.guest(), &GuestCommand::new(&["ls", "/sys/class/net"]));
    assert_eq!(output.stdout_text().trim(), "lo", "a guest here has no other network device");
    Verdict::Passed
}

pub(crate) fn curl(world: &mut World) -> Verdict {
    need!("curl", "curl");
    let url = format!("http://{HOST}/");
    let plain = run(world.guest(), &GuestCommand::new(&["curl", "-sS", "--max-time", "10", &url]));
    assert_eq!(plain.status.code(), Some(7), "without outsock: {}", plain.stderr_text());
    assert_eq!(world.succeed(&["curl", "-sS", &url]), "hello\n");
    let script = format!("curl -sS {url}bytes/{DOWNLOAD_BYTES} | sha256sum");
    let digest = world.succeed(&["sh", "-c", &script]);
    assert!(digest.starts_with(&pattern::digest(DOWNLOAD_BYTES)), "{digest}");
    std::fs::write(world.directory.share().join("upload"), pattern::bytes(UPLOAD_BYTES)).unwrap();
    let digest = world.succeed(&["curl", "-sS", "-T", "/mnt/share/upload", &url]);
    assert_eq!(digest.trim(), pattern::digest(UPLOAD_BYTES));
    Verdict::Passed
}

pub(crate) fn curl_over_ipv6(world: &mut World) -> Verdict {
    need!("curl", "curl");
    if world.servers.http6.is_none() {
        return Verdict::Skipped("this host has no IPv6 loopback".to_owned());
    }
    assert_eq!(world.succeed(&["curl", "-sS", &format!("http://[{HOST6}]/")]), "hello\n");
    Verdict::Passed
}

pub(crate) fn wget(world: &mut World) -> Verdict {
    need!("wget", "wget");
    let script = format!("wget -q -O - http://{HOST}/bytes/{DOWNLOAD_BYTES} | sha256sum");
    let digest = world.succeed(&["sh", "-c", &script]);
    assert!(digest.starts_with(&pattern::digest(DOWNLOAD_BYTES)), "{digest}");
    Verdict::Passed
}

pub(crate) fn git_clone(world: &mut World) -> Verdict {
    let head = match (&world.processes.git, &world.processes.git_head) {
        (Ok(_), Ok(head)) => head.clone(),
        (Err(reason), _) | (_, Err(reason)) => return Verdict::Skipped(reason.clone()),
    };
    let script = format!(
        "git clone -q git://{HOST}/files /tmp/clone && cd /tmp/clone && git rev-parse HEAD && git fsck --full"
    );
    let output = world.succeed(&["sh", "-c", &script]);
    assert_eq!(output.lines().next(), Some(head.as_str()));
    Verdict::Passed
}

pub(crate) fn ssh(world: &mut World) -> Verdict {
    if let Err(reason) = &world.processes.ssh {
        return Verdict::Skipped(reason.clone());
    }
    need!("ssh", "openssh-client");
    let user = std::env::var("USER").unwrap_or_else(|_| "root".to_owned());
    // A file system that shows another owner than the host's would make ssh refuse the key.
    let script = format!(
        "install -m 600 /mnt/share/ssh_key /tmp/ssh_key && exec ssh -q -i /tmp/ssh_key -o BatchMode=yes \
         -o StrictHostKeyChecking=no -o UserKnownHostsFile=/dev/null {user}@{HOST} 'sha256sum; echo over'"
    );
    let argv = outsourced(&["sh", "-c", &script]);
    let command = GuestCommand::new(&argv).stdin(pattern::bytes(UPLOAD_BYTES));
    let output = run(world.guest(), &command);
    let text = output.stdout_text();
    assert!(output.status.success(), "{}: {text}{}", output.status, output.stderr_text());
    assert!(text.starts_with(&pattern::digest(UPLOAD_BYTES)) && text.ends_with("over\n"), "{text}");
    Verdict::Passed
}

fn run_iperf3(world: &World, options: &[&str], sums: usize) -> Verdict {
    if let Err(reason) = &world.processes.iperf3 {
        return Verdict::Skipped(reason.clone());
    }
    let port = IPERF3.to_string();
    let argv = [&["iperf3", "-c", HOST, "-p", &port, "-t", "1"], options].concat();
    let text = world.succeed(&argv);
    // The last lines sum up what was received; nothing received would be "0.00 bits/sec".
    let received: Vec<&str> = text.lines().filter(|line| line.ends_with("receiver")).collect();
    assert!(received.len() >= sums, "{text}");
    assert!(received.iter().all(|line| !line.contains(" 0.00 bits")), "{text}");
    Verdict::Passed
}

pub(crate) fn iperf3(world: &mut World) -> Verdict {
    run_iperf3(world, &[], 1)
}

pub(crate) fn iperf3_reverse(world: &mut World) -> Verdict {
    run_iperf3(world, &["-R"], 1)
}

pub(crate) fn iperf3_parallel(world: &mut World) -> Verdict {
    run_iperf3(world, &["-P", "16"], 17)
}

pub(crate) fn iperf3_bidir(world: &mut World) -> Verdict {
    run_iperf3(world, &["--bidir"], 2)
}

pub(crate) fn go_static(world: &mut World) -> Verdict {
    let client = match build_go(world, "client", include_str!("../../guest/go/client.go")) {
        Ok(client) => client,
        Err(reason) => return Verdict::Skipped(reason),
    };
    let path = world.directory.share_program(&client, "go-client").unwrap();
    let (length, echo) = (1 << 20, format!("{HOST}:{ECHO}"));
    let url = format!("http://{HOST}/bytes/{length}");
    let output = world.succeed(&[&path, &url, &pattern::digest(length), &echo]);
    assert!(output.contains("all digests and echoes equal"), "{output}");
    Verdict::Passed
}

/// Built with the standard library only, so without a network.
pub(crate) fn build_go(world: &World, name: &str, text: &str) -> Result<PathBuf, String> {
    let go = program(&["go"]).ok_or_else(|| missing("golang-go"))?;
    let source = world.directory.path(&format!("{name}.go"));
    std::fs::write(&source, text).unwrap();
    let client = world.directory.path(&format!("go-{name}"));
    let cache = outsock_site::target_directory().join("go-cache");
    let output = Command::new(go)
        .args(["build", "-o"])
        .arg(&client)
        .arg(&source)
        .env("CGO_ENABLED", "0")
        .env("GO111MODULE", "off")
        .env("GOCACHE", cache)
        .env("GOFLAGS", "")
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    Ok(client)
}

pub(crate) fn asyncio(world: &mut World) -> Verdict {
    need!("python3", "python3");
    let argv = ["/usr/bin/python3", "/mnt/share/many.py", HOST, &ECHO.to_string(), "100"];
    assert_eq!(world.succeed(&argv), "100 echoes\n");
    Verdict::Passed
}
