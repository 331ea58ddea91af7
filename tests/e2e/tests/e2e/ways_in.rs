//! Ways in: a server in a guest that knows nothing of TLS, reached by it, with OpenSSL and curl as clients.
//!
//! in: a world; out: a verdict. Owner: a gateway, a guest and an authority of its own. Kept: what the program
//! saw is compared with what the clients did. Bound: [`PATIENCE`].

use std::io::{BufRead, BufReader, Write};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use outsock_boot::{BootOptions, Guest, GuestProcess};
use outsock_site::{Directory, Gateway, tied};

use crate::Verdict;
use crate::host::{free_address, missing, program};
use crate::programs::need;
use crate::world::World;

const GUEST: &str = "ways-in";
const CID: u32 = 10;
const PORT: u16 = 8080;
const NAME: &str = "shop.example";
/// Software emulation on a busy machine.
const PATIENCE: Duration = Duration::from_secs(90);
const SERVER: &str = include_str!("../../guest/plain.py");

/// Certificates by Debian's own tool.
struct Authority<'a> {
    directory: &'a Directory,
    name: &'static str,
}

impl<'a> Authority<'a> {
    fn new(directory: &'a Directory, name: &'static str) -> Result<Self, String> {
        let authority = Self { directory, name };
        authority.openssl("ca", &format!("/CN={name}"), &["basicConstraints=critical,CA:TRUE"])?;
        Ok(authority)
    }

    fn file(&self, name: &str) -> PathBuf {
        self.directory.path(&format!("{}-{name}", self.name))
    }

    fn openssl(&self, name: &str, subject: &str, extensions: &[&str]) -> Result<(), String> {
        let mut command = Command::new("openssl");
        command.args(["req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256"]);
        command.args(["-nodes", "-days", "2", "-subj", subject]);
        for extension in extensions {
            command.args(["-addext", extension]);
        }
        if name != "ca" {
            command.arg("-CA").arg(self.file("ca.pem")).arg("-CAkey").arg(self.file("ca.key"));
        }
        command.arg("-out").arg(self.file(&format!("{name}.pem")));
        command.arg("-keyout").arg(self.file(&format!("{name}.key")));
        let made = command.output().map_err(|_| missing("openssl"))?;
        let said = || String::from_utf8_lossy(&made.stderr).into_owned();
        if made.status.success() { Ok(()) } else { Err(said()) }
    }

    fn sign(&self, name: &str, subject: &str) -> Result<(), String> {
        let names = format!("subjectAltName=DNS:{NAME}");
        self.openssl(name, subject, &["basicConstraints=critical,CA:FALSE", &names])
    }
}

/// What runs, and where it is reached.
struct Scene {
    server: GuestProcess,
    at: SocketAddr,
    _guest: Guest,
    gateway: Gateway,
}

impl Scene {
    fn start(world: &World, ours: &Authority<'_>, customers: &Authority<'_>) -> Self {
        let (at, socket) = (free_address(), world.directory.path("ways-in.sock"));
        let config = format!(
            "[[guest]]\nname = {GUEST:?}\ncid = {CID}\nsocket = {socket:?}\n\
             [[publish]]\nports = [{PORT}]\nlisten = \"{at}\"\nencrypt = \"tls\"\n[publish.tls]\n\
             certificate = {:?}\nkey = {:?}\nclient_ca = [{:?}]\nalpn = [\"http/1.1\"]\n",
            ours.file("shop.pem"),
            ours.file("shop.key"),
            customers.file("ca.pem"),
        );
        let gateway = Gateway::start(&world.programs.gateway, &world.directory, GUEST, &config);
        let gateway = gateway.unwrap_or_else(|error| panic!("{error}"));
        let mut options = BootOptions::new(world.image.clone());
        options.name = GUEST.to_owned();
        options.vsock_socket = Some(socket);
        options.cid = Some(CID);
        options.share = Some(world.directory.share());
        let guest = Guest::boot(options).unwrap_or_else(|error| panic!("{error}"));
        std::fs::write(world.directory.share().join("plain.py"), SERVER).unwrap();
        let argv = ["python3", "-u", "/mnt/share/plain.py", &PORT.to_string()];
        let server = World::spawn(&guest, &argv);
        let scene = Self { server, at, _guest: guest, gateway };
        scene.eventually("it can be reached", || {
            let listeners = scene.gateway.status().unwrap().listeners;
            listeners.iter().any(|listener| listener.places.contains(&at.to_string()))
        });
        scene
    }

    fn said(&self) -> String {
        let (out, error) = self.server.output_so_far();
        String::from_utf8_lossy(&[out, error].concat()).into_owned()
    }

    fn eventually(&self, what: &str, holds: impl Fn() -> bool) {
        let deadline = Instant::now() + PATIENCE;
        while !holds() {
            let log = self.gateway.log();
            assert!(Instant::now() < deadline, "never: {what}; {}\n{log}", self.said());
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// Fetches by curl; `own` is the client's certificate.
    fn curl(&self, ours: &Authority<'_>, own: Option<&Authority<'_>>) -> Output {
        let port = self.at.port();
        let mut command = tied("curl");
        command.args(["-sS", "--max-time", "60", "--cacert"]).arg(ours.file("ca.pem"));
        command.args(["--resolve", &format!("{NAME}:{port}:127.0.0.1")]);
        if let Some(own) = own {
            command.arg("--cert").arg(own.file("one.pem")).arg("--key").arg(own.file("one.key"));
        }
        command.args(["-w", "own port %{local_port}", &format!("https://{NAME}:{port}/")]);
        command.output().unwrap()
    }

    /// Says one line by OpenSSL's client, which then ends in good order, or is killed.
    fn s_client(&self, ours: &Authority<'_>, own: &Authority<'_>, is_killed: bool) -> String {
        let mut command = tied("openssl");
        command.args(["s_client", "-connect", &self.at.to_string(), "-servername", NAME]);
        command.args(["-verify_return_error", "-tls1_3", "-ign_eof", "-brief", "-CAfile"]);
        command.arg(ours.file("ca.pem"));
        command.arg("-cert").arg(own.file("one.pem")).arg("-key").arg(own.file("one.key"));
        let mut client = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        client.stdin.as_mut().unwrap().write_all(b"name\n").unwrap();
        let mut answer = String::new();
        BufReader::new(client.stdout.as_mut().unwrap()).read_line(&mut answer).unwrap();
        if is_killed {
            client.kill().unwrap();
        } else {
            client.stdin.as_mut().unwrap().write_all(b"bye\n").unwrap();
        }
        let output = client.wait_with_output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(said.contains("Protocol version: TLSv1.3"), "{said}");
        answer.trim().to_owned()
    }
}

pub(crate) fn published_tls(world: &mut World) -> Verdict {
    need!("curl", "curl");
    need!("openssl", "openssl");
    need!("python3", "python3");
    let authorities = || {
        let ours = Authority::new(&world.directory, "ours")?;
        let customers = Authority::new(&world.directory, "customers")?;
        let strangers = Authority::new(&world.directory, "strangers")?;
        ours.sign("shop", "/CN=shop")?;
        customers.sign("one", "/CN=one")?;
        strangers.sign("one", "/CN=one")?;
        Ok((ours, customers, strangers))
    };
    let (ours, customers, strangers) =
        authorities().unwrap_or_else(|error: String| panic!("{error}"));
    let scene = Scene::start(world, &ours, &customers);

    for own in [None, Some(&strangers)] {
        let refused = scene.curl(&ours, own);
        assert!(!refused.status.success(), "{refused:?}");
    }
    assert!(!scene.said().contains("client"), "the program hears of none: {}", scene.said());

    let fetched = scene.curl(&ours, Some(&customers));
    let said = String::from_utf8_lossy(&fetched.stdout).into_owned();
    let (body, own_port) = said.split_once("own port ").expect("a page");
    assert_eq!(body, format!("hello 127.0.0.1:{own_port}\n"), "{}", scene.gateway.log());

    let name = scene.s_client(&ours, &customers, false);
    scene.eventually("an end in good order", || scene.said().contains(&format!("{name}: end\n")));
    let name = scene.s_client(&ours, &customers, true);
    scene
        .eventually("a cut is a reset", || scene.said().contains(&format!("{name}: ECONNRESET\n")));
    assert!(!scene.said().contains(&format!("{name}: end\n")));
    Verdict::Passed
}
