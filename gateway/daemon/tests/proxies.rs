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
