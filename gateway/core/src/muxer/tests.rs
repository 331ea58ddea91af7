//! The muxer as a device sees it: a scripted guest, a hand-moved clock.

use proptest::prelude::*;

use super::*;
use crate::packet::{BadHeader, HeaderError, Shutdown, SocketType};

const CID: Cid = Cid(3);
const SERVICE: VsockPort = VsockPort(1042);
const TOKEN: VsockPort = VsockPort(0x4000_0001);
const WINDOW: u32 = 256 * 1024;
const T0: Instant = Instant(1_000);

struct Bench {
    muxer: Muxer,
    now: Instant,
}

impl Bench {
    fn new() -> Self {
        Self { muxer: Muxer::new(CID, &[SERVICE]), now: T0 }
    }

    fn header(guest: u32, host: VsockPort, op: Op, len: u32, fwd_cnt: u32) -> Header {
        Header {
            src_cid: CID,
            dst_cid: Cid::HOST,
            src_port: VsockPort(guest),
            dst_port: host,
            len,
            op,
            socket_type: SocketType::Stream,
            message_end: false,
            buf_alloc: WINDOW,
            fwd_cnt,
        }
    }

    fn packet(&mut self, guest: u32, host: VsockPort, op: Op) -> Verdict {
        self.rw(guest, host, op, 0)
    }

    fn rw(&mut self, guest: u32, host: VsockPort, op: Op, len: u32) -> Verdict {
        let header = Self::header(guest, host, op, len, 0);
        self.muxer.packet(self.now, Ok(header), len)
    }

    fn actions(&mut self) -> Vec<Action> {
        std::iter::from_fn(|| self.muxer.next_action()).collect()
    }

    fn control(&mut self) -> Vec<Op> {
        let mut ops = Vec::new();
        while let Some(Rx::Control(header)) = self.muxer.next_rx() {
            assert_eq!((header.src_cid, header.dst_cid), (Cid::HOST, CID));
            ops.push(header.op);
        }
        ops
    }

    /// An open connection by token from guest port 5000.
    fn open() -> (Self, ConnectionId) {
        let mut bench = Self::new();
        assert!(bench.muxer.announce(bench.now, TOKEN));
        bench.packet(5000, TOKEN, Op::Request);
        let DialVerdict::Attach(id) = bench.muxer.dial_ok(bench.now, TOKEN) else {
            panic!("the REQUEST waits");
        };
        assert_eq!(bench.control(), [Op::Response]);
        assert_eq!(bench.actions(), []);
        (bench, id)
    }
}

#[test]
fn announcement_request_and_dial_meet_in_any_order() {
    for order in [[0, 1, 2], [1, 0, 2], [0, 2, 1]] {
        let mut bench = Bench::new();
        for step in order {
            match step {
                0 => assert!(bench.muxer.announce(bench.now, TOKEN)),
                1 => assert_eq!(bench.packet(5000, TOKEN, Op::Request), Verdict::NoPayload),
                _ => match bench.muxer.dial_ok(bench.now, TOKEN) {
                    DialVerdict::Attach(_) => assert_eq!(order[2], 2),
                    DialVerdict::Hold => assert_eq!(order[2], 1),
                    DialVerdict::Drop => panic!("{order:?}"),
                },
            }
        }
        assert_eq!(bench.control(), [Op::Response], "{order:?}");
        let attached = bench.actions().iter().any(|a| matches!(a, Action::Attach(_, TOKEN)));
        assert_eq!(attached, order == [0, 2, 1], "{order:?}");
        assert_eq!(bench.muxer.connections(), 1);
    }
}

#[test]
fn a_failed_dial_is_an_rst_before_or_after_the_request() {
    let mut bench = Bench::new();
    assert!(bench.muxer.announce(bench.now, TOKEN));
    bench.packet(5000, TOKEN, Op::Request);
    bench.muxer.dial_failed(bench.now, TOKEN);
    assert_eq!(bench.control(), [Op::Rst]);
    assert!(bench.muxer.announce(bench.now, TOKEN));
    bench.muxer.dial_failed(bench.now, TOKEN);
    bench.packet(5001, TOKEN, Op::Request);
    assert_eq!(bench.control(), [Op::Rst]);
    assert_eq!(bench.muxer.connections(), 0);
}

#[test]
fn a_token_serves_once() {
    let (mut bench, _) = Bench::open();
    bench.packet(5001, TOKEN, Op::Request);
    assert_eq!(bench.control(), [], "parked: the token is unknown again");
    bench.now = bench.now.after_ms(limits::PARKED_MS);
    bench.muxer.late(bench.now);
    assert_eq!(bench.control(), [Op::Rst]);
    assert!(bench.muxer.announce(bench.now, TOKEN));
    bench.packet(5002, TOKEN, Op::Request);
    bench.packet(5003, TOKEN, Op::Request);
    assert_eq!(bench.control(), [Op::Rst], "the second REQUEST of one token");
}

#[test]
fn what_nobody_claims_expires() {
    let mut bench = Bench::new();
    assert!(bench.muxer.announce(bench.now, TOKEN));
    assert_eq!(bench.muxer.dial_ok(bench.now, TOKEN), DialVerdict::Hold);
    assert_eq!(bench.muxer.next_deadline(), Some(T0.after_ms(limits::TOKEN_UNUSED_MS)));
    bench.now = bench.now.after_ms(limits::TOKEN_UNUSED_MS);
    bench.muxer.late(bench.now);
    assert_eq!(bench.actions(), [Action::DropHeld(TOKEN)]);
    assert_eq!(bench.muxer.next_deadline(), None);
}

#[test]
fn only_services_and_tokens_can_be_opened() {
    let mut bench = Bench::new();
    bench.packet(5000, VsockPort(80), Op::Request);
    assert_eq!(bench.control(), [Op::Rst]);
    bench.packet(5001, SERVICE, Op::Request);
    assert_eq!(bench.control(), [Op::Response]);
    assert!(matches!(bench.actions()[..], [Action::OpenService(_, SERVICE, _)]));
}

#[test]
fn forged_cids_are_dropped_and_answered_with_nothing() {
    let (mut bench, _) = Bench::open();
    for (src, dst) in [(Cid(4), Cid::HOST), (CID, Cid(4)), (Cid::HOST, CID)] {
        let forged =
            Header { src_cid: src, dst_cid: dst, ..Bench::header(5000, TOKEN, Op::Rst, 0, 0) };
        bench.muxer.packet(bench.now, Ok(forged), 0);
    }
    assert_eq!(bench.control(), []);
    assert_eq!(bench.muxer.connections(), 1);
    assert_eq!(bench.muxer.counters().forged, 3);
}

#[test]
fn a_malformed_packet_ends_only_its_own_connection() {
    let (mut bench, id) = Bench::open();
    bench.packet(6000, SERVICE, Op::Request);
    bench.control();
    bench.actions();
    let bad = BadHeader {
        src_cid: CID,
        dst_cid: Cid::HOST,
        src_port: VsockPort(5000),
        dst_port: TOKEN,
        error: HeaderError::Op(99),
    };
    bench.muxer.packet(bench.now, Err(bad), 0);
    assert_eq!(bench.control(), [Op::Rst]);
    assert_eq!(bench.actions(), [Action::Abort(id)]);
    assert_eq!(bench.muxer.connections(), 1);
}

#[test]
fn credit_is_kept_both_ways() {
    let (mut bench, id) = Bench::open();
    assert_eq!(bench.rw(5000, TOKEN, Op::Rw, 1000), Verdict::Write(id, 1000));
    let rest = limits::BUF_ALLOC_BYTES - 1000;
    assert_eq!(bench.rw(5000, TOKEN, Op::Rw, rest), Verdict::Write(id, rest));
    bench.muxer.forwarded(id, 10);
    assert_eq!(bench.control(), [], "ten bytes are no news");
    bench.muxer.forwarded(id, WINDOW / 4);
    assert_eq!(bench.control(), [Op::CreditUpdate]);
    let over = WINDOW / 4 + 10 + 1;
    assert_eq!(bench.rw(5000, TOKEN, Op::Rw, over), Verdict::NoPayload);
    assert_eq!(bench.control(), [Op::Rst], "beyond its credit");
    assert_eq!(bench.actions(), [Action::Abort(id)]);
}

#[test]
fn a_length_beyond_the_chain_is_a_lie() {
    let (mut bench, _) = Bench::open();
    let lie = Bench::header(5000, TOKEN, Op::Rw, 100, 0);
    assert_eq!(bench.muxer.packet(bench.now, Ok(lie), 99), Verdict::NoPayload);
    assert_eq!(bench.control(), [Op::Rst]);
}

#[test]
fn a_stalled_guest_costs_nothing_until_it_reads() {
    let (mut bench, id) = Bench::open();
    bench.muxer.host_readable(id);
    let mut sent = 0;
    while let Some(Rx::Data { bytes_max, .. }) = bench.muxer.next_rx() {
        let len = bytes_max.min(4096);
        assert!(bench.muxer.sent(id, len).is_some());
        sent += len;
        bench.muxer.turn_over(bench.now, id, TurnEnd::More);
    }
    assert_eq!(sent, WINDOW);
    assert!(!bench.muxer.has_rx());
    let update = Bench::header(5000, TOKEN, Op::CreditUpdate, 0, WINDOW);
    bench.muxer.packet(bench.now, Ok(update), 0);
    assert!(matches!(bench.muxer.next_rx(), Some(Rx::Data { bytes_max: WINDOW, .. })));
}

#[test]
fn small_packets_ask_for_credit_and_ask_again_slower() {
    let (mut bench, id) = Bench::open();
    bench.muxer.host_readable(id);
    let mut asked = 0;
    let mut packets = 0;
    while let Some(rx) = bench.muxer.next_rx() {
        match rx {
            Rx::Control(header) => {
                assert_eq!(header.op, Op::CreditRequest);
                asked += 1;
            }
            Rx::Data { .. } => {
                assert!(bench.muxer.sent(id, 1).is_some());
                packets += 1;
                bench.muxer.turn_over(bench.now, id, TurnEnd::More);
            }
        }
    }
    assert!((packets + 1) * limits::PACKET_COST_BYTES <= WINDOW);
    assert_eq!(asked, 1);
    let mut pauses = Vec::new();
    for _ in 0..9 {
        let at = bench.muxer.next_deadline().unwrap();
        pauses.push(at.0 - bench.now.0);
        bench.now = at;
        bench.muxer.late(at);
        assert_eq!(bench.control(), [Op::CreditRequest]);
    }
    assert_eq!(pauses, [10, 20, 40, 80, 160, 320, 640, 1000, 1000]);
    let update = Bench::header(5000, TOKEN, Op::CreditUpdate, 0, packets);
    bench.muxer.packet(bench.now, Ok(update), 0);
    assert!(matches!(bench.muxer.next_rx(), Some(Rx::Data { .. })));
}

#[test]
fn half_close_each_way_then_the_guest_closes() {
    let (mut bench, id) = Bench::open();
    bench.packet(5000, TOKEN, Op::Shutdown(Shutdown { rcv: false, send: true }));
    assert_eq!(bench.actions(), [Action::FinishWrite(id)]);
    bench.muxer.flushed(bench.now, id);
    bench.muxer.host_readable(id);
    assert!(matches!(bench.muxer.next_rx(), Some(Rx::Data { .. })), "the other half lives");
    bench.muxer.host_finished(bench.now, id);
    bench.muxer.turn_over(bench.now, id, TurnEnd::Drained);
    assert_eq!(bench.control(), [Op::Shutdown(Shutdown { rcv: false, send: true })]);
    bench.packet(5000, TOKEN, Op::Shutdown(Shutdown { rcv: true, send: true }));
    assert_eq!(bench.control(), [Op::Rst]);
    assert_eq!(bench.actions(), [Action::CloseAfterFlush(id)]);
    assert!(bench.muxer.announce(bench.now, TOKEN));
    bench.packet(5000, TOKEN, Op::Request);
    let again = bench.muxer.dial_ok(bench.now, TOKEN);
    assert!(matches!(again, DialVerdict::Attach(new) if new != id), "the tuple is free at once");
}

/// What TCP does, too. A program's shutdown() of both halves comes as two packets (the agent's doing).
#[test]
fn a_close_with_bytes_unread_is_a_reset() {
    let close = Shutdown { rcv: true, send: true };
    for (read, expected) in [(99, true), (100, false)] {
        let (mut bench, id) = Bench::open();
        bench.muxer.host_readable(id);
        assert!(matches!(bench.muxer.next_rx(), Some(Rx::Data { .. })));
        assert!(bench.muxer.sent(id, 100).is_some());
        bench.muxer.turn_over(bench.now, id, TurnEnd::Drained);
        let header = Bench::header(5000, TOKEN, Op::Shutdown(close), 0, read);
        bench.muxer.packet(bench.now, Ok(header), 0);
        let action = if expected { Action::Abort(id) } else { Action::CloseAfterFlush(id) };
        assert_eq!(bench.actions(), [action]);
        assert_eq!(bench.control(), [Op::Rst]);
        assert_eq!(bench.muxer.counters().misbehaved, 0);
    }
    let (mut bench, id) = Bench::open();
    bench.muxer.host_readable(id);
    assert!(matches!(bench.muxer.next_rx(), Some(Rx::Data { .. })));
    assert!(bench.muxer.sent(id, 100).is_some());
    bench.packet(5000, TOKEN, Op::Shutdown(Shutdown { rcv: false, send: true }));
    bench.packet(5000, TOKEN, Op::Shutdown(Shutdown { rcv: true, send: false }));
    assert_eq!(bench.actions(), [Action::FinishWrite(id), Action::CloseAfterFlush(id)]);
}

#[test]
fn tables_are_bounded() {
    let mut bench = Bench::new();
    for port in 0..2_000_000u32 {
        bench.packet(port, VsockPort(TOKEN.0 + port % 100_000), Op::Request);
    }
    assert!(bench.muxer.connections() <= limits::PARKED_MAX);
    assert!(bench.muxer.rsts.len() <= limits::RSTS_MAX);
    assert!(bench.muxer.counters().rsts_dropped > 0);
    let announced = (0..2 * limits::TOKENS_MAX)
        .filter(|i| {
            bench.muxer.announce(bench.now, VsockPort(0x5000_0000 + u32::try_from(*i).unwrap()))
        })
        .count();
    assert!(announced <= limits::TOKENS_MAX);
}

fn any_op() -> impl Strategy<Value = Op> {
    prop_oneof![
        Just(Op::Request),
        Just(Op::Response),
        Just(Op::Rst),
        (any::<bool>(), any::<bool>()).prop_map(|(rcv, send)| Op::Shutdown(Shutdown { rcv, send })),
        Just(Op::Rw),
        Just(Op::CreditUpdate),
        Just(Op::CreditRequest),
    ]
}

proptest! {
    /// Whatever a guest and the host's side do: no panic, ends match connections, and each is
    /// released exactly once.
    #[test]
    fn every_end_is_released_exactly_once(
        steps in proptest::collection::vec((0u8..12, 0u32..4, any_op(), 0u32..600_000), 1..400),
    ) {
        let mut bench = Bench::new();
        let mut attached = std::collections::HashSet::new();
        let mut held = std::collections::HashSet::new();
        for (step, which, op, len) in steps {
            let token = VsockPort(TOKEN.0 + which);
            let some = attached.iter().copied().nth(which as usize);
            match (step, some) {
                (0, _) => { let _ = bench.muxer.announce(bench.now, token); }
                (1, _) => match bench.muxer.dial_ok(bench.now, token) {
                    DialVerdict::Attach(id) => prop_assert!(attached.insert(id)),
                    DialVerdict::Hold => prop_assert!(held.insert(token)),
                    DialVerdict::Drop => {}
                },
                (2, _) => bench.muxer.dial_failed(bench.now, token),
                (3, Some(id)) => bench.muxer.host_readable(id),
                (4, Some(id)) => bench.muxer.host_finished(bench.now, id),
                (5, Some(id)) => bench.muxer.host_reset(bench.now, id),
                (6, _) => {
                    bench.now = bench.now.after_ms(u64::from(len) / 100);
                    bench.muxer.late(bench.now);
                }
                (7, _) => while let Some(rx) = bench.muxer.next_rx() {
                    if let Rx::Data { id, bytes_max, .. } = rx {
                        prop_assert!(attached.contains(&id));
                        if bench.muxer.sent(id, bytes_max.min(len).max(1)).is_some() {
                            bench.muxer.turn_over(bench.now, id, TurnEnd::Drained);
                        }
                    }
                },
                _ => {
                    let header = Bench::header(5000 + which % 2, token, op, len, len);
                    let verdict = bench.muxer.packet(bench.now, Ok(header), len);
                    if let Verdict::Write(id, len) = verdict {
                        prop_assert!(attached.contains(&id));
                        bench.muxer.forwarded(id, len / 2);
                    }
                }
            }
            for action in bench.actions() {
                match action {
                    Action::Attach(id, token) => {
                        prop_assert!(held.remove(&token));
                        prop_assert!(attached.insert(id));
                    }
                    Action::DropHeld(token) => prop_assert!(held.remove(&token)),
                    Action::CloseAfterFlush(id) | Action::Abort(id) => {
                        prop_assert!(attached.remove(&id));
                    }
                    Action::FinishWrite(id) => {
                        prop_assert!(attached.contains(&id));
                        bench.muxer.flushed(bench.now, id);
                    }
                    Action::OpenService(..) | Action::CancelDial(_) => {}
                    Action::Ask(..) | Action::Called(_) | Action::CallFailed(_) => {
                        prop_assert!(false, "plain vsock is off");
                    }
                }
            }
            prop_assert!(bench.muxer.connections() >= attached.len());
        }
    }
}
