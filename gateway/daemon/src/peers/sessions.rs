//! Sessions: a peer's datagrams, from a header to the last datagram.
//!
//! in: a session that the peer's rules allowed; out: datagrams to a guest's service or out of this
//! gateway's exit, answers and failures back. Owner: the session's task. Kept: nobody waits for a slow
//! side: what finds no room is dropped, as with UDP; failures of the far end are told as errnos.
//! Bounds: those of the two flows; [`limits::FLOW_IDLE_MS`] without a datagram.

use std::io;
use std::time::Duration;

use outsock_transport::{Errno, Flow};
use outsock_transport_quic::Datagrams;
use tokio::time::Instant;

use crate::limits;

/// Moves datagrams until one side ends, or none has come or gone for a while.
pub(super) async fn relay(peer: &Datagrams, far: &dyn Flow) {
    let mut buffer = vec![0; outsock_transport::limits::DATAGRAM_BYTES_MAX];
    let idle = Duration::from_millis(limits::FLOW_IDLE_MS);
    let mut until = Instant::now() + idle;
    loop {
        let there = pass(peer, far, &mut buffer);
        let back = pass(far, peer, &mut buffer);
        if matches!(there, Passed::Ended) || matches!(back, Passed::Ended) {
            return;
        }
        // What the peer's side fails by is the peer's own affair.
        if let Passed::NotSent(errno) = there {
            peer.tell(errno);
        }
        if let Passed::NotReceived(errno) = back {
            peer.tell(errno);
        }
        if matches!((&there, &back), (Passed::Nothing, Passed::Nothing)) {
            let readable = async {
                tokio::select! {
                    outcome = peer.readable() => outcome,
                    outcome = far.readable() => outcome,
                }
            };
            if !matches!(tokio::time::timeout_at(until, readable).await, Ok(Ok(()))) {
                return;
            }
        } else {
            until = Instant::now() + idle;
            tokio::task::coop::consume_budget().await;
        }
    }
}

/// What became of one datagram.
enum Passed {
    /// None was there.
    Nothing,
    /// It went on, or found no room.
    One,
    /// In its place came news of where they come from.
    NotReceived(Errno),
    /// Where it was to go did not take it.
    NotSent(Errno),
    /// No more will come.
    Ended,
}

fn pass(from: &dyn Flow, to: &dyn Flow, buffer: &mut [u8]) -> Passed {
    let length = match from.try_receive(buffer) {
        Ok(length) => length,
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Passed::Nothing,
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Passed::Ended,
        Err(error) => return Passed::NotReceived(Errno::of(&error)),
    };
    let mut passed = Passed::One;
    // The first try may only tell news of an earlier datagram.
    for _ in 0..2 {
        match to.try_send(&buffer[..length]) {
            Ok(()) => break,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
            Err(error) => passed = Passed::NotSent(Errno::of(&error)),
        }
    }
    passed
}
