//! Connections end as TCP connections do: halves apart, resets as resets, no byte lost.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener};
use std::time::Duration;

use common::{BINARY, boot, dial, echo_server, eventually, far_ends, gateway_to, pair, setup};
use outsock_virtual_guest::Options;
use outsock_vmrpc::Errno;

#[test]
fn the_guest_half_closes_and_still_reads() {
    let (_gateway, guest, mut connection, mut far) = pair();
    connection.write_all(b"question").unwrap();
    connection.shutdown(Shutdown::Write).unwrap();
    let mut question = String::new();
    far.read_to_string(&mut question).unwrap();
    assert_eq!(question, "question");
    let answer = vec![7; 3 << 20];
    let to_send = answer.clone();
    let thread = std::thread::spawn(move || far.write_all(&to_send).unwrap());
    let mut got = Vec::new();
    connection.read_to_end(&mut got).unwrap();
    assert!(got == answer);
    thread.join().unwrap();
    guest.assert_clean();
}

#[test]
fn the_far_side_half_closes_and_still_reads() {
    let (_gateway, guest, mut connection, mut far) = pair();
    far.write_all(b"greeting").unwrap();
    far.shutdown(Shutdown::Write).unwrap();
    let mut greeting = String::new();
    connection.read_to_string(&mut greeting).unwrap();
    assert_eq!(greeting, "greeting");
    let answer = vec![9; 3 << 20];
    let to_send = answer.clone();
    let thread = std::thread::spawn(move || {
        connection.write_all(&to_send).unwrap();
        connection.shutdown(Shutdown::Write).unwrap();
        connection
    });
    let mut got = Vec::new();
    far.read_to_end(&mut got).unwrap();
    assert!(got == answer);
    drop(thread.join().unwrap());
    guest.assert_clean();
}

#[test]
fn a_reset_by_the_guest_is_a_reset_at_the_far_side() {
    let (_gateway, guest, mut connection, mut far) = pair();
    connection.write_all(b"x").unwrap();
    far.read_exact(&mut [0]).unwrap();
    connection.reset();
    assert_eq!(far.read(&mut [0]).unwrap_err().kind(), ErrorKind::ConnectionReset);
    guest.assert_clean();
}

/// TCP, too, tells a peer whose bytes nobody will read; a shutdown is none.
#[test]
fn a_close_with_bytes_unread_is_a_reset_at_the_far_side() {
    for reads in [false, true] {
        let (_gateway, guest, mut connection, mut far) = pair();
        connection.write_all(b"x").unwrap();
        far.read_exact(&mut [0]).unwrap();
        far.write_all(b"unread").unwrap();
        eventually("it has come", || connection.queued().0 == 6);
        if reads {
            connection.read_exact(&mut [0; 6]).unwrap();
        }
        connection.close();
        let end = far.read(&mut [0]).map_err(|error| error.kind());
        assert_eq!(end, if reads { Ok(0) } else { Err(ErrorKind::ConnectionReset) });
        guest.assert_clean();
    }
}

#[test]
fn a_reset_by_the_far_side_ends_both_halves() {
    let (_gateway, guest, mut connection, mut far) = pair();
    connection.write_all(&[1; 100]).unwrap();
    far.read_exact(&mut [0; 50]).unwrap();
    // Closed with bytes unread: Linux sends RST.
    drop(far);
    eventually("the guest's connection is over", || connection.is_done());
    assert!(connection.write(b"x").is_err());
    guest.assert_clean();
}

/// The far side is reset while the guest does not read at all.
#[test]
fn a_reset_reaches_a_guest_that_does_not_read() {
    let (_gateway, guest, connection, far) = pair();
    far.set_nonblocking(true).unwrap();
    let mut idle = 0;
    while idle < 10 {
        // Non-blocking: how much of it fits does not matter, only that nothing does in the end.
        if (&far).write(&[5; 65_536]).is_ok_and(|n| n > 0) {
            idle = 0;
        } else {
            idle += 1;
            std::thread::sleep(Duration::from_millis(10));
        }
    }
    (&connection).write_all(b"unread").unwrap();
    eventually("the far side has it", || far.peek(&mut [0; 6]).is_ok_and(|n| n == 6));
    drop(far);
    eventually("the guest's connection is over", || connection.is_done());
    guest.assert_clean();
}

/// Firecracker loses the tail after two seconds.
#[test]
fn a_close_with_bytes_unsent_delivers_them_to_a_slow_reader() {
    let (gateway, guest, mut connection, mut far) = pair();
    let total = 8 << 20;
    let sent: Vec<u8> = (0..total).map(|i: u32| i.to_le_bytes()[(i % 3) as usize]).collect();
    let to_send = sent.clone();
    let writer = std::thread::spawn(move || {
        connection.write_all(&to_send).unwrap();
        connection.close();
    });
    let mut got = vec![0; sent.len()];
    let mut at = 0;
    while at < got.len() {
        let end = (at + 512 * 1024).min(got.len());
        far.read_exact(&mut got[at..end]).unwrap();
        at = end;
        std::thread::sleep(Duration::from_millis(200));
    }
    assert!(got == sent);
    assert_eq!(far.read(&mut [0]).unwrap(), 0, "then a FIN");
    writer.join().unwrap();
    eventually("the gateway forgot it", || {
        gateway.status().unwrap()["guests"][0]["connections"].as_u64() == Some(1)
    });
    guest.assert_clean();
}

#[test]
fn errors_of_the_dial_are_the_programs_own() {
    let refused = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let gateway = setup()
        .guest("web", 3)
        .gateway("default = \"EHOSTUNREACH\"")
        .toml("[[route]]\nto = [\"192.0.2.9\"]\nrefuse = \"EACCES\"")
        .route("192.0.2.1", 1, &format!("127.0.0.1:{refused}"))
        .route("192.0.2.1", 2, "255.255.255.255:9")
        .start()
        .unwrap();
    let guest = boot(&gateway);
    let errno = |to: &str| guest.dial(to.parse::<SocketAddr>().unwrap()).map(drop).unwrap_err();
    assert_eq!(errno("192.0.2.1:1"), Errno::ECONNREFUSED);
    assert_eq!(errno("192.0.2.1:2"), Errno::ENETUNREACH);
    assert_eq!(errno("192.0.2.9:80"), Errno::EACCES);
    assert_eq!(errno("198.51.100.1:80"), Errno::EHOSTUNREACH);
    guest.assert_clean();
}

#[test]
fn a_dial_that_nobody_answers_times_out_or_is_cancelled() {
    // A listener whose backlog is full does not answer.
    let full = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
    full.bind(&SocketAddr::from(([127, 0, 0, 1], 0)).into()).unwrap();
    full.listen(0).unwrap();
    let address = full.local_addr().unwrap().as_socket().unwrap();
    let port = address.port();
    let mut filling = Vec::new();
    for _ in 0..16 {
        match std::net::TcpStream::connect_timeout(&address, Duration::from_millis(30)) {
            Ok(stream) => filling.push(stream),
            Err(_) => break,
        }
    }
    let gateway = setup()
        .guest("web", 3)
        .gateway("dial_timeout_ms = 1500")
        .route("192.0.2.1", 1, &format!("127.0.0.1:{port}"))
        .start()
        .unwrap();
    let guest = boot(&gateway);
    assert_eq!(guest.dial(common::address(1)).map(drop).unwrap_err(), Errno::ETIMEDOUT);
    let dialing = guest.start_dial(common::address(1)).unwrap();
    dialing.cancel();
    assert_eq!(dialing.wait().map(drop).unwrap_err(), Errno::ECANCELED);
    eventually("no dial is left", || {
        gateway.status().unwrap()["guests"][0]["dials"].as_u64() == Some(0)
    });
}

#[test]
fn a_token_is_of_no_use_to_another_guest() {
    let (far_port, far_ends) = far_ends();
    let gateway = setup()
        .guest("web", 3)
        .guest("db", 4)
        .route("192.0.2.1", 1, &format!("127.0.0.1:{far_port}"))
        .start()
        .unwrap();
    let web = gateway.boot("web", Options::default()).unwrap();
    let db = gateway.boot("db", Options::default()).unwrap();
    let connection = dial(&web, 1);
    let token = connection.key().host.0;
    let _far = far_ends.recv().unwrap();
    assert!(db.open(token).is_err(), "another guest's token");
    assert!(web.open(token).is_err(), "a token that was used");
    drop(db);
    let forger =
        gateway.boot("db", Options { cid: Some(web.cid()), ..Options::default() }).unwrap();
    assert!(forger.open(outsock_vmrpc::limits::VMRPC_PORT).is_err(), "another guest's CID");
    drop(forger);
    (&connection).write_all(b"still here").unwrap();
    web.assert_clean();
}

#[test]
fn guests_die_reboot_pause_and_grow_without_harm_to_others() {
    let port = echo_server();
    let gateway = setup()
        .guest("web", 3)
        .guest("db", 4)
        .route("192.0.2.1", 1, &format!("127.0.0.1:{port}"))
        .start()
        .unwrap();
    let web = gateway.boot("web", Options::default()).unwrap();
    let steady = dial(&web, 1);
    let ping = || {
        let mut back = [0; 4];
        (&steady).write_all(b"ping").unwrap();
        (&steady).read_exact(&mut back).unwrap();
        assert_eq!(&back, b"ping");
    };
    for round in 0..5 {
        let db = gateway.boot("db", Options::default()).unwrap();
        let connection = dial(&db, 1);
        (&connection).write_all(b"x").unwrap();
        ping();
        match round {
            0 => db.disconnect(),
            1 => db.reboot().unwrap(),
            2 => {
                let paused = db.pause().unwrap();
                ping();
                db.resume(&paused).unwrap();
                let mut back = [0];
                (&connection).read_exact(&mut back).unwrap();
                db.assert_clean();
            }
            3 => {
                db.plug_memory(1 << 20).unwrap();
                (&connection).write_all(b"y").unwrap();
                (&connection).read_exact(&mut [0; 2]).unwrap();
                db.unplug_memory().unwrap();
                (&connection).write_all(b"z").unwrap();
                (&connection).read_exact(&mut [0]).unwrap();
                db.assert_clean();
            }
            _ => drop(db),
        }
        ping();
    }
    web.assert_clean();
}

#[test]
fn a_rebooted_guest_starts_afresh() {
    let gateway = gateway_to(echo_server());
    let guest = boot(&gateway);
    let old = dial(&guest, 1);
    (&old).write_all(b"x").unwrap();
    guest.reboot().unwrap();
    // The same ports again: the gateway must not take them for the old connections.
    let fresh = guest.open(outsock_vmrpc::limits::VMRPC_PORT);
    assert!(fresh.is_ok(), "{fresh:?}");
    eventually("the old connection is gone", || {
        gateway.status().unwrap()["guests"][0]["connections"].as_u64() == Some(1)
    });
}

#[test]
fn sigterm_drains_and_exits_0() {
    let (far_port, far_ends) = far_ends();
    let mut gateway = gateway_to(far_port);
    let guest = boot(&gateway);
    let connection = dial(&guest, 1);
    let mut far = far_ends.recv().unwrap();
    gateway.signal("TERM").unwrap();
    eventually("new connections are refused", || guest.dial(common::address(1)).is_err());
    (&connection).write_all(b"the rest").unwrap();
    connection.shutdown(Shutdown::Write).unwrap();
    let mut rest = String::new();
    far.read_to_string(&mut rest).unwrap();
    assert_eq!(rest, "the rest");
    assert!(gateway.is_running());
    connection.close();
    assert_eq!(gateway.wait().unwrap().code(), Some(0));
    assert!(!gateway.socket("web").exists(), "it takes its sockets with it");
}

#[test]
fn mistakes_in_the_configuration_exit_64() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("bad.toml");
    std::fs::write(&file, "[gateway]\ndefault = \"ENONSENSE\"\n").unwrap();
    for command in ["run", "check"] {
        let run = std::process::Command::new(BINARY).arg(command).arg("-c").arg(&file).output();
        let run = run.unwrap();
        let error = String::from_utf8_lossy(&run.stderr).into_owned();
        assert_eq!(run.status.code(), Some(64), "{error}");
        assert!(error.contains("bad.toml:2: default"), "{error}");
    }
}
