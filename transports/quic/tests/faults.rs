//! Bad paths, bad peers, and peers that come and go.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use std::net::UdpSocket as StdSocket;
use std::sync::Arc;
use std::time::Duration;

use common::{PATIENCE, Site, identity, loopback, pair, request, service, settings};
use outsock_link::{Link, Quality};
use outsock_transport::{DialError, Errno, Listener, Transport};
use outsock_transport_quic::{Peer, PeerSettings, Settings};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::{Instant, timeout};

type End = std::pin::Pin<Box<dyn outsock_transport::AsyncStream>>;

/// Waits for what is about to be true.
async fn until(what: &str, condition: impl Fn() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !condition() {
        assert!(Instant::now() < deadline, "not within {PATIENCE:?}: {what}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// A connection to a fresh service, and its listener.
async fn connect(peer: &Arc<Peer>, far: &Site, name: &str) -> (End, End, Box<dyn Listener>) {
    let mut door = far.doors.listen(&service(name)).await.unwrap();
    let (dialed, inbound) = tokio::join!(peer.dial(request(service(name))), door.accept());
    let near = dialed.unwrap().stream.into_async().unwrap();
    (near, inbound.unwrap().stream.into_async().unwrap(), door)
}

/// Both ways, and both ends.
async fn exchange(near: &mut End, far: &mut End, bytes: usize) {
    let sent: Vec<u8> = (0..bytes).map(|at| u8::try_from(at * 7 % 251).unwrap()).collect();
    for there in [true, false] {
        let (from, to) = if there { (&mut *near, &mut *far) } else { (&mut *far, &mut *near) };
        let mut got = vec![0; bytes];
        let (written, read) = tokio::join!(from.write_all(&sent), to.read_exact(&mut got));
        written.unwrap();
        read.unwrap();
        assert!(got == sent, "bytes changed on the way");
    }
}

/// Two gateways with a link between them.
struct Linked {
    near: Site,
    far: Site,
    link: Link,
    peer: Arc<Peer>,
}

async fn linked(near: Settings, far: Settings, quality: Quality) -> Linked {
    let (near, far) = (Site::start(1, near), Site::start(2, far));
    far.expects("near", &near);
    let link = Link::start(loopback(0), far.address, quality).await.unwrap();
    let at = [link.address().to_string()];
    let peer = near.endpoint.set_peers(&[PeerSettings::new("far", far.key, &at)]).remove(0);
    Linked { near, far, link, peer }
}

fn short() -> Settings {
    Settings { dead_after: Duration::from_secs(2), ..settings() }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_dead_path_is_seen_and_a_healed_one_is_taken_again() {
    let all = linked(short(), short(), Quality::default()).await;
    let (mut near, mut far, _door) = connect(&all.peer, &all.far, "one").await;
    exchange(&mut near, &mut far, 10_000).await;
    all.link.set(Quality { cut: true, ..Quality::default() });
    // An idle reader and an idle one on the other side: both hear of it, by its name.
    for end in [&mut near, &mut far] {
        let error = timeout(PATIENCE, end.read(&mut [0; 8])).await.unwrap().unwrap_err();
        assert_eq!(Errno::of(&error), Errno::ETIMEDOUT);
        let error = end.write(b"x").await.unwrap_err();
        assert_eq!(Errno::of(&error), Errno::ETIMEDOUT);
    }
    let error = all.peer.dial(request(service("one"))).await.unwrap_err();
    assert_eq!(error, DialError::HostUnreachable);
    until("a status that says why", || all.peer.status().error.is_some()).await;
    all.link.set(Quality::default());
    until("a new connection", || all.peer.status().connections > 0).await;
    let (mut near, mut far, _door) = connect(&all.peer, &all.far, "two").await;
    exchange(&mut near, &mut far, 10_000).await;
    assert!(all.peer.status().connected >= 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_idle_connection_is_kept() {
    let all = linked(short(), short(), Quality::default()).await;
    let (mut near, mut far, _door) = connect(&all.peer, &all.far, "idle").await;
    // Three times what a silent path is given.
    tokio::time::sleep(3 * short().dead_after).await;
    exchange(&mut near, &mut far, 1000).await;
    assert_eq!(all.peer.status().connected, 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lossy_path_loses_no_bytes() {
    let quality =
        Quality { delay: Duration::from_millis(5), loss_per_million: 10_000, ..Quality::default() };
    let all = linked(settings(), settings(), quality).await;
    let (mut near, mut far, _door) = connect(&all.peer, &all.far, "bulk").await;
    exchange(&mut near, &mut far, 2 << 20).await;
    assert!(all.link.counts().1 > 0, "the link lost nothing");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn small_paths_and_paths_that_shrink_are_found() {
    let narrow = Quality { bytes_max: Some(1232), ..Quality::default() };
    let all = linked(settings(), settings(), narrow).await;
    let (mut near, mut far, _door) = connect(&all.peer, &all.far, "narrow").await;
    exchange(&mut near, &mut far, 1 << 20).await;
    all.link.set(Quality::default());
    drop((near, far));

    let all = linked(settings(), settings(), Quality::default()).await;
    let (mut near, mut far, _door) = connect(&all.peer, &all.far, "wide").await;
    exchange(&mut near, &mut far, 4 << 20).await;
    until("the full size", || all.peer.status().mtu.is_some_and(|mtu| mtu > 1300)).await;
    // What routers do that drop large packets and say nothing.
    all.link.set(Quality { bytes_max: Some(1272), ..Quality::default() });
    timeout(PATIENCE, exchange(&mut near, &mut far, 1 << 20)).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_gateway_that_moves_keeps_its_connections() {
    let (near, far, peer) = pair();
    let (mut one, mut other, _door) = connect(&peer, &far, "moving").await;
    exchange(&mut one, &mut other, 1000).await;
    let before = near.endpoint.local_addr().unwrap();
    near.endpoint.rebind(loopback(0)).unwrap();
    assert_ne!(near.endpoint.local_addr().unwrap(), before);
    timeout(PATIENCE, exchange(&mut one, &mut other, 100_000)).await.unwrap();
    assert_eq!(peer.status().connected, 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_captured_flight_opens_nothing_again() {
    let all = linked(settings(), settings(), Quality::default()).await;
    all.link.record();
    let (mut near, mut far, mut door) = connect(&all.peer, &all.far, "once").await;
    exchange(&mut near, &mut far, 100).await;
    let replayer = StdSocket::bind("127.0.0.1:0").unwrap();
    let flight = all.link.recorded();
    assert!(!flight.is_empty());
    for packet in &flight {
        replayer.send_to(packet, all.far.address).unwrap();
    }
    // Whatever comes of it would come before a stream that is opened after it.
    exchange(&mut near, &mut far, 100).await;
    let (dialed, inbound) = tokio::join!(all.peer.dial(request(service("once"))), door.accept());
    let (mut near, mut far) = (
        dialed.unwrap().stream.into_async().unwrap(),
        inbound.unwrap().stream.into_async().unwrap(),
    );
    exchange(&mut near, &mut far, 100).await;
    let more = timeout(Duration::from_millis(200), door.accept()).await;
    assert!(more.is_err(), "the replay opened a stream");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_gateway_that_was_killed_and_started_anew_ends_the_old_connections_at_once() {
    // So long that only a reset of the new life can end the stream within the test.
    let slow = Settings { dead_after: Duration::from_secs(600), ..settings() };
    let mut all = linked(slow.clone(), slow.clone(), Quality::default()).await;
    let (mut near, far, _door) = connect(&all.peer, &all.far, "one").await;
    // Nothing of the old life's farewell gets through, as after SIGKILL.
    all.link.set(Quality { cut: true, ..Quality::default() });
    let at = all.far.address;
    all.far.endpoint.close(Duration::ZERO).await;
    // A stream keeps the port.
    drop((far, all.far));
    let is_free = || StdSocket::bind(at).is_ok();
    until("the port is free again", is_free).await;
    let again = Settings { listen: at, ..slow };
    all.far = Site::start(2, again);
    all.far.expects("near", &all.near);
    all.link.set(Quality::default());
    // The guest writes, the new life knows nothing of it and says so.
    near.write_all(&[7; 100]).await.unwrap();
    let error = timeout(PATIENCE, near.read(&mut [0; 8])).await.unwrap().unwrap_err();
    assert_eq!(Errno::of(&error), Errno::ECONNRESET);
    until("a new connection", || all.peer.status().connections > 0).await;
    let (mut near, mut far, _door) = connect(&all.peer, &all.far, "two").await;
    exchange(&mut near, &mut far, 1000).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_dialling_gateway_that_starts_anew_replaces_its_connection() {
    let slow = Settings { dead_after: Duration::from_secs(600), ..settings() };
    let mut all = linked(slow.clone(), slow.clone(), Quality::default()).await;
    let (_near, mut far, _door) = connect(&all.peer, &all.far, "one").await;
    all.link.set(Quality { cut: true, ..Quality::default() });
    all.near.endpoint.close(Duration::ZERO).await;
    drop((all.near, all.peer));
    let again = Link::start(loopback(0), all.far.address, Quality::default()).await.unwrap();
    all.near = Site::start(1, slow);
    let at = [again.address().to_string()];
    let settings = PeerSettings::new("far", all.far.key, &at);
    all.peer = all.near.endpoint.set_peers(&[settings]).remove(0);
    let error = timeout(PATIENCE, far.read(&mut [0; 8])).await.unwrap().unwrap_err();
    assert_eq!(Errno::of(&error), Errno::ECONNRESET);
    let (mut near, mut far, _door) = connect(&all.peer, &all.far, "two").await;
    exchange(&mut near, &mut far, 1000).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn wrong_keys_are_refused_by_name() {
    let (near, far) = (Site::start(1, settings()), Site::start(2, settings()));
    // The far gateway does not know us.
    let peer = near.dials("far", &far);
    let error = peer.dial(request(service("x"))).await.unwrap_err();
    let DialError::NotAuthenticated(text) = &error else { panic!("{error:?}") };
    assert!(text.contains("[[peer]]"), "{text}");
    assert_eq!(error.errno(), Errno::EACCES);
    // It is not who it should be.
    far.expects("near", &near);
    let other = identity(9).key();
    let at = [far.address.to_string()];
    let peer = near.endpoint.set_peers(&[PeerSettings::new("far", other, &at)]).remove(0);
    let error = peer.dial(request(service("x"))).await.unwrap_err();
    let DialError::NotAuthenticated(text) = &error else { panic!("{error:?}") };
    assert!(text.contains(&other.to_string()) && text.contains(&far.key.to_string()), "{text}");
    assert!(far.endpoint.peers()[0].status().address.is_none());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_peer_that_is_removed_is_cut_off() {
    let (_near, far, peer) = pair();
    let (mut one, mut other, _door) = connect(&peer, &far, "one").await;
    exchange(&mut one, &mut other, 100).await;
    far.endpoint.set_peers(&[]);
    for end in [&mut one, &mut other] {
        let error = timeout(PATIENCE, end.read(&mut [0; 8])).await.unwrap().unwrap_err();
        assert_eq!(Errno::of(&error), Errno::ECONNRESET);
    }
    until("a refusal", || matches!(peer.status().error, Some(text) if text.contains("[[peer]]")))
        .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_drain_lets_streams_end_and_takes_no_new_ones() {
    let (_near, far, peer) = pair();
    let (mut one, mut other, _door) = connect(&peer, &far, "one").await;
    let endpoint = Arc::clone(&far.endpoint);
    let closing = tokio::spawn(async move { endpoint.close(PATIENCE).await });
    until("the news of the drain", || peer.status().connections == 1 && !peer_takes(&peer)).await;
    let error = peer.dial(request(service("one"))).await.unwrap_err();
    assert_eq!(error.errno(), Errno::EHOSTUNREACH, "{error}");
    exchange(&mut one, &mut other, 100_000).await;
    assert!(!closing.is_finished(), "a stream is open");
    one.shutdown().await.unwrap();
    other.write_all(b"last words").await.unwrap();
    other.shutdown().await.unwrap();
    drop(other);
    let mut text = String::new();
    one.read_to_string(&mut text).await.unwrap();
    assert_eq!(text, "last words");
    drop(one);
    timeout(PATIENCE, closing).await.unwrap().unwrap();
}

fn peer_takes(peer: &Peer) -> bool {
    peer.status().draining == 0
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn both_dial_and_one_connection_is_kept() {
    let (near, far) = (Site::start(1, settings()), Site::start(2, settings()));
    let peers = [near.dials("far", &far), far.dials("near", &near)];
    // The first try may have come before the other side knew of us, and been refused.
    until("a connection", || peers.iter().all(|peer| peer.status().connections > 0)).await;
    let (mut one, mut other, _door) = connect(&peers[0], &far, "one").await;
    exchange(&mut one, &mut other, 1000).await;
    // It may ride on the connection that is about to go, which waits for its streams.
    drop((one, other));
    until("one connection", || peers.iter().all(|peer| peer.status().connections == 1)).await;
    let (mut one, mut other, _door) = connect(&peers[0], &far, "two").await;
    exchange(&mut one, &mut other, 1000).await;
    assert_eq!(peers[0].status().address, Some(far.address));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_gateways_with_one_key_do_not_take_turns() {
    let (near, far, peer) = pair();
    let (mut one, mut other, _door) = connect(&peer, &far, "one").await;
    exchange(&mut one, &mut other, 10).await;
    let twin = Site::start(1, settings());
    let twin_peer = twin.dials("far", &far);
    until("the twin", || twin_peer.status().connections == 1).await;
    // The first one comes back, and is told.
    until("a reason", || matches!(peer.status().error, Some(text) if text.contains("same key")))
        .await;
    assert_eq!(twin_peer.status().connected, 1);
    drop(near);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_name_that_does_not_resolve_and_a_port_where_nobody_is() {
    let near = Site::start(1, settings());
    let silent = StdSocket::bind("127.0.0.1:0").unwrap();
    let at = [silent.local_addr().unwrap().to_string(), "no-such-host.invalid:9".to_owned()];
    let far = identity(2).key();
    let quick = Settings { dead_after: Duration::from_secs(1), ..settings() };
    drop(near);
    let near = Site::start(1, quick);
    let peer = near.endpoint.set_peers(&[PeerSettings::new("far", far, &at)]).remove(0);
    let error = peer.dial(request(service("x"))).await.unwrap_err();
    assert_eq!(error, DialError::HostUnreachable);
    let nowhere = near.endpoint.set_peers(&[PeerSettings::new("far", far, &[])]).remove(0);
    let error = nowhere.dial(request(service("x"))).await.unwrap_err();
    assert_eq!(error, DialError::HostUnreachable);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_connections_to_a_peer_share_its_streams() {
    let (near, far) = (Site::start(1, settings()), Site::start(2, settings()));
    far.expects("near", &near);
    let at = [far.address.to_string()];
    let two = PeerSettings { connections: 2, ..PeerSettings::new("far", far.key, &at) };
    let peer = near.endpoint.set_peers(&[two]).remove(0);
    until("two connections", || peer.status().connections == 2).await;
    let mut ends = Vec::new();
    for number in 0..4 {
        let name = format!("door{number}");
        ends.push(connect(&peer, &far, &name).await);
    }
    for (one, other, _door) in &mut ends {
        exchange(one, other, 100_000).await;
    }
    assert_eq!(peer.status().streams, 4);
    assert_eq!(peer.status().connections, 2);
}
