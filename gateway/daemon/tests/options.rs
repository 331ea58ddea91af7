//! Options, counters and resets of single connections, asked for by a virtual guest's agent.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpListener};
use std::sync::mpsc::sync_channel;

use common::{address, boot, dial, eventually, far_ends, gateway_to, pair, setup};
use outsock_virtual_guest::{Connection, Options, VirtualGuest};
use outsock_vmrpc::socket::options::{
    CONNECT_WITH, INSPECT, Inspection, SET_OPTIONS, SetOptions, SocketOption, encode_connect,
};
use outsock_vmrpc::socket::{self, Asserted, ConnectReply, ConnectRequest, Destination, Token};
use outsock_vmrpc::{Binding, Errno, RpcError, VersionRange};

fn agent(guest: &VirtualGuest) -> Binding {
    guest.rpc().unwrap().bind_module(socket::NAME, VersionRange::only(socket::V3)).unwrap()
}

fn token(connection: &Connection) -> Token {
    Token::new(connection.key().host.0).unwrap()
}

fn inspect(agent: &Binding, token: Token) -> Result<Inspection, RpcError> {
    agent.perform_rpc(INSPECT, &token.encode()).map(|bytes| Inspection::decode(&bytes).unwrap())
}

fn set(agent: &Binding, token: Token, options: &[SocketOption]) -> Result<(), RpcError> {
    let set = SetOptions { token, options: options.to_vec() };
    agent.perform_rpc(SET_OPTIONS, &set.encode()).map(drop)
}

/// As the agent connects a socket that has options.
fn dial_with(
    guest: &VirtualGuest,
    agent: &Binding,
    source: Option<SocketAddr>,
    options: &[SocketOption],
) -> (Connection, Option<SocketAddr>) {
    static NEXT: std::sync::atomic::AtomicU32 = std::sync::atomic::AtomicU32::new(7);
    let next = NEXT.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
    let token = Token::from_random(next);
    let request = ConnectRequest { token, destination: Destination::Address(address(1)), source };
    let (sender, reply) = sync_channel(1);
    let arguments = encode_connect(&request, &Asserted::default(), options);
    agent.start_rpc(CONNECT_WITH, &arguments, move |outcome| drop(sender.send(outcome)));
    let connection = guest.start_open(token.raw()).unwrap();
    let reply = ConnectReply::decode(&reply.recv().unwrap().unwrap()).unwrap();
    connection.wait_connected().unwrap();
    (connection, reply.local)
}

#[test]
fn options_reach_the_hosts_socket_and_its_counters_come_back() {
    let (_gateway, guest, connection, mut far) = pair();
    let (agent, token) = (agent(&guest), token(&connection));
    (&connection).write_all(&[1; 5000]).unwrap();
    far.read_exact(&mut [0; 5000]).unwrap();
    let reno = SocketOption::Congestion("reno".to_owned());
    set(&agent, token, &[SocketOption::NoDelay(false), reno]).unwrap();
    let it = inspect(&agent, token).unwrap();
    assert_eq!((it.reset, it.congestion.as_deref()), (None, Some("reno")));
    assert!(it.max_segment.unwrap() > 500, "{it:?}");
    let info = it.tcp_info.unwrap();
    let acked = u64::from_ne_bytes(*info[120..].first_chunk().unwrap());
    assert_eq!((info[0], acked), (1, 5001), "established, and the SYN counts");
    let refused = set(&agent, token, &[SocketOption::KeepIdle(0)]);
    assert_eq!(refused, Err(RpcError::Function(Errno::EINVAL)));
    let unknown = SocketOption::Congestion("nonesuch".to_owned());
    assert_eq!(set(&agent, token, &[unknown]), Err(RpcError::Function(Errno::ENOENT)));
    guest.assert_clean();
}

#[test]
fn options_travel_with_the_connect() {
    let (port, far_ends) = far_ends();
    let gateway = gateway_to(port);
    let guest = boot(&gateway);
    let agent = agent(&guest);
    let options = [
        SocketOption::Congestion("reno".to_owned()),
        SocketOption::MaxSegment(800),
        // What this kernel does not have is left; the connection is made all the same.
        SocketOption::Congestion("nonesuch".to_owned()),
    ];
    let (connection, _) = dial_with(&guest, &agent, None, &options);
    let mut far = far_ends.recv().unwrap();
    let it = inspect(&agent, token(&connection)).unwrap();
    assert_eq!(it.congestion.as_deref(), Some("reno"));
    assert!(it.max_segment.unwrap() <= 800, "{it:?}");
    (&connection).write_all(b"x").unwrap();
    far.read_exact(&mut [0]).unwrap();
}

#[test]
fn a_close_with_linger_zero_is_a_reset() {
    for with_connect in [true, false] {
        let (port, far_ends) = far_ends();
        let gateway = gateway_to(port);
        let guest = boot(&gateway);
        let agent = agent(&guest);
        let abort = [SocketOption::AbortOnClose(true)];
        let (connection, _) =
            dial_with(&guest, &agent, None, if with_connect { &abort } else { &[] });
        let mut far = far_ends.recv().unwrap();
        if !with_connect {
            set(&agent, token(&connection), &abort).unwrap();
        }
        (&connection).write_all(b"seen").unwrap();
        far.read_exact(&mut [0; 4]).unwrap();
        connection.close();
        assert_eq!(far.read(&mut [0]).unwrap_err().kind(), ErrorKind::ConnectionReset);
        guest.assert_clean();
    }
}

/// Natively the unsent bytes are dropped, here too: nobody waits for a reader that does not read.
#[test]
fn a_close_with_linger_zero_drops_what_is_unsent() {
    let (gateway, guest, connection, far) = pair();
    let agent = agent(&guest);
    set(&agent, token(&connection), &[SocketOption::AbortOnClose(true)]).unwrap();
    connection.set_nonblocking(true);
    while connection.try_write(&[7; 65_536]).is_ok() {
        // Until neither the far side nor the gateway takes more, or the patience of one write ends.
        std::thread::yield_now();
    }
    connection.close();
    eventually("the gateway has let go of it", || {
        gateway.status().unwrap()["connections"].as_array().unwrap().is_empty()
    });
    let mut buffer = vec![0; 1 << 20];
    let end = loop {
        match (&far).read(&mut buffer) {
            Ok(0) => break None,
            Ok(_) => {}
            Err(error) => break Some(error.kind()),
        }
    };
    assert_eq!(end, Some(ErrorKind::ConnectionReset));
}

#[test]
fn a_reset_by_the_far_side_can_be_asked_for_after_the_end() {
    let (gateway, guest, connection, far) = pair();
    let (agent, token) = (agent(&guest), token(&connection));
    assert_eq!(inspect(&agent, token).unwrap().reset, None);
    socket2::SockRef::from(&far).set_linger(Some(std::time::Duration::ZERO)).unwrap();
    drop(far);
    eventually("the guest's connection is over", || connection.is_done());
    assert_eq!(inspect(&agent, token).unwrap().reset, Some(Errno::ECONNRESET));
    connection.close();
    eventually("the gateway has swept it up", || {
        gateway.status().unwrap()["connections"].as_array().unwrap().is_empty()
    });
    assert_eq!(inspect(&agent, token).unwrap().reset, Some(Errno::ECONNRESET));
    let gone = set(&agent, token, &[SocketOption::NoDelay(true)]);
    assert_eq!(gone, Err(RpcError::Function(Errno::ENOTCONN)));
}

#[test]
fn an_end_in_good_order_is_no_reset() {
    let (_gateway, guest, mut connection, far) = pair();
    let (agent, token) = (agent(&guest), token(&connection));
    far.shutdown(std::net::Shutdown::Write).unwrap();
    assert_eq!(connection.read(&mut [0]).unwrap(), 0);
    assert_eq!(inspect(&agent, token).unwrap().reset, None);
}

#[test]
fn another_guests_connection_is_none() {
    let (far_port, far_ends) = far_ends();
    let gateway = setup()
        .guest("web", 3)
        .guest("db", 4)
        .route("192.0.2.1", 1, &format!("127.0.0.1:{far_port}"))
        .start()
        .unwrap();
    let web = gateway.boot("web", Options::default()).unwrap();
    let db = gateway.boot("db", Options::default()).unwrap();
    let connection = dial(&web, 1);
    let mut far = far_ends.recv().unwrap();
    let stranger = agent(&db);
    let abort = [SocketOption::AbortOnClose(true)];
    let none = Err(RpcError::Function(Errno::ENOTCONN));
    assert_eq!(set(&stranger, token(&connection), &abort), none);
    assert!(inspect(&stranger, token(&connection)).is_err());
    connection.close();
    assert_eq!(far.read(&mut [0]).unwrap(), 0, "a close in good order");
}

#[test]
fn a_source_port_is_granted_where_it_is_free_and_another_where_not() {
    let (port, far_ends) = far_ends();
    let gateway = gateway_to(port);
    let guest = boot(&gateway);
    let agent = agent(&guest);
    let taken = TcpListener::bind("0.0.0.0:0").unwrap();
    let free = TcpListener::bind("0.0.0.0:0").unwrap().local_addr().unwrap().port();
    for (wish, granted) in [(free, true), (taken.local_addr().unwrap().port(), false)] {
        let source = Some(SocketAddr::from(([10, 0, 2, 15], wish)));
        let (_connection, local) = dial_with(&guest, &agent, source, &[]);
        let far = far_ends.recv().unwrap();
        assert_eq!(far.peer_addr().unwrap().port() == wish, granted);
        assert_eq!(local, Some(far.peer_addr().unwrap()));
    }
}
