//! Lookups: queries of the directory that are under way.
//!
//! in:  progress of kad's queries; out: each value found, to who asked.
//! Owner: the node's task. Kept: who no longer listens has the query ended; values are passed on as they
//! are, to be validated by who asked. Bound: the queries of the daemon's tasks.

use std::collections::HashMap;

use libp2p::kad::{GetRecordOk, QueryId, QueryResult};
use tokio::sync::mpsc;

/// See the module.
#[derive(Debug, Default)]
pub(crate) struct Lookups {
    found: HashMap<QueryId, mpsc::Sender<Vec<u8>>>,
}

impl Lookups {
    pub(crate) fn began(&mut self, id: QueryId, reply: mpsc::Sender<Vec<u8>>) {
        self.found.insert(id, reply);
    }

    /// Says whether the query may end because nobody listens.
    pub(crate) fn progress(&mut self, id: QueryId, result: QueryResult, is_last: bool) -> bool {
        match result {
            QueryResult::GetRecord(outcome) => {
                let Some(reply) = self.found.get(&id) else { return true };
                if let Ok(GetRecordOk::FoundRecord(found)) = outcome {
                    // A full queue has more answers than anyone needs.
                    let _ = reply.try_send(found.record.value);
                }
                let is_over = reply.is_closed();
                if is_last || is_over {
                    self.found.remove(&id);
                }
                is_over
            }
            _ => false,
        }
    }
}
