//! Churn: connections that come and go leave nothing behind, and a close loses nothing.
//!
//! in: a world; out: a verdict each, and the figures. Owner: the caller. Kept: what is counted is counted
//! before and after, in the program, its agent and the gateway. Bound: [`rounds`]; with `OUTSOCK_E2E_LONG` set
//! (`cargo xtask test --long`) 100,000, and the slow reader is as slow as it says to the end.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener};
use std::time::{Duration, Instant};

use outsock_boot::{GuestCommand, GuestProcess, Kernel};
use outsock_e2e::pattern;

use crate::Verdict;
use crate::host::{missing, program};
use crate::net::{ECHO, HOST, TLS};
use crate::programs::need;
use crate::servers::{Served, free};
use crate::world::{World, outsourced};

const LONG: &str = "OUTSOCK_E2E_LONG";
const LONG_ROUNDS: usize = 100_000;
/// Long runs take some minutes, on a busy machine many.
const LONG_TIME: Duration = Duration::from_secs(3600);
const PATIENCE: Duration = Duration::from_secs(60);
/// Allocators keep what they have once had; 100,000 leaks of 50 bytes are more than this.
const MEMORY_KIB: u64 = 4096;

fn is_long() -> bool {
    std::env::var_os(LONG).is_some()
}

fn rounds(world: &World) -> usize {
    match world.kernel() {
        _ if is_long() => LONG_ROUNDS,
        Kernel::Uml72 => 3_000,
        Kernel::Qemu61 | Kernel::Qemu612 => 300,
    }
}

/// What the gateway has: descriptors, memory in KiB.
fn gateway(world: &World) -> [u64; 2] {
    let process = format!("/proc/{}", world.gateway().process_id());
    let descriptors = std::fs::read_dir(format!("{process}/fd")).unwrap().count();
    let status = std::fs::read_to_string(format!("{process}/status")).unwrap();
    let memory = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    let memory = memory.trim().trim_end_matches(" kB").parse().unwrap();
    [descriptors as u64, memory]
}

/// Waits until the gateway has no connection of a program any more; what it has then.
fn gateway_at_rest(world: &World) -> [u64; 2] {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let status = world.gateway().status().unwrap();
        let guest = &status.guests[0];
        if status.connections.is_empty() && guest.waiting == 0 && guest.dials == 0 {
            return gateway(world);
        }
        assert!(Instant::now() < deadline, "the gateway remembers {status:?}");
        std::thread::sleep(Duration::from_millis(100));
    }
}

fn compare_gateway(what: &str, before: [u64; 2], after: [u64; 2]) {
    println!("{what}: the gateway's descriptors and KiB: {before:?}, then {after:?}");
    // Its resolvers and VM RPC streams come and go by themselves.
    assert!(after[0] <= before[0] + 8, "the gateway's descriptors: {before:?} {after:?}");
    assert!(after[1] < before[1] + MEMORY_KIB, "the gateway's memory: {before:?} {after:?}");
}

fn numbers(line: &str) -> Vec<u64> {
    line.split(' ').filter_map(|word| word.parse().ok()).collect()
}

/// What a program says behind a name.
fn said(process: &GuestProcess, name: &str, patience: Duration) -> Vec<u64> {
    let seen = process.wait_for_text(name, patience).unwrap();
    let (out, error) = process.output_so_far();
    let text = String::from_utf8_lossy(&out).into_owned();
    assert!(seen, "{name} was never said: {text}{}", String::from_utf8_lossy(&error));
    numbers(text.lines().find(|line| line.starts_with(name)).unwrap_or_default())
}

/// A program that connects.
pub(crate) fn connects(world: &mut World) -> Verdict {
    need!("python3", "python3");
    let (port, rounds) = (ECHO.to_string(), rounds(world).to_string());
    let argv = outsourced(&["/usr/bin/python3", "/mnt/share/churn.py", HOST, &port, &rounds]);
    let patience = if is_long() { LONG_TIME } else { Duration::from_secs(300) };
    let mut process = world.guest().spawn(&GuestCommand::new(&argv)).unwrap();
    let began = Instant::now();
    let before = said(&process, "before", patience);
    let gateway_before = gateway_at_rest(world);
    process.write_stdin(b"\n").unwrap();
    let after = said(&process, "after", patience);
    let took = began.elapsed();
    println!(
        "{rounds} connects in {took:.1?}: descriptors, the agent's, its KiB: {before:?}, then {after:?}"
    );
    assert_eq!(after[..2], before[..2], "descriptors of the program and its agent");
    assert!(after[2] < before[2] + MEMORY_KIB, "the agent's memory, KiB: {before:?} {after:?}");
    compare_gateway("connects", gateway_before, gateway_at_rest(world));
    process.write_stdin(b"\n").unwrap();
    assert!(process.wait(PATIENCE).unwrap().status.success());
    Verdict::Passed
}

/// A program that is connected to.
pub(crate) fn accepts(world: &mut World) -> Verdict {
    need!("python3", "python3");
    let rounds = rounds(world);
    let address = free();
    let argv = ["python3", "/mnt/share/server.py", "count", &address.port().to_string()];
    let served = Served::start(world, address, &argv);
    let ask = |message: &str| {
        let mut stream = served.connect();
        stream.write_all(message.as_bytes()).unwrap();
        stream.shutdown(Shutdown::Write).unwrap();
        let mut text = String::new();
        stream.read_to_string(&mut text).unwrap();
        text
    };
    let run = |count: usize| {
        for number in 0..count {
            assert_eq!(ask(&number.to_string()), number.to_string());
        }
    };
    // The agent lets go of what is closed every few seconds: until the number is one that it had at rest.
    let settled = |enough: u64| {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let seen = numbers(&ask("open"));
            if seen[2] <= enough || Instant::now() > deadline {
                return seen;
            }
            std::thread::sleep(Duration::from_millis(200));
        }
    };
    let at_first = settled(u64::MAX)[2];
    run(rounds / 5);
    let before = settled(at_first + 2);
    let gateway_before = gateway_at_rest(world);
    let began = Instant::now();
    run(rounds);
    let took = began.elapsed();
    let after = settled(before[2]);
    println!(
        "{rounds} accepts in {took:.1?}: number, descriptors, the agent's, its KiB: {before:?}, then {after:?}"
    );
    assert_eq!(after[0] - before[0], rounds as u64, "{before:?} {after:?}");
    assert_eq!(after[1], before[1], "the program's descriptors: {before:?} {after:?}");
    assert!(after[2] <= before[2] + 2, "the agent's descriptors: {before:?} {after:?}");
    assert!(after[3] < before[3] + MEMORY_KIB, "the agent's memory, KiB: {before:?} {after:?}");
    compare_gateway("accepts", gateway_before, gateway_at_rest(world));
    Verdict::Passed
}

/// A program sends, closes and ends; whoever reads takes 10 KB a second.
pub(crate) fn close_unsent(world: &mut World) -> Verdict {
    const SIZE: usize = 1 << 20;
    const SLOW: usize = 10_000;
    need!("python3", "python3");
    std::fs::write(world.directory.share().join("unsent"), pattern::bytes(SIZE)).unwrap();
    let listener = TcpListener::bind(world.places.service(TLS)).unwrap();
    let script = format!(
        "import socket\ns = socket.create_connection(('{HOST}', {TLS}))\n\
         s.sendall(open('/mnt/share/unsent', 'rb').read())\ns.close()"
    );
    let writer = World::spawn(world.guest(), &["python3", "-c", &script]);
    let (mut far, _) = listener.accept().unwrap();
    far.set_read_timeout(Some(PATIENCE)).unwrap();
    let mut got = vec![0; SIZE];
    let (mut at, mut slow_s) = (0, 0);
    // The short form is slow until the program has been gone for longer than any driver waits (8 s).
    while at < SIZE && (is_long() || slow_s < 10) {
        let end = (at + SLOW).min(SIZE);
        far.read_exact(&mut got[at..end]).unwrap();
        at = end;
        slow_s += 1;
        std::thread::sleep(Duration::from_secs(1));
    }
    assert!(writer.wait(PATIENCE).unwrap().status.success());
    far.read_exact(&mut got[at..]).unwrap();
    assert!(got == pattern::bytes(SIZE), "other bytes");
    assert_eq!(far.read(&mut [0]).unwrap(), 0, "then the end");
    println!("{slow_s} s at {SLOW} B/s, then the rest");
    Verdict::Passed
}
