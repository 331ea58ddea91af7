//! Exits: peers' connections that are served here, for `status`, and how many were refused.
//!
//! in: connections as they are made and refused; out: a list, counters per peer, log lines. Owner:
//! shared, under short locks. Kept: an entry is there exactly as long as its connection. Bound: the
//! peers' streams; [`limits::LOG_LINES_PER_SECOND`](crate::limits::LOG_LINES_PER_SECOND) lines per peer.

use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use crate::logs::LogLimit;

/// See the module.
#[derive(Debug, Default)]
pub(crate) struct Exits {
    live: Arc<Mutex<Live>>,
    counts: Mutex<HashMap<String, Arc<PeerCounts>>>,
}

#[derive(Debug, Default)]
struct Live {
    connections: BTreeMap<u64, Entry>,
    made: u64,
}

#[derive(Debug)]
struct Entry {
    peer: String,
    origin: String,
    to: String,
    rule: String,
    via: String,
    began: Instant,
}

/// What `status` shows of one.
#[derive(Debug)]
pub(crate) struct ExitView<'a> {
    pub(crate) number: u64,
    pub(crate) peer: &'a str,
    pub(crate) origin: &'a str,
    pub(crate) to: &'a str,
    pub(crate) rule: &'a str,
    pub(crate) via: &'a str,
    pub(crate) began: Instant,
}

/// One peer's counters and its share of the log.
#[derive(Debug)]
pub(crate) struct PeerCounts {
    pub(crate) served: AtomicU64,
    pub(crate) refused: AtomicU64,
    pub(crate) failed: AtomicU64,
    pub(crate) log: LogLimit,
}

/// Takes the entry out when dropped.
#[derive(Debug)]
pub(crate) struct Listed {
    live: Arc<Mutex<Live>>,
    number: u64,
}

impl Drop for Listed {
    fn drop(&mut self) {
        let mut live = self.live.lock().unwrap_or_else(PoisonError::into_inner);
        live.connections.remove(&self.number);
    }
}

impl Exits {
    fn live(&self) -> MutexGuard<'_, Live> {
        self.live.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A peer's counters. There are as many as peers were ever configured.
    pub(crate) fn of(&self, peer: &str) -> Arc<PeerCounts> {
        let mut counts = self.counts.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = counts.get(peer) {
            return Arc::clone(known);
        }
        let fresh = Arc::new(PeerCounts {
            served: AtomicU64::new(0),
            refused: AtomicU64::new(0),
            failed: AtomicU64::new(0),
            log: LogLimit::new(),
        });
        counts.insert(peer.to_owned(), Arc::clone(&fresh));
        fresh
    }

    /// Lists a connection for as long as the returned value lives.
    pub(crate) fn add(
        &self,
        peer: &str,
        origin: &str,
        to: String,
        rule: &str,
        via: &str,
    ) -> Listed {
        self.of(peer).served.fetch_add(1, Relaxed);
        let entry = Entry {
            peer: peer.to_owned(),
            origin: origin.to_owned(),
            to,
            rule: rule.to_owned(),
            via: via.to_owned(),
            began: Instant::now(),
        };
        let mut live = self.live();
        live.made += 1;
        let number = live.made;
        live.connections.insert(number, entry);
        Listed { live: Arc::clone(&self.live), number }
    }

    /// Shows each to `see`, oldest first.
    pub(crate) fn each(&self, mut see: impl FnMut(&ExitView<'_>)) {
        for (number, entry) in &self.live().connections {
            see(&ExitView {
                number: *number,
                peer: &entry.peer,
                origin: &entry.origin,
                to: &entry.to,
                rule: &entry.rule,
                via: &entry.via,
                began: entry.began,
            });
        }
    }
}
