//! Halves: each direction ends on its own, and an end is an end, not an error.
//!
//! in:  a [`Setup`]; out: a panic with a message where an expectation fails
//! owner: one task per case
//! keeps: after `shutdown` the other direction carries all its bytes
//! bound: [`limits::REPLY_BYTES`]

use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::ends::{CHUNKS, Side, connect, receive, receive_all, send};
use super::{Setup, limits};

/// `shutdown(SHUT_WR)` by the dialer, then a long reply: what `nc -N` and HTTP/1.0 clients do.
pub(super) async fn dialer_closes_its_half_first(setup: &dyn Setup) {
    half_close(setup, Side::Dialer).await;
}

/// The same from the accepting end.
pub(super) async fn listener_closes_its_half_first(setup: &dyn Setup) {
    half_close(setup, Side::Listener).await;
}

async fn half_close(setup: &dyn Setup, first: Side) {
    let (mut near, mut far, _door) = connect(setup).await.with(first);
    let asked = send(&mut near, 7, 4097, CHUNKS).await;
    let heard = receive(&mut far).await;
    assert_eq!(asked, heard, "what the {first:?} sent before its FIN");
    let (replied, got) = tokio::join!(
        send(&mut far, 8, limits::REPLY_BYTES, CHUNKS),
        receive_all(&mut near, limits::REPLY_BYTES)
    );
    assert_eq!(replied, got, "the reply to the {first:?}, which had closed its half");
}

/// Both ends close at the same time; both read an end, and go on to read an end.
pub(super) async fn both_halves_close(setup: &dyn Setup) {
    let mut ends = connect(setup).await;
    let (up, down) = tokio::join!(
        send(&mut ends.dialer, 9, 100, CHUNKS),
        send(&mut ends.listener, 10, 100, CHUNKS)
    );
    let (got_down, got_up) = tokio::join!(receive(&mut ends.dialer), receive(&mut ends.listener));
    assert_eq!((up, down), (got_up, got_down), "what crossed before both ended");
    for (name, end) in [("dialer", &mut ends.dialer), ("listener", &mut ends.listener)] {
        match end.read(&mut [0; 16]).await {
            Ok(0) => {}
            other => panic!("the {name} reads {other:?} after the end, not the end again"),
        }
        end.write_all(b"late").await.expect_err("a half that was shut down takes no bytes");
    }
}
