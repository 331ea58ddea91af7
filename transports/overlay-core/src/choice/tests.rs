//! Choices: alone, and a thousand at a time.

use super::*;

const HOUR_MS: u64 = 3_600_000;

fn key(number: u64) -> PeerKey {
    let mut bytes = [0; 32];
    bytes[..8].copy_from_slice(&number.to_be_bytes());
    PeerKey::new(bytes)
}

fn free() -> Load {
    Load { reservations_max: 100, circuits_max: 1, bytes_per_second_max: 1, ..Load::default() }
}

/// A generator for tests: the same numbers each time (splitmix64).
struct Random(u64);

impl Random {
    fn draw(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ self.0 >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ mixed >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ mixed >> 31
    }
}

/// Runs one choice until a moment, granting every wish that `grants` does.
fn run(
    choice: &mut Choice,
    from: u64,
    until: u64,
    random: &mut Random,
    grants: &dyn Fn(PeerKey) -> bool,
) -> Vec<(u64, Order)> {
    let mut seen = Vec::new();
    for now in (from..until).step_by(100).map(Instant) {
        for order in choice.poll(now, &mut || random.draw()) {
            seen.push((now.0, order));
            if let Order::Reserve(key) | Order::Renew(key) = order {
                if grants(key) {
                    choice.reserved(key, HOUR_MS, now, random.draw());
                } else {
                    choice.refused(key, now, random.draw());
                }
            }
        }
    }
    seen
}

fn with(count: u64) -> (Choice, Random) {
    wanting(3, count)
}

fn wanting(wanted: usize, count: u64) -> (Choice, Random) {
    let mut random = Random(1);
    let mut choice = Choice::new(wanted, Instant(0), random.draw());
    for number in 0..count {
        choice.offer(key(number), free(), Instant(0));
    }
    (choice, random)
}

#[test]
fn three_are_kept_and_renewed_before_they_end() {
    let (mut choice, mut random) = with(10);
    let seen = run(&mut choice, 0, HOUR_MS * 3 / 4, &mut random, &|_| true);
    let count = |wanted: fn(&Order) -> bool| seen.iter().filter(|(_, it)| wanted(it)).count();
    assert_eq!(choice.held().len(), 3);
    assert_eq!(count(|order| matches!(order, Order::Renew(_))), 3, "{seen:?}");
    assert!(seen.iter().all(|(at, order)| !matches!(order, Order::Renew(_)) || *at >= HOUR_MS / 2));
}

#[test]
fn a_full_relay_that_refuses_a_renewal_is_replaced_before_it_ends() {
    let (mut choice, mut random) = with(4);
    run(&mut choice, 0, 10_000, &mut random, &|_| true);
    let full = choice.held()[0];
    run(&mut choice, 10_000, HOUR_MS - 10_000, &mut random, &|key| key != full);
    let held = choice.held();
    assert_eq!(held.len(), 3);
    assert!(!held.contains(&full));
}

#[test]
fn who_is_asked_to_leave_goes_when_another_is_there() {
    let (mut choice, mut random) = wanting(2, 4);
    run(&mut choice, 0, 10_000, &mut random, &|_| true);
    let busy = choice.held()[0];
    choice.asked_to_leave(busy, Instant(10_000), random.draw());
    let seen = run(&mut choice, 10_000, 20_000, &mut random, &|_| true);
    let at = |order: Order| seen.iter().position(|(_, it)| *it == order);
    let reserve = seen.iter().position(|(_, it)| matches!(it, Order::Reserve(_))).unwrap();
    assert!(reserve < at(Order::Release(busy)).unwrap(), "{seen:?}");
    assert_eq!(choice.held().len(), 2);
    assert!(!choice.held().contains(&busy));
}

#[test]
fn refusals_grow_rarer_and_silence_is_one() {
    let (mut choice, mut random) = with(1);
    let seen = run(&mut choice, 0, 600_000, &mut random, &|_| false);
    assert!((5..16).contains(&seen.len()), "{} in ten minutes", seen.len());
    let (mut choice, mut random) = with(1);
    let mut asked = Vec::new();
    for now in (0..100_000).step_by(100).map(Instant) {
        asked.extend(choice.poll(now, &mut || random.draw()));
    }
    assert!((2..7).contains(&asked.len()), "{asked:?}");
}

#[test]
fn a_better_one_is_worth_a_change_and_a_little_better_one_is_not() {
    for (latency, changes) in [(5, true), (95, false)] {
        let (mut choice, mut random) = with(3);
        run(&mut choice, 0, 10_000, &mut random, &|_| true);
        for number in 0..3 {
            choice.measured(key(number), 100);
        }
        choice.offer(key(9), free(), Instant(10_000));
        choice.measured(key(9), latency);
        run(&mut choice, 10_000, 2 * HOUR_MS, &mut random, &|_| true);
        assert_eq!(choice.held().contains(&key(9)), changes, "{latency} ms");
        assert_eq!(choice.held().len(), 3);
    }
}

#[test]
fn next_never_misses_anything() {
    let (mut choice, mut random) = with(5);
    let mut now = Instant(0);
    let mut turns = 0;
    while now < Instant(HOUR_MS) {
        for order in choice.poll(now, &mut || random.draw()) {
            if let Order::Reserve(key) | Order::Renew(key) = order {
                choice.reserved(key, HOUR_MS, now, random.draw());
            }
        }
        turns += 1;
        assert!(turns < 200, "it asks to be called all the time");
        now = choice.next().max(now.after_ms(1));
    }
    assert_eq!(choice.held().len(), 3);
}

#[test]
fn candidates_are_bounded_and_held_ones_stay() {
    let (mut choice, mut random) = with(3);
    run(&mut choice, 0, 10_000, &mut random, &|_| true);
    for number in 10..1000 {
        choice.offer(key(number), free(), Instant(number));
    }
    assert_eq!(choice.candidates.len(), limits::CANDIDATES_MAX);
    assert_eq!(choice.held().len(), 3);
}

/// Supernodes that hold reservations up to a limit, and nodes that choose among them.
struct World {
    nodes: Vec<Choice>,
    /// Who holds a reservation, by supernode; `None` = killed.
    supernodes: Vec<Option<std::collections::BTreeSet<usize>>>,
    limit: usize,
    random: Random,
    /// Wishes of the current second, by supernode; and the most there ever were.
    second: (u64, Vec<usize>),
    peak: usize,
}

impl World {
    fn new(nodes: usize, supernodes: usize, limit: usize) -> Self {
        let mut random = Random(7);
        // All in the same second.
        let start = |random: &mut Random| Instant(random.draw() % 1000);
        let choices = (0..nodes).map(|_| {
            let now = start(&mut random);
            let mut choice = Choice::new(3, now, random.draw());
            for number in 0..supernodes as u64 {
                choice.offer(key(number), free(), now);
                choice.measured(key(number), 10 + random.draw() % 100);
            }
            choice
        });
        Self {
            nodes: choices.collect(),
            supernodes: vec![Some(std::collections::BTreeSet::new()); supernodes],
            limit,
            random,
            second: (0, vec![0; supernodes]),
            peak: 0,
        }
    }

    fn number(key: PeerKey) -> usize {
        let mut bytes = [0; 8];
        bytes.copy_from_slice(&key.as_bytes()[..8]);
        usize::try_from(u64::from_be_bytes(bytes)).unwrap()
    }

    fn run(&mut self, from: u64, until: u64) {
        for now in (from..until).step_by(50).map(Instant) {
            if now.0 / 1000 != self.second.0 {
                self.second = (now.0 / 1000, vec![0; self.supernodes.len()]);
            }
            if now.0 % limits::SHED_EVERY_MS == 0 {
                self.tell_loads(now);
            }
            for node in 0..self.nodes.len() {
                let orders = self.nodes[node].poll(now, &mut || self.random.draw());
                for order in orders {
                    self.carry_out(node, order, now);
                }
            }
        }
    }

    /// New records come, and who is nearly full sheds.
    fn tell_loads(&mut self, now: Instant) {
        for number in 0..self.supernodes.len() {
            let Some(held) = &self.supernodes[number] else { continue };
            let key = key(number as u64);
            let reservations = u16::try_from(held.len()).unwrap();
            let load = Load { reservations, ..self.load() };
            if load.per_mille() >= limits::SHED_FROM_PER_MILLE {
                let skip = usize::try_from(self.random.draw() % 64).unwrap();
                let asked: Vec<_> = held.iter().skip(skip).take(held.len() / 20).copied().collect();
                for node in asked {
                    self.nodes[node].asked_to_leave(key, now, self.random.draw());
                }
            }
            for node in &mut self.nodes {
                node.offer(key, load, now);
            }
        }
    }

    fn load(&self) -> Load {
        Load { reservations_max: u16::try_from(self.limit).unwrap(), ..free() }
    }

    fn carry_out(&mut self, node: usize, order: Order, now: Instant) {
        let random = self.random.draw();
        match order {
            Order::Reserve(key) | Order::Renew(key) => {
                let number = Self::number(key);
                self.second.1[number] += 1;
                self.peak = self.peak.max(self.second.1[number]);
                let granted = self.supernodes[number].as_mut().is_some_and(|held| {
                    let room = held.len() < self.limit || held.contains(&node);
                    if room {
                        held.insert(node);
                    }
                    room
                });
                if granted {
                    self.nodes[node].reserved(key, HOUR_MS, now, random);
                } else {
                    self.nodes[node].refused(key, now, random);
                }
            }
            Order::Release(key) => {
                if let Some(held) = &mut self.supernodes[Self::number(key)] {
                    held.remove(&node);
                }
            }
            Order::Probe(_) => {}
        }
    }

    fn kill(&mut self, count: usize, now: Instant) {
        for number in 0..count {
            for node in self.supernodes[number].take().into_iter().flatten() {
                let random = self.random.draw();
                self.nodes[node].lost(key(number as u64), now, random);
            }
        }
    }

    fn fewest(&self) -> usize {
        self.nodes.iter().map(|node| node.held().len()).min().unwrap()
    }

    fn fullest(&self) -> usize {
        self.supernodes.iter().flatten().map(std::collections::BTreeSet::len).max().unwrap()
    }
}

/// 2007: everybody starts in the same second. 1,000 nodes want 3,000 of 5,120 places at 40 supernodes.
#[test]
fn a_thousand_nodes_that_start_together_make_no_storm() {
    let mut world = World::new(1000, 40, 128);
    world.run(0, 30_000);
    assert!(world.fewest() >= 2);
    assert!(world.fullest() <= 128);
    // 3,000 wishes over some seconds are about 12 per second and supernode.
    assert!(world.peak <= 40, "{} wishes in one second at one supernode", world.peak);
}

/// 2010: 30 % of the supernodes end at once; the others have just room for all.
#[test]
fn when_a_third_of_the_supernodes_ends_the_others_stand() {
    let mut world = World::new(1000, 40, 128);
    world.run(0, 30_000);
    world.peak = 0;
    world.kill(12, Instant(30_000));
    world.run(30_000, 90_000);
    assert!(world.fewest() >= 2, "all are back within a minute");
    assert!(world.fullest() <= 128);
    assert!(world.peak <= 60, "{} wishes in one second at one supernode", world.peak);
}

/// With less room than wishes (1,500 for 2,000) those that are full shed, until nobody is left with
/// none; and the wishes do not pile up.
#[test]
fn scarce_places_are_no_storm_either() {
    let mut world = World::new(1000, 20, 75);
    world.run(0, 240_000);
    assert!(world.fullest() <= 75);
    let without = world.nodes.iter().filter(|node| node.held().is_empty()).count();
    assert!(without <= 10, "{without} of 1,000 are without");
    world.peak = 0;
    world.run(240_000, 300_000);
    assert!(world.peak <= 60, "{} wishes in one second at one supernode", world.peak);
}
