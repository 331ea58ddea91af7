//! Calls: what a guest's stream waits for, and what a frame from the host means for it.
//!
//! in: calls that start, frames; out: each call's end, events for their queues. Owner: shared by the
//! stream's reader and the callers; short locks. Kept: every started call ends exactly once. Bound:
//! [`limits::CALLS_IN_FLIGHT_MAX`].

use std::collections::HashMap;
use std::sync::Mutex;

use crate::error::{Fault, RpcError};
use crate::frame::{Body, CallId, Decoder, Frame, FrameError};
use crate::limits;
use crate::queue::lock;
use crate::queue::table::Table;

pub(crate) type Outcome = Result<Vec<u8>, RpcError>;
pub(crate) type Done = Box<dyn FnOnce(Outcome) + Send>;

pub(crate) struct Calls {
    waiting: Mutex<Waiting>,
}

struct Waiting {
    next: u32,
    /// `None` once the stream is dead: no call can start any more.
    calls: Option<HashMap<CallId, Done>>,
}

impl Calls {
    pub(crate) fn new() -> Self {
        Self { waiting: Mutex::new(Waiting { next: 0, calls: Some(HashMap::new()) }) }
    }

    pub(crate) fn enter(&self, done: Done) -> Result<CallId, (Done, RpcError)> {
        self.enter_up_to(limits::CALLS_IN_FLIGHT_MAX, done)
    }

    /// What ends something can always start: each binding and each queue ends once.
    pub(crate) fn enter_end(&self, done: Done) -> Result<CallId, (Done, RpcError)> {
        const ENDS_MAX: usize = limits::QUEUES_PER_STREAM_MAX + limits::BINDINGS_PER_STREAM_MAX;
        self.enter_up_to(limits::CALLS_IN_FLIGHT_MAX + ENDS_MAX, done)
    }

    fn enter_up_to(&self, max: usize, done: Done) -> Result<CallId, (Done, RpcError)> {
        let mut waiting = lock(&self.waiting);
        let mut call = CallId(waiting.next);
        let Some(calls) = waiting.calls.as_mut() else {
            return Err((done, RpcError::Disconnected));
        };
        if calls.len() >= max {
            return Err((done, RpcError::Host(Fault::TooMany)));
        }
        while calls.contains_key(&call) {
            call = CallId(call.0.wrapping_add(1));
        }
        calls.insert(call, done);
        waiting.next = call.0.wrapping_add(1);
        Ok(call)
    }

    pub(crate) fn finish(&self, call: CallId, outcome: Outcome) {
        let done = lock(&self.waiting).calls.as_mut().and_then(|calls| calls.remove(&call));
        if let Some(done) = done {
            done(outcome);
        }
    }

    pub(crate) fn fail_all(&self, error: &RpcError) {
        let calls = lock(&self.waiting).calls.take();
        for done in calls.into_iter().flat_map(HashMap::into_values) {
            done(Err(error.clone()));
        }
    }

    /// Does what all frames say that are whole by now.
    pub(crate) fn take_all(&self, decoder: &mut Decoder, queues: &Table) -> Result<(), FrameError> {
        while let Some(frame) = decoder.next()? {
            self.take(frame, queues)?;
        }
        Ok(())
    }

    /// Does what a frame from the host says.
    pub(crate) fn take(&self, frame: Frame, queues: &Table) -> Result<(), FrameError> {
        match frame.body {
            Body::Reply(outcome) => self.finish(frame.call, outcome),
            Body::Event { queue, event } => queues.event(queue, event)?,
            Body::Credit { queue, bytes } => queues.credit(queue, bytes)?,
            Body::Wake(queue) => queues.wake(queue),
            Body::QueueEnded { queue, why } => {
                queues.remove(queue, why);
            }
            // Not for a guest; ignoring them harms nobody.
            Body::Hello { .. }
            | Body::Bind { .. }
            | Body::Unbind(_)
            | Body::Call { .. }
            | Body::OpenQueue { .. }
            | Body::CloseQueue(_)
            | Body::Register { .. }
            | Body::Binding { .. }
            | Body::Cancel
            | Body::MakeQueue { .. } => {}
        }
        Ok(())
    }
}

/// Whether the answer to an open or a close of a queue says that the host does not touch its pages
/// (any more). An end of the stream says nothing of the kind.
pub(crate) fn says_that_it_let_go(outcome: &Outcome) -> bool {
    matches!(outcome, Ok(_) | Err(RpcError::Host(Fault::NoSuchQueue | Fault::QueueNotShared)))
}

/// A frame as bytes.
#[cfg(feature = "async")]
pub(crate) fn encoded(call: CallId, body: Body) -> Result<Vec<u8>, RpcError> {
    let mut bytes = Vec::new();
    let frame = Frame { call, body };
    frame.encode(&mut bytes).map(|()| bytes).map_err(|_| RpcError::ArgumentsTooLarge)
}

/// How this program calls itself: its name and process id.
pub(crate) fn client_name() -> String {
    let name = std::fs::read_to_string("/proc/self/comm").unwrap_or_default();
    format!("{} ({})", name.trim(), std::process::id())
}
