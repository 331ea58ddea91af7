//! Names under `outsock run`: every way in which programs ask a nameserver.
#![allow(clippy::unwrap_used)]

mod stand_in;

use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use stand_in::{Gateway, has_python};

const AGENT: &str = env!("CARGO_BIN_EXE_outsock");
const PROGRAM: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/programs/names.py");

struct Lab {
    gateway: Gateway,
    directory: tempfile::TempDir,
}

impl Lab {
    fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let gateway = Gateway::start(&directory.path().join("gateway"));
        Self { gateway, directory }
    }

    fn outsock(&self, options: &[&str], command: &[&str]) -> Command {
        let mut outsock = Command::new(AGENT);
        outsock.args(["run", "--gateway", &self.gateway.option()]).args(options);
        outsock.arg("--").args(command);
        outsock
    }

    fn lines(&self, test: &str) -> Vec<String> {
        lines(&self.outsock(&[], &["python3", PROGRAM, test]).output().unwrap())
    }
}

fn lines(output: &Output) -> Vec<String> {
    assert!(output.status.success(), "{output:?}");
    String::from_utf8_lossy(&output.stdout).lines().map(str::to_owned).collect()
}

#[test]
fn datagrams_are_answered_from_the_address_that_was_asked() {
    if !has_python() {
        return;
    }
    let lab = Lab::new();
    assert_eq!(lab.lines("connected"), ["True 53", "1 ok 1 41"]);
    assert_eq!(lab.lines("unconnected"), ["True 2 ok 1 41 True"; 2]);
    assert_eq!(lab.lines("polled"), ["1 5 ok 1 41"]);
}

#[test]
fn answers_are_as_long_as_programs_take_them() {
    if !has_python() {
        return;
    }
    let lab = Lab::new();
    let whole = "3 ok 1 3050";
    assert_eq!(lab.lines("sizes"), ["3 ok 0 truncated 26", "3 ok 0 truncated 26", whole]);
    let tcp = lab.lines("tcp");
    // The two quick ones in any order.
    let mut quick = tcp[..2].to_vec();
    quick.sort();
    assert_eq!(quick, ["2 ok 1 41", "3 ok 1 3050"]);
    assert_eq!(tcp[2..], ["1 ok 1 43", "0"]);
    assert_eq!(lab.lines("fast_open"), ["9 ok 1 3050"]);
}

#[test]
fn crowds_and_nonsense_harm_nobody() {
    if !has_python() {
        return;
    }
    let lab = Lab::new();
    assert_eq!(lab.lines("bad"), ["silence", "6 servfail 0 27"]);
    assert_eq!(lab.lines("crowd"), ["100"]);
}

#[test]
fn only_what_goes_to_a_nameserver_is_taken() {
    if !has_python() {
        return;
    }
    let lab = Lab::new();
    assert_eq!(lab.lines("elsewhere"), ["b'hello'", "True"]);
    assert_eq!(lab.lines("network"), ["False"]);
    let without = lab.outsock(&["--no-resolver"], &["python3", PROGRAM, "network"]).output();
    assert_eq!(lines(&without.unwrap()), ["True"]);
}

/// Forms of /etc/resolv.conf, each made by a shell in a mount namespace of its own.
const FORMS: &[(&str, &str)] = &[
    ("missing", "rm /etc/resolv.conf"),
    ("empty", ": > /etc/resolv.conf"),
    ("dangling", "ln -s /nowhere/resolv.conf /etc/resolv.conf"),
    ("local", "echo nameserver 127.0.0.53 > /etc/resolv.conf"),
    ("unreachable", "echo nameserver 203.0.113.53 > /etc/resolv.conf"),
    ("ipv6", "echo nameserver 2001:db8::53 > /etc/resolv.conf"),
];

#[test]
fn any_resolv_conf_will_do() {
    let output = Command::new("unshare").args(["-m", "true"]).output();
    if !has_python() || !output.is_ok_and(|output| output.status.success()) {
        eprintln!("NOT TESTED: this needs root and unshare (util-linux)");
        return;
    }
    let lab = Lab::new();
    for (form, make) in FORMS {
        let script = format!(
            "set -e; mount -t tmpfs tmpfs /mnt; cp -a /etc /mnt/etc; mount --bind /mnt/etc /etc
             rm -f /etc/resolv.conf; : > /etc/resolv.conf; {}
             exec \"$@\"",
            make.replace("ln -s ", "ln -sf ")
        );
        let run = |command: &[&str]| {
            let mut unshare = Command::new("unshare");
            unshare.args(["-m", "sh", "-c", &script, "sh", AGENT, "run"]);
            unshare.args(["--gateway", &lab.gateway.option(), "--"]).args(command);
            lines(&unshare.output().unwrap())
        };
        assert_eq!(run(&["getent", "ahostsv4", "db.peer"])[0], "198.51.100.1    STREAM db.peer");
        assert_eq!(run(&["python3", PROGRAM, "unconnected"])[0], "True 2 ok 1 41 True", "{form}");
    }
}

#[test]
fn without_a_namespace_names_are_left_alone_and_it_says_so() {
    // Root of a user namespace that allows no network namespace.
    let script = "echo 0 > /proc/sys/user/max_net_namespaces && exec \"$@\"";
    let unshare = |command: &[&str]| {
        Command::new("unshare").args(["-Ur", "sh", "-c", script, "sh"]).args(command).output()
    };
    if !has_python() || !unshare(&["true"]).is_ok_and(|output| output.status.success()) {
        eprintln!("NOT TESTED: this needs unshare (util-linux) and user namespaces");
        return;
    }
    let lab = Lab::new();
    let option = lab.gateway.option();
    let command = [AGENT, "run", "--gateway", &option, "python3", PROGRAM, "network"];
    let output = unshare(&command).unwrap();
    assert_eq!(lines(&output), ["True"]);
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(said.contains("there is no resolver") && said.contains("--no-resolver"), "{said}");
}

#[test]
fn without_a_gateway_names_fail_at_once_and_with_it_again_they_work() {
    if !has_python() {
        return;
    }
    let mut lab = Lab::new();
    let mut child = lab
        .outsock(&[], &["python3", PROGRAM, "repeat"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let mut stdin = child.stdin.take().unwrap();
    let mut answers = BufReader::new(child.stdout.take().unwrap()).lines();
    let mut ask = |name: &str| {
        writeln!(stdin, "{name}").unwrap();
        answers.next().unwrap().unwrap()
    };
    assert_eq!(ask("db.peer"), "7 ok 1 41");
    lab.gateway.stop();
    assert_eq!(ask("db.peer"), "7 servfail 0 25");
    lab.gateway = Gateway::start(&lab.directory.path().join("gateway"));
    let deadline = Instant::now() + Duration::from_secs(20);
    while ask("db.peer") != "7 ok 1 41" {
        assert!(Instant::now() < deadline, "names never work again");
        std::thread::sleep(Duration::from_millis(50));
    }
    drop(stdin);
    assert!(child.wait().unwrap().success());
}

/// The processes of this program whose parent is `parent`.
fn agents_below(parent: u32) -> Vec<u32> {
    let children = std::fs::read_to_string(format!("/proc/{parent}/task/{parent}/children"));
    let children = children.unwrap_or_default();
    let ids = children.split_whitespace().filter_map(|word| word.parse().ok());
    ids.filter(|id| {
        std::fs::read_link(format!("/proc/{id}/exe")).is_ok_and(|exe| exe == Path::new(AGENT))
    })
    .collect()
}

#[test]
fn nothing_is_left_when_the_supervisor_is_killed() {
    let lab = Lab::new();
    let mut child = lab
        .outsock(&[], &["sh", "-c", "echo; exec sleep 60"])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    BufReader::new(child.stdout.take().unwrap()).lines().next().unwrap().unwrap();
    let supervisors = agents_below(child.id());
    let [supervisor] = supervisors[..] else { panic!("{supervisors:?}") };
    let resolvers = agents_below(supervisor);
    let [resolver] = resolvers[..] else { panic!("{resolvers:?}") };
    let command = std::fs::read_to_string(format!("/proc/{supervisor}/task/{supervisor}/children"));
    let kill = |id: &str| Command::new("kill").args(["-s", "KILL", id]).status().unwrap();
    kill(&supervisor.to_string());
    let deadline = Instant::now() + Duration::from_secs(20);
    while Path::new(&format!("/proc/{resolver}/exe")).exists() {
        assert!(Instant::now() < deadline, "the resolver stays");
        std::thread::sleep(Duration::from_millis(10));
    }
    for id in command.unwrap().split_whitespace().filter(|id| *id != resolver.to_string()) {
        kill(id);
    }
    child.wait().unwrap();
}
