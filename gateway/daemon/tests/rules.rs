//! Rules, names and limits, as a guest meets them.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use common::{boot, echo_server, eventually, server, setup};
use outsock_harness::{Gateway, Setup};
use outsock_virtual_guest::{Connection, Options, VirtualGuest};
use outsock_vmrpc::resolver::{self, QueryRequest};
use outsock_vmrpc::socket::{self, Asserted, ConnectRequest, Destination, Token};
use outsock_vmrpc::{Errno, RpcError};

/// What an agent of version 2 or later does.
fn connect(
    guest: &VirtualGuest,
    destination: Destination,
    asserted: &Asserted,
) -> Result<Connection, Errno> {
    use std::hash::{BuildHasher, Hasher};
    let random = std::hash::RandomState::new().build_hasher().finish();
    let token = Token::from_random(u32::try_from(random >> 32).unwrap());
    let binding = guest.rpc().unwrap().bind_module(socket::NAME, socket::ALL_VERSIONS).unwrap();
    assert!(binding.version() >= socket::V2, "{:?}", binding.version());
    let request = ConnectRequest { token, destination, source: None };
    let (sender, outcome) = std::sync::mpsc::sync_channel(1);
    binding.start_rpc(socket::CONNECT, &request.encode_v2(asserted), move |outcome| {
        sender.send(outcome).unwrap();
    });
    let connection = guest.open(token.raw());
    match outcome.recv_timeout(Duration::from_secs(20)).unwrap() {
        Ok(_) => Ok(connection.unwrap()),
        Err(RpcError::Function(errno)) => Err(errno),
        Err(error) => panic!("{error}"),
    }
}

fn name(name: &str, port: u16) -> Destination {
    Destination::Name { name: name.to_owned(), port }
}

/// Asks the resolver module for the A record of a name, as a stub would pass it on.
fn resolve(guest: &VirtualGuest, name: &str) -> Option<IpAddr> {
    let mut message = vec![0, 1, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0];
    for label in name.split('.') {
        message.push(u8::try_from(label.len()).unwrap());
        message.extend(label.as_bytes());
    }
    message.extend([0, 0, 1, 0, 1]);
    let binding = guest.rpc().unwrap().bind_module(resolver::NAME, resolver::VERSIONS).unwrap();
    let answer_bytes_max = resolver::answer_bytes_max(&message);
    let query = QueryRequest { answer_bytes_max, message: message.clone() };
    let answer = binding.perform_rpc(resolver::QUERY, &query.encode()).unwrap();
    assert_eq!(answer[..2], message[..2]);
    let (code, answers) = (answer[3] & 0xf, u16::from_be_bytes([answer[6], answer[7]]));
    (code == 0 && answers == 1).then(|| {
        let bytes: [u8; 4] = answer[answer.len() - 4..].try_into().unwrap();
        IpAddr::from(bytes)
    })
}

fn says(connection: &Connection, word: &[u8]) {
    let mut back = vec![0; word.len()];
    (&mut &*connection).read_exact(&mut back).unwrap();
    assert_eq!(back, word);
}

fn speaker(word: &'static [u8]) -> u16 {
    server(move |mut stream| {
        let _ = stream.write_all(word);
        // Until the guest goes.
        let _ = stream.read(&mut [0]);
    })
}

fn explain(gateway: &Gateway, arguments: &[&str]) -> serde_json::Value {
    let admin = gateway.folder().join("admin.sock");
    let mut command = std::process::Command::new(common::BINARY);
    command.args(["explain", "--json", "--guest", "web", "--admin-socket"]).arg(admin);
    let output = command.args(arguments).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).unwrap()
}

fn routes(rules: &str) -> Setup {
    setup().guest("web", 3).toml(rules)
}

/// Three ways and a refusal.
fn three_ways([one, two, three]: [u16; 3]) -> String {
    format!(
        r#"
        [[group]]
        name = "out"
        members = ["direct"]
        [[route]]
        name = "by network"
        to = ["203.0.113.0/24"]
        ports = ["1-100"]
        via = "direct"
        target = "127.0.0.1:{one}"
        [[route]]
        name = "by name"
        domains = ["db.*.peer"]
        via = "out"
        target = "127.0.0.1:{two}"
        [[route]]
        name = "by program"
        programs = ["*/psql"]
        users = [1000]
        to = ["198.51.100.0/24"]
        via = "direct"
        target = "127.0.0.1:{three}"
        [[route]]
        name = "never"
        to = ["198.51.100.0/24"]
        refuse = "EHOSTDOWN"
        "#
    )
}

#[test]
fn three_destinations_leave_as_three_rules_say_and_a_fourth_is_refused() {
    let far = [speaker(b"one"), speaker(b"two"), speaker(b"three")];
    let gateway = routes(&three_ways(far)).start().unwrap();
    let guest = boot(&gateway);
    let psql = Asserted {
        program: Some("/usr/bin/psql".to_owned()),
        pid: Some(77),
        user_id: Some(1000),
        user_name: Some("me".to_owned()),
    };
    let plain: SocketAddr = "203.0.113.5:80".parse().unwrap();
    let third: SocketAddr = "198.51.100.5:5432".parse().unwrap();
    let first = guest.dial(plain).unwrap().0;
    let synthetic = resolve(&guest, "db.tokyo.peer").unwrap();
    let second = guest.dial(SocketAddr::new(synthetic, 5432)).unwrap().0;
    let by_name = connect(&guest, name("DB.osaka.peer.", 5432), &psql).unwrap();
    let fourth = connect(&guest, Destination::Address(third), &psql).unwrap();
    says(&first, b"one");
    says(&second, b"two");
    says(&by_name, b"two");
    says(&fourth, b"three");
    assert_eq!(guest.dial(third).unwrap_err(), Errno::EHOSTDOWN);
    assert_eq!(guest.dial("203.0.113.5:101".parse().unwrap()).unwrap_err(), Errno::EACCES);
    status_agrees(&gateway, far[2]);
    explanations_agree(&gateway);
    drop((first, second, by_name, fourth));
    eventually("the table is empty", || {
        gateway.status().unwrap()["connections"].as_array().unwrap().is_empty()
    });
    guest.assert_clean();
}

fn status_agrees(gateway: &Gateway, third: u16) {
    let status = gateway.status().unwrap();
    let rows: Vec<_> = status["connections"].as_array().unwrap().iter().collect();
    let row = |at: usize| ["rule", "destination"].map(|key| rows[at][key].as_str().unwrap());
    assert_eq!(rows.len(), 4);
    assert_eq!(row(0), ["by network", "203.0.113.5:80"]);
    assert_eq!(row(1), ["by name", "db.tokyo.peer:5432"]);
    assert_eq!(row(2), ["by name", "db.osaka.peer:5432"]);
    assert_eq!(row(3), ["by program", "198.51.100.5:5432"]);
    assert_eq!(rows[3]["program"].as_str(), Some("/usr/bin/psql"));
    assert_eq!(rows[3]["pid"].as_u64(), Some(77));
    assert_eq!(rows[3]["transport"].as_str(), Some("direct"));
    assert_eq!(rows[3]["peer"].as_str(), Some(&*format!("127.0.0.1:{third}")));
    assert_eq!(rows[3]["bytes_to_guest"].as_u64(), Some(5));
    assert_eq!(status["guests"][0]["refused_by_rule"].as_u64(), Some(2));
}

fn explanations_agree(gateway: &Gateway) {
    let psql = ["--program", "/bin/psql", "--user", "1000"];
    for (to, who, rule, action) in [
        ("203.0.113.5:80", &[][..], "by network", "via direct"),
        ("db.tokyo.peer:5432", &[], "by name", "via out"),
        ("198.51.100.5:5432", &psql, "by program", "via direct"),
        ("198.51.100.5:5432", &[], "never", "refuse EHOSTDOWN (host is down)"),
        ("203.0.113.5:101", &[], "the default", "refuse EACCES (permission denied)"),
    ] {
        let arguments = [&[to], who].concat();
        let answer = explain(gateway, &arguments);
        assert_eq!(answer["rule"].as_str(), Some(rule), "{answer}");
        assert_eq!(answer["action"].as_str(), Some(action), "{answer}");
        // The same from the file alone.
        let mut command = gateway.command("explain");
        let output = command.args(["--guest", "web"]).args(&arguments).output().unwrap();
        let text = String::from_utf8(output.stdout).unwrap();
        assert!(text.contains(&format!("decided by {rule}: {action}")), "{text}");
    }
}

#[test]
fn synthetic_addresses_survive_a_restart_and_unknown_ones_lead_nowhere() {
    let folder = tempfile::tempdir().unwrap();
    let far = speaker(b"far");
    let start = || {
        routes(&format!(
            "[names]\nfile = {:?}\n[[route]]\ndomains = [\"*.peer\"]\nvia = \"direct\"\ntarget = \"127.0.0.1:{far}\"",
            folder.path().join("names")
        ))
        .start()
        .unwrap()
    };
    let gateway = start();
    let guest = boot(&gateway);
    let db = resolve(&guest, "db.peer").unwrap();
    let mail = resolve(&guest, "mail.peer").unwrap();
    assert_ne!(db, mail);
    drop((guest, gateway));
    let gateway = start();
    let guest = boot(&gateway);
    // Without asking again: the program still has the address.
    let connection = guest.dial(SocketAddr::new(db, 1)).unwrap().0;
    says(&connection, b"far");
    let listed = gateway.status().unwrap()["connections"][0]["destination"].clone();
    assert_eq!(listed.as_str(), Some("db.peer:1"));
    assert_eq!(resolve(&guest, "db.peer"), Some(db));
    assert!(![db, mail].contains(&resolve(&guest, "new.peer").unwrap()));
    let unknown = guest.dial("198.19.200.200:80".parse().unwrap()).unwrap_err();
    assert_eq!(unknown, Errno::EHOSTUNREACH);
}

#[test]
fn an_answer_from_the_pool_takes_less_than_a_millisecond() {
    let gateway = routes("[[route]]\ndomains = [\"*.peer\"]\nrefuse = \"EPERM\"").start().unwrap();
    let guest = boot(&gateway);
    let binding = guest.rpc().unwrap().bind_module(resolver::NAME, resolver::VERSIONS).unwrap();
    let mut message = vec![0, 1, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0];
    message.extend(b"\x02db\x04peer\0\0\x01\0\x01");
    let query = QueryRequest { answer_bytes_max: 512, message }.encode();
    let mut times: Vec<_> = (0..500)
        .map(|_| {
            let begun = Instant::now();
            binding.perform_rpc(resolver::QUERY, &query).unwrap();
            begun.elapsed()
        })
        .collect();
    times.sort();
    println!("median {:?}, 99 of 100 within {:?}", times[250], times[495]);
    assert!(times[250] < Duration::from_millis(1), "{:?}", times[250]);
}

#[test]
fn the_host_is_out_of_reach_in_every_spelling() {
    let listening = echo_server();
    let gateway = routes(
        "[[route]]\nto = [\"0.0.0.0/0\", \"::/0\"]\nvia = \"direct\"\n[[route]]\nvia = \"direct\"",
    )
    .start()
    .unwrap();
    let guest = boot(&gateway);
    let mut hidden: Vec<String> = [
        "127.0.0.1",
        "127.9.9.9",
        "::1",
        "0.0.0.0",
        "::",
        "169.254.169.254",
        "fd00:ec2::254",
        "100.100.100.200",
        "::ffff:127.0.0.1",
        "64:ff9b::7f00:1",
        "2002:7f00:1::1",
        "224.0.0.1",
        "255.255.255.255",
        "fe80::1",
    ]
    .map(str::to_owned)
    .into();
    let out = std::net::UdpSocket::bind("0.0.0.0:0").unwrap();
    if out.connect("203.0.113.7:9").is_ok() {
        let mine = out.local_addr().unwrap().ip();
        hidden.push(mine.to_string());
        let IpAddr::V4(v4) = mine else { panic!("bound to IPv4") };
        hidden.push(v4.to_ipv6_mapped().to_string());
    }
    for ip in hidden {
        let to = SocketAddr::new(ip.parse().unwrap(), listening);
        assert_eq!(guest.dial(to).unwrap_err(), Errno::EACCES, "{to}");
        let by_name = connect(&guest, name(&ip, listening), &Asserted::default());
        assert_eq!(by_name.unwrap_err(), Errno::EACCES, "{to}");
    }
    for spelled in ["2130706433", "0177.0.0.1", "0x7f000001", "127.1"] {
        let by_name = connect(&guest, name(spelled, listening), &Asserted::default());
        assert_eq!(by_name.unwrap_err(), Errno::EHOSTUNREACH, "{spelled}");
    }
}

/// The gateway in a network namespace of its own, whose addresses the test changes.
#[test]
fn the_hosts_own_addresses_are_followed_as_they_change() {
    let run = |program: &str, arguments: &[&str]| {
        std::process::Command::new(program).args(arguments).status().is_ok_and(|s| s.success())
    };
    if !run("unshare", &["-n", "true"]) {
        eprintln!("left out: no permission to make a network namespace");
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let wrapper = folder.path().join("gateway");
    std::fs::write(&wrapper, format!("#!/bin/sh\nexec unshare -n {} \"$@\"\n", common::BINARY))
        .unwrap();
    let mode = std::os::unix::fs::PermissionsExt::from_mode(0o755);
    std::fs::set_permissions(&wrapper, mode).unwrap();
    let gateway = Setup::new(wrapper)
        .guest("web", 3)
        .toml("[[route]]\nto = [\"10.77.0.9\"]\nvia = \"direct\"\n[[route]]\nto = [\"10.0.0.0/8\"]\nvia = \"direct\"")
        .start()
        .unwrap();
    let guest = boot(&gateway);
    let pid = gateway.pid().to_string();
    let ip = |arguments: &[&str]| {
        let all = [&["-t", &pid, "-n", "ip"], arguments].concat();
        assert!(run("nsenter", &all), "ip {arguments:?}");
    };
    let dial = |ip: &str| guest.dial(format!("{ip}:9").parse().unwrap()).unwrap_err();
    ip(&["link", "set", "lo", "up"]);
    assert_eq!(dial("10.77.0.1"), Errno::ENETUNREACH, "nobody's yet: the dial itself fails");
    ip(&["addr", "add", "10.77.0.1/32", "dev", "lo"]);
    assert_eq!(dial("10.77.0.1"), Errno::EACCES, "the host's own from this moment");
    ip(&["addr", "del", "10.77.0.1/32", "dev", "lo"]);
    assert_eq!(dial("10.77.0.1"), Errno::ENETUNREACH);
    // Not on any interface, and the host's all the same.
    ip(&["route", "add", "local", "10.78.0.0/16", "dev", "lo"]);
    assert_eq!(dial("10.78.1.2"), Errno::EACCES);
    // Opened by a rule for exactly this address: the dial is made, and nobody listens.
    ip(&["addr", "add", "10.77.0.9/32", "dev", "lo"]);
    assert_eq!(dial("10.77.0.9"), Errno::ECONNREFUSED);
}

fn limited(limits: &str, far: u16) -> Gateway {
    let folder = tempfile::tempdir().unwrap();
    let socket = folder.path().join("limited.sock");
    let gateway = setup()
        .guest("web", 3)
        .route("192.0.2.1", 1, &format!("127.0.0.1:{far}"))
        .toml(&format!("[[guest]]\nname = \"limited\"\ncid = 4\nsocket = {socket:?}\n{limits}"))
        .start()
        .unwrap();
    eventually("the guest's socket", || socket.exists());
    std::fs::rename(&socket, gateway.socket("limited")).unwrap();
    gateway
}

#[test]
fn connections_and_connects_are_limited_with_an_errno_of_their_own() {
    let gateway = limited("connections_max = 2\nconnects_per_second_max = 6", echo_server());
    let guest = gateway.boot("limited", Options::default()).unwrap();
    let dial = || guest.dial(common::address(1)).map(|dialled| dialled.0);
    let (first, second) = (dial().unwrap(), dial().unwrap());
    assert_eq!(dial().unwrap_err(), Errno::EMFILE);
    drop(first);
    eventually("there is room again", || {
        gateway.status().unwrap()["connections"].as_array().unwrap().len() == 1
    });
    std::thread::sleep(Duration::from_millis(1_100));
    let third = dial().unwrap();
    let refused: Vec<_> = (0..20).filter_map(|_| dial().err()).collect();
    assert!(refused.contains(&Errno::EMFILE) && refused.contains(&Errno::EAGAIN), "{refused:?}");
    let counted = gateway.status().unwrap()["guests"][1]["refused_by_limit"].as_u64();
    assert_eq!(counted, Some(21));
    // The other guest has its own limits.
    let web = boot(&gateway);
    let _many: Vec<_> = (0..10).map(|_| web.dial(common::address(1)).unwrap()).collect();
    drop((second, third));
}

#[test]
fn bytes_per_second_are_limited_and_nothing_is_lost() {
    const RATE: usize = 2_000_000;
    let gateway = limited(&format!("bytes_per_second_max = {RATE}"), echo_server());
    let guest = gateway.boot("limited", Options::default()).unwrap();
    let connection = guest.dial(common::address(1)).unwrap().0;
    let payload: Vec<u8> = (0..RATE).map(|n| u8::try_from(n % 251).unwrap()).collect();
    let begun = Instant::now();
    let mut writer = connection.try_clone().unwrap();
    let sent = payload.clone();
    let writing = std::thread::spawn(move || writer.write_all(&sent).unwrap());
    let mut back = vec![0; RATE];
    (&connection).read_exact(&mut back).unwrap();
    writing.join().unwrap();
    assert_eq!(back, payload);
    // There and back is twice the rate; a tenth of a second's worth is free.
    let took = begun.elapsed();
    assert!((Duration::from_millis(1_800)..Duration::from_secs(6)).contains(&took), "{took:?}");
    guest.assert_clean();
}

#[test]
fn a_storm_of_denied_connects_floods_no_log_and_harms_nobody() {
    let gateway = setup()
        .guest("evil", 3)
        .guest("web", 4)
        .route("192.0.2.1", 1, &format!("127.0.0.1:{}", echo_server()))
        .start()
        .unwrap();
    let evil = gateway.boot("evil", Options::default()).unwrap();
    let web = boot(&gateway);
    let steady = web.dial(common::address(1)).unwrap().0;
    let begun = Instant::now();
    let mut denied = 0u64;
    let mut slowest = Duration::ZERO;
    while begun.elapsed() < Duration::from_secs(3) {
        let to = "203.0.113.1:25".parse().unwrap();
        let storm: Vec<_> = (0..100).map(|_| evil.start_dial(to).unwrap()).collect();
        for dial in storm {
            dial.wait().unwrap_err();
            denied += 1;
        }
        let asked = Instant::now();
        (&steady).write_all(b"ping").unwrap();
        says(&steady, b"ping");
        slowest = slowest.max(asked.elapsed());
    }
    assert!(denied > 3_000, "{denied} in 3 s are no storm");
    let lines = gateway.log().lines().filter(|line| line.contains("refused")).count();
    assert!((1..=60).contains(&lines), "{lines} lines for {denied} refusals");
    assert!(gateway.log().contains("left_out="), "what is left out is counted");
    assert!(slowest < Duration::from_secs(1), "{slowest:?}");
    let status = gateway.status().unwrap();
    let count = |key: &str| status["guests"][0][key].as_u64().unwrap();
    assert_eq!(count("refused_by_rule") + count("refused_by_limit"), denied);
}
