//! Hostile guests: broken rings, broken chains, broken packets, floods. The gateway never panics,
//! leaks nothing, stays bounded, and another guest's connection does not notice.
//!
//! The fuzz test runs a list of ring operations from a seed, for `OUTSOCK_FUZZ_SECONDS` (default
//! 10). It prints the seed when it fails; `OUTSOCK_FUZZ_SEED` runs that one again.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;
#[path = "common/operations.rs"]
mod operations;

use std::io::{Read, Write};
use std::time::{Duration, Instant};

use common::{address, dial, echo_server, eventually, setup};
use operations::Random;
use outsock_core::address::{Cid, VsockPort};
use outsock_core::packet::{Header, Op, SocketType};
use outsock_harness::Gateway;
use outsock_virtual_guest::raw::{RawGuest, readable};
use outsock_virtual_guest::ring::{DESC_INDIRECT, DESC_NEXT, DESC_WRITE, Descriptor};
use outsock_virtual_guest::{Connection, Options, RX, TX, VirtualGuest};
use outsock_vmrpc::limits::VMRPC_PORT;

/// A gateway with a hostile guest and an honest one, whose connection must go on working.
struct Scene {
    gateway: Gateway,
    honest: VirtualGuest,
    steady: Connection,
}

impl Scene {
    fn new() -> Self {
        let port = echo_server();
        let gateway = setup()
            .guest("evil", 3)
            .guest("honest", 4)
            .route("192.0.2.1", 1, &format!("127.0.0.1:{port}"))
            .start()
            .unwrap();
        let honest = gateway.boot("honest", Options::default()).unwrap();
        let steady = dial(&honest, 1);
        Self { gateway, honest, steady }
    }

    fn raw(&self) -> RawGuest {
        let options = Options { ring_size: 128, ..Options::default() };
        RawGuest::connect(self.gateway.socket("evil"), &options).unwrap()
    }

    /// The honest guest is served, and nothing panicked.
    fn check(&mut self, after: &str) {
        (&self.steady).write_all(b"ping").unwrap_or_else(|e| panic!("{after}: {e}"));
        let mut back = [0; 4];
        (&self.steady).read_exact(&mut back).unwrap_or_else(|e| panic!("{after}: {e}"));
        assert_eq!(&back, b"ping", "{after}");
        assert!(self.gateway.is_running(), "{after}: {}", self.gateway.log());
        let log = self.gateway.log();
        assert!(!log.contains("panicked"), "{after}: {log}");
        self.honest.assert_clean();
    }

    /// A driver that starts anew on the evil guest's socket is served as if nothing had been.
    fn evil_can_start_over(&self) {
        let guest = self.gateway.boot("evil", Options::default()).unwrap();
        // News of the guest before, up to the channel's bound, may still be on its way through the
        // daemon: a new VM RPC stream is reset meanwhile.
        let mut dialled = None;
        eventually("a fresh guest is served", || {
            dialled = guest.dial(address(1)).ok();
            dialled.is_some()
        });
        let connection = dialled.unwrap().0;
        (&connection).write_all(b"x").unwrap();
        (&connection).read_exact(&mut [0]).unwrap();
        guest.assert_clean();
    }
}

fn header(raw: &RawGuest, op: Op, port: u32, to: u32, len: u32) -> Header {
    Header {
        src_cid: raw.cid(),
        dst_cid: Cid::HOST,
        src_port: VsockPort(port),
        dst_port: VsockPort(to),
        len,
        op,
        socket_type: SocketType::Stream,
        message_end: false,
        buf_alloc: 262_144,
        fwd_cnt: 0,
    }
}

/// Posts RX buffers and opens the VM RPC service from `port`.
fn open(raw: &mut RawGuest, port: u32) {
    for _ in 0..8 {
        raw.post_rx(4140);
    }
    raw.kick(RX);
    let request = header(raw, Op::Request, port, VMRPC_PORT, 0);
    raw.send(&request, &[]);
    raw.kick(TX);
    let (answer, _) = raw.received_packet(Duration::from_secs(5)).expect("an answer");
    assert_eq!(answer.op, Op::Response);
}

#[test]
fn malformed_chains_come_back_and_harm_only_themselves() {
    let mut scene = Scene::new();
    let mut raw = scene.raw();
    open(&mut raw, 5000);
    let scratch = raw.scratch();
    let good = readable(scratch, 44);
    let at = |address, len, flags, next| Descriptor { address, len, flags, next };
    let mut sent = raw.counts(TX).made_available;
    let chains: Vec<Vec<Descriptor>> = vec![
        vec![at(u64::MAX - 10, 100, 0, 0)],
        vec![at(0xdead_beef_0000, 44, 0, 0)],
        vec![at(scratch.address, u32::MAX, 0, 0)],
        vec![at(scratch.address, 0, 0, 0)],
        vec![at(scratch.address, 43, 0, 0)],
        vec![at(scratch.address, 44, DESC_WRITE, 0)],
        vec![good, at(scratch.address, 10, DESC_WRITE, 0)],
        vec![at(scratch.address, 17, DESC_INDIRECT, 0)],
        vec![at(scratch.address, 0, DESC_INDIRECT, 0)],
        vec![at(scratch.address, 16 * 60_000, DESC_INDIRECT, 0)],
        vec![at(u64::MAX - 31, 32, DESC_INDIRECT, 0)],
    ];
    for chain in &chains {
        raw.post_chain(TX, chain);
        sent += 1;
    }
    // A loop, an index beyond the table, an indirect table inside an indirect table.
    raw.write_descriptor(TX, 100, at(scratch.address, 1, DESC_NEXT, 100));
    raw.push_avail(TX, 100);
    raw.write_descriptor(TX, 101, at(scratch.address, 1, DESC_NEXT, 60_000));
    raw.push_avail(TX, 101);
    raw.push_avail(TX, 65_535);
    let table = scratch.address + 4096;
    assert!(raw.write_table(table, &[at(table, 32, DESC_INDIRECT, 0), good]));
    raw.post_chain(TX, &[at(table, 32, DESC_INDIRECT, 0)]);
    sent += 4;
    raw.kick(TX);
    let returned = usize::try_from(sent).unwrap();
    eventually("every chain came back", || {
        raw.used(TX);
        raw.counts(TX).returned == returned as u64
    });
    assert_eq!(raw.counts(TX).unasked, 0, "none came back twice");
    scene.check("malformed chains");
    // The evil guest's own connection is still good.
    let again = header(&raw, Op::CreditRequest, 5000, VMRPC_PORT, 0);
    raw.send(&again, &[]);
    raw.kick(TX);
    let (answer, _) = raw.received_packet(Duration::from_secs(5)).unwrap();
    assert_eq!(answer.op, Op::CreditUpdate);
    raw.disconnect();
    scene.evil_can_start_over();
}

type MakePacket = Box<dyn Fn(&RawGuest) -> Vec<u8>>;

#[test]
fn malformed_packets_end_their_connection_only() {
    let mut scene = Scene::new();
    let mut raw = scene.raw();
    let cases: Vec<(&str, MakePacket)> = vec![
        (
            "length beyond the chain",
            Box::new(|raw| header(raw, Op::Rw, 6000, VMRPC_PORT, 500).encode().to_vec()),
        ),
        (
            "huge length",
            Box::new(|raw| header(raw, Op::Rw, 6000, VMRPC_PORT, u32::MAX).encode().to_vec()),
        ),
        (
            "second REQUEST",
            Box::new(|raw| header(raw, Op::Request, 6000, VMRPC_PORT, 0).encode().to_vec()),
        ),
        (
            "RESPONSE",
            Box::new(|raw| header(raw, Op::Response, 6000, VMRPC_PORT, 0).encode().to_vec()),
        ),
        (
            "unknown op",
            Box::new(|raw| {
                let mut bytes = header(raw, Op::Rw, 6000, VMRPC_PORT, 0).encode();
                bytes[30] = 77;
                bytes.to_vec()
            }),
        ),
        (
            "unknown type",
            Box::new(|raw| {
                let mut bytes = header(raw, Op::Rw, 6000, VMRPC_PORT, 0).encode();
                bytes[28] = 3;
                bytes.to_vec()
            }),
        ),
        (
            "no VM RPC frame",
            Box::new(|raw| {
                let mut bytes = header(raw, Op::Rw, 6000, VMRPC_PORT, 64).encode().to_vec();
                bytes.extend([0xff; 64]);
                bytes
            }),
        ),
    ];
    for (name, bytes) in &cases {
        open(&mut raw, 6000);
        let packet = bytes(&raw);
        raw.send_bytes(&packet);
        raw.kick(TX);
        let (answer, _) = raw.received_packet(Duration::from_secs(5)).expect(name);
        assert_eq!((answer.op, answer.dst_port), (Op::Rst, VsockPort(6000)), "{name}");
        scene.check(name);
    }
}

#[test]
fn forged_addresses_are_ignored() {
    let mut scene = Scene::new();
    let mut raw = scene.raw();
    let victim = scene.steady.key();
    for (src, dst) in [(4, 2), (4, 3), (2, 3), (u64::MAX, 2), (3, 4)] {
        for op in [Op::Rst, Op::Rw, Op::Request] {
            let forged = Header {
                src_cid: Cid(src),
                dst_cid: Cid(dst),
                src_port: victim.guest,
                dst_port: victim.host,
                ..header(&raw, op, 0, 0, 0)
            };
            raw.send(&forged, &[]);
        }
    }
    raw.kick(TX);
    eventually("all came back", || {
        raw.used(TX);
        raw.counts(TX).outstanding() == 0
    });
    scene.check("forged addresses");
    let status = scene.gateway.status().unwrap();
    assert_eq!(status["guests"][0]["forged_packets"].as_u64(), Some(15));
}

#[test]
fn a_guest_that_ignores_its_credit_loses_the_connection() {
    let mut scene = Scene::new();
    let mut raw = scene.raw();
    open(&mut raw, 7000);
    // A frame that says it has 64 KiB and whose reader is never done: the service must read on, so
    // only a flood beyond every buffer overruns.
    let payload = vec![0; 65_536];
    let mut resets = 0;
    for _ in 0..200 {
        let packet = header(&raw, Op::Rw, 7000, VMRPC_PORT, 65_536);
        raw.send(&packet, &payload);
        raw.kick(TX);
        eventually("it came back", || {
            raw.used(TX);
            raw.counts(TX).outstanding() == 0
        });
        raw.post_rx(4140);
        raw.kick(RX);
        while let Some((answer, _)) = raw.received_packet(Duration::ZERO) {
            resets += usize::from(answer.op == Op::Rst);
        }
    }
    assert!(resets > 0);
    scene.check("a flood");
}

#[test]
fn a_million_requests_stay_bounded() {
    let mut scene = Scene::new();
    let mut raw = scene.raw();
    let memory = scene.gateway.rss_bytes().unwrap();
    let descriptors = scene.gateway.descriptors().unwrap();
    for number in 0..1_000_000u32 {
        // Tokens that nobody announced, services, and ports that do not exist.
        let to = match number % 3 {
            0 => 0x4000_0000 + number,
            1 => VMRPC_PORT,
            _ => number,
        };
        let request = header(&raw, Op::Request, number, to, 0);
        raw.send(&request, &[]);
        if number % 64 == 63 {
            raw.kick(TX);
            let deadline = Instant::now() + Duration::from_secs(20);
            while raw.counts(TX).outstanding() > 0 {
                raw.used(TX);
                assert!(Instant::now() < deadline, "TX stalled at {number}");
                std::hint::spin_loop();
            }
        }
    }
    scene.check("a million REQUESTs");
    let grown = scene.gateway.rss_bytes().unwrap().saturating_sub(memory);
    assert!(grown < 128 << 20, "{grown} bytes");
    raw.disconnect();
    eventually("descriptors are back", || scene.gateway.descriptors().unwrap() <= descriptors);
    scene.evil_can_start_over();
}

#[test]
fn rings_that_lie_are_left_alone() {
    let mut scene = Scene::new();
    for case in 0..4 {
        let mut raw = scene.raw();
        open(&mut raw, 5000);
        match case {
            0 => raw.jump_avail(TX, 5000),
            1 => raw.jump_avail(RX, 40_000),
            2 => raw.scribble_used(TX, 999, 1, 777),
            _ => raw.set_memory(true).unwrap(),
        }
        for _ in 0..10 {
            raw.kick(TX);
            raw.kick(RX);
            let packet = header(&raw, Op::CreditRequest, 5000, VMRPC_PORT, 0);
            raw.send(&packet, &[]);
        }
        raw.kick(TX);
        scene.check(&format!("case {case}"));
        raw.disconnect();
    }
    scene.evil_can_start_over();
}

#[test]
fn operations_from_a_seed() {
    let seconds = std::env::var("OUTSOCK_FUZZ_SECONDS").ok().and_then(|s| s.parse().ok());
    let fixed = std::env::var("OUTSOCK_FUZZ_SEED").ok().and_then(|s| s.parse::<u64>().ok());
    let deadline = Instant::now() + Duration::from_secs(seconds.unwrap_or(10));
    let mut scene = Scene::new();
    let descriptors = scene.gateway.descriptors().unwrap();
    let base = std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)
        .map_or(1, |time| u64::from(time.subsec_nanos()));
    let mut runs = 0;
    while Instant::now() < deadline {
        let seed = fixed.unwrap_or(base + runs);
        let mut raw = scene.raw();
        let mut random = Random::new(seed);
        let mut jumped = false;
        for _ in 0..300 {
            jumped |= operations::run_one(&mut raw, &mut random);
            for queue in [RX, TX] {
                if raw.counts(queue).outstanding() > 64 {
                    raw.kick(queue);
                    raw.used(queue);
                }
                // Entries that the device has not seen were overwritten: as good as a jump.
                jumped |= raw.counts(queue).outstanding() > 120;
            }
        }
        raw.kick(TX);
        scene.check(&format!("OUTSOCK_FUZZ_SEED={seed}"));
        for queue in [RX, TX] {
            raw.used(queue);
            let unasked = if jumped { 0 } else { raw.counts(queue).unasked };
            assert_eq!(unasked, 0, "queue {queue}, OUTSOCK_FUZZ_SEED={seed}");
        }
        raw.disconnect();
        runs += 1;
    }
    println!("{runs} lists of operations");
    assert!(runs > 0);
    eventually("descriptors are back", || scene.gateway.descriptors().unwrap() <= descriptors);
    scene.evil_can_start_over();
}
