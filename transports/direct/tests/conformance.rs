//! The suite over TCP with IPv4 and IPv6, and over Unix sockets. Loopback only.

use std::io::Write;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use outsock_transport::conformance::{self, Report, Setup, Staging};
use outsock_transport::{Destination, Transport};
use outsock_transport_direct::Direct;
use socket2::{Domain, SockAddr, Socket, Type};

struct Tcp {
    host: IpAddr,
    /// An address to which no TCP connection is possible: the kernel says so without a packet.
    nowhere: IpAddr,
}

#[async_trait]
impl Setup for Tcp {
    fn dialer(&self) -> &dyn Transport {
        &Direct
    }

    fn listener(&self) -> &dyn Transport {
        &Direct
    }

    fn listen_at(&self) -> Destination {
        Destination::Address((self.host, 0).into())
    }

    async fn refuses(&self) -> Staging {
        let (socket, at) = bound((self.host, 0).into());
        Staging::holding(Destination::Address(at), socket)
    }

    async fn unreachable(&self) -> Staging {
        Staging::at(Destination::Address((self.nowhere, 9).into()))
    }

    async fn times_out(&self) -> Staging {
        let (listener, at) = bound((self.host, 0).into());
        listener.listen(0).expect("a listener with the smallest backlog");
        let full = fill(Domain::for_address(at), &at.into());
        Staging::holding(Destination::Address(at), (listener, full))
    }
}

/// A port that is taken and on which nobody listens.
fn bound(at: SocketAddr) -> (Socket, SocketAddr) {
    let socket = Socket::new(Domain::for_address(at), Type::STREAM, None).expect("a socket");
    socket.bind(&at.into()).expect("a free port");
    let at = socket.local_addr().expect("its name").as_socket().expect("an IP address");
    (socket, at)
}

/// Connects until the listener takes no more.
fn fill(domain: Domain, at: &SockAddr) -> Vec<Socket> {
    let mut full = Vec::new();
    while full.len() < 16 {
        let socket = Socket::new(domain, Type::STREAM, None).expect("a socket");
        if domain == Domain::UNIX {
            socket.set_nonblocking(true).expect("a non-blocking socket");
        }
        let connected = if domain == Domain::UNIX {
            socket.connect(at)
        } else {
            socket.connect_timeout(at, Duration::from_millis(100))
        };
        if connected.is_err() {
            return full;
        }
        full.push(socket);
    }
    panic!("a backlog of 0 took 16 connections");
}

fn all_ran(report: &Report) {
    assert_eq!(report.not_applicable, []);
    assert_eq!(report.not_staged, []);
}

#[test]
fn tcp_over_ipv4() {
    all_ran(&conformance::run("direct tcp4", || async {
        Tcp { host: Ipv4Addr::LOCALHOST.into(), nowhere: Ipv4Addr::BROADCAST.into() }
    }));
}

#[test]
fn tcp_over_ipv6() {
    if std::net::TcpListener::bind((Ipv6Addr::LOCALHOST, 0)).is_err() {
        // Past the capture of the test harness, so that it is seen in a green run too.
        let why = "conformance direct tcp6: NOT RUN: this host has no IPv6 loopback address";
        let _ = writeln!(std::io::stderr().lock(), "{why}");
        return;
    }
    // Multicast of the interface itself: no packet leaves for it.
    let nowhere = Ipv6Addr::new(0xff01, 0, 0, 0, 0, 0, 0, 1).into();
    all_ran(&conformance::run("direct tcp6", || async {
        Tcp { host: Ipv6Addr::LOCALHOST.into(), nowhere }
    }));
}

struct Unix {
    directory: tempfile::TempDir,
    next: AtomicU32,
}

impl Unix {
    fn fresh(&self) -> Destination {
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        Destination::Unix(self.directory.path().join(format!("{number}.sock")))
    }

    fn bound(&self) -> (Socket, SockAddr, Destination) {
        let at = self.fresh();
        let Destination::Unix(path) = &at else { unreachable!("fresh() gives a path") };
        let socket = Socket::new(Domain::UNIX, Type::STREAM, None).expect("a socket");
        let address = SockAddr::unix(path).expect("a short path");
        socket.bind(&address).expect("a free path");
        (socket, address, at)
    }
}

#[async_trait]
impl Setup for Unix {
    fn dialer(&self) -> &dyn Transport {
        &Direct
    }

    fn listener(&self) -> &dyn Transport {
        &Direct
    }

    fn listen_at(&self) -> Destination {
        self.fresh()
    }

    async fn refuses(&self) -> Staging {
        let (socket, _, at) = self.bound();
        Staging::holding(at, socket)
    }

    async fn times_out(&self) -> Staging {
        let (listener, address, at) = self.bound();
        listener.listen(0).expect("a listener with the smallest backlog");
        let full = fill(Domain::UNIX, &address);
        Staging::holding(at, (listener, full))
    }

    fn exception(&self, case: &str) -> Option<String> {
        match case {
            "unreachable" => Some("a Unix socket has no network between its ends".to_owned()),
            // Said where unread bytes make it one: these stay in the suite.
            "reading_dialer_resets_the_writer" | "reading_listener_resets_the_writer" => None,
            _ if case.contains("reset") => Some(
                "AF_UNIX says a reset only where the closing side left bytes unread".to_owned(),
            ),
            _ => None,
        }
    }
}

#[test]
fn unix_sockets() {
    let report = conformance::run("direct unix", || async {
        let directory = tempfile::tempdir().expect("a directory for sockets");
        Unix { directory, next: AtomicU32::new(0) }
    });
    assert_eq!(report.not_staged, []);
    assert_eq!(report.not_applicable.len(), 9, "{:#?}", report.not_applicable);
}
