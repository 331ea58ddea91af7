//! Names and rules: every kind of resolver through the agent's stub, and which rule takes a connection
//! where.
//!
//! in: a world; out: a verdict each. Owner: the caller. Kept: programs are the distribution's own or built
//! against its C libraries; what a program saw, what `status` lists and what `explain` says are compared
//! with each other. Bound: [`PATIENCE`].

use std::fmt::Write;
use std::path::PathBuf;
use std::process::Command;
use std::time::{Duration, Instant};

use outsock_boot::{GuestCommand, GuestProcess};
use outsock_site::{ConnectionStatus, Status};

use crate::Verdict;
use crate::host::{missing, program};
use crate::net::{HTTP, STRANGER};
use crate::programs::{build_go, need};
use crate::world::{FIRST, SECOND, Servers, World, outsourced, run};

/// Generous: emulated guests on a busy machine.
const PATIENCE: Duration = Duration::from_secs(60);

/// Nobody waits for a storm that does not end: emulated guests make some tens of connects a second.
const STORM_MAX: Duration = Duration::from_secs(300);

/// Between two fetches of the other guest.
const PAUSE: Duration = Duration::from_millis(200);

const DATABASE: &str = "db.osaka.peer";
const WEB: &str = "www.osaka.peer";
const BLOCKED: &str = "ads.blocked.peer";
const POSTGRES: u16 = 5432;
/// A host of a network that a rule names, and one that only one program may reach.
const IN_NETWORK: &str = "203.0.113.9";
const FOR_PROGRAM: &str = "203.0.113.200";

/// Rules for this file's tests, with a transport each.
pub(crate) fn rules(servers: &Servers) -> String {
    let (echo, http) = (servers.echo.address(), servers.http.address());
    let mut text = "[[transport]]\nname = \"second\"\nkind = \"direct\"\n\n\
                    [[group]]\nname = \"third\"\nmembers = [\"second\"]\n\n"
        .to_owned();
    let mut rule = |name: &str, body: &str| {
        write!(text, "[[route]]\nname = {name:?}\n{body}\n\n").unwrap();
    };
    let target = |via: &str, to| format!("via = \"{via}\"\ntarget = \"{to}\"");
    rule(
        "by name",
        &format!("domains = [{DATABASE:?}]\nports = [{POSTGRES}]\n{}", target("direct", echo)),
    );
    rule(
        "by program",
        &format!(
            "programs = [\"*/look-musl\"]\nto = [\"{FOR_PROGRAM}/32\"]\n{}",
            target("third", echo)
        ),
    );
    rule(
        "by network",
        &format!("to = [\"203.0.113.0/25\"]\nports = [{POSTGRES}]\n{}", target("second", echo)),
    );
    rule("blocked", "domains = [\".blocked.peer\"]\nrefuse = \"EHOSTUNREACH\"");
    rule("the web", &format!("domains = [{WEB:?}]\nports = [{HTTP}]\n{}", target("direct", http)));
    text
}

/// The program of look.c, built by one of the compilers; the path in the guest.
fn build(world: &World, compiler: &str, package: &str, name: &str) -> Result<String, String> {
    let compiler = program(&[compiler]).ok_or_else(|| missing(package))?;
    let source = world.directory.path("look.c");
    std::fs::write(&source, include_str!("../../guest/look.c")).unwrap();
    let built = world.directory.path(name);
    let mut command = Command::new(compiler);
    if name.ends_with("musl") {
        command.arg("-static");
    }
    let output = command.args(["-O1", "-o"]).arg(&built).arg(&source).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    Ok(world.directory.share_program(&built, name).unwrap())
}

fn look_go(world: &World) -> Result<PathBuf, String> {
    build_go(world, "look", include_str!("../../guest/go/look.go"))
}

/// The synthetic addresses that a program has printed.
fn synthetic(text: &str) -> Vec<&str> {
    let words = text.split(|letter: char| letter.is_whitespace() || letter == '#');
    words
        .filter(|word| word.starts_with("198.18.") || word.starts_with("fd6f:7574:736f:"))
        .collect()
}

pub(crate) fn resolvers(world: &mut World) -> Verdict {
    need!("dig", "bind9-dnsutils");
    need!("busybox", "busybox-static");
    let programs = build(world, "gcc", "gcc", "look-glibc").and_then(|glibc| {
        Ok((glibc, build(world, "musl-gcc", "musl-tools", "look-musl")?, look_go(world)?))
    });
    let (glibc, musl, go) = match programs {
        Ok(programs) => programs,
        Err(reason) => return Verdict::Skipped(reason),
    };
    let go = world.directory.share_program(&go, "look-go").unwrap();
    let port = POSTGRES.to_string();
    let mut seen: Vec<String> = Vec::new();
    for argv in [
        &["getent", "ahosts", DATABASE][..],
        &[&glibc, DATABASE, &port],
        &[&musl, DATABASE, &port],
        &[&go, DATABASE],
        &["busybox", "nslookup", DATABASE],
        &["dig", "+short", "A", DATABASE, "AAAA", DATABASE],
        &["dig", "+short", "+tcp", "A", DATABASE, "AAAA", DATABASE],
    ] {
        let text = world.succeed(argv);
        let mut addresses: Vec<_> = synthetic(&text).into_iter().map(str::to_owned).collect();
        addresses.sort();
        addresses.dedup();
        assert_eq!(addresses.len(), 2, "{argv:?}: an IPv4 and an IPv6 address: {text}");
        seen.extend(addresses);
    }
    seen.sort();
    seen.dedup();
    assert_eq!(seen.len(), 2, "all were told the same: {seen:?}");
    let nowhere = world.outsock(&["getent", "hosts", "nothing.invalid"]);
    assert_eq!(nowhere.status.code(), Some(2), "{}", nowhere.stdout_text());
    Verdict::Passed
}

/// Programs of people, by name only.
pub(crate) fn by_name(world: &mut World) -> Verdict {
    need!("curl", "curl");
    let url = format!("http://{WEB}/");
    assert_eq!(world.succeed(&["curl", "-sS", &url]), "hello\n");
    if world.servers.http6.is_some() {
        assert_eq!(world.succeed(&["curl", "-sS", "-6", &url]), "hello\n");
    }
    Verdict::Passed
}

/// aria2 resolves with c-ares. Like all programs that look for AI_ADDRCONFIG, it asks for nothing in a
/// guest whose only address is loopback.
pub(crate) fn c_ares(world: &mut World) -> Verdict {
    need!("aria2c", "aria2");
    need!("ip", "iproute2");
    let address = |what| {
        let argv = ["ip", "address", what, "192.168.255.1/32", "dev", "lo"];
        let output = run(world.guest(), &GuestCommand::new(&argv));
        assert!(output.status.success(), "{}", output.stderr_text());
    };
    address("add");
    let url = format!("http://{WEB}/");
    let script = format!("cd /tmp; aria2c --allow-overwrite=true -q -o page {url} && cat page");
    assert_eq!(world.succeed(&["sh", "-c", &script]), "hello\n");
    address("delete");
    Verdict::Passed
}

/// Whatever the guest's resolv.conf is, and for a user without privileges, too.
pub(crate) fn resolv_conf(world: &mut World) -> Verdict {
    need!("setpriv", "util-linux");
    let guest = |script: &str| {
        let output = run(world.guest(), &GuestCommand::new(&["sh", "-c", script]));
        assert!(output.status.success(), "{script}: {}", output.stderr_text());
        output.stdout_text()
    };
    guest(
        "cp -a /etc/resolv.conf /tmp/resolv.conf; cp /mnt/share/outsock /tmp/; chmod 755 /tmp/outsock",
    );
    let ask = format!("/tmp/outsock run getent ahosts {DATABASE}");
    let user = "setpriv --reuid 65534 --regid 65534 --clear-groups --";
    for form in [
        "true",
        "rm /etc/resolv.conf",
        ": > /etc/resolv.conf",
        "ln -sf /nowhere/at/all /etc/resolv.conf",
        "echo nameserver 203.0.113.53 > /etc/resolv.conf",
        "echo nameserver 127.0.0.53 > /etc/resolv.conf",
    ] {
        guest(&format!("rm -f /etc/resolv.conf; : > /etc/resolv.conf; {form}"));
        for command in [ask.clone(), format!("{user} {ask}")] {
            let text = guest(&command);
            assert!(!synthetic(&text).is_empty(), "{form}: {command}: {text}");
        }
    }
    guest("rm -f /etc/resolv.conf; cp -a /tmp/resolv.conf /etc/resolv.conf");
    Verdict::Passed
}

fn text(process: &GuestProcess) -> String {
    String::from_utf8_lossy(&process.output_so_far().0).into_owned()
}

/// Starts a program that connects and holds; returns when it has.
fn hold(world: &World, argv: &[&str]) -> GuestProcess {
    let process = World::spawn(world.guest(), argv);
    assert!(process.wait_for_text("done", PATIENCE).unwrap(), "{:?}", process.output_so_far());
    process
}

fn connection<'a>(status: &'a Status, rule: &str) -> &'a ConnectionStatus {
    let found = status.connections.iter().find(|connection| connection.rule == rule);
    found.unwrap_or_else(|| panic!("no connection by rule {rule:?}: {:?}", status.connections))
}

pub(crate) fn rules_decide(world: &mut World) -> Verdict {
    let programs = build(world, "gcc", "gcc", "look-glibc")
        .and_then(|glibc| Ok((glibc, build(world, "musl-gcc", "musl-tools", "look-musl")?)));
    let (glibc, musl) = match programs {
        Ok(programs) => programs,
        Err(reason) => return Verdict::Skipped(reason),
    };
    let port = POSTGRES.to_string();
    let peer = world.servers.echo.address().to_string();
    let cases = [
        ("by name", &glibc, DATABASE, "direct", "via direct"),
        ("by network", &glibc, IN_NETWORK, "second", "via second"),
        ("by program", &musl, FOR_PROGRAM, "second", "via third"),
    ];
    let held: Vec<GuestProcess> = cases
        .iter()
        .map(|(_, look, host, _, _)| hold(world, &[look.as_str(), host, &port]))
        .collect();
    let (gateway, status) = (world.gateway(), world.gateway().status().unwrap());
    for ((rule, look, host, transport, action), process) in cases.iter().zip(&held) {
        let text = text(process);
        assert!(text.contains("connect 0") && text.contains("echo hello"), "{rule}: {text}");
        let connection = connection(&status, rule);
        let destination = format!("{host}:{port}");
        assert_eq!(
            (&*connection.guest, &*connection.destination, &*connection.transport),
            (FIRST.0, &*destination, *transport)
        );
        assert_eq!((&connection.peer, connection.program.as_ref()), (&peer, Some(*look)));
        assert!(connection.pid.is_some() && connection.user_name.as_deref() == Some("root"));
        assert_eq!((connection.bytes_from_guest, connection.bytes_to_guest), (5, 5));
        assert!(connection.rtt_us.is_some_and(|rtt| rtt > 0), "{connection:?}");
        let said = gateway.explain(FIRST.0, &destination, &["--program", look]).unwrap();
        assert_eq!((&*said.rule, &*said.action), (*rule, *action));
    }
    let table = gateway.status_table().unwrap();
    assert!(cases.iter().all(|(rule, ..)| table.contains(rule)), "{table}");
    refused(world, &glibc, &port);
    for mut process in held {
        process.close_stdin().unwrap();
        assert!(process.wait(PATIENCE).unwrap().status.success());
    }
    Verdict::Passed
}

/// A fourth destination is refused by its rule, and a third one's rule does not hold for others.
fn refused(world: &World, glibc: &str, port: &str) {
    const EHOSTUNREACH: i32 = 113;
    const EACCES: i32 = 13;
    let cases = [
        (BLOCKED, EHOSTUNREACH, "blocked", "refuse EHOSTUNREACH"),
        (FOR_PROGRAM, EACCES, "the default", "refuse EACCES"),
    ];
    for (host, errno, rule, action) in cases {
        let mut process = hold(world, &[glibc, host, port]);
        let text = text(&process);
        assert!(text.contains(&format!("connect {errno}\n")), "{host}: {text}");
        process.close_stdin().unwrap();
        process.wait(PATIENCE).unwrap();
        let how = ["--program", glibc];
        let said = world.gateway().explain(FIRST.0, &format!("{host}:{port}"), &how).unwrap();
        assert!(said.rule == rule && said.action.starts_with(action), "{said:?}");
    }
}

/// Connects that are refused as fast as a guest can make them.
pub(crate) fn storm(world: &mut World) -> Verdict {
    need!("python3", "python3");
    need!("curl", "curl");
    const COUNT: usize = 2000;
    /// Lines that a guest's share of the log allows in the time that this takes, and some.
    const LINES_MAX: usize = 300;
    if world.second.is_none() {
        world.second = Some(world.boot(SECOND));
    }
    let refused = |world: &World| world.gateway().status().unwrap().guests[0].refused_by_rule;
    let before = (refused(world), world.gateway().log().lines().count());
    let (port, count) = (HTTP.to_string(), COUNT.to_string());
    let argv = ["/usr/bin/python3", "/mnt/share/storm.py", STRANGER, &port, &count];
    let storm = World::spawn(world.guest(), &argv);
    let url = format!("http://{WEB}/");
    let second = world.second.as_ref().unwrap();
    let (mut fetched, began) = (0, Instant::now());
    let output = loop {
        let page = run(second, &GuestCommand::new(&outsourced(&["curl", "-sS", &url])));
        assert_eq!(page.stdout_text(), "hello\n", "the other guest: {}", page.stderr_text());
        fetched += 1;
        assert!(began.elapsed() < STORM_MAX, "{:?}", storm.output_so_far());
        // The storm is to have the processor most of the time.
        std::thread::sleep(PAUSE);
        if refused(world) - before.0 >= COUNT as u64 {
            break storm.wait(PATIENCE).unwrap();
        }
    };
    let (text, rate) = (output.stdout_text(), output.stderr_text());
    assert_eq!(text, format!("EACCES {COUNT}\n"), "{rate}");
    let lines = world.gateway().log().lines().count() - before.1;
    println!(
        "  {COUNT} refused connects, {}; meanwhile {fetched} fetches of the other guest; {lines} lines logged",
        rate.trim()
    );
    assert!(lines < LINES_MAX + 10 * fetched, "{lines} lines were logged");
    Verdict::Passed
}
