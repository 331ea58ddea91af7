//! Index: which rules can match at all, so that ten thousand rules cost as little as ten.
//!
//! in: the rules, once; out: for a [`Query`] the lowest rule that matches. Each rule stands in the
//! buckets of one of its conditions (the one whose buckets are emptiest), or among the rest, which
//! are walked in order behind a cheap gate. Kept: it finds exactly what a walk over all rules finds
//! (a property test compares them). Bound: [`limits::ROUTES_MAX`](crate::limits::ROUTES_MAX) rules.

use std::collections::HashMap;
use std::hash::Hash;
use std::net::IpAddr;

use super::cidr::{Cidr, bits, mask};
use super::pattern::{DomainPattern, Glob, GuestPattern};
use super::ports::PortRange;
use super::rule::{Protocol, Query, Rule};

/// A rule's place, which is also its rank.
type Place = u32;

/// Ports of one rule that get buckets of their own. More, and the buckets cost more than the walk.
const PORTS_KEYED_MAX: usize = 16;

#[derive(Clone, Debug, Default)]
struct Buckets<K>(HashMap<K, Vec<Place>>);

impl<K: Eq + Hash> Buckets<K> {
    fn add(&mut self, key: K, place: Place) {
        let bucket = self.0.entry(key).or_default();
        if bucket.last() != Some(&place) {
            bucket.push(place);
        }
    }

    fn get<Q: Eq + Hash + ?Sized>(&self, key: &Q) -> &[Place]
    where
        K: std::borrow::Borrow<Q>,
    {
        self.0.get(key).map_or(&[], Vec::as_slice)
    }
}

/// One key under which a rule may be found.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Key {
    Net { v4: bool, prefix: u8, base: u128 },
    Tail(Box<str>),
    Head(Box<str>),
    Program(Box<str>),
    Port(u16),
    Guest(Box<str>),
}

/// What is looked at before a rule of the rest is.
#[derive(Clone, Copy, Debug)]
struct Gate {
    place: Place,
    first_port: u16,
    last_port: u16,
    tcp: bool,
    udp: bool,
    icmp: bool,
}

/// The rules by domain, for the question whether a name is routed by name at all.
#[derive(Clone, Debug, Default)]
struct Names {
    by_tail: Buckets<Box<str>>,
    rest: Vec<Place>,
}

#[derive(Clone, Debug, Default)]
pub(super) struct Index {
    nets: Buckets<(bool, u8, u128)>,
    /// The prefixes that occur, by family: what a lookup has to try.
    prefixes_v4: Vec<u8>,
    prefixes_v6: Vec<u8>,
    tails: Buckets<Box<str>>,
    heads: Buckets<Box<str>>,
    programs: Buckets<Box<str>>,
    ports: Buckets<u16>,
    guests: Buckets<Box<str>>,
    rest: Vec<Gate>,
    names: Names,
}

impl Index {
    pub(super) fn new(rules: &[Rule]) -> Self {
        let mut crowd: HashMap<Key, u32> = HashMap::new();
        let choices: Vec<Vec<Vec<Key>>> = rules.iter().map(keys).collect();
        for key in choices.iter().flatten().flatten() {
            *crowd.entry(key.clone()).or_default() += 1;
        }
        let mut index = Self::default();
        for ((place, rule), choices) in (0..).zip(rules).zip(choices) {
            let crowded =
                |keys: &Vec<Key>| keys.iter().map(|key| u64::from(crowd[key])).sum::<u64>();
            match choices.into_iter().min_by_key(crowded) {
                Some(keys) => keys.into_iter().for_each(|key| index.add(key, place)),
                None => index.rest.push(gate(place, rule)),
            }
            index.names.add(place, rule);
        }
        index
    }

    fn add(&mut self, key: Key, place: Place) {
        match key {
            Key::Net { v4, prefix, base } => {
                let prefixes = if v4 { &mut self.prefixes_v4 } else { &mut self.prefixes_v6 };
                if let Err(at) = prefixes.binary_search(&prefix) {
                    prefixes.insert(at, prefix);
                }
                self.nets.add((v4, prefix, base), place);
            }
            Key::Tail(tail) => self.tails.add(tail, place),
            Key::Head(head) => self.heads.add(head, place),
            Key::Program(file) => self.programs.add(file, place),
            Key::Port(port) => self.ports.add(port, place),
            Key::Guest(guest) => self.guests.add(guest, place),
        }
    }

    /// The lowest place whose rule matches.
    pub(super) fn find(&self, rules: &[Rule], query: &Query<'_>) -> Option<usize> {
        let protected = query.protected();
        let matches = |place: Place| {
            rules.get(place as usize).is_some_and(|rule| rule.check(query, protected).is_ok())
        };
        let mut best = Place::MAX;
        // A bucket is sorted: its first match is its best, and nothing behind `best` matters.
        let mut consider = |bucket: &[Place]| {
            for &place in bucket {
                if place >= best {
                    break;
                }
                if matches(place) {
                    best = place;
                    break;
                }
            }
        };
        if let Some(address) = query.address {
            let (prefixes, v4) = match address {
                IpAddr::V4(_) => (&self.prefixes_v4, true),
                IpAddr::V6(_) => (&self.prefixes_v6, false),
            };
            let (value, _) = bits(address);
            for &prefix in prefixes {
                consider(self.nets.get(&(v4, prefix, value & mask(prefix))));
            }
        }
        for tail in query.name.into_iter().flat_map(tails) {
            consider(self.tails.get(tail));
        }
        if let Some(name) = query.name {
            consider(self.heads.get(first_label(name)));
        }
        if let Some(program) = query.program {
            consider(self.programs.get(file_name(program)));
        }
        consider(self.ports.get(&query.port));
        consider(self.guests.get(query.guest));
        for gate in &self.rest {
            if gate.place >= best {
                break;
            }
            if gate.admits(query) && matches(gate.place) {
                best = gate.place;
                break;
            }
        }
        (best != Place::MAX).then_some(best as usize)
    }

    /// Whether a rule picks connections of this guest by this name.
    pub(super) fn names(&self, rules: &[Rule], guest: &str, tags: &[String], name: &str) -> bool {
        let by_tail = tails(name).flat_map(|tail| self.names.by_tail.get(tail));
        by_tail.chain(&self.names.rest).any(|&place| {
            rules.get(place as usize).is_some_and(|rule| rule.names(guest, tags, name))
        })
    }
}

impl Names {
    fn add(&mut self, place: Place, rule: &Rule) {
        if rule.domains.any.is_empty() {
            return;
        }
        let tails: Option<Vec<_>> = rule.domains.any.iter().map(|domain| domain.tail()).collect();
        match tails {
            Some(tails) => tails.into_iter().for_each(|tail| self.by_tail.add(tail.into(), place)),
            None => self.rest.push(place),
        }
    }
}

impl Gate {
    fn admits(&self, query: &Query<'_>) -> bool {
        let protocol = match query.protocol {
            Protocol::Tcp => self.tcp,
            Protocol::Udp => self.udp,
            Protocol::Icmp => self.icmp,
        };
        protocol && (self.first_port..=self.last_port).contains(&query.port)
    }
}

fn gate(place: Place, rule: &Rule) -> Gate {
    let ports = &rule.ports.any;
    let speaks = |protocol| rule.protocol.is_none_or(|only| only == protocol);
    Gate {
        place,
        first_port: ports.iter().map(PortRange::first).min().unwrap_or(0),
        last_port: ports.iter().map(PortRange::last).max().unwrap_or(u16::MAX),
        tcp: speaks(Protocol::Tcp),
        udp: speaks(Protocol::Udp),
        icmp: speaks(Protocol::Icmp),
    }
}

/// The name and every run of whole labels that it ends with.
fn tails(name: &str) -> impl Iterator<Item = &str> {
    std::iter::successors(Some(name), |rest| rest.split_once('.').map(|(_, tail)| tail))
}

fn first_label(name: &str) -> &str {
    name.split('.').next().unwrap_or_default()
}

fn file_name(path: &str) -> &str {
    path.rsplit('/').next().unwrap_or_default()
}

/// For each condition that can be looked up: the keys that together find everything it accepts.
fn keys(rule: &Rule) -> Vec<Vec<Key>> {
    let net = |net: &Cidr| Key::Net {
        v4: net.base().is_ipv4(),
        prefix: net.prefix(),
        base: bits(net.base()).0,
    };
    let nets = Some(rule.to.any.iter().map(net).collect());
    let domain = |domain: &DomainPattern| {
        let tail = domain.tail().map(|tail| Key::Tail(tail.into()));
        tail.or_else(|| Some(Key::Head(domain.head()?.into())))
    };
    let domains = rule.domains.any.iter().map(domain).collect();
    let program = |program: &Glob| Some(Key::Program(program.file_name()?.into()));
    let programs = rule.programs.any.iter().map(program).collect();
    let ports = &rule.ports.any;
    let few = ports.iter().map(|p| usize::from(p.last() - p.first()) + 1).sum::<usize>()
        <= PORTS_KEYED_MAX;
    let each = |range: &PortRange| (range.first()..=range.last()).map(Key::Port);
    let ports = few.then(|| ports.iter().flat_map(each).collect());
    let guest = |guest: &GuestPattern| match guest {
        GuestPattern::Name(glob) => Some(Key::Guest(glob.exact()?.into())),
        GuestPattern::Tag(_) => None,
    };
    let guests = rule.guests.any.iter().map(guest).collect();
    let choices: [Option<Vec<Key>>; 5] = [nets, domains, programs, ports, guests];
    choices.into_iter().flatten().filter(|keys| !keys.is_empty()).collect()
}
