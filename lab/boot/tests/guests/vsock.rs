//! A guest with a vsock device, served by our own gateway: programs that speak AF_VSOCK by themselves.

use std::io::{Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::PathBuf;
use std::time::Duration;

use outsock_boot::{BootError, BootOptions, Guest, GuestCommand, GuestProcess, Image};
use outsock_site::{Directory, Gateway, Interrupt, Programs};
use rustix::net::{
    AddressFamily, RecvFlags, SendFlags, Shutdown, SocketAddrUnix, SocketType, accept, bind,
    connect, listen, recv, send, shutdown, socket,
};

use crate::Verdict;
use crate::commands::pattern;

const CID: u32 = 77;
const OTHER_CID: u32 = 78;
const PYTHON: &str = "/usr/bin/python3";
/// A guest under software emulation on a busy machine starts Python in this time, many times over.
const PATIENCE: Duration = Duration::from_secs(60);

/// Sends standard input to the host, ends its own half, and prints what comes back.
const CLIENT: &str = "
import socket, sys, threading
s = socket.socket(socket.AF_VSOCK, socket.SOCK_STREAM)
s.connect((2, 1234))
data = sys.stdin.buffer.read()
def send():
    s.sendall(data)
    s.shutdown(socket.SHUT_WR)
threading.Thread(target=send).start()
while got := s.recv(65536): sys.stdout.buffer.write(got)
";

/// Echoes one connection until its end, and then says who it was.
const SERVER: &str = "
import socket
s = socket.socket(socket.AF_VSOCK, socket.SOCK_STREAM)
s.bind((socket.VMADDR_CID_ANY, 2345))
s.listen()
print('listening', flush=True)
c, peer = s.accept()
while got := c.recv(65536): c.sendall(got)
c.sendall(b'end')
c.close()
print(peer[0])
";

/// Messages of many lengths to the host and back; each has to come back as it went.
const MESSAGES: &str = "
import socket, sys
s = socket.socket(socket.AF_VSOCK, socket.SOCK_SEQPACKET)
s.connect((int(sys.argv[1]), 1234))
lengths = [1, 2, 44, 3776, 4096, 4097, 65536, 65537, 131072, 30000, 131072, 1000, 131072] + list(range(1, 600, 7))
for length in lengths:
    data = bytes((length + i) % 251 for i in range(length))
    assert s.send(data) == length
    got = s.recv(1 << 20)
    assert got == data, (length, len(got))
for n in range(20): s.send(b'x' * (n + 1))
for n in range(20): assert len(s.recv(1 << 20)) == n + 1
try: s.send(bytes(131073)); print('no EMSGSIZE')
except OSError as e: print(e.errno)
s.shutdown(socket.SHUT_WR)
assert s.recv(100) == b'bye'
assert s.recv(100) == b''
print('ok')
";

/// Echoes messages of one connection until its end.
const MESSAGES_SERVER: &str = "
import socket
s = socket.socket(socket.AF_VSOCK, socket.SOCK_SEQPACKET)
s.bind((socket.VMADDR_CID_ANY, 1234))
s.listen()
print('listening', flush=True)
c, peer = s.accept()
while got := c.recv(1 << 20): c.send(got)
c.send(b'bye')
c.close()
print(peer[0])
";

/// Where nothing is allowed, and where nobody listens.
const REFUSED: &str = "
import socket, sys
for kind in socket.SOCK_STREAM, socket.SOCK_SEQPACKET:
    for to in [(2, 999), (2, 1235), (78, 999), (79, 1234), (78, 1236)]:
        s = socket.socket(socket.AF_VSOCK, kind)
        try: s.connect(to); print('connected', to)
        except OSError as e: print(to, e.errno)
";

const RULES: &str = "
[[vsock]]
guests = [\"boot\"]
ports = [1234, 1235]
connect = \"unix:DIR/{guest}-{port}\"

[[vsock]]
guests = [\"boot\"]
ports = [\"1234-1236\"]
to = [\"other\"]
";

/// A gateway for two guests.
struct World {
    directory: Directory,
    gateway: Gateway,
}

impl World {
    fn start() -> Self {
        let programs = Programs::build(&Interrupt::default(), &mut |_| {}).unwrap();
        let directory = Directory::new().unwrap();
        let at = |name: &str| directory.path(name).display().to_string();
        let mut config = String::new();
        for (name, cid) in [("boot", CID), ("other", OTHER_CID)] {
            config += &format!(
                "[[guest]]\nname = {name:?}\ncid = {cid}\nsocket = {:?}\nvsock_socket = {:?}\n\
                 vsock_seqpacket_socket = {:?}\n",
                at(&format!("{name}.sock")),
                at(&format!("{name}.vsock")),
                at(&format!("{name}.messages")),
            );
        }
        config += &RULES.replace("DIR", directory.path("").to_str().unwrap().trim_end_matches('/'));
        let gateway = Gateway::start(&programs.gateway, &directory, "gateway", &config).unwrap();
        Self { directory, gateway }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path(name)
    }

    fn options(&self, image: &Image, name: &str, cid: u32) -> BootOptions {
        let mut options = BootOptions::new(image.clone());
        options.name = name.to_owned();
        options.vsock_socket = Some(self.path(&format!("{name}.sock")));
        options.cid = Some(cid);
        options
    }

    fn boot(&self, image: &Image, name: &str, cid: u32) -> Guest {
        let options = self.options(image, name, cid);
        Guest::boot(options).unwrap_or_else(|error| panic!("{error}\n{}", self.gateway.log()))
    }
}

/// What [`MESSAGES`] prints. A message over the limit is EMSGSIZE, by the guest's own kernel; before 6.2 that made ENOMEM of
/// whatever its transport said.
fn messages_said(guest: &Guest) -> &'static str {
    if guest.release().starts_with("6.1.") { "12\nok\n" } else { "90\nok\n" }
}

fn run(guest: &Guest, script: &str, argument: &str, stdin: &[u8]) -> Vec<u8> {
    let command = GuestCommand::new(&[PYTHON, "-c", script, argument]).stdin(stdin.to_vec());
    let output = guest.run_command(&command).unwrap_or_else(|error| panic!("{error}"));
    assert!(output.status.success(), "{}{}", output.stdout_text(), output.stderr_text());
    output.stdout
}

fn serve(guest: &Guest, script: &str) -> GuestProcess {
    let server = guest.spawn(&GuestCommand::new(&[PYTHON, "-c", script])).unwrap();
    let listens = server.wait_for_text("listening", PATIENCE).unwrap();
    assert!(listens, "{:?}", server.output_so_far());
    server
}

/// The server has ended and says whom it served.
fn served(server: GuestProcess, cid: &str) {
    let output = server.wait(PATIENCE).unwrap();
    let text = output.stdout_text();
    assert!(text.ends_with(&format!("\n{cid}\n")), "{text}{}", output.stderr_text());
}

pub(crate) fn bytes_cross_both_ways(image: &Image) -> Verdict {
    let world = World::start();
    let guest = world.boot(image, "boot", CID);
    assert_eq!(guest.cid(), Some(CID));
    stream_from_guest(&guest, &world);
    stream_from_host(&guest, &world);
    messages_from_guest(&guest, &world);
    messages_from_host(&guest, &world);
    refused_from_host(&world);
    let refused = String::from_utf8(run(&guest, REFUSED, "", &[])).unwrap();
    assert_eq!(refused.lines().count(), 10, "{refused}");
    // A guest that is not running is as silent as a host that is down.
    let silent = format!("({OTHER_CID}, 1236) 110");
    let expected = |line: &str| line.ends_with(" 104") || line == silent;
    assert!(refused.lines().all(expected), "{refused}\n{}", world.gateway.log());
    assert_eq!(refused.matches(&silent).count(), 2, "{refused}");
    guest.shutdown().unwrap();
    Verdict::Passed
}

fn stream_from_guest(guest: &Guest, world: &World) {
    let listener = UnixListener::bind(world.path("boot-1234")).unwrap();
    let echo = std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        std::io::copy(&mut stream.try_clone().unwrap(), &mut stream).unwrap();
        // The guest's half has ended; ours goes on.
        stream.write_all(b"end").unwrap();
    });
    let bytes = pattern(3_000_000);
    let got = run(guest, CLIENT, "", &bytes);
    let (echoed, end) = got.split_at(got.len().saturating_sub(3));
    assert!(echoed == bytes, "{} of {} bytes", echoed.len(), bytes.len());
    assert_eq!(end, b"end");
    echo.join().unwrap();
    std::fs::remove_file(world.path("boot-1234")).unwrap();
}

fn stream_from_host(guest: &Guest, world: &World) {
    let server = serve(guest, SERVER);
    let mut stream = UnixStream::connect(world.path("boot.vsock")).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    // What follows the line at once is the guest's.
    stream.write_all(b"CONNECT 2345\nto the guest").unwrap();
    let mut answer = Vec::new();
    while !answer.ends_with(b"\n") {
        let mut byte = [0];
        stream.read_exact(&mut byte).unwrap();
        answer.push(byte[0]);
    }
    assert!(answer.starts_with(b"OK "), "{:?}", String::from_utf8_lossy(&answer));
    stream.write_all(b" and back").unwrap();
    stream.shutdown(std::net::Shutdown::Write).unwrap();
    let mut all = Vec::new();
    stream.read_to_end(&mut all).unwrap();
    assert_eq!(all, b"to the guest and backend");
    served(server, "2");
}

fn refused_from_host(world: &World) {
    for line in
        ["CONNECT 2345\n", "CONNECT\n", "\n", "CONNECT 99999999999999999999999999999999999\n"]
    {
        let mut stream = UnixStream::connect(world.path("boot.vsock")).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream.write_all(line.as_bytes()).unwrap();
        let mut answer = Vec::new();
        // An end, or a reset where the gateway had not read all of the line.
        let _ = stream.read_to_end(&mut answer);
        assert_eq!(answer, b"", "{line:?}");
    }
}

fn seqpacket() -> OwnedFd {
    socket(AddressFamily::UNIX, SocketType::SEQPACKET, None).unwrap()
}

fn receive(fd: &OwnedFd) -> Vec<u8> {
    let mut buffer = vec![0; 1 << 20];
    let (n, _) = recv(fd, &mut buffer[..], RecvFlags::empty()).unwrap();
    buffer.truncate(n);
    buffer
}

fn messages_from_guest(guest: &Guest, world: &World) {
    let listener = seqpacket();
    bind(&listener, &SocketAddrUnix::new(world.path("boot-1234")).unwrap()).unwrap();
    listen(&listener, 1).unwrap();
    let echo = std::thread::spawn(move || {
        let client = accept(&listener).unwrap();
        loop {
            let message = receive(&client);
            if message.is_empty() {
                break;
            }
            assert_eq!(send(&client, &message, SendFlags::empty()).unwrap(), message.len());
        }
        send(&client, b"bye", SendFlags::empty()).unwrap();
    });
    let said = run(guest, MESSAGES, "2", &[]);
    assert_eq!(String::from_utf8_lossy(&said), messages_said(guest));
    echo.join().unwrap();
    std::fs::remove_file(world.path("boot-1234")).unwrap();
}

fn messages_from_host(guest: &Guest, world: &World) {
    let server = serve(guest, MESSAGES_SERVER);
    let client = seqpacket();
    connect(&client, &SocketAddrUnix::new(world.path("boot.messages")).unwrap()).unwrap();
    send(&client, b"CONNECT 1234\n", SendFlags::empty()).unwrap();
    assert!(receive(&client).starts_with(b"OK "));
    // One that is empty is left out, and ends nothing.
    for length in [1, 5000, 0, 100_000, 7] {
        let message = pattern(length);
        send(&client, &message, SendFlags::empty()).unwrap();
        if length > 0 {
            assert!(receive(&client) == message, "{length}");
        }
    }
    shutdown(&client, Shutdown::Write).unwrap();
    assert_eq!(receive(&client), b"bye");
    assert_eq!(receive(&client), b"");
    served(server, "2");
}

pub(crate) fn guests_meet(image: &Image) -> Verdict {
    let world = World::start();
    let guest = world.boot(image, "boot", CID);
    let other = world.boot(image, "other", OTHER_CID);
    let server = serve(&other, MESSAGES_SERVER);
    let said = run(&guest, MESSAGES, &OTHER_CID.to_string(), &[]);
    assert_eq!(String::from_utf8_lossy(&said), messages_said(&guest));
    served(server, &CID.to_string());
    let server = serve(&other, &SERVER.replace("2345", "1236"));
    let bytes = pattern(1_000_000);
    let client = CLIENT.replace("(2, 1234)", &format!("({OTHER_CID}, 1236)"));
    let got = run(&guest, &client, "", &bytes);
    assert!(got.strip_suffix(b"end") == Some(&bytes[..]), "{} bytes", got.len());
    served(server, &CID.to_string());
    // The rule is for one direction.
    let back = CLIENT.replace("(2, 1234)", &format!("({CID}, 1236)"));
    let output = other.run(&[PYTHON, "-c", &back]).unwrap();
    assert!(output.stderr_text().contains("[Errno 104]"), "{}", output.stderr_text());
    for guest in [guest, other] {
        guest.shutdown().unwrap();
    }
    Verdict::Passed
}

pub(crate) fn a_wrong_cid_is_refused(image: &Image) -> Verdict {
    let world = World::start();
    let mut options = world.options(image, "boot", CID);
    options.cid = Some(CID + 1);
    let error = Guest::boot(options).unwrap_err();
    assert!(matches!(error, BootError::WrongCid { found: Some(CID), .. }), "{error}");
    Verdict::Passed
}
