//! Writing: how frames of many callers get onto the stream.
//!
//! in: frames; out: bytes, whole frames in the order in which they came. Owner: the callers; one writes at
//! a time, also what others have added meanwhile, so that a crowd of callers costs few system calls.
//! Kept: what is added is written by whoever writes, or by who added it. Bound: [`PENDING_BYTES_MAX`] and
//! one frame per caller; then callers wait for the stream.

use std::io::Write;
use std::os::unix::net::UnixStream;
use std::sync::{Mutex, MutexGuard, TryLockError};

use crate::error::RpcError;
use crate::frame::Frame;
use crate::queue::lock;

/// Bytes that may wait for the one who writes: some of the largest frames.
const PENDING_BYTES_MAX: usize = 256 * 1024;

#[derive(Default)]
pub(super) struct Writing {
    pending: Mutex<Vec<u8>>,
    /// Held by who writes; a buffer to change with `pending`.
    writing: Mutex<Vec<u8>>,
}

/// Why a frame is not sent.
pub(super) enum WriteError {
    /// It is longer than a frame may be; nothing happened.
    TooLarge,
    /// The stream is dead, or has half a frame: it is of no use any more.
    Broken,
}

impl From<WriteError> for RpcError {
    fn from(error: WriteError) -> Self {
        match error {
            WriteError::TooLarge => Self::ArgumentsTooLarge,
            WriteError::Broken => Self::Disconnected,
        }
    }
}

impl Writing {
    /// Sends a frame. `Ok`: it is written, or somebody else is at it.
    pub(super) fn send(&self, mut stream: &UnixStream, frame: &Frame) -> Result<(), WriteError> {
        let is_much = {
            let mut pending = lock(&self.pending);
            frame.encode(&mut pending).map_err(|_| WriteError::TooLarge)?;
            pending.len() > PENDING_BYTES_MAX
        };
        let mut turn = if is_much { Some(lock(&self.writing)) } else { self.turn() };
        while let Some(mut bytes) = turn {
            bytes.clear();
            std::mem::swap(&mut *bytes, &mut *lock(&self.pending));
            if !bytes.is_empty() {
                stream.write_all(&bytes).map_err(|_| WriteError::Broken)?;
            }
            drop(bytes);
            // Who added something while we wrote has left it to us.
            let is_done = lock(&self.pending).is_empty();
            turn = if is_done { None } else { self.turn() };
        }
        Ok(())
    }

    /// `None` while somebody else writes.
    fn turn(&self) -> Option<MutexGuard<'_, Vec<u8>>> {
        match self.writing.try_lock() {
            Ok(turn) => Some(turn),
            Err(TryLockError::Poisoned(poisoned)) => Some(poisoned.into_inner()),
            Err(TryLockError::WouldBlock) => None,
        }
    }
}
