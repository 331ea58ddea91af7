//! Supernodes: who becomes one, who does not, and how it ends.

use super::*;

const ONE: PeerKey = PeerKey::new([1; 32]);
const TWO: PeerKey = PeerKey::new([2; 32]);

fn at(text: &str) -> SocketAddr {
    text.parse().unwrap()
}

fn from(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn node(wish: Wish) -> Supernode {
    let lab = vec!["198.51.100.0/24".parse().unwrap()];
    let times = Settings { proving_ms: 1000, grace_ms: 500, drain_ms: 300, ..Settings::default() };
    Supernode::new(Settings { wish, lab, ..times })
}

fn serving() -> Supernode {
    let mut node = node(Wish::Auto);
    node.confirm(at("198.51.100.1:4001"), ONE, from("198.51.100.9"), Instant(0));
    node.confirm(at("198.51.100.1:4001"), TWO, from("203.0.113.9"), Instant(0));
    assert_eq!(node.tick(Instant(0)), []);
    assert_eq!(node.tick(Instant(999)), []);
    assert!(!node.accepts());
    assert_eq!(node.tick(Instant(1000)), [Order::Announce]);
    let max = Load { reservations_max: 100, circuits_max: 100, ..Load::default() };
    node.carries(Load { bytes_per_second_max: 1000, ..max });
    assert!(node.accepts());
    node
}

fn full(reservations: u16) -> Load {
    Load {
        reservations,
        reservations_max: 100,
        circuits: 5,
        circuits_max: 100,
        bytes_per_second: 0,
        bytes_per_second_max: 1000,
    }
}

#[test]
fn private_addresses_and_single_confirmers_make_none() {
    let mut node = node(Wish::Auto);
    for address in ["10.0.0.1:1", "127.0.0.1:1", "192.168.0.1:1", "[fd00::1]:1", "[::1]:1"] {
        for key in [ONE, TWO] {
            node.confirm(at(address), key, from("8.8.8.8"), Instant(0));
        }
    }
    assert_eq!((node.tick(Instant(0)), node.tick(Instant(99_999))), (vec![], vec![]));
    assert_eq!(node.state(), State::Client);
    // One peer, however often; one place, whatever keys it has.
    for key in [ONE, ONE, TWO] {
        node.confirm(at("8.8.4.4:1"), key, from("8.8.8.8"), Instant(0));
    }
    assert_eq!(node.tick(Instant(0)), []);
    assert_eq!(node.state(), State::Client);
    node.confirm(at("8.8.4.4:1"), TWO, from("9.9.9.9"), Instant(0));
    assert_eq!(node.tick(Instant(0)), []);
    assert_eq!(node.tick(Instant(1000)), [Order::Announce]);
}

#[test]
fn a_wish_goes_before() {
    let mut never = node(Wish::Never);
    never.confirm(at("8.8.4.4:1"), ONE, from("8.8.8.8"), Instant(0));
    never.confirm(at("8.8.4.4:1"), TWO, from("9.9.9.9"), Instant(0));
    assert_eq!((never.tick(Instant(0)), never.tick(Instant(9999))), (vec![], vec![]));
    assert_eq!(node(Wish::Always).tick(Instant(0)), [Order::Announce]);
}

#[test]
fn being_reachable_has_to_last() {
    let mut node = node(Wish::Auto);
    node.confirm(at("8.8.4.4:1"), ONE, from("8.8.8.8"), Instant(0));
    node.confirm(at("8.8.4.4:1"), TWO, from("9.9.9.9"), Instant(0));
    node.tick(Instant(0));
    node.deny(at("8.8.4.4:1"), TWO);
    assert_eq!(node.tick(Instant(900)), []);
    node.confirm(at("8.8.4.4:1"), TWO, from("9.9.9.9"), Instant(950));
    assert_eq!(node.tick(Instant(950)), []);
    assert_eq!(node.tick(Instant(1900)), []);
    assert_eq!(node.tick(Instant(1950)), [Order::Announce]);
}

#[test]
fn one_peers_word_ends_nothing_and_a_lost_address_does_after_a_while() {
    let mut node = serving();
    let address = at("198.51.100.1:4001");
    node.deny(address, ONE);
    assert_eq!(node.tick(Instant(5000)), []);
    node.lose(address);
    assert_eq!(node.tick(Instant(5000)), []);
    // Back within the grace: nothing happened.
    node.confirm(address, ONE, from("198.51.100.9"), Instant(5400));
    assert_eq!(node.tick(Instant(5400)), []);
    assert_eq!(node.tick(Instant(9000)), []);
    node.lose(address);
    assert_eq!(node.tick(Instant(9000)), []);
    assert_eq!(node.next(), Some(Instant(9500)));
    node.carries(full(50));
    assert_eq!(node.tick(Instant(9500)), [Order::Withdraw]);
    assert!(!node.accepts());
    assert_eq!(node.tick(Instant(9700)), []);
    assert_eq!(node.tick(Instant(9800)), [Order::Close]);
    assert_eq!(node.state(), State::Client);
}

#[test]
fn load_sheds_a_few_at_a_time_and_never_switches_off() {
    let mut node = serving();
    node.carries(full(94));
    assert_eq!(node.tick(Instant(2000)), []);
    node.carries(full(100));
    assert!(!node.accepts());
    assert_eq!(node.tick(Instant(2000)), [Order::Shed(5)]);
    assert_eq!(node.tick(Instant(2001)), []);
    node.carries(full(90));
    assert_eq!(node.tick(Instant(12_000)), [Order::Shed(4)], "until well below");
    node.carries(full(79));
    assert_eq!(node.tick(Instant(22_000)), []);
    node.carries(full(90));
    assert_eq!(node.tick(Instant(32_000)), [], "and not again before it is full");
    node.carries(Load { bytes_per_second: 5000, ..full(1) });
    for step in 4..100_u64 {
        assert_eq!(node.tick(Instant(step * 10_000)), [Order::Shed(1)]);
    }
    assert!(matches!(node.state(), State::Serving { .. }));
}

#[test]
fn a_stop_drains_and_ends_early_when_nothing_is_left() {
    let mut node = serving();
    node.carries(full(10));
    node.stop();
    assert_eq!(node.tick(Instant(2000)), [Order::Withdraw]);
    node.carries(Load { circuits: 0, ..full(10) });
    assert_eq!(node.tick(Instant(2100)), [Order::Close]);
    assert_eq!(node.state(), State::Stopped);
    assert_eq!(node.tick(Instant(99_999)), []);
}

#[test]
fn old_confirmations_are_forgotten() {
    let mut node = serving();
    let later = Instant(limits::CONFIRMATION_MS);
    assert_eq!(node.next(), Some(later));
    assert_eq!(node.tick(later), []);
    assert_eq!(node.tick(later.after_ms(500)), [Order::Withdraw, Order::Close]);
}

#[test]
fn hostile_confirmations_are_bounded() {
    let mut node = node(Wish::Auto);
    for port in 1..1000 {
        for seed in 0..40 {
            let address = SocketAddr::from(([8, 8, 4, 4], port));
            node.confirm(address, PeerKey::new([seed; 32]), from("9.9.9.9"), Instant(0));
        }
    }
    assert_eq!(node.confirmed.len(), limits::OWN_ADDRESSES_MAX);
    assert!(node.confirmed.values().all(|peers| peers.len() == limits::CONFIRMERS_MAX));
}
