//! Ways: one guest, three destinations, three ways out, by rule alone: plain TCP, TLS that the guest does not
//! know of, and Debian's obfs4proxy.
//!
//! in: a world; out: a verdict. Owner: a gateway, a guest and servers of its own. Kept: what passed on the
//! wires was recorded. Bound: each command's time limit.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Arc, Mutex};

use outsock_boot::{BootOptions, Guest, GuestCommand, Output};
use outsock_e2e::pattern;
use outsock_site::{Gateway, tied};

use crate::Verdict;
use crate::host::{ServerProcess, free_address, missing, program, start};
use crate::net::HOST;
use crate::programs::need;
use crate::world::{World, outsourced, run};

const GUEST: &str = "ways";
const CID: u32 = 9;
const PLAIN: u16 = 8001;
const TLS: u16 = 8002;
const WRONG_KEY: u16 = 8003;
const OBFS4: u16 = 8004;
const TLS_OVER_OBFS4: u16 = 8005;
const NAME: &str = "bank.example";
const DOWNLOAD_BYTES: usize = 2 << 20;

/// What passed on a wire, both ways.
#[derive(Clone, Default)]
struct Wire(Arc<Mutex<Vec<u8>>>);

impl Wire {
    fn shows(&self, text: &[u8]) -> bool {
        self.0.lock().unwrap().windows(text.len()).any(|window| window == text)
    }

    fn len(&self) -> usize {
        self.0.lock().unwrap().len()
    }
}

/// A relay that keeps what it sees.
fn tap(to: SocketAddr) -> (SocketAddr, Wire) {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let (address, wire) = (listener.local_addr().unwrap(), Wire::default());
    let seen = wire.clone();
    std::thread::spawn(move || {
        for near in listener.incoming().flatten() {
            let Ok(far) = TcpStream::connect(to) else { continue };
            let ends = [(near.try_clone(), far.try_clone()), (Ok(far), Ok(near))];
            for (from, into) in ends {
                let (Ok(from), Ok(into), seen) = (from, into, seen.clone()) else { continue };
                std::thread::spawn(move || relay(from, into, &seen));
            }
        }
    });
    (address, wire)
}

fn relay(mut from: TcpStream, mut into: TcpStream, seen: &Wire) {
    let mut piece = vec![0; 65_536];
    while let Ok(count @ 1..) = from.read(&mut piece) {
        seen.0.lock().unwrap().extend_from_slice(&piece[..count]);
        if into.write_all(&piece[..count]).is_err() {
            break;
        }
    }
    let _ = into.shutdown(Shutdown::Write);
}

/// Debian's own server, which says of each connection how it is encrypted.
fn s_server(world: &World) -> Result<(ServerProcess, PathBuf), String> {
    let openssl = program(&["openssl"]).ok_or_else(|| missing("openssl"))?;
    let (certificate, key) = (world.directory.path("tls.pem"), world.directory.path("tls.key"));
    let made = Command::new(&openssl)
        .args(["req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"])
        .args(["-days", "2", "-subj", "/CN=bank", "-addext", "subjectAltName=DNS:bank.example"])
        // Else it is an authority, which webpki takes for no server.
        .args(["-addext", "basicConstraints=critical,CA:FALSE"])
        .arg("-keyout")
        .arg(&key)
        .arg("-out")
        .arg(&certificate)
        .output()
        .map_err(|error| error.to_string())?;
    if !made.status.success() {
        return Err(String::from_utf8_lossy(&made.stderr).into_owned());
    }
    let address = free_address();
    let mut command = tied(openssl);
    command.args(["s_server", "-www", "-accept", &address.to_string(), "-cert"]);
    command.arg(&certificate).arg("-key").arg(&key);
    let server = start(&mut command, address, &world.directory.path("s_server.log"))?;
    Ok((server, certificate))
}

/// obfs4proxy as a server that leads to `to`, and what its clients have to say.
fn obfs4_server(world: &World, to: SocketAddr) -> Result<(ServerProcess, String), String> {
    let obfs4proxy = program(&["obfs4proxy"]).ok_or_else(|| missing("obfs4proxy"))?;
    let name = format!("obfs4-{}", to.port());
    let (address, state) = (free_address(), world.directory.path(&name));
    let mut command = tied(obfs4proxy);
    command
        .env("TOR_PT_MANAGED_TRANSPORT_VER", "1")
        .env("TOR_PT_STATE_LOCATION", &state)
        .env("TOR_PT_SERVER_TRANSPORTS", "obfs4")
        .env("TOR_PT_SERVER_BINDADDR", format!("obfs4-{address}"))
        .env("TOR_PT_ORPORT", to.to_string());
    let server = start(&mut command, address, &world.directory.path(&format!("{name}.log")))?;
    let told = std::fs::read_to_string(state.join("obfs4_bridgeline.txt"));
    let told = told.map_err(|error| error.to_string())?;
    let certificate = told.split_whitespace().find_map(|word| word.strip_prefix("cert="));
    Ok((server, certificate.ok_or("no cert= in the bridge line")?.to_owned()))
}

struct Route<'a> {
    port: u16,
    via: &'a str,
    target: SocketAddr,
    rest: String,
}

fn config(world: &World, obfs4: &Path, certificates: [&str; 2], routes: &[Route<'_>]) -> String {
    let socket = world.directory.path("ways.sock");
    let mut text =
        format!("[gateway]\n\n[[guest]]\nname = {GUEST:?}\ncid = {CID}\nsocket = {socket:?}\n\n");
    for (number, certificate) in certificates.iter().enumerate() {
        let state = world.directory.path(&format!("obfs4-client-{number}"));
        text += &format!(
            "[[transport]]\nname = \"bridge-{number}\"\nkind = \"external\"\nprogram = {obfs4:?}\n\
             method = \"obfs4\"\nstate = {state:?}\nencrypts = true\n\
             options = {{ cert = {certificate:?}, iat-mode = \"0\" }}\n\n"
        );
    }
    for Route { port, via, target, rest } in routes {
        text += &format!(
            "[[route]]\nto = [\"{HOST}/32\"]\nports = [{port}]\nvia = {via:?}\ntarget = \"{target}\"\n{rest}\n"
        );
    }
    text
}

fn boot(world: &World) -> Guest {
    let mut options = BootOptions::new(world.image.clone());
    options.name = GUEST.to_owned();
    options.vsock_socket = Some(world.directory.path("ways.sock"));
    options.cid = Some(CID);
    options.share = Some(world.directory.share());
    Guest::boot(options).unwrap_or_else(|error| panic!("{error}"))
}

fn curl(guest: &Guest, port: u16, path: &str) -> Output {
    let url = format!("http://{HOST}:{port}{path}");
    run(guest, &GuestCommand::new(&outsourced(&["curl", "-sS", &url])))
}

pub(crate) fn three_ways(world: &mut World) -> Verdict {
    need!("curl", "curl");
    let http = world.servers.http.address();
    let (s_server, certificate) = match s_server(world) {
        Ok(server) => server,
        Err(reason) => return Verdict::Skipped(reason),
    };
    let (tls_tap, tls_wire) = tap(s_server.address);
    let (plain_tap, plain_wire) = tap(http);
    // A bridge that leads to the plain server, and one to the server that speaks TLS.
    let servers = obfs4_server(world, http)
        .and_then(|plain| Ok((plain, obfs4_server(world, s_server.address)?)));
    let ((plain_bridge, plain_cert), (tls_bridge, tls_cert)) = match servers {
        Ok(servers) => servers,
        Err(reason) => return Verdict::Skipped(reason),
    };
    let (bridge_tap, bridge_wire) = tap(plain_bridge.address);
    let tls =
        format!("encrypt = \"tls\"\n[route.tls]\nserver_name = {NAME:?}\nca = [{certificate:?}]\n");
    let pin = "pin = [\"sha256//AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=\"]\n";
    let route = |port, via, target, rest: &str| Route { port, via, target, rest: rest.to_owned() };
    let routes = [
        route(PLAIN, "direct", plain_tap, ""),
        route(TLS, "direct", tls_tap, &tls),
        route(WRONG_KEY, "direct", tls_tap, &format!("{tls}{pin}")),
        route(OBFS4, "bridge-0", bridge_tap, ""),
        route(TLS_OVER_OBFS4, "bridge-1", tls_bridge.address, &tls),
    ];
    let obfs4 = program(&["obfs4proxy"]).expect("its server runs");
    let config = config(world, &obfs4, [&plain_cert, &tls_cert], &routes);
    let gateway = Gateway::start(&world.programs.gateway, &world.directory, GUEST, &config);
    let gateway = gateway.unwrap_or_else(|error| panic!("{error}"));
    let guest = boot(world);

    let said = curl(&guest, PLAIN, "/").stdout_text();
    assert_eq!(said, "hello\n", "{}", gateway.log());
    assert!(plain_wire.shows(b"GET / HTTP") && plain_wire.shows(b"hello"));

    // The guest speaks plain HTTP; the server says what it saw.
    let said = curl(&guest, TLS, "/").stdout_text();
    assert!(said.contains("TLSv1.3"), "{said}\n{}", gateway.log());
    assert!(tls_wire.shows(NAME.as_bytes()), "the name that a ClientHello shows");
    assert!(!tls_wire.shows(b"GET /") && !tls_wire.shows(b"HTTP/1"));

    let refused = curl(&guest, WRONG_KEY, "/");
    assert_eq!(refused.status.code(), Some(7), "{}", refused.stdout_text());
    assert!(!tls_wire.shows(b"GET /"));
    assert!(gateway.log().contains("could not be authenticated"));

    let said = curl(&guest, OBFS4, "/").stdout_text();
    assert_eq!(said, "hello\n", "{}", gateway.log());
    assert!(bridge_wire.len() > 0 && !bridge_wire.shows(b"hello") && !bridge_wire.shows(b"GET /"));
    let url = format!("http://{HOST}:{OBFS4}/bytes/{DOWNLOAD_BYTES}");
    let script = format!("curl -sS {url} | sha256sum");
    let output = run(&guest, &GuestCommand::new(&outsourced(&["sh", "-c", &script])));
    assert!(
        output.stdout_text().starts_with(&pattern::digest(DOWNLOAD_BYTES)),
        "{}",
        gateway.log()
    );

    let said = curl(&guest, TLS_OVER_OBFS4, "/").stdout_text();
    assert!(said.contains("TLSv1.3"), "{said}\n{}", gateway.log());
    Verdict::Passed
}
