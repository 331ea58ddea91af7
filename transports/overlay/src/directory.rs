//! Directory: the network's distributed hash table.
//!
//! in: settings; out: the behaviour that keeps records. Owner: the swarm's task. Kept: a record of
//! another is stored only after it was looked at. Bounds: [`limits::RECORDS_MAX`],
//! [`limits::RECORD_BYTES_MAX`].

use std::time::Duration;

use libp2p::PeerId;
use libp2p::kad::store::{MemoryStore, MemoryStoreConfig};
use libp2p::kad::{Behaviour, Config, StoreInserts};

use crate::limits;
use crate::network::protocol;

/// Builds it.
pub(crate) fn behaviour(own: PeerId, network: &str) -> Behaviour<MemoryStore> {
    let store = MemoryStoreConfig {
        max_records: limits::RECORDS_MAX,
        max_value_bytes: limits::RECORD_BYTES_MAX,
        ..MemoryStoreConfig::default()
    };
    let mut config = Config::new(protocol(network, "kad/1"));
    config
        .set_record_filtering(StoreInserts::FilterBoth)
        .set_query_timeout(limits::LOOKUP_TIMEOUT)
        .set_periodic_bootstrap_interval(Some(Duration::from_secs(60)))
        // Records are published anew by their owners, with a new signature.
        .set_publication_interval(None)
        .disjoint_query_paths(true);
    Behaviour::with_config(own, MemoryStore::with_config(own, store), config)
}
