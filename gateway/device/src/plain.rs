//! Plain vsock: the worker's part of connections that are not the agent's.
//!
//! in: requests of the guest's programs, answers and calls of the daemon; out: news, connections with
//! their ends. Owner: the vring worker. Kept: a host end is attached when the guest has accepted, so that
//! none of its bytes come before; a call that fails lets go of its end. Bound: the muxer's.

use outsock_core::address::{Instant, VsockPort};
use outsock_core::muxer::{Caller, ConnectionId, PlainRequest};
use outsock_core::packet::SocketType;
use tokio::sync::oneshot;

use crate::end::HostEnd;
use crate::handle::{FarEnd, News};
use crate::worker::Worker;
use libc::iovec;

/// A connection to a port of the guest that is to be opened.
#[derive(Debug)]
pub struct Opening {
    /// Who calls.
    pub caller: Caller,
    /// The guest's port.
    pub port: VsockPort,
    /// The far end, of the kind of socket that the guest listens with.
    pub end: FarEnd,
    /// Whether the far end is told `OK PORT` in a line of its own before anything else.
    pub greeting: bool,
    /// Hears how it went; closed without a word when the guest is gone.
    pub answer: oneshot::Sender<Called>,
}

/// How an opening went.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Called {
    /// The guest has accepted.
    Open,
    /// Nobody listens there, the guest did not answer, or there is no room.
    Refused,
}

/// An opening under way.
#[derive(Debug)]
pub(crate) struct Call {
    opening: Opening,
    from: VsockPort,
}

impl Worker {
    pub(crate) fn ask(&mut self, now: Instant, id: ConnectionId, request: PlainRequest) {
        if !self.tell(News::Asked(id, request)) {
            self.muxer.refuse(now, id);
        }
    }

    pub(crate) fn call(&mut self, now: Instant, opening: Opening) {
        let kind = if opening.end.messages { SocketType::SeqPacket } else { SocketType::Stream };
        match self.muxer.call(now, opening.caller, opening.port, kind) {
            Some((id, from)) => {
                self.calls.insert(id, Call { opening, from });
            }
            None => {
                let _ = opening.answer.send(Called::Refused);
            }
        }
    }

    pub(crate) fn called(&mut self, now: Instant, id: ConnectionId) {
        let Some(Call { opening, from }) = self.calls.remove(&id) else {
            return self.muxer.host_reset(now, id);
        };
        if opening.greeting && !greet(&opening.end.host, from) {
            // Whoever called has gone.
            return self.muxer.host_reset(now, id);
        }
        self.attach(now, id, opening.end);
        let _ = opening.answer.send(Called::Open);
    }

    pub(crate) fn call_failed(&mut self, id: ConnectionId) {
        if let Some(Call { opening, .. }) = self.calls.remove(&id) {
            let _ = opening.answer.send(Called::Refused);
        }
    }
}

/// The line is the first that the socket carries, so that its buffer has room.
fn greet(end: &HostEnd, from: VsockPort) -> bool {
    let line = format!("OK {}\n", from.0);
    let piece = iovec { iov_base: line.as_ptr().cast_mut().cast(), iov_len: line.len() };
    end.write(&[piece]).is_ok_and(|written| written == line.len())
}
