//! Dialling: dials and accepts that are many, given up, or fail, and how that is said.
//!
//! in:  a [`Setup`]; out: a panic with a message where an expectation fails
//! owner: one task per case
//! keeps: a failure has the errno that `connect()` would have had, and comes in time
//! bound: [`limits::CONCURRENT_DIALS`], [`limits::CANCELLED`]

use std::collections::HashSet;
use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::task::Poll;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout};

use super::ends::{self, End, accept, dial_failing, listen, open, read_to_end};
use super::transfer::check_works;
use super::{Outcome, Setup, Staged, Staging, limits};
use crate::error::{DialError, ListenError};
use crate::transport::{Destination, Listener};

/// Many dials at once: each connection is its own, and none is lost.
pub(super) async fn concurrent_dials(setup: &dyn Setup) {
    let mut door = listen(setup).await;
    let at = setup.dial_at(&*door);
    let server = async {
        let mut served = JoinSet::new();
        for _ in 0..limits::CONCURRENT_DIALS {
            let end = open(accept(&mut *door).await.stream);
            served.spawn(answer(end));
        }
        while let Some(answered) = served.join_next().await {
            answered.expect("every accepted connection is answered");
        }
    };
    let clients = async {
        let dials = (0..limits::CONCURRENT_DIALS).map(|index| ask(setup, at.clone(), index));
        all(dials).await;
    };
    tokio::join!(server, clients);
}

/// Sends a number back, one more.
async fn answer(mut end: End) {
    let index = end.read_u32().await.expect("the number of a client");
    end.write_u32(index + 1).await.expect("an answer to the client");
    end.shutdown().await.expect("the end of an answer");
    let (_, broken) = read_to_end(&mut end).await;
    assert_eq!(broken, None, "client {index} has not ended properly");
}

async fn ask(setup: &dyn Setup, at: Destination, index: u32) {
    let mut end = open(ends::dial(setup, at).await.stream);
    end.write_u32(index).await.unwrap_or_else(|error| panic!("client {index} asks: {error}"));
    let reply = end.read_u32().await;
    let reply = reply.unwrap_or_else(|error| panic!("client {index} is not answered: {error}"));
    assert_eq!(reply, index + 1, "client {index} got the answer of another connection");
    end.shutdown().await.unwrap_or_else(|error| panic!("client {index} ends: {error}"));
    let (_, broken) = read_to_end(&mut end).await;
    assert_eq!(broken, None, "the answer to client {index} did not end properly");
}

/// Runs futures that borrow the set-up side by side; all start before one ends.
async fn all<F: Future<Output = ()>>(futures: impl Iterator<Item = F>) {
    let mut running: Vec<_> = futures.map(Box::pin).collect();
    poll_fn(|cx| {
        running.retain_mut(|future| future.as_mut().poll(cx).is_pending());
        if running.is_empty() { Poll::Ready(()) } else { Poll::Pending }
    })
    .await;
}

/// Polls a future once.
async fn poll_once<F: Future + ?Sized>(mut future: Pin<&mut F>) -> Option<F::Output> {
    poll_fn(|cx| match future.as_mut().poll(cx) {
        Poll::Ready(output) => Poll::Ready(Some(output)),
        Poll::Pending => Poll::Ready(None),
    })
    .await
}

/// Dials dropped at many points: at most a connection that is gone at once comes of it.
pub(super) async fn cancelled_dial_leaves_nothing(setup: &dyn Setup) {
    let mut door = listen(setup).await;
    let at = setup.dial_at(&*door);
    for polls in 0..limits::CANCELLED {
        let mut dial = setup.dialer().dial(setup.request(at.clone()));
        for _ in 0..polls % 8 {
            if poll_once(dial.as_mut()).await.is_some() {
                break;
            }
            tokio::task::yield_now().await;
        }
    }
    let mut appeared = 0;
    while let Ok(accepted) = timeout(limits::QUIET_TIME, door.accept()).await {
        // A transport may say that a connection failed before it was accepted.
        let Ok(inbound) = accepted else { continue };
        appeared += 1;
        let mut end = open(inbound.stream);
        let Ok((bytes, _)) = timeout(limits::AT_ONCE, read_to_end(&mut end)).await else {
            panic!("connection {appeared} of a dial that was given up stays open");
        };
        assert_eq!(bytes, 0, "bytes from a dial that was given up");
    }
    assert!(
        appeared <= limits::CANCELLED,
        "{appeared} connections from {} dials",
        limits::CANCELLED
    );
    let (dialed, inbound) = tokio::join!(ends::dial(setup, at), accept(&mut *door));
    check_works(dialed.stream, inbound.stream).await;
}

/// Accepts dropped at many points: every connection is handed out once all the same.
pub(super) async fn cancelled_accept_loses_nothing(setup: &dyn Setup) {
    let mut door = listen(setup).await;
    let at = setup.dial_at(&*door);
    let server = async {
        let mut seen = HashSet::new();
        let deadline = Instant::now() + limits::DIAL_TIME_MAX;
        let mut round = 0_u32;
        while seen.len() < limits::CANCELLED as usize {
            let count = seen.len();
            assert!(Instant::now() < deadline, "{count} of {} were accepted", limits::CANCELLED);
            round += 1;
            let Some(stream) = accept_impatiently(&mut *door, round).await else { continue };
            let mut end = open(stream);
            let index = end.read_u32().await.expect("the number of a client");
            assert!(seen.insert(index), "client {index} was accepted twice");
            end.write_u32(index + 1).await.expect("an answer to the client");
            end.shutdown().await.expect("the end of an answer");
            read_to_end(&mut end).await;
        }
    };
    let clients = all((0..limits::CANCELLED).map(|index| ask(setup, at.clone(), index)));
    tokio::join!(server, clients);
}

/// An accept that is given up after one poll, or after a moment.
async fn accept_impatiently(door: &mut dyn Listener, round: u32) -> Option<crate::Stream> {
    let accepted = if round.is_multiple_of(3) {
        timeout(Duration::from_millis(1), door.accept()).await.ok()
    } else {
        let mut accept = door.accept();
        let accepted = poll_once(accept.as_mut()).await;
        tokio::task::yield_now().await;
        accepted
    };
    accepted.map(|result| result.expect("a listener that works").stream)
}

/// Nobody answers at the address of a listener that was dropped.
pub(super) async fn dropped_listener_is_closed(setup: &dyn Setup) {
    let door = listen(setup).await;
    let at = setup.dial_at(&*door);
    drop(door);
    let error = dial_failing(setup, &at, limits::DIAL_TIME_MAX).await;
    assert_eq!(error, DialError::Refused, "the dial of {at}, whose listener was dropped");
}

/// What the capabilities exclude is answered at once and by name, not by a time-out.
pub(super) async fn unsupported_destinations(setup: &dyn Setup) {
    let can = setup.dialer().capabilities();
    let name = Destination::Name { name: "nobody.invalid".into(), port: 9 };
    let address = Destination::Address(([127, 0, 0, 1], 9).into());
    let path = Destination::Unix("/nonexistent/outsock".into());
    for (supported, at) in
        [(can.dials_names, name), (can.dials_addresses, address), (can.dials_unix, path)]
    {
        let started = Instant::now();
        if !supported {
            let error = dial_failing(setup, &at, limits::DIAL_TIME_MAX).await;
            assert!(
                matches!(error, DialError::UnsupportedDestination(_)),
                "the dial of {at}, which the capabilities exclude, gives {error:?}"
            );
        }
        if !setup.listener().capabilities().listens {
            let error = setup.listener().listen(&at).await.expect_err("listening must fail");
            assert!(matches!(error, ListenError::Unsupported(_)), "listening at {at}: {error:?}");
        }
        assert!(started.elapsed() < limits::AT_ONCE, "{at} was not answered at once");
    }
}

/// Nobody listens.
pub(super) async fn refused(setup: &dyn Setup) -> Outcome {
    fails(setup.refuses().await, setup, &[DialError::Refused]).await
}

/// There is no way.
pub(super) async fn unreachable(setup: &dyn Setup) -> Outcome {
    let either = [DialError::HostUnreachable, DialError::NetworkUnreachable];
    fails(setup.unreachable().await, setup, &either).await
}

async fn fails(staging: Staging, setup: &dyn Setup, expected: &[DialError]) -> Outcome {
    let Staged { destination, keep } = match staging {
        Staging::Ready(staged) => staged,
        Staging::Missing(what) => return Outcome::NotStaged(what),
    };
    for _ in 0..2 {
        let error = dial_failing(setup, &destination, limits::DIAL_TIME_MAX).await;
        assert!(expected.contains(&error), "the dial of {destination} gives {error:?}");
    }
    drop(keep);
    Outcome::Passed
}

/// Nobody answers: the dial ends when its time is up, neither before nor much later.
pub(super) async fn timed_out(setup: &dyn Setup) -> Outcome {
    let Staged { destination, keep } = match setup.times_out().await {
        Staging::Ready(staged) => staged,
        Staging::Missing(what) => return Outcome::NotStaged(what),
    };
    let started = Instant::now();
    let error = dial_failing(setup, &destination, limits::SILENT_DIAL_TIME).await;
    let took = started.elapsed();
    assert_eq!(error, DialError::TimedOut, "the dial of the silent {destination}");
    assert!(took >= limits::SILENT_DIAL_TIME, "the dial gave up after {took:?}");
    let most = limits::SILENT_DIAL_TIME + limits::DIAL_OVERRUN_MAX;
    assert!(took <= most, "the dial overran its timeout: {took:?}");
    drop(keep);
    Outcome::Passed
}
