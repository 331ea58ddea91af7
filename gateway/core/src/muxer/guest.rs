//! The guest's packets: what enters from the TX virtqueue.
//!
//! Every packet is consumed. One that breaks the protocol ends its own connection, one that belongs
//! to none is answered with an RST, one with a false CID is dropped and counted.

use super::{Action, Due, Key, MessagePart, Muxer, Verdict};
use crate::address::{Cid, ConnectionKey, Instant};
use crate::connection::{HostAction, Input, State};
use crate::limits;
use crate::packet::{BadHeader, Header, Op, Shutdown, SocketType};
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
                let ports = ConnectionKey { guest: bad.src_port, host: bad.dst_port };
                let key = Key { peer: bad.dst_cid, ports };
                if self.is_honest(bad.src_cid, &key) {
                    match self.by_key.get(&key) {
                        Some(&id) => self.input(now, id, Input::Malformed),
                        None => self.owe_rst(key, SocketType::Stream),
                    }
                }
                Verdict::NoPayload
            }
        }
    }

    fn is_honest(&mut self, src: Cid, key: &Key) -> bool {
        let is_guest =
            (Cid::GUEST_MIN..=Cid::GUEST_MAX).contains(&key.peer) && key.peer != self.cid;
        // What stands goes on also when the rules have changed.
        let may_reach_guests = || self.plain || self.by_key.contains_key(key);
        let honest = src == self.cid && (key.peer == Cid::HOST || is_guest && may_reach_guests());
        self.counters.forged += u64::from(!honest);
        honest
    }

    fn good_packet(&mut self, now: Instant, header: &Header, payload_len: u32) -> Verdict {
        let ports = ConnectionKey { guest: header.src_port, host: header.dst_port };
        let key = Key { peer: header.dst_cid, ports };
        if !self.is_honest(header.src_cid, &key) {
            return Verdict::NoPayload;
        }
        let Some(&id) = self.by_key.get(&key) else {
            match header.op {
                Op::Request => self.request(now, key, header),
                // Nothing answers an RST, or two sides would answer each other for ever.
                Op::Rst => {}
                Op::Response | Op::Shutdown(_) | Op::Rw | Op::CreditUpdate | Op::CreditRequest => {
                    self.owe_rst(key, header.socket_type)
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
        let fits = fits && connection.socket_type == header.socket_type;
        let is_close = header.op == Op::Shutdown(Shutdown { rcv: true, send: true });
        let input = match (fits, is_close && connection.to_guest.in_flight() > 0) {
            (true, false) => Input::Packet(header.op),
            (true, true) => Input::ClosedUnread,
            (false, _) => Input::Malformed,
        };
        let host = self.apply(now, id, input);
        self.queue_rx(id);
        match host {
            HostAction::Write if header.socket_type == SocketType::SeqPacket => {
                let part = if header.message_end { MessagePart::Ends } else { MessagePart::Goes };
                Verdict::Message(id, header.len, part)
            }
            HostAction::Write if header.len > 0 => Verdict::Write(id, header.len),
            HostAction::Write
            | HostAction::None
            | HostAction::FinishWrite
            | HostAction::CloseAfterFlush
            | HostAction::Abort => Verdict::NoPayload,
        }
    }

    fn request(&mut self, now: Instant, key: Key, header: &Header) {
        let port = key.ports.host;
        // Services and tokens are streams of the host.
        let is_ours = key.peer == Cid::HOST && header.socket_type == SocketType::Stream;
        if !is_ours || !(self.services.contains(&port) || Tokens::is_token(port)) {
            return self.plain_request(key, header);
        }
        if self.services.contains(&port) {
            let Some(id) = self.insert(key, State::OPEN, header) else { return };
            self.counters.opened += 1;
            if let Some(connection) = self.connection_mut(id) {
                connection.owes_response = true;
            }
            self.queue_rx(id);
            self.actions.push_back(Action::OpenService(id, port, key.ports.guest));
            return;
        }
        match self.tokens.find(port) {
            None => {
                if self.parked >= limits::PARKED_MAX {
                    return self.owe_rst(key, header.socket_type);
                }
                let Some(id) = self.insert(key, State::Parked, header) else { return };
                self.parked += 1;
                self.tokens.set(port, Token::Waited(id));
                self.deadlines.add(now.after_ms(limits::PARKED_MS), Due::Parked(id));
            }
            Some(Token::Announced) => {
                let Some(id) = self.insert(key, State::Dialing, header) else { return };
                self.tokens.set(port, Token::Waited(id));
            }
            Some(Token::Held { .. }) => {
                self.tokens.remove(port);
                match self.insert(key, State::Dialing, header) {
                    Some(id) => {
                        self.actions.push_back(Action::Attach(id, port));
                        self.input(now, id, Input::DialOk);
                    }
                    None => self.actions.push_back(Action::DropHeld(port)),
                }
            }
            Some(Token::Failed { .. }) => {
                self.tokens.remove(port);
                self.owe_rst(key, header.socket_type);
            }
            // A token is used once.
            Some(Token::Waited(_)) => self.owe_rst(key, header.socket_type),
        }
    }
}
