//! Stack: the guest's sockets over the driver's rings.
//!
//! in: calls of programs, packets (see `receive`), the time; out: packets, wake-ups, events. Owned
//! by whoever holds the guest's lock. Kept: a slot is reused only when neither the program nor the
//! protocol needs it; the table maps a tuple to the one socket that is alive on it. Bound: sockets
//! by what the test opens; everything else hangs off a socket or is bounded in [`limits`].

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap, VecDeque};
use std::hash::{BuildHasherDefault, Hasher};
use std::sync::{Arc, Condvar};
use std::time::{Duration, Instant};

use outsock_core::address::{Cid, ConnectionKey, VsockPort};
use outsock_core::packet::{Header, Op, Shutdown, SocketType};

use crate::buffer::Payload;
use crate::driver::Driver;
use crate::event::{Event, Ready};
use crate::job::Job;
use crate::limits;
use crate::options::Options;
use crate::socket::{BOTH, Failure, Socket, State};
use crate::tombstone::{EndedBy, Tombstones};

/// The first port that is not privileged (Linux: `LAST_RESERVED_PORT` is 1023).
pub(crate) const FIRST_PORT: u32 = 1024;

/// Names a socket. The generation tells it from later ones in the same slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct SocketId {
    pub index: u32,
    pub generation: u32,
}

/// Why a call on a socket did not do anything.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum CallError {
    WouldBlock,
    NotConnected,
    BrokenPipe,
    Failed(Failure),
}

/// A hash for small keys of our own making: nobody attacks the table.
#[derive(Debug, Default)]
pub(crate) struct PortHasher(u64);

impl Hasher for PortHasher {
    fn write(&mut self, bytes: &[u8]) {
        bytes.iter().for_each(|byte| self.write_u32(u32::from(*byte)));
    }

    fn write_u32(&mut self, value: u32) {
        self.0 = (self.0.rotate_left(29) ^ u64::from(value)).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    }

    fn finish(&self) -> u64 {
        self.0
    }
}

type Table = HashMap<ConnectionKey, u32, BuildHasherDefault<PortHasher>>;

/// The guest's sockets.
#[derive(Debug)]
pub(crate) struct Stack {
    pub(crate) driver: Driver,
    pub(crate) cid: Cid,
    pub(crate) options: Options,
    pub(crate) jobs: Vec<Option<Job>>,
    pub(crate) tombstones: Tombstones,
    pub(crate) scratch: Vec<u8>,
    sockets: Vec<Option<Socket>>,
    free: Vec<u32>,
    generation: u32,
    table: Table,
    pub(crate) timers: BinaryHeap<Reverse<(Instant, u32, u32)>>,
    pub(crate) next_port: u32,
    pub(crate) room_waiters: VecDeque<u32>,
    ready: VecDeque<u32>,
    events: Arc<Condvar>,
    /// Set once the guest is of no use any more.
    pub(crate) gone: Option<Failure>,
    /// The driver thread shall end.
    pub(crate) stopping: bool,
    /// The rings are stopped: nothing is taken from them.
    pub(crate) paused: bool,
    /// Until when the driver thread sleeps, at most; `None` while it is awake.
    pub(crate) sleeps_until: Option<Option<Instant>>,
}

impl Stack {
    pub(crate) fn new(driver: Driver, cid: Cid, options: Options, events: Arc<Condvar>) -> Self {
        Self {
            driver,
            cid,
            options,
            jobs: Vec::new(),
            tombstones: Tombstones::default(),
            scratch: vec![0; limits::PACKET_PAYLOAD_BYTES_MAX],
            sockets: Vec::new(),
            free: Vec::new(),
            generation: 0,
            table: Table::default(),
            timers: BinaryHeap::new(),
            next_port: FIRST_PORT,
            room_waiters: VecDeque::new(),
            ready: VecDeque::new(),
            events,
            gone: None,
            stopping: false,
            paused: false,
            sleeps_until: None,
        }
    }

    // === calls of programs ===

    /// Sends REQUEST.
    pub(crate) fn open(
        &mut self,
        host: VsockPort,
        local: Option<VsockPort>,
        timeout: Duration,
        watch: Option<u64>,
    ) -> Result<SocketId, CallError> {
        if let Some(failure) = self.gone {
            return Err(CallError::Failed(failure));
        }
        let key = match local {
            Some(guest) => ConnectionKey { guest, host },
            None => self.fresh_key(host),
        };
        if self.table.contains_key(&key) {
            return Err(CallError::Failed(Failure::Refused));
        }
        let deadline = Instant::now() + timeout;
        self.generation = self.generation.wrapping_add(1);
        let mut socket = Socket::new(key, self.generation, deadline, self.options.buf_alloc);
        socket.reused = local.is_some() && self.tombstones.remove(key);
        socket.watch = watch;
        let index = self.insert(socket);
        self.table.insert(key, index);
        self.set_timer(index, deadline);
        self.send_op(index, Op::Request, false);
        Ok(SocketId { index, generation: self.generation })
    }

    fn fresh_key(&mut self, host: VsockPort) -> ConnectionKey {
        loop {
            let guest = VsockPort(self.next_port);
            self.next_port = self.next_port.checked_add(1).unwrap_or(FIRST_PORT);
            let key = ConnectionKey { guest, host };
            if !self.table.contains_key(&key) {
                return key;
            }
        }
    }

    /// Sends one packet, as much of the payload as credit and one packet allow.
    #[inline]
    pub(crate) fn write(&mut self, id: SocketId, payload: Payload<'_>) -> Result<usize, CallError> {
        let most = self.options.packet_bytes_max;
        let Some(socket) = self.get(id) else { return Err(CallError::NotConnected) };
        if let Some(failure) = socket.failure {
            return Err(CallError::Failed(failure));
        }
        if socket.is_broken_pipe() {
            return Err(CallError::BrokenPipe);
        }
        if matches!(socket.state, State::Connecting { .. }) {
            return Err(CallError::NotConnected);
        }
        let space = usize::try_from(socket.credit.space()).unwrap_or(usize::MAX);
        if space == 0 {
            return Err(CallError::WouldBlock);
        }
        if !self.driver.can_send() {
            self.reclaim();
            if !self.driver.can_send() {
                self.wait_for_room(id.index);
                return Err(CallError::WouldBlock);
            }
        }
        let len = payload.len().min(space).min(most);
        let payload = match payload {
            Payload::Bytes(bytes) => Payload::Bytes(&bytes[..len]),
            Payload::InPlace(_) => Payload::InPlace(len),
        };
        let Some(header) = self.header(id.index, Op::Rw, len) else {
            return Err(CallError::NotConnected);
        };
        if let Some(socket) = self.get(id) {
            socket.credit.sent(len as u64);
        }
        self.driver.send_data(&header, payload);
        Ok(len)
    }

    fn wait_for_room(&mut self, index: u32) {
        let Some(socket) = self.at(index) else { return };
        if !std::mem::replace(&mut socket.waits_for_room, true) {
            self.room_waiters.push_back(index);
        }
    }

    /// Reads what is queued; 0 is the end of the stream.
    pub(crate) fn read(&mut self, id: SocketId, to: &mut [u8]) -> Result<usize, CallError> {
        let rule = self.options.credit_rule;
        let Some(socket) = self.get(id) else { return Err(CallError::NotConnected) };
        if socket.queue.bytes() > 0 {
            let (len, forwarded) = socket.queue.read(to);
            socket.credit.forwarded(forwarded);
            let due = socket.credit.update_due(rule, socket.queue.bytes());
            if due && socket.state != State::Done {
                self.send_credit_update(id.index);
            }
            return Ok(len);
        }
        if let Some(failure) = socket.failure {
            return Err(CallError::Failed(failure));
        }
        if matches!(socket.state, State::Connecting { .. }) {
            return Err(CallError::NotConnected);
        }
        if socket.at_end() { Ok(0) } else { Err(CallError::WouldBlock) }
    }

    /// `shutdown(2)`.
    pub(crate) fn shutdown(&mut self, id: SocketId, how: Shutdown) -> Result<(), CallError> {
        let Some(socket) = self.get(id) else { return Err(CallError::NotConnected) };
        if socket.state != State::Connected {
            return Err(CallError::NotConnected);
        }
        socket.shut.rcv |= how.rcv;
        socket.shut.send |= how.send;
        self.send_op(id.index, Op::Shutdown(how), false);
        self.touch(id.index, Ready::READABLE);
        Ok(())
    }

    /// `close(2)`: the program lets go.
    pub(crate) fn close(&mut self, id: SocketId) {
        let deadline = Instant::now() + self.options.close_timeout;
        let Some(socket) = self.get(id) else { return };
        socket.held = false;
        socket.watch = None;
        match socket.state {
            // Linux just forgets it; a RESPONSE that still comes is answered with RST.
            State::Connecting { .. } => self.end(id.index, EndedBy::Guest),
            State::Connected if socket.peer_shut == BOTH => {
                self.send_op(id.index, Op::Rst, false);
                self.end(id.index, EndedBy::Guest);
            }
            State::Connected => {
                let said = socket.shut == BOTH;
                socket.shut = BOTH;
                socket.state = State::Closing { deadline };
                // Bytes that nobody has read do not count as taken (`__vsock_release()`).
                socket.queue.clear();
                self.set_timer(id.index, deadline);
                if !said {
                    self.send_op(id.index, Op::Shutdown(BOTH), false);
                }
            }
            State::Closing { .. } => {}
            State::Done => self.free_if_unneeded(id.index),
        }
    }

    /// Sends RST and forgets the tuple, which no Linux program can do, but a dying guest does.
    pub(crate) fn reset(&mut self, id: SocketId) {
        let Some(socket) = self.get(id) else { return };
        if socket.state != State::Done {
            self.send_op(id.index, Op::Rst, false);
            self.end(id.index, EndedBy::Guest);
        }
    }

    /// Names the socket in events from now on; what is already true is an event, too.
    pub(crate) fn watch(&mut self, id: SocketId, token: u64) {
        let Some(socket) = self.get(id) else { return };
        socket.watch = Some(token);
        let now = socket.readiness();
        if !now.is_empty() {
            self.touch(id.index, now);
        }
    }

    /// Takes events; at most as many as `events` has room for without growing, if it has any.
    pub(crate) fn take_events(&mut self, events: &mut Vec<Event>, most: usize) -> usize {
        let before = events.len();
        while events.len() - before < most {
            let Some(index) = self.ready.pop_front() else { break };
            let Some(socket) = self.at(index) else { continue };
            if !std::mem::take(&mut socket.announced) {
                continue;
            }
            let ready = std::mem::take(&mut socket.ready);
            if let Some(token) = socket.watch.filter(|_| !ready.is_empty()) {
                events.push(Event { token, ready });
            }
        }
        events.len() - before
    }

    // === what others in the crate build on ===

    pub(crate) fn get(&mut self, id: SocketId) -> Option<&mut Socket> {
        self.at(id.index).filter(|socket| socket.generation == id.generation)
    }

    #[inline]
    pub(crate) fn at(&mut self, index: u32) -> Option<&mut Socket> {
        self.sockets.get_mut(index as usize)?.as_mut()
    }

    #[inline]
    pub(crate) fn lookup(&self, key: ConnectionKey) -> Option<u32> {
        self.table.get(&key).copied()
    }

    /// Connections whose tuple is in use.
    pub(crate) fn alive(&self) -> usize {
        self.table.len()
    }

    /// Something changed: wakes threads, makes an event.
    #[inline]
    pub(crate) fn touch(&mut self, index: u32, ready: Ready) {
        let Some(socket) = self.at(index) else { return };
        if socket.waiters > 0 {
            socket.changed.notify_all();
        }
        if socket.watch.is_some() {
            socket.ready.merge(ready);
            if !std::mem::replace(&mut socket.announced, true) {
                self.ready.push_back(index);
                self.events.notify_all();
            }
        }
    }

    /// A header of that socket. It tells the peer our credit.
    #[inline]
    pub(crate) fn header(&mut self, index: u32, op: Op, len: usize) -> Option<Header> {
        let cid = self.cid;
        let socket = self.at(index)?;
        let (buf_alloc, fwd_cnt) = socket.credit.tell();
        Some(Header {
            src_cid: cid,
            dst_cid: Cid::HOST,
            src_port: socket.key.guest,
            dst_port: socket.key.host,
            len: u32::try_from(len).unwrap_or(u32::MAX),
            op,
            socket_type: SocketType::Stream,
            message_end: false,
            buf_alloc,
            fwd_cnt,
        })
    }

    pub(crate) fn send_op(&mut self, index: u32, op: Op, reply: bool) {
        if let Some(header) = self.header(index, op, 0) {
            self.driver.send_control(header, reply);
        }
    }

    pub(crate) fn send_credit_update(&mut self, index: u32) {
        self.driver.stats.tx_credit_updates += 1;
        self.send_op(index, Op::CreditUpdate, false);
    }

    /// The tuple's life is over.
    pub(crate) fn end(&mut self, index: u32, by: EndedBy) {
        let Some(socket) = self.at(index) else { return };
        let (key, was) = (socket.key, socket.state);
        socket.state = State::Done;
        socket.peer_shut = BOTH;
        if was != State::Done && self.table.get(&key) == Some(&index) {
            self.table.remove(&key);
            self.tombstones.add(key, by);
        }
        self.touch(index, Ready::CLOSED);
        self.free_if_unneeded(index);
    }

    /// Takes the tuple out of the table while the socket can still be read.
    pub(crate) fn unhash(&mut self, index: u32) {
        let Some(key) = self.at(index).map(|socket| socket.key) else { return };
        if self.table.get(&key) == Some(&index) {
            self.table.remove(&key);
            self.tombstones.add(key, EndedBy::Guest);
        }
    }

    /// Ends a socket with an error.
    pub(crate) fn fail(&mut self, index: u32, failure: Failure, by: EndedBy) {
        if let Some(socket) = self.at(index) {
            socket.failure = Some(failure);
        }
        self.touch(index, Ready::FAILED);
        self.end(index, by);
    }

    /// Ends every socket with an error.
    pub(crate) fn fail_all(&mut self, failure: Failure) {
        for index in 0..u32::try_from(self.sockets.len()).unwrap_or(u32::MAX) {
            let alive = self.at(index).is_some_and(|socket| socket.state != State::Done);
            if alive {
                self.fail(index, failure, EndedBy::Guest);
            }
        }
        self.events.notify_all();
        // The driver thread may take no more turns: jobs have to hear of it here.
        self.run_jobs();
    }

    fn insert(&mut self, socket: Socket) -> u32 {
        if let Some(index) = self.free.pop() {
            self.sockets[index as usize] = Some(socket);
            return index;
        }
        self.sockets.push(Some(socket));
        u32::try_from(self.sockets.len() - 1).unwrap_or(u32::MAX)
    }

    fn free_if_unneeded(&mut self, index: u32) {
        let unneeded = self.at(index).is_some_and(|socket| {
            !socket.held && socket.state == State::Done && socket.job.is_none()
        });
        if unneeded {
            self.sockets[index as usize] = None;
            self.free.push(index);
        }
    }

    pub(crate) fn detach_job(&mut self, index: u32) {
        if let Some(socket) = self.at(index) {
            socket.job = None;
        }
        self.free_if_unneeded(index);
    }
}
