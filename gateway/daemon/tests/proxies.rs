//! Routes by proxies and by programs: what they hear, what they have, and what the guest gets.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use std::io::{Read, Write};
use std::net::TcpStream;
use std::sync::mpsc::{Receiver, sync_channel};
use std::time::Duration;

use common::{address, boot, dial, echo_server, setup};
use outsock_virtual_guest::Content;
use outsock_vmrpc::Errno;

const PATIENCE: Duration = Duration::from_secs(20);

/// A SOCKS5 proxy that wants a login, tells what it was told, answers with a code, and leads all to one
/// server.
fn socks5(code: u8, to: u16) -> (u16, Receiver<(String, String)>) {
    let (sender, heard) = sync_channel(64);
    let port = common::server(move |mut near| {
        let mut exact = |length: usize| {
            let mut bytes = vec![0; length];
            near.read_exact(&mut bytes).unwrap();
            bytes
        };
        assert_eq!(exact(4), [5, 2, 0, 2]);
        near.write_all(&[5, 2]).unwrap();
        let mut exact = |length: usize| {
            let mut bytes = vec![0; length];
            near.read_exact(&mut bytes).unwrap();
            bytes
        };
        let user = exact(2)[1];
        let user = String::from_utf8(exact(usize::from(user))).unwrap();
        let length = exact(1)[0];
        let password = String::from_utf8(exact(usize::from(length))).unwrap();
        near.write_all(&[1, 0]).unwrap();
        let mut head = [0; 10];
        near.read_exact(&mut head).unwrap();
        let wanted = format!("{:?}", &head[3..]);
        sender.send((format!("{user}:{password}"), wanted)).unwrap();
        near.write_all(&[5, code, 0, 1, 0, 0, 0, 0, 0, 0]).unwrap();
        if code == 0 {
            let mut far = TcpStream::connect(("127.0.0.1", to)).unwrap();
            let (mut from, mut into) = (near.try_clone().unwrap(), far.try_clone().unwrap());
            let up = std::thread::spawn(move || {
                let _ = std::io::copy(&mut from, &mut into);
                let _ = into.shutdown(std::net::Shutdown::Write);
            });
            let _ = std::io::copy(&mut far, &mut near);
            let _ = near.shutdown(std::net::Shutdown::Write);
            up.join().unwrap();
        }
    });
    (port, heard)
}

fn gateway(proxy: u16) -> outsock_harness::Gateway {
    let folder = tempfile::tempdir().unwrap();
    let password = folder.path().join("password");
    std::fs::write(&password, "open sesame\n").unwrap();
    let tables = format!(
        "[[transport]]\nname = \"p\"\nkind = \"socks5\"\nserver = \"127.0.0.1:{proxy}\"\n\
         user = \"alice\"\npassword_file = {password:?}\n\
         [[route]]\nto = [\"192.0.2.0/24\"]\nvia = \"p\"\n"
    );
    // The file is read at the start only.
    setup().guest("web", 3).toml(&tables).start().unwrap()
}

#[test]
fn a_proxy_is_told_who_and_where_and_the_bytes_go_through() {
    let (proxy, heard) = socks5(0, echo_server());
    let gateway = gateway(proxy);
    let guest = boot(&gateway);
    let mut connection = dial(&guest, 80);
    let (login, wanted) = heard.recv_timeout(PATIENCE).unwrap();
    assert_eq!(login, "alice:open sesame");
    assert_eq!(wanted, "[1, 192, 0, 2, 1, 0, 80]");
    let writer = connection.try_clone().unwrap();
    let total = 4 << 20;
    let sending = writer.start_send(total, 50_001, Content::Pattern);
    connection.receive_stream(total, Content::Pattern).unwrap();
    sending.wait().unwrap();
    connection.write_all(b"x").unwrap();
    let status = gateway.status().unwrap();
    assert_eq!(status["connections"][0]["transport"], "p");
    let log = gateway.log();
    assert!(!log.contains("sesame") && !format!("{status}").contains("sesame"));
    guest.assert_clean();
}

#[test]
fn its_reasons_are_errnos() {
    for (code, errno) in [
        (1, Errno::EHOSTUNREACH),
        (2, Errno::EACCES),
        (3, Errno::ENETUNREACH),
        (5, Errno::ECONNREFUSED),
        (6, Errno::ETIMEDOUT),
        (99, Errno::ECONNRESET),
    ] {
        let (proxy, _heard) = socks5(code, 1);
        let gateway = gateway(proxy);
        let guest = boot(&gateway);
        assert_eq!(guest.dial(address(80)).unwrap_err(), errno, "code {code}");
    }
    let gateway = gateway(1);
    let guest = boot(&gateway);
    assert_eq!(guest.dial(address(80)).unwrap_err(), Errno::ENETUNREACH, "no proxy there");
}

/// A program that says on which descriptors it finds what, then is the example in Python.
#[test]
fn a_program_has_nothing_of_ours_and_carries_a_guests_bytes() {
    let folder = tempfile::tempdir().unwrap();
    let example = concat!(env!("CARGO_MANIFEST_DIR"), "/../../examples/external/xor.py");
    let script = folder.path().join("transport.sh");
    let text = format!(
        "ls -l /proc/$$/fd > fds; id -u > user; grep NoNewPrivs /proc/$$/status > privs\n\
         exec python3 {example}"
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
    common::eventually("a new process carries on", || match guest.dial(address(80)) {
        Ok(_) => true,
        Err(errno) => {
            assert_eq!(errno, Errno::ENETDOWN, "never another way");
            false
        }
    });
    guest.assert_clean();
}
