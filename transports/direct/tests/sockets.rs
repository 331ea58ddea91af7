//! What only kernel sockets have: source ports, descriptor options, socket files, a full backlog.

use std::net::{Ipv4Addr, SocketAddr};
use std::os::unix::net as unix;
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::Duration;

use outsock_transport::{
    Destination, DialError, DialRequest, Dialed, Errno, ListenError, Listener, Stream, Transport,
};
use outsock_transport_direct::Direct;
use socket2::{Domain, SockRef, Socket, Type};

const LOOPBACK: Destination =
    Destination::Address(SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), 0));

async fn listen(at: &Destination) -> Box<dyn Listener> {
    Direct.listen(at).await.expect("a listener")
}

async fn dial_from(to: Destination, port: u16) -> Result<Dialed, DialError> {
    // The address of the wish is the guest's own and means nothing here.
    let source = Some(SocketAddr::from(([10, 0, 2, 15], port)));
    Direct.dial(DialRequest { source, ..DialRequest::to(to) }).await
}

/// A port that was free a moment ago, below the ephemeral range where others could take it; never
/// the same one twice, since the tests run side by side.
fn free_port() -> u16 {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    let start = 20_000 + u16::try_from(std::process::id() % 9000).expect("less than 9000");
    std::iter::repeat_with(|| start + NEXT.fetch_add(1, Ordering::Relaxed))
        .take(1000)
        .find(|port| std::net::TcpListener::bind((Ipv4Addr::LOCALHOST, *port)).is_ok())
        .expect("a free port")
}

#[tokio::test]
async fn a_source_port_is_granted_and_shared_only_between_destinations() {
    let (mut one, two) = (listen(&LOOPBACK).await, listen(&LOOPBACK).await);
    let port = free_port();
    let first = dial_from(one.local(), port).await.expect("the port is free");
    assert_eq!(first.local.map(|address| address.port()), Some(port));
    let inbound = one.accept().await.expect("a connection");
    assert_eq!(inbound.peer, first.local);
    dial_from(two.local(), port).await.expect("another destination");
    let again = dial_from(one.local(), port).await.expect_err("the same four numbers");
    assert_eq!(again, DialError::AddressInUse);
    assert_eq!(again.errno(), Errno::EADDRINUSE);
}

#[tokio::test]
async fn a_port_on_which_the_host_listens_is_no_source() {
    let listener = listen(&LOOPBACK).await;
    let Destination::Address(taken) = listener.local() else { panic!("an address") };
    let error = dial_from(listener.local(), taken.port()).await.expect_err("taken");
    assert_eq!(error, DialError::AddressInUse);
}

#[tokio::test]
async fn a_privileged_source_port_is_not_lent_to_a_guest() {
    let listener = listen(&LOOPBACK).await;
    let dialed = dial_from(listener.local(), 514).await.expect("the wish is ignored");
    assert!(dialed.local.is_some_and(|address| address.port() >= 1024));
}

#[tokio::test]
async fn a_connection_to_itself_is_a_refusal() {
    let port = free_port();
    let to = Destination::Address((Ipv4Addr::LOCALHOST, port).into());
    // With the same port at both ends, TCP's simultaneous open succeeds without any listener.
    let error = dial_from(to, port).await.expect_err("nobody listens there");
    assert_eq!(error, DialError::Refused);
}

#[tokio::test]
async fn both_ends_send_at_once_and_close_gently() {
    let mut listener = listen(&LOOPBACK).await;
    let dialed = Direct.dial(DialRequest::to(listener.local())).await.expect("a connection");
    let inbound = listener.accept().await.expect("a connection");
    for stream in [dialed.stream, inbound.stream] {
        let Stream::Socket(fd) = stream else { panic!("a kernel socket") };
        let socket = SockRef::from(&fd);
        assert!(socket.tcp_nodelay().expect("an option of TCP"), "Nagle would delay");
        assert_eq!(socket.linger().expect("an option of sockets"), None);
    }
}

#[tokio::test]
async fn a_taken_address_is_in_use() {
    let listener = listen(&LOOPBACK).await;
    let error = Direct.listen(&listener.local()).await.expect_err("taken");
    assert_eq!(error, ListenError::AddressInUse);
    let elsewhere = Destination::Address("192.0.2.1:0".parse().expect("an address"));
    let error = Direct.listen(&elsewhere).await.expect_err("not this host");
    assert_eq!(error, ListenError::AddressNotAvailable);
}

#[tokio::test]
async fn names_are_for_other_transports() {
    let name = Destination::Name { name: "db.osaka.peer".into(), port: 5432 };
    let error = Direct.dial(DialRequest::to(name.clone())).await.expect_err("no resolver here");
    assert_eq!(error, DialError::UnsupportedDestination("names"));
    assert_eq!(Direct.listen(&name).await.expect_err("no names").errno(), Errno::EOPNOTSUPP);
}

#[tokio::test]
async fn a_stale_socket_file_is_replaced_and_ours_is_removed() {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("gateway.sock");
    drop(unix::UnixListener::bind(&path).expect("a socket whose process dies"));
    assert!(path.exists());
    let mut listener = listen(&Destination::Unix(path.clone())).await;
    let dialed = Direct.dial(DialRequest::to(listener.local())).await.expect("it listens");
    assert_eq!(dialed.local, None);
    assert_eq!(listener.accept().await.expect("a connection").peer, None);
    drop(listener);
    assert!(!path.exists(), "the file of a dropped listener stays behind");
    let error = Direct.dial(DialRequest::to(Destination::Unix(path))).await.expect_err("gone");
    assert_eq!(error, DialError::Refused);
}

#[tokio::test]
async fn other_files_and_living_sockets_are_left_alone() {
    let directory = tempfile::tempdir().expect("a directory");
    let file = directory.path().join("notes.txt");
    std::fs::write(&file, "precious").expect("a file");
    let error = Direct.listen(&Destination::Unix(file.clone())).await.expect_err("a file");
    assert_eq!(error, ListenError::AddressInUse);
    assert_eq!(std::fs::read_to_string(&file).expect("the file"), "precious");

    let dangling = directory.path().join("link");
    let stale = directory.path().join("stale.sock");
    drop(unix::UnixListener::bind(&stale).expect("a socket"));
    std::os::unix::fs::symlink(&stale, &dangling).expect("a link");
    Direct.listen(&Destination::Unix(dangling)).await.expect_err("a link is not followed");
    assert!(stale.exists());

    let path = directory.path().join("alive.sock");
    let first = listen(&Destination::Unix(path.clone())).await;
    let error = Direct.listen(&Destination::Unix(path.clone())).await.expect_err("alive");
    assert_eq!(error, ListenError::AddressInUse);

    // Someone else took the path over: dropping ours must not take theirs away.
    std::fs::remove_file(&path).expect("our file");
    let _theirs = unix::UnixListener::bind(&path).expect("their socket");
    drop(first);
    assert!(path.exists(), "a socket file of another process was removed");
}

#[tokio::test]
async fn a_full_unix_backlog_is_waited_for() {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("slow.sock");
    let slow = Socket::new(Domain::UNIX, Type::STREAM, None).expect("a socket");
    slow.bind(&socket2::SockAddr::unix(&path).expect("a path")).expect("a free path");
    slow.listen(0).expect("the smallest backlog");
    let request = DialRequest {
        timeout: Duration::from_secs(10),
        ..DialRequest::to(Destination::Unix(path))
    };
    let _first = Direct.dial(request.clone()).await.expect("the backlog takes one");
    let second = tokio::spawn(async move { Direct.dial(request).await });
    for _ in 0..10 {
        tokio::task::yield_now().await;
    }
    assert!(!second.is_finished(), "the backlog is full");
    let (_accepted, _) = slow.accept().expect("the first");
    second.await.expect("no panic").expect("a server that is slow, not dead");
}

#[tokio::test]
async fn a_path_that_fits_no_address_is_unsupported() {
    let path = Destination::Unix(format!("/{}", "long".repeat(40)).into());
    let error = Direct.dial(DialRequest::to(path)).await.expect_err("too long");
    assert!(matches!(error, DialError::UnsupportedDestination(_)), "{error:?}");
}
