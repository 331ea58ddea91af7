//! Resets: a connection that broke reads as broken, never as ended.
//!
//! in:  a [`Setup`]; out: a panic with a message where an expectation fails
//! owner: one task per case
//! keeps: a reader gets `ECONNRESET` and never a FIN; a writer gets `ECONNRESET` or, where the far
//!        side had ended its half before, `EPIPE`, as from a Linux kernel
//! bound: [`limits::BEFORE_RESET_BYTES`] before the break

use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::ends::{End, Pattern, Side, connect, read_to_end, receive, send};
use super::{Setup, limits};
use crate::Errno;

/// An idle connection that the dialer resets.
pub(super) async fn dialer_resets(setup: &dyn Setup) {
    reset_while_idle(setup, Side::Dialer).await;
}

/// An idle connection that the accepting end resets.
pub(super) async fn listener_resets(setup: &dyn Setup) {
    reset_while_idle(setup, Side::Listener).await;
}

async fn reset_while_idle(setup: &dyn Setup, breaker: Side) {
    let (near, mut far, _door) = connect(setup).await.with(breaker);
    near.reset(Errno::ECONNRESET);
    expect_reset(&mut far, breaker, "reset").await;
    let error = far.write_all(b"x").await.expect_err("a connection that was reset takes no bytes");
    let errno = Errno::of(&error);
    assert!(is_broken(errno), "a write after the reset by the {breaker:?} gives {errno}");
}

/// The dialer breaks off while it sends.
pub(super) async fn dialer_resets_in_mid_transfer(setup: &dyn Setup) {
    reset_by_writer(setup, Side::Dialer).await;
}

/// The accepting end breaks off while it sends: the download that must not look complete.
pub(super) async fn listener_resets_in_mid_transfer(setup: &dyn Setup) {
    reset_by_writer(setup, Side::Listener).await;
}

async fn reset_by_writer(setup: &dyn Setup, breaker: Side) {
    let (near, mut far, _door) = connect(setup).await.with(breaker);
    let (stop, stopped) = tokio::sync::oneshot::channel();
    let writer = tokio::spawn(write_then_reset(near, stopped));
    let mut buffer = vec![0; 65_521];
    let mut read = 0;
    while read < limits::BEFORE_RESET_BYTES {
        match far.read(&mut buffer).await {
            Ok(0) => panic!("the {breaker:?} still writes, its peer reads an end"),
            Ok(count) => read += count as u64,
            Err(error) => panic!("the {breaker:?} still writes, its peer reads {error}"),
        }
    }
    stop.send(()).expect("the writer still runs");
    // It resets while the far side is not reading, so with bytes of its own still queued.
    writer.await.expect("the writer does its work");
    expect_reset(&mut far, breaker, "reset in the middle of its own sending").await;
}

async fn write_then_reset(mut near: End, mut stopped: tokio::sync::oneshot::Receiver<()>) {
    let mut pattern = Pattern::new(11);
    let mut chunk = vec![0; 32_749];
    loop {
        pattern.fill(&mut chunk);
        tokio::select! {
            biased;
            _ = &mut stopped => return near.reset(Errno::ECONNRESET),
            written = near.write_all(&chunk) => written.expect("the writer writes"),
        }
    }
}

/// The dialer breaks off while it receives.
pub(super) async fn reading_dialer_resets_the_writer(setup: &dyn Setup) {
    reset_by_reader(setup, Side::Dialer).await;
}

/// The accepting end breaks off while it receives.
pub(super) async fn reading_listener_resets_the_writer(setup: &dyn Setup) {
    reset_by_reader(setup, Side::Listener).await;
}

async fn reset_by_reader(setup: &dyn Setup, breaker: Side) {
    let (mut near, mut far, _door) = connect(setup).await.with(breaker);
    let writer = tokio::spawn(async move {
        let chunk = vec![7; 32_749];
        let bound = limits::BEFORE_RESET_BYTES + limits::BUFFERED_BYTES_MAX;
        let mut written = 0;
        while written <= bound {
            match far.write(&chunk).await {
                Ok(count) => written += count as u64,
                Err(error) => return (Errno::of(&error), far),
            }
        }
        panic!("the {breaker:?} has gone, its peer has written {written} bytes");
    });
    let mut buffer = vec![0; 65_521];
    let mut read = 0;
    while read < limits::BEFORE_RESET_BYTES {
        read += near.read(&mut buffer).await.expect("the reader reads") as u64;
    }
    // Let the writer fill all buffers and wait: it is then told by the break, not by its next try,
    // and bytes are left unread, which is what a Unix socket calls a reset.
    tokio::time::sleep(limits::STALL_TIME / 4).await;
    near.reset(Errno::ECONNRESET);
    let (errno, mut far) = writer.await.expect("the writer does its work");
    assert_eq!(errno, Errno::ECONNRESET, "what the writer to the {breaker:?} gets");
    expect_reset(&mut far, breaker, "reset while it was being sent to").await;
}

/// The dialer ends its half properly and resets afterwards: the accepting end may not think that
/// its reply arrived.
pub(super) async fn reset_after_a_half_close(setup: &dyn Setup) {
    let (mut near, mut far, _door) = connect(setup).await.with(Side::Dialer);
    let asked = send(&mut near, 12, 100, &[100]).await;
    assert_eq!(asked, receive(&mut far).await, "what was sent before the FIN");
    near.reset(Errno::ECONNRESET);
    let chunk = vec![7; 32_749];
    let mut written = 0;
    let errno = loop {
        assert!(written <= limits::BUFFERED_BYTES_MAX, "a reply of {written} bytes went nowhere");
        match far.write(&chunk).await {
            Ok(count) => written += count as u64,
            Err(error) => break Errno::of(&error),
        }
        tokio::task::yield_now().await;
    };
    assert!(is_broken(errno), "a reply to one who reset after its FIN gives {errno}");
}

/// A dialer that forgets its stream has not finished it.
pub(super) async fn dropped_unfinished_dialer_is_a_reset(setup: &dyn Setup) {
    drop_unfinished(setup, Side::Dialer).await;
}

/// The same from the accepting end.
pub(super) async fn dropped_unfinished_listener_is_a_reset(setup: &dyn Setup) {
    drop_unfinished(setup, Side::Listener).await;
}

async fn drop_unfinished(setup: &dyn Setup, breaker: Side) {
    let (mut near, mut far, _door) = connect(setup).await.with(breaker);
    near.write_all(b"half a mess").await.expect("a fresh connection takes bytes");
    drop(near);
    expect_reset(&mut far, breaker, "dropped unfinished").await;
}

/// The far side has finished, the near side drops its unfinished half: still a reset, so that a
/// program that reads its reply does not take half of it for the whole.
pub(super) async fn dropped_after_the_far_end_finished_is_a_reset(setup: &dyn Setup) {
    let (mut near, mut far, _door) = connect(setup).await.with(Side::Dialer);
    let asked = send(&mut far, 13, 100, &[100]).await;
    assert_eq!(asked, receive(&mut near).await, "what was sent before the FIN");
    near.write_all(b"half a repl").await.expect("the other half takes bytes");
    drop(near);
    expect_reset(&mut far, Side::Dialer, "dropped with its own half unfinished").await;
}

/// What the reader of a broken connection must get, each time it asks; bytes that came before are
/// no fault.
async fn expect_reset(far: &mut End, breaker: Side, how: &str) {
    for which in ["first", "second"] {
        match read_to_end(far).await {
            (_, Some(Errno::ECONNRESET)) => {}
            (bytes, Some(errno)) => panic!(
                "the {breaker:?}'s end was {how}: its peer's {which} read gives {errno} after \
                 {bytes} bytes, not ECONNRESET"
            ),
            // The second read fails here where a stream says the error once and then looks ended.
            (bytes, None) => panic!(
                "the {breaker:?}'s end was {how}: its peer's {which} read gives a clean end after \
                 {bytes} bytes, not ECONNRESET"
            ),
        }
    }
}

fn is_broken(errno: Errno) -> bool {
    errno == Errno::ECONNRESET || errno == Errno::EPIPE
}
