//! The matcher against examples and against a naive one.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use outsock_vmrpc::Errno;
use proptest::prelude::*;

use super::*;

fn list<T: std::str::FromStr>(entries: &[&str]) -> Condition<T>
where
    T::Err: std::fmt::Debug,
{
    entries.iter().map(|text| text.parse::<Entry<T>>().unwrap()).collect()
}

fn rule(to: &[&str], ports: &[&str], action: RuleAction) -> Rule {
    Rule { to: list(to), ports: list(ports), ..Rule::all(action) }
}

const VIA: RuleAction = RuleAction::Via(WayId(1));

fn via(to: &[&str], ports: &[&str]) -> Rule {
    rule(to, ports, VIA)
}

fn query(destination: &str) -> Query<'static> {
    let destination: SocketAddr = destination.parse().unwrap();
    let address = Some(canonical(destination.ip()));
    Query { address, ..Query::tcp("web", destination.port()) }
}

fn decide_query(rules: &[Rule], query: &Query<'_>) -> Option<usize> {
    let table = RouteTable::new(rules.to_vec(), Errno::EACCES);
    let decision = table.decide(query);
    assert_eq!(table.explain(query).1, decision, "the explanation is the truth");
    decision.rule
}

fn decide(rules: &[Rule], destination: &str) -> Option<usize> {
    decide_query(rules, &query(destination))
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
fn every_condition_counts_and_can_be_turned_round() {
    let rules = [Rule {
        guests: list(&["db-*", "tag:prod", "!db-old"]),
        programs: list(&["*/psql"]),
        users: list(&["1000", "post*", "!postmaster"]),
        protocol: Some(Protocol::Tcp),
        to: list(&["10.0.0.0/8", "!10.9.0.0/16"]),
        domains: list(&[".example.org", "*.peer", "!bad.example.org"]),
        ports: list(&["5000-5999", "!5433"]),
        action: VIA,
    }];
    let good = Query {
        guest: "db-1",
        program: Some("/usr/bin/psql"),
        user_id: Some(1000),
        name: Some("a.example.org"),
        ..query("10.1.2.3:5432")
    };
    let prod = ["prod".to_owned()];
    let no = |query: Query<'_>| decide_query(&rules, &query).is_none();
    assert!(!no(good));
    assert!(!no(Query { guest: "web", tags: &prod, ..good }));
    assert!(!no(Query { user_id: None, user_name: Some("postgres"), ..good }));
    assert!(!no(Query { name: Some("x.y.peer"), ..good }));
    assert!(no(Query { guest: "web", ..good }));
    assert!(no(Query { guest: "db-old", tags: &prod, ..good }));
    assert!(no(Query { program: None, ..good }));
    assert!(no(Query { program: Some("/usr/bin/psql2"), ..good }));
    assert!(no(Query { user_id: Some(0), ..good }));
    assert!(no(Query { user_name: Some("postmaster"), ..good }));
    assert!(no(Query { protocol: Protocol::Udp, ..good }));
    assert!(no(Query { address: Some("10.9.0.1".parse().unwrap()), ..good }));
    assert!(no(Query { address: None, ..good }));
    assert!(no(Query { name: None, ..good }));
    assert!(no(Query { name: Some("bad.example.org"), ..good }));
    assert!(no(Query { name: Some("example.com"), ..good }));
    assert!(no(Query { port: 5433, ..good }));
    assert!(no(Query { port: 80, ..good }));
}

#[test]
fn a_name_without_an_address_leaves_open_what_asks_for_one() {
    let rules = vec![
        Rule { domains: list(&["*.peer"]), ..via(&[], &[]) },
        via(&["0.0.0.0/0"], &[]),
        Rule { domains: list(&["late.example"]), ..via(&[], &[]) },
    ];
    let table = RouteTable::new(rules, Errno::EACCES);
    let named = |name| table.decide(&Query { name: Some(name), ..Query::tcp("web", 80) });
    assert_eq!((named("db.peer").rule, named("db.peer").open), (Some(0), false));
    assert_eq!((named("a.example").rule, named("a.example").open), (None, true));
    assert_eq!((named("late.example").rule, named("late.example").open), (Some(2), true));
    assert!(table.routes_by_name("web", &[], "db.peer"));
    assert!(table.routes_by_name("web", &[], "late.example"));
    assert!(!table.routes_by_name("web", &[], "a.example"));
}

const HIDDEN: &[&str] = &[
    "127.0.0.1:80",
    "127.255.255.254:80",
    "0.0.0.0:80",
    "169.254.169.254:80",
    "100.100.100.200:80",
    "168.63.129.16:80",
    "224.0.0.1:80",
    "255.255.255.255:80",
    "[::1]:80",
    "[::]:80",
    "[fe80::1]:80",
    "[fec0::1]:80",
    "[fd00:ec2::254]:80",
    "[fd20:ce::254]:80",
    "[ff02::1]:80",
    "[::ffff:127.0.0.1]:80",
    "[::ffff:169.254.169.254]:80",
    "[::ffff:0:127.0.0.1]:80",
    "[::127.0.0.1]:80",
    "[64:ff9b::7f00:1]:80",
    "[64:ff9b::a9fe:a9fe]:80",
    "[64:ff9b:1::7f00:1]:80",
    "[2002:7f00:1::]:80",
    "[2002:a9fe:a9fe::1]:80",
    // Teredo: the client's address stands inverted at the end.
    "[2001:0:c000:201:0:0:80ff:fffe]:80",
    "[2001:db8::5efe:7f00:1]:80",
];

#[test]
fn the_host_is_reached_only_by_name_of_its_range() {
    let wide = [via(&[], &[]), via(&["0.0.0.0/0", "::/0"], &[])];
    for hidden in HIDDEN {
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
fn an_own_address_is_opened_by_itself_only() {
    let rules =
        [via(&["0.0.0.0/0"], &["1"]), via(&["192.0.2.0/24"], &["2"]), via(&["192.0.2.7"], &["3"])];
    let own = |port| Query { own: true, port, ..query("192.0.2.7:0") };
    assert_eq!(decide_query(&rules, &own(1)), None);
    assert_eq!(decide_query(&rules, &own(2)), None);
    assert_eq!(decide_query(&rules, &own(3)), Some(2));
    let refusing = [rule(&["192.0.2.0/24"], &[], RuleAction::Refuse(Errno::EHOSTUNREACH))];
    assert_eq!(decide_query(&refusing, &own(1)), Some(0), "a refusal may be as wide as it likes");
}

#[test]
fn mistakes_are_named() {
    assert!("10.0.0.0/33".parse::<Cidr>().is_err());
    assert!("::/129".parse::<Cidr>().is_err());
    assert!("0177.0.0.1/8".parse::<Cidr>().is_err(), "octal is never parsed");
    assert!("2130706433".parse::<Cidr>().is_err(), "decimal is never parsed");
    let text = "10.1.2.3/8".parse::<Cidr>().unwrap_err().to_string();
    assert!(text.contains("10.0.0.0/8"), "{text}");
    assert_eq!("::ffff:10.0.0.0/104".parse::<Cidr>().unwrap().to_string(), "10.0.0.0/8");
    assert!("90-80".parse::<PortRange>().is_err());
    assert!("65536".parse::<PortRange>().is_err());
    for number in ["2130706433", "0177.0.0.1", "127.1", "0x7f000001", "a.0x7F"] {
        assert_eq!(canonical_name(number), None, "{number}");
    }
    for bad in
        ["", ".", "a..b", "10.1.2.3", "exa mple.org", "http://a.example", "a.example:80", "*:80"]
    {
        assert!(bad.parse::<DomainPattern>().is_err(), "{bad:?}");
    }
}

#[test]
fn globs_take_any_run() {
    for (glob, text, expected) in [
        ("*", "", true),
        ("a*b*c", "a-b-b-c", true),
        ("a*b*c", "a-c-b", false),
        ("??", "ab", true),
        ("??", "a", false),
        ("*a", "aaab", false),
        ("*.*", "x.y.z", true),
    ] {
        assert_eq!(glob.parse::<Glob>().unwrap().matches(text), expected, "{glob} {text}");
    }
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

/// Few values, so that rules and questions meet often.
fn from<T: Clone + std::fmt::Debug + 'static>(values: &'static [T]) -> impl Strategy<Value = T> {
    proptest::sample::select(values)
}

const GUESTS: &[&str] = &["web", "db-1", "db-*", "*", "tag:a", "tag:*", "!web", "!tag:a"];
const PROGRAMS: &[&str] = &["/bin/curl", "*/curl", "!*/curl", "*"];
const USERS: &[&str] = &["0", "root", "!root", "r*"];
const NETS: &[&str] = &[
    "0.0.0.0/0",
    "10.0.0.0/8",
    "10.1.0.0/16",
    "10.1.2.3",
    "127.0.0.0/8",
    "127.0.0.1",
    "::/0",
    "2001:db8::/32",
    "2001:db8::1",
    "::1",
    "!10.1.0.0/16",
    "!127.0.0.0/8",
];
const DOMAINS: &[&str] = &[
    "a.example",
    ".example",
    "*.example",
    "*.peer",
    "db-*.peer",
    "*",
    "?.example",
    "!a.example",
    "a.*",
    "!*.peer",
];
const PORTS: &[&str] = &["80", "443", "1-1024", "80-90", "8000-9000", "!80", "!1-100"];
const ADDRESSES: &[&str] = &[
    "10.1.2.3",
    "10.1.9.9",
    "10.2.0.1",
    "127.0.0.1",
    "127.0.0.2",
    "192.0.2.7",
    "::1",
    "2001:db8::1",
    "2001:db8::2",
    "64:ff9b::7f00:1",
    "2002:7f00:1::",
];
const NAMES: &[&str] = &["a.example", "b.a.example", "example", "db-1.peer", "peer", "x.org"];

fn some<T>(values: &'static [&'static str]) -> impl Strategy<Value = Condition<T>>
where
    T: std::str::FromStr + std::fmt::Debug,
    T::Err: std::fmt::Debug,
{
    prop_oneof![
        2 => Just(Vec::new()),
        3 => proptest::collection::vec(from(values), 1..4),
    ]
    .prop_map(|entries| list(&entries))
}

fn any_rule() -> impl Strategy<Value = Rule> {
    let protocol = prop_oneof![3 => Just(None), 1 => Just(Some(Protocol::Tcp)), 1 => Just(Some(Protocol::Udp)), 1 => Just(Some(Protocol::Icmp))];
    let action = prop_oneof![Just(VIA), Just(RuleAction::Refuse(Errno::EPERM))];
    (
        some(GUESTS),
        some(PROGRAMS),
        some(USERS),
        protocol,
        some(NETS),
        some(DOMAINS),
        some(PORTS),
        action,
    )
        .prop_map(|(guests, programs, users, protocol, to, domains, ports, action)| Rule {
            guests,
            programs,
            users,
            protocol,
            to,
            domains,
            ports,
            action,
        })
}

#[derive(Clone, Debug)]
struct Question {
    guest: &'static str,
    tags: Vec<String>,
    program: Option<&'static str>,
    user: Option<(u32, &'static str)>,
    protocol: Protocol,
    name: Option<&'static str>,
    address: Option<&'static str>,
    own: bool,
    port: u16,
}

fn question() -> impl Strategy<Value = Question> {
    use proptest::option::of;
    let who = (
        from(&["web", "db-1", "x"]),
        proptest::collection::vec(from(&["a", "b"]), 0..2),
        of(from(&["/bin/curl", "/usr/bin/curl", "sh"])),
        of(from(&[(0, "root"), (1000, "me")])),
    );
    let to = (
        from(&[Protocol::Tcp, Protocol::Udp, Protocol::Icmp]),
        of(from(NAMES)),
        of(from(ADDRESSES)),
        any::<bool>(),
        from(&[80, 85, 443, 1024, 8080, 60000]),
    );
    (who, to).prop_map(|((guest, tags, program, user), (protocol, name, address, own, port))| {
        Question {
            guest,
            tags: tags.into_iter().map(str::to_owned).collect(),
            program,
            user,
            protocol,
            name,
            address,
            own,
            port,
        }
    })
}

/// The rules as the documentation says them, without any of the code above.
fn naive(rule: &Rule, q: &Question) -> bool {
    fn hit<T: std::fmt::Display>(c: &Condition<T>, test: impl Fn(&str) -> Option<bool>) -> bool {
        let yes = |t: &T| test(&t.to_string()).unwrap_or(false);
        (c.any.is_empty() || c.any.iter().any(yes)) && !c.none.iter().any(yes)
    }
    fn glob(pattern: &[u8], text: &[u8]) -> bool {
        match pattern.split_first() {
            None => text.is_empty(),
            Some((b'*', rest)) => (0..=text.len()).any(|n| glob(rest, &text[n..])),
            Some((b'?', rest)) => !text.is_empty() && glob(rest, &text[1..]),
            Some((c, rest)) => text.first() == Some(c) && glob(rest, &text[1..]),
        }
    }
    let glob = |pattern: &str, text: &str| glob(pattern.as_bytes(), text.as_bytes());
    let guest = hit(&rule.guests, |g| {
        Some(match g.strip_prefix("tag:") {
            Some(tag) => q.tags.iter().any(|t| glob(tag, t)),
            None => glob(g, q.guest),
        })
    });
    let program = hit(&rule.programs, |p| Some(glob(p, q.program?)));
    let user = hit(&rule.users, |u| {
        let (id, name) = q.user?;
        Some(u.parse() == Ok(id) || glob(u, name))
    });
    let domain = hit(&rule.domains, |d| {
        let name = q.name?;
        Some(match d.strip_prefix('.') {
            Some(suffix) => name == suffix || name.ends_with(d),
            None => glob(d, name),
        })
    });
    let port = hit(&rule.ports, |p| {
        let (first, last) = p.split_once('-').unwrap_or((p, p));
        Some((first.parse().unwrap()..=last.parse().unwrap()).contains(&q.port))
    });
    let ip: Option<IpAddr> = q.address.map(|a| a.parse().unwrap());
    let net = rule.to.is_empty() && ip.is_none()
        || ip.is_some() && hit(&rule.to, |n| Some(n.parse::<Cidr>().unwrap().contains(ip?)));
    let hidden = ip.is_some_and(|ip| {
        q.own
            || HIDDEN.iter().any(|h| {
                h.parse::<SocketAddr>().unwrap().ip() == ip
                    || ip == "127.0.0.2".parse::<IpAddr>().unwrap()
            })
    });
    let narrow = |n: &Cidr| {
        ip.is_some_and(|ip| n.contains(ip))
            && (n.prefix() >= 128 - 96 * u8::from(ip.is_some_and(|ip| ip.is_ipv4()))
                || !q.own && n.to_string() == "127.0.0.0/8")
    };
    let opened = !hidden || rule.action != VIA || rule.to.any.iter().any(narrow);
    guest
        && program
        && user
        && domain
        && port
        && net
        && opened
        && rule.protocol.is_none_or(|p| p == q.protocol)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, ..ProptestConfig::default() })]

    #[test]
    fn the_index_agrees_with_a_naive_walk(
        rules in proptest::collection::vec(any_rule(), 0..12),
        questions in proptest::collection::vec(question(), 1..8),
    ) {
        let table = RouteTable::new(rules.clone(), Errno::EACCES);
        for q in &questions {
            let query = Query {
                guest: q.guest,
                tags: &q.tags,
                program: q.program,
                user_id: q.user.map(|user| user.0),
                user_name: q.user.map(|user| user.1),
                protocol: q.protocol,
                name: q.name,
                address: q.address.map(|a| a.parse().unwrap()),
                own: q.own,
                port: q.port,
            };
            let expected = rules.iter().position(|rule| naive(rule, q));
            prop_assert_eq!(table.decide(&query).rule, expected);
            prop_assert_eq!(table.explain(&query).1, table.decide(&query));
            for name in NAMES {
                let named = rules.iter().any(|rule| rule.names(q.guest, &q.tags, name));
                prop_assert_eq!(table.routes_by_name(q.guest, &q.tags, name), named);
            }
        }
    }
}
