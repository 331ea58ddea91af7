//! Plain vsock: connections that programs open by themselves, beside those of the agent.
//!
//! A guest's REQUEST to a port that is no service and no token is put to the device as
//! [`Action::Ask`]; the guest waits until it is answered. The other way round the host, or another
//! guest, *calls*: REQUEST goes to the guest, which has [`limits::CALL_MS`] to answer. Kept: nothing is
//! asked, and no other guest's CID is good, before [`Muxer::set_plain`]. Bounds: [`limits::ASKED_MAX`],
//! [`limits::CALLS_MAX`].

use super::{Action, ConnectionId, Due, Key, MessagePart, Muxer, PlainRequest};
use crate::address::{Cid, ConnectionKey, Instant, VsockPort};
use crate::connection::{Input, State};
use crate::limits;
use crate::packet::{Header, Op, SocketType};

/// Whom a call comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Caller {
    /// The host, from a port that the muxer chooses.
    Host,
    /// Another guest, from a port of its own.
    Guest(Cid, VsockPort),
}

impl Muxer {
    /// Whether programs of the guest may open ports by themselves.
    pub fn set_plain(&mut self, plain: bool) {
        self.plain = plain;
    }

    pub(super) fn plain_request(&mut self, key: Key, header: &Header) {
        if !self.plain || self.asked >= limits::ASKED_MAX {
            return self.owe_rst(key, header.socket_type);
        }
        let Some(id) = self.insert(key, State::Dialing, header) else { return };
        if let Some(connection) = self.connection_mut(id) {
            connection.asked = true;
            self.asked += 1;
        }
        let request = PlainRequest {
            to: key.peer,
            port: key.ports.host,
            from: key.ports.guest,
            socket_type: header.socket_type,
        };
        self.actions.push_back(Action::Ask(id, request));
    }

    /// Answers [`Action::Ask`]: attach the end. `false`: the guest has given up.
    #[must_use]
    pub fn accept(&mut self, now: Instant, id: ConnectionId) -> bool {
        let asked = self.answered(id);
        if asked {
            self.input(now, id, Input::DialOk);
        }
        asked
    }

    /// Answers [`Action::Ask`]: the guest gets an RST.
    pub fn refuse(&mut self, now: Instant, id: ConnectionId) {
        if self.answered(id) {
            self.input(now, id, Input::DialFailed);
        }
    }

    fn answered(&mut self, id: ConnectionId) -> bool {
        let Some(connection) = self.connection_mut(id) else { return false };
        let asked = std::mem::take(&mut connection.asked);
        self.asked -= usize::from(asked);
        asked
    }

    /// Opens a connection to a port of the guest. [`Action::Called`] or [`Action::CallFailed`] follows;
    /// `None`: there is no room, or that caller's port is in use. With it comes the caller's port.
    pub fn call(
        &mut self,
        now: Instant,
        caller: Caller,
        to: VsockPort,
        socket_type: SocketType,
    ) -> Option<(ConnectionId, VsockPort)> {
        if self.calling >= limits::CALLS_MAX {
            return None;
        }
        let key = match caller {
            Caller::Host => self.free_key(to)?,
            Caller::Guest(peer, from) => {
                let key = Key { peer, ports: ConnectionKey { guest: to, host: from } };
                (peer != self.cid && !self.by_key.contains_key(&key)).then_some(key)?
            }
        };
        let id = self.place(key, socket_type, State::Calling)?;
        self.calling += 1;
        self.deadlines.add(now.after_ms(limits::CALL_MS), Due::Call(id));
        if let Some(connection) = self.connection_mut(id) {
            connection.owes_request = true;
        }
        self.queue_rx(id);
        Some((id, key.ports.host))
    }

    fn free_key(&mut self, to: VsockPort) -> Option<Key> {
        // At most as many are taken as there are connections, and the range is larger.
        for _ in 0..=limits::CONNECTIONS_MAX {
            let host = VsockPort(self.next_call_port);
            self.next_call_port = match self.next_call_port {
                limits::CALL_PORT_MAX => limits::CALL_PORT_MIN,
                port => port + 1,
            };
            let key = Key { peer: Cid::HOST, ports: ConnectionKey { guest: to, host } };
            if !self.by_key.contains_key(&key) {
                return Some(key);
            }
        }
        None
    }

    /// The next message for the guest has so many bytes: the connection's next turn comes when the
    /// guest has credit for all of it.
    pub fn message_waits(&mut self, id: ConnectionId, bytes: u32) {
        if let Some(connection) = self.connection_mut(id) {
            connection.message_bytes = bytes;
        }
    }

    /// A packet of `len` bytes of a message, for all of which there was credit, goes to the guest: its
    /// header. The turn goes on by itself until the last one has gone.
    pub fn sent_part(&mut self, id: ConnectionId, len: u32, part: MessagePart) -> Option<Header> {
        let cid = self.cid;
        let connection = self.connection_mut(id)?;
        connection.to_guest.send_reserved(len);
        connection.owes_credit = false;
        connection.message_bytes = 0;
        connection.message_begun = part == MessagePart::Goes;
        let header = connection.header(cid, Op::Rw, len);
        Some(Header { message_end: part == MessagePart::Ends, ..header })
    }

    /// The most bytes that a message to the guest may have: its whole receive buffer, or one turn.
    pub fn message_bytes_max(&self, id: ConnectionId) -> u32 {
        self.connection(id)
            .map_or(0, |connection| connection.to_guest.peer_buf_alloc().min(limits::TURN_BYTES))
    }
}

#[cfg(test)]
mod tests;
