//! Flows of datagrams, with sockets of this host.

#![allow(clippy::unwrap_used, reason = "a test that finds something else than it expects fails")]

use std::io;
use std::net::{SocketAddr, UdpSocket};

use outsock_transport::{
    Carried, Destination, DialError, Errno, Flow, FlowRequest, Transport, limits,
};
use outsock_transport_direct::Direct;

async fn open(to: SocketAddr, source_port: Option<u16>) -> Box<dyn Flow> {
    let request = FlowRequest::to(Destination::Address(to), Carried::Udp);
    Direct.flow(FlowRequest { source_port, ..request }).await.unwrap()
}

async fn receive(flow: &dyn Flow, buffer: &mut [u8]) -> io::Result<usize> {
    loop {
        match flow.try_receive(buffer) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => flow.readable().await?,
            outcome => return outcome,
        }
    }
}

#[tokio::test]
async fn datagrams_of_every_length_stay_whole() {
    let server = UdpSocket::bind("127.0.0.1:0").unwrap();
    let flow = open(server.local_addr().unwrap(), None).await;
    let mut buffer = vec![0; limits::DATAGRAM_BYTES_MAX + 1];
    for length in [0, 1, 1472, 16_000, limits::DATAGRAM_BYTES_MAX] {
        let sent: Vec<u8> = (0..length).map(|n| u8::try_from(n % 251).unwrap()).collect();
        flow.try_send(&sent).unwrap();
        let (received, from) = server.recv_from(&mut buffer).unwrap();
        assert_eq!(buffer[..received], sent[..]);
        assert_eq!(Some(from.port()), flow.local().map(|local| local.port()));
        server.send_to(&sent, from).unwrap();
        let received = receive(&*flow, &mut buffer).await.unwrap();
        assert_eq!(buffer[..received], sent[..]);
    }
    let error = flow.try_send(&vec![0; limits::DATAGRAM_BYTES_MAX + 1]).unwrap_err();
    assert_eq!(Errno::of(&error), Errno::EMSGSIZE);
}

#[tokio::test]
async fn nobody_there_is_news_and_not_the_end() {
    let place = UdpSocket::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let flow = open(place, None).await;
    flow.try_send(b"hello").unwrap();
    let error = receive(&*flow, &mut [0; 8]).await.unwrap_err();
    assert_eq!(Errno::of(&error), Errno::ECONNREFUSED);
    let server = UdpSocket::bind(place).unwrap();
    flow.try_send(b"again").unwrap();
    let mut buffer = [0; 8];
    assert_eq!(server.recv(&mut buffer).unwrap(), 5);
}

#[tokio::test]
async fn flows_of_one_socket_share_its_port_and_nothing_else() {
    let servers = [(); 3].map(|()| UdpSocket::bind("127.0.0.1:0").unwrap());
    let first = open(servers[0].local_addr().unwrap(), None).await;
    let port = first.local().unwrap().port();
    let second = open(servers[1].local_addr().unwrap(), Some(port)).await;
    assert_eq!(second.local().unwrap().port(), port);
    let to: SocketAddr = ([127, 0, 0, 1], port).into();
    servers[2].send_to(b"stranger", to).unwrap();
    servers[1].send_to(b"second", to).unwrap();
    servers[0].send_to(b"first", to).unwrap();
    let mut buffer = [0; 16];
    let received = receive(&*first, &mut buffer).await.unwrap();
    assert_eq!(&buffer[..received], b"first");
    let received = receive(&*second, &mut buffer).await.unwrap();
    assert_eq!(&buffer[..received], b"second");
    for flow in [&first, &second] {
        assert_eq!(flow.try_receive(&mut buffer).unwrap_err().kind(), io::ErrorKind::WouldBlock);
    }
}

#[tokio::test]
async fn names_and_files_are_no_destinations() {
    let name = Destination::Name { name: "a.example".into(), port: 1 };
    for to in [name, Destination::Unix("/nowhere".into())] {
        let error = Direct.flow(FlowRequest::to(to, Carried::Udp)).await.unwrap_err();
        assert!(matches!(error, DialError::UnsupportedDestination(_)), "{error}");
    }
}
