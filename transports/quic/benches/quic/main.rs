//! Streams over a warm connection against quinn alone, with the same windows, in one process on loopback.
//!
//! in: optionally `--quick`; out: a line per figure, fields divided by tabs: what, ours, quinn's, the ratio,
//! its limit. Owner: this process. Kept: within a round both take turns; figures are medians. Bound: the
//! constants below.
#![allow(clippy::unwrap_used, reason = "a bench that finds something else than it expects fails")]

#[path = "../../tests/common/mod.rs"]
mod common;
mod plain;

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use common::{Site, loopback, pair_with, request, service, settings};
use outsock_link::{Link, Quality};
use outsock_transport::{Listener, Transport};
use outsock_transport_quic::{Peer, PeerSettings, Settings};
use plain::Plain;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::task::JoinSet;

const ROUNDS: usize = 5;
/// Bytes of one throughput measurement: about a second.
const BYTES: usize = 384 << 20;
const PIECE: usize = 64 << 10;
/// One way, of the link for latencies.
const DELAY: Duration = Duration::from_millis(10);
const DIALS: usize = 20;
const STREAMS: u32 = 5000;
/// What each of the two gateways may hold while all streams stall.
const MEMORY_MAX: u64 = 64 << 20;

fn main() {
    let quick = std::env::args().any(|argument| argument == "--quick");
    let (rounds, bytes) = if quick { (2, BYTES / 8) } else { (ROUNDS, BYTES) };
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    runtime.block_on(async {
        // First: what the others leave to the allocator would hide what this one takes.
        stalled().await;
        for streams in [1, 64] {
            throughput(streams, bytes, rounds).await;
        }
        connects(rounds).await;
        many(rounds).await;
    });
}

fn median(mut samples: Vec<f64>) -> f64 {
    samples.sort_by(f64::total_cmp);
    samples[samples.len() / 2]
}

fn line(what: &str, ours: &str, theirs: &str, ratio: f64, limit: &str) {
    println!("{what}\t{ours}\t{theirs}\t{ratio:.2}\t{limit}");
}

/// Reads what comes to a listener, to its end, and says so by a byte.
fn sink(mut door: Box<dyn Listener>) -> tokio::task::JoinHandle<()> {
    tokio::spawn(async move {
        while let Ok(inbound) = door.accept().await {
            tokio::spawn(async move {
                let mut end = inbound.stream.into_async().unwrap();
                let mut buffer = vec![0; PIECE];
                while end.read(&mut buffer).await.unwrap() > 0 {}
                end.write_u8(1).await.unwrap();
                end.shutdown().await.unwrap();
            });
        }
    })
}

/// Echoes what comes to a listener.
fn echo(mut door: Box<dyn Listener>) -> tokio::task::JoinHandle<()> {
    tokio::spawn(async move {
        while let Ok(inbound) = door.accept().await {
            tokio::spawn(async move {
                let mut end = inbound.stream.into_async().unwrap();
                let mut buffer = [0; 64];
                while let Ok(count @ 1..) = end.read(&mut buffer).await {
                    if end.write_all(&buffer[..count]).await.is_err() {
                        return;
                    }
                }
            });
        }
    })
}

async fn send(mut end: impl AsyncReadExt + AsyncWriteExt + Unpin, bytes: usize) {
    let piece = vec![7; PIECE];
    for _ in 0..bytes / PIECE {
        end.write_all(&piece).await.unwrap();
    }
    end.shutdown().await.unwrap();
    end.read_u8().await.unwrap();
}

async fn throughput(streams: usize, bytes: usize, rounds: usize) {
    let (_near, far, peer) = pair_with(settings(), settings());
    let server = sink(far.doors.listen(&service("sink")).await.unwrap());
    let plain = Plain::start(None).await;
    let (mut ours, mut theirs) = (Vec::new(), Vec::new());
    for round in 0..rounds {
        for is_ours in [round % 2 == 0, round % 2 != 0] {
            let mut sending = JoinSet::new();
            let began = Instant::now();
            for _ in 0..streams {
                if is_ours {
                    let peer = Arc::clone(&peer);
                    sending.spawn(async move {
                        let dialed = peer.dial(request(service("sink"))).await.unwrap();
                        send(dialed.stream.into_async().unwrap(), bytes / streams).await;
                    });
                } else {
                    let stream = plain.open();
                    sending.spawn(async move { send(stream.await, bytes / streams).await });
                }
            }
            sending.join_all().await;
            let rate = bytes as f64 / began.elapsed().as_secs_f64() / 1e6;
            if is_ours { ours.push(rate) } else { theirs.push(rate) }
        }
    }
    server.abort();
    let (ours, theirs) = (median(ours), median(theirs));
    let what = format!("{streams} streams");
    line(&what, &format!("{ours:.0} MB/s"), &format!("{theirs:.0} MB/s"), ours / theirs, ">= 0.9");
}

/// A dial over a link with a delay, against one byte there and back over quinn's stream: one round trip.
async fn connects(rounds: usize) {
    let quality = Quality { delay: DELAY, ..Quality::default() };
    let (near, far) = (Site::start(1, settings()), Site::start(2, settings()));
    far.expects("near", &near);
    let link = Link::start(loopback(0), far.address, quality).await.unwrap();
    let at = [link.address().to_string()];
    let peer: Arc<Peer> =
        near.endpoint.set_peers(&[PeerSettings::new("far", far.key, &at)]).remove(0);
    let server = echo(far.doors.listen(&service("echo")).await.unwrap());
    let plain = Plain::start(Some(quality)).await;
    peer.dial(request(service("echo"))).await.unwrap();
    let (mut dials, mut trips) = (Vec::new(), Vec::new());
    for _ in 0..rounds * DIALS {
        let began = Instant::now();
        let dialed = peer.dial(request(service("echo"))).await.unwrap();
        dials.push(began.elapsed().as_secs_f64() * 1e3);
        drop(dialed);
        let mut stream = plain.open().await;
        let began = Instant::now();
        stream.write_all(b"?").await.unwrap();
        stream.shutdown().await.unwrap();
        stream.read_u8().await.unwrap();
        trips.push(began.elapsed().as_secs_f64() * 1e3);
    }
    server.abort();
    let (ours, theirs) = (median(dials), median(trips));
    let (shown, against) = (format!("{ours:.1} ms"), format!("{theirs:.1} ms"));
    line("connect, link of 20 ms, far dial at once", &shown, &against, ours / theirs, "<= 1.2");
}

/// Many streams at the same time, each with its own bytes.
async fn many(rounds: usize) {
    let (_near, far, peer) = pair_with(settings(), settings());
    let server = echo(far.doors.listen(&service("echo")).await.unwrap());
    let mut times = Vec::new();
    for _ in 0..rounds {
        let began = Instant::now();
        let mut open = JoinSet::new();
        for number in 0..STREAMS {
            let peer = Arc::clone(&peer);
            open.spawn(async move {
                let dialed = peer.dial(request(service("echo"))).await.unwrap();
                let mut end = dialed.stream.into_async().unwrap();
                end.write_u32(number).await.unwrap();
                assert_eq!(end.read_u32().await.unwrap(), number);
                end
            });
        }
        let all = open.join_all().await;
        times.push(began.elapsed().as_secs_f64());
        assert!(peer.status().streams >= STREAMS as usize);
        drop(all);
    }
    server.abort();
    let rate = f64::from(STREAMS) / median(times);
    line("5,000 streams at the same time", &format!("{rate:.0} opened/s"), "-", rate, "-");
}

/// What this process, with both gateways, holds more when nobody reads any of many streams.
async fn stalled() {
    let tight = Settings { memory_max: MEMORY_MAX, ..settings() };
    let (_near, far, peer) = pair_with(tight.clone(), tight);
    let mut door = far.doors.listen(&service("stalled")).await.unwrap();
    let mut unread = Vec::new();
    let mut ends = Vec::new();
    for _ in 0..STREAMS {
        let (dialed, inbound) = tokio::join!(peer.dial(request(service("stalled"))), door.accept());
        unread.push(inbound.unwrap().stream.into_async().unwrap());
        ends.push(dialed.unwrap().stream.into_async().unwrap());
    }
    let before = resident();
    let written = Arc::new(AtomicUsize::new(0));
    let mut writers = JoinSet::new();
    for mut end in ends {
        let written = Arc::clone(&written);
        writers.spawn(async move {
            while let Ok(count) = end.write(&[7; 8 << 10]).await {
                written.fetch_add(count, Ordering::Relaxed);
            }
        });
    }
    let mut seen = usize::MAX;
    while written.load(Ordering::Relaxed) != seen {
        seen = written.load(Ordering::Relaxed);
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
    let most = resident();
    assert!(seen > 16 << 20, "the streams took only {seen} bytes");
    let held = most.saturating_sub(before) as f64 / f64::from(1 << 20);
    let cap = 2.0 * MEMORY_MAX as f64 / f64::from(1 << 20);
    let (shown, against) = (format!("{held:.0} MiB"), format!("cap {cap:.0} MiB"));
    line("memory with 5,000 stalled streams", &shown, &against, held / cap, "<= 1");
    writers.abort_all();
}

/// Bytes of memory of this process.
fn resident() -> u64 {
    let text = std::fs::read_to_string("/proc/self/statm").unwrap();
    let pages: u64 = text.split_whitespace().nth(1).unwrap().parse().unwrap();
    pages * 4096
}
