//! Receive: what the guest does with each packet, and what it holds against the gateway.
//!
//! in: packets from the RX ring; out: changes of sockets, replies, violations. Runs on the driver
//! thread, under the guest's lock. Kept: every rule that is checked is one that the specification
//! or a stock kernel has; a race that the gateway cannot see is never called a violation. Bound:
//! [`limits::RX_PASS_PACKETS_MAX`] packets per turn.

use outsock_core::address::{Cid, ConnectionKey};
use outsock_core::packet::{HEADER_BYTES, Header, Op, Shutdown, SocketType};

use crate::driver::RxPacket;
use crate::event::Ready;
use crate::limits;
use crate::options::PacketLimit;
use crate::socket::{BOTH, Failure, State};
use crate::stack::Stack;
use crate::tombstone::{EndedBy, Memory};
use crate::violation::ViolationKind;

/// `VIRTIO_VSOCK_EVENT_TRANSPORT_RESET`.
const EVENT_TRANSPORT_RESET: u32 = 0;

impl Stack {
    /// Takes packets and events off their rings; true when there were any.
    pub(crate) fn receive(&mut self) -> bool {
        let mut any = false;
        for _ in 0..limits::RX_PASS_PACKETS_MAX {
            let Some(packet) = self.driver.next_rx() else { break };
            self.on_packet(&packet);
            self.driver.release(packet.slot);
            any = true;
        }
        self.driver.refill();
        while let Some(event) = self.driver.next_event() {
            any = true;
            if event == EVENT_TRANSPORT_RESET {
                self.fail_all(Failure::TransportReset);
            } else {
                self.driver.violations.add(None, ViolationKind::UnknownEvent(event));
            }
        }
        any
    }

    fn on_packet(&mut self, packet: &RxPacket) {
        let header = &packet.header;
        let key = ConnectionKey { guest: header.dst_port, host: header.src_port };
        if let Some(kind) = wrong_envelope(packet, self.cid) {
            return self.driver.violations.add(Some(key), kind);
        }
        let Some(index) = self.lookup(key) else {
            return self.on_unknown(key, header);
        };
        let Some(socket) = self.at(index) else { return };
        let state = socket.state;
        // An RST may come from a side that does not know the connection, and says nothing.
        if header.op != Op::Rst
            && let Err(kind) = socket.credit.peer_told(header.buf_alloc, header.fwd_cnt)
        {
            self.driver.violations.add(Some(key), kind);
        }
        match (state, header.op) {
            (State::Connecting { .. }, Op::Response) => self.on_response(index),
            (State::Connecting { .. }, Op::Rst) => {
                self.fail(index, Failure::Refused, EndedBy::Gateway);
            }
            (State::Connecting { .. }, op) => self.on_nonsense(index, op, state),
            (State::Connected | State::Closing { .. }, Op::Rw) => self.on_data(index, packet),
            (State::Connected | State::Closing { .. }, Op::CreditUpdate) => {
                self.driver.stats.rx_credit_updates += 1;
                self.touch(index, Ready::WRITABLE);
            }
            (State::Connected | State::Closing { .. }, Op::CreditRequest) => {
                self.send_credit_update(index);
            }
            (State::Connected | State::Closing { .. }, Op::Shutdown(how)) => {
                self.on_shutdown(index, how);
            }
            (State::Connected | State::Closing { .. }, Op::Rst) => {
                self.end(index, EndedBy::Gateway);
            }
            (State::Connected | State::Closing { .. } | State::Done, op) => {
                let kind = ViolationKind::UnexpectedOp { op, state: state.name() };
                self.driver.violations.add(Some(key), kind);
            }
        }
        // Any packet may carry credit for a writer that waits.
        if header.op == Op::Rw {
            self.touch(index, Ready::READABLE);
        }
    }

    fn on_response(&mut self, index: u32) {
        if let Some(socket) = self.at(index) {
            socket.state = State::Connected;
        }
        self.touch(index, Ready::CONNECTED);
    }

    /// Linux: EPROTO and RST.
    fn on_nonsense(&mut self, index: u32, op: Op, state: State) {
        let Some(socket) = self.at(index) else { return };
        if !socket.reused {
            let key = socket.key;
            let kind = ViolationKind::UnexpectedOp { op, state: state.name() };
            self.driver.violations.add(Some(key), kind);
        }
        self.send_op(index, Op::Rst, true);
        self.fail(index, Failure::Protocol, EndedBy::Guest);
    }

    fn on_data(&mut self, index: u32, packet: &RxPacket) {
        let len = packet.header.len as usize;
        let limit = self.options.packet_limit;
        let Some(socket) = self.at(index) else { return };
        let key = socket.key;
        if socket.peer_shut.send {
            return self.driver.violations.add(Some(key), ViolationKind::DataAfterShutdown);
        }
        if let Err(kind) = socket.credit.received(len as u64) {
            self.driver.violations.add(Some(key), kind);
            if limit == PacketLimit::Reset {
                self.overflow(index);
            }
            return;
        }
        if matches!(socket.state, State::Closing { .. }) {
            return;
        }
        if let Some(job) = socket.job {
            return self.feed_job(job, index, packet);
        }
        if limit != PacketLimit::None && !socket.queue.packet_fits(socket.credit.buf_alloc()) {
            let kind = ViolationKind::TooManyPackets { queued: socket.queue.packets() };
            self.driver.violations.add(Some(key), kind);
            if limit == PacketLimit::Reset {
                return self.overflow(index);
            }
        }
        self.queue_payload(index, packet, 0);
    }

    /// Queues a packet's payload from `skip` bytes behind its start.
    pub(crate) fn queue_payload(&mut self, index: u32, packet: &RxPacket, skip: usize) {
        let len = packet.header.len as usize - skip;
        let capacity = self.options.layout.rx.buffer_bytes() - HEADER_BYTES;
        let mut scratch = std::mem::take(&mut self.scratch);
        if scratch.len() < len {
            scratch.resize(len, 0);
        }
        self.driver.copy_out(packet.slot, HEADER_BYTES + skip, &mut scratch[..len]);
        if let Some(socket) = self.at(index) {
            socket.queue.push(&scratch[..len], capacity);
        }
        self.scratch = scratch;
    }

    /// Linux since the receive queue is bounded: ENOBUFS and RST.
    fn overflow(&mut self, index: u32) {
        self.send_op(index, Op::Rst, true);
        self.fail(index, Failure::NoBufferSpace, EndedBy::Guest);
    }

    fn on_shutdown(&mut self, index: u32, how: Shutdown) {
        let Some(socket) = self.at(index) else { return };
        socket.peer_shut.rcv |= how.rcv;
        socket.peer_shut.send |= how.send;
        let (all, unread) = (socket.peer_shut == BOTH, socket.queue.bytes());
        self.touch(index, Ready::READABLE);
        if !all {
            return;
        }
        if unread == 0 {
            self.send_op(index, Op::Rst, true);
            self.end(index, EndedBy::Guest);
        } else {
            // Linux takes it out of the table at once; RST follows when the program closes.
            self.unhash(index);
        }
    }

    fn on_unknown(&mut self, key: ConnectionKey, header: &Header) {
        if header.op == Op::Rst {
            self.driver.stats.stray_resets += 1;
            return;
        }
        match self.tombstones.look(key) {
            Memory::Ended(EndedBy::Gateway) => {
                self.driver.violations.add(Some(key), ViolationKind::AfterRst(header.op));
            }
            Memory::Ended(EndedBy::Guest) | Memory::Unknown => self.driver.stats.late_packets += 1,
            Memory::Never if header.op == Op::Request => self.driver.stats.host_requests += 1,
            Memory::Never => {
                self.driver.violations.add(Some(key), ViolationKind::NeverOpened(header.op));
            }
        }
        let reset = Header {
            src_cid: self.cid,
            dst_cid: Cid::HOST,
            src_port: header.dst_port,
            dst_port: header.src_port,
            len: 0,
            op: Op::Rst,
            socket_type: SocketType::Stream,
            message_end: false,
            buf_alloc: 0,
            fwd_cnt: 0,
        };
        self.driver.send_control(reset, true);
    }
}

/// What is wrong with a packet before its connection is looked at.
fn wrong_envelope(packet: &RxPacket, cid: Cid) -> Option<ViolationKind> {
    let header = &packet.header;
    if header.src_cid != Cid::HOST {
        return Some(ViolationKind::WrongSource(header.src_cid));
    }
    if header.dst_cid != cid {
        return Some(ViolationKind::WrongDestination(header.dst_cid));
    }
    let expected = u64::from(header.len) + HEADER_BYTES as u64;
    if expected != u64::from(packet.used) {
        return Some(ViolationKind::LengthMismatch { used: packet.used, len: header.len });
    }
    match header.op {
        Op::Rw if header.len == 0 => Some(ViolationKind::EmptyRw),
        op if op != Op::Rw && header.len > 0 => {
            Some(ViolationKind::PayloadWithoutRw { op, len: header.len })
        }
        _ => None,
    }
}
