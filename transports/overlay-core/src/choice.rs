//! Choice: which supernodes a node keeps.
//!
//! in: supernodes that were heard of, latencies, how wishes ended, the time, random numbers; out:
//! [`Order`]s. Owner: the transport, which calls [`Choice::poll`] when [`Choice::next`] says so and after
//! each input. Kept: two or three at a time, renewed early; one that asks its nodes to leave is left when
//! two others are there; nodes that lose the same supernode, or start in the same second, come back spread in
//! time and over supernodes. Bound: [`limits::CANDIDATES_MAX`].

use std::collections::BTreeMap;

use outsock_core::address::Instant;
use outsock_peer::PeerKey;

use crate::limits;
use crate::record::Load;

/// What to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Order {
    /// Measure the latency of this one.
    Probe(PeerKey),
    /// Ask this one for a reservation; the answer is [`Choice::reserved`] or [`Choice::refused`].
    Reserve(PeerKey),
    /// Ask this one to go on; answered in the same way.
    Renew(PeerKey),
    /// Leave this one.
    Release(PeerKey),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Standing {
    /// Known, no more.
    Known,
    /// Asked, until it counts as refused.
    Asked { until: Instant },
    /// Held.
    Held { renew_at: Instant, expires: Instant, leaving: Option<Instant> },
    /// Held, and asked to go on.
    Renewing { until: Instant, expires: Instant, leaving: Option<Instant> },
}

#[derive(Clone, Copy, Debug)]
struct Candidate {
    load: Load,
    latency_ms: Option<u64>,
    failures: u32,
    not_before: Instant,
    heard: Instant,
    standing: Standing,
}

impl Candidate {
    /// Less is better: latency, more of it the fuller it is.
    fn cost(&self) -> u64 {
        let latency = self.latency_ms.unwrap_or(limits::UNKNOWN_LATENCY_MS) + 5;
        latency * (1000 + u64::from(self.load.per_mille())) / 1000
    }

    fn is_held(&self) -> bool {
        matches!(self.standing, Standing::Held { .. } | Standing::Renewing { .. })
    }

    fn is_staying(&self) -> bool {
        match self.standing {
            Standing::Held { leaving, .. } | Standing::Renewing { leaving, .. } => {
                leaving.is_none()
            }
            Standing::Known | Standing::Asked { .. } => false,
        }
    }
}

/// See the module.
#[derive(Debug)]
pub struct Choice {
    wanted: usize,
    candidates: BTreeMap<PeerKey, Candidate>,
    /// No wish before.
    ready_at: Instant,
    look_at: Instant,
}

impl Choice {
    /// A node that starts now and wants so many, 2 or 3. `random` is a random number.
    #[must_use]
    pub fn new(wanted: usize, now: Instant, random: u64) -> Self {
        let ready_at = now.after_ms(random % limits::START_SPREAD_MS);
        let look_at = now.after_ms(limits::LOOK_AROUND_MS / 2 + random % limits::LOOK_AROUND_MS);
        Self { wanted: wanted.clamp(1, 8), candidates: BTreeMap::new(), ready_at, look_at }
    }

    /// A supernode was heard of, or heard of again.
    pub fn offer(&mut self, key: PeerKey, load: Load, now: Instant) {
        if let Some(known) = self.candidates.get_mut(&key) {
            (known.load, known.heard) = (load, now);
            return;
        }
        if self.candidates.len() >= limits::CANDIDATES_MAX {
            let idle = self.candidates.iter().filter(|(_, it)| it.standing == Standing::Known);
            let oldest = idle.min_by_key(|(key, it)| (it.heard, **key)).map(|(key, _)| *key);
            let Some(oldest) = oldest else { return };
            self.candidates.remove(&oldest);
        }
        let candidate = Candidate {
            load,
            latency_ms: None,
            failures: 0,
            not_before: now,
            heard: now,
            standing: Standing::Known,
        };
        self.candidates.insert(key, candidate);
    }

    /// It is no supernode any more.
    pub fn withdraw(&mut self, key: PeerKey) {
        self.candidates.retain(|known, it| *known != key || it.is_held());
    }

    /// A latency was measured.
    pub fn measured(&mut self, key: PeerKey, latency_ms: u64) {
        if let Some(known) = self.candidates.get_mut(&key) {
            let smooth = |old: u64| (old.saturating_mul(3).saturating_add(latency_ms)) / 4;
            known.latency_ms = Some(known.latency_ms.map_or(latency_ms, smooth));
        }
    }

    /// A wish was granted, for so long. `random` spreads the renewals of nodes that came together.
    pub fn reserved(&mut self, key: PeerKey, lifetime_ms: u64, now: Instant, random: u64) {
        let Some(known) = self.candidates.get_mut(&key) else { return };
        known.failures = 0;
        let leaving = match known.standing {
            Standing::Renewing { leaving, .. } | Standing::Held { leaving, .. } => leaving,
            Standing::Known | Standing::Asked { .. } => None,
        };
        // At a half to three quarters of its life: time for several tries and for another supernode.
        let early = lifetime_ms / 2 + random % (lifetime_ms / 4).max(1);
        known.standing = Standing::Held {
            renew_at: now.after_ms(early),
            expires: now.after_ms(lifetime_ms),
            leaving,
        };
    }

    /// A wish was not granted. What is held stays until it expires, and another is looked for.
    pub fn refused(&mut self, key: PeerKey, now: Instant, random: u64) {
        let Some(known) = self.candidates.get_mut(&key) else { return };
        let pause = (limits::REFUSED_MS << known.failures.min(16)).min(limits::REFUSED_MS_MAX);
        known.failures = known.failures.saturating_add(1);
        known.not_before = now.after_ms(pause / 2 + random % pause);
        known.standing = match known.standing {
            Standing::Renewing { expires, .. } if expires > now => {
                let renew_at = known.not_before;
                Standing::Held { renew_at, expires, leaving: Some(expires) }
            }
            held @ Standing::Held { .. } => held,
            Standing::Known | Standing::Asked { .. } | Standing::Renewing { .. } => Standing::Known,
        };
    }

    /// Its connection has ended.
    pub fn lost(&mut self, key: PeerKey, now: Instant, random: u64) {
        let Some(known) = self.candidates.get_mut(&key) else { return };
        let was_held = known.is_held();
        known.standing = Standing::Known;
        known.failures = known.failures.saturating_add(1);
        known.not_before = now.after_ms(limits::REFUSED_MS + random % limits::REFUSED_MS);
        if was_held {
            self.ready_at = self.ready_at.max(now.after_ms(random % limits::LOST_SPREAD_MS));
        }
    }

    /// It asks this node to find another.
    pub fn asked_to_leave(&mut self, key: PeerKey, now: Instant, random: u64) {
        let Some(known) = self.candidates.get_mut(&key) else { return };
        let until = now.after_ms(limits::SHED_EVERY_MS * 6);
        known.not_before =
            now.after_ms(limits::REFUSED_MS_MAX / 2 + random % limits::REFUSED_MS_MAX);
        match &mut known.standing {
            Standing::Held { leaving, .. } | Standing::Renewing { leaving, .. } => {
                *leaving = Some(until);
                self.ready_at = self.ready_at.max(now.after_ms(random % limits::LOST_SPREAD_MS));
            }
            Standing::Known | Standing::Asked { .. } => {}
        }
    }

    /// Those that are held, the best first.
    #[must_use]
    pub fn held(&self) -> Vec<PeerKey> {
        let mut held: Vec<_> = self.candidates.iter().filter(|(_, it)| it.is_held()).collect();
        held.sort_by_key(|(key, it)| (it.cost(), **key));
        held.into_iter().map(|(key, _)| *key).collect()
    }

    /// What to do by now. `random` gives random numbers.
    pub fn poll(&mut self, now: Instant, random: &mut dyn FnMut() -> u64) -> Vec<Order> {
        let mut orders = Vec::new();
        self.time_out(now, random, &mut orders);
        let staying = self.candidates.values().filter(|it| it.is_staying()).count();
        let asked = |it: &&Candidate| matches!(it.standing, Standing::Asked { .. });
        let asked = self.candidates.values().filter(asked).count();
        if staying + asked < self.wanted && now >= self.ready_at {
            if let Some(key) = self.pick(now, random) {
                self.ask(key, now, random, &mut orders);
            }
        } else if staying >= self.wanted {
            self.look_around(now, random, &mut orders);
        }
        if staying >= self.wanted.min(limits::SUPERNODES_MIN) {
            self.leave(&mut orders);
        }
        orders
    }

    fn ask(
        &mut self,
        key: PeerKey,
        now: Instant,
        random: &mut dyn FnMut() -> u64,
        orders: &mut Vec<Order>,
    ) {
        if let Some(known) = self.candidates.get_mut(&key) {
            known.standing = Standing::Asked { until: now.after_ms(limits::RESERVE_TIMEOUT_MS) };
            self.ready_at = now.after_ms(limits::PACE_MS + random() % limits::PACE_MS);
            orders.push(Order::Reserve(key));
        }
    }

    /// Of two drawn at random the better one: good ones are not all chosen by all.
    fn pick(&self, now: Instant, random: &mut dyn FnMut() -> u64) -> Option<PeerKey> {
        let staying = self.candidates.values().filter(|it| it.is_staying()).count();
        // The last places are for those who have none.
        let [.., third] = limits::FULL_FOR_PER_MILLE;
        let full = limits::FULL_FOR_PER_MILLE.get(staying).copied().unwrap_or(third);
        let free = self.candidates.iter().filter(|(_, it)| {
            it.standing == Standing::Known && now >= it.not_before && it.load.per_mille() < full
        });
        let free: Vec<_> = free.collect();
        let mut draw = || {
            let count = u64::try_from(free.len()).ok().filter(|count| *count > 0)?;
            free.get(usize::try_from(random() % count).ok()?)
        };
        let (one, other) = (draw()?, draw()?);
        let (key, _) = if one.1.cost() <= other.1.cost() { one } else { other };
        Some(**key)
    }

    fn time_out(&mut self, now: Instant, random: &mut dyn FnMut() -> u64, orders: &mut Vec<Order>) {
        let mut silent = Vec::new();
        for (key, it) in &mut self.candidates {
            match it.standing {
                Standing::Known => {}
                Standing::Asked { until } if now >= until => silent.push(*key),
                Standing::Renewing { until, .. } if now >= until => silent.push(*key),
                Standing::Held { expires, .. } if now >= expires => it.standing = Standing::Known,
                Standing::Held { leaving: Some(at), .. } if now >= at => {
                    it.standing = Standing::Known;
                    orders.push(Order::Release(*key));
                }
                Standing::Held { renew_at, expires, leaving } if now >= renew_at => {
                    let until = now.after_ms(limits::RESERVE_TIMEOUT_MS);
                    it.standing = Standing::Renewing { until, expires, leaving };
                    orders.push(Order::Renew(*key));
                }
                Standing::Asked { .. } | Standing::Held { .. } | Standing::Renewing { .. } => {}
            }
        }
        for key in silent {
            self.refused(key, now, random());
        }
    }

    /// With enough others those that asked for it are left, and the costliest of too many.
    fn leave(&mut self, orders: &mut Vec<Order>) {
        for (key, it) in &mut self.candidates {
            if it.is_held() && !it.is_staying() {
                it.standing = Standing::Known;
                orders.push(Order::Release(*key));
            }
        }
        let mut held = self.held();
        while held.len() > self.wanted {
            let Some(worst) = held.pop() else { return };
            if let Some(it) = self.candidates.get_mut(&worst) {
                it.standing = Standing::Known;
                orders.push(Order::Release(worst));
            }
        }
    }

    fn look_around(
        &mut self,
        now: Instant,
        random: &mut dyn FnMut() -> u64,
        orders: &mut Vec<Order>,
    ) {
        if now < self.look_at {
            return;
        }
        self.look_at = now.after_ms(limits::LOOK_AROUND_MS / 2 + random() % limits::LOOK_AROUND_MS);
        let Some(best) = self.pick(now, random) else { return };
        let worst = self.held().pop().and_then(|key| self.candidates.get(&key));
        let candidate = self.candidates.get(&best);
        match (candidate, worst) {
            (Some(it), _) if it.latency_ms.is_none() => orders.push(Order::Probe(best)),
            (Some(it), Some(worst)) if it.cost() + limits::WORTHWHILE_MS < worst.cost() => {
                self.ask(best, now, random, orders);
            }
            (Some(_) | None, _) => {}
        }
    }

    /// When to call [`Choice::poll`] again, if nothing happens before.
    #[must_use]
    pub fn next(&self) -> Instant {
        let standing = self.candidates.values().filter_map(|it| match it.standing {
            Standing::Known => None,
            Standing::Asked { until } | Standing::Renewing { until, .. } => Some(until),
            Standing::Held { renew_at, expires, leaving } => {
                [Some(renew_at), Some(expires), leaving].into_iter().flatten().min()
            }
        });
        let staying = self.candidates.values().filter(|it| it.is_staying()).count();
        let wish = (staying < self.wanted).then(|| {
            let free = self.candidates.values().filter(|it| it.standing == Standing::Known);
            let free = free.map(|it| it.not_before).min();
            self.ready_at.max(free.unwrap_or(self.look_at))
        });
        standing.chain(wish).fold(self.look_at, Instant::min)
    }
}

#[cfg(test)]
mod tests;
