//! Outbox: messages that wait to be written to a guest.
//!
//! in: messages of all flows of a channel; out: their bytes, all at once. Owner: shared by the
//! channel's tasks, one short lock. Kept: nobody waits for a guest that does not read; its datagrams
//! are dropped whole. Bound: [`limits::OUTBOX_BYTES_MAX`].

use std::sync::{Mutex, PoisonError};

use outsock_vmrpc::datagram::Message;
use tokio::sync::Notify;

use crate::limits;

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Outbox {
    bytes: Mutex<Vec<u8>>,
    filled: Notify,
}

impl Outbox {
    /// Puts a message in. `false` when there is no room for it.
    pub(super) fn put(&self, message: &Message<'_>) -> bool {
        let was_empty = {
            let mut bytes = self.bytes.lock().unwrap_or_else(PoisonError::into_inner);
            if bytes.len() >= limits::OUTBOX_BYTES_MAX {
                return false;
            }
            let was_empty = bytes.is_empty();
            if !message.encode(&mut bytes) {
                return false;
            }
            was_empty
        };
        if was_empty {
            self.filled.notify_one();
        }
        true
    }

    /// Waits for messages and takes all of them; `spare` is what was taken before, for its memory.
    pub(super) async fn take(&self, mut spare: Vec<u8>) -> Vec<u8> {
        spare.clear();
        loop {
            {
                let mut bytes = self.bytes.lock().unwrap_or_else(PoisonError::into_inner);
                if !bytes.is_empty() {
                    return std::mem::replace(&mut *bytes, spare);
                }
            }
            self.filled.notified().await;
        }
    }
}
