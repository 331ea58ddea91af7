//! Connections: who is connected where, by which rule, for `status`.
//!
//! in: connections as they are made; out: a list. Owner: one table per guest, under a short lock.
//! Kept: a connection stays in the table while the device has it, which its shared counters tell
//! ([`ConnectionStats::is_over`]); the table is swept before it counts, and once in a while. Bound:
//! the guest's `connections_max`.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use outsock_device::ConnectionStats;
use outsock_vmrpc::socket::Asserted;

use crate::names::Held;

/// One connection that stands.
#[derive(Debug)]
pub(crate) struct Connection {
    pub(crate) number: u64,
    pub(crate) asserted: Asserted,
    /// Where the guest wanted to go.
    pub(crate) destination: String,
    pub(crate) rule: String,
    pub(crate) transport: String,
    /// What was dialled.
    pub(crate) peer: String,
    pub(crate) begun: Instant,
    /// How long the dial took.
    pub(crate) dial_us: u64,
    pub(crate) stats: Arc<ConnectionStats>,
    /// The synthetic address that it goes to stays its name's.
    pub(crate) _held: Option<Held>,
}

/// The connections of one guest.
#[derive(Debug, Default)]
pub(crate) struct Connections {
    table: Mutex<Table>,
}

#[derive(Debug, Default)]
struct Table {
    connections: Vec<Connection>,
    made: u64,
}

impl Connections {
    fn table(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Puts a connection into the table, with the next number.
    pub(crate) fn add(&self, make: impl FnOnce(u64) -> Connection) {
        let mut table = self.table();
        table.made += 1;
        let connection = make(table.made);
        table.connections.push(connection);
    }

    /// Whether fewer than `max` stand. Sweeps only when it must.
    pub(crate) fn are_below(&self, max: usize) -> bool {
        if self.table().connections.len() < max {
            return true;
        }
        self.sweep();
        self.table().connections.len() < max
    }

    /// Forgets those that are over.
    pub(crate) fn sweep(&self) {
        let over: Vec<_> = {
            let mut table = self.table();
            table.connections.extract_if(.., |connection| connection.stats.is_over()).collect()
        };
        // Dropped without the lock: they give their names' addresses back.
        drop(over);
    }

    /// Shows each to `see`, oldest first.
    pub(crate) fn each(&self, see: impl FnMut(&Connection)) {
        self.sweep();
        self.table().connections.iter().for_each(see);
    }
}
