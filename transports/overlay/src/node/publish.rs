//! Publish: this gateway's own record in the directory, and the others' that it keeps.
//!
//! in: the swarm's addresses, a tick; records of peers; out: puts. Owner: the node's task. Kept: a record
//! is put anew when the addresses changed and when a quarter of its life is over; what peers want kept is
//! checked like what is looked up, and never replaces a later record. Bound: one put at a time.

use std::time::Instant;

use libp2p::kad::store::RecordStore as _;
use libp2p::kad::{QueryId, Quorum, Record as Stored};
use libp2p::multiaddr::Protocol;
use libp2p::{Multiaddr, PeerId};

use super::Node;
use crate::key::peer_key;
use crate::limits;
use crate::record::{Record, now_ms, of_peer};

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Publish {
    /// What was put last.
    addresses: Vec<Multiaddr>,
    again_at: Option<Instant>,
    under_way: Option<QueryId>,
}

impl Node {
    pub(super) fn keep_published(&mut self, now: Instant) {
        let addresses = self.own_addresses();
        let is_due = self.publish.again_at.is_none_or(|at| at <= now);
        let is_new = addresses != self.publish.addresses;
        let is_alone = self.table.all().next().is_none();
        if self.publish.under_way.is_some() || is_alone || !(is_due || is_new) {
            return;
        }
        let (network, own) = (&self.settings.network, self.swarm.local_peer_id());
        let key = peer_key(own).map(|key| Record::place(network, &key));
        let value = Record::sign(network, &self.keypair, &addresses, now_ms());
        let (Some(key), Some(value)) = (key, value) else { return };
        let expires = Some(now + limits::RECORD_LIFETIME);
        let stored = Stored { key, value, publisher: None, expires };
        self.publish.again_at = Some(now + limits::PUBLISH_RETRY);
        match self.swarm.behaviour_mut().kad.put_record(stored, Quorum::One) {
            Ok(query) => {
                self.publish.under_way = Some(query);
                self.publish.addresses = addresses;
            }
            Err(error) => tracing::warn!(%error, "overlay: cannot put the own record"),
        }
    }

    /// How a put ended.
    pub(super) fn published(&mut self, query: QueryId, outcome: Result<(), String>) {
        if self.publish.under_way != Some(query) {
            return;
        }
        self.publish.under_way = None;
        match outcome {
            Ok(()) => {
                tracing::debug!("overlay: the own record is in the directory");
                self.publish.again_at = Some(Instant::now() + limits::RECORD_LIFETIME / 4);
            }
            // Put again soon: nobody else does it.
            Err(error) => tracing::debug!(error, "overlay: the own record is not in the directory"),
        }
    }

    fn own_addresses(&self) -> Vec<Multiaddr> {
        let own = *self.swarm.local_peer_id();
        let all = self.swarm.external_addresses().chain(self.swarm.listeners());
        let mut addresses: Vec<_> = all.map(|address| of_peer(address.clone(), own)).collect();
        addresses.sort_by_key(|address| (is_circuit(address), address.to_string()));
        addresses.dedup();
        // Loopback is of use only where there is nothing else: on one machine.
        if addresses.iter().any(|address| !is_loopback(address)) {
            addresses.retain(|address| !is_loopback(address));
        }
        addresses.truncate(limits::ADDRESSES_MAX);
        addresses
    }

    /// A record that a peer wants kept here.
    pub(super) fn put(&mut self, source: PeerId, record: Stored) {
        let network = self.settings.network.as_str();
        let new = match Record::check(&record.value, network, &record.key, now_ms()) {
            Ok(new) => new,
            Err(error) => {
                return tracing::info!(%source, %error, "overlay: a record was refused");
            }
        };
        let store = self.swarm.behaviour_mut().kad.store_mut();
        let old = store.get(&record.key);
        let old = old.and_then(|old| Record::check(&old.value, network, &old.key, now_ms()).ok());
        if old.is_some_and(|old| old.issued_ms > new.issued_ms) {
            return tracing::debug!(%source, "overlay: an older record was refused");
        }
        // For as long as it says itself, not as who brings it says.
        let record = Stored { expires: Some(Instant::now() + new.lifetime), ..record };
        if let Err(error) = store.put(record) {
            tracing::warn!(%source, %error, "overlay: cannot keep a record");
        }
    }
}

fn is_circuit(address: &Multiaddr) -> bool {
    address.iter().any(|part| matches!(part, Protocol::P2pCircuit))
}

fn is_loopback(address: &Multiaddr) -> bool {
    match address.iter().next() {
        Some(Protocol::Ip4(ip)) => ip.is_loopback(),
        Some(Protocol::Ip6(ip)) => ip.is_loopback(),
        _ => false,
    }
}
