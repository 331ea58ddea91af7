//! Job: a stream that the driver thread itself sends or receives, for benchmarks.
//!
//! in: how much, in which messages; out: one report at the end. Runs on the driver thread, under
//! the guest's lock, without a hand-over per message. Kept: a job ends exactly once, also when its
//! connection or the guest does. Bound: [`limits::JOB_PASS_PACKETS_MAX`] packets per turn and job.

use std::sync::mpsc::SyncSender;
use std::time::{Duration, Instant};

use outsock_core::packet::HEADER_BYTES;

use crate::buffer::Payload;
use crate::driver::RxPacket;
use crate::limits::{self, PACKET_PAYLOAD_BYTES_MAX};
use crate::pattern;
use crate::socket::{Failure, State};
use crate::stack::{CallError, SocketId, Stack};

/// What happens to the bytes on the guest's side.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Content {
    /// [`crate::pattern`]: copied in when sending, copied out and compared when receiving.
    Pattern,
    /// Copied, as a kernel does, but neither made nor checked.
    Copied,
    /// Not touched at all: measures the gateway alone.
    InPlace,
}

/// How a stream went.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Transfer {
    /// Bytes moved.
    pub bytes: u64,
    /// Packets that carried them.
    pub packets: u64,
    /// From the start of the job to its last byte.
    pub elapsed: Duration,
    /// The time of each round trip, where that was the job.
    pub round_trips: Vec<Duration>,
}

impl Transfer {
    /// Bytes per second.
    pub fn bytes_per_second(&self) -> f64 {
        #[expect(clippy::cast_precision_loss, reason = "a rate needs no more than 52 bits")]
        let bytes = self.bytes as f64;
        bytes / self.elapsed.as_secs_f64().max(1e-9)
    }
}

/// Why a stream ended early.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum StreamError {
    /// The connection was never there, or is not any more.
    #[error("not connected after {after} bytes")]
    NotConnected {
        /// Bytes moved before.
        after: u64,
    },
    /// The peer does not take any more.
    #[error("broken pipe after {after} bytes")]
    BrokenPipe {
        /// Bytes moved before.
        after: u64,
    },
    /// The stream ended before all bytes came.
    #[error("end of stream after {after} bytes")]
    Ended {
        /// Bytes moved before.
        after: u64,
    },
    /// The connection ended in an error.
    #[error("the connection failed after {after} bytes")]
    Failed {
        /// Bytes moved before.
        after: u64,
    },
    /// A byte is not the pattern's.
    #[error("wrong byte at position {position}")]
    WrongByte {
        /// Where.
        position: u64,
    },
    /// Another job runs on this connection already.
    #[error("another job runs on this connection")]
    Busy,
    /// It took longer than the guest's patience.
    #[error("not finished within the guest's patience")]
    TimedOut,
}

#[derive(Debug)]
pub(crate) enum Work {
    Send { message: usize, left_in_message: usize },
    Receive { to_the_end: bool },
    RoundTrips { payload: usize, sent_at: Option<Instant>, unsent: usize, missing: usize },
}

/// One job.
#[derive(Debug)]
pub(crate) struct Job {
    pub id: SocketId,
    pub work: Work,
    pub content: Content,
    /// Bytes (round trips: trips) still to go.
    pub remaining: u64,
    pub report: Transfer,
    pub started: Instant,
    pub done: SyncSender<Result<Transfer, StreamError>>,
    pub error: Option<StreamError>,
    /// Bytes were taken since the credit was last looked at.
    pub dirty: bool,
}

impl Job {
    fn after(&self) -> u64 {
        self.report.bytes
    }
}

impl Stack {
    /// Starts a job.
    pub(crate) fn start_job(&mut self, job: Job) -> Result<(), StreamError> {
        let id = job.id;
        let slot = self.jobs.iter().position(Option::is_none).unwrap_or(self.jobs.len());
        let takes_data = !matches!(job.work, Work::Send { .. });
        let socket = self.get(id).ok_or(StreamError::NotConnected { after: 0 })?;
        if takes_data {
            if socket.job.is_some() {
                return Err(StreamError::Busy);
            }
            socket.job = Some(slot);
        }
        if slot == self.jobs.len() {
            self.jobs.push(None);
        }
        self.jobs[slot] = Some(job);
        if takes_data {
            self.drain_queue_into(slot);
        }
        Ok(())
    }

    /// Gives every job its turn; true when one moved something.
    pub(crate) fn run_jobs(&mut self) -> bool {
        let mut progress = false;
        for slot in 0..self.jobs.len() {
            let Some(mut job) = self.jobs[slot].take() else { continue };
            self.update_credit(&mut job);
            let moved = match job.work {
                Work::Send { .. } => self.step_send(&mut job),
                Work::Receive { .. } => false,
                Work::RoundTrips { .. } => self.step_round_trip(&mut job),
            };
            progress |= moved;
            match self.outcome(&job) {
                None => self.jobs[slot] = Some(job),
                Some(outcome) => self.finish(job, outcome),
            }
        }
        progress
    }

    fn finish(&mut self, mut job: Job, outcome: Option<StreamError>) {
        if !matches!(job.work, Work::Send { .. }) {
            self.detach_job(job.id.index);
        }
        job.report.elapsed = job.started.elapsed();
        let outcome = match outcome {
            None => Ok(job.report),
            Some(error) => Err(error),
        };
        // Nobody waits any more when the program gave up; the job is over all the same.
        let _ = job.done.send(outcome);
    }

    fn outcome(&mut self, job: &Job) -> Option<Option<StreamError>> {
        if let Some(error) = job.error {
            return Some(Some(error));
        }
        if job.remaining == 0 {
            return Some(None);
        }
        let after = job.after();
        let takes_data = !matches!(job.work, Work::Send { .. });
        let Some(socket) = self.get(job.id) else {
            return Some(Some(StreamError::NotConnected { after }));
        };
        if socket.failure.is_some() {
            return Some(Some(StreamError::Failed { after }));
        }
        if takes_data && socket.at_end() {
            let wanted = matches!(job.work, Work::Receive { to_the_end: true });
            return Some((!wanted).then_some(StreamError::Ended { after }));
        }
        None
    }

    fn update_credit(&mut self, job: &mut Job) {
        if !std::mem::take(&mut job.dirty) {
            return;
        }
        let rule = self.options.credit_rule;
        let Some(socket) = self.get(job.id) else { return };
        let due = socket.credit.update_due(rule, socket.queue.bytes());
        if due && socket.state != State::Done {
            self.send_credit_update(job.id.index);
        }
    }

    fn step_send(&mut self, job: &mut Job) -> bool {
        let mut unkicked = 0;
        let mut progress = false;
        for _ in 0..limits::JOB_PASS_PACKETS_MAX {
            let Work::Send { message, left_in_message } = &mut job.work else { break };
            if job.remaining == 0 {
                break;
            }
            if *left_in_message == 0 {
                *left_in_message = *message;
            }
            let most = usize::try_from(job.remaining).unwrap_or(usize::MAX);
            let wanted = most.min(*left_in_message).min(PACKET_PAYLOAD_BYTES_MAX);
            match self.write(job.id, payload(job.content, job.report.bytes, wanted)) {
                Ok(sent) => {
                    *left_in_message -= sent;
                    job.remaining -= sent as u64;
                    job.report.bytes += sent as u64;
                    job.report.packets += 1;
                    unkicked += sent;
                    progress = true;
                }
                Err(error) => {
                    job.error = stream_error(error, job.report.bytes);
                    break;
                }
            }
            if unkicked >= limits::KICK_CHECK_BYTES {
                self.driver.kick_tx();
                unkicked = 0;
            }
        }
        progress
    }

    fn step_round_trip(&mut self, job: &mut Job) -> bool {
        let Work::RoundTrips { payload: size, sent_at, unsent, missing } = &mut job.work else {
            return false;
        };
        if let Some(start) = sent_at
            && *missing == 0
        {
            job.report.round_trips.push(start.elapsed());
            job.remaining -= 1;
            *sent_at = None;
        }
        if sent_at.is_none() && job.remaining > 0 {
            *sent_at = Some(Instant::now());
            (*unsent, *missing) = (*size, *size);
        }
        if job.remaining == 0 || *unsent == 0 {
            return false;
        }
        match self.write(job.id, payload(job.content, 0, *unsent)) {
            Ok(sent) => {
                *unsent -= sent;
                job.report.bytes += sent as u64;
                job.report.packets += 1;
                true
            }
            Err(error) => {
                job.error = stream_error(error, job.report.bytes);
                false
            }
        }
    }

    /// Gives a packet to the job that reads from its connection.
    pub(crate) fn feed_job(&mut self, slot: usize, index: u32, packet: &RxPacket) {
        let len = packet.header.len as usize;
        let Some(mut job) = self.jobs.get_mut(slot).and_then(Option::take) else {
            return self.queue_payload(index, packet, 0);
        };
        let most = usize::try_from(room(&job)).unwrap_or(usize::MAX);
        let taken = len.min(most);
        let mut scratch = std::mem::take(&mut self.scratch);
        if job.content != Content::InPlace {
            scratch.resize(scratch.len().max(taken), 0);
            self.driver.copy_out(packet.slot, HEADER_BYTES, &mut scratch[..taken]);
        }
        take(&mut job, &scratch[..taken.min(scratch.len())], taken);
        job.report.packets += 1;
        self.scratch = scratch;
        if let Some(socket) = self.at(index) {
            socket.credit.forwarded(taken as u64);
        }
        self.jobs[slot] = Some(job);
        if taken < len {
            self.queue_payload(index, packet, taken);
        }
    }

    /// Gives a job what was queued before it started.
    fn drain_queue_into(&mut self, slot: usize) {
        let Some(mut job) = self.jobs[slot].take() else { return };
        let mut scratch = std::mem::take(&mut self.scratch);
        while let Some(socket) = self.get(job.id) {
            let most = usize::try_from(room(&job)).unwrap_or(usize::MAX).min(scratch.len());
            let (len, forwarded) = socket.queue.read(&mut scratch[..most]);
            socket.credit.forwarded(forwarded);
            if len == 0 {
                break;
            }
            take(&mut job, &scratch[..len], len);
        }
        self.scratch = scratch;
        self.jobs[slot] = Some(job);
    }
}

/// Bytes that a job still takes.
fn room(job: &Job) -> u64 {
    match job.work {
        Work::Send { .. } => 0,
        Work::Receive { .. } => job.remaining,
        Work::RoundTrips { missing, .. } => missing as u64,
    }
}

fn take(job: &mut Job, bytes: &[u8], len: usize) {
    job.dirty = true;
    match &mut job.work {
        Work::Send { .. } => {}
        Work::Receive { .. } => {
            if job.content == Content::Pattern
                && let Some(position) = pattern::mismatch(job.report.bytes, bytes)
            {
                job.error = Some(StreamError::WrongByte { position });
            }
            job.report.bytes += len as u64;
            job.remaining -= len as u64;
        }
        Work::RoundTrips { missing, .. } => *missing -= len,
    }
}

fn payload(content: Content, position: u64, len: usize) -> Payload<'static> {
    match content {
        Content::Pattern => Payload::Bytes(pattern::at(position, len)),
        Content::Copied => Payload::Bytes(pattern::at(0, len)),
        Content::InPlace => Payload::InPlace(len),
    }
}

fn stream_error(error: CallError, after: u64) -> Option<StreamError> {
    match error {
        CallError::WouldBlock => None,
        CallError::NotConnected => Some(StreamError::NotConnected { after }),
        CallError::BrokenPipe => Some(StreamError::BrokenPipe { after }),
        CallError::Failed(Failure::Gone) => Some(StreamError::NotConnected { after }),
        CallError::Failed(_) => Some(StreamError::Failed { after }),
    }
}
