//! What the tests with a virtual guest share: far servers of this host, and a gateway before them.
#![allow(dead_code, unreachable_pub, reason = "each test file uses a part of it")]
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

pub mod agent;

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::mpsc::{Receiver, sync_channel};
use std::time::Duration;

use outsock_harness::{Gateway, Setup};
use outsock_virtual_guest::{Connection, Layout, Options, VirtualGuest};

pub const BINARY: &str = env!("CARGO_BIN_EXE_outsock-gateway");

/// The address that the guest dials; its port is the far server's.
pub fn address(port: u16) -> SocketAddr {
    SocketAddr::from(([192, 0, 2, 1], port))
}

pub fn setup() -> Setup {
    Setup::new(BINARY)
}

/// A gateway with one guest, whose 192.0.2.1:1 is `far`.
pub fn gateway_to(far: u16) -> Gateway {
    setup().guest("web", 3).route("192.0.2.1", 1, &format!("127.0.0.1:{far}")).start().unwrap()
}

pub fn boot(gateway: &Gateway) -> VirtualGuest {
    gateway.boot("web", Options::default()).unwrap()
}

pub fn dial(guest: &VirtualGuest, port: u16) -> Connection {
    guest.dial(address(port)).unwrap().0
}

/// Accepts connections and runs `serve` for each in a thread. Lives as long as the test.
pub fn server(serve: impl Fn(TcpStream) + Clone + Send + 'static) -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let Ok(stream) = stream else { return };
            let serve = serve.clone();
            std::thread::spawn(move || serve(stream));
        }
    });
    port
}

pub fn echo_server() -> u16 {
    server(|mut stream| {
        let mut buffer = vec![0; 64 * 1024];
        while let Ok(n @ 1..) = stream.read(&mut buffer) {
            if stream.write_all(&buffer[..n]).is_err() {
                return;
            }
        }
    })
}

/// Hands out the far ends one by one.
pub fn far_ends() -> (u16, Receiver<TcpStream>) {
    let (sender, receiver) = sync_channel(1024);
    let port = server(move |stream| {
        stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        let _ = sender.send(stream);
    });
    (port, receiver)
}

/// One connection, both ends in hand.
pub fn pair() -> (Gateway, VirtualGuest, Connection, TcpStream) {
    let (port, far_ends) = far_ends();
    let gateway = gateway_to(port);
    let guest = boot(&gateway);
    let connection = dial(&guest, 1);
    let far = far_ends.recv_timeout(Duration::from_secs(10)).unwrap();
    (gateway, guest, connection, far)
}

/// Waits, bounded, until something outside this process became true.
pub fn eventually(what: &str, mut is_true: impl FnMut() -> bool) {
    let deadline = std::time::Instant::now() + Duration::from_secs(20);
    while !is_true() {
        assert!(std::time::Instant::now() < deadline, "never came true: {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// Every layout that a guest may have.
pub fn layouts() -> Vec<Layout> {
    Layout::kernels().into_iter().chain(Layout::odd()).collect()
}
