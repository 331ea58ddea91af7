//! `outsock run` as a command: exit status, signals, messages, life with and without a gateway.
#![allow(clippy::unwrap_used)]

mod lab;
mod stand_in;

use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use lab::{AGENT, CONNECT, Lab, eventually, silent_server};
use stand_in::{Gateway, has_python};

fn signal(process: &Child, name: &str) {
    let pid = process.id().to_string();
    assert!(Command::new("kill").args(["-s", name, &pid]).status().unwrap().success());
}

fn wait(process: &mut Child) -> std::process::ExitStatus {
    let mut status = None;
    eventually("the end of the process", || {
        status = process.try_wait().unwrap();
        status.is_some()
    });
    status.unwrap()
}

#[test]
fn the_exit_status_is_the_commands() {
    let lab = Lab::new();
    let code = |script| lab.outsock(&["sh", "-c", script]).status().unwrap();
    assert_eq!(code("exit 0").code(), Some(0));
    assert_eq!(code("exit 37").code(), Some(37));
    assert_eq!(code("kill -KILL $$").signal(), Some(9));
    assert_eq!(code("kill -TERM $$").signal(), Some(15));
    assert_eq!(code("kill -SEGV $$").signal(), Some(11));
    assert_eq!(lab.outsock(&["/nonexistent"]).status().unwrap().code(), Some(127));
    assert_eq!(lab.outsock(&["/etc/passwd"]).status().unwrap().code(), Some(126));
}

#[test]
fn arguments_streams_and_environment_pass_through() {
    let lab = Lab::new();
    let mut child = lab
        .outsock(&["sh", "-c", "cat; echo \"$1 $WORD\" >&2", "sh", "-v --x"])
        .env("WORD", "word")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(b"in and out").unwrap();
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.stdout, b"in and out");
    assert_eq!(output.stderr, b"-v --x word\n");
}

#[test]
fn the_command_finds_signals_and_descriptors_as_without() {
    let lab = Lab::new();
    let show = ["sh", "-c", "grep -E '^Sig(Blk|Ign|Cgt)' /proc/self/status; ls -l /proc/self/fd"];
    let outside = Command::new(show[0]).args(&show[1..]).output().unwrap().stdout;
    let inside = lab.outsock(&show).output().unwrap().stdout;
    let lines = |bytes: &[u8]| {
        let text = String::from_utf8_lossy(bytes).into_owned();
        let signals: Vec<_> =
            text.lines().filter(|l| l.starts_with("Sig")).map(str::to_owned).collect();
        (signals, text.lines().filter(|l| l.contains("->")).count())
    };
    assert_eq!(lines(&inside), lines(&outside));
}

#[test]
fn signals_are_passed_on() {
    let lab = Lab::new();
    for name in ["TERM", "INT", "HUP", "USR1", "QUIT"] {
        let script = format!(
            "trap 'echo got {name}; exit 5' {name}; echo ready; while :; do sleep 0.05; done"
        );
        // Whoever runs the tests may have ignored some of them, which a shell cannot undo.
        let command = ["env", "--default-signal", "sh", "-c", &script];
        let mut child = lab.outsock(&command).stdout(Stdio::piped()).spawn().unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        assert_eq!(lines.next().unwrap().unwrap(), "ready");
        signal(&child, name);
        assert_eq!(lines.next().unwrap().unwrap(), format!("got {name}"));
        assert_eq!(wait(&mut child).code(), Some(5), "{name}");
    }
}

#[test]
fn a_terminal_stops_continues_and_interrupts_it() {
    if !has_python() {
        return;
    }
    let lab = Lab::new();
    let program = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/programs/terminal.py");
    let output =
        Command::new("python3").args([program, AGENT, &lab.gateway.option()]).output().unwrap();
    assert!(output.status.success(), "{output:?}");
}

#[test]
fn killing_the_front_kills_the_command() {
    let lab = Lab::new();
    let mut child = lab
        .outsock(&["sh", "-c", "echo $$; exec sleep 60"])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut line = String::new();
    BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
    let status = format!("/proc/{}/stat", line.trim());
    assert!(Path::new(&status).exists());
    signal(&child, "KILL");
    assert_eq!(wait(&mut child).signal(), Some(9));
    eventually("the command's end", || !Path::new(&status).exists());
}

#[test]
fn daemons_stay_supervised_and_do_not_hold_the_output() {
    if !has_python() {
        return;
    }
    let lab = Lab::new();
    let (_server, port) = silent_server();
    let done = lab.directory.path().join("done");
    let daemon = format!(
        "{CONNECT}
import os
if os.fork() == 0:
    os.setsid()
    null = os.open('/dev/null', os.O_RDWR)
    for n in (0, 1, 2): os.dup2(null, n)
    time.sleep(3)
    s, result = connect('198.51.100.1', {port})
    open('{0}.new', 'w').write(result + ' ' + s.getpeername()[0])
    os.rename('{0}.new', '{0}')
",
        done.display()
    );
    let start = Instant::now();
    let output = lab.outsock(&["python3", "-c", &daemon]).output().unwrap();
    assert!(output.status.success(), "{output:?}");
    assert!(start.elapsed() < Duration::from_secs(2), "the daemon held the output");
    eventually("the daemon's connection", || done.exists());
    assert_eq!(std::fs::read_to_string(&done).unwrap(), "ok 198.51.100.1");
}

#[test]
fn without_a_gateway_it_says_so_and_does_not_hang() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("none");
    let option = format!("unix:{}", path.display());
    let run = || {
        let start = Instant::now();
        let output =
            Command::new(AGENT).args(["run", "--gateway", &option, "true"]).output().unwrap();
        assert!(start.elapsed() < Duration::from_secs(3));
        assert_eq!(output.status.code(), Some(69));
        String::from_utf8(output.stderr).unwrap()
    };
    let text = run();
    assert!(
        text.contains("no gateway at") && text.contains("is outsock-gateway running"),
        "{text}"
    );
    // Something that accepts and never answers.
    let _mute = std::os::unix::net::UnixListener::bind(&path).unwrap();
    let text = run();
    assert!(text.contains("does not answer"), "{text}");
}

#[test]
fn without_a_vsock_device_it_says_what_to_do() {
    // CID 1 is this machine itself, where nobody listens: no other machine is asked.
    let start = Instant::now();
    let output =
        Command::new(AGENT).args(["run", "--cid", "1", "--port", "7", "true"]).output().unwrap();
    assert!(start.elapsed() < Duration::from_secs(4));
    assert_eq!(output.status.code(), Some(69));
    let text = String::from_utf8(output.stderr).unwrap();
    assert!(text.contains("no gateway at vsock CID 1 port 7"), "{text}");
}

#[test]
fn one_cannot_supervise_the_other_and_says_why() {
    let lab = Lab::new();
    let inner = [AGENT, "run", "--gateway", &lab.gateway.option(), "true"];
    let output = lab.outsock(&inner).output().unwrap();
    assert_eq!(output.status.code(), Some(69));
    let text = String::from_utf8(output.stderr).unwrap();
    assert!(text.contains("already has a seccomp listener"), "{text}");
}

#[test]
fn the_gateway_hears_who_asks() {
    if !has_python() {
        return;
    }
    let lab = Lab::new();
    let (_server, port) = silent_server();
    // The shell connects by itself, then becomes another program in the same process, which then
    // becomes another user, if it may.
    let python = format!(
        "{CONNECT}
import os
connect('198.51.100.1', {port})
if os.getuid() == 0: os.setresuid(65534, 65534, 0)
connect('198.51.100.1', {port})
"
    );
    let script = format!("exec 5<>/dev/tcp/198.51.100.1/{port}; exec python3 -c \"$0\"");
    let output = lab.outsock(&["bash", "-c", &script, &python]).output().unwrap();
    assert!(output.status.success(), "{output:?}");
    let asserted = lab.gateway.asserted();
    let name = |at: usize| asserted[at].program.as_deref().unwrap_or("").rsplit('/').next();
    assert_eq!(asserted.len(), 3, "{asserted:?}");
    assert_eq!(name(0), Some("bash"));
    assert!(name(1).is_some_and(|name| name.starts_with("python3")), "{asserted:?}");
    assert!(asserted[0].pid.is_some() && asserted[0].pid == asserted[2].pid, "{asserted:?}");
    if asserted[0].user_id == Some(0) {
        assert_eq!(asserted[0].user_name.as_deref(), Some("root"));
        assert_eq!(asserted[2].user_id, Some(65_534));
    }
}

#[test]
fn when_the_gateway_goes_connects_fail_and_when_it_is_back_they_work() {
    if !has_python() {
        return;
    }
    let mut lab = Lab::new();
    let (_server, port) = silent_server();
    let script = format!(
        "{CONNECT}
for line in sys.stdin:
    print(connect('198.51.100.' + line.strip(), {port})[1], flush=True)
"
    );
    let mut child = lab
        .outsock(&["python3", "-c", &script])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut stdin = child.stdin.take().unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let mut connect = |last: &str| {
        writeln!(stdin, "{last}").unwrap();
        lines.next().unwrap().unwrap()
    };
    assert_eq!(connect("1"), "ok");
    let path = lab.directory.path().join("gateway");
    lab.gateway.stop();
    let start = Instant::now();
    assert_eq!(connect("1"), "ENETUNREACH");
    assert_eq!(connect("7"), "ENETUNREACH");
    assert!(start.elapsed() < Duration::from_secs(1));
    lab.gateway = Gateway::start(&path);
    eventually("a connection through the new gateway", || connect("1") == "ok");
    drop(stdin);
    assert!(wait(&mut child).success());
    let mut text = String::new();
    child.stderr.take().unwrap().read_to_string(&mut text).unwrap();
    assert!(text.contains("lost the gateway") && text.contains("is back"), "{text}");
}

#[test]
fn a_connect_that_waits_when_the_gateway_goes_fails() {
    if !has_python() {
        return;
    }
    let mut lab = Lab::new();
    for blocking in ["True", "False"] {
        let script = format!(
            "{CONNECT}
import select
s = socket.socket()
s.setblocking({blocking})
print('go', flush=True)
code = s.connect_ex(('198.51.100.7', 80))
if code == errno.EINPROGRESS:
    print('waiting', file=sys.stderr)
    select.select([], [s], [], 20)
    code = s.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
print(errno.errorcode.get(code, 'ok'))
"
        );
        let mut child = lab
            .outsock(&["python3", "-c", &script])
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        assert_eq!(lines.next().unwrap().unwrap(), "go");
        eventually("the connect's arrival", || lab.gateway.counters().connects > 0);
        std::thread::sleep(Duration::from_millis(200));
        lab.gateway.stop();
        assert_eq!(lines.next().unwrap().unwrap(), "ENETUNREACH", "blocking: {blocking}");
        assert!(wait(&mut child).success());
        lab.gateway = Gateway::start(&lab.directory.path().join("gateway"));
    }
}

#[test]
fn connects_that_are_given_up_are_cancelled() {
    if !has_python() {
        return;
    }
    let lab = Lab::new();
    let script = format!(
        "{CONNECT}
import os, signal
for _ in range(5):
    s = socket.socket()
    s.setblocking(False)
    s.connect_ex(('198.51.100.7', 80))
    s.close()
pid = os.fork()
if pid == 0:
    connect('198.51.100.7', 80)
time.sleep(0.3)
os.kill(pid, signal.SIGKILL)
os.wait()
time.sleep(1.5)
"
    );
    assert!(lab.outsock(&["python3", "-c", &script]).status().unwrap().success());
    let counters = lab.gateway.counters();
    assert_eq!((counters.connects, counters.cancels), (6, 6));
}

#[test]
fn nothing_grows_with_the_number_of_connections() {
    if !has_python() {
        return;
    }
    let lab = Lab::new();
    let (server, port) = silent_server();
    std::thread::spawn(move || server.incoming().for_each(drop));
    let script = format!(
        "{CONNECT}
import os
parent = os.getppid()
def open_files(): return len(os.listdir(f'/proc/{{parent}}/fd'))
def memory(): return int(open(f'/proc/{{parent}}/statm').read().split()[1]) * 4
def many(n):
    for _ in range(n):
        s, result = connect('198.51.100.1', {port})
        assert result == 'ok', result
        s.close()
many(2000)
first = open_files(), memory()
many(4000)
last = open_files(), memory()
print(first, last)
assert last[0] < 700 and last[0] < first[0] + 600, (first, last)
assert last[1] < first[1] + 1500, (first, last)
time.sleep(7)
print(open_files())
# With the sockets that lie ready for names.
assert open_files() < 60, open_files()
"
    );
    let output = lab.outsock(&["python3", "-c", &script]).output().unwrap();
    assert!(output.status.success(), "{output:?}");
}
