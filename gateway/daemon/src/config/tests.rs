//! The files in `configs/` parse; mistakes are named with file, line and key.

use outsock_core::route::{Protocol, Query, RuleAction};
use outsock_vmrpc::Errno;

use super::*;

fn parse(text: &str) -> Result<Config, String> {
    Config::parse(text, Path::new("gw.toml")).map_err(|error| error.to_string())
}

#[test]
fn the_shipped_files_parse() {
    for file in ["minimal.toml", "reference.toml"] {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../configs").join(file);
        let config = Config::load(&path).unwrap();
        assert!(!config.guests.is_empty(), "{file}");
    }
}

#[test]
fn the_reference_shows_the_defaults() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../configs/reference.toml");
    let reference = Config::load(&path).unwrap();
    let empty = parse("").unwrap();
    assert_eq!(reference.admin_socket, empty.admin_socket);
    assert_eq!(reference.dial_timeout, empty.dial_timeout);
    assert_eq!(reference.drain_timeout, empty.drain_timeout);
    assert_eq!(reference.names, empty.names);
    let guest =
        parse("[[guest]]\nname = \"a\"\ncid = 3\nsocket = \"/a\"\n").unwrap().guests.remove(0);
    let shown = &reference.guests[0];
    assert_eq!(shown.resolve, guest.resolve);
    assert_eq!(shown.limits.connections_max, guest.limits.connections_max);
    assert_eq!(shown.limits.connects_per_second_max, guest.limits.connects_per_second_max);
    let group =
        parse("[[group]]\nname = \"g\"\nmembers = [\"direct\"]\n").unwrap().groups.remove(0);
    let shown = &reference.groups[0];
    assert_eq!((shown.policy, shown.member_timeout), (group.policy, group.member_timeout));
    assert_eq!(shown.check_interval, group.check_interval);
    let nowhere = Query::tcp("web", 9);
    assert_eq!(empty.routes.decide(&nowhere).action, RuleAction::Refuse(Errno::EACCES));
}

#[test]
fn the_reference_has_every_key() {
    let text = include_str!("../../../../configs/reference.toml");
    let raw = include_str!("raw.rs");
    for line in raw.lines() {
        let Some(key) = line.trim().strip_prefix("pub(super) ").and_then(|l| l.split(':').next())
        else {
            continue;
        };
        let shown = text.contains(&format!("{key} =")) || text.contains(&format!("[{key}]"));
        assert!(
            shown || key.starts_with("struct") || key.starts_with("enum"),
            "configs/reference.toml lacks {key}"
        );
    }
}

#[test]
fn mistakes_name_file_line_and_key() {
    let guest = "[[guest]]\nname = \"a\"\ncid = 3\nsocket = \"/a\"\n";
    for (text, expected) in [
        ("[gateway]\nadmin_sockt = \"/x\"\n", "gw.toml:2: admin_sockt: unknown field"),
        ("[gateway]\ndefault = \"EWHAT\"\n", "gw.toml:2: default: \"EWHAT\" is not an errno"),
        (
            "[[guest]]\nname = \"a\"\ncid = 2\nsocket = \"/a\"\n",
            "gw.toml:3: cid: a guest's cid is 3",
        ),
        ("[[guest]]\nname = \"a\"\ncid = \"x\"\nsocket = \"/a\"\n", "gw.toml:3: cid: invalid type"),
        ("[[guest]]\nname = \"a\"\n", "gw.toml:1: [[guest]]: missing field"),
        ("[[route]]\nto = [\"10.0.0.1/8\"]\nvia = \"direct\"\n", "gw.toml:2: to: "),
        ("[[route]]\nports = [\"9-8\"]\nvia = \"direct\"\n", "gw.toml:2: ports: "),
        ("[[route]]\nports = [70000]\nvia = \"direct\"\n", "gw.toml:2: ports: "),
        ("[[route]]\nvia = \"nope\"\n", "gw.toml:2: via: there is no transport named \"nope\""),
        ("[[route]]\nname = \"x\"\n", "gw.toml:1: [[route]]: a route needs via"),
        ("[[route]]\nvia = \"direct\"\nrefuse = \"EACCES\"\n", "gw.toml:3: refuse: "),
        ("[[route]]\nvia = \"direct\"\ntarget = \"here\"\n", "gw.toml:3: target: "),
        ("[[transport]]\nname = \"t\"\nkind = \"qic\"\n", "gw.toml:3: kind: "),
        ("[[route]]\nguests = [\"\"]\nvia = \"direct\"\n", "gw.toml:2: guests: an empty pattern"),
        ("[[route]]\ndomains = [\"a b\"]\nvia = \"direct\"\n", "gw.toml:2: domains: "),
        ("[[route]]\nprotocol = \"sctp\"\nvia = \"direct\"\n", "gw.toml:2: protocol: "),
        (
            "[[route]]\nvia = \"direct\"\ntarget = \"unix:/run/outsock/gateway.sock\"\n",
            "gw.toml:3: target: this is the gateway's own socket",
        ),
        ("[names]\npool_v4 = \"198.18.0.0/31\"\n", "gw.toml:2: pool_v4: "),
        ("[names]\npool_v6 = \"fd00::/120\"\n", "gw.toml:2: pool_v6: "),
        ("[names]\nnameservers = [\"dns\"]\n", "gw.toml:2: nameservers: "),
        (
            "[[group]]\nname = \"g\"\nmembers = [\"x\"]\n",
            "gw.toml:3: members: there is no transport",
        ),
        ("[[group]]\nname = \"g\"\nmembers = []\n", "gw.toml:3: members: a group has 1 to"),
        ("[[group]]\nname = \"direct\"\nmembers = [\"direct\"]\n", "gw.toml:2: name: "),
        (
            "[[group]]\nname = \"g\"\nmembers = [\"direct\"]\npolicy = \"latency\"\n",
            "gw.toml:2: name: policy = \"latency\" needs check",
        ),
        (
            "[[group]]\nname = \"g\"\nmembers = [\"direct\"]\ncheck_interval_ms = 1\n",
            "gw.toml:4: check_interval_ms: checks are at least",
        ),
        (
            "[[guest]]\nname = \"a\"\ncid = 3\nsocket = \"/a\"\ntags = [\"x*\"]\n",
            "gw.toml:5: tags: a tag has",
        ),
        (
            "[[guest]]\nname = \"a\"\ncid = 3\nsocket = \"/a\"\nresolve = \"some\"\n",
            "gw.toml:5: resolve: ",
        ),
        (
            "[[guest]]\nname = \"a\"\ncid = 3\nsocket = \"/a\"\nbytes_per_second_max = 0\n",
            "gw.toml:5: bytes_per_second_max: ",
        ),
        ("x = \n", "gw.toml:1: "),
    ] {
        let error = parse(text).unwrap_err();
        assert!(error.starts_with(expected), "{text}\n  -> {error}");
    }
    let error = parse(&format!("{guest}{}", guest.replace("/a", "/b"))).unwrap_err();
    assert!(error.starts_with("gw.toml:6: name: guest \"a\" has the same name"), "{error}");
}

#[test]
fn a_publish_says_where_a_listener_is_reached() {
    let config = parse(
        "[[guest]]\nname = \"a\"\ncid = 3\nsocket = \"/a\"\ntags = [\"t\"]\n\
         [[publish]]\nguests = [\"tag:t\"]\nports = [80, \"8000-8010\", \"!8003\"]\nlisten = \"::1\"\n\
         [[publish]]\nguests = [\"b\"]\nports = [80]\nlisten = \"127.0.0.1:9\"\n\
         [[publish]]\nports = [80]\nlisten = \"unix:/x\"\nloopback = true\n",
    )
    .unwrap();
    let places = |listener: &str| -> Vec<String> {
        let listener = listener.parse().unwrap();
        let places = config.publishes.iter();
        places
            .filter_map(|publish| publish.place(&config.guests[0], listener))
            .map(|place| place.to_string())
            .collect()
    };
    assert_eq!(places("0.0.0.0:80"), ["[::1]:80", "unix:/x"]);
    assert_eq!(places("[::]:8010"), ["[::1]:8010"]);
    assert_eq!(places("127.0.0.1:80"), ["unix:/x"]);
    assert_eq!(places("[::ffff:127.0.0.1]:8000"), Vec::<String>::new());
    assert_eq!(places("0.0.0.0:8003"), Vec::<String>::new());
    assert_eq!(places("0.0.0.0:81"), Vec::<String>::new());
}

#[test]
fn a_service_is_of_streams_or_of_datagrams() {
    let config = parse(
        "[[guest]]\nname = \"a\"\ncid = 3\nsocket = \"/a\"\n\
         [[publish]]\nports = [53]\nprotocol = \"udp\"\nlisten = \"service:dns\"\n\
         [[publish]]\nports = [53]\nlisten = \"service:dns\"\n\
         [[publish]]\nports = [80]\nlisten = \"service:www\"\n",
    )
    .unwrap();
    let [udp, tcp, www] = &config.publishes[..] else { panic!("three") };
    let places = udp.datagram_places(&config.guests[0]);
    assert_eq!(places, [(53, DatagramPlace::Service("dns".to_owned()))]);
    assert_eq!(tcp.datagram_places(&config.guests[0]), []);
    assert!(udp.offers("dns", Protocol::Udp) && !udp.offers("dns", Protocol::Tcp));
    assert!(tcp.offers("dns", Protocol::Tcp) && tcp.offers("dns", Protocol::Icmp));
    assert!(!www.offers("dns", Protocol::Tcp));
}

#[test]
fn mistakes_in_a_publish_name_their_line() {
    for (text, expected) in [
        ("[[publish]]\nlisten = \"::1\"\n", "gw.toml:1: [[publish]]: missing field `ports`"),
        ("[[publish]]\nports = [80]\n", "gw.toml:1: [[publish]]: missing field `listen`"),
        ("[[publish]]\nports = []\nlisten = \"::1\"\n", "gw.toml:2: ports: which ports"),
        ("[[publish]]\nports = [\"!80\"]\nlisten = \"::1\"\n", "gw.toml:2: ports: which ports"),
        ("[[publish]]\nports = [80]\nlisten = \"here\"\n", "gw.toml:3: listen: \"here\" is no"),
        (
            "[[publish]]\nports = [80, 81]\nlisten = \"[::1]:80\"\n",
            "gw.toml:3: listen: one place is for one port",
        ),
        (
            "[[publish]]\nports = [80]\nlisten = \"unix:/run/outsock/gateway.sock\"\n",
            "gw.toml:3: listen: this is the gateway's own socket",
        ),
        (
            "[[publish]]\nports = [80]\nlisten = \"::1\"\nvia = \"x\"\n",
            "gw.toml:4: via: there is no transport named \"x\"",
        ),
        (
            "[[publish]]\nports = [80]\nlisten = \"[::1]:8\"\n\
             [[publish]]\nports = [81]\nlisten = \"[::1]:8\"\n",
            "gw.toml:6: listen: \"publish 1\" listens there already",
        ),
    ] {
        let error = parse(text).unwrap_err();
        assert!(error.starts_with(expected), "{text}\n  -> {error}");
    }
}

#[test]
fn mistakes_about_tls() {
    for (text, expected) in [
        (
            "[[route]]\nvia = \"direct\"\nencrypt = \"ssl\"\n",
            "gw.toml:3: encrypt: \"ssl\" is no way to encrypt",
        ),
        (
            "[[route]]\nvia = \"direct\"\n[route.tls]\nalpn = [\"h2\"]\n",
            "gw.toml:3: [route.tls]: settings without encrypt",
        ),
        (
            "[[route]]\nrefuse = \"EACCES\"\nencrypt = \"tls\"\n",
            "gw.toml:3: encrypt: a route that refuses",
        ),
        (
            "[[route]]\nvia = \"direct\"\ntarget = \"unix:/a\"\nencrypt = \"tls\"\n",
            "gw.toml:4: encrypt: a Unix socket has no name",
        ),
        (
            "[[route]]\nvia = \"direct\"\nencrypt = \"tls\"\n[route.tls]\npin = [\"x\"]\n",
            "gw.toml:5: pin: ",
        ),
        (
            "[[route]]\nvia = \"direct\"\nencrypt = \"tls\"\n[route.tls]\nkey = \"/k\"\n",
            "gw.toml:5: key: a key needs its certificate",
        ),
        (
            "[[route]]\nvia = \"direct\"\nencrypt = \"tls\"\n[route.tls]\nca = []\n",
            "gw.toml:5: ca: trusts nobody",
        ),
    ] {
        let error = parse(text).unwrap_err();
        assert!(error.starts_with(expected), "{text}\n  -> {error}");
    }
}

#[test]
fn mistakes_about_tls_of_a_publish() {
    let publish = "[[publish]]\nports = [80]\nlisten = \"::1\"\n";
    let files = "[publish.tls]\ncertificate = \"/c\"\nkey = \"/k\"\n";
    for (text, expected) in [
        ("encrypt = \"tls\"\n".to_owned(), "gw.toml:4: encrypt: a server has a certificate"),
        (files.to_owned(), "gw.toml:4: [publish.tls]: settings without encrypt"),
        (
            "encrypt = \"tls\"\n[publish.tls]\nkey = \"/k\"\n".to_owned(),
            "gw.toml:5: [publish.tls]: missing field `certificate`",
        ),
        (
            format!("encrypt = \"tls\"\n{files}client_ca = []\n"),
            "gw.toml:8: client_ca: lets nobody in",
        ),
        (
            format!("protocol = \"udp\"\nencrypt = \"tls\"\n{files}"),
            "gw.toml:5: encrypt: TLS is for tcp",
        ),
        (format!("encrypt = \"tls\"\n{files}pin = []\n"), "gw.toml:8: pin: unknown field"),
    ] {
        let error = parse(&format!("{publish}{text}")).unwrap_err();
        assert!(error.starts_with(expected), "{text}\n  -> {error}");
    }
}

#[test]
fn mistakes_about_transports() {
    let proxy = "[[transport]]\nname = \"p\"\nkind = \"socks5\"\n";
    for (text, expected) in [
        (proxy.to_owned(), "gw.toml:3: kind: a proxy needs server"),
        (format!("{proxy}server = \"x\"\n"), "gw.toml:4: server: \"x\" is no destination"),
        (format!("{proxy}server = \"a:1\"\nuser = \"u\"\n"), "gw.toml:5: user: a user needs"),
        (
            format!("{proxy}server = \"a:1\"\npassword_file = \"/p\"\n"),
            "gw.toml:5: password_file: a password needs user",
        ),
        (
            format!("{proxy}server = \"a:1\"\nover = \"p\"\n"),
            "gw.toml:5: over: no transport named \"p\" stands before this one",
        ),
        (
            "[[transport]]\nname = \"d\"\nkind = \"direct\"\nserver = \"a:1\"\n".to_owned(),
            "gw.toml:4: server: a transport of kind \"direct\" has no server",
        ),
    ] {
        let error = parse(&text).unwrap_err();
        assert!(error.starts_with(expected), "{text}\n  -> {error}");
    }
}
