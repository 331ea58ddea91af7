//! Ring operations of a guest that means harm, drawn from a seed.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::time::Duration;

use outsock_core::address::{Cid, VsockPort};
use outsock_core::packet::{Header, Op, Shutdown, SocketType};
use outsock_virtual_guest::raw::RawGuest;
use outsock_virtual_guest::ring::Descriptor;
use outsock_virtual_guest::{RX, TX};
use outsock_vmrpc::frame::{Body, CallId, Frame, Handle};
use outsock_vmrpc::limits::VMRPC_PORT;
use outsock_vmrpc::socket::{self, ConnectRequest, Destination, Token};
use outsock_vmrpc::{Version, VersionRange};

/// xorshift64*: small, and the same everywhere.
#[derive(Debug)]
pub(crate) struct Random(u64);

impl Random {
    /// Any seed.
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    /// A number below `n`.
    pub(crate) fn below(&mut self, n: u64) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 11) % n
    }

    fn u32(&mut self) -> u32 {
        u32::try_from(self.below(1 << 32)).unwrap()
    }

    fn u16(&mut self, below: u64) -> u16 {
        u16::try_from(self.below(below)).unwrap()
    }

    fn pick<T: Copy>(&mut self, from: &[T]) -> T {
        from[usize::try_from(self.below(from.len() as u64)).unwrap()]
    }
}

fn any_len(random: &mut Random) -> u32 {
    let any = random.u32();
    random.pick(&[0, 1, 15, 16, 43, 44, 45, 4096, 65_536, 65_537, 262_145, u32::MAX, any])
}

fn header(raw: &RawGuest, random: &mut Random) -> Header {
    let op = random.pick(&[
        Op::Request,
        Op::Request,
        Op::Response,
        Op::Rst,
        Op::Shutdown(Shutdown { rcv: true, send: true }),
        Op::Shutdown(Shutdown { rcv: false, send: true }),
        Op::Shutdown(Shutdown { rcv: true, send: false }),
        Op::Rw,
        Op::Rw,
        Op::Rw,
        Op::CreditUpdate,
        Op::CreditRequest,
    ]);
    let forged = random.below(20) == 0;
    Header {
        src_cid: if forged { Cid(random.below(6)) } else { raw.cid() },
        dst_cid: Cid::HOST,
        src_port: VsockPort(5000 + u32::from(random.u16(4))),
        dst_port: VsockPort(random.pick(&[VMRPC_PORT, VMRPC_PORT, 0x4000_0000, 0x4000_0001, 80])),
        len: any_len(random),
        op,
        socket_type: random.pick(&[SocketType::Stream, SocketType::Stream, SocketType::SeqPacket]),
        message_end: random.below(2) == 0,
        buf_alloc: any_len(random),
        fwd_cnt: any_len(random),
    }
}

fn descriptor(raw: &RawGuest, random: &mut Random, spoils: &mut bool) -> Descriptor {
    let scratch = raw.scratch().address + random.below(200_000);
    let ring = raw.places(random.pick(&[RX, TX]));
    let far = random.below(1 << 62);
    let rings = [ring.descriptors.address, ring.used.address, ring.avail.address];
    let over_a_ring = random.below(16) == 0;
    *spoils |= over_a_ring;
    let elsewhere = random.pick(&[scratch, scratch, scratch, far, u64::MAX - 3]);
    Descriptor {
        address: if over_a_ring { random.pick(&rings) } else { elsewhere },
        len: any_len(random),
        flags: random.u16(8),
        next: random.u16(200),
    }
}

/// A call that dials a token, as an agent would make it: the way to the daemon's state.
fn rpc_bytes(random: &mut Random) -> Vec<u8> {
    let mut bytes = Vec::new();
    let versions = VersionRange::only(Version(1));
    let token = Token::new(0x4000_0000 + u32::from(random.u16(3))).unwrap();
    let request = ConnectRequest {
        token,
        destination: Destination::Address(
            random.pick(&["192.0.2.1:1", "192.0.2.1:2", "127.0.0.1:80"]).parse().unwrap(),
        ),
        source: None,
    };
    let bodies = [
        Body::Hello { versions, client: String::new() },
        Body::Bind { name: socket::NAME.to_owned(), versions },
        Body::Call { handle: Handle(1), function: socket::CONNECT, arguments: request.encode() },
        Body::Call { handle: Handle(1), function: socket::CANCEL, arguments: token.encode() },
        Body::Unbind(Handle(random.u16(3))),
    ];
    let count = usize::try_from(random.below(6)).unwrap();
    for (number, body) in bodies.into_iter().take(count).enumerate() {
        let call = CallId(u32::try_from(number).unwrap());
        Frame { call, body }.encode(&mut bytes).unwrap();
    }
    if random.below(4) == 0 && !bytes.is_empty() {
        let at = usize::try_from(random.below(bytes.len() as u64)).unwrap();
        bytes[at] ^= 1 << random.below(8);
    }
    bytes
}

/// One operation. Returns whether it spoils the rings themselves (entries that were never
/// written, buffers that lie over a ring): then nobody can say which heads must come back.
pub(crate) fn run_one(raw: &mut RawGuest, random: &mut Random) -> bool {
    let mut spoils = false;
    match random.below(16) {
        0..=3 => {
            let header = header(raw, random);
            let payload = vec![7; usize::try_from(random.below(70_000)).unwrap().min(65_536)];
            let payload = if random.below(2) == 0 { &payload[..] } else { &[] };
            raw.send(&header, payload);
        }
        4..=6 => {
            let payload = rpc_bytes(random);
            let honest = Header {
                op: Op::Rw,
                socket_type: SocketType::Stream,
                src_cid: raw.cid(),
                len: u32::try_from(payload.len()).unwrap(),
                dst_port: VsockPort(VMRPC_PORT),
                buf_alloc: 262_144,
                fwd_cnt: 0,
                ..header(raw, random)
            };
            let request = Header { op: Op::Request, len: 0, ..honest };
            raw.send(&request, &[]);
            raw.send(&honest, &payload);
        }
        7 => {
            let mut bytes = header(raw, random).encode();
            bytes[usize::try_from(random.below(44)).unwrap()] ^= 1 << random.below(8);
            raw.send_bytes(&bytes);
        }
        8 => {
            let count = 1 + random.below(4);
            let chain: Vec<_> = (0..count).map(|_| descriptor(raw, random, &mut spoils)).collect();
            raw.post_chain(random.pick(&[RX, TX]), &chain);
        }
        9 => {
            let index = random.u16(128);
            let descriptor = descriptor(raw, random, &mut spoils);
            raw.write_descriptor(random.pick(&[RX, TX]), index, descriptor);
        }
        10 => {
            let table: Vec<_> = (0..4).map(|_| descriptor(raw, random, &mut spoils)).collect();
            let address = raw.scratch().address + random.below(1000) * 16;
            raw.write_table(address, &table);
        }
        11 | 12 => {
            raw.post_rx(usize::try_from(random.below(5000)).unwrap());
            raw.kick(RX);
        }
        13 => {
            // Rare, for it ends the ring's use.
            if random.below(40) == 0 {
                let by = random.u16(65_536);
                raw.jump_avail(random.pick(&[RX, TX]), by);
                spoils = true;
            }
        }
        14 => {
            raw.used(TX);
            raw.used(RX);
            let _ = raw.received(Duration::ZERO);
        }
        _ => raw.kick(TX),
    }
    spoils
}
