//! Tombstones: which connections ended, and by whose RST.
//!
//! in: keys of connections that ended; out: whether a late packet is a race or a violation. Owned
//! by the stack. Kept: the newest are remembered; once the oldest is forgotten, unknown packets
//! are no longer violations. Bound: [`limits::TOMBSTONES_MAX`].

use std::collections::{HashMap, VecDeque};

use outsock_core::address::ConnectionKey;

use crate::limits;

/// Who ended a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum EndedBy {
    /// The gateway sent RST: nothing may follow.
    Gateway,
    /// We did: what the gateway sent before it knew may still arrive.
    Guest,
}

/// What is known about a key that has no socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Memory {
    /// It was ended.
    Ended(EndedBy),
    /// It never was.
    Never,
    /// Too long ago to tell.
    Unknown,
}

#[derive(Debug, Default)]
pub(crate) struct Tombstones {
    ended: HashMap<ConnectionKey, EndedBy>,
    order: VecDeque<ConnectionKey>,
    forgot: bool,
}

impl Tombstones {
    pub(crate) fn add(&mut self, key: ConnectionKey, by: EndedBy) {
        if self.ended.insert(key, by).is_none() {
            self.order.push_back(key);
        }
        if self.order.len() > limits::TOMBSTONES_MAX
            && let Some(oldest) = self.order.pop_front()
        {
            self.ended.remove(&oldest);
            self.forgot = true;
        }
    }

    /// The key lives again. It stays in the order list, which is only a bound.
    pub(crate) fn remove(&mut self, key: ConnectionKey) -> bool {
        let known = self.ended.remove(&key).is_some();
        if known {
            self.order.retain(|other| *other != key);
        }
        known
    }

    pub(crate) fn look(&self, key: ConnectionKey) -> Memory {
        match self.ended.get(&key) {
            Some(by) => Memory::Ended(*by),
            None if self.forgot => Memory::Unknown,
            None => Memory::Never,
        }
    }
}
