//! Runs `programs/semantics.py` natively and under `outsock run` with the stand-in gateway: what it
//! checks holds both ways, or the row says why it is skipped.
#![allow(clippy::unwrap_used)]

mod stand_in;

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::process::{Child, Command, Output, Stdio};

use stand_in::{Gateway, has_python};

const PROGRAM: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/programs/semantics.py");
const AGENT: &str = env!("CARGO_BIN_EXE_outsock");

/// An echo server on loopback, both families, one port. Runs until the test process ends.
fn echo_server() -> u16 {
    let v4 = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = v4.local_addr().unwrap().port();
    let v6 = TcpListener::bind(("::1", port)).unwrap();
    for listener in [v4, v6] {
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                std::thread::spawn(move || echo(stream));
            }
        });
    }
    port
}

fn echo(mut stream: TcpStream) {
    let mut buffer = vec![0u8; 65_536];
    while let Ok(n @ 1..) = stream.read(&mut buffer) {
        if stream.write_all(&buffer[..n]).is_err() {
            return;
        }
    }
    let _ = stream.shutdown(Shutdown::Write);
}

/// The server that says how connections end; it ends with its standard input.
fn ends_server() -> (Child, u16) {
    const ENDS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/programs/ends.py");
    let mut server = Command::new("python3");
    server.arg(ENDS).stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut server = server.spawn().unwrap();
    let mut line = String::new();
    BufReader::new(server.stdout.take().unwrap()).read_line(&mut line).unwrap();
    (server, line.trim().parse().unwrap())
}

/// A port that nobody listens on.
fn closed_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

fn passed(output: &Output) {
    let text = String::from_utf8_lossy(&output.stdout);
    println!("{text}{}", String::from_utf8_lossy(&output.stderr));
    let failures: Vec<_> = text.lines().filter(|line| line.contains("FAILED")).collect();
    assert!(output.status.success() && failures.is_empty(), "{failures:#?}");
    assert!(text.contains(": ok"), "nothing ran");
}

#[test]
fn the_program_is_right_about_native_tcp() {
    if !has_python() {
        return;
    }
    let port = echo_server();
    let (mut server, ends) = ends_server();
    let output = Command::new("python3")
        .arg(PROGRAM)
        .env("FAR", format!("127.0.0.1:{port}"))
        .env("FAR6", format!("[::1]:{port}"))
        .env("REFUSED", format!("127.0.0.1:{}", closed_port()))
        .env("ENDS", format!("127.0.0.1:{ends}"))
        .output()
        .unwrap();
    drop(server.stdin.take());
    server.wait().unwrap();
    passed(&output);
}

#[test]
fn outsourced_sockets_behave_alike() {
    if !has_python() {
        return;
    }
    let port = echo_server();
    let (mut server, ends) = ends_server();
    let directory = tempfile::tempdir().unwrap();
    let gateway = Gateway::start(&directory.path().join("gateway"));
    let far = |last: u8, port: u16| format!("198.51.100.{last}:{port}");
    let output = Command::new(AGENT)
        .args(["run", "--gateway", &gateway.option(), "--", "python3", PROGRAM])
        .env("FAR", far(1, port))
        .env("FAR6", format!("[2001:db8::1]:{port}"))
        .env("REFUSED", far(1, closed_port()))
        .env("UNREACHABLE", far(2, 80))
        .env("TIMED_OUT", far(3, 80))
        .env("HOST_UNREACHABLE", far(4, 80))
        .env("SLOW", far(5, port))
        .env("VERY_SLOW", far(6, port))
        .env("NEVER", far(7, 80))
        .env("LATE", far(8, 80))
        .env("DENIED", far(9, 80))
        .env("ENDS", far(1, ends))
        .env("LOCAL", "1")
        .env("STAND_IN", "1")
        .output()
        .unwrap();
    drop(server.stdin.take());
    server.wait().unwrap();
    passed(&output);
    let counters = gateway.counters();
    assert!(counters.connects > 1000 && counters.opened > 1000, "{counters:?}");
}
