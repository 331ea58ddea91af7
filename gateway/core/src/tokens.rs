//! Tokens: connections that were announced on the control stream and do not stand yet.
//!
//! A token is a host port of its own range, belongs to one guest (each has its own table), is used
//! once, and is forgotten when its connection stands, its dial failed, or its time is over. Bound:
//! [`limits::TOKENS_MAX`].

use std::collections::HashMap;

use outsock_vmrpc::limits::{TOKEN_MAX, TOKEN_MIN};

use crate::address::{Instant, VsockPort};
use crate::limits;
use crate::muxer::ConnectionId;

/// What is known of a token.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Token {
    /// The dial goes on; the REQUEST has not come.
    Announced,
    /// The REQUEST came and waits, announced or not.
    Waited(ConnectionId),
    /// The dial succeeded before the REQUEST came; its stream is held.
    Held {
        /// Until then.
        until: Instant,
    },
    /// The dial failed before the REQUEST came.
    Failed {
        /// Remembered until then.
        until: Instant,
    },
}

/// All tokens of one guest.
#[derive(Debug, Default)]
pub(crate) struct Tokens {
    table: HashMap<VsockPort, Token>,
}

impl Tokens {
    pub(crate) fn is_token(port: VsockPort) -> bool {
        (TOKEN_MIN..=TOKEN_MAX).contains(&port.0)
    }

    pub(crate) fn find(&self, token: VsockPort) -> Option<Token> {
        self.table.get(&token).copied()
    }

    /// Adds a token that is not there. `false` when there is no room.
    pub(crate) fn add(&mut self, token: VsockPort, state: Token) -> bool {
        let room = self.table.len() < limits::TOKENS_MAX;
        if room {
            self.table.insert(token, state);
        }
        room
    }

    /// Changes a token, or adds one that is bounded elsewhere (parked REQUESTs).
    pub(crate) fn set(&mut self, token: VsockPort, state: Token) {
        self.table.insert(token, state);
    }

    pub(crate) fn remove(&mut self, token: VsockPort) {
        self.table.remove(&token);
    }
}
