//! Datagrams of a virtual guest: rules, failures, lengths, limits.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use std::io::{Read, Write};
use std::net::{SocketAddr, UdpSocket};
use std::time::Duration;

use common::{boot, eventually, setup};
use outsock_harness::Gateway;
use outsock_virtual_guest::{Connection, VirtualGuest};
use outsock_vmrpc::datagram::{self, FlowKey, Message, Messages, Open};
use outsock_vmrpc::limits::DATAGRAM_BYTES_MAX;
use outsock_vmrpc::socket::Token;
use outsock_vmrpc::{Binding, Errno};

/// A guest with an open channel.
struct Agent {
    connection: Connection,
    messages: Messages,
    _guest: VirtualGuest,
    _binding: Binding,
}

/// What came, with a payload of its own.
#[derive(Debug, PartialEq)]
enum Came {
    Datagram(SocketAddr, SocketAddr, Vec<u8>),
    Echo(u16, Vec<u8>),
    Failed(FlowKey, Errno),
}

impl Agent {
    fn new(gateway: &Gateway) -> Self {
        let guest = boot(gateway);
        let binding = guest.rpc().unwrap().bind_module(datagram::NAME, datagram::VERSIONS).unwrap();
        let token = Token::from_random(4711);
        let open = Open { token, v4: Some([192, 0, 0, 2].into()), v6: None };
        binding.perform_rpc(datagram::OPEN, &open.encode()).unwrap();
        let connection = guest.open(token.raw()).unwrap();
        Self { connection, messages: Messages::default(), _guest: guest, _binding: binding }
    }

    fn say(&self, message: &Message<'_>) {
        let mut bytes = Vec::new();
        assert!(message.encode(&mut bytes));
        (&self.connection).write_all(&bytes).unwrap();
    }

    fn send(&self, port: u16, to: SocketAddr, payload: &[u8]) {
        self.say(&Message::Datagram { from: own(port), to, payload });
    }

    fn hear(&mut self) -> Came {
        loop {
            if let Some(message) = self.messages.next().unwrap() {
                return match message {
                    Message::Datagram { from, to, payload } => {
                        Came::Datagram(from, to, payload.to_vec())
                    }
                    Message::Echo { identifier, payload, .. } => {
                        Came::Echo(identifier, payload.to_vec())
                    }
                    Message::Failed { flow, errno } => Came::Failed(flow, errno),
                };
            }
            let mut piece = vec![0; 64 * 1024];
            let length = (&self.connection).read(&mut piece).unwrap();
            assert_ne!(length, 0, "the channel ended");
            self.messages.push(&piece[..length]);
        }
    }
}

fn own(port: u16) -> SocketAddr {
    ([192, 0, 0, 2], port).into()
}

fn far(port: u16) -> SocketAddr {
    ([192, 0, 2, 1], port).into()
}

fn failed(port: u16, to: SocketAddr, errno: Errno) -> Came {
    Came::Failed(FlowKey::Udp { guest: own(port), far: to }, errno)
}

fn server() -> (UdpSocket, SocketAddr) {
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    socket.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    let address = socket.local_addr().unwrap();
    (socket, address)
}

fn rule(port: u16, target: SocketAddr) -> String {
    format!(
        "[[route]]\nto = [\"192.0.2.1/32\"]\nprotocol = \"udp\"\nports = [{port}]\nvia = \"direct\"\n\
         target = \"{target}\"\n"
    )
}

#[test]
fn datagrams_go_where_the_rules_say_and_answers_come_back() {
    let (first, first_at) = server();
    let (second, second_at) = server();
    let rules = rule(1, first_at) + &rule(2, second_at);
    let gateway = setup().guest("web", 3).toml(&rules).start().unwrap();
    let mut agent = Agent::new(&gateway);
    let mut buffer = vec![0; DATAGRAM_BYTES_MAX];
    let mut sources = Vec::new();
    for (socket, port) in [(&first, 1), (&second, 2)] {
        for length in [0, 1, 1400, DATAGRAM_BYTES_MAX] {
            let payload: Vec<u8> = (0..length).map(|n| u8::try_from(n % 249).unwrap()).collect();
            agent.send(5000, far(port), &payload);
            let (got, from) = socket.recv_from(&mut buffer).unwrap();
            assert_eq!(buffer[..got], payload[..]);
            socket.send_to(&payload, from).unwrap();
            assert_eq!(agent.hear(), Came::Datagram(far(port), own(5000), payload));
            sources.push(from);
        }
    }
    sources.dedup();
    assert_eq!(sources.len(), 1, "one socket of the guest comes from one port");
    // Another socket of the guest is another one here.
    agent.send(5001, far(1), b"other");
    let (_, from) = first.recv_from(&mut buffer).unwrap();
    assert_ne!(from, sources[0]);
    let status = gateway.status().unwrap();
    let guest = &status["guests"][0];
    assert_eq!((&guest["flows"], &guest["datagrams_from_guest"]), (&3.into(), &9.into()));
    assert_eq!(guest["datagrams_to_guest"], 8);
}

#[test]
fn refusals_and_failures_come_back_as_errno() {
    let (open, open_at) = server();
    let closed_at = server().1;
    let rules = rule(1, open_at)
        + &rule(2, closed_at)
        + "[[route]]\nto = [\"192.0.2.1/32\"]\nprotocol = \"udp\"\nports = [3]\nrefuse = \"EHOSTUNREACH\"\n\
           [[route]]\nto = [\"192.0.2.1/32\"]\nprotocol = \"tcp\"\nports = [4]\nvia = \"direct\"\n";
    let gateway = setup().guest("web", 3).toml(&rules).start().unwrap();
    let mut agent = Agent::new(&gateway);
    agent.send(5000, far(2), b"nobody");
    assert_eq!(agent.hear(), failed(5000, far(2), Errno::ECONNREFUSED));
    agent.send(5000, far(3), b"refused");
    assert_eq!(agent.hear(), failed(5000, far(3), Errno::EHOSTUNREACH));
    agent.send(5000, far(3), b"still");
    assert_eq!(agent.hear(), failed(5000, far(3), Errno::EHOSTUNREACH));
    // A rule for TCP opens nothing for UDP.
    agent.send(5000, far(4), b"tcp only");
    assert_eq!(agent.hear(), failed(5000, far(4), Errno::EACCES));
    // Nor does anything lead to the host itself.
    let host: SocketAddr = ([127, 0, 0, 1], open_at.port()).into();
    agent.send(5000, host, b"the host");
    assert_eq!(agent.hear(), failed(5000, host, Errno::EACCES));
    agent.send(5000, far(1), b"fine");
    assert_eq!(open.recv(&mut [0; 8]).unwrap(), 4);
}

#[test]
fn echo_is_answered_where_a_rule_allows_it() {
    let rules = "[[route]]\nto = [\"127.0.0.1/32\"]\nprotocol = \"icmp\"\nvia = \"direct\"\n";
    let gateway = setup().guest("web", 3).toml(rules).start().unwrap();
    let mut agent = Agent::new(&gateway);
    let from = own(0).ip();
    let payload = b"\x00\x01ping";
    agent.say(&Message::Echo { from, to: far(0).ip(), identifier: 7, payload });
    let flow = FlowKey::Echo { guest: from, far: far(0).ip(), identifier: 7 };
    assert_eq!(agent.hear(), Came::Failed(flow, Errno::EACCES));
    agent.say(&Message::Echo { from, to: [127, 0, 0, 1].into(), identifier: 7, payload });
    match agent.hear() {
        Came::Echo(7, echoed) => assert_eq!(echoed, payload),
        Came::Failed(_, Errno::EACCES) => println!("skipped: this host allows no ICMP echo"),
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_channel_that_breaks_the_protocol_is_reset_and_another_works() {
    let (socket, at) = server();
    let gateway = setup().guest("web", 3).toml(&rule(1, at)).start().unwrap();
    let agent = Agent::new(&gateway);
    agent.send(5000, far(1), b"before");
    socket.recv(&mut [0; 8]).unwrap();
    (&agent.connection).write_all(&[0xff; 64]).unwrap();
    eventually("the channel is over", || {
        matches!((&agent.connection).read(&mut [0; 8]), Ok(0) | Err(_))
    });
    drop(agent);
    eventually("its flows are over", || gateway.status().unwrap()["guests"][0]["flows"] == 0);
    let agent = Agent::new(&gateway);
    agent.send(5000, far(1), b"after");
    assert_eq!(socket.recv(&mut [0; 8]).unwrap(), 5);
}

#[test]
fn a_published_port_leads_to_the_guest_and_answers_leave_from_it() {
    let at = server().1;
    let publish = format!("[[publish]]\nports = [5300]\nprotocol = \"udp\"\nlisten = \"{at}\"\n");
    let gateway = setup().guest("web", 3).toml(&publish).start().unwrap();
    let mut agent = Agent::new(&gateway);
    let clients = [server().0, server().0];
    let shown = |client: &UdpSocket| {
        SocketAddr::new(datagram::HOST_V4.into(), client.local_addr().unwrap().port())
    };
    eventually("the port is open", || UdpSocket::bind(at).is_err());
    for client in &clients {
        client.send_to(b"question", at).unwrap();
        let question = Came::Datagram(shown(client), own(5300), b"question".to_vec());
        assert_eq!(agent.hear(), question);
    }
    for client in &clients {
        agent.send(5300, shown(client), b"answer");
        let mut buffer = [0; 16];
        assert_eq!(client.recv_from(&mut buffer).unwrap(), (6, at));
    }
    // To speak first, or from another port, takes a rule.
    let stranger = SocketAddr::new(datagram::HOST_V4.into(), 9);
    agent.send(5300, stranger, b"hello");
    assert_eq!(agent.hear(), failed(5300, stranger, Errno::EACCES));
    agent.send(5301, shown(&clients[0]), b"hello");
    assert_eq!(agent.hear(), failed(5301, shown(&clients[0]), Errno::EACCES));
    drop(agent);
    eventually("the port is closed", || UdpSocket::bind(at).is_ok());
}
