//! TLS that ends in the gateway: clients from outside speak it, the program in the guest hears plain text.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::sync::Arc;
use std::time::Duration;

use common::agent::{Agent, PATIENCE, connect};
use common::{eventually, setup};
use outsock_harness::Gateway;
use outsock_virtual_guest::{Connection, Content};
use outsock_vmrpc::Errno;
use outsock_vmrpc::socket::options::{INSPECT, Inspection};
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer, ServerName};
use rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned};
use tempfile::TempDir;

type Client = StreamOwned<ClientConnection, TcpStream>;

const NAME: &str = "shop.example";

/// An authority with a folder for what it signs.
struct Authority {
    issuer: CertifiedIssuer<'static, KeyPair>,
    folder: TempDir,
}

impl Authority {
    fn new(name: &str) -> Self {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.distinguished_name.push(rcgen::DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let issuer = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
        let folder = TempDir::new().unwrap();
        std::fs::write(folder.path().join("ca.pem"), issuer.pem()).unwrap();
        Self { issuer, folder }
    }

    fn sign(&self, name: &str) -> (rcgen::Certificate, KeyPair) {
        let params = CertificateParams::new(vec![name.to_owned()]).unwrap();
        let key = KeyPair::generate().unwrap();
        (params.signed_by(&key, &self.issuer).unwrap(), key)
    }

    /// What the gateway shows, once more: a file that is there is replaced.
    fn issue(&self) {
        let (certificate, key) = self.sign(NAME);
        std::fs::write(self.folder.path().join("pem"), certificate.pem()).unwrap();
        std::fs::write(self.folder.path().join("key"), key.serialize_pem()).unwrap();
    }

    /// Guest port 80 by TLS on any free port of loopback.
    fn publish(&self, more: &str) -> String {
        let (certificate, key) = (self.folder.path().join("pem"), self.folder.path().join("key"));
        format!(
            "[[publish]]\nname = \"shop\"\nports = [80]\nlisten = \"127.0.0.1:0\"\nencrypt = \"tls\"\n\
             [publish.tls]\ncertificate = {certificate:?}\nkey = {key:?}\n{more}"
        )
    }

    /// A client that trusts it and is, itself, `own`.
    fn client(&self, place: SocketAddr, own: Option<&Self>) -> Result<Client, std::io::Error> {
        let mut roots = RootCertStore::empty();
        roots.add(self.issuer.der().clone()).unwrap();
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let builder = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(roots);
        let mut config = match own.map(|own| own.sign("customer")) {
            None => builder.with_no_client_auth(),
            Some((certificate, key)) => {
                let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der()));
                builder.with_client_auth_cert(vec![certificate.der().clone()], key).unwrap()
            }
        };
        config.alpn_protocols = vec![b"shop/1".to_vec()];
        let name = ServerName::try_from(NAME).unwrap();
        let mut session = ClientConnection::new(Arc::new(config), name).unwrap();
        let mut stream = connect(place);
        session.complete_io(&mut stream)?;
        Ok(StreamOwned::new(session, stream))
    }
}

fn start(publish: &str) -> (Gateway, Agent, SocketAddr) {
    let gateway = setup().guest("web", 3).toml(publish).start().unwrap();
    let agent = Agent::new(&common::boot(&gateway), 7);
    let place = agent.listen(1, "0.0.0.0:80");
    (gateway, agent, place)
}

/// What the guest's agent learns of a connection that ended.
fn reset_of(agent: &Agent, token: outsock_vmrpc::socket::Token) -> Option<Errno> {
    let answer = agent.binding.perform_rpc(INSPECT, &token.encode()).unwrap();
    Inspection::decode(&answer).unwrap().reset
}

fn shown(client: &Client) -> CertificateDer<'static> {
    client.conn.peer_certificates().unwrap()[0].clone().into_owned()
}

fn talk(mut near: &Connection, far: &mut Client) {
    far.write_all(b"hello").unwrap();
    let mut bytes = [0; 5];
    near.read_exact(&mut bytes).unwrap();
    assert_eq!(&bytes, b"hello");
    near.write_all(b"world").unwrap();
    far.read_exact(&mut bytes).unwrap();
    assert_eq!(&bytes, b"world");
}

#[test]
fn the_program_hears_plain_text_of_the_true_client() {
    let authority = Authority::new("ours");
    authority.issue();
    let (gateway, agent, place) = start(&authority.publish("alpn = [\"shop/2\", \"shop/1\"]\n"));
    // One that never says a word holds nobody up.
    let _silent = connect(place);
    let mut far = authority.client(place, None).unwrap();
    let (notice, near) = agent.accept();
    assert_eq!(notice.peer, far.sock.local_addr().ok());
    assert_eq!(notice.local, Some(place));
    talk(&near, &mut far);
    assert_eq!(far.conn.protocol_version(), Some(rustls::ProtocolVersion::TLSv1_3));
    assert_eq!(far.conn.alpn_protocol(), Some(&b"shop/1"[..]));
    assert_eq!(gateway.status().unwrap()["connections"][0]["encryption"], "tls");
    let check = gateway.command("check").output().unwrap();
    let said = String::from_utf8_lossy(&check.stdout).into_owned();
    assert!(said.contains("1 publish, 1 of them encrypted by tls"), "{said}");
    // The client ends its half in good order, and still gets 10 MiB.
    far.conn.send_close_notify();
    far.flush().unwrap();
    assert_eq!((&near).read(&mut [0]).unwrap(), 0, "an end");
    let total = 10 << 20;
    let writer = std::thread::spawn(move || {
        near.send_stream(total, 32_768, Content::Pattern).unwrap();
        near.shutdown(Shutdown::Write).unwrap();
        near
    });
    let mut got = Vec::new();
    far.read_to_end(&mut got).expect("close_notify, or this would be an error");
    assert_eq!(got.len() as u64, total);
    let near = writer.join().unwrap();
    assert_eq!(reset_of(&agent, notice.token), None);
    drop(near);
    agent.guest.assert_clean();
}

#[test]
fn what_is_cut_off_is_no_end() {
    let authority = Authority::new("ours");
    authority.issue();
    let (_gateway, agent, place) = start(&authority.publish(""));
    for by_reset in [false, true] {
        let mut far = authority.client(place, None).unwrap();
        let (notice, near) = agent.accept();
        talk(&near, &mut far);
        far.write_all(b"half an or").unwrap();
        (&near).read_exact(&mut [0; 10]).unwrap();
        if by_reset {
            let linger = Some(Duration::ZERO);
            socket2::SockRef::from(&far.sock).set_linger(linger).unwrap();
        }
        // No close_notify.
        drop(far);
        eventually("the guest's connection is over", || near.is_done());
        let reset = reset_of(&agent, notice.token);
        assert_eq!(reset, Some(Errno::ECONNRESET), "by RST: {by_reset}");
    }
    // And the other way round.
    let mut far = authority.client(place, None).unwrap();
    let (_, near) = agent.accept();
    talk(&near, &mut far);
    near.reset();
    let kind = far.read(&mut [0]).unwrap_err().kind();
    assert!([ErrorKind::ConnectionReset, ErrorKind::UnexpectedEof].contains(&kind), "{kind}");
    agent.guest.assert_clean();
}

#[test]
fn who_is_not_let_in_never_reaches_the_program() {
    let (ours, customers, strangers) =
        (Authority::new("ours"), Authority::new("customers"), Authority::new("strangers"));
    ours.issue();
    let roots = customers.folder.path().join("ca.pem");
    let (gateway, agent, place) = start(&ours.publish(&format!("client_ca = [{roots:?}]\n")));
    for own in [None, Some(&strangers)] {
        // In TLS 1.3 a client is done before it is judged: the alert comes with the first read.
        let outcome = ours.client(place, own).and_then(|mut far| far.read(&mut [0]));
        assert!(outcome.is_err(), "a stranger: {}", own.is_some());
    }
    let mut plain = connect(place);
    plain.write_all(b"GET / HTTP/1.0\r\n\r\n").unwrap();
    let mut answer = Vec::new();
    let _ = plain.read_to_end(&mut answer);
    assert!(answer.first().is_none_or(|first| *first == 21), "an alert, or nothing: {answer:?}");
    let accepted = &gateway.status().unwrap()["publishes"][0]["places"][0]["accepted"];
    assert_eq!(*accepted, 0);
    let mut far = ours.client(place, Some(&customers)).unwrap();
    let (notice, near) = agent.accept();
    assert_eq!(notice.peer, far.sock.local_addr().ok(), "the first that the program hears of");
    talk(&near, &mut far);
}

#[test]
fn a_new_certificate_is_shown_after_a_reload_and_nobody_notices() {
    let authority = Authority::new("ours");
    authority.issue();
    let (gateway, agent, place) = start(&authority.publish(""));
    let mut old = authority.client(place, None).unwrap();
    let (_, old_near) = agent.accept();
    let reload = || gateway.command("reload").output().unwrap();
    // A key that does not fit keeps what works.
    let good = std::fs::read(authority.folder.path().join("key")).unwrap();
    let other = KeyPair::generate().unwrap().serialize_pem();
    std::fs::write(authority.folder.path().join("key"), other).unwrap();
    let refused = reload();
    assert!(!refused.status.success());
    let said = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(said.contains("key: ") && said.contains("is not the key of the certificate"), "{said}");
    std::fs::write(authority.folder.path().join("key"), good).unwrap();
    let same = authority.client(place, None).unwrap();
    let _ = agent.accept();
    assert_eq!(shown(&same), shown(&old));
    authority.issue();
    assert!(reload().status.success());
    let mut new = authority.client(place, None).unwrap();
    let (_, new_near) = agent.accept();
    assert_ne!(shown(&new), shown(&old));
    talk(&new_near, &mut new);
    talk(&old_near, &mut old);
    // From TLS to plain text: whoever comes next is answered by the new rule.
    let text = std::fs::read_to_string(gateway.config()).unwrap();
    let (before, _) = text.split_once("encrypt = ").unwrap();
    std::fs::write(gateway.config(), before).unwrap();
    assert!(reload().status.success());
    let place = gateway.status().unwrap()["listeners"][0]["places"][0].clone();
    let mut plain = connect(place.as_str().unwrap().parse().unwrap());
    plain.set_read_timeout(Some(PATIENCE)).unwrap();
    let (_, mut near) = agent.accept();
    plain.write_all(b"plain").unwrap();
    let mut bytes = [0; 5];
    near.read_exact(&mut bytes).unwrap();
    assert_eq!(&bytes, b"plain");
    talk(&old_near, &mut old);
}
