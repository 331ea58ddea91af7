//! Debian's own proxies: microsocks for SOCKS5, tinyproxy for HTTP CONNECT, each with a login.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::io::Write;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use outsock_transport::{Destination, DialError, DialRequest, Errno, Transport};
use outsock_transport_direct::Direct;
use outsock_transport_proxy::{Auth, HttpConnect, Socks5};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

/// tinyproxy takes no blanks in a password, and microsocks logs nothing.
const LOGIN: (&str, &str) = ("alice", "sesame");
const PATIENCE: Duration = Duration::from_secs(30);

/// Ends with the test.
struct Proxy {
    process: Child,
    at: SocketAddr,
    _folder: TempDir,
}

impl Drop for Proxy {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// Past the capture of the test harness, so that it is seen in a green run too.
fn not_run(package: &str) {
    let mut stderr = std::io::stderr().lock();
    let _ = writeln!(stderr, "proxy: NOT RUN: no {package}: apt-get install {package}");
}

fn program(name: &str) -> Option<PathBuf> {
    let folders = ["/usr/bin", "/usr/sbin", "/usr/local/bin"];
    folders.iter().map(|folder| Path::new(folder).join(name)).find(|path| path.exists())
}

fn start(program: PathBuf, arguments: impl Fn(SocketAddr, &Path) -> Vec<String>) -> Proxy {
    let folder = TempDir::new().unwrap();
    // Another program could take the port before the proxy does; then it does not start, which is seen.
    let at = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let process = Command::new(program)
        .args(arguments(at, folder.path()))
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let mut proxy = Proxy { process, at, _folder: folder };
    let deadline = Instant::now() + PATIENCE;
    while TcpStream::connect(at).is_err() {
        assert!(proxy.process.try_wait().unwrap().is_none(), "it has ended");
        assert!(Instant::now() < deadline, "it does not listen");
        std::thread::sleep(Duration::from_millis(10));
    }
    proxy
}

fn auth(password: &str) -> Auth {
    Auth::password(LOGIN.0, password).unwrap()
}

async fn dial(transport: &dyn Transport, to: Destination) -> Result<(), DialError> {
    let request = DialRequest { timeout: PATIENCE, ..DialRequest::to(to) };
    let stream = transport.dial(request).await?.stream;
    let mut near = stream.into_async().unwrap();
    near.write_all(b"hello").await.unwrap();
    let mut got = [0; 5];
    near.read_exact(&mut got).await.unwrap();
    assert_eq!(&got, b"hello");
    // The server ends: as far as these proxies know, both ways.
    assert_eq!(near.read(&mut [0]).await.unwrap(), 0);
    Ok(())
}

/// Answers once with what it hears.
fn echo() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    std::thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            let mut bytes = [0; 5];
            let _ = std::io::Read::read_exact(&mut stream, &mut bytes);
            let _ = stream.write_all(&bytes);
        }
    });
    port
}

async fn carries(right: &dyn Transport, wrong: &dyn Transport, refused: Errno) {
    let port = echo();
    dial(right, Destination::Address(([127, 0, 0, 1], port).into())).await.unwrap();
    // The proxy resolves it.
    dial(right, Destination::Name { name: "localhost".to_owned(), port }).await.unwrap();
    let error = dial(wrong, Destination::Address(([127, 0, 0, 1], port).into())).await.unwrap_err();
    assert_eq!(error.errno(), Errno::EACCES, "{error}");
    let closed = Destination::Address(([127, 0, 0, 1], 1).into());
    assert_eq!(dial(right, closed).await.unwrap_err().errno(), refused);
    let nobody = Destination::Name { name: "nobody.invalid".to_owned(), port: 1 };
    assert_eq!(dial(right, nobody).await.unwrap_err().errno(), Errno::EHOSTUNREACH);
}

#[tokio::test(flavor = "multi_thread")]
async fn microsocks() {
    let Some(program) = program("microsocks") else { return not_run("microsocks") };
    let proxy = start(program, |at, _| {
        let port = at.port().to_string();
        let (user, password) = (LOGIN.0, LOGIN.1);
        ["-i", "127.0.0.1", "-p", &port, "-u", user, "-P", password].map(str::to_owned).to_vec()
    });
    let server = Destination::Address(proxy.at);
    let by = |auth| Socks5::new(Arc::new(Direct), server.clone(), auth);
    carries(&by(auth(LOGIN.1)), &by(auth("wrong")), Errno::ECONNREFUSED).await;
    let error = dial(&by(Auth::None), Destination::Address(proxy.at)).await.unwrap_err();
    assert_eq!(error.errno(), Errno::EACCES, "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn tinyproxy() {
    let Some(program) = program("tinyproxy") else { return not_run("tinyproxy-bin") };
    let proxy = start(program, |at, folder| {
        let file = folder.join("tinyproxy.conf");
        let (port, (user, password)) = (at.port(), LOGIN);
        let text = format!(
            "Port {port}\nListen 127.0.0.1\nTimeout 60\nMaxClients 100\nBasicAuth {user} {password}\n"
        );
        std::fs::write(&file, text).unwrap();
        vec!["-d".to_owned(), "-c".to_owned(), file.display().to_string()]
    });
    let server = Destination::Address(proxy.at);
    let by = |auth| HttpConnect::new(Arc::new(Direct), server.clone(), auth);
    // It says 500 whatever the reason was.
    carries(&by(auth(LOGIN.1)), &by(auth("wrong")), Errno::EHOSTUNREACH).await;
}
