//! The matcher against examples and against a naive one.

use proptest::prelude::*;

use super::*;

fn via(to: &[&str], ports: &[&str]) -> Rule {
    rule(to, ports, RuleAction::Via(TransportId(1)))
}

fn rule(to: &[&str], ports: &[&str], action: RuleAction) -> Rule {
    Rule {
        to: to.iter().map(|text| text.parse().unwrap()).collect(),
        ports: ports.iter().map(|text| text.parse().unwrap()).collect(),
        action,
    }
}

fn decide(rules: &[Rule], destination: &str) -> Option<usize> {
    RouteTable::new(rules.to_vec(), Errno::EACCES).decide(destination.parse().unwrap()).rule
}

#[test]
fn first_match_wins_and_no_match_is_refused() {
    let rules = [
        rule(&["10.0.0.0/8"], &["22"], RuleAction::Refuse(Errno::ECONNREFUSED)),
        via(&["10.0.0.0/8", "2001:db8::/32"], &["1-1024"]),
    ];
    assert_eq!(decide(&rules, "10.1.2.3:22"), Some(0));
    assert_eq!(decide(&rules, "10.1.2.3:80"), Some(1));
    assert_eq!(decide(&rules, "10.1.2.3:1025"), None);
    assert_eq!(decide(&rules, "[2001:db8::1]:1"), Some(1));
    assert_eq!(decide(&rules, "[::ffff:10.1.2.3]:80"), Some(1));
    assert_eq!(decide(&rules, "11.1.2.3:80"), None);
}

#[test]
fn the_host_is_reached_only_by_name_of_its_range() {
    let wide = [via(&[], &[]), via(&["0.0.0.0/0", "::/0"], &[])];
    for hidden in [
        "127.0.0.1:80",
        "127.255.255.254:80",
        "0.0.0.0:80",
        "169.254.169.254:80",
        "100.100.100.200:80",
        "224.0.0.1:80",
        "255.255.255.255:80",
        "[::1]:80",
        "[::]:80",
        "[fe80::1]:80",
        "[fd00:ec2::254]:80",
        "[ff02::1]:80",
        "[::ffff:127.0.0.1]:80",
        "[::ffff:169.254.169.254]:80",
        "[::127.0.0.1]:80",
        "[64:ff9b::7f00:1]:80",
        "[64:ff9b::a9fe:a9fe]:80",
        "[2002:7f00:1::]:80",
        "[2002:a9fe:a9fe::1]:80",
    ] {
        assert_eq!(decide(&wide, hidden), None, "{hidden}");
    }
    assert_eq!(decide(&wide, "192.0.2.1:80"), Some(0));
    assert_eq!(decide(&wide, "[64:ff9b::c000:201]:80"), Some(0));
    let named = [via(&["127.0.0.1/32"], &["80"]), via(&["127.0.0.0/8", "::1"], &["81"])];
    assert_eq!(decide(&named, "127.0.0.1:80"), Some(0));
    assert_eq!(decide(&named, "127.0.0.2:80"), None);
    assert_eq!(decide(&named, "127.0.0.2:81"), Some(1));
    assert_eq!(decide(&named, "[::ffff:127.0.0.2]:81"), Some(1));
    assert_eq!(decide(&named, "[::1]:81"), Some(1));
}

#[test]
fn mistakes_are_named() {
    assert!("10.0.0.0/33".parse::<Cidr>().is_err());
    assert!("::/129".parse::<Cidr>().is_err());
    assert!("0177.0.0.1/8".parse::<Cidr>().is_err(), "octal is never parsed");
    assert!("2130706433".parse::<Cidr>().is_err(), "decimal is never parsed");
    let text = "10.1.2.3/8".parse::<Cidr>().unwrap_err().to_string();
    assert!(text.contains("10.0.0.0/8"), "{text}");
    assert!("90-80".parse::<PortRange>().is_err());
    assert!("65536".parse::<PortRange>().is_err());
}

proptest! {
    #[test]
    fn contains_agrees_with_bit_by_bit(base: u32, prefix in 0u8..=32, other: u32) {
        let leading = |value: u32| (0..prefix).map(move |bit| value >> (31 - bit) & 1);
        let masked = leading(base).enumerate().fold(0u32, |sum, (at, bit)| sum | bit << (31 - at));
        let cidr: Cidr = format!("{}/{prefix}", Ipv4Addr::from(masked)).parse().unwrap();
        let expected = leading(base).eq(leading(other));
        prop_assert_eq!(cidr.contains(IpAddr::V4(Ipv4Addr::from(other))), expected);
    }
}
