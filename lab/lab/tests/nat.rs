//! What each kind of NAT does, seen from real sockets on both sides of it.
//!
//! Nothing here waits to see that a packet does not come: a second one, which may pass, is sent behind
//! it over the same path, and has to be the first that arrives.

#![allow(missing_docs, clippy::unwrap_used, reason = "tests")]

use std::io::ErrorKind;
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::time::Duration;

use outsock_lab::internet::{Internet, Nat};
use outsock_lab::namespace::Namespace;

/// A packet between namespaces takes microseconds; a busy machine may take seconds.
const PATIENCE: Duration = Duration::from_secs(20);

struct World {
    internet: Internet,
    /// Two sites with addresses of their own.
    open: [(Namespace, Ipv4Addr); 2],
}

/// `None`, with a word, where the machine gives no namespaces.
fn world() -> Option<World> {
    let started = (|| {
        let mut internet = Internet::new()?;
        let mut open = || {
            let site = Namespace::new()?;
            let address = internet.attach(&site, Nat::None)?;
            anyhow::Ok((site, address))
        };
        let open = [open()?, open()?];
        anyhow::Ok(World { internet, open })
    })();
    started.map_err(|error| println!("SKIPPED: no namespaces here: {error:#}")).ok()
}

fn udp(site: &Namespace, port: u16) -> UdpSocket {
    let socket = site.inside(|| UdpSocket::bind((Ipv4Addr::UNSPECIFIED, port))).unwrap().unwrap();
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    socket
}

fn receive(socket: &UdpSocket) -> (String, SocketAddr) {
    let mut buffer = [0; 100];
    let (count, from) = socket.recv_from(&mut buffer).unwrap();
    (String::from_utf8_lossy(&buffer[..count]).into_owned(), from)
}

/// Sends to both open sites from one socket: where each sees it.
fn mappings(world: &World, socket: &UdpSocket) -> [SocketAddr; 2] {
    world.open.each_ref().map(|(site, address)| {
        let far = udp(site, 4001);
        socket.send_to(b"hello", (*address, 4001)).unwrap();
        receive(&far).1
    })
}

fn site(world: &mut World, nat: Nat) -> (Namespace, Ipv4Addr) {
    let site = Namespace::new().unwrap();
    let address = world.internet.attach(&site, nat).unwrap();
    (site, address)
}

#[test]
fn without_a_nat_everybody_sees_the_same() {
    let Some(mut world) = world() else { return };
    let (near, address) = site(&mut world, Nat::None);
    let own = SocketAddr::from((address, 5000));
    assert_eq!(mappings(&world, &udp(&near, 5000)), [own, own]);
}

#[test]
fn endpoint_independent_mapping_is_the_same_for_all() {
    let Some(mut world) = world() else { return };
    let (near, address) = site(&mut world, Nat::EndpointIndependent);
    let [one, other] = mappings(&world, &udp(&near, 5000));
    assert_eq!(one, other);
    assert_eq!(one.ip(), address);
}

#[test]
fn endpoint_dependent_mapping_is_another_for_each() {
    let Some(mut world) = world() else { return };
    let (near, address) = site(&mut world, Nat::EndpointDependent);
    // Two random ports are the same once in 64,000 times: three sockets are enough for ever.
    let differ = (5000..5003).any(|port| {
        let [one, other] = mappings(&world, &udp(&near, port));
        assert_eq!([one.ip(), other.ip()], [address, address]);
        one != other
    });
    assert!(differ);
}

/// Only who was sent to may answer, and from that port.
#[test]
fn nats_filter_by_address_and_port() {
    let Some(mut world) = world() else { return };
    for nat in [Nat::EndpointIndependent, Nat::EndpointDependent] {
        let (near, _) = site(&mut world, nat);
        let socket = udp(&near, 5000);
        let (far, address) = &world.open[0];
        let asked = udp(far, 4001);
        socket.send_to(b"hello", (*address, 4001)).unwrap();
        let mapped = receive(&asked).1;
        udp(far, 4002).send_to(b"another port", mapped).unwrap();
        udp(&world.open[1].0, 4001).send_to(b"another site", mapped).unwrap();
        asked.send_to(b"the answer", mapped).unwrap();
        assert_eq!(receive(&socket).0, "the answer", "{nat}");
    }
}

/// Has both send to the other's mapping, as a rendezvous at an open site sees it, some times: whether
/// each heard the other. Packets of two flows may overtake each other, so the first time may fail.
fn punch(kinds: [Nat; 2]) -> Option<[bool; 2]> {
    let mut world = world()?;
    let sites = kinds.map(|nat| site(&mut world, nat));
    let sockets = sites.each_ref().map(|(site, _)| udp(site, 5000));
    let (far, address) = &world.open[0];
    let rendezvous = udp(far, 4001);
    let mapped = sockets.each_ref().map(|socket| {
        socket.send_to(b"hello", (*address, 4001)).unwrap();
        receive(&rendezvous).1
    });
    let mut heard = [false; 2];
    for _ in 0..5 {
        sockets[0].send_to(b"punched", mapped[1]).unwrap();
        sockets[1].send_to(b"punched", mapped[0]).unwrap();
        for ((socket, mapped), heard) in sockets.iter().zip(mapped).zip(&mut heard) {
            rendezvous.send_to(b"relayed", mapped).unwrap();
            while receive(socket).0 == "punched" {
                *heard = true;
            }
        }
    }
    Some(heard)
}

#[test]
fn two_endpoint_independent_nats_can_be_punched_and_others_not() {
    let (independent, dependent) = (Nat::EndpointIndependent, Nat::EndpointDependent);
    for (kinds, expected) in [
        ([independent, independent], true),
        ([independent, dependent], false),
        ([dependent, dependent], false),
    ] {
        let Some(heard) = punch(kinds) else { return };
        assert_eq!(heard, [expected, expected], "{kinds:?}");
    }
}

fn connect(near: &Namespace, to: (Ipv4Addr, u16), patience: Duration) -> std::io::Result<()> {
    near.inside(|| TcpStream::connect_timeout(&to.into(), patience).map(drop)).unwrap()
}

/// UDP sent before a TCP connection over the same path has not come when the connection stands.
fn udp_passes(world: &World, near: &Namespace, tcp_port: u16) -> bool {
    let (far, address) = &world.open[0];
    let sink = udp(far, 4001);
    let listener = far.inside(|| TcpListener::bind((Ipv4Addr::UNSPECIFIED, tcp_port)));
    let _listener = listener.unwrap().unwrap();
    let socket = udp(near, 5000);
    for port in [4001, 443] {
        socket.send_to(b"hello", (*address, port)).unwrap();
    }
    connect(near, (*address, tcp_port), PATIENCE).unwrap();
    sink.set_nonblocking(true).unwrap();
    let came = sink.recv_from(&mut [0; 10]);
    !matches!(came, Err(error) if error.kind() == ErrorKind::WouldBlock)
}

#[test]
fn blocked_udp_is_blocked_and_tcp_is_not() {
    let Some(mut world) = world() else { return };
    let (blocked, _) = site(&mut world, Nat::UdpBlocked);
    assert!(!udp_passes(&world, &blocked, 4001));
    let (free, _) = site(&mut world, Nat::EndpointIndependent);
    assert!(udp_passes(&world, &free, 4001), "the test can see it");
}

#[test]
fn only_443_is_only_443() {
    let Some(mut world) = world() else { return };
    let (near, _) = site(&mut world, Nat::Only443);
    assert!(!udp_passes(&world, &near, 443));
    let (far, address) = &world.open[0];
    let listener = far.inside(|| TcpListener::bind((Ipv4Addr::UNSPECIFIED, 4001)));
    let listener = listener.unwrap().unwrap();
    // Dropped without a word: nobody answers, however long one waits.
    let refused = connect(&near, (*address, 4001), Duration::from_millis(500)).unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::TimedOut);
    listener.set_nonblocking(true).unwrap();
    assert_eq!(listener.accept().unwrap_err().kind(), ErrorKind::WouldBlock);
}

/// What comes unasked is dropped without a word, so that the one who punches does not give up.
#[test]
fn a_router_answers_nothing() {
    let Some(mut world) = world() else { return };
    let (_near, address) = site(&mut world, Nat::EndpointIndependent);
    let (far, _) = &world.open[0];
    let error = connect(far, (address, 9), Duration::from_millis(500)).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::TimedOut);
}
