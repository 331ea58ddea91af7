//! Listeners of guests, and connections that come in for them.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::time::Duration;

use common::agent::{Agent, PATIENCE, connect};
use common::{eventually, setup};
use outsock_harness::Gateway;
use outsock_virtual_guest::{Connection, Options};
use outsock_vmrpc::socket::inbound::{self, ListenerId, Refuse, Report, Session};
use outsock_vmrpc::{Errno, RpcError};

fn gateway(publishes: &str) -> (Gateway, Agent) {
    let gateway = setup().guest("web", 3).guest("db", 4).toml(publishes).start().unwrap();
    let guest = common::boot(&gateway);
    let agent = Agent::new(&guest, 7);
    (gateway, agent)
}

/// Guest port 80 on any free port of loopback; those from 5000 on their own port.
const PUBLISHES: &str = "[[publish]]\nname = \"web\"\nports = [80]\nlisten = \"127.0.0.1:0\"\n\
                         [[publish]]\nname = \"same\"\nports = [\"5000-65535\"]\nlisten = \"127.0.0.1\"\n";

fn is_reset(mut stream: &TcpStream) -> bool {
    let end = stream.read(&mut [0]);
    end.is_err_and(|error| error.kind() == ErrorKind::ConnectionReset)
}

fn talk(mut near: &Connection, mut far: &TcpStream) {
    far.write_all(b"hello").unwrap();
    let mut bytes = [0; 5];
    near.read_exact(&mut bytes).unwrap();
    assert_eq!(&bytes, b"hello");
    near.write_all(b"world").unwrap();
    far.read_exact(&mut bytes).unwrap();
    assert_eq!(&bytes, b"world");
}

#[test]
fn a_published_listener_is_reached_and_shown() {
    let (gateway, agent) = gateway(PUBLISHES);
    let place = agent.listen(1, "0.0.0.0:80");
    let far = connect(place);
    let (notice, near) = agent.accept();
    assert_eq!(notice.listener, ListenerId(1));
    assert_eq!(notice.peer, Some(far.local_addr().unwrap()));
    assert_eq!(notice.local, Some(place));
    talk(&near, &far);
    let status = gateway.status().unwrap();
    let listener = &status["listeners"][0];
    assert_eq!(listener["address"], "0.0.0.0:80");
    assert_eq!(listener["program"], "/usr/sbin/server");
    assert_eq!(
        (&listener["waiting"], &listener["places"][0]),
        (&1.into(), &place.to_string().into())
    );
    let publish = &status["publishes"][0];
    assert_eq!((&publish["name"], &publish["places"][0]["accepted"]), (&"web".into(), &1.into()));
    let connection = &status["connections"][0];
    assert_eq!(connection["direction"], "in");
    assert_eq!(connection["peer"], far.local_addr().unwrap().to_string());
    assert_eq!(
        (&connection["rule"], &connection["destination"]),
        (&"web".into(), &"0.0.0.0:80".into())
    );
    agent.report(1, 1);
    assert_eq!(gateway.status().unwrap()["guests"][0]["waiting"], 0);
    // The client's end arrives as an end, and ours at the client.
    far.shutdown(std::net::Shutdown::Write).unwrap();
    assert_eq!((&near).read(&mut [0]).unwrap(), 0);
    drop(near);
    assert_eq!((&far).read(&mut [0]).unwrap(), 0);
    agent.guest.assert_clean();
}

#[test]
fn nothing_else_is_reachable() {
    let (gateway, agent) = gateway(PUBLISHES);
    for local in ["0.0.0.0:81", "127.0.0.1:80", "[::1]:80", "[::ffff:127.0.0.1]:6000"] {
        assert_eq!(agent.listen_with(1, local, 1), Ok(vec![]), "{local}");
    }
    let status = gateway.status().unwrap();
    assert_eq!(status["publishes"][0]["places"].as_array().unwrap().len(), 0);
    assert_eq!(status["listeners"].as_array().unwrap().len(), 1, "one number, one listener");
}

#[test]
fn a_taken_place_is_in_use_until_it_is_free() {
    let (gateway, agent) = gateway(PUBLISHES);
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = format!("0.0.0.0:{}", taken.local_addr().unwrap().port());
    assert_eq!(agent.listen_with(1, &address, 1), Err(Errno::EADDRINUSE));
    drop(taken);
    // A test beside this one that forks has the port for a moment more.
    eventually("it is free", || agent.listen_with(1, &address, 1).is_ok());
    let place = agent.listen(1, &address);
    // Two guests: the first has it until it ends.
    let other = gateway.boot("db", Options::default()).unwrap();
    let other = Agent::new(&other, 7);
    assert_eq!(other.listen_with(1, &address, 1), Err(Errno::EADDRINUSE));
    agent.unlisten(1);
    assert_eq!(other.listen(1, &address), place);
    let far = connect(place);
    talk(&other.accept().1, &far);
}

#[test]
fn an_end_of_listening_is_one_at_once() {
    let (_gateway, agent) = gateway(PUBLISHES);
    let place = agent.listen(1, "0.0.0.0:80");
    let (fetched, waits) = (connect(place), connect(place));
    let notices = agent.ask(Vec::new()).recv_timeout(PATIENCE).unwrap();
    let near = agent.fetch(&notices[0]);
    agent.unlisten(1);
    assert_eq!(TcpStream::connect(place).unwrap_err().kind(), ErrorKind::ConnectionRefused);
    talk(&near, &fetched);
    // Whether it was told of or not: nobody can take it any more.
    assert!(is_reset(&waits));
    // The same when the agent dies.
    let place = agent.listen(2, "0.0.0.0:80");
    let waits = connect(place);
    drop(agent.binding);
    eventually("nobody listens", || TcpStream::connect(place).is_err());
    assert!(is_reset(&waits));
    talk(&near, &fetched);
}

#[test]
fn whoever_is_never_fetched_is_reset_and_others_are_not() {
    let (_gateway, agent) = gateway(PUBLISHES);
    let place = agent.listen(1, "0.0.0.0:80");
    let lost = connect(place);
    let _told = agent.ask(Vec::new()).recv_timeout(PATIENCE).unwrap();
    let far = connect(place);
    let (_, near) = agent.accept();
    assert!(is_reset(&lost), "10 s later");
    talk(&near, &far);
}

#[test]
fn a_refused_connection_is_reset() {
    let (_gateway, agent) = gateway(PUBLISHES);
    let place = agent.listen(1, "0.0.0.0:80");
    for fetched in [false, true] {
        let far = connect(place);
        let notice = agent.ask(Vec::new()).recv_timeout(PATIENCE).unwrap()[0];
        let _near = fetched.then(|| agent.fetch(&notice));
        agent.binding.perform_rpc(inbound::REFUSE, &Refuse(notice.token).encode()).unwrap();
        assert!(is_reset(&far), "fetched: {fetched}");
    }
}

#[test]
fn no_more_wait_than_the_backlog() {
    let (gateway, agent) = gateway(PUBLISHES);
    let place = agent.listen_with(1, "0.0.0.0:80", 2).unwrap()[0];
    let other = agent.listen(2, "0.0.0.0:6789");
    let fars: Vec<_> = (0..10).map(|_| connect(place)).collect();
    let waiting = || gateway.status().unwrap()["guests"][0]["waiting"].as_u64().unwrap();
    eventually("the backlog is full", || waiting() == 2);
    std::thread::sleep(Duration::from_millis(100));
    assert_eq!(waiting(), 2);
    let mut notices = Vec::new();
    while notices.len() < 2 {
        notices.extend(agent.ask(Vec::new()).recv_timeout(PATIENCE).unwrap());
    }
    // A full backlog is no other listener's.
    let far = connect(other);
    talk(&agent.accept().1, &far);
    while notices.len() < 10 {
        agent.report(1, 1);
        notices.extend(agent.ask(Vec::new()).recv_timeout(PATIENCE).unwrap());
        assert!(waiting() <= 3, "2 of one, 1 of the other");
    }
    let peers: Vec<_> = notices.iter().map(|notice| notice.peer.unwrap()).collect();
    assert_eq!(peers, fars.iter().map(|far| far.local_addr().unwrap()).collect::<Vec<_>>());
}

#[test]
fn a_reload_publishes_and_withdraws() {
    let (gateway, agent) = gateway("");
    assert_eq!(agent.listen_with(1, "0.0.0.0:80", 8), Ok(vec![]));
    let text = std::fs::read_to_string(gateway.config()).unwrap();
    let reload = |publishes: &str| {
        std::fs::write(gateway.config(), format!("{text}\n{publishes}")).unwrap();
        let output = gateway.command("reload").output().unwrap();
        assert!(output.status.success(), "{output:?}");
        gateway.status().unwrap()["listeners"][0].clone()
    };
    let place = |listener: &serde_json::Value| -> Option<SocketAddr> {
        listener["places"][0].as_str().map(|place| place.parse().unwrap())
    };
    let at = place(&reload(PUBLISHES)).expect("published now");
    let far = connect(at);
    let (_, near) = agent.accept();
    assert_eq!(place(&reload(PUBLISHES)), Some(at), "what has not changed stays");
    assert_eq!(place(&reload("")), None);
    assert_eq!(TcpStream::connect(at).unwrap_err().kind(), ErrorKind::ConnectionRefused);
    talk(&near, &far);
    // A place that is taken is said, and taken when it is free.
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let wanted = taken.local_addr().unwrap();
    let rule = format!("[[publish]]\nports = [80]\nlisten = \"{wanted}\"\n");
    let listener = reload(&rule);
    assert!(listener["error"].as_str().unwrap().contains("in use"), "{listener}");
    drop(taken);
    eventually("it is free", || place(&reload(&rule)) == Some(wanted));
    let (near, far) = agent_next(&agent, wanted);
    talk(&near, &far);
}

/// A connection through a place, both ends.
fn agent_next(agent: &Agent, place: SocketAddr) -> (Connection, TcpStream) {
    let far = connect(place);
    (agent.accept().1, far)
}

#[test]
fn the_guests_limit_of_connections_counts() {
    let (gateway, agent) = gateway(PUBLISHES);
    let text = std::fs::read_to_string(gateway.config()).unwrap();
    let limited = text.replacen("cid = 3\n", "cid = 3\nconnections_max = 2\n", 1);
    std::fs::write(gateway.config(), limited).unwrap();
    assert!(gateway.command("reload").output().unwrap().status.success());
    let place = agent.listen(1, "0.0.0.0:80");
    let first = agent_next(&agent, place);
    let second = agent_next(&agent, place);
    let third = connect(place);
    let told = agent.ask(Vec::new());
    assert!(told.recv_timeout(Duration::from_millis(300)).is_err(), "it waits outside");
    talk(&first.0, &first.1);
    drop(second);
    let notice = told.recv_timeout(PATIENCE).unwrap()[0];
    assert_eq!(notice.peer, third.local_addr().ok());
}

#[test]
fn what_makes_no_sense_is_refused() {
    let (gateway, agent) = gateway(PUBLISHES);
    let call = |function, arguments: &[u8]| agent.binding.perform_rpc(function, arguments);
    for function in inbound::LISTEN..=inbound::REFUSE {
        assert!(call(function, &[0xff; 3]).is_err(), "{function}");
    }
    let stranger = Report { session: Session(1), ended: Vec::new() };
    let refused = Err(RpcError::Function(Errno::EINVAL));
    assert_eq!(call(inbound::REPORT, &stranger.encode()), refused);
    assert_eq!(call(inbound::INBOUND, &stranger.encode()), refused);
    let twice = call(inbound::ATTEND, &agent.session.encode());
    assert_eq!(twice, Err(RpcError::Function(Errno::EBUSY)));
    // More ended than there were, of listeners that are none.
    let ended = vec![(ListenerId(1), u32::MAX), (ListenerId(99), 5)];
    let lie = Report { session: agent.session, ended };
    call(inbound::REPORT, &lie.encode()).unwrap();
    let place = agent.listen(1, "0.0.0.0:80");
    let (near, far) = agent_next(&agent, place);
    talk(&near, &far);
    assert_eq!(gateway.status().unwrap()["guests"][0]["misbehaved"], 0);
}

#[test]
fn many_come_and_nothing_stays() {
    let (gateway, agent) = gateway(PUBLISHES);
    let place = agent.listen_with(1, "0.0.0.0:80", 64).unwrap()[0];
    for _ in 0..1000 {
        let (near, far) = agent_next(&agent, place);
        agent.report(1, 1);
        talk(&near, &far);
        drop((near, far));
    }
    eventually("all are forgotten", || {
        let status = gateway.status().unwrap();
        status["connections"].as_array().unwrap().is_empty()
            && status["guests"][0]["waiting"] == 0
            && status["guests"][0]["accepted"] == 1000
    });
    agent.guest.assert_clean();
}
