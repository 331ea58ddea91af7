//! Reach: how others get to this gateway: by its own addresses, or through supernodes.
//!
//! in:  what peers say of themselves, what probes found, listeners' ends; out: dials of bootstraps,
//! places at supernodes. Owner: the node's task. Kept: who cannot be dialled has places at
//! [`PLACES`] supernodes, chosen by round trip; one that refuses or is gone is replaced, and asked again
//! only after a pause. Bounds: [`KNOWN_MAX`], pauses with jitter.

use std::collections::{HashMap, HashSet};
use std::io;
use std::time::{Duration, Instant};

use libp2p::core::transport::ListenerId;
use libp2p::multiaddr::Protocol;
use libp2p::{Multiaddr, PeerId, autonat, kad};

use super::Node;
use crate::limits;
use crate::settings::Wish;
use crate::table::relay_of;

/// Supernodes at which a gateway has a place.
const PLACES: usize = 2;
/// Supernodes that are remembered.
const KNOWN_MAX: usize = 64;
/// Distinct peers that must have dialled an address before it counts.
const CONFIRMATIONS: usize = 2;

#[derive(Debug, Default)]
struct Known {
    addresses: Vec<Multiaddr>,
    is_supernode: bool,
    place: Option<ListenerId>,
    not_before: Option<Instant>,
    failures: u32,
}

/// See the module.
#[derive(Debug)]
pub(super) struct Reach {
    known: HashMap<PeerId, Known>,
    confirmed: HashMap<Multiaddr, HashSet<PeerId>>,
    is_supernode: bool,
    bootstrap_at: Instant,
    bootstrap_pause: Duration,
    random: u64,
}

impl Reach {
    pub(super) fn new(now: Instant) -> Self {
        let random = u64::from_le_bytes(first_eight(&PeerId::random().to_bytes()));
        Self {
            known: HashMap::new(),
            confirmed: HashMap::new(),
            is_supernode: false,
            bootstrap_at: now,
            bootstrap_pause: limits::BOOTSTRAP_RETRY_FIRST,
            random,
        }
    }

    pub(super) fn is_supernode(&self) -> bool {
        self.is_supernode
    }

    pub(super) fn knows_supernode(&self, peer: &PeerId) -> bool {
        self.known.get(peer).is_some_and(|known| known.is_supernode)
    }

    /// Supernodes at which this gateway has asked for a place.
    pub(super) fn relays(&self) -> Vec<PeerId> {
        let has = |(peer, known): (&PeerId, &Known)| known.place.map(|_| *peer);
        self.known.iter().filter_map(has).collect()
    }

    pub(super) fn identified(&mut self, peer: PeerId, is_supernode: bool, at: Vec<Multiaddr>) {
        let is_new = !self.known.contains_key(&peer);
        if is_new && (!is_supernode || self.known.len() >= KNOWN_MAX) {
            return;
        }
        let known = self.known.entry(peer).or_default();
        known.is_supernode = is_supernode;
        known.addresses = at;
    }

    pub(super) fn disconnected(&mut self, peer: &PeerId) {
        if let Some(known) = self.known.get_mut(peer) {
            known.place = None;
        }
    }

    pub(super) fn listener_closed(
        &mut self,
        id: ListenerId,
        reason: &Result<(), io::Error>,
        now: Instant,
    ) {
        let pause = self.jitter(Duration::from_secs(1));
        let found = self.known.iter_mut().find(|(_, known)| known.place == Some(id));
        let Some((peer, known)) = found else { return };
        known.place = None;
        known.failures = (known.failures + 1).min(6);
        known.not_before = Some(now + pause * 2_u32.pow(known.failures));
        tracing::info!(supernode = %peer, ?reason, "overlay: lost the place at a supernode");
    }

    /// 50 to 150 % of a pause, so that many gateways do not act at the same moment.
    fn jitter(&mut self, pause: Duration) -> Duration {
        // An xorshift: it spreads load, it protects nothing.
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        let percent = u32::try_from(self.random % 100).unwrap_or(0) + 50;
        pause * percent / 100
    }
}

fn first_eight(bytes: &[u8]) -> [u8; 8] {
    let mut eight = [1; 8];
    for (to, from) in eight.iter_mut().zip(bytes.iter().rev()) {
        *to = *from | 1;
    }
    eight
}

impl Node {
    /// What the settings say from the start.
    pub(super) fn begin(&mut self) {
        for address in self.settings.external.clone() {
            self.swarm.add_external_address(address.0);
        }
        let is_supernode = self.settings.supernode == Wish::Always;
        self.be_supernode(is_supernode);
        if !self.settings.external.is_empty() {
            self.swarm.behaviour_mut().kad.set_mode(Some(kad::Mode::Server));
        }
        self.tick(Instant::now());
    }

    fn be_supernode(&mut self, yes: bool) {
        use libp2p::relay::Status;
        self.reach.is_supernode = yes;
        let status = if yes { Status::Enable } else { Status::Disable };
        self.swarm.behaviour_mut().relay.set_status(Some(status));
        let mode = if yes { kad::Mode::Server } else { kad::Mode::Client };
        self.swarm.behaviour_mut().kad.set_mode(Some(mode));
    }

    pub(super) fn listens(&mut self, address: Multiaddr) {
        if relay_of(&address).is_some() {
            tracing::info!(%address, "overlay: has a place at a supernode");
            return;
        }
        tracing::info!(%address, "overlay: listens");
        if self.settings.supernode == Wish::Always && self.settings.external.is_empty() {
            self.swarm.add_external_address(address);
        }
    }

    /// A supernode has dialled one of our addresses, or could not.
    pub(super) fn probed(&mut self, event: &autonat::v2::client::Event) {
        let address = &event.tested_addr;
        if event.result.is_err() {
            self.reach.confirmed.remove(address);
            return;
        }
        if self.reach.confirmed.len() >= limits::ADDRESSES_MAX {
            return;
        }
        let by = self.reach.confirmed.entry(address.clone()).or_default();
        by.insert(event.server);
        let is_enough = by.len() >= CONFIRMATIONS && is_global(address);
        if is_enough && self.settings.supernode == Wish::Auto && !self.reach.is_supernode {
            tracing::info!(%address, "overlay: becomes a supernode");
            self.be_supernode(true);
        }
    }

    pub(super) fn keep_reachable(&mut self, now: Instant) {
        self.call_bootstraps(now);
        let needs_places = !self.reach.is_supernode && self.settings.external.is_empty();
        if needs_places && self.reach.relays().len() < PLACES {
            self.ask_for_place(now);
        }
    }

    fn call_bootstraps(&mut self, now: Instant) {
        if self.table.all().next().is_some() {
            self.reach.bootstrap_pause = limits::BOOTSTRAP_RETRY_FIRST;
            self.reach.bootstrap_at = now + self.reach.bootstrap_pause;
            return;
        }
        if now < self.reach.bootstrap_at {
            return;
        }
        let pause = self.reach.bootstrap_pause;
        self.reach.bootstrap_at = now + self.reach.jitter(pause);
        self.reach.bootstrap_pause = (pause * 2).min(limits::BOOTSTRAP_RETRY_MAX);
        for address in self.settings.bootstrap.clone() {
            if let Some(peer) = address.peer() {
                self.swarm.add_peer_address(peer, address.0.clone());
                self.swarm.behaviour_mut().kad.add_address(&peer, address.0.clone());
                self.dial_if_away(peer, vec![address.0]);
            }
        }
        let known = self.reach.known.iter().map(|(peer, known)| (*peer, known.addresses.clone()));
        for (peer, addresses) in known.collect::<Vec<_>>() {
            self.dial_if_away(peer, addresses);
        }
    }

    /// The nearest supernode without a place of ours.
    fn ask_for_place(&mut self, now: Instant) {
        let direct = |peer: &PeerId| {
            self.table.best(peer).filter(|best| best.through.is_none() && best.ours).cloned()
        };
        let free = |(peer, known): (&PeerId, &Known)| {
            let may = known.is_supernode && known.place.is_none();
            let rested = known.not_before.is_none_or(|at| at <= now);
            (may && rested).then(|| direct(peer).map(|best| (*peer, best)))?
        };
        let nearest = self.reach.known.iter().filter_map(free);
        let Some((peer, best)) = nearest.min_by_key(|(_, best)| best.rtt) else { return };
        let bare: Multiaddr =
            best.address.iter().filter(|part| !matches!(part, Protocol::P2p(_))).collect();
        let circuit = bare.with(Protocol::P2p(peer)).with(Protocol::P2pCircuit);
        let listener = self.swarm.listen_on(circuit);
        if let Some(known) = self.reach.known.get_mut(&peer) {
            match listener {
                Ok(id) => known.place = Some(id),
                Err(_) => known.not_before = Some(now + Duration::from_secs(10)),
            }
        }
    }
}

/// Whether the address means the same host everywhere.
fn is_global(address: &Multiaddr) -> bool {
    match address.iter().next() {
        Some(Protocol::Ip4(ip)) => {
            !(ip.is_private() || ip.is_loopback() || ip.is_link_local() || ip.is_unspecified())
        }
        Some(Protocol::Ip6(ip)) => (ip.segments()[0] & 0xe000) == 0x2000,
        _ => false,
    }
}
