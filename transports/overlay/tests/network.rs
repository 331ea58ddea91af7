//! Networks of several gateways on loopback: names, supernodes, strangers, many streams.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use std::sync::Arc;
use std::time::Duration;

use common::{PATIENCE, QUIC, Site, TCP, eventually, pair, request, settings};
use outsock_transport::{Destination, DialError, Errno, Transport};
use outsock_transport_overlay::{Address, Known, OpenNetwork, Settings, Wish};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::task::JoinSet;

fn supernode(number: u8) -> Site {
    Site::start(number, Settings { supernode: Wish::Always, ..settings(&[TCP, QUIC]) })
}

fn member(number: u8, listen: &[&str], bootstrap: &[Address]) -> Site {
    Site::start(number, Settings { bootstrap: bootstrap.to_vec(), ..settings(listen) })
}

fn know(site: &Site, others: &[(&str, &Site)]) {
    let known = others.iter().map(|(name, site)| Known { name: (*name).into(), key: site.key });
    site.overlay.set_known(known.collect());
}

fn at(name: &str) -> Destination {
    Destination::Name { name: name.to_owned(), port: 7 }
}

/// Serves connections of a service with their own bytes, until the far end has finished.
async fn echo(site: &Site, service: &str) {
    let mut door = site.doors.listen(&at(&format!("{service}.far.peer"))).await.unwrap();
    tokio::spawn(async move {
        while let Ok(inbound) = door.accept().await {
            tokio::spawn(async move {
                let stream = inbound.stream.into_async().unwrap();
                let (mut read, mut write) = tokio::io::split(stream);
                // A client that resets ends it, too.
                if tokio::io::copy(&mut read, &mut write).await.is_ok() {
                    let _ = write.shutdown().await;
                }
            });
        }
    });
}

/// Dials until the far end answers: the network needs a moment to know of it.
async fn reach(site: &Site, name: &str) -> outsock_transport::Dialed {
    eventually(name, async || site.overlay.dial(request(at(name))).await.ok()).await
}

async fn says_back(dialed: outsock_transport::Dialed, text: &str) {
    let mut stream = dialed.stream.into_async().unwrap();
    stream.write_all(text.as_bytes()).await.unwrap();
    stream.shutdown().await.unwrap();
    let mut back = String::new();
    stream.read_to_string(&mut back).await.unwrap();
    assert_eq!(back, text);
}

async fn path_to(site: &Site, other: &Site) -> Option<String> {
    let status = site.overlay.status().await.unwrap();
    let key = other.key.to_string();
    let peer = status.peers.into_iter().find(|peer| peer.key == key && peer.is_best)?;
    Some(peer.through.unwrap_or_else(|| "direct".to_owned()))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_name_is_enough_to_find_a_gateway_that_listens() {
    let hub = supernode(1);
    let bootstrap = hub.addresses(2).await;
    let (osaka, tokyo) = (member(2, &[TCP], &bootstrap), member(3, &[TCP], &bootstrap));
    know(&tokyo, &[("osaka", &osaka)]);
    echo(&osaka, "web").await;
    says_back(reach(&tokyo, "web.osaka.peer").await, "hello").await;
    assert_eq!(path_to(&tokyo, &osaka).await.as_deref(), Some("direct"));
    let unknown = tokyo.overlay.dial(request(at("web.kyoto.peer"))).await;
    assert_eq!(unknown.unwrap_err(), DialError::HostUnreachable);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_cannot_be_dialled_is_reached_through_a_supernode() {
    let hub = supernode(1);
    let bootstrap = hub.addresses(2).await;
    // Neither listens anywhere: as behind NATs that nothing gets through.
    let (osaka, tokyo) = (member(2, &[], &bootstrap), member(3, &[], &bootstrap));
    know(&tokyo, &[("osaka", &osaka)]);
    echo(&osaka, "web").await;
    let dialed = reach(&tokyo, "web.osaka.peer").await;
    assert_eq!(path_to(&tokyo, &osaka).await, Some(hub.key.to_string()));
    // More than libp2p's own limit of a relayed connection, 128 KiB.
    let (mut read, mut write) = tokio::io::split(dialed.stream.into_async().unwrap());
    let sent: Vec<u8> = (0..3_000_000_u32).map(|n| n.to_le_bytes()[0] ^ 0x5a).collect();
    let writing = {
        let sent = sent.clone();
        tokio::spawn(async move {
            write.write_all(&sent).await.unwrap();
            write.shutdown().await.unwrap();
        })
    };
    let mut back = Vec::new();
    read.read_to_end(&mut back).await.unwrap();
    writing.await.unwrap();
    assert!(back == sent, "{} bytes came back, not as sent", back.len());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_supernode_that_dies_is_replaced() {
    let (one, two) = (supernode(1), supernode(2));
    let mut bootstrap = one.addresses(2).await;
    bootstrap.extend(two.addresses(2).await);
    let (osaka, tokyo) = (member(3, &[], &bootstrap), member(4, &[], &bootstrap));
    know(&tokyo, &[("osaka", &osaka)]);
    echo(&osaka, "web").await;
    let places = async |count: usize| {
        let has = async || {
            let status = osaka.overlay.status().await.unwrap();
            (status.listen.len() == count).then_some(())
        };
        eventually("places", has).await;
    };
    places(2).await;
    says_back(reach(&tokyo, "web.osaka.peer").await, "before").await;
    one.overlay.close(Duration::from_secs(5)).await;
    drop(one);
    says_back(reach(&tokyo, "web.osaka.peer").await, "after").await;
    assert_eq!(path_to(&tokyo, &osaka).await, Some(two.key.to_string()));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn another_network_is_refused_by_every_carrier() {
    let other = |settings: Settings| Settings {
        network: "other".to_owned(),
        gate: Arc::new(OpenNetwork("other".to_owned())),
        ..settings
    };
    for carrier in [TCP, QUIC] {
        let hub = Site::start(1, Settings { supernode: Wish::Always, ..settings(&[carrier]) });
        let bootstrap = hub.addresses(1).await;
        let stranger =
            Site::start(2, other(Settings { bootstrap: bootstrap.clone(), ..settings(&[]) }));
        stranger.knows("hub", &hub);
        let refused = eventually("a refusal", async || {
            match stranger.overlay.dial(request(at("web.hub.peer"))).await.unwrap_err() {
                DialError::HostUnreachable => None,
                error => Some(error),
            }
        });
        let refused = refused.await;
        let DialError::NotAuthenticated(text) = &refused else { panic!("{carrier}: {refused}") };
        assert!(text.contains("another network"), "{text}");
        assert!(stranger.overlay.status().await.unwrap().peers.is_empty());
        assert!(hub.overlay.status().await.unwrap().peers.is_empty());
    }
}

/// yamux ends a connection with its 513th stream by default, all others with it.
async fn many_streams(carrier: &str, count: u32) {
    let (near, far) = pair(carrier).await;
    echo(&far, "web").await;
    let mut dials = JoinSet::new();
    for number in 0..count {
        let overlay = Arc::clone(&near.overlay);
        dials.spawn(async move { (number, overlay.dial(request(at("web.far.peer"))).await) });
    }
    let mut open = Vec::new();
    while let Some(dialled) = dials.join_next().await {
        let (number, dialed) = dialled.unwrap();
        open.push((number, dialed.unwrap_or_else(|error| panic!("{number}: {error}"))));
    }
    for (number, dialed) in open {
        says_back(dialed, &format!("stream {number}")).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn six_hundred_streams_over_tcp_at_once() {
    many_streams(TCP, 600).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_thousand_streams_over_tcp_are_refused_one_by_one() {
    let (near, far) = pair(TCP).await;
    echo(&far, "web").await;
    let mut dials = JoinSet::new();
    for _ in 0..2100 {
        let overlay = Arc::clone(&near.overlay);
        dials.spawn(async move { overlay.dial(request(at("web.far.peer"))).await });
    }
    let (mut open, mut refused) = (Vec::new(), 0);
    while let Some(dialled) = dials.join_next().await {
        match dialled.unwrap() {
            Ok(dialed) => open.push(dialed),
            Err(error) => {
                assert_eq!(error.errno(), Errno::ENOBUFS, "{error}");
                refused += 1;
            }
        }
    }
    assert!(refused > 0, "none of 2100 was refused");
    // Those that stand are whole.
    says_back(open.pop().unwrap(), "first").await;
    says_back(open.remove(0), "last").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_gateway_that_starts_anew_elsewhere_is_found() {
    let hub = supernode(1);
    let bootstrap = hub.addresses(2).await;
    let (osaka, tokyo) = (member(2, &[TCP], &bootstrap), member(3, &[TCP], &bootstrap));
    know(&tokyo, &[("osaka", &osaka)]);
    echo(&osaka, "web").await;
    let dialed = reach(&tokyo, "web.osaka.peer").await;
    osaka.overlay.close(PATIENCE).await;
    let mut old = dialed.stream.into_async().unwrap();
    // Cut, not ended: the peer is gone.
    assert!(old.read_u8().await.is_err());
    let osaka = member(2, &[TCP], &bootstrap);
    echo(&osaka, "web").await;
    says_back(reach(&tokyo, "web.osaka.peer").await, "again").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn both_sides_dial_at_once_and_no_stream_is_lost() {
    let hub = supernode(1);
    let bootstrap = hub.addresses(2).await;
    let (osaka, tokyo) = (member(2, &[TCP], &bootstrap), member(3, &[TCP], &bootstrap));
    know(&tokyo, &[("osaka", &osaka)]);
    know(&osaka, &[("tokyo", &tokyo)]);
    echo(&osaka, "web").await;
    echo(&tokyo, "web").await;
    let (east, west) =
        tokio::join!(reach(&tokyo, "web.osaka.peer"), reach(&osaka, "web.tokyo.peer"));
    // Longer than it takes until a second connection is closed.
    tokio::time::sleep(Duration::from_secs(7)).await;
    says_back(east, "east").await;
    says_back(west, "west").await;
}

/// A dozen gateways that know one bootstrap: each finds each; then they all start at the same moment.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn twelve_gateways_find_each_other() {
    let hub = supernode(1);
    let bootstrap = hub.addresses(2).await;
    for round in 0..2 {
        let sites: Vec<_> = (0..11).map(|n| member(10 + n, &[TCP], &bootstrap)).collect();
        for site in &sites {
            echo(site, "web").await;
        }
        for (n, site) in sites.iter().enumerate() {
            let next = &sites[(n + 1) % sites.len()];
            know(site, &[("next", next)]);
            says_back(reach(site, "web.next.peer").await, &format!("round {round}, {n}")).await;
        }
    }
}
