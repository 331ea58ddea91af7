//! Pool: synthetic addresses for names, one pair of IPv4 and IPv6 for each.
//!
//! in: names that guests ask for, connections that begin and end; out: address pairs, and the name
//! of an address. No file: the daemon writes down what [`Pool::assign`] says is new, and brings it
//! back with [`Pool::restore`]. Keeps: two names never have one address; an address that was given
//! out lately ([`limits::POOL_HOLD_MS`]) or has connections stays with its name; one guest cannot
//! use up the pool ([`limits::POOL_SHARE`]). Bound: the pool's size.

use std::collections::{BTreeSet, HashMap};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

use crate::address::Instant;
use crate::limits;
use crate::route::{Cidr, canonical};

/// The two addresses of a name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Addresses {
    /// For A.
    pub v4: Ipv4Addr,
    /// For AAAA.
    pub v6: Ipv6Addr,
}

/// A place in the pool: how far the addresses lie behind the base of their networks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Slot(pub u32);

/// What an address is to the pool.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lookup<'a> {
    /// None of the pool's.
    Outside,
    /// The pool's, and no name has it.
    Unassigned,
    /// The pool's, of this name.
    Name(&'a str),
}

/// Two networks that make no pool.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadPool {
    /// Not an IPv4 network of a sensible size.
    #[error("{0} is no IPv4 network with 8 to 30 bits")]
    V4(Cidr),
    /// Not an IPv6 network with room for the same number of addresses.
    #[error("{0} is no IPv6 network with at most {1} bits: it needs room for every IPv4 address")]
    V6(Cidr, u8),
}

/// There is no address for another name now.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("every synthetic address that this guest may have is in use")]
pub struct Exhausted;

#[derive(Debug)]
struct Entry {
    name: Box<str>,
    owner: Arc<str>,
    answered: Instant,
    connections: u32,
}

/// The pool.
#[derive(Debug)]
pub struct Pool {
    v4: Cidr,
    v6: Cidr,
    /// Slots from 1 to here may be given out; 0 and the last would be network and broadcast.
    last: u32,
    next_unused: u32,
    entries: HashMap<Slot, Entry>,
    by_name: HashMap<Box<str>, Slot>,
    /// Per guest: its slots without connections, longest idle first.
    idle: HashMap<Arc<str>, BTreeSet<(Instant, Slot)>>,
    owned: HashMap<Arc<str>, u32>,
}

impl Pool {
    /// A pool over two networks.
    pub fn new(v4: Cidr, v6: Cidr) -> Result<Self, BadPool> {
        if !v4.base().is_ipv4() || !(8..=30).contains(&v4.prefix()) {
            return Err(BadPool::V4(v4));
        }
        let prefix_max = 128 - (32 - v4.prefix());
        if !v6.base().is_ipv6() || v6.prefix() > prefix_max {
            return Err(BadPool::V6(v6, prefix_max));
        }
        let last = (1u32 << (32 - v4.prefix())) - 2;
        Ok(Self {
            v4,
            v6,
            last,
            next_unused: 1,
            entries: HashMap::new(),
            by_name: HashMap::new(),
            idle: HashMap::new(),
            owned: HashMap::new(),
        })
    }

    /// The addresses of a name for a guest, and the slot when the pair is new.
    pub fn assign(
        &mut self,
        name: &str,
        owner: &str,
        now: Instant,
    ) -> Result<(Addresses, Option<Slot>), Exhausted> {
        if let Some(&slot) = self.by_name.get(name) {
            self.touch(slot, now);
            return Ok((self.addresses(slot), None));
        }
        let slot = self.free_slot(owner, now).ok_or(Exhausted)?;
        self.put(slot, name, owner, now);
        Ok((self.addresses(slot), Some(slot)))
    }

    /// Brings back an assignment of an earlier life. `false` when it does not fit: outside the
    /// pool, or in the way of another one.
    pub fn restore(&mut self, slot: Slot, name: &str, owner: &str, now: Instant) -> bool {
        let in_pool = (1..=self.last).contains(&slot.0);
        if !in_pool || self.by_name.contains_key(name) || self.entries.contains_key(&slot) {
            return false;
        }
        self.put(slot, name, owner, now);
        self.next_unused = self.next_unused.max(slot.0 + 1);
        true
    }

    /// What an address is.
    pub fn lookup(&self, ip: IpAddr) -> Lookup<'_> {
        let offset = match canonical(ip) {
            IpAddr::V4(v4) if self.v4.contains(IpAddr::V4(v4)) => {
                u128::from(u32::from(v4) & !u32::MAX.unbounded_shl(self.host_bits()))
            }
            IpAddr::V6(v6) if self.v6.contains(IpAddr::V6(v6)) => {
                u128::from(v6) & !u128::MAX.unbounded_shl(128 - u32::from(self.v6.prefix()))
            }
            IpAddr::V4(_) | IpAddr::V6(_) => return Lookup::Outside,
        };
        let entry = u32::try_from(offset).ok().and_then(|slot| self.entries.get(&Slot(slot)));
        entry.map_or(Lookup::Unassigned, |entry| Lookup::Name(&entry.name))
    }

    /// A connection to this name begins: its addresses stay while it lives.
    pub fn hold(&mut self, name: &str) {
        let Some(&slot) = self.by_name.get(name) else { return };
        let Some(entry) = self.entries.get_mut(&slot) else { return };
        entry.connections = entry.connections.saturating_add(1);
        if let Some(idle) = self.idle.get_mut(&entry.owner) {
            idle.remove(&(entry.answered, slot));
        }
    }

    /// The connection is over.
    pub fn release(&mut self, name: &str, now: Instant) {
        let Some(&slot) = self.by_name.get(name) else { return };
        let Some(entry) = self.entries.get_mut(&slot) else { return };
        entry.connections = entry.connections.saturating_sub(1);
        self.touch(slot, now);
    }

    /// Every assignment: slot, name, guest.
    pub fn assignments(&self) -> impl Iterator<Item = (Slot, &str, &str)> {
        self.entries.iter().map(|(slot, entry)| (*slot, &*entry.name, &*entry.owner))
    }

    /// How many names have addresses.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether none has.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    fn host_bits(&self) -> u32 {
        32 - u32::from(self.v4.prefix())
    }

    fn addresses(&self, slot: Slot) -> Addresses {
        let v4 = match self.v4.base() {
            IpAddr::V4(base) => Ipv4Addr::from(u32::from(base) | slot.0),
            IpAddr::V6(_) => Ipv4Addr::UNSPECIFIED,
        };
        let v6 = match self.v6.base() {
            IpAddr::V6(base) => Ipv6Addr::from(u128::from(base) | u128::from(slot.0)),
            IpAddr::V4(_) => Ipv6Addr::UNSPECIFIED,
        };
        Addresses { v4, v6 }
    }

    fn touch(&mut self, slot: Slot, now: Instant) {
        let Some(entry) = self.entries.get_mut(&slot) else { return };
        let idle = self.idle.entry(Arc::clone(&entry.owner)).or_default();
        idle.remove(&(entry.answered, slot));
        entry.answered = entry.answered.max(now);
        if entry.connections == 0 {
            idle.insert((entry.answered, slot));
        }
    }

    fn put(&mut self, slot: Slot, name: &str, owner: &str, now: Instant) {
        let owner: Arc<str> = match self.owned.get_key_value(owner) {
            Some((owner, _)) => Arc::clone(owner),
            None => owner.into(),
        };
        *self.owned.entry(Arc::clone(&owner)).or_default() += 1;
        self.idle.entry(Arc::clone(&owner)).or_default().insert((now, slot));
        self.by_name.insert(name.into(), slot);
        self.entries
            .insert(slot, Entry { name: name.into(), owner, answered: now, connections: 0 });
    }

    fn remove(&mut self, slot: Slot) {
        let Some(entry) = self.entries.remove(&slot) else { return };
        self.by_name.remove(&entry.name);
        if let Some(idle) = self.idle.get_mut(&entry.owner) {
            idle.remove(&(entry.answered, slot));
        }
        if let Some(owned) = self.owned.get_mut(&entry.owner) {
            *owned = owned.saturating_sub(1);
        }
    }

    /// A slot that nobody used yet, else the one that is idle longest: the guest's own when it has
    /// its share already.
    fn free_slot(&mut self, owner: &str, now: Instant) -> Option<Slot> {
        let share = (self.last / limits::POOL_SHARE).max(1);
        let full = self.owned.get(owner).is_some_and(|owned| *owned >= share);
        if !full && self.next_unused <= self.last {
            self.next_unused += 1;
            return Some(Slot(self.next_unused - 1));
        }
        let oldest = if full {
            self.idle.get(owner).and_then(|idle| idle.first().copied())
        } else {
            self.idle.values().filter_map(|idle| idle.first().copied()).min()
        };
        let (answered, slot) = oldest?;
        if answered.after_ms(limits::POOL_HOLD_MS) > now {
            return None;
        }
        self.remove(slot);
        Some(slot)
    }
}

#[cfg(test)]
#[path = "pool/tests.rs"]
mod tests;
