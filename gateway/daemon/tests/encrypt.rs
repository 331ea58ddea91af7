//! TLS by rule, as a guest, a server and somebody on the wire see it.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::path::PathBuf;
use std::sync::mpsc::{Receiver, sync_channel};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use common::{address, boot, dial, eventually, far_ends, setup};
use outsock_harness::Gateway;
use outsock_virtual_guest::{Connection, Content, Options, VirtualGuest};
use outsock_vmrpc::socket::options::{INSPECT, Inspection};
use outsock_vmrpc::socket::{self, Token};
use outsock_vmrpc::{Errno, VersionRange};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ProtocolVersion, ServerConfig, ServerConnection, StreamOwned};
use tempfile::TempDir;

type Served = StreamOwned<ServerConnection, TcpStream>;

const NAME: &str = "db.osaka.example";
const PATIENCE: Duration = Duration::from_secs(20);

/// A TLS server that has a certificate for a name, and hands out what it accepted.
struct TlsServer {
    port: u16,
    accepted: Receiver<Result<Served, String>>,
    /// The certificate, which is its own authority.
    certificate: PathBuf,
    _folder: TempDir,
}

fn tls_server(name: &str) -> TlsServer {
    let made = rcgen::generate_simple_self_signed(vec![name.to_owned()]).unwrap();
    let folder = TempDir::new().unwrap();
    let certificate = folder.path().join("server.pem");
    std::fs::write(&certificate, made.cert.pem()).unwrap();
    let chain = vec![CertificateDer::from(made.cert.der().to_vec())];
    let key = PrivateKeyDer::try_from(made.signing_key.serialize_der()).unwrap();
    let config =
        ServerConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
            .with_safe_default_protocol_versions()
            .unwrap();
    let mut config = config.with_no_client_auth().with_single_cert(chain, key).unwrap();
    config.alpn_protocols = vec![b"osaka/1".to_vec()];
    let config = Arc::new(config);
    let (sender, accepted) = sync_channel(64);
    let port = common::server(move |mut stream| {
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        let mut session = ServerConnection::new(Arc::clone(&config)).unwrap();
        let outcome = session.complete_io(&mut stream).map_err(|error| error.to_string());
        let _ = sender.send(outcome.map(|_| StreamOwned::new(session, stream)));
    });
    TlsServer { port, accepted, certificate, _folder: folder }
}

impl TlsServer {
    fn served(&self) -> Served {
        self.accepted.recv_timeout(PATIENCE).unwrap().unwrap()
    }
}

/// What an agent learns of a connection that ended.
fn reset_of(guest: &VirtualGuest, connection: &Connection) -> Option<Errno> {
    let versions = VersionRange::only(socket::V3);
    let agent = guest.rpc().unwrap().bind_module(socket::NAME, versions).unwrap();
    let token = Token::new(connection.key().host.0).unwrap();
    let answer = agent.perform_rpc(INSPECT, &token.encode()).unwrap();
    Inspection::decode(&answer).unwrap().reset
}

/// What passed between the gateway and the server, both ways.
type Wire = Arc<Mutex<Vec<u8>>>;

/// A relay to a port that keeps what it sees. Ends of one side end the other.
fn wiretap(to: u16) -> (u16, Wire) {
    let wire = Wire::default();
    let seen = Arc::clone(&wire);
    let port = common::server(move |near| {
        let far = TcpStream::connect(("127.0.0.1", to)).unwrap();
        let one_way = |mut from: TcpStream, mut to: TcpStream| {
            let seen = Arc::clone(&seen);
            std::thread::spawn(move || {
                let mut buffer = vec![0; 65_536];
                while let Ok(count @ 1..) = from.read(&mut buffer) {
                    seen.lock().unwrap().extend_from_slice(&buffer[..count]);
                    if to.write_all(&buffer[..count]).is_err() {
                        break;
                    }
                }
                let _ = to.shutdown(Shutdown::Write);
            })
        };
        let up = one_way(near.try_clone().unwrap(), far.try_clone().unwrap());
        let down = one_way(far, near);
        up.join().unwrap();
        down.join().unwrap();
    });
    (port, wire)
}

fn contains(wire: &Wire, text: &[u8]) -> bool {
    wire.lock().unwrap().windows(text.len()).any(|window| window == text)
}

/// A gateway that sends 192.0.2.1:1 to this port, by TLS with these settings.
fn gateway_with(port: u16, settings: &str) -> Gateway {
    let route = format!(
        "[[route]]\nname = \"secret\"\nto = [\"192.0.2.1\"]\nports = [1]\nvia = \"direct\"\n\
         target = \"127.0.0.1:{port}\"\nencrypt = \"tls\"\n[route.tls]\nserver_name = \"{NAME}\"\n{settings}"
    );
    setup().guest("web", 3).toml(&route).start().unwrap()
}

fn trusting(server: &TlsServer) -> String {
    format!("ca = [{:?}]\nalpn = [\"osaka/1\"]\n", server.certificate)
}

fn encryption(gateway: &Gateway) -> String {
    gateway.status().unwrap()["connections"][0]["encryption"].as_str().unwrap_or("none").to_owned()
}

#[test]
fn the_wire_shows_no_plaintext_and_the_server_sees_tls_1_3() {
    let server = tls_server(NAME);
    let (port, wire) = wiretap(server.port);
    let gateway = gateway_with(port, &trusting(&server));
    let guest = boot(&gateway);
    let mut connection = dial(&guest, 1);
    connection.write_all(b"attack at dawn").unwrap();
    let mut served = server.served();
    let mut text = [0; 14];
    served.read_exact(&mut text).unwrap();
    assert_eq!(&text, b"attack at dawn");
    served.write_all(b"retreat at dusk").unwrap();
    let mut answer = [0; 15];
    connection.read_exact(&mut answer).unwrap();
    assert_eq!(&answer, b"retreat at dusk");
    assert_eq!(served.conn.protocol_version(), Some(ProtocolVersion::TLSv1_3));
    assert_eq!(served.conn.server_name(), Some(NAME));
    assert_eq!(served.conn.alpn_protocol(), Some(&b"osaka/1"[..]));
    assert!(contains(&wire, NAME.as_bytes()), "the tap hears what a ClientHello shows");
    assert!(!contains(&wire, b"dawn") && !contains(&wire, b"dusk"));
    assert_eq!(encryption(&gateway), "tls");
    let table = gateway.command("status").output().unwrap();
    assert!(String::from_utf8_lossy(&table.stdout).contains("direct (tls)"));
    let mut explain = gateway.command("explain");
    let explained = explain.args(["--guest", "web", "192.0.2.1:1"]).output().unwrap();
    let explained = String::from_utf8_lossy(&explained.stdout).into_owned();
    assert!(explained.contains("encrypted by tls"), "{explained}");
    guest.assert_clean();
}

#[test]
fn a_wrong_certificate_fails_the_connect_and_never_falls_back() {
    for (name, settings) in [
        ("evil.example", ""),
        (NAME, "pin = [\"sha256//AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=\"]\n"),
    ] {
        let server = tls_server(name);
        let (port, wire) = wiretap(server.port);
        let gateway = gateway_with(port, &(trusting(&server) + settings));
        let guest = boot(&gateway);
        for _ in 0..3 {
            assert_eq!(guest.dial(address(1)).unwrap_err(), Errno::EACCES);
        }
        let log = gateway.log();
        assert!(log.contains("WARN") && log.contains("could not be authenticated"), "{log}");
        // Nothing but handshakes and alerts.
        let wire = wire.lock().unwrap();
        assert!(wire.starts_with(b"\x16\x03") && wire.len() < 20_000);
        guest.assert_clean();
    }
}

#[test]
fn a_server_without_tls_is_no_server() {
    let port = common::server(|mut stream| {
        let _ = stream.write_all(b"220 mail.example ESMTP\r\n");
        let _ = stream.read_to_end(&mut Vec::new());
    });
    let server = tls_server(NAME);
    let gateway = gateway_with(port, &trusting(&server));
    let guest = boot(&gateway);
    assert_eq!(guest.dial(address(1)).unwrap_err(), Errno::ECONNRESET);
    guest.assert_clean();
}

#[test]
fn halves_close_on_their_own() {
    let server = tls_server(NAME);
    let gateway = gateway_with(server.port, &trusting(&server));
    let guest = boot(&gateway);
    let mut connection = dial(&guest, 1);
    let mut served = server.served();
    connection.write_all(b"question").unwrap();
    connection.shutdown(Shutdown::Write).unwrap();
    let mut question = String::new();
    served.read_to_string(&mut question).unwrap();
    assert_eq!(question, "question", "then close_notify, or this would be an error");
    let total = 10 << 20;
    let writer = std::thread::spawn(move || {
        let mut sent = 0;
        while sent < total {
            let chunk = outsock_virtual_guest::pattern::at(sent, 32_768);
            served.write_all(chunk).unwrap();
            sent += 32_768;
        }
        served.conn.send_close_notify();
        served.flush().unwrap();
    });
    connection.receive_stream(total, Content::Pattern).unwrap();
    assert_eq!(connection.read(&mut [0]).unwrap(), 0, "then an end");
    assert_eq!(reset_of(&guest, &connection), None, "in good order");
    writer.join().unwrap();
    guest.assert_clean();
}

/// The far side sends half an answer and goes: by a FIN without `close_notify`, or by an RST.
#[test]
fn an_end_without_close_notify_is_no_end() {
    for by_reset in [false, true] {
        let server = tls_server(NAME);
        let gateway = gateway_with(server.port, &trusting(&server));
        let guest = boot(&gateway);
        let mut connection = dial(&guest, 1);
        let mut served = server.served();
        connection.write_all(b"ask").unwrap();
        served.read_exact(&mut [0; 3]).unwrap();
        served.write_all(b"half an ans").unwrap();
        connection.read_exact(&mut [0; 11]).unwrap();
        if by_reset {
            let linger = Some(Duration::ZERO);
            socket2::SockRef::from(&served.sock).set_linger(linger).unwrap();
        }
        drop(served);
        eventually("the guest's connection is over", || connection.is_done());
        // A guest's kernel cannot say it; its agent asks.
        assert_eq!(reset_of(&guest, &connection), Some(Errno::ECONNRESET), "by RST: {by_reset}");
        guest.assert_clean();
    }
}

#[test]
fn a_reset_by_the_guest_is_no_end_for_the_server() {
    let server = tls_server(NAME);
    let gateway = gateway_with(server.port, &trusting(&server));
    let guest = boot(&gateway);
    let mut connection = dial(&guest, 1);
    let mut served = server.served();
    connection.write_all(b"half a quest").unwrap();
    served.read_exact(&mut [0; 12]).unwrap();
    connection.reset();
    let error = served.read(&mut [0]).unwrap_err();
    let kind = error.kind();
    assert!([ErrorKind::ConnectionReset, ErrorKind::UnexpectedEof].contains(&kind), "{error}");
    guest.assert_clean();
}

/// The first bytes of a ClientHello, and what a program might send after it.
const HELLO: &[u8] =
    b"\x16\x03\x01\x00\xf8\x01\x00\x00\xf4\x03\x03 thirty-two bytes, and extensions";

#[test]
fn a_program_with_its_own_tls_is_not_wrapped_twice() {
    let server = tls_server(NAME);
    // The gateway comes twice: first by TLS, to see who is there, then for the program.
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let tls_port = server.port;
    let (sender, raw) = sync_channel(1);
    std::thread::spawn(move || {
        let (near, _) = listener.accept().unwrap();
        let far = TcpStream::connect(("127.0.0.1", tls_port)).unwrap();
        let (mut from_near, mut to_far) = (near.try_clone().unwrap(), far.try_clone().unwrap());
        std::thread::spawn(move || std::io::copy(&mut from_near, &mut to_far));
        std::thread::spawn(move || std::io::copy(&mut &far, &mut &near));
        let (mut second, _) = listener.accept().unwrap();
        let mut got = vec![0; HELLO.len()];
        second.read_exact(&mut got).unwrap();
        second.write_all(b"\x16\x03\x03 server").unwrap();
        sender.send((got, second)).unwrap();
    });
    let gateway = gateway_with(port, &trusting(&server));
    let guest = boot(&gateway);
    let mut connection = dial(&guest, 1);
    // In two pieces, the first of which says little.
    connection.write_all(&HELLO[..3]).unwrap();
    connection.write_all(&HELLO[3..]).unwrap();
    let (got, _second) = raw.recv_timeout(PATIENCE).unwrap();
    assert_eq!(got, HELLO, "as the program sent it");
    let mut answer = [0; 10];
    connection.read_exact(&mut answer).unwrap();
    assert_eq!(&answer, b"\x16\x03\x03 server");
    assert_eq!(encryption(&gateway), "own tls");
    guest.assert_clean();
}

#[test]
fn a_rule_may_wrap_whatever_comes() {
    let server = tls_server(NAME);
    let gateway = gateway_with(server.port, &(trusting(&server) + "own_tls = \"wrap\"\n"));
    let guest = boot(&gateway);
    let mut connection = dial(&guest, 1);
    connection.write_all(HELLO).unwrap();
    let mut got = vec![0; HELLO.len()];
    server.served().read_exact(&mut got).unwrap();
    assert_eq!(got, HELLO, "inside of TLS");
    guest.assert_clean();
}

/// SSH, SMTP, MySQL: the server has the first word.
#[test]
fn a_server_that_speaks_first_is_heard() {
    let server = tls_server(NAME);
    let gateway = gateway_with(server.port, &trusting(&server));
    let guest = boot(&gateway);
    let mut connection = dial(&guest, 1);
    let mut served = server.served();
    served.write_all(b"220 mail").unwrap();
    let mut greeting = [0; 8];
    connection.read_exact(&mut greeting).unwrap();
    // What would look like TLS comes too late to be.
    connection.write_all(HELLO).unwrap();
    let mut got = vec![0; HELLO.len()];
    served.read_exact(&mut got).unwrap();
    assert_eq!(got, HELLO);
    guest.assert_clean();
}

#[test]
fn a_group_goes_on_to_who_has_the_right_certificate() {
    let (wrong, right) = (tls_server("evil.example"), tls_server(NAME));
    let folder = TempDir::new().unwrap();
    let roots = folder.path().join("roots.pem");
    let both = [&wrong, &right].map(|server| std::fs::read_to_string(&server.certificate).unwrap());
    std::fs::write(&roots, both.concat()).unwrap();
    // Two addresses of one name: the first is somebody else.
    let (far, ends) = far_ends();
    let route = format!(
        "[[group]]\nname = \"any\"\nmembers = [\"direct\", \"again\"]\n\
         [[transport]]\nname = \"again\"\nkind = \"direct\"\n\
         [[route]]\nto = [\"192.0.2.1\"]\nports = [1]\nvia = \"any\"\ntarget = \"127.0.0.1:{}\"\n\
         encrypt = \"tls\"\n[route.tls]\nserver_name = \"{NAME}\"\nca = [{roots:?}]\n\
         [[route]]\nto = [\"192.0.2.1\"]\nports = [2]\nvia = \"direct\"\ntarget = \"127.0.0.1:{far}\"\n",
        wrong.port
    );
    let gateway = setup().guest("web", 3).toml(&route).start().unwrap();
    let guest = gateway.boot("web", Options::default()).unwrap();
    assert_eq!(guest.dial(address(1)).unwrap_err(), Errno::EACCES);
    let handshakes = std::iter::from_fn(|| wrong.accepted.recv_timeout(PATIENCE).ok()).take(2);
    assert_eq!(handshakes.filter(Result::is_err).count(), 2, "every member was tried");
    // Another rule's connections are plain, as before.
    let mut plain = dial(&guest, 2);
    plain.write_all(b"plain").unwrap();
    let mut got = [0; 5];
    ends.recv_timeout(PATIENCE).unwrap().read_exact(&mut got).unwrap();
    assert_eq!(&got, b"plain");
    guest.assert_clean();
}

#[test]
fn a_missing_file_is_named_and_a_reload_keeps_what_works() {
    let server = tls_server(NAME);
    let gateway = gateway_with(server.port, &trusting(&server));
    let guest = boot(&gateway);
    let mut before = dial(&guest, 1);
    let text = std::fs::read_to_string(gateway.config()).unwrap();
    let gone = server.certificate.display().to_string();
    let bad = text.replace(&gone, "/nonexistent/ca.pem");
    std::fs::write(gateway.config(), &bad).unwrap();
    let line = bad.lines().position(|line| line.starts_with("ca = ")).unwrap() + 1;
    for command in ["check", "reload"] {
        let output = gateway.command(command).output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(!output.status.success(), "{command}");
        assert!(said.contains(&format!("gateway.toml:{line}: ca: /nonexistent/ca.pem")), "{said}");
    }
    let mut served = server.served();
    before.write_all(b"on").unwrap();
    served.read_exact(&mut [0; 2]).unwrap();
    dial(&guest, 1);
    std::fs::write(gateway.config(), text).unwrap();
    assert!(gateway.command("reload").output().unwrap().status.success());
    let checked = gateway.command("check").output().unwrap();
    let said = String::from_utf8_lossy(&checked.stdout).into_owned();
    assert!(said.contains("1 of them encrypted by tls"), "{said}");
}
