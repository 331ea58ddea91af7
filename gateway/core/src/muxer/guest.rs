//! The guest's packets: what enters from the TX virtqueue.
//!
//! Every packet is consumed. One that breaks the protocol ends its own connection, one that belongs
//! to none is answered with an RST, one with a false CID is dropped and counted.

use super::{Action, Due, Muxer, Verdict};
use crate::address::{Cid, ConnectionKey, Instant};
use crate::connection::{HostAction, Input, State};
use crate::limits;
use crate::packet::{BadHeader, Header, Op, Shutdown};
use crate::tokens::{Token, Tokens};

impl Muxer {
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
        let is_close = header.op == Op::Shutdown(Shutdown { rcv: true, send: true });
        let input = match (fits, is_close && connection.to_guest.in_flight() > 0) {
            (true, false) => Input::Packet(header.op),
            (true, true) => Input::ClosedUnread,
            (false, _) => Input::Malformed,
        };
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
            self.actions.push_back(Action::OpenService(id, key.host, key.guest));
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
}
