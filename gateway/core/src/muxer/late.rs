//! Deadlines: what is due when nobody said anything.

use super::{Action, ConnectionId, Due, Muxer};
use crate::address::Instant;
use crate::connection::Input;
use crate::limits;
use crate::tokens::Token;

impl Muxer {
    /// When [`Self::late`] must be called next.
    pub fn next_deadline(&self) -> Option<Instant> {
        self.deadlines.next()
    }

    /// Does what is due by `now`.
    pub fn late(&mut self, now: Instant) {
        while let Some(due) = self.deadlines.pop_due(now) {
            match due {
                Due::Parked(id) | Due::Call(id) => self.input(now, id, Input::Late),
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
}
