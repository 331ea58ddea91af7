//! Transfers: every byte arrives, once, in order; and a writer goes no faster than the reader.
//!
//! in:  a [`Setup`]; out: a panic with a message where an expectation fails
//! owner: one task per case
//! keeps: what was sent and what was received are compared by length and SHA-256
//! bound: the sizes in [`limits`]

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::Instant;

use super::ends::{
    self, CHUNKS, End, Meter, Passed, Pattern, Side, connect, open, receive, receive_all, send,
};
use super::{Setup, limits};
use crate::stream::Stream;

/// Messages of the sizes at which packets are split come back as they were, one after the other.
pub(super) async fn echo(setup: &dyn Setup) {
    let (mut near, mut far, _door) = connect(setup).await.with(Side::Dialer);
    let server = async {
        let mut buffer = vec![0; 8192];
        loop {
            match far.read(&mut buffer).await.expect("the echo server reads") {
                0 => return far.shutdown().await.expect("the echo server ends"),
                count => far.write_all(&buffer[..count]).await.expect("the echo server writes"),
            }
        }
    };
    let client = async {
        let mut pattern = Pattern::new(1);
        for size in [1, 2, 4095, 4096, 4097, 32_767, 32_769, 65_535, 65_537, 1] {
            let mut message = vec![0; size];
            pattern.fill(&mut message);
            let (mut reader, mut writer) = tokio::io::split(&mut near);
            let mut reply = vec![0; size];
            let (written, read) =
                tokio::join!(writer.write_all(&message), reader.read_exact(&mut reply));
            written.unwrap_or_else(|error| panic!("message of {size} bytes: {error}"));
            read.unwrap_or_else(|error| panic!("reply of {size} bytes: {error}"));
            assert!(reply == message, "a message of {size} bytes came back changed");
        }
        near.shutdown().await.expect("the client ends");
        assert_eq!(receive(&mut near).await.bytes, 0, "bytes after the last reply");
    };
    tokio::join!(server, client);
}

/// A transport that yields kernel sockets yields what the device can serve.
pub(super) async fn socket_is_nonblocking_and_closed_on_exec(setup: &dyn Setup) {
    use std::os::fd::AsRawFd;

    const O_NONBLOCK: u32 = 0o4_000;
    const O_CLOEXEC: u32 = 0o2_000_000;
    let mut door = ends::listen(setup).await;
    let at = setup.dial_at(&*door);
    let (dialed, inbound) = tokio::join!(ends::dial(setup, at), ends::accept(&mut *door));
    for (name, stream) in [("dialled", dialed.stream), ("accepted", inbound.stream)] {
        let Stream::Socket(fd) = &stream else { continue };
        let info = std::fs::read_to_string(format!("/proc/self/fdinfo/{}", fd.as_raw_fd()))
            .expect("the descriptor of a socket is open");
        let flags = info.lines().find_map(|line| line.strip_prefix("flags:"));
        let flags = flags.and_then(|text| u32::from_str_radix(text.trim(), 8).ok());
        let flags = flags.expect("the kernel tells a descriptor's flags");
        assert!(flags & O_NONBLOCK != 0, "the {name} socket is blocking");
        assert!(flags & O_CLOEXEC != 0, "the {name} socket would be inherited by programs");
    }
}

/// The smallest writes, both ways at once.
pub(super) async fn one_byte_writes(setup: &dyn Setup) {
    let bytes = limits::SMALL_WRITES_BYTES;
    exchange(setup, bytes, &[1]).await;
}

/// Far more than any window, in odd chunks, both ways at once.
pub(super) async fn big_transfers_both_ways(setup: &dyn Setup) {
    exchange(setup, limits::BIG_TRANSFER_BYTES, CHUNKS).await;
}

/// Both ends send and receive at the same time, each half in a task of its own.
async fn exchange(setup: &dyn Setup, bytes: u64, chunks: &'static [usize]) {
    let ends = connect(setup).await;
    let (mut near_reader, mut near_writer) = tokio::io::split(ends.dialer);
    let (mut far_reader, mut far_writer) = tokio::io::split(ends.listener);
    let sent_up = tokio::spawn(async move { send(&mut near_writer, 2, bytes, chunks).await });
    let sent_down = tokio::spawn(async move { send(&mut far_writer, 3, bytes, chunks).await });
    let got_up = tokio::spawn(async move { receive_all(&mut far_reader, bytes).await });
    let got_down = tokio::spawn(async move { receive_all(&mut near_reader, bytes).await });
    let joined = tokio::try_join!(sent_up, got_up, sent_down, got_down);
    let (sent_up, got_up, sent_down, got_down) = joined.expect("every half does its work");
    assert_eq!(sent_up, got_up, "what the dialer sent and the listener got");
    assert_eq!(sent_down, got_down, "what the listener sent and the dialer got");
}

/// Written, shut down and dropped: a reader that takes its time still gets everything, and a FIN.
pub(super) async fn close_flushes_to_a_slow_reader(setup: &dyn Setup) {
    for side in [Side::Dialer, Side::Listener] {
        let (mut near, mut far, _door) = connect(setup).await.with(side);
        let writer = tokio::spawn(async move {
            send(&mut near, 4, limits::FLUSH_BYTES, CHUNKS).await
            // `near` is dropped here, long before the reader is through.
        });
        let mut meter = Meter::new();
        let mut buffer = vec![0; 64 << 10];
        loop {
            let count = far.read(&mut buffer).await.unwrap_or_else(|error| {
                panic!("{side:?} closed, its peer got an error after {}: {error}", meter.bytes())
            });
            if count == 0 {
                break;
            }
            meter.add(&buffer[..count]);
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
        let sent = writer.await.expect("the writer does its work");
        assert_eq!(sent, meter.passed(), "what the {side:?} sent before it closed, and what came");
    }
}

/// Written, shut down and dropped before the far side reads its first byte.
pub(super) async fn close_flushes_what_nobody_read_yet(setup: &dyn Setup) {
    for side in [Side::Dialer, Side::Listener] {
        let (mut near, mut far, _door) = connect(setup).await.with(side);
        let sent = send(&mut near, 5, limits::UNREAD_BYTES, CHUNKS).await;
        drop(near);
        tokio::time::sleep(limits::QUIET_TIME).await;
        let got = receive(&mut far).await;
        assert_eq!(sent, got, "what the {side:?} sent before it closed, and what came");
    }
}

/// The dialer stops when the listener does not read, and goes on when it does.
pub(super) async fn backpressure_reaches_the_dialer(setup: &dyn Setup) {
    backpressure(setup, Side::Dialer).await;
}

/// The listener stops when the dialer does not read, and goes on when it does.
pub(super) async fn backpressure_reaches_the_listener(setup: &dyn Setup) {
    backpressure(setup, Side::Listener).await;
}

async fn backpressure(setup: &dyn Setup, side: Side) {
    let (near, mut far, _door) = connect(setup).await.with(side);
    let written = Arc::new(AtomicU64::new(0));
    let goal = Arc::new(AtomicU64::new(u64::MAX));
    let writer = tokio::spawn(write_until(near, Arc::clone(&written), Arc::clone(&goal)));

    let bound = setup.buffered_bytes_max();
    let (mut seen, mut since) = (0, Instant::now());
    while seen == 0 || since.elapsed() < limits::STALL_TIME {
        tokio::time::sleep(limits::STALL_TIME / 20).await;
        let now = written.load(Ordering::Relaxed);
        assert!(
            now <= bound,
            "the {side:?} has written {now} bytes to a peer that reads none; {bound} may be buffered"
        );
        if now != seen {
            (seen, since) = (now, Instant::now());
        }
    }

    goal.store(seen + limits::RESUMED_BYTES, Ordering::Relaxed);
    let got = receive(&mut far).await;
    let sent = writer.await.expect("the writer does its work");
    assert_eq!(sent, got, "what the stopped {side:?} sent in all, and what came");
    assert!(got.bytes >= seen + limits::RESUMED_BYTES, "the {side:?} did not go on: {got:?}");
}

async fn write_until(mut near: End, written: Arc<AtomicU64>, goal: Arc<AtomicU64>) -> Passed {
    let mut pattern = Pattern::new(6);
    let mut meter = Meter::new();
    let mut chunk = vec![0; 16_381];
    while meter.bytes() < goal.load(Ordering::Relaxed) {
        pattern.fill(&mut chunk);
        let mut rest = &chunk[..];
        while !rest.is_empty() {
            let count = near.write(rest).await.expect("a stopped writer waits, it does not fail");
            meter.add(&rest[..count]);
            written.store(meter.bytes(), Ordering::Relaxed);
            rest = &rest[count..];
        }
    }
    near.shutdown().await.expect("the writer ends");
    meter.passed()
}

/// A short exchange, for cases that ask whether a connection is a good one.
pub(super) async fn check_works(dialed: Stream, inbound: Stream) {
    let (mut near, mut far) = (open(dialed), open(inbound));
    near.write_all(b"ping").await.expect("a fresh connection takes bytes");
    let mut text = [0; 4];
    far.read_exact(&mut text).await.expect("a fresh connection gives bytes");
    assert_eq!(&text, b"ping");
}
