//! Two gateways, with guests on both: services, exits, and what is refused.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use std::io::{Read, Write};
use std::net::{SocketAddr, UdpSocket};
use std::path::Path;
use std::process::Command;

use common::{BINARY, echo_server, eventually, setup};
use outsock_harness::{Gateway, Setup};
use outsock_virtual_guest::{Connection, Options, VirtualGuest};
use outsock_vmrpc::Errno;
use outsock_vmrpc::client::Binding;
use outsock_vmrpc::error::RpcError;
use outsock_vmrpc::socket::inbound::{
    self, ListenReply, ListenRequest, ListenerId, Notices, Report, Session,
};
use outsock_vmrpc::socket::{self, Asserted, ConnectRequest, Destination, Token};

/// A key file in a folder, and the key.
fn keygen(folder: &Path, name: &str) -> (String, String) {
    let file = folder.join(name).display().to_string();
    let output = Command::new(BINARY).args(["keygen", &file]).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    (file, String::from_utf8(output.stdout).unwrap().trim().to_owned())
}

/// A UDP port that is free now.
fn free_port() -> u16 {
    UdpSocket::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

/// A guest as its agent would use the gateway: connects by name, listens.
struct Agent {
    guest: VirtualGuest,
    binding: Binding,
}

fn random() -> u32 {
    use std::hash::{BuildHasher, Hasher};
    let number = std::hash::RandomState::new().build_hasher().finish();
    u32::try_from(number >> 32).unwrap()
}

impl Agent {
    fn boot(gateway: &Gateway, guest: &str) -> Self {
        let guest = gateway.boot(guest, Options::default()).unwrap();
        let client = guest.rpc().unwrap();
        let binding = client.bind_module(socket::NAME, socket::ALL_VERSIONS).unwrap();
        Self { guest, binding }
    }

    fn dial(&self, destination: Destination) -> Result<Connection, Errno> {
        let token = Token::from_random(random());
        let request = ConnectRequest { token, destination, source: None };
        let (sender, reply) = std::sync::mpsc::sync_channel(1);
        let arguments = request.encode_v2(&Asserted::default());
        self.binding.start_rpc(socket::CONNECT, &arguments, move |outcome| {
            let _ = sender.send(outcome);
        });
        let connection = self.guest.start_open(token.raw()).map_err(|_| Errno::ECONNRESET)?;
        match reply.recv().unwrap() {
            Ok(_) => {
                connection.wait_connected().map_err(|_| Errno::ECONNRESET)?;
                Ok(connection)
            }
            Err(RpcError::Function(errno)) => Err(errno),
            Err(other) => panic!("{other}"),
        }
    }

    fn dial_name(&self, name: &str) -> Result<Connection, Errno> {
        self.dial(Destination::Name { name: name.to_owned(), port: 7 })
    }

    fn dial_address(&self, to: &str) -> Result<Connection, Errno> {
        self.dial(Destination::Address(to.parse().unwrap()))
    }

    /// Listens on a port and echoes for as long as the gateway lives; tells who came.
    fn echo(&self, port: u16) -> std::sync::mpsc::Receiver<Option<SocketAddr>> {
        let client = self.guest.rpc().unwrap();
        let binding = client.bind_module(socket::NAME, socket::ALL_VERSIONS).unwrap();
        let session = Session(u64::from(random()));
        binding.start_rpc(inbound::ATTEND, &session.encode(), |_| {});
        let request = ListenRequest {
            session,
            listener: ListenerId(1),
            address: SocketAddr::from(([0, 0, 0, 0], port)),
            dual: false,
            shared: false,
            backlog: 16,
            asserted: Asserted::default(),
        };
        let reply = binding.perform_rpc(inbound::LISTEN, &request.encode()).unwrap();
        assert!(!ListenReply::decode(&reply).unwrap().places.is_empty(), "not published");
        let guest = self.guest.clone();
        let (sender, came) = std::sync::mpsc::sync_channel(64);
        std::thread::spawn(move || {
            let mut report = Report { session, ended: Vec::new() };
            while let Ok(bytes) = binding.perform_rpc(inbound::INBOUND, &report.encode()) {
                let notices = Notices::decode(&bytes).unwrap().0;
                let taken = u32::try_from(notices.len()).unwrap();
                report.ended = vec![(ListenerId(1), taken)];
                for notice in notices {
                    let Ok(connection) = guest.open(notice.token.raw()) else { continue };
                    let _ = sender.try_send(notice.peer);
                    std::thread::spawn(move || serve(connection));
                }
            }
        });
        came
    }
}

fn serve(mut connection: Connection) {
    let mut buffer = vec![0; 16 * 1024];
    while let Ok(count @ 1..) = connection.read(&mut buffer) {
        if connection.write_all(&buffer[..count]).is_err() {
            return;
        }
    }
    let _ = connection.shutdown(std::net::Shutdown::Write);
}

fn exchange(connection: &mut Connection, bytes: usize) {
    let sent: Vec<u8> = (0..bytes).map(|at| u8::try_from(at % 251).unwrap()).collect();
    for piece in sent.chunks(16 * 1024) {
        connection.write_all(piece).unwrap();
        let mut back = vec![0; piece.len()];
        connection.read_exact(&mut back).unwrap();
        assert!(back == piece, "bytes changed on the way");
    }
}

/// A reset connection reads as ended, as Linux shows a vsock reset, and takes no more bytes.
fn is_gone(connection: &mut Connection) {
    while let Ok(1..) = connection.read(&mut [0; 1024]) {}
    eventually("writes fail", || connection.write_all(b"x").is_err());
}

/// Two sites; what the far one allows is said by the test.
struct Sites {
    near: Gateway,
    far: Gateway,
    far_setup: Setup,
    _keys: tempfile::TempDir,
}

fn sites(near_tables: &str, far_tables: &str, near_exit: &str, far_allows: &str) -> Sites {
    let keys = tempfile::tempdir().unwrap();
    let (near_file, near_key) = keygen(keys.path(), "near");
    let (far_file, far_key) = keygen(keys.path(), "far");
    let ports = [free_port(), free_port()];
    let table = |file: &str, name: &str, port: u16| {
        format!(
            "[identity]\nkey_file = {file:?}\nname = {name:?}\n\
             [quic]\nlisten = \"127.0.0.1:{port}\"\ndead_after_ms = 3000\n"
        )
    };
    let peer = |name: &str, key: &str, port: u16, rest: &str| {
        format!(
            "[[peer]]\nname = {name:?}\nkey = {key:?}\naddresses = [\"127.0.0.1:{port}\"]\n{rest}\n"
        )
    };
    let far_setup = setup()
        .guest("db", 4)
        .toml(&table(&far_file, "far", ports[1]))
        .toml(&peer("near", &near_key, ports[0], far_allows))
        .toml(far_tables);
    let near = setup()
        .guest("web", 3)
        .guest("app", 5)
        .toml(&table(&near_file, "near", ports[0]))
        .toml(&peer("far", &far_key, ports[1], near_exit))
        .toml(near_tables)
        .start()
        .unwrap();
    let far = far_setup.clone().start().unwrap();
    let sites = Sites { near, far, far_setup, _keys: keys };
    eventually("the peers are connected", || sites.peer_is_connected());
    sites
}

impl Sites {
    fn peer_is_connected(&self) -> bool {
        self.near.status().is_ok_and(|status| status["peers"][0]["connected"] == true)
    }
}

const TO_FAR: &str = "[[route]]\ndomains = [\".far.peer\"]\nvia = \"far\"\n\
                      [[route]]\nto = [\"192.0.2.0/24\", \"127.0.0.0/8\"]\nvia = \"far\"\n";

#[test]
fn a_guest_reaches_a_service_of_another_site() {
    let offers = "[[publish]]\nports = [7]\nlisten = \"service:echo\"\n";
    let sites = sites(TO_FAR, offers, "", "services = [\"e*\", \"lost\"]");
    let db = Agent::boot(&sites.far, "db");
    let web = Agent::boot(&sites.near, "web");
    // Offered, but nobody listens yet.
    assert_eq!(web.dial_name("echo.far.peer").err(), Some(Errno::ECONNREFUSED));
    let came = db.echo(7);
    let mut connection = web.dial_name("echo.far.peer").unwrap();
    exchange(&mut connection, 300_000);
    // The listener sees an address of the pool, which stands for the guest.
    let client = came.recv().unwrap().expect("an address");
    assert!(client.ip().to_string().starts_with("198.18."), "{client}");
    // Not offered to this peer; allowed, but nobody offers it.
    assert_eq!(web.dial_name("mail.far.peer").err(), Some(Errno::EACCES));
    assert_eq!(web.dial_name("lost.far.peer").err(), Some(Errno::EHOSTUNREACH));
    let status = sites.far.status().unwrap();
    let peer = &status["peers"][0];
    assert_eq!((&peer["served"], &peer["refused"]), (&1.into(), &1.into()), "{peer}");
    assert_eq!(status["connections"][0]["direction"], "in");
    let status = sites.near.status().unwrap();
    assert_eq!(status["connections"][0]["transport"], "far");
    assert!(status["connections"][0]["rtt_us"].is_u64(), "{}", status["connections"][0]);
    let text = String::from_utf8(sites.near.command("status").output().unwrap().stdout).unwrap();
    assert!(text.contains("peer far: connected to 127.0.0.1:"), "{text}");
    assert!(sites.far.log().contains("may not use service mail"), "{}", sites.far.log());
    drop(connection);
    web.guest.assert_clean();
    db.guest.assert_clean();
}

#[test]
fn an_exit_dials_what_its_rules_allow_and_never_the_host_itself() {
    let port = echo_server();
    let exit = format!(
        "[[peer.exit]]\nname = \"the one\"\nto = [\"192.0.2.1/32\"]\nvia = \"direct\"\n\
         target = \"127.0.0.1:{port}\"\n\
         [[peer.exit]]\nname = \"the world\"\nto = [\"0.0.0.0/0\"]\nvia = \"direct\"\n"
    );
    let sites = sites(TO_FAR, "", "", &exit);
    let web = Agent::boot(&sites.near, "web");
    let mut connection = web.dial_address("192.0.2.1:80").unwrap();
    exchange(&mut connection, 300_000);
    let status = sites.far.status().unwrap();
    let exits = &status["exits"][0];
    assert_eq!((&exits["peer"], &exits["rule"]), (&"near".into(), &"the one".into()), "{status}");
    assert_eq!(exits["origin"], "web");
    assert_eq!(web.dial_address("192.0.2.2:80").err(), Some(Errno::EACCES));
    // A rule that covers loopback without naming it opens nothing.
    assert_eq!(web.dial_address(&format!("127.0.0.1:{port}")).err(), Some(Errno::EACCES));
    // The far gateway's own refusals come through as they are.
    drop(connection);
    eventually("the exit is forgotten", || {
        sites.far.status().unwrap()["exits"].as_array().is_some_and(Vec::is_empty)
    });
    let explained = sites.near.command("explain").args(["--guest", "web", "192.0.2.1:80"]).output();
    let explained = String::from_utf8(explained.unwrap().stdout).unwrap();
    assert!(explained.contains("peer far is asked to dial it"), "{explained}");
}

#[test]
fn guests_of_one_gateway_reach_each_other_by_name() {
    let tables = "[[publish]]\nguests = [\"app\"]\nports = [7]\nlisten = \"service:echo\"\n\
                  [[route]]\nguests = [\"web\"]\ndomains = [\".local.peer\", \".near.peer\"]\nvia = \"local\"\n";
    let sites = sites(tables, "", "", "");
    let (web, app) = (Agent::boot(&sites.near, "web"), Agent::boot(&sites.near, "app"));
    let came = app.echo(7);
    for name in ["echo.near.peer", "echo.local.peer"] {
        let mut connection = web.dial_name(name).unwrap();
        exchange(&mut connection, 100_000);
        let client = came.recv().unwrap().expect("an address");
        assert!(client.ip().to_string().starts_with("198.18."), "{client}");
    }
    assert_eq!(web.dial_name("nobody.near.peer").err(), Some(Errno::ECONNREFUSED));
    // Only whom a rule lets.
    assert_eq!(app.dial_name("echo.near.peer").err(), Some(Errno::EACCES));
    assert_eq!(sites.near.status().unwrap()["peers"][0]["streams"], 0);
}

#[test]
fn a_circle_of_exits_ends() {
    let exit = "[[peer.exit]]\nto = [\"192.0.2.0/24\"]\nvia = ";
    let sites = sites(TO_FAR, "", &format!("{exit}\"far\""), &format!("{exit}\"near\""));
    let web = Agent::boot(&sites.near, "web");
    assert_eq!(web.dial_address("192.0.2.1:80").err(), Some(Errno::ELOOP));
}

#[test]
fn a_killed_gateway_ends_connections_and_a_new_one_takes_new_ones() {
    let offers = "[[publish]]\nports = [7]\nlisten = \"service:echo\"\n";
    let mut sites = sites(TO_FAR, offers, "", "services = [\"echo\"]");
    let db = Agent::boot(&sites.far, "db");
    let _came = db.echo(7);
    let web = Agent::boot(&sites.near, "web");
    let mut connection = web.dial_name("echo.far.peer").unwrap();
    exchange(&mut connection, 100_000);
    sites.far.signal("KILL").unwrap();
    connection.write_all(b"into the void").unwrap();
    is_gone(&mut connection);
    eventually("the peer is gone", || !sites.peer_is_connected());
    assert_eq!(web.dial_name("echo.far.peer").err(), Some(Errno::EHOSTUNREACH));
    drop(db);
    sites.far = sites.far_setup.clone().start().unwrap();
    let db = Agent::boot(&sites.far, "db");
    let _came = db.echo(7);
    eventually("the peer is back", || sites.peer_is_connected());
    let mut connection = web.dial_name("echo.far.peer").unwrap();
    exchange(&mut connection, 100_000);
    web.guest.assert_clean();
}

#[test]
fn a_peer_that_a_reload_removes_is_cut_off() {
    let offers = "[[publish]]\nports = [7]\nlisten = \"service:echo\"\n";
    let sites = sites(TO_FAR, offers, "", "services = [\"echo\"]");
    let db = Agent::boot(&sites.far, "db");
    let _came = db.echo(7);
    let web = Agent::boot(&sites.near, "web");
    let mut connection = web.dial_name("echo.far.peer").unwrap();
    exchange(&mut connection, 1000);
    let text = std::fs::read_to_string(sites.far.config()).unwrap();
    std::fs::write(sites.far.config(), text.replace("services = [\"echo\"]", "")).unwrap();
    assert!(sites.far.command("reload").status().unwrap().success());
    // The right is gone for new connections; those that stand are left alone.
    assert_eq!(web.dial_name("echo.far.peer").err(), Some(Errno::EACCES));
    exchange(&mut connection, 1000);
    let (before, rest) = text.split_once("[[peer]]").unwrap();
    let rest = &rest[rest.find("[[publish]]").unwrap()..];
    std::fs::write(sites.far.config(), format!("{before}{rest}")).unwrap();
    assert!(sites.far.command("reload").status().unwrap().success());
    is_gone(&mut connection);
    eventually("the near side knows why", || {
        let status = sites.near.status().unwrap();
        status["peers"][0]["error"].as_str().is_some_and(|text| text.contains("[[peer]]"))
    });
    assert_eq!(web.dial_name("echo.far.peer").err(), Some(Errno::EACCES));
}

#[test]
fn mistakes_about_peers_are_named() {
    let folder = tempfile::tempdir().unwrap();
    let (file, key) = keygen(folder.path(), "key");
    let again = Command::new(BINARY).args(["keygen", &file]).output().unwrap();
    assert!(String::from_utf8_lossy(&again.stderr).contains("never overwritten"));
    let shown = Command::new(BINARY).args(["keygen", "--show", &file]).output().unwrap();
    assert_eq!(String::from_utf8_lossy(&shown.stdout).trim(), key);
    let check = |text: &str| {
        let path = folder.path().join("gw.toml");
        std::fs::write(&path, text).unwrap();
        let output = Command::new(BINARY).arg("check").arg("--config").arg(&path).output().unwrap();
        String::from_utf8_lossy(&output.stderr).into_owned()
    };
    let identity = format!("[identity]\nkey_file = {file:?}\nname = \"near\"\n");
    let peer = format!("[[peer]]\nname = \"far\"\nkey = {key:?}\n");
    for (text, expected) in [
        (peer.clone(), "gw.toml:2: name: a gateway with peers needs an identity"),
        (format!("{identity}{peer}"), "gw.toml:5: name: neither can dial the other"),
        (
            format!("{identity}[[peer]]\nname = \"x\"\nkey = \"12D\"\n"),
            "gw.toml:6: key: a peer's key",
        ),
        (format!("{identity}{peer}addresses = [\"far\"]\n"), "gw.toml:7: addresses: \"far\" is no"),
        (
            format!("{identity}[[peer]]\nname = \"Far\"\nkey = {key:?}\n"),
            "gw.toml:5: name: a site's",
        ),
        ("[quic]\ndead_after_ms = 5\n".to_owned(), "gw.toml:2: dead_after_ms: at least"),
        ("[identity]\nkey_file = \"/nonexistent\"\n".to_owned(), "cannot use the key file"),
        ("[[publish]]\nports = [1]\nlisten = \"service:A b\"\n".to_owned(), "gw.toml:3: listen: "),
    ] {
        let said = check(&text);
        assert!(said.contains(expected), "{text}\n -> {said}");
    }
}
