//! Work for the RX virtqueue: what goes to the guest next.
//!
//! RSTs first, for they free the guest's sockets; then the connections in turn, each with what it
//! owes before its bytes, and at most [`limits::TURN_BYTES`] of those.

use super::{Connection, ConnectionId, Due, Muxer, Rx, TurnEnd};
use crate::address::{Cid, Instant};
use crate::limits;
use crate::packet::{Header, Op, Shutdown};

impl Muxer {
    /// The next thing to put on the RX virtqueue. Ask only when there is a buffer for it: what is
    /// returned is taken for sent.
    pub fn next_rx(&mut self) -> Option<Rx> {
        if let Some((key, socket_type)) = self.rsts.pop_front() {
            return Some(Rx::Control(Header {
                src_cid: key.peer,
                dst_cid: self.cid,
                src_port: key.ports.host,
                dst_port: key.ports.guest,
                len: 0,
                op: Op::Rst,
                socket_type,
                message_end: false,
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
    let op = if connection.owes_request {
        connection.owes_request = false;
        Op::Request
    } else if connection.owes_response {
        connection.owes_response = false;
        Op::Response
    } else if connection.has_turn() && !connection.asks_credit {
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
