//! The pool against examples, and against what it promises under any order of events.

use proptest::prelude::*;

use super::*;

fn pool(v4: &str) -> Pool {
    Pool::new(v4.parse().unwrap(), "fd6f:7574:736f::/48".parse().unwrap()).unwrap()
}

const HOLD: u64 = limits::POOL_HOLD_MS;

#[test]
fn both_families_belong_to_one_name() {
    let mut pool = pool("198.18.0.0/15");
    let (db, new) = pool.assign("db.peer", "web", Instant(0)).unwrap();
    assert_eq!(new, Some(Slot(1)));
    assert_eq!(db.v4.to_string(), "198.18.0.1");
    assert_eq!(db.v6.to_string(), "fd6f:7574:736f::1");
    assert_eq!(pool.assign("db.peer", "other", Instant(5)).unwrap(), (db, None));
    let (next, _) = pool.assign("mail.peer", "web", Instant(0)).unwrap();
    assert_ne!(next.v4, db.v4);
    for ip in [IpAddr::V4(db.v4), IpAddr::V6(db.v6), IpAddr::V6(db.v4.to_ipv6_mapped())] {
        assert_eq!(pool.lookup(ip), Lookup::Name("db.peer"));
    }
    for unknown in ["198.18.0.0", "198.19.255.255", "198.18.0.3", "fd6f:7574:736f::1:0:0:1"] {
        assert_eq!(pool.lookup(unknown.parse().unwrap()), Lookup::Unassigned, "{unknown}");
    }
    assert_eq!(pool.lookup("198.20.0.1".parse().unwrap()), Lookup::Outside);
}

#[test]
fn only_idle_addresses_are_used_again_the_longest_idle_first() {
    // Room for 2; with two guests, because one alone gets half of a tiny pool at least.
    let mut pool = pool("198.18.0.0/30");
    let (a, _) = pool.assign("a", "g1", Instant(0)).unwrap();
    pool.assign("b", "g2", Instant(1)).unwrap();
    assert_eq!(pool.assign("c", "g3", Instant(HOLD - 1)), Err(Exhausted));
    pool.hold("a");
    let (c, _) = pool.assign("c", "g3", Instant(HOLD + 1)).unwrap();
    assert_ne!(c.v4, a.v4, "a has a connection");
    assert_eq!(pool.lookup(IpAddr::V4(a.v4)), Lookup::Name("a"));
    pool.release("a", Instant(HOLD + 5));
    assert_eq!(pool.assign("d", "g4", Instant(2 * HOLD)), Err(Exhausted));
    assert!(pool.assign("d", "g4", Instant(2 * HOLD + 5)).is_ok());
}

#[test]
fn one_guest_cannot_use_up_the_pool() {
    let mut pool = pool("198.18.0.0/24");
    let got = (0..254).filter(|n| pool.assign(&format!("n{n}"), "bad", Instant(0)).is_ok()).count();
    assert!((254 / limits::POOL_SHARE as usize..200).contains(&got), "{got}");
    assert!(pool.assign("x", "good", Instant(0)).is_ok());
    assert!(pool.assign("later", "bad", Instant(HOLD)).is_ok());
    assert_eq!(pool.lookup("198.18.0.1".parse().unwrap()), Lookup::Name("later"));
}

#[test]
fn what_is_restored_stays_where_it_was() {
    let mut pool = pool("198.18.0.0/24");
    assert!(pool.restore(Slot(7), "old.peer", "web", Instant(0)));
    assert!(!pool.restore(Slot(7), "twin.peer", "web", Instant(0)));
    assert!(!pool.restore(Slot(8), "old.peer", "web", Instant(0)));
    assert!(!pool.restore(Slot(255), "outside.peer", "web", Instant(0)));
    assert_eq!(pool.assign("new.peer", "web", Instant(0)).unwrap().1, Some(Slot(8)));
    assert_eq!(pool.lookup("198.18.0.7".parse().unwrap()), Lookup::Name("old.peer"));
}

#[test]
fn networks_that_do_not_fit_are_named() {
    let bad = |v4: &str, v6: &str| Pool::new(v4.parse().unwrap(), v6.parse().unwrap()).unwrap_err();
    assert!(matches!(bad("198.18.0.0/31", "fd00::/48"), BadPool::V4(_)));
    assert!(matches!(bad("fd00::/48", "fd00::/48"), BadPool::V4(_)));
    assert!(matches!(bad("198.18.0.0/15", "fd00::/112"), BadPool::V6(_, 111)));
}

proptest! {
    #[test]
    fn an_address_has_one_name_while_it_may_be_in_use(
        steps in proptest::collection::vec((0u8..4, 0u8..12, 0u64..HOLD), 1..200),
    ) {
        let mut pool = pool("198.18.0.0/29");
        let mut now = Instant(0);
        // Name -> its address, when it was last given out, connections.
        let mut known: HashMap<String, (Ipv4Addr, Instant, u32)> = HashMap::new();
        for (what, name, pause) in steps {
            now = now.after_ms(pause / 4);
            let name = format!("n{name}");
            match what {
                0 | 1 => if let Ok((got, _)) = pool.assign(&name, &format!("g{what}"), now) {
                    for (other, (v4, answered, connections)) in &known {
                        let live = *connections > 0 || answered.after_ms(HOLD) > now;
                        prop_assert!(!(live && *other != name && *v4 == got.v4), "{other} {name}");
                    }
                    let entry = known.entry(name).or_insert((got.v4, now, 0));
                    if entry.2 > 0 || entry.1.after_ms(HOLD) > now {
                        prop_assert_eq!(entry.0, got.v4, "a live name moved");
                    }
                    *entry = (got.v4, now, entry.2);
                },
                2 => if let Some(entry) = known.get_mut(&name)
                    && pool.lookup(IpAddr::V4(entry.0)) == Lookup::Name(&name)
                {
                    pool.hold(&name);
                    entry.2 += 1;
                },
                _ => if let Some(entry) = known.get_mut(&name).filter(|entry| entry.2 > 0) {
                    pool.release(&name, now);
                    entry.1 = now;
                    entry.2 -= 1;
                },
            }
        }
    }
}
