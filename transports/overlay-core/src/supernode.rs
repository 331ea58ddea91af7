//! Supernode: when a node serves others, and when it stops.
//!
//! in: who has reached it where, what it carries, the time; out: [`Order`]s. Owner: the transport, which
//! calls [`Supernode::tick`] when [`Supernode::next`] says so and after each input. Kept: it serves
//! only where at least [`limits::CONFIRMERS_MIN`] peers have reached an address that reaches everywhere;
//! one peer's word ends nothing; load makes it shed a few nodes at a time and never makes it stop, since
//! supernodes that switch themselves off overload the others; what ends lets circuits end first.
//! Bounds: [`limits::OWN_ADDRESSES_MAX`], [`limits::CONFIRMERS_MAX`].

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};

use outsock_core::address::Instant;
use outsock_core::route::Cidr;
use outsock_peer::PeerKey;

use crate::address::Reach;
use crate::limits;
use crate::record::Load;

/// Whether a node wants to serve.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wish {
    /// Not at all.
    Never,
    /// When it can.
    Auto,
    /// From the start: its operator knows that it can be reached, such as a bootstrap.
    Always,
}

/// How a node decides.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Whether it wants to.
    pub wish: Wish,
    /// Networks that count as reachable from everywhere.
    pub lab: Vec<Cidr>,
    /// How long it must have been up and reachable, milliseconds.
    pub proving_ms: u64,
    /// How long it must have been out of reach before it stops, milliseconds.
    pub grace_ms: u64,
    /// How long circuits may take to end when it stops, milliseconds.
    pub drain_ms: u64,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            wish: Wish::Auto,
            lab: Vec::new(),
            proving_ms: 600_000,
            grace_ms: 120_000,
            drain_ms: 60_000,
        }
    }
}

/// What to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Order {
    /// Say that this node serves, and take reservations.
    Announce,
    /// Say it no longer; take no new reservation and no new circuit, keep those that are there.
    Withdraw,
    /// Ask so many nodes to find another supernode.
    Shed(u64),
    /// End what is left.
    Close,
}

/// Where a node stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// It serves nobody.
    Client,
    /// It could serve, and waits whether that lasts.
    Proving {
        /// Since when it can be reached.
        since: Instant,
    },
    /// It serves.
    Serving {
        /// Since when it cannot be reached, if so.
        unreached: Option<Instant>,
        /// When it may ask nodes to leave again; `None` = it is not shedding.
        shed_at: Option<Instant>,
    },
    /// It serves no longer, and lets circuits end.
    Draining {
        /// When the rest is ended.
        until: Instant,
    },
    /// Its process is ending.
    Stopped,
}

#[derive(Clone, Copy, Debug)]
struct Confirmation {
    from: IpAddr,
    at: Instant,
}

/// See the module.
#[derive(Debug)]
pub struct Supernode {
    settings: Settings,
    state: State,
    confirmed: BTreeMap<SocketAddr, BTreeMap<PeerKey, Confirmation>>,
    load: Option<Load>,
    stopping: bool,
}

impl Supernode {
    /// A node that has just started.
    #[must_use]
    pub fn new(settings: Settings) -> Self {
        Self {
            settings,
            state: State::Client,
            confirmed: BTreeMap::new(),
            load: None,
            stopping: false,
        }
    }

    /// Where it stands.
    #[must_use]
    pub fn state(&self) -> State {
        self.state
    }

    /// Whether new reservations and circuits are taken.
    #[must_use]
    pub fn accepts(&self) -> bool {
        matches!(self.state, State::Serving { .. }) && self.per_mille() < 1000
    }

    /// A peer has reached this node at an address; `from` is where that peer is.
    pub fn confirm(&mut self, at: SocketAddr, by: PeerKey, from: IpAddr, now: Instant) {
        if Reach::of(at.ip(), &self.settings.lab) != Reach::Everywhere {
            return;
        }
        if self.confirmed.len() >= limits::OWN_ADDRESSES_MAX && !self.confirmed.contains_key(&at) {
            return;
        }
        let peers = self.confirmed.entry(at).or_default();
        if peers.len() < limits::CONFIRMERS_MAX || peers.contains_key(&by) {
            peers.insert(by, Confirmation { from: from.to_canonical(), at: now });
        }
    }

    /// A peer could not reach this node there: its own earlier word counts no longer, others' do.
    pub fn deny(&mut self, at: SocketAddr, by: PeerKey) {
        if let Some(peers) = self.confirmed.get_mut(&at) {
            peers.remove(&by);
        }
        self.confirmed.retain(|_, peers| !peers.is_empty());
    }

    /// This node has lost the address.
    pub fn lose(&mut self, at: SocketAddr) {
        self.confirmed.remove(&at);
    }

    /// What it carries.
    pub fn carries(&mut self, load: Load) {
        self.load = Some(load);
    }

    fn per_mille(&self) -> u16 {
        self.load.map_or(0, |load| load.per_mille())
    }

    /// The process is ending.
    pub fn stop(&mut self) {
        self.stopping = true;
    }

    /// The addresses that enough peers have reached.
    pub fn reached(&self) -> impl Iterator<Item = SocketAddr> {
        self.confirmed
            .iter()
            .filter(|(_, peers)| confirmers(peers) >= limits::CONFIRMERS_MIN)
            .map(|(at, _)| *at)
    }

    fn is_reached(&self) -> bool {
        match self.settings.wish {
            Wish::Never => false,
            Wish::Always => true,
            // Two to begin with, one to go on.
            Wish::Auto => match self.state {
                State::Serving { .. } => !self.confirmed.is_empty(),
                State::Client | State::Proving { .. } | State::Draining { .. } | State::Stopped => {
                    self.reached().next().is_some()
                }
            },
        }
    }

    /// What to do by now.
    pub fn tick(&mut self, now: Instant) -> Vec<Order> {
        for peers in self.confirmed.values_mut() {
            peers.retain(|_, it| now < it.at.after_ms(limits::CONFIRMATION_MS));
        }
        self.confirmed.retain(|_, peers| !peers.is_empty());
        let mut orders = Vec::new();
        // Each step leads on at most four times.
        while let Some(state) = self.step(now, &mut orders) {
            self.state = state;
        }
        orders
    }

    fn step(&self, now: Instant, orders: &mut Vec<Order>) -> Option<State> {
        let (reached, stopping) = (self.is_reached(), self.stopping);
        match self.state {
            State::Client if stopping => Some(State::Stopped),
            State::Client => reached.then_some(State::Proving { since: now }),
            State::Proving { .. } if stopping || !reached => Some(State::Client),
            State::Proving { since } => {
                let proved = now >= since.after_ms(self.settings.proving_ms);
                if !(proved || self.settings.wish == Wish::Always) {
                    return None;
                }
                orders.push(Order::Announce);
                Some(State::Serving { unreached: None, shed_at: None })
            }
            State::Serving { unreached, shed_at } => {
                let gone = unreached.filter(|_| !reached);
                let given_up = gone.is_some_and(|at| now >= at.after_ms(self.settings.grace_ms));
                if stopping || given_up {
                    orders.push(Order::Withdraw);
                    return Some(State::Draining { until: now.after_ms(self.settings.drain_ms) });
                }
                let unreached = if reached { None } else { unreached.or(Some(now)) };
                let shed_at = self.shed(shed_at, now, orders);
                let next = State::Serving { unreached, shed_at };
                (next != self.state).then_some(next)
            }
            State::Draining { until } => {
                if now < until && self.load.is_some_and(|load| load.circuits > 0) {
                    return None;
                }
                orders.push(Order::Close);
                Some(if stopping { State::Stopped } else { State::Client })
            }
            State::Stopped => None,
        }
    }

    fn shed(
        &self,
        shed_at: Option<Instant>,
        now: Instant,
        orders: &mut Vec<Order>,
    ) -> Option<Instant> {
        let load = self.per_mille();
        let due = match shed_at {
            None => load >= limits::SHED_FROM_PER_MILLE,
            Some(at) => load >= limits::SHED_UNTIL_PER_MILLE && now >= at,
        };
        if due {
            let nodes = self.load.map_or(0, |load| load.reservations);
            let part = u64::from(nodes) * limits::SHED_PER_MILLE / 1000;
            orders.push(Order::Shed(part.max(1)));
            return Some(now.after_ms(limits::SHED_EVERY_MS));
        }
        shed_at.filter(|_| load >= limits::SHED_UNTIL_PER_MILLE)
    }

    /// When to call [`Supernode::tick`] again, if nothing happens before.
    #[must_use]
    pub fn next(&self) -> Option<Instant> {
        match self.state {
            State::Client | State::Stopped => None,
            State::Proving { since } => Some(since.after_ms(self.settings.proving_ms)),
            State::Serving { unreached, shed_at } => {
                let given_up = unreached.map(|at| at.after_ms(self.settings.grace_ms));
                let oldest = self.confirmed.values().flat_map(BTreeMap::values).map(|it| it.at);
                let forgotten = oldest.min().map(|at| at.after_ms(limits::CONFIRMATION_MS));
                [given_up, shed_at, forgotten].into_iter().flatten().min()
            }
            State::Draining { until } => Some(until),
        }
    }
}

/// Peers at one place are one: whoever holds a network could be all of them.
fn confirmers(peers: &BTreeMap<PeerKey, Confirmation>) -> usize {
    let mut places: Vec<IpAddr> = peers.values().map(|it| it.from).collect();
    places.sort_unstable();
    places.dedup();
    // Behind one address there may be many hosts; on one machine, and in a lab, all are on loopback.
    if places.iter().all(IpAddr::is_loopback) { peers.len() } else { places.len() }
}

#[cfg(test)]
mod tests;
