//! Muxer: all connections of one guest.
//!
//! in: packet headers from the TX virtqueue, news of the host's ends and of dials; out:
//! [`Verdict`]s, [`Action`]s for the host's ends, and [`Rx`] work for the RX virtqueue. Owner: the
//! vring worker of the guest. Payload never comes here: the muxer says how much may move, the
//! device moves it.
//!
//! Keeps: a connection is in the RX queue at most once, and only while it owes a packet or has both
//! bytes to read and credit for them, so a stalled guest costs nothing. What is owed to a guest is
//! a set of flags, not a queue of packets. Bounds: [`limits::CONNECTIONS_MAX`],
//! [`limits::PARKED_MAX`], [`limits::TOKENS_MAX`], [`limits::RSTS_MAX`].

use std::collections::{HashMap, VecDeque};

use crate::address::{Cid, ConnectionKey, Instant, VsockPort};
use crate::connection::{HostAction, HostHalf, Input, Owed, State};
use crate::credit::{FromGuest, ToGuest};
use crate::deadlines::Deadlines;
use crate::limits;
use crate::packet::{BadHeader, Header, Op, Shutdown};
use crate::tokens::{Token, Tokens};

/// Names a connection. Never used twice, so late news of a dead connection reaches nobody.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ConnectionId {
    /// The place in a table.
    pub index: u32,
    /// How often that place was used before.
    pub generation: u32,
}

/// What to do with the payload of a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// There is none to take: the chain can go back.
    NoPayload,
    /// Move these bytes to the host's end of the connection, now or, when it blocks, through the
    /// bounded buffer; then say [`Muxer::forwarded`].
    Write(ConnectionId, u32),
}

/// What the device must do with a host's end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// A guest opened a service port: attach a service stream to the connection.
    OpenService(ConnectionId, VsockPort),
    /// Attach the end that is held for this token.
    Attach(ConnectionId, VsockPort),
    /// Forget the end that is held for this token: its guest never came.
    DropHeld(VsockPort),
    /// Stop the dial of this token: nobody waits for it any more.
    CancelDial(VsockPort),
    /// Send FIN after the bytes that wait, then say [`Muxer::flushed`].
    FinishWrite(ConnectionId),
    /// Send the bytes that wait, then FIN, and forget the end. The id is dead.
    CloseAfterFlush(ConnectionId),
    /// Reset the far side and forget the end. The id is dead.
    Abort(ConnectionId),
}

/// What a successful dial means for its stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DialVerdict {
    /// The guest waits: attach the stream.
    Attach(ConnectionId),
    /// The REQUEST is on its way: hold the stream until [`Action::Attach`] or
    /// [`Action::DropHeld`].
    Hold,
    /// The guest gave up: drop the stream.
    Drop,
}

/// Work for the RX virtqueue.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rx {
    /// A packet without payload.
    Control(Header),
    /// Read up to `bytes_max` bytes from the host's end into up to `packets_max` packets; call
    /// [`Muxer::sent`] for each, then [`Muxer::turn_over`].
    Data {
        /// The connection.
        id: ConnectionId,
        /// Bytes that it may send.
        bytes_max: u32,
        /// Packets that it may send.
        packets_max: usize,
    },
}

/// How a turn of reading ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TurnEnd {
    /// There may be more to read.
    More,
    /// The host's end has nothing now.
    Drained,
}

#[derive(Debug)]
struct Connection {
    key: ConnectionKey,
    state: State,
    from_guest: FromGuest,
    to_guest: ToGuest,
    owes_response: bool,
    owes_shutdown: bool,
    owes_credit: bool,
    asks_credit: bool,
    /// The pause before the guest is asked again; zero while it is not being asked.
    ask_pause_ms: u64,
    /// The host's end may have bytes.
    readable: bool,
    /// It stands in the RX queue.
    queued: bool,
}

impl Connection {
    fn may_read(&self) -> bool {
        let wanted = match self.state {
            State::Open { host: HostHalf::Sending, .. } => true,
            State::Open { host: HostHalf::Finished | HostHalf::Unwanted, .. }
            | State::Parked
            | State::Dialing => false,
        };
        wanted && self.readable && !self.owes_response
    }

    fn has_work(&self) -> bool {
        self.owes_response
            || self.owes_shutdown
            || self.owes_credit
            || self.asks_credit
            || (self.may_read()
                && self.to_guest.bytes_free() > 0
                && self.to_guest.packets_free() > 0)
    }

    fn header(&mut self, cid: Cid, op: Op, len: u32) -> Header {
        Header {
            src_cid: Cid::HOST,
            dst_cid: cid,
            src_port: self.key.host,
            dst_port: self.key.guest,
            len,
            op,
            buf_alloc: self.from_guest.buf_alloc(),
            fwd_cnt: self.from_guest.tell(),
        }
    }
}

#[derive(Debug, Default)]
struct Place {
    generation: u32,
    connection: Option<Connection>,
}

#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Due {
    Parked(ConnectionId),
    Token(VsockPort),
    AskCredit(ConnectionId),
}

/// Counters that only grow, for metrics.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Connections that reached Open.
    pub opened: u64,
    /// Connections that a guest's broken packet ended.
    pub misbehaved: u64,
    /// Packets with a false source or destination CID, dropped.
    pub forged: u64,
    /// RSTs that were not sent because the guest does not read.
    pub rsts_dropped: u64,
}

/// All connections of one guest. See the module's documentation.
#[derive(Debug)]
pub struct Muxer {
    cid: Cid,
    services: Vec<VsockPort>,
    buf_alloc: u32,
    places: Vec<Place>,
    free: Vec<u32>,
    by_key: HashMap<ConnectionKey, ConnectionId>,
    tokens: Tokens,
    parked: usize,
    rx_queue: VecDeque<ConnectionId>,
    rsts: VecDeque<ConnectionKey>,
    actions: VecDeque<Action>,
    deadlines: Deadlines<Due>,
    counters: Counters,
}

// === The guest's packets ===

impl Muxer {
    /// The muxer of the guest `cid`, which may open the service ports `services` and connections by
    /// token.
    pub fn new(cid: Cid, services: &[VsockPort]) -> Self {
        Self {
            cid,
            services: services.to_vec(),
            buf_alloc: limits::BUF_ALLOC_BYTES,
            places: Vec::new(),
            free: Vec::new(),
            by_key: HashMap::new(),
            tokens: Tokens::default(),
            parked: 0,
            rx_queue: VecDeque::new(),
            rsts: VecDeque::new(),
            actions: VecDeque::new(),
            deadlines: Deadlines::default(),
            counters: Counters::default(),
        }
    }

    /// One packet from the TX virtqueue. `payload_len` is what the descriptor chain holds behind
    /// the header: a longer claim in the header is a lie, a shorter one is padding.
    pub fn packet(
        &mut self,
        now: Instant,
        parsed: Result<Header, BadHeader>,
        payload_len: u32,
    ) -> Verdict {
        match parsed {
            Ok(header) => self.good_packet(now, &header, payload_len),
            Err(bad) => {
                if self.is_honest(bad.src_cid, bad.dst_cid) {
                    let key = ConnectionKey { guest: bad.src_port, host: bad.dst_port };
                    match self.by_key.get(&key) {
                        Some(&id) => self.input(now, id, Input::Malformed),
                        None => self.owe_rst(key),
                    }
                }
                Verdict::NoPayload
            }
        }
    }

    fn is_honest(&mut self, src: Cid, dst: Cid) -> bool {
        let honest = src == self.cid && dst == Cid::HOST;
        self.counters.forged += u64::from(!honest);
        honest
    }

    fn good_packet(&mut self, now: Instant, header: &Header, payload_len: u32) -> Verdict {
        if !self.is_honest(header.src_cid, header.dst_cid) {
            return Verdict::NoPayload;
        }
        let key = ConnectionKey { guest: header.src_port, host: header.dst_port };
        let Some(&id) = self.by_key.get(&key) else {
            match header.op {
                Op::Request => self.request(now, key, header),
                // Nothing answers an RST, or two sides would answer each other for ever.
                Op::Rst => {}
                Op::Response | Op::Shutdown(_) | Op::Rw | Op::CreditUpdate | Op::CreditRequest => {
                    self.owe_rst(key)
                }
            }
            return Verdict::NoPayload;
        };
        let Some(connection) = self.connection_mut(id) else {
            return Verdict::NoPayload;
        };
        if connection.to_guest.learn(header.buf_alloc, header.fwd_cnt) {
            connection.ask_pause_ms = 0;
        }
        let is_rw = header.op == Op::Rw;
        let fits = !is_rw
            || (header.len <= payload_len && connection.from_guest.receive(header.len).is_ok());
        let input = if fits { Input::Packet(header.op) } else { Input::Malformed };
        let host = self.apply(now, id, input);
        self.queue_rx(id);
        match host {
            HostAction::Write if header.len > 0 => Verdict::Write(id, header.len),
            HostAction::Write
            | HostAction::None
            | HostAction::FinishWrite
            | HostAction::CloseAfterFlush
            | HostAction::Abort => Verdict::NoPayload,
        }
    }

    fn request(&mut self, now: Instant, key: ConnectionKey, header: &Header) {
        if self.services.contains(&key.host) {
            let Some(id) = self.insert(key, State::OPEN, header) else { return };
            self.counters.opened += 1;
            if let Some(connection) = self.connection_mut(id) {
                connection.owes_response = true;
            }
            self.queue_rx(id);
            self.actions.push_back(Action::OpenService(id, key.host));
            return;
        }
        match self.tokens.find(key.host) {
            None if !Tokens::is_token(key.host) => self.owe_rst(key),
            None => {
                if self.parked >= limits::PARKED_MAX {
                    return self.owe_rst(key);
                }
                let Some(id) = self.insert(key, State::Parked, header) else { return };
                self.parked += 1;
                self.tokens.set(key.host, Token::Waited(id));
                self.deadlines.add(now.after_ms(limits::PARKED_MS), Due::Parked(id));
            }
            Some(Token::Announced) => {
                let Some(id) = self.insert(key, State::Dialing, header) else { return };
                self.tokens.set(key.host, Token::Waited(id));
            }
            Some(Token::Held { .. }) => {
                self.tokens.remove(key.host);
                match self.insert(key, State::Dialing, header) {
                    Some(id) => {
                        self.actions.push_back(Action::Attach(id, key.host));
                        self.input(now, id, Input::DialOk);
                    }
                    None => self.actions.push_back(Action::DropHeld(key.host)),
                }
            }
            Some(Token::Failed { .. }) => {
                self.tokens.remove(key.host);
                self.owe_rst(key);
            }
            // A token is used once.
            Some(Token::Waited(_)) => self.owe_rst(key),
        }
    }

    fn insert(
        &mut self,
        key: ConnectionKey,
        state: State,
        header: &Header,
    ) -> Option<ConnectionId> {
        if self.by_key.len() >= limits::CONNECTIONS_MAX {
            self.owe_rst(key);
            return None;
        }
        let index = match self.free.pop() {
            Some(index) => index,
            None => {
                self.places.push(Place::default());
                u32::try_from(self.places.len() - 1).ok()?
            }
        };
        let place = self.places.get_mut(index as usize)?;
        let id = ConnectionId { index, generation: place.generation };
        place.connection = Some(Connection {
            key,
            state,
            from_guest: FromGuest::new(self.buf_alloc),
            to_guest: ToGuest::new(header.buf_alloc),
            owes_response: false,
            owes_shutdown: false,
            owes_credit: false,
            asks_credit: false,
            ask_pause_ms: 0,
            readable: false,
            queued: false,
        });
        self.by_key.insert(key, id);
        Some(id)
    }
}

// === News from dials and from the host's ends ===

impl Muxer {
    /// The control stream announced a token: a dial for it has begun. `false` when the guest has
    /// too many; the dial must not go on.
    #[must_use]
    pub fn announce(&mut self, now: Instant, token: VsockPort) -> bool {
        match self.tokens.find(token) {
            None => self.tokens.add(token, Token::Announced),
            Some(Token::Waited(id)) => {
                self.input(now, id, Input::Announced);
                true
            }
            // The daemon refuses a token that it knows, so these are tokens of an earlier, dead
            // dial: the new one takes over.
            Some(Token::Announced | Token::Failed { .. }) => {
                self.tokens.set(token, Token::Announced);
                true
            }
            Some(Token::Held { .. }) => {
                self.tokens.set(token, Token::Announced);
                self.actions.push_back(Action::DropHeld(token));
                true
            }
        }
    }

    /// The dial for a token succeeded.
    #[must_use]
    pub fn dial_ok(&mut self, now: Instant, token: VsockPort) -> DialVerdict {
        match self.tokens.find(token) {
            Some(Token::Waited(id)) => {
                self.tokens.remove(token);
                self.input(now, id, Input::DialOk);
                DialVerdict::Attach(id)
            }
            Some(Token::Announced) => {
                let until = now.after_ms(limits::TOKEN_UNUSED_MS);
                self.tokens.set(token, Token::Held { until });
                self.deadlines.add(until, Due::Token(token));
                DialVerdict::Hold
            }
            Some(Token::Held { .. } | Token::Failed { .. }) | None => DialVerdict::Drop,
        }
    }

    /// The dial for a token failed. The guest's agent learns the errno by RPC.
    pub fn dial_failed(&mut self, now: Instant, token: VsockPort) {
        match self.tokens.find(token) {
            Some(Token::Waited(id)) => {
                self.tokens.remove(token);
                self.input(now, id, Input::DialFailed);
            }
            Some(Token::Announced) => {
                let until = now.after_ms(limits::TOKEN_UNUSED_MS);
                self.tokens.set(token, Token::Failed { until });
                self.deadlines.add(until, Due::Token(token));
            }
            Some(Token::Held { .. } | Token::Failed { .. }) | None => {}
        }
    }

    /// The host's end may have bytes to read (or an end, or an error).
    pub fn host_readable(&mut self, id: ConnectionId) {
        if let Some(connection) = self.connection_mut(id) {
            connection.readable = true;
            self.queue_rx(id);
        }
    }

    /// The far side's FIN was read.
    pub fn host_finished(&mut self, now: Instant, id: ConnectionId) {
        self.input(now, id, Input::HostFinished);
    }

    /// The far side reset the connection, or writing to it failed.
    pub fn host_reset(&mut self, now: Instant, id: ConnectionId) {
        self.input(now, id, Input::HostReset);
    }

    /// The far side took `len` bytes of the guest's.
    pub fn forwarded(&mut self, id: ConnectionId, len: u32) {
        if let Some(connection) = self.connection_mut(id) {
            connection.from_guest.forward(len);
            if connection.from_guest.update_due(connection.to_guest.peer_buf_alloc()) {
                connection.owes_credit = true;
                self.queue_rx(id);
            }
        }
    }

    /// After [`Action::FinishWrite`]: the FIN is sent.
    pub fn flushed(&mut self, now: Instant, id: ConnectionId) {
        self.input(now, id, Input::Flushed);
    }

    /// Whether bytes of the far side could go to the guest now. When they cannot, an error of the
    /// host's end must be reported at once, for nobody will read up to it.
    pub fn can_read(&self, id: ConnectionId) -> bool {
        self.connection(id).is_some_and(|connection| {
            matches!(connection.state, State::Open { host: HostHalf::Sending, .. })
                && connection.to_guest.bytes_free() > 0
        })
    }
}

// === Work for the RX virtqueue ===

impl Muxer {
    /// The next thing to put on the RX virtqueue. Ask only when there is a buffer for it: what is
    /// returned is taken for sent.
    pub fn next_rx(&mut self) -> Option<Rx> {
        if let Some(key) = self.rsts.pop_front() {
            return Some(Rx::Control(Header {
                src_cid: Cid::HOST,
                dst_cid: self.cid,
                src_port: key.host,
                dst_port: key.guest,
                len: 0,
                op: Op::Rst,
                buf_alloc: 0,
                fwd_cnt: 0,
            }));
        }
        while let Some(id) = self.rx_queue.pop_front() {
            let cid = self.cid;
            let Some(connection) = self.connection_mut(id) else { continue };
            connection.queued = false;
            let rx = next_of(connection, cid, id);
            // Data queues the connection again itself, when the turn is over.
            if !matches!(rx, Some(Rx::Data { .. })) {
                self.queue_rx(id);
            }
            if rx.is_some() {
                return rx;
            }
        }
        None
    }

    /// Whether [`Self::next_rx`] may have something.
    pub fn has_rx(&self) -> bool {
        !self.rsts.is_empty() || !self.rx_queue.is_empty()
    }

    /// A packet of `len` bytes, read in a turn of this connection, goes to the guest: its header.
    pub fn sent(&mut self, id: ConnectionId, len: u32) -> Option<Header> {
        let cid = self.cid;
        let connection = self.connection_mut(id)?;
        connection.to_guest.send(len);
        connection.owes_credit = false;
        Some(connection.header(cid, Op::Rw, len))
    }

    /// The turn that [`Rx::Data`] began is over.
    pub fn turn_over(&mut self, now: Instant, id: ConnectionId, end: TurnEnd) {
        let Some(connection) = self.connection_mut(id) else { return };
        if end == TurnEnd::Drained {
            connection.readable = false;
        }
        let short = connection.to_guest.packets_run_short();
        if short && connection.ask_pause_ms == 0 {
            connection.asks_credit = true;
            connection.ask_pause_ms = limits::CREDIT_REQUEST_MS;
            let at = now.after_ms(connection.ask_pause_ms);
            self.deadlines.add(at, Due::AskCredit(id));
        }
        self.queue_rx(id);
    }
}

/// What a connection sends next: what it owes, then bytes.
fn next_of(connection: &mut Connection, cid: Cid, id: ConnectionId) -> Option<Rx> {
    let op = if connection.owes_response {
        connection.owes_response = false;
        Op::Response
    } else if connection.may_read()
        && connection.to_guest.bytes_free() > 0
        && connection.to_guest.packets_free() > 0
        && !connection.asks_credit
    {
        return Some(Rx::Data {
            id,
            bytes_max: connection.to_guest.bytes_free().min(limits::TURN_BYTES),
            packets_max: connection.to_guest.packets_free(),
        });
    } else if connection.owes_shutdown {
        connection.owes_shutdown = false;
        Op::Shutdown(Shutdown { rcv: false, send: true })
    } else if connection.owes_credit {
        Op::CreditUpdate
    } else if connection.asks_credit {
        connection.asks_credit = false;
        Op::CreditRequest
    } else {
        return None;
    };
    connection.owes_credit = false;
    Some(Rx::Control(connection.header(cid, op, 0)))
}

// === Actions, time, ends ===

impl Muxer {
    /// The next thing to do with a host's end. Ask until `None` after every call above.
    pub fn next_action(&mut self) -> Option<Action> {
        self.actions.pop_front()
    }

    /// When [`Self::late`] must be called next.
    pub fn next_deadline(&self) -> Option<Instant> {
        self.deadlines.next()
    }

    /// Does what is due by `now`.
    pub fn late(&mut self, now: Instant) {
        while let Some(due) = self.deadlines.pop_due(now) {
            match due {
                Due::Parked(id) => self.input(now, id, Input::Late),
                Due::Token(token) => match self.tokens.find(token) {
                    Some(Token::Held { until }) if until <= now => {
                        self.tokens.remove(token);
                        self.actions.push_back(Action::DropHeld(token));
                    }
                    Some(Token::Failed { until }) if until <= now => self.tokens.remove(token),
                    Some(
                        Token::Held { .. }
                        | Token::Failed { .. }
                        | Token::Announced
                        | Token::Waited(_),
                    )
                    | None => {}
                },
                Due::AskCredit(id) => self.ask_again(now, id),
            }
        }
    }

    fn ask_again(&mut self, now: Instant, id: ConnectionId) {
        let Some(connection) = self.connection_mut(id) else { return };
        let blocked = connection.may_read() && connection.to_guest.packets_free() == 0;
        if connection.ask_pause_ms == 0 || !blocked {
            connection.ask_pause_ms = 0;
            return;
        }
        connection.asks_credit = true;
        connection.ask_pause_ms = (connection.ask_pause_ms * 2).min(limits::CREDIT_REQUEST_MS_MAX);
        let at = now.after_ms(connection.ask_pause_ms);
        self.deadlines.add(at, Due::AskCredit(id));
        self.queue_rx(id);
    }

    /// Forgets everything: the guest was reset or is gone. The ids of all connections are dead;
    /// every end must be aborted, every held stream dropped. Returns tokens whose dial must stop.
    pub fn reset(&mut self) {
        let ids: Vec<ConnectionId> = self.by_key.values().copied().collect();
        for id in ids {
            self.remove(id);
        }
        self.tokens = Tokens::default();
        self.rx_queue.clear();
        self.rsts.clear();
        self.actions.clear();
        self.deadlines = Deadlines::default();
    }

    /// Connections that exist.
    pub fn connections(&self) -> usize {
        self.by_key.len()
    }

    /// Counters that only grow.
    pub fn counters(&self) -> Counters {
        self.counters
    }

    fn connection(&self, id: ConnectionId) -> Option<&Connection> {
        let place = self.places.get(id.index as usize)?;
        if place.generation == id.generation { place.connection.as_ref() } else { None }
    }

    fn connection_mut(&mut self, id: ConnectionId) -> Option<&mut Connection> {
        let place = self.places.get_mut(id.index as usize)?;
        if place.generation == id.generation { place.connection.as_mut() } else { None }
    }

    fn input(&mut self, now: Instant, id: ConnectionId, input: Input) {
        self.apply(now, id, input);
        self.queue_rx(id);
    }

    /// Runs the state machine and does what follows. Returns what it wants of the host's end, most
    /// of which is queued as an action already.
    fn apply(&mut self, _now: Instant, id: ConnectionId, input: Input) -> HostAction {
        let Some(connection) = self.connection_mut(id) else {
            return HostAction::None;
        };
        let before = connection.state;
        let effects = before.on(input);
        match effects.owed {
            Owed::Nothing | Owed::Rst => {}
            Owed::Response => connection.owes_response = true,
            Owed::ShutdownSend => connection.owes_shutdown = true,
            Owed::CreditUpdate => connection.owes_credit = true,
        }
        let key = connection.key;
        if let Some(next) = effects.next {
            connection.state = next;
        }
        let was_open = matches!(before, State::Open { .. });
        let is_open = matches!(effects.next, Some(State::Open { .. }));
        self.counters.opened += u64::from(!was_open && is_open);
        if before == State::Parked && effects.next != Some(State::Parked) {
            self.parked -= 1;
        }
        if effects.next.is_none() {
            let misbehaved = effects.host == HostAction::Abort && effects.owed == Owed::Rst;
            self.counters.misbehaved += u64::from(misbehaved && input != Input::HostReset);
            self.remove(id);
            if effects.owed == Owed::Rst {
                self.owe_rst(key);
            }
        }
        match effects.host {
            HostAction::None | HostAction::Write => {}
            HostAction::FinishWrite => self.actions.push_back(Action::FinishWrite(id)),
            HostAction::CloseAfterFlush => self.actions.push_back(Action::CloseAfterFlush(id)),
            HostAction::Abort if was_open => self.actions.push_back(Action::Abort(id)),
            HostAction::Abort => {
                self.tokens.remove(key.host);
                self.actions.push_back(Action::CancelDial(key.host));
            }
        }
        if effects.next.is_none() && before == State::Parked {
            self.tokens.remove(key.host);
        }
        effects.host
    }

    fn remove(&mut self, id: ConnectionId) {
        let Some(place) = self.places.get_mut(id.index as usize) else { return };
        if place.generation != id.generation {
            return;
        }
        if let Some(connection) = place.connection.take() {
            self.by_key.remove(&connection.key);
            place.generation = place.generation.wrapping_add(1);
            self.free.push(id.index);
        }
    }

    fn owe_rst(&mut self, key: ConnectionKey) {
        if self.rsts.len() < limits::RSTS_MAX {
            self.rsts.push_back(key);
        } else {
            self.counters.rsts_dropped += 1;
        }
    }

    fn queue_rx(&mut self, id: ConnectionId) {
        let Some(connection) = self.connection_mut(id) else { return };
        if !connection.queued && connection.has_work() {
            connection.queued = true;
            self.rx_queue.push_back(id);
        }
    }
}

#[cfg(test)]
#[path = "muxer/tests.rs"]
mod tests;
