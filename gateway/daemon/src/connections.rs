//! Connections: who is connected where, by which rule, for `status` and for the guest's questions.
//!
//! in: connections as they are made; out: a list, and each by its token. Owner: one table per guest,
//! under a short lock. Kept: a connection stays in the table while the device has it, which its
//! shared counters tell ([`ConnectionStats::is_over`]); the table is swept before it counts, and once
//! in a while; of those that a reset has ended the errno is kept for a while longer, since the guest
//! asks for it only when it has seen the end. Bounds: the guest's `connections_max`,
//! [`limits::RESETS_REMEMBERED_MAX`].

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use outsock_device::{ConnectionStats, HostSocket};
use outsock_vmrpc::Errno;
use outsock_vmrpc::socket::{Asserted, Token};

use crate::limits;
use crate::names::Held;
use crate::own_tls::Own;

/// Who began.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Direction {
    /// Someone outside: the guest has accepted.
    In,
    /// The guest.
    Out,
}

/// One connection that stands.
#[derive(Debug)]
pub(crate) struct Connection {
    pub(crate) number: u64,
    /// What the guest calls it.
    pub(crate) token: Token,
    pub(crate) direction: Direction,
    pub(crate) asserted: Asserted,
    /// Where the guest wanted to go; of one that came in, where the guest listens.
    pub(crate) destination: String,
    pub(crate) rule: String,
    pub(crate) transport: String,
    pub(crate) encryption: Encrypted,
    /// What was dialled, or who has.
    pub(crate) peer: String,
    pub(crate) begun: Instant,
    /// How long the dial took.
    pub(crate) dial_us: u64,
    pub(crate) stats: Arc<ConnectionStats>,
    /// The host's kernel socket; `None` where the transport has none.
    pub(crate) socket: Option<HostSocket>,
    /// The synthetic address that it goes to stays its name's.
    pub(crate) _held: Option<Held>,
}

/// Who encrypts what leaves the gateway, if anybody does.
#[derive(Clone, Debug)]
pub(crate) enum Encrypted {
    /// Nobody here: the program itself may.
    No,
    /// The transport.
    Transport,
    /// TLS, because a rule says so, unless the program was found to bring its own.
    Tls(Own),
}

impl std::fmt::Display for Encrypted {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::No => "no",
            Self::Transport => "transport",
            Self::Tls(own) if own.load(Ordering::Relaxed) => "own tls",
            Self::Tls(_) => "tls",
        })
    }
}

/// The connections of one guest.
#[derive(Debug, Default)]
pub(crate) struct Connections {
    table: Mutex<Table>,
}

#[derive(Debug, Default)]
struct Table {
    /// By number, which is by age.
    connections: BTreeMap<u64, Connection>,
    numbers: HashMap<Token, u64>,
    made: u64,
    resets: VecDeque<(Token, Errno)>,
}

/// What is at hand of one connection.
#[derive(Clone, Debug)]
pub(crate) enum Known {
    /// It stands, or ended a moment ago.
    Stands {
        /// Its counters.
        stats: Arc<ConnectionStats>,
        /// Its kernel socket.
        socket: Option<HostSocket>,
    },
    /// A reset has ended it.
    Reset(Errno),
}

impl Connections {
    fn table(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Puts a connection into the table, with the next number.
    pub(crate) fn add(&self, make: impl FnOnce(u64) -> Connection) {
        let mut table = self.table();
        table.made += 1;
        let number = table.made;
        let connection = make(number);
        table.numbers.insert(connection.token, number);
        table.connections.insert(number, connection);
    }

    /// The connection of a token.
    pub(crate) fn find(&self, token: Token) -> Option<Known> {
        let table = self.table();
        let number = table.numbers.get(&token);
        if let Some(connection) = number.and_then(|number| table.connections.get(number)) {
            let (stats, socket) = (Arc::clone(&connection.stats), connection.socket.clone());
            return Some(Known::Stands { stats, socket });
        }
        let reset = table.resets.iter().rev().find(|(other, _)| *other == token);
        reset.map(|(_, errno)| Known::Reset(*errno))
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
        let over: Vec<Connection> = {
            let mut table = self.table();
            let is_over = |(_, connection): &(&u64, &Connection)| connection.stats.is_over();
            let numbers: Vec<u64> =
                table.connections.iter().filter(is_over).map(|(number, _)| *number).collect();
            numbers.into_iter().filter_map(|number| table.forget(number)).collect()
        };
        // Dropped without the lock: they give their names' addresses back.
        drop(over);
    }

    /// Shows each to `see`, oldest first.
    pub(crate) fn each(&self, see: impl FnMut(&Connection)) {
        self.sweep();
        self.table().connections.values().for_each(see);
    }
}

impl Table {
    /// Takes out a connection that is over; keeps what the guest may still ask for.
    fn forget(&mut self, number: u64) -> Option<Connection> {
        let connection = self.connections.remove(&number)?;
        // The token may name a later connection by now.
        if self.numbers.get(&connection.token) == Some(&number) {
            self.numbers.remove(&connection.token);
        }
        if let Some(errno) = connection.stats.reset() {
            if self.resets.len() >= limits::RESETS_REMEMBERED_MAX {
                self.resets.pop_front();
            }
            self.resets.push_back((connection.token, errno));
        }
        Some(connection)
    }
}
