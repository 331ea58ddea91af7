//! News from dials and from the host's ends.

use super::{Action, ConnectionId, DialVerdict, Due, Muxer};
use crate::address::{Cid, Instant, VsockPort};
use crate::connection::{HostHalf, Input, State};
use crate::limits;
use crate::packet::SocketType;
use crate::tokens::Token;

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

    /// The connection of a token is unwanted, wherever it stands.
    pub fn reset_token(&mut self, now: Instant, token: VsockPort) {
        match self.tokens.find(token) {
            Some(Token::Held { .. }) => {
                self.tokens.set(token, Token::Announced);
                self.dial_failed(now, token);
                self.actions.push_back(Action::DropHeld(token));
            }
            Some(Token::Announced | Token::Waited(_)) => self.dial_failed(now, token),
            Some(Token::Failed { .. }) => {}
            None => {
                let its = self
                    .by_key
                    .iter()
                    .find(|(key, _)| key.peer == Cid::HOST && key.ports.host == token);
                if let Some((_, &id)) = its {
                    self.host_reset(now, id);
                }
            }
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
            let window = connection.to_guest.peer_buf_alloc();
            // The rest of a message may wait for the very last byte: what is forwarded is told.
            let due = match connection.socket_type {
                SocketType::Stream => connection.from_guest.update_due(window),
                SocketType::SeqPacket => connection.from_guest.has_news(),
            };
            if due {
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
                && connection.has_bytes_free()
        })
    }
}
