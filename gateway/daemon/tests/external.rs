//! Routes by programs: what they have and see, what a guest gets when they misbehave, and that nobody else
//! notices.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use std::io::{Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};

use common::{address, boot, dial, echo_server, eventually, setup};
use outsock_virtual_guest::{Connection, Content, VirtualGuest};
use outsock_vmrpc::Errno;

const EXAMPLE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../examples/external/xor.py");

/// A program that says on which descriptors it finds what, then is the example in Python.
#[test]
fn a_program_has_nothing_of_ours_and_carries_a_guests_bytes() {
    let folder = tempfile::tempdir().unwrap();
    let script = folder.path().join("transport.sh");
    let text = format!(
        "ls -l /proc/$$/fd > fds; id -u > user; grep NoNewPrivs /proc/$$/status > privs\n\
         exec python3 {EXAMPLE}"
    );
    std::fs::write(&script, text).unwrap();
    let state = folder.path().join("state");
    let far = common::server(|mut stream| {
        let mut got = [0; 5];
        stream.read_exact(&mut got).unwrap();
        // XOR 42: the wire shows something else than the guest said.
        stream.write_all(&got).unwrap();
    });
    let tables = format!(
        "[[transport]]\nname = \"x\"\nkind = \"external\"\nprogram = \"/bin/sh\"\n\
         arguments = [{script:?}]\nmethod = \"xor\"\nstate = {state:?}\n\
         [[route]]\nto = [\"192.0.2.1\"]\nvia = \"x\"\ntarget = \"127.0.0.1:{far}\"\n\
         options = {{ key = \"42\" }}\n"
    );
    let gateway = setup().guest("web", 3).toml(&tables).start().unwrap();
    let guest = boot(&gateway);
    let mut connection = dial(&guest, 80);
    connection.write_all(b"hello").unwrap();
    let mut got = [0; 5];
    connection.read_exact(&mut got).unwrap();
    assert_eq!(&got, b"hello", "there and back");
    let read = |name: &str| std::fs::read_to_string(state.join(name)).unwrap();
    let fds: Vec<String> = read("fds")
        .lines()
        .filter_map(|line| Some(line.split_once(" -> ")?.1.to_owned()))
        // The shell's own script.
        .filter(|to| !to.ends_with("transport.sh") && !to.ends_with("/fds"))
        .collect();
    assert!(fds.iter().all(|to| to.starts_with("pipe:")) && fds.len() <= 3, "{}", read("fds"));
    assert_eq!(read("privs").split_whitespace().last(), Some("1"));
    // The far side closed: an end in good order. Without the process: nothing, and no other way.
    let pid = std::fs::read_dir("/proc").unwrap().flatten().find_map(|entry| {
        let cwd = std::fs::read_link(entry.path().join("cwd")).ok()?;
        (cwd == state.canonicalize().unwrap()).then(|| entry.file_name())
    });
    let pid = pid.expect("the program runs").into_string().unwrap();
    let stopped = std::process::Command::new("kill").args(["-STOP", &pid]).status().unwrap();
    assert!(stopped.success());
    let killed = std::process::Command::new("kill").args(["-KILL", &pid]).status().unwrap();
    assert!(killed.success());
    eventually("a new process carries on", || match guest.dial(address(80)) {
        Ok(_) => true,
        Err(errno) => {
            assert_eq!(errno, Errno::ENETDOWN, "never another way");
            false
        }
    });
    guest.assert_clean();
}

/// What a program finds that runs as somebody else.
const LOOKS: &str = r#"
import json, os, socket, sys
status = dict(line.rstrip().split(":", 1) for line in open("/proc/self/status"))
fds = {}
for number in os.listdir("/proc/self/fd"):
    try:
        fds[number] = os.readlink("/proc/self/fd/" + number)
    except OSError:
        pass  # the listing's own
def why(what, *words):
    try:
        what(*words)
        return "allowed"
    except OSError as error:
        return type(error).__name__
def dial(path):
    socket.socket(socket.AF_UNIX).connect(path)
parent, key, admin, guest = os.getppid(), *sys.argv[2:5]
found = {
    "uid": os.getresuid(), "gid": os.getresgid(), "groups": os.getgroups(), "fds": fds,
    "environ": sorted(os.environ), "capabilities": status["CapEff"].strip(), "privileges": status["NoNewPrivs"].strip(),
    "key": why(open, key), "admin": why(dial, admin), "guest": why(dial, guest),
    "memory": why(open, f"/proc/{parent}/mem"), "descriptors": why(os.listdir, f"/proc/{parent}/fd"),
    "its environ": why(open, f"/proc/{parent}/environ"),
}
with open("found.json", "w") as file:
    json.dump(found, file)
sys.argv = sys.argv[:1]
exec(open(sys.argv[0].replace("looks.py", "xor.py")).read())
"#;

#[test]
fn a_program_of_another_user_gets_at_nothing_of_the_gateways() {
    let folder = tempfile::tempdir().unwrap();
    if !rustix::process::geteuid().is_root() {
        let mut stderr = std::io::stderr().lock();
        let _ = writeln!(stderr, "run_as: NOT RUN: only root starts programs as somebody else");
        return;
    }
    // Others may come to the program; what they must not read is closed by itself.
    std::fs::set_permissions(folder.path(), PermissionsExt::from_mode(0o755)).unwrap();
    let at = |name: &str| folder.path().join(name);
    std::fs::write(at("looks.py"), LOOKS).unwrap();
    std::fs::copy(EXAMPLE, at("xor.py")).unwrap();
    std::fs::write(at("gateway.key"), "secret").unwrap();
    std::fs::set_permissions(at("gateway.key"), PermissionsExt::from_mode(0o600)).unwrap();
    let far = echo_server();
    let (script, key, state) = (at("looks.py"), at("gateway.key"), at("state"));
    let base = setup().guest("web", 3);
    // The sockets' names are known only once it has started: a link stands for their folder.
    let (admin, guest) = (at("sockets").join("admin.sock"), at("sockets").join("web.sock"));
    let tables = format!(
        "[[transport]]\nname = \"x\"\nkind = \"external\"\nprogram = \"/usr/bin/python3\"\n\
         arguments = [{script:?}, \"-\", {key:?}, {admin:?}, {guest:?}]\nmethod = \"xor\"\n\
         state = {state:?}\nrun_as = \"nobody\"\n\
         [[route]]\nto = [\"192.0.2.1\"]\nvia = \"x\"\ntarget = \"127.0.0.1:{far}\"\n"
    );
    let gateway = base.toml(&tables).start().unwrap();
    std::fs::set_permissions(gateway.folder(), PermissionsExt::from_mode(0o755)).unwrap();
    std::os::unix::fs::symlink(gateway.folder(), at("sockets")).unwrap();
    let guest = boot(&gateway);
    talk(&mut dial(&guest, 80));
    let text = std::fs::read_to_string(state.join("found.json")).unwrap();
    let found: serde_json::Value = serde_json::from_str(&text).unwrap();
    let nobody = [65_534; 3];
    assert_eq!(found["uid"], serde_json::json!(nobody), "{text}");
    assert_eq!(found["gid"], serde_json::json!(nobody), "{text}");
    assert_eq!(found["groups"], serde_json::json!([]), "{text}");
    assert_eq!(found["capabilities"], "0000000000000000");
    assert_eq!(found["privileges"], "1");
    for what in ["key", "admin", "guest", "memory", "descriptors", "its environ"] {
        assert_eq!(found[what], "PermissionError", "{what}: {text}");
    }
    for variable in found["environ"].as_array().unwrap() {
        let name = variable.as_str().unwrap();
        let known = ["PATH", "HOME", "LC_CTYPE"].contains(&name) || name.starts_with("TOR_PT_");
        assert!(known, "{name}");
    }
    for (number, to) in found["fds"].as_object().unwrap() {
        assert!(["0", "1", "2"].contains(&number.as_str()), "{number} is {to}");
        assert!(to.as_str().unwrap().starts_with("pipe:"), "{number} is {to}");
    }
    guest.assert_clean();
}

fn talk(connection: &mut Connection) {
    connection.write_all(b"hello").unwrap();
    let mut got = [0; 5];
    connection.read_exact(&mut got).unwrap();
    assert_eq!(&got, b"hello");
}

/// Programs that are none, each with what a dial by them fails with.
const BAD: [(&str, Errno); 6] = [
    // Never ready.
    ("echo VERSION 1; exec cat", Errno::ENETDOWN),
    ("exec yes", Errno::ENETDOWN),
    ("yes >&2 & echo VERSION 1; exec cat", Errno::ENETDOWN),
    // Dies at once, again and again.
    ("exit 1", Errno::ENETDOWN),
    // Says where, and nobody is there.
    (
        "echo VERSION 1; echo CMETHOD xor socks5 127.0.0.1:1; echo CMETHODS DONE; exec cat",
        Errno::ENETUNREACH,
    ),
    // Takes connections, and never answers.
    ("exec python3 DEAF", Errno::ETIMEDOUT),
];

const DEAF: &str = "
import socket, time
door = socket.create_server((\"127.0.0.1\", 0))
print(\"VERSION 1\", f\"CMETHOD xor socks5 127.0.0.1:{door.getsockname()[1]}\", \"CMETHODS DONE\", sep=\"\\n\")
print(end=\"\", flush=True)
time.sleep(3600)
";

fn transport(name: &str, folder: &Path, arguments: &str, start_time_ms: u32) -> String {
    let state = folder.join(name);
    format!(
        "[[transport]]\nname = {name:?}\nkind = \"external\"\nprogram = \"/usr/bin/env\"\n\
         arguments = {arguments}\nmethod = \"xor\"\nstate = {state:?}\nstart_time_ms = {start_time_ms}\n"
    )
}

fn moves(guest: &VirtualGuest, port: u16) {
    let total = 8 << 20;
    let connection = dial(guest, port);
    let sending = connection.try_clone().unwrap().start_send(total, 50_001, Content::Pattern);
    connection.receive_stream(total, Content::Pattern).unwrap();
    sending.wait().unwrap();
}

#[test]
fn bad_programs_hurt_nobody_else() {
    let folder = tempfile::tempdir().unwrap();
    let far = echo_server();
    let route = |port: usize, via: &str| {
        format!(
            "[[route]]\nto = [\"192.0.2.1\"]\nports = [{port}]\nvia = {via:?}\n\
             target = \"127.0.0.1:{far}\"\n"
        )
    };
    let mut tables = route(1, "direct") + &route(2, "good");
    let good = format!("[\"python3\", {EXAMPLE:?}]");
    let mut transports = transport("good", folder.path(), &good, 30_000);
    let deaf = folder.path().join("deaf.py");
    std::fs::write(&deaf, DEAF).unwrap();
    for (number, (script, errno)) in BAD.into_iter().enumerate() {
        let file = folder.path().join(format!("{number}.sh"));
        std::fs::write(&file, script.replace("DEAF", &deaf.display().to_string())).unwrap();
        let start_time_ms = if errno == Errno::ENETDOWN { 1_000 } else { 30_000 };
        let (name, arguments) = (format!("bad-{number}"), format!("[\"sh\", {file:?}]"));
        transports += &transport(&name, folder.path(), &arguments, start_time_ms);
        tables += &route(number + 10, &name);
    }
    let gateway = setup()
        .gateway("dial_timeout_ms = 5000")
        .guest("web", 3)
        .guest("db", 4)
        .toml(&(transports + &tables))
        .start()
        .unwrap();
    let guest = boot(&gateway);
    let other = gateway.boot("db", outsock_virtual_guest::Options::default()).unwrap();
    // Python may need longer to start than a dial has.
    eventually("the good one runs", || guest.dial(address(2)).is_ok());
    // Connections that stand while all that happens.
    let mut standing = [dial(&guest, 1), dial(&guest, 2), dial(&other, 1), dial(&other, 2)];
    let over = AtomicBool::new(false);
    std::thread::scope(|threads| {
        let failing: Vec<_> = (0..BAD.len())
            .map(|number| {
                let guest = &guest;
                let port = u16::try_from(number + 10).unwrap();
                threads.spawn(move || {
                    let (script, expected) = BAD[number];
                    let errno = guest.dial(address(port)).map(drop).unwrap_err();
                    assert_eq!(errno, expected, "{script}");
                })
            })
            .collect();
        for guest in [&guest, &other] {
            let over = &over;
            threads.spawn(move || {
                while !over.load(Ordering::Relaxed) {
                    moves(guest, 1);
                    moves(guest, 2);
                }
            });
        }
        let outcomes: Vec<_> = failing.into_iter().map(|thread| thread.join()).collect();
        over.store(true, Ordering::Relaxed);
        assert!(outcomes.iter().all(Result::is_ok), "{outcomes:?}");
    });
    standing.iter_mut().for_each(talk);
    guest.assert_clean();
    other.assert_clean();
}
