//! Many streams, slow readers, floods, and datagrams.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use std::io::ErrorKind;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use common::{PATIENCE, Site, identity, pair, pair_with, request, service, settings};
use outsock_peer::Refusal;
use outsock_transport::{Carried, DialError, Errno, Flow, Listener, Origin, Transport};
use outsock_transport_quic::{Datagrams, Endpoint, PeerSettings, Settings, limits};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::task::JoinSet;
use tokio::time::timeout;

/// Echoes what comes to a listener.
fn serve(mut door: Box<dyn Listener>) -> tokio::task::JoinHandle<()> {
    tokio::spawn(async move {
        while let Ok(inbound) = door.accept().await {
            tokio::spawn(async move {
                let mut end = inbound.stream.into_async().unwrap();
                let mut buffer = vec![0; 16 << 10];
                while let Ok(count @ 1..) = end.read(&mut buffer).await {
                    if end.write_all(&buffer[..count]).await.is_err() {
                        return;
                    }
                }
                let _ = end.shutdown().await;
            });
        }
    })
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn five_thousand_streams_at_once() {
    const STREAMS: u32 = 5000;
    let (_near, far, peer) = pair();
    let server = serve(far.doors.listen(&service("echo")).await.unwrap());
    let mut open = JoinSet::new();
    for number in 0..STREAMS {
        let peer = Arc::clone(&peer);
        open.spawn(async move {
            let dialed = peer.dial(request(service("echo"))).await.unwrap();
            (number, dialed.stream.into_async().unwrap())
        });
    }
    let mut streams = open.join_all().await;
    assert_eq!(peer.status().streams, STREAMS as usize);
    assert_eq!(peer.status().connections, 1);
    // All stand at the same time; each carries its own bytes.
    for (number, end) in &mut streams {
        end.write_u32(*number).await.unwrap();
    }
    for (number, end) in &mut streams {
        assert_eq!(end.read_u32().await.unwrap(), *number);
    }
    drop(streams);
    server.abort();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn stalled_streams_hold_no_more_than_the_cap_and_fast_ones_go_on() {
    const STALLED: usize = 48;
    let tight = Settings {
        // As configured; the memory of two connections makes less of it.
        stream_window: 4 << 20,
        memory_max: 64 << 20,
        ..settings()
    };
    let (_near, far, peer) = pair_with(tight.clone(), tight.clone());
    let mut door = far.doors.listen(&service("stalled")).await.unwrap();
    let written = Arc::new(AtomicUsize::new(0));
    let mut writers = JoinSet::new();
    let mut unread = Vec::new();
    for _ in 0..STALLED {
        let (dialed, inbound) = tokio::join!(peer.dial(request(service("stalled"))), door.accept());
        unread.push(inbound.unwrap().stream.into_async().unwrap());
        let mut end = dialed.unwrap().stream.into_async().unwrap();
        let written = Arc::clone(&written);
        writers.spawn(async move {
            loop {
                let Ok(count) = end.write(&[7; 8 << 10]).await else { return };
                written.fetch_add(count, Ordering::Relaxed);
            }
        });
    }
    // Until nothing moves any more.
    let mut seen = usize::MAX;
    while written.load(Ordering::Relaxed) != seen {
        seen = written.load(Ordering::Relaxed);
        tokio::time::sleep(Duration::from_millis(300)).await;
    }
    // What is buffered on both sides, all told.
    let per_stream = seen / STALLED;
    assert!(per_stream <= 2 * (32 << 20) / 64, "{per_stream} bytes per stream");
    assert!(seen as u64 <= tight.memory_max, "{seen} bytes");
    let server = serve(far.doors.listen(&service("echo")).await.unwrap());
    let mut fast = peer.dial(request(service("echo"))).await.unwrap().stream.into_async().unwrap();
    let (mut read, mut write) = tokio::io::split(&mut fast);
    let data = vec![3; 4 << 20];
    let mut back = vec![0; 4 << 20];
    let both = async { tokio::join!(write.write_all(&data), read.read_exact(&mut back)) };
    let (sent, got) = timeout(PATIENCE, both).await.expect("a fast stream beside stalled ones");
    sent.unwrap();
    got.unwrap();
    assert_eq!(written.load(Ordering::Relaxed), seen, "the stalled ones stand still");
    // A slow reader wakes up: its writer goes on.
    let slow = &mut unread[0];
    let mut some = vec![0; 256 << 10];
    timeout(PATIENCE, slow.read_exact(&mut some)).await.unwrap().unwrap();
    server.abort();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_peer_that_opens_too_many_streams_waits_and_others_do_not() {
    let few = Settings { streams_max: 50, ..settings() };
    let far = Site::start(2, few);
    let (flood, other) = (Site::start(1, settings()), Site::start(3, settings()));
    far.endpoint.set_peers(&[
        PeerSettings::new("flood", flood.key, &[]),
        PeerSettings::new("other", other.key, &[]),
    ]);
    let server = serve(far.doors.listen(&service("echo")).await.unwrap());
    let peer = flood.dials("far", &far);
    let mut dials = JoinSet::new();
    for _ in 0..10_000 {
        let peer = Arc::clone(&peer);
        dials.spawn(async move { peer.dial(request(service("silent"))).await.map(drop) });
    }
    let refused = timeout(PATIENCE, dials.join_next()).await.unwrap().unwrap().unwrap();
    assert_eq!(refused, Err(DialError::OutOfResources("streams that the peer allows")));
    let streams: usize = far.endpoint.peers().iter().map(|peer| peer.status().streams).sum();
    assert!(streams <= 50, "{streams} streams");
    let calm = other.dials("far", &far);
    let mut end = calm.dial(request(service("echo"))).await.unwrap().stream.into_async().unwrap();
    end.write_all(b"x").await.unwrap();
    assert_eq!(end.read_u8().await.unwrap(), b'x');
    dials.shutdown().await;
    server.abort();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn strangers_are_kept_out_and_peers_get_in_meanwhile() {
    let (near, far, peer) = pair();
    let server = serve(far.doors.listen(&service("echo")).await.unwrap());
    let mut strangers = Vec::new();
    for number in 100..140 {
        let stranger = Endpoint::start(&identity(number), settings()).unwrap();
        let at = [far.address.to_string()];
        stranger.set_peers(&[PeerSettings::new("far", far.key, &at)]);
        strangers.push(stranger);
    }
    // Garbage, and the beginnings of handshakes that are never finished.
    let socket = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
    for number in 0..2000_u32 {
        let mut packet = vec![0xc3, 0, 0, 0, 1, 8];
        packet.extend(number.to_le_bytes().repeat(300));
        socket.send_to(&packet, far.address).unwrap();
    }
    let mut end = peer.dial(request(service("echo"))).await.unwrap().stream.into_async().unwrap();
    for _ in 0..100 {
        end.write_all(b"x").await.unwrap();
        assert_eq!(end.read_u8().await.unwrap(), b'x');
    }
    for stranger in &strangers {
        let peer = &stranger.peers()[0];
        let error = peer.dial(request(service("echo"))).await.unwrap_err();
        assert!(matches!(error, DialError::NotAuthenticated(_)), "{error:?}");
    }
    assert_eq!(far.endpoint.peers().len(), 1);
    drop(near);
    server.abort();
}

#[tokio::test]
async fn a_circle_of_gateways_ends_by_name() {
    let (_near, _far, peer) = pair();
    let hops = outsock_peer::limits::HOPS_MAX;
    let mut asked = request(service("x"));
    asked.origin = Origin { hops, ..Origin::default() };
    let error = peer.dial(asked).await.unwrap_err();
    assert_eq!(error.errno(), Errno::ELOOP);
    assert!(error.to_string().contains("circle"), "{error}");
}

/// The next datagram of a session; `None` when it has ended.
async fn receive(session: &Datagrams, buffer: &mut [u8]) -> Option<usize> {
    loop {
        match session.try_receive(buffer) {
            Err(error) if error.kind() == ErrorKind::WouldBlock => session.readable().await.ok()?,
            outcome => return outcome.ok(),
        }
    }
}

/// A session of datagrams: empty ones, small ones, those of an Ethernet, the largest, too large ones.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn datagrams_of_every_size_arrive_whole_or_fail_by_name() {
    let near = Site::start(1, settings());
    let far = Arc::new(Endpoint::start(&identity(2), settings()).unwrap());
    far.set_peers(&[PeerSettings::new("near", near.key, &[])]);
    let serve = Arc::clone(&far);
    let server = tokio::spawn(async move {
        let incoming = serve.accept().await.unwrap();
        let session = incoming.accept_datagrams().await.unwrap();
        let mut echoed = 0;
        let mut payload = vec![0; limits::DATAGRAM_BYTES_MAX];
        while let Some(length) = receive(&session, &mut payload).await {
            session.try_send(&payload[..length]).unwrap();
            if length == 0 {
                session.tell(Errno::ECONNREFUSED);
            }
            echoed += 1;
        }
        assert_eq!(session.try_receive(&mut payload).unwrap_err().kind(), ErrorKind::UnexpectedEof);
        let next = serve.accept().await.unwrap();
        next.refuse(Refusal::new(Errno::EOPNOTSUPP, "no datagrams here")).await;
        echoed
    });
    let at = [far.local_addr().unwrap().to_string()];
    let peer = near.endpoint.set_peers(&[PeerSettings::new("far", far.key(), &at)]).remove(0);
    let session = peer.datagrams(Carried::Udp, &service("dns"), &Origin::default()).await.unwrap();
    let mut buffer = vec![0; limits::DATAGRAM_BYTES_MAX];
    let small = session.small_bytes_max();
    assert!(small >= 1100, "{small}");
    session.try_send(&[]).unwrap();
    // News and the datagram come by ways of their own.
    let both = async {
        let (mut refused, mut empty) = (false, false);
        while !(refused && empty) {
            match session.try_receive(&mut buffer) {
                Ok(length) => empty = length == 0,
                Err(error) if Errno::of(&error) == Errno::ECONNREFUSED => refused = true,
                Err(error) => {
                    assert_eq!(error.kind(), ErrorKind::WouldBlock);
                    session.readable().await.unwrap();
                }
            }
        }
    };
    timeout(PATIENCE, both).await.expect("an empty datagram, and news of the far end");
    for size in [1, 512, small, small + 1, 1500, 9000, limits::DATAGRAM_BYTES_MAX] {
        let payload: Vec<u8> = (0..size).map(|at| u8::try_from(at % 253).unwrap()).collect();
        session.try_send(&payload).unwrap();
        // Loopback loses none that are sent one by one.
        let back = timeout(PATIENCE, receive(&session, &mut buffer)).await.unwrap().unwrap();
        assert!(buffer[..back] == payload, "a datagram of {size} bytes came back changed");
    }
    let error = session.try_send(&vec![0; limits::DATAGRAM_BYTES_MAX + 1]).unwrap_err();
    assert_eq!(Errno::of(&error), Errno::EMSGSIZE);
    drop(session);
    let error =
        peer.datagrams(Carried::Udp, &service("dns"), &Origin::default()).await.unwrap_err();
    assert_eq!(error.errno(), Errno::EOPNOTSUPP);
    assert_eq!(server.await.unwrap(), 8);
}
