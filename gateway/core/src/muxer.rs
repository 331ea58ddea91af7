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

mod guest;
mod host;
mod late;
mod plain;
mod rx;
#[cfg(test)]
mod tests;

use std::collections::{HashMap, VecDeque};

use crate::address::{Cid, ConnectionKey, Instant, VsockPort};
use crate::connection::{HostAction, HostHalf, Input, Owed, State};
use crate::credit::{FromGuest, ToGuest};
use crate::deadlines::Deadlines;
use crate::limits;
use crate::packet::{Header, Op, SocketType};
use crate::tokens::Tokens;

pub use plain::Caller;

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
    /// The same between SOCK_SEQPACKET sockets: the bytes, of which there may be none, belong to a
    /// message, which ends here or goes on.
    Message(ConnectionId, u32, MessagePart),
}

/// Where in a message the bytes of a packet are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MessagePart {
    /// More of it follows.
    Goes,
    /// Its last bytes.
    Ends,
}

/// What the device must do with a host's end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// A guest opened a service port, from a port of its own: attach a service stream to the
    /// connection.
    OpenService(ConnectionId, VsockPort, VsockPort),
    /// Attach the end that is held for this token.
    Attach(ConnectionId, VsockPort),
    /// Forget the end that is held for this token: its guest never came.
    DropHeld(VsockPort),
    /// Stop the dial of this token: nobody waits for it any more.
    CancelDial(VsockPort),
    /// A program of the guest opened a port that is no service and no token, here or of another
    /// guest: answer by [`Muxer::accept`] or [`Muxer::refuse`].
    Ask(ConnectionId, PlainRequest),
    /// The guest accepted what [`Muxer::call`] began: attach the end.
    Called(ConnectionId),
    /// The guest did not. The id is dead.
    CallFailed(ConnectionId),
    /// Send FIN after the bytes that wait, then say [`Muxer::flushed`].
    FinishWrite(ConnectionId),
    /// Send the bytes that wait, then FIN, and forget the end. The id is dead.
    CloseAfterFlush(ConnectionId),
    /// Reset the far side and forget the end. The id is dead.
    Abort(ConnectionId),
}

/// A connection that a program of a guest opens by itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PlainRequest {
    /// To whom: the host, or another guest.
    pub to: Cid,
    /// To which port there.
    pub port: VsockPort,
    /// From which port of the guest.
    pub from: VsockPort,
    /// By which kind of socket.
    pub socket_type: SocketType,
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

/// Names a connection of one guest while it lives, and an RST that it is owed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Key {
    /// Who is on the other side: the host, or another guest.
    peer: Cid,
    ports: ConnectionKey,
}

#[derive(Debug)]
struct Connection {
    key: Key,
    socket_type: SocketType,
    state: State,
    /// [`Action::Ask`] is not answered.
    asked: bool,
    owes_request: bool,
    /// Bytes that its next message has: fewer bytes of credit are none.
    message_bytes: u32,
    /// A part of a message is with the guest, which waits for the rest; the credit is set aside.
    message_begun: bool,
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
            | State::Dialing
            | State::Calling => false,
        };
        wanted && self.readable && !self.owes_response
    }

    fn has_work(&self) -> bool {
        self.owes_request
            || self.owes_response
            || self.owes_shutdown
            || self.owes_credit
            || self.asks_credit
            || self.has_turn()
    }

    fn has_bytes_free(&self) -> bool {
        self.message_begun || self.to_guest.bytes_free() >= self.message_bytes.max(1)
    }

    /// Whether it has bytes to read, and credit for them.
    fn has_turn(&self) -> bool {
        self.may_read() && self.has_bytes_free() && self.to_guest.packets_free() > 0
    }

    fn header(&mut self, cid: Cid, op: Op, len: u32) -> Header {
        Header {
            src_cid: self.key.peer,
            dst_cid: cid,
            src_port: self.key.ports.host,
            dst_port: self.key.ports.guest,
            len,
            op,
            socket_type: self.socket_type,
            message_end: false,
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
    Call(ConnectionId),
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
    by_key: HashMap<Key, ConnectionId>,
    tokens: Tokens,
    parked: usize,
    /// Programs of the guest may open ports by themselves.
    plain: bool,
    /// [`Action::Ask`]s without an answer.
    asked: usize,
    /// Connections in [`State::Calling`].
    calling: usize,
    next_call_port: u32,
    rx_queue: VecDeque<ConnectionId>,
    rsts: VecDeque<(Key, SocketType)>,
    actions: VecDeque<Action>,
    deadlines: Deadlines<Due>,
    counters: Counters,
}

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
            plain: false,
            asked: 0,
            calling: 0,
            next_call_port: limits::CALL_PORT_MIN,
            rx_queue: VecDeque::new(),
            rsts: VecDeque::new(),
            actions: VecDeque::new(),
            deadlines: Deadlines::default(),
            counters: Counters::default(),
        }
    }

    /// The next thing to do with a host's end. Ask until `None` after every call above.
    pub fn next_action(&mut self) -> Option<Action> {
        self.actions.pop_front()
    }

    /// Forgets everything: the guest was reset or is gone. The ids of all connections are dead;
    /// every end must be aborted, every held stream dropped. Returns tokens whose dial must stop.
    pub fn reset(&mut self) {
        let ids: Vec<ConnectionId> = self.by_key.values().copied().collect();
        for id in ids {
            self.remove(id);
        }
        self.tokens = Tokens::default();
        (self.parked, self.asked, self.calling) = (0, 0, 0);
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
        let (key, socket_type) = (connection.key, connection.socket_type);
        let was_asked = connection.asked;
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
            let aborted = effects.host == HostAction::Abort && effects.owed == Owed::Rst;
            // They may come in every state.
            let blameless = matches!(
                input,
                Input::HostReset
                    | Input::ClosedUnread
                    | Input::Late
                    | Input::Packet(Op::Shutdown(_))
            );
            self.counters.misbehaved += u64::from(aborted && !blameless);
            self.remove(id);
            if effects.owed == Owed::Rst {
                self.owe_rst(key, socket_type);
            }
        }
        if before == State::Calling && effects.next != Some(State::Calling) {
            self.calling -= 1;
            self.actions.push_back(match effects.next {
                Some(_) => Action::Called(id),
                None => Action::CallFailed(id),
            });
            return HostAction::None;
        }
        if was_asked && effects.next.is_none() {
            // The answer will find nobody.
            self.asked -= 1;
            return HostAction::None;
        }
        match effects.host {
            HostAction::None | HostAction::Write => {}
            HostAction::FinishWrite => self.actions.push_back(Action::FinishWrite(id)),
            HostAction::CloseAfterFlush => self.actions.push_back(Action::CloseAfterFlush(id)),
            HostAction::Abort if was_open => self.actions.push_back(Action::Abort(id)),
            HostAction::Abort => {
                self.tokens.remove(key.ports.host);
                self.actions.push_back(Action::CancelDial(key.ports.host));
            }
        }
        if effects.next.is_none() && before == State::Parked {
            self.tokens.remove(key.ports.host);
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

    fn owe_rst(&mut self, key: Key, socket_type: SocketType) {
        if self.rsts.len() < limits::RSTS_MAX {
            self.rsts.push_back((key, socket_type));
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

    fn insert(&mut self, key: Key, state: State, header: &Header) -> Option<ConnectionId> {
        let socket_type = header.socket_type;
        let Some(id) = self.place(key, socket_type, state) else {
            self.owe_rst(key, socket_type);
            return None;
        };
        if let Some(connection) = self.connection_mut(id) {
            connection.to_guest = ToGuest::new(header.buf_alloc);
        }
        Some(id)
    }

    fn place(&mut self, key: Key, socket_type: SocketType, state: State) -> Option<ConnectionId> {
        if self.by_key.len() >= limits::CONNECTIONS_MAX {
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
            socket_type,
            state,
            asked: false,
            owes_request: false,
            message_bytes: 0,
            message_begun: false,
            from_guest: FromGuest::new(match socket_type {
                SocketType::Stream => self.buf_alloc,
                SocketType::SeqPacket => limits::MESSAGE_BYTES_MAX,
            }),
            to_guest: ToGuest::new(0),
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
