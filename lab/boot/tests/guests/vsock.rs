//! A guest with a vsock device, served by a backend that is not ours.

use std::io::{Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use outsock_boot::{BootError, BootOptions, Guest, GuestCommand, Image};
use tempfile::TempDir;

use crate::commands::pattern;
use crate::{Verdict, program};

const CID: u32 = 77;
const GUEST_TO_HOST_PORT: u32 = 1234;
const HOST_TO_GUEST_PORT: u32 = 2345;

/// Sends standard input to the host and prints what comes back.
const CLIENT: &str = "
import socket, sys, threading
s = socket.socket(socket.AF_VSOCK, socket.SOCK_STREAM)
s.connect((2, 1234))
data = sys.stdin.buffer.read()
threading.Thread(target=s.sendall, args=(data,)).start()
left = len(data)
while left:
    got = s.recv(65536)
    if not got: break
    sys.stdout.buffer.write(got)
    left -= len(got)
";

/// Echoes one connection from the host.
const SERVER: &str = "
import socket
s = socket.socket(socket.AF_VSOCK, socket.SOCK_STREAM)
s.bind((socket.VMADDR_CID_ANY, 2345))
s.listen()
print('listening', flush=True)
c, peer = s.accept()
print(peer[0])
while True:
    got = c.recv(65536)
    if not got: break
    c.sendall(got)
";

/// A running backend; killed when dropped.
struct Backend {
    child: Child,
    directory: TempDir,
}

impl Drop for Backend {
    fn drop(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }
}

impl Backend {
    fn start() -> Result<Self, String> {
        let named = std::env::var_os("OUTSOCK_VSOCK_PEER").map(PathBuf::from);
        let path = named.or_else(|| program(&["vhost-device-vsock"])).ok_or(
            "no vhost-device-vsock on PATH: cargo install vhost-device-vsock, or set OUTSOCK_VSOCK_PEER to its path",
        )?;
        let directory = tempfile::tempdir().map_err(|error| error.to_string())?;
        let (socket, host) = (directory.path().join("vhost"), directory.path().join("host"));
        let child = Command::new(path)
            .arg("--vm")
            .arg(format!("guest-cid={CID},socket={},uds-path={}", socket.display(), host.display()))
            .stderr(Stdio::null())
            .spawn()
            .map_err(|error| error.to_string())?;
        Ok(Self { child, directory })
    }

    fn options(&self, image: &Image) -> BootOptions {
        let mut options = BootOptions::new(image.clone());
        options.vsock_socket = Some(self.path("vhost"));
        options.cid = Some(CID);
        options
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }
}

fn echo_once(listener: UnixListener) {
    let (mut stream, _) = listener.accept().unwrap();
    std::io::copy(&mut stream.try_clone().unwrap(), &mut stream).unwrap();
}

pub(crate) fn bytes_cross_both_ways(image: &Image) -> Verdict {
    if !Path::new("/usr/bin/python3").exists() {
        return Verdict::Skipped("no /usr/bin/python3: apt-get install python3".to_owned());
    }
    let backend = match Backend::start() {
        Ok(backend) => backend,
        Err(reason) => return Verdict::Skipped(reason),
    };
    let guest = Guest::boot(backend.options(image)).unwrap_or_else(|error| panic!("{error}"));
    assert_eq!(guest.cid(), Some(CID));
    from_guest(&guest, &backend);
    from_host(&guest, &backend);
    guest.shutdown().unwrap();
    Verdict::Passed
}

fn from_guest(guest: &Guest, backend: &Backend) {
    let listener = UnixListener::bind(backend.path(&format!("host_{GUEST_TO_HOST_PORT}"))).unwrap();
    let echo = std::thread::spawn(move || echo_once(listener));
    // Small messages: a backend may not take the large ones of new kernels, and is not what is tested.
    let bytes = pattern(20_000);
    let command = GuestCommand::new(&["/usr/bin/python3", "-c", CLIENT]).stdin(bytes.clone());
    let output = guest.run_command(&command).unwrap_or_else(|error| panic!("{error}"));
    assert!(output.status.success(), "{}", output.stderr_text());
    assert!(output.stdout == bytes, "{} of {} bytes", output.stdout.len(), bytes.len());
    echo.join().unwrap();
}

fn from_host(guest: &Guest, backend: &Backend) {
    let server = guest.spawn(&GuestCommand::new(&["/usr/bin/python3", "-c", SERVER])).unwrap();
    assert!(
        server.wait_for_text("listening", Duration::from_secs(30)).unwrap(),
        "{:?}",
        server.output_so_far()
    );
    let mut stream = UnixStream::connect(backend.path("host")).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
    writeln!(stream, "CONNECT {HOST_TO_GUEST_PORT}").unwrap();
    let mut answer = Vec::new();
    while !answer.ends_with(b"\n") {
        let mut byte = [0];
        stream.read_exact(&mut byte).unwrap();
        answer.push(byte[0]);
    }
    assert!(answer.starts_with(b"OK "), "{:?}", String::from_utf8_lossy(&answer));
    stream.write_all(b"to the guest and back").unwrap();
    let mut echoed = [0; 21];
    stream.read_exact(&mut echoed).unwrap();
    assert_eq!(&echoed, b"to the guest and back");
    drop(stream);
    let output = server.wait(Duration::from_secs(30)).unwrap();
    assert!(
        output.stdout_text().ends_with("\n2\n"),
        "the host's CID is 2: {}",
        output.stdout_text()
    );
}

pub(crate) fn a_wrong_cid_is_refused(image: &Image) -> Verdict {
    let backend = match Backend::start() {
        Ok(backend) => backend,
        Err(reason) => return Verdict::Skipped(reason),
    };
    let mut options = backend.options(image);
    options.cid = Some(CID + 1);
    let error = Guest::boot(options).unwrap_err();
    assert!(matches!(error, BootError::WrongCid { found: Some(CID), .. }), "{error}");
    Verdict::Passed
}
