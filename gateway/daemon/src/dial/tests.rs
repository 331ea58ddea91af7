//! Groups and races over the memory transport, on a clock that the tests move.

use outsock_core::group::Policy;
use outsock_core::route::WayId;
use outsock_transport::Listener;
use outsock_transport_memory::{DialFault, Faults, Network};

use super::*;
use crate::config::{GroupConfig, HostPort};
use crate::group::LiveGroup;
use crate::upstream::Upstream;

const TERMS: Terms<'_> = Terms {
    cid: 3,
    source: None,
    timeout: Duration::from_secs(60),
    options: &[],
    encryption: None,
    origin: &Origin { guest: None, trace: 0, hops: 0, address: None },
    arguments: None,
};

fn chosen(addresses: &[&str], name: Option<&str>) -> Chosen {
    let addresses: Vec<_> = addresses.iter().map(|ip| ip.parse().unwrap()).collect();
    Chosen {
        rule: 0,
        way: WayId(0),
        target: None,
        name: name.map(str::to_owned),
        addresses: Some(addresses).filter(|addresses| !addresses.is_empty()),
        port: 80,
    }
}

fn at(ip: &str) -> Destination {
    Destination::Address((ip.parse::<std::net::IpAddr>().unwrap(), 80).into())
}

/// A member whose network has a listener at each of `open`.
struct Side {
    network: Network,
    named: NamedTransport,
    _listeners: Vec<Box<dyn Listener>>,
}

async fn side(name: &str, open: &[Destination]) -> Side {
    let network = Network::new();
    let transport: Arc<dyn Transport> = Arc::new(network.transport());
    let mut listeners = Vec::new();
    for at in open {
        listeners.push(transport.listen(at).await.unwrap());
    }
    Side { network, named: NamedTransport { name: name.into(), transport }, _listeners: listeners }
}

impl Side {
    fn break_with(&self, at: &Destination, dial: DialFault) {
        self.network.set_faults(at, Faults { dial, ..Faults::default() });
    }
}

fn group(policy: Policy, sides: &[&Side]) -> Arc<LiveGroup> {
    checked_group(policy, sides, None)
}

fn checked_group(policy: Policy, sides: &[&Side], check: Option<HostPort>) -> Arc<LiveGroup> {
    let config = GroupConfig {
        name: "g".to_owned(),
        members: (0..sides.len()).collect(),
        policy,
        member_timeout: Duration::from_secs(5),
        check,
        check_interval: Duration::from_secs(30),
    };
    let members = sides.iter().map(|side| side.named.clone()).collect();
    LiveGroup::start(&config, members, Arc::new(Upstream::new(&[])), std::iter::empty())
}

async fn by(group: &Arc<LiveGroup>, chosen: &Chosen, cid: u64) -> Result<String, DialError> {
    let reached = dial(Way::Group(group), chosen, Terms { cid, ..TERMS }).await?;
    Ok(reached.transport.to_string())
}

#[tokio::test(start_paused = true)]
async fn the_next_member_is_tried_before_the_guest_sees_success() {
    let there = at("192.0.2.1");
    let first = side("first", std::slice::from_ref(&there)).await;
    let second = side("second", std::slice::from_ref(&there)).await;
    let group = group(Policy::Failover, &[&first, &second]);
    let to = chosen(&["192.0.2.1"], None);
    assert_eq!(by(&group, &to, 3).await.unwrap(), "first");
    first.break_with(&there, DialFault::Fail(DialError::HostUnreachable));
    assert_eq!(by(&group, &to, 3).await.unwrap(), "second");
    first.break_with(&there, DialFault::None);
    // Left in peace for a while, by the guest that saw it fail; on the daemon's own clock.
    assert_eq!(by(&group, &to, 3).await.unwrap(), "second");
    assert_eq!(by(&group, &to, 4).await.unwrap(), "first", "another guest has seen nothing");
    second.break_with(&there, DialFault::Fail(DialError::Refused));
    assert_eq!(by(&group, &to, 3).await.unwrap(), "first", "better than none");
}

#[tokio::test(start_paused = true)]
async fn a_silent_member_costs_its_own_time_only() {
    let there = at("192.0.2.1");
    let first = side("first", std::slice::from_ref(&there)).await;
    let second = side("second", std::slice::from_ref(&there)).await;
    first.break_with(&there, DialFault::Hold);
    let group = group(Policy::Failover, &[&first, &second]);
    let begun = Instant::now();
    assert_eq!(by(&group, &chosen(&["192.0.2.1"], None), 3).await.unwrap(), "second");
    assert_eq!(begun.elapsed().as_secs(), 5);
}

#[tokio::test(start_paused = true)]
async fn when_all_fail_the_first_error_counts() {
    let there = at("192.0.2.1");
    let first = side("first", &[]).await;
    let second = side("second", &[]).await;
    second.break_with(&there, DialFault::Fail(DialError::NotAuthenticated("no".to_owned())));
    let group = group(Policy::Failover, &[&first, &second]);
    let error = by(&group, &chosen(&["192.0.2.1"], None), 3).await.unwrap_err();
    assert_eq!(error, DialError::Refused);
    // A refusal says nothing about the way: the member stays first.
    let order = group.order(3);
    assert_eq!(&*order[0].1.name, "first");
}

#[tokio::test(start_paused = true)]
async fn of_several_addresses_a_silent_one_delays_the_next_by_a_quarter_of_a_second() {
    let (dead, alive) = (at("2001:db8::1"), at("192.0.2.1"));
    let side = side("m", std::slice::from_ref(&alive)).await;
    side.break_with(&dead, DialFault::Hold);
    let begun = Instant::now();
    let to = chosen(&["2001:db8::1", "192.0.2.1"], Some("a.example"));
    let reached = dial(Way::Transport(side.named.clone()), &to, TERMS).await.unwrap();
    assert_eq!(reached.peer, alive);
    assert_eq!(begun.elapsed(), Duration::from_millis(limits::NEXT_ADDRESS_MS));
    // One that refuses delays nothing.
    side.break_with(&dead, DialFault::Fail(DialError::Refused));
    let begun = Instant::now();
    dial(Way::Transport(side.named.clone()), &to, TERMS).await.unwrap();
    assert_eq!(begun.elapsed(), Duration::ZERO);
}

#[tokio::test(start_paused = true)]
async fn what_was_decided_about_is_what_is_dialled() {
    let name = Destination::Name { name: "db.peer".to_owned(), port: 80 };
    let side = side("m", &[name.clone(), at("192.0.2.1")]).await;
    let dial = async |chosen: Chosen| {
        dial(Way::Transport(side.named.clone()), &chosen, TERMS).await.map(|reached| reached.peer)
    };
    assert_eq!(dial(chosen(&["192.0.2.1"], Some("db.peer"))).await, Ok(at("192.0.2.1")));
    assert_eq!(dial(chosen(&[], Some("db.peer"))).await, Ok(name));
    let target = Some(Target::Address("192.0.2.1:80".parse().unwrap()));
    let elsewhere = Chosen { target, ..chosen(&["198.51.100.7"], None) };
    assert_eq!(dial(elsewhere).await, Ok(at("192.0.2.1")));
}

#[tokio::test(start_paused = true)]
async fn checks_say_who_works_whatever_guests_dial() {
    let (there, probe) = (at("192.0.2.1"), at("192.0.2.9"));
    let first = side("first", &[there.clone(), probe.clone()]).await;
    let second = side("second", &[there.clone(), probe.clone()]).await;
    let check = Some(HostPort::Address("192.0.2.9:80".parse().unwrap()));
    let group = checked_group(Policy::Failover, &[&first, &second], check);
    let works = || group.health().iter().map(|(_, works, _)| *works).collect::<Vec<_>>();
    let settle = async |expected: [bool; 2]| {
        let until = Instant::now() + Duration::from_secs(120);
        while works() != expected {
            assert!(Instant::now() < until, "{:?} is not {expected:?}", works());
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    };
    settle([true, true]).await;
    // A guest dials what is dead, again and again: nobody else is led astray.
    let dead = chosen(&["192.0.2.77"], None);
    let silent = at("192.0.2.77");
    first.break_with(&silent, DialFault::Hold);
    second.break_with(&silent, DialFault::Hold);
    assert_eq!(by(&group, &dead, 3).await, Err(DialError::TimedOut));
    let to = chosen(&["192.0.2.1"], None);
    assert_eq!(by(&group, &to, 4).await.unwrap(), "first");
    assert_eq!(by(&group, &to, 3).await.unwrap(), "first");
    // The check itself fails: everybody moves, before anybody has to wait.
    first.break_with(&probe, DialFault::Fail(DialError::NetworkUnreachable));
    settle([false, true]).await;
    assert_eq!(by(&group, &to, 4).await.unwrap(), "second");
    first.break_with(&probe, DialFault::None);
    settle([true, true]).await;
    assert_eq!(by(&group, &to, 4).await.unwrap(), "first");
}
