//! A vsock backend for this crate's own tests: one thread, in process, no sockets behind it.
//!
//! Ports decide what happens: see [`port`]. It keeps the rules except where a port is about
//! breaking one. Any descriptor layout is taken; credit in both directions is kept.

#![allow(
    dead_code,
    unreachable_pub,
    missing_debug_implementations,
    clippy::cast_possible_truncation,
    clippy::cast_possible_wrap,
    clippy::unwrap_used,
    reason = "a part of every test binary, which each use their own part of it"
)]

mod rules;
mod run;

use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::sync::Mutex;

use outsock_core::address::{Cid, VsockPort};
use outsock_core::packet::{HEADER_BYTES, Header, Op, Shutdown, SocketType};
use outsock_virtual_guest::pattern;
use vhost::vhost_user::message::VhostUserProtocolFeatures;
use vhost_user_backend::{VhostUserBackendMut, VringRwLock, VringT};
use virtio_queue::{QueueOwnedT, QueueT};
use vm_memory::{
    Bytes, GuestAddressSpace, GuestMemoryAtomic, GuestMemoryLoadGuard, GuestMemoryMmap,
};
use vmm_sys_util::epoll::EventSet;
use vmm_sys_util::event::{EventConsumer, EventNotifier};

pub use rules::{BREACHES, Breach, port};
#[allow(unused_imports, reason = "see the top of this file")]
pub use run::{Backend, EVENT_IDX, INDIRECT};

pub const CID: u64 = 42;
const BUF_ALLOC: u32 = 256 * 1024;
const MEGABYTE: u64 = 1 << 20;
/// Bytes that a kernel accounts for a packet beside its payload, generously.
const PACKET_COST: usize = 832;

type Key = (u32, u32);

#[derive(Debug)]
struct Connection {
    port: u32,
    outbox: VecDeque<u8>,
    /// Pattern bytes still to be made.
    source: u64,
    made: u64,
    received: u32,
    fwd_cnt: u32,
    told: u32,
    sent: u32,
    peer_buf_alloc: u32,
    peer_fwd_cnt: u32,
    /// `sent` at the end of each packet that the guest has not read to its end.
    in_flight: VecDeque<u32>,
    end: Option<Op>,
}

struct Packet {
    header: Header,
    payload: Vec<u8>,
    breach: Option<Breach>,
}

pub struct Device {
    memory: Option<GuestMemoryAtomic<GuestMemoryMmap>>,
    event_idx: bool,
    offers: u64,
    queues: usize,
    connections: BTreeMap<Key, Connection>,
    control: VecDeque<Packet>,
    turn: usize,
    exit: Mutex<Option<(EventConsumer, EventNotifier)>>,
}

impl Device {
    fn header(&mut self, key: Key, op: Op, len: usize) -> Header {
        let (fwd_cnt, buf_alloc) = match self.connections.get_mut(&key) {
            Some(c) => {
                c.told = c.fwd_cnt;
                (c.fwd_cnt, BUF_ALLOC)
            }
            None => (0, 0),
        };
        Header {
            src_cid: Cid::HOST,
            dst_cid: Cid(CID),
            src_port: VsockPort(key.1),
            dst_port: VsockPort(key.0),
            len: len as u32,
            op,
            socket_type: SocketType::Stream,
            message_end: false,
            buf_alloc,
            fwd_cnt,
        }
    }

    fn send(&mut self, key: Key, op: Op) {
        let header = self.header(key, op, 0);
        self.control.push_back(Packet { header, payload: Vec::new(), breach: None });
    }

    fn on_packet(&mut self, bytes: &[u8]) {
        let Some(head) = bytes.first_chunk::<HEADER_BYTES>() else { return };
        let Ok(header) = Header::parse(head) else { return };
        let payload = &bytes[HEADER_BYTES..];
        assert_eq!(payload.len(), header.len as usize, "the guest's own packets are whole");
        let key = (header.src_port.0, header.dst_port.0);
        if header.op == Op::Request {
            return self.on_request(key, &header);
        }
        let Some(c) = self.connections.get_mut(&key) else {
            if header.op != Op::Rst {
                self.send(key, Op::Rst);
            }
            return;
        };
        c.peer_buf_alloc = header.buf_alloc;
        c.peer_fwd_cnt = header.fwd_cnt;
        match header.op {
            Op::Rw => self.on_data(key, payload),
            Op::Rst => drop(self.connections.remove(&key)),
            Op::Shutdown(how) => self.on_shutdown(key, how),
            Op::Request | Op::Response | Op::CreditUpdate => {}
            Op::CreditRequest => self.send(key, Op::CreditUpdate),
        }
    }

    fn on_request(&mut self, key: Key, header: &Header) {
        let source = match key.1 {
            port::SOURCE => u64::MAX,
            port::MEGABYTE => MEGABYTE,
            _ => 0,
        };
        let known = matches!(key.1, 7 | 9 | 19..=24 | 100..=120);
        if key.1 == port::SILENT {
            return;
        }
        if !known {
            return self.send(key, Op::Rst);
        }
        let end =
            (key.1 == port::MEGABYTE).then_some(Op::Shutdown(Shutdown { rcv: true, send: true }));
        self.connections.insert(
            key,
            Connection {
                port: key.1,
                outbox: VecDeque::new(),
                source,
                made: 0,
                received: 0,
                fwd_cnt: 0,
                told: 0,
                sent: 0,
                peer_buf_alloc: header.buf_alloc,
                peer_fwd_cnt: header.fwd_cnt,
                in_flight: VecDeque::new(),
                end,
            },
        );
        self.send(key, Op::Response);
        if key.1 == port::RESETS {
            let c = self.connections.get_mut(&key).unwrap();
            c.outbox.extend(b"abc");
            c.end = Some(Op::Rst);
        }
    }

    fn on_data(&mut self, key: Key, payload: &[u8]) {
        let c = self.connections.get_mut(&key).unwrap();
        c.received = c.received.wrapping_add(payload.len() as u32);
        assert!(c.received.wrapping_sub(c.told) <= BUF_ALLOC, "the guest keeps our credit");
        match c.port {
            port::ECHO => c.outbox.extend(payload),
            port::STALLS => {}
            port if port >= port::BREAKS => {
                c.fwd_cnt = c.received;
                self.breach(key, BREACHES[(port - port::BREAKS) as usize]);
            }
            _ => {
                c.fwd_cnt = c.received;
                if c.fwd_cnt.wrapping_sub(c.told) >= BUF_ALLOC / 4 {
                    self.send(key, Op::CreditUpdate);
                }
            }
        }
    }

    fn on_shutdown(&mut self, key: Key, how: Shutdown) {
        let c = self.connections.get_mut(&key).unwrap();
        if how.rcv && how.send {
            if c.port != port::LINGERS {
                self.send(key, Op::Rst);
                self.connections.remove(&key);
            }
        } else if how.send && c.port == port::ECHO {
            c.end = Some(Op::Shutdown(Shutdown { rcv: false, send: true }));
        } else if how.rcv {
            c.source = 0;
            c.outbox.clear();
        }
    }

    /// Breaks a rule. `peer_fwd_cnt` and the like stay right, so that only one rule is broken.
    fn breach(&mut self, key: Key, breach: Breach) {
        let mut header = self.header(key, Op::Rw, 4);
        let mut payload = b"evil".to_vec();
        let mut count = 1;
        let mut before = None;
        match breach {
            Breach::UsedTwice
            | Breach::UsedMadeUp
            | Breach::UsedTooLong
            | Breach::OutsideBuffer => {}
            Breach::LengthMismatch => header.len = 5,
            Breach::WrongCid => header.dst_cid = Cid(CID + 1),
            Breach::NeverOpened => header.dst_port = VsockPort(0x7fff_0000),
            Breach::AfterRst => before = Some(Op::Rst),
            Breach::BeyondCredit => (payload, count) = (vec![0; 3000], 100),
            Breach::ManyPackets => (payload, count) = (vec![0; 129], 500),
            Breach::FwdCntAhead => header.fwd_cnt = header.fwd_cnt.wrapping_add(7),
            Breach::FwdCntBack => header.fwd_cnt = header.fwd_cnt.wrapping_sub(1),
            Breach::SecondResponse => {
                (header.op, payload) = (Op::Response, Vec::new());
            }
            Breach::DataAfterShutdown => {
                before = Some(Op::Shutdown(Shutdown { rcv: false, send: true }));
            }
            Breach::BadOp | Breach::EmptyRw => payload = Vec::new(),
        }
        if breach != Breach::LengthMismatch {
            header.len = payload.len() as u32;
        }
        if let Some(op) = before {
            self.send(key, op);
        }
        if breach == Breach::FwdCntBack {
            // First the right number, so that there is something to go back from.
            self.send(key, Op::CreditUpdate);
        }
        for _ in 0..count {
            let payload = payload.clone();
            self.control.push_back(Packet { header, payload, breach: Some(breach) });
        }
    }

    /// The next packet for a chain of `room` bytes.
    fn next_packet(&mut self, room: usize) -> Option<Packet> {
        if let Some(packet) = self.control.pop_front() {
            return Some(packet);
        }
        let keys: Vec<Key> = self.connections.keys().copied().collect();
        for step in 0..keys.len() {
            let key = keys[(self.turn + step) % keys.len()];
            if let Some(packet) = self.data_packet(key, room) {
                self.turn = (self.turn + step + 1) % keys.len();
                return Some(packet);
            }
        }
        None
    }

    fn data_packet(&mut self, key: Key, room: usize) -> Option<Packet> {
        let c = self.connections.get_mut(&key)?;
        let in_flight = c.sent.wrapping_sub(c.peer_fwd_cnt);
        let mut credit = c.peer_buf_alloc.saturating_sub(in_flight) as usize;
        while c.in_flight.front().is_some_and(|end| end.wrapping_sub(c.peer_fwd_cnt) as i32 <= 0) {
            c.in_flight.pop_front();
        }
        // New kernels reset a connection with too many packets, whatever their bytes.
        if (c.in_flight.len() + 2) * PACKET_COST > c.peer_buf_alloc as usize {
            credit = 0;
        }
        let len = room.saturating_sub(HEADER_BYTES).min(credit);
        let payload: Vec<u8> = if c.source > 0 {
            let len = len.min(usize::try_from(c.source).unwrap_or(usize::MAX));
            let bytes = pattern::at(c.made, len).to_vec();
            c.made += bytes.len() as u64;
            if c.source != u64::MAX {
                c.source -= bytes.len() as u64;
            }
            bytes
        } else {
            let len = len.min(c.outbox.len());
            c.fwd_cnt = c.fwd_cnt.wrapping_add(if c.port == port::ECHO { len as u32 } else { 0 });
            c.outbox.drain(..len).collect()
        };
        c.sent = c.sent.wrapping_add(payload.len() as u32);
        if !payload.is_empty() {
            c.in_flight.push_back(c.sent);
            let header = self.header(key, Op::Rw, payload.len());
            return Some(Packet { header, payload, breach: None });
        }
        if c.source == 0 && c.outbox.is_empty() {
            let op = c.end.take()?;
            let header = self.header(key, op, 0);
            if op == Op::Rst {
                self.connections.remove(&key);
            }
            return Some(Packet { header, payload: Vec::new(), breach: None });
        }
        None
    }

    fn drain_tx(&mut self, vring: &VringRwLock) -> bool {
        let memory = self.memory.as_ref().unwrap().memory();
        let mut any = false;
        loop {
            let chain = vring.get_mut().get_queue_mut().pop_descriptor_chain(memory.clone());
            let Some(chain) = chain else { break };
            let head = chain.head_index();
            let bytes = gather(&memory, chain);
            self.on_packet(&bytes);
            vring.add_used(head, 0).unwrap();
            any = true;
        }
        any
    }

    fn fill_rx(&mut self, vring: &VringRwLock) -> bool {
        let memory = self.memory.as_ref().unwrap().memory();
        let mut any = false;
        loop {
            let chain = vring.get_mut().get_queue_mut().pop_descriptor_chain(memory.clone());
            let Some(chain) = chain else { break };
            let head = chain.head_index();
            let buffer: Vec<(_, u32)> = chain.map(|d| (d.addr(), d.len())).collect();
            let room: usize = buffer.iter().map(|(_, len)| *len as usize).sum();
            let Some(packet) = self.next_packet(room) else {
                vring.get_mut().get_queue_mut().go_to_previous_position();
                break;
            };
            let mut bytes = packet.header.encode().to_vec();
            if packet.breach == Some(Breach::BadOp) {
                bytes[30] = 99;
            }
            bytes.extend(&packet.payload);
            let mut rest = &bytes[..];
            for (address, len) in &buffer {
                let (now, later) = rest.split_at(rest.len().min(*len as usize));
                memory.write_slice(now, *address).unwrap();
                rest = later;
            }
            assert!(rest.is_empty(), "packets fit into their chains");
            let mut used = bytes.len() as u32;
            match packet.breach {
                Some(Breach::UsedTwice) => vring.add_used(head, used).unwrap(),
                Some(Breach::UsedMadeUp) => {
                    vring.add_used(head, used).unwrap();
                    used = 0;
                }
                Some(Breach::UsedTooLong) => used = room as u32 + 1,
                Some(Breach::OutsideBuffer) => {
                    let (last, len) = buffer[buffer.len() - 1];
                    let behind = vm_memory::GuestAddress(last.0 + u64::from(len));
                    memory.write_slice(b"!", behind).unwrap();
                }
                _ => {}
            }
            vring.add_used(head, used).unwrap();
            any = true;
        }
        any
    }

    /// Moves packets until neither ring has any left, and says so to the guest.
    fn work(&mut self, vrings: &[VringRwLock]) {
        loop {
            let moved = [self.drain_tx(&vrings[1]), self.fill_rx(&vrings[0])];
            for (moved, vring) in moved.into_iter().zip([&vrings[1], &vrings[0]]) {
                if moved && vring.needs_notification().unwrap_or(true) {
                    vring.signal_used_queue().unwrap();
                }
            }
            let more_tx = vrings[1].enable_notification().unwrap_or(false);
            let more_rx = vrings[0].enable_notification().unwrap_or(false);
            // RX chains alone are no work: there may be nothing to put into them.
            let packets_fit = more_rx && !self.control.is_empty();
            if moved == [false, false] && !more_tx && !packets_fit {
                return;
            }
        }
    }
}

fn gather(
    memory: &GuestMemoryLoadGuard<GuestMemoryMmap>,
    chain: impl Iterator<Item = virtio_queue::desc::split::Descriptor>,
) -> Vec<u8> {
    let mut bytes = Vec::new();
    for descriptor in chain {
        let at = bytes.len();
        bytes.resize(at + descriptor.len() as usize, 0);
        memory.read_slice(&mut bytes[at..], descriptor.addr()).unwrap();
    }
    bytes
}

impl VhostUserBackendMut for Device {
    type Bitmap = ();
    type Vring = VringRwLock;

    fn num_queues(&self) -> usize {
        self.queues
    }

    fn max_queue_size(&self) -> usize {
        1024
    }

    fn features(&self) -> u64 {
        self.offers
    }

    fn protocol_features(&self) -> VhostUserProtocolFeatures {
        VhostUserProtocolFeatures::CONFIG
            | VhostUserProtocolFeatures::MQ
            | VhostUserProtocolFeatures::REPLY_ACK
            | VhostUserProtocolFeatures::RESET_DEVICE
    }

    fn reset_device(&mut self) {
        self.connections.clear();
        self.control.clear();
    }

    fn set_event_idx(&mut self, enabled: bool) {
        self.event_idx = enabled;
    }

    fn get_config(&self, _offset: u32, _size: u32) -> Vec<u8> {
        CID.to_le_bytes().to_vec()
    }

    fn update_memory(&mut self, memory: GuestMemoryAtomic<GuestMemoryMmap>) -> io::Result<()> {
        self.memory = Some(memory);
        Ok(())
    }

    fn exit_event(&self, _thread: usize) -> Option<(EventConsumer, EventNotifier)> {
        self.exit.lock().unwrap().take()
    }

    fn handle_event(
        &mut self,
        _event: u16,
        _set: EventSet,
        vrings: &[VringRwLock],
        _thread: usize,
    ) -> io::Result<()> {
        self.work(vrings);
        Ok(())
    }
}
