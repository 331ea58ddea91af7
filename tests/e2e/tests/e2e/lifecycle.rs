//! Lifecycle: more than one guest, guests that die, gateways that end, no gateway at all.
//!
//! in: a world; out: a verdict each. Owner: the caller. Kept: whatever dies, what lives goes on, and what
//! cannot go on says so instead of hanging. Bound: [`PATIENCE`].

use std::time::{Duration, Instant};

use outsock_boot::{BootOptions, Guest, GuestCommand, GuestProcess};
use outsock_e2e::ServerEvent;

use crate::Verdict;
use crate::host::{missing, program};
use crate::net::{ENDLESS, HOST, HTTP, SOURCE};
use crate::programs::need;
use crate::world::{SECOND, World, outsourced, run};

/// What nobody should have to wait longer for.
const PATIENCE: Duration = Duration::from_secs(30);
/// How long `outsock run` may look for a gateway.
const START_MAX: Duration = Duration::from_secs(3);
/// Of that, what software emulation needs to start the program.
const EMULATION: Duration = Duration::from_secs(2);
const EX_UNAVAILABLE: i32 = 69;

fn transfer<'a>(arguments: &[&'a str]) -> Vec<&'a str> {
    [&["/usr/bin/python3", "/mnt/share/transfer.py"], arguments].concat()
}

/// A program in `guest` that reads and reads.
fn reader(guest: &Guest) -> GuestProcess {
    let port = ENDLESS.to_string();
    let process = World::spawn(guest, &transfer(&["read", HOST, &port]));
    let reads = process.wait_for_text("reading", PATIENCE).unwrap();
    assert!(reads, "{:?}", process.output_so_far());
    process
}

fn fetch(guest: &Guest) -> String {
    let argv = ["curl", "-sS", &format!("http://{HOST}/")];
    let output = run(guest, &GuestCommand::new(&outsourced(&argv)));
    output.stdout_text() + &output.stderr_text()
}

pub(crate) fn two_guests_at_once(world: &mut World) -> Verdict {
    need!("python3", "python3");
    // An earlier test may have left it running.
    if world.second.is_none() {
        world.second = Some(world.boot(SECOND));
    }
    let second = world.second.as_ref().unwrap();
    let port = SOURCE.to_string();
    let argv = transfer(&["down", "recv", HOST, &port, "1048576", "65537", "4096"]);
    let processes = [world.guest(), second].map(|guest| World::spawn(guest, &argv));
    for process in processes {
        let output = process.wait(PATIENCE * 4).unwrap();
        assert!(output.status.success(), "{}{}", output.stdout_text(), output.stderr_text());
    }
    let status = world.gateway().status().unwrap();
    assert!(status.guests.iter().all(|guest| guest.bytes_to_guest > 1 << 20), "{status:?}");
    Verdict::Passed
}

pub(crate) fn guest_killed(world: &mut World) -> Verdict {
    need!("python3", "python3");
    let second = world.second.take().unwrap_or_else(|| world.boot(SECOND));
    world.servers.endless.forget_events();
    let program = reader(&second);
    // As a power cut would: the monitor is killed.
    drop(second);
    drop(program);
    let told = world.servers.endless.event(PATIENCE);
    assert!(matches!(told, Some(ServerEvent::Broken(_))), "the host's side ends too: {told:?}");
    assert_eq!(fetch(world.guest()), "hello\n", "the other guest goes on");
    let again = world.boot(SECOND);
    assert_eq!(fetch(&again), "hello\n", "the same guest can come back");
    Verdict::Passed
}

pub(crate) fn no_guest_misbehaved(world: &mut World) -> Verdict {
    let status = world.gateway().status().unwrap();
    for guest in &status.guests {
        let wrong = guest.misbehaved + guest.forged_packets + guest.bad_chains;
        assert_eq!(wrong, 0, "a Linux guest keeps the rules: {guest:?}");
    }
    Verdict::Passed
}

pub(crate) fn gateway_drains(world: &mut World) -> Verdict {
    let gateway = world.gateway.take().expect("a gateway");
    let began = Instant::now();
    gateway.stop().unwrap_or_else(|error| panic!("{error}"));
    assert!(began.elapsed() < PATIENCE, "SIGTERM with an idle guest took {:?}", began.elapsed());
    world.restart();
    Verdict::Passed
}

/// As a crash would. A vhost-user device whose backend is gone says nothing to its guest: connects fail soon,
/// and what merely reads wakes when the agent has missed the gateway for a while.
pub(crate) fn gateway_killed(world: &mut World) -> Verdict {
    need!("python3", "python3");
    let process = reader(world.guest());
    let later = format!(
        "echo ready; read word; /usr/bin/python3 /mnt/share/errnos.py {HOST} {HTTP}; getent hosts www.osaka.peer; echo names $?"
    );
    let mut asks = World::spawn(world.guest(), &["sh", "-c", &later]);
    assert!(asks.wait_for_text("ready", PATIENCE).unwrap(), "{:?}", asks.output_so_far());
    world.gateway.take().expect("a gateway").kill();
    asks.write_stdin(b"now\n").unwrap();
    asks.close_stdin().unwrap();
    let output = asks.wait(PATIENCE).unwrap_or_else(|error| panic!("a connect hangs: {error}"));
    let text = output.stdout_text() + &output.stderr_text();
    assert!(text.contains("ENETUNREACH ENETUNREACH\n"), "a connect without a gateway: {text}");
    assert!(text.contains("names 2\n"), "a name without a gateway: {text}");
    let output = process
        .wait(PATIENCE * 2)
        .unwrap_or_else(|error| panic!("a program that reads waits for ever: {error}"));
    let text = output.stdout_text();
    assert!(text.contains("ended: "), "{text}{}", output.stderr_text());
    assert!(output.stderr_text().contains("gateway is gone"), "{}", output.stderr_text());
    Verdict::Passed
}

pub(crate) fn no_gateway(world: &mut World) -> Verdict {
    // One guest whose gateway is gone, and one that never had a device.
    drop(world.gateway.take());
    says_so(world, world.guest());
    let mut options = BootOptions::new(world.image.clone());
    options.share = Some(world.directory.share());
    let alone = Guest::boot(options).unwrap_or_else(|error| panic!("{error}"));
    says_so(world, &alone);
    Verdict::Passed
}

fn says_so(world: &World, guest: &Guest) {
    let allowed = match world.kernel() {
        outsock_boot::Kernel::Uml72 => START_MAX,
        outsock_boot::Kernel::Qemu61 | outsock_boot::Kernel::Qemu612 => START_MAX + EMULATION,
    };
    let began = Instant::now();
    let output = run(guest, &GuestCommand::new(&outsourced(&["true"])));
    let took = began.elapsed();
    let text = output.stderr_text();
    assert_eq!(output.status.code(), Some(EX_UNAVAILABLE), "{text}");
    assert!(text.contains("gateway"), "it should say what is missing: {text}");
    assert!(took < allowed, "it took {took:?}");
}
