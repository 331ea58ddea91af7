//! Requests, calls and messages as a device sees them.

use proptest::prelude::*;

use super::*;
use crate::muxer::{Action, Rx, TurnEnd, Verdict};
use crate::packet::Shutdown;

const CID: Cid = Cid(3);
const OTHER: Cid = Cid(4);
const WINDOW: u32 = 64 * 1024;
const T0: Instant = Instant(1_000);

fn muxer() -> Muxer {
    let mut muxer = Muxer::new(CID, &[VsockPort(1042)]);
    muxer.set_plain(true);
    muxer
}

fn header(to: Cid, port: u32, op: Op, socket_type: SocketType, len: u32) -> Header {
    Header {
        src_cid: CID,
        dst_cid: to,
        src_port: VsockPort(5000),
        dst_port: VsockPort(port),
        len,
        op,
        socket_type,
        message_end: false,
        buf_alloc: WINDOW,
        fwd_cnt: 0,
    }
}

fn control(muxer: &mut Muxer) -> Vec<(Op, Cid, SocketType)> {
    let mut sent = Vec::new();
    while let Some(Rx::Control(header)) = muxer.next_rx() {
        assert_eq!(header.dst_cid, CID);
        sent.push((header.op, header.src_cid, header.socket_type));
    }
    sent
}

fn request(muxer: &mut Muxer, to: Cid, socket_type: SocketType) -> Option<Action> {
    let request = header(to, 80, Op::Request, socket_type, 0);
    assert_eq!(muxer.packet(T0, Ok(request), 0), Verdict::NoPayload);
    muxer.next_action()
}

#[test]
fn a_request_is_asked_about_and_answered_by_its_own_kind_and_peer() {
    for (to, socket_type) in [(Cid::HOST, SocketType::Stream), (OTHER, SocketType::SeqPacket)] {
        let mut muxer = muxer();
        let Some(Action::Ask(id, asked)) = request(&mut muxer, to, socket_type) else {
            panic!("nothing is asked");
        };
        assert_eq!((asked.to, asked.port, asked.from), (to, VsockPort(80), VsockPort(5000)));
        assert_eq!(asked.socket_type, socket_type);
        assert_eq!(control(&mut muxer), []);
        assert!(muxer.accept(T0, id));
        assert!(!muxer.accept(T0, id), "once");
        assert_eq!(control(&mut muxer), [(Op::Response, to, socket_type)]);
        muxer.refuse(T0, id);
        assert_eq!(muxer.connections(), 1, "what is answered stays");
    }
}

#[test]
fn a_refusal_and_a_guest_that_gives_up_leave_nothing() {
    let mut muxer = muxer();
    let Some(Action::Ask(id, _)) = request(&mut muxer, OTHER, SocketType::SeqPacket) else {
        panic!("nothing is asked");
    };
    muxer.refuse(T0, id);
    assert_eq!(control(&mut muxer), [(Op::Rst, OTHER, SocketType::SeqPacket)]);
    let Some(Action::Ask(id, _)) = request(&mut muxer, OTHER, SocketType::Stream) else {
        panic!("nothing is asked");
    };
    muxer.packet(T0, Ok(header(OTHER, 80, Op::Rst, SocketType::Stream, 0)), 0);
    assert!(!muxer.accept(T0, id));
    assert_eq!((muxer.connections(), muxer.asked), (0, 0));
    assert_eq!(muxer.next_action(), None);
}

#[test]
fn without_leave_nothing_is_asked_and_no_other_guest_is_good() {
    let mut muxer = muxer();
    muxer.set_plain(false);
    assert_eq!(request(&mut muxer, Cid::HOST, SocketType::Stream), None);
    assert_eq!(control(&mut muxer), [(Op::Rst, Cid::HOST, SocketType::Stream)]);
    assert_eq!(request(&mut muxer, OTHER, SocketType::Stream), None);
    assert_eq!((control(&mut muxer), muxer.counters().forged), (vec![], 1));
    // Services and tokens are streams of the host: to another guest they are ports as any.
    muxer.set_plain(true);
    let to_service = header(OTHER, 1042, Op::Request, SocketType::Stream, 0);
    muxer.packet(T0, Ok(to_service), 0);
    assert!(matches!(muxer.next_action(), Some(Action::Ask(..))));
    let messages = header(Cid::HOST, 0x4000_0001, Op::Request, SocketType::SeqPacket, 0);
    muxer.packet(T0, Ok(messages), 0);
    assert!(matches!(muxer.next_action(), Some(Action::Ask(..))));
}

#[test]
fn requests_and_calls_are_bounded() {
    let mut muxer = muxer();
    for port in 0..2000 {
        let request = header(Cid::HOST, port, Op::Request, SocketType::Stream, 0);
        muxer.packet(T0, Ok(request), 0);
    }
    let refused = control(&mut muxer).len();
    // One of them was the service.
    assert_eq!(muxer.connections(), limits::ASKED_MAX + 1);
    assert_eq!(refused + limits::ASKED_MAX, 2000, "the service was accepted, the rest refused");
    let mut muxer = muxer_with_calls(limits::CALLS_MAX);
    assert!(muxer.call(T0, Caller::Host, VsockPort(1), SocketType::Stream).is_none());
    muxer.late(T0.after_ms(limits::CALL_MS));
    assert_eq!((muxer.connections(), muxer.calling), (0, 0));
    let failed = std::iter::from_fn(|| muxer.next_action());
    assert_eq!(failed.filter(|a| matches!(a, Action::CallFailed(_))).count(), limits::CALLS_MAX);
    assert_eq!(muxer.counters().misbehaved, 0);
}

fn muxer_with_calls(count: usize) -> Muxer {
    let mut muxer = muxer();
    for _ in 0..count {
        assert!(muxer.call(T0, Caller::Host, VsockPort(1), SocketType::Stream).is_some());
    }
    muxer
}

#[test]
fn a_call_is_accepted_or_refused_by_the_guest() {
    for (answer, action) in [(Op::Response, true), (Op::Rst, false)] {
        let mut muxer = muxer();
        let caller = Caller::Guest(OTHER, VsockPort(9));
        let (id, from) = muxer.call(T0, caller, VsockPort(5000), SocketType::SeqPacket).unwrap();
        assert_eq!(from, VsockPort(9));
        assert!(muxer.call(T0, caller, VsockPort(5000), SocketType::Stream).is_none(), "in use");
        assert_eq!(control(&mut muxer), [(Op::Request, OTHER, SocketType::SeqPacket)]);
        muxer.packet(T0, Ok(header(OTHER, 9, answer, SocketType::SeqPacket, 0)), 0);
        let expected = if action { Action::Called(id) } else { Action::CallFailed(id) };
        assert_eq!(muxer.next_action(), Some(expected));
        assert_eq!(muxer.connections(), usize::from(action));
        assert_eq!(muxer.message_bytes_max(id), if action { WINDOW } else { 0 });
        assert_eq!(muxer.counters().misbehaved, 0);
        // A guest does not call itself.
        let myself = Caller::Guest(CID, VsockPort(9));
        assert!(muxer.call(T0, myself, VsockPort(1), SocketType::Stream).is_none());
    }
}

#[test]
fn the_kind_of_socket_may_not_change() {
    let mut muxer = muxer();
    let Some(Action::Ask(id, _)) = request(&mut muxer, Cid::HOST, SocketType::Stream) else {
        panic!("nothing is asked");
    };
    assert!(muxer.accept(T0, id));
    control(&mut muxer);
    muxer.packet(T0, Ok(header(Cid::HOST, 80, Op::Rw, SocketType::SeqPacket, 1)), 1);
    assert_eq!(control(&mut muxer), [(Op::Rst, Cid::HOST, SocketType::Stream)]);
    assert_eq!(muxer.next_action(), Some(Action::Abort(id)));
}

#[test]
fn a_message_waits_for_credit_for_all_of_it_and_then_goes_on_by_itself() {
    let mut muxer = muxer();
    let Some(Action::Ask(id, _)) = request(&mut muxer, Cid::HOST, SocketType::SeqPacket) else {
        panic!("nothing is asked");
    };
    assert!(muxer.accept(T0, id));
    control(&mut muxer);
    muxer.host_readable(id);
    let turn = |muxer: &mut Muxer| matches!(muxer.next_rx(), Some(Rx::Data { .. }));
    assert!(turn(&mut muxer));
    let first = muxer.sent_part(id, WINDOW - 5000, MessagePart::Ends).unwrap();
    assert!(first.message_end);
    muxer.turn_over(T0, id, TurnEnd::More);
    assert!(turn(&mut muxer));
    muxer.message_waits(id, WINDOW);
    muxer.turn_over(T0, id, TurnEnd::More);
    assert!(!muxer.has_rx(), "5000 bytes are not enough");
    let read = header(Cid::HOST, 80, Op::CreditUpdate, SocketType::SeqPacket, 0);
    muxer.packet(T0, Ok(Header { fwd_cnt: WINDOW - 5000, ..read }), 0);
    assert!(turn(&mut muxer));
    // All but a sliver: the credit for it is set aside, though nothing else would be worth it.
    assert!(!muxer.sent_part(id, WINDOW - 10, MessagePart::Goes).unwrap().message_end);
    muxer.turn_over(T0, id, TurnEnd::More);
    assert!(turn(&mut muxer));
    assert!(muxer.sent_part(id, 10, MessagePart::Ends).unwrap().message_end);
    muxer.turn_over(T0, id, TurnEnd::More);
    assert!(!muxer.has_rx());
}

#[test]
fn whatever_was_forwarded_of_a_message_is_told_at_once() {
    let mut muxer = muxer();
    let Some(Action::Ask(id, _)) = request(&mut muxer, Cid::HOST, SocketType::SeqPacket) else {
        panic!("nothing is asked");
    };
    assert!(muxer.accept(T0, id));
    control(&mut muxer);
    let packet = header(Cid::HOST, 80, Op::Rw, SocketType::SeqPacket, 1000);
    let verdict = muxer.packet(T0, Ok(Header { message_end: true, ..packet }), 1000);
    assert_eq!(verdict, Verdict::Message(id, 1000, MessagePart::Ends));
    muxer.forwarded(id, 1000);
    let Some(Rx::Control(told)) = muxer.next_rx() else { panic!("nothing is told") };
    assert_eq!((told.op, told.fwd_cnt), (Op::CreditUpdate, 1000));
}

/// What a device has at hand.
#[derive(Default)]
struct World {
    asked: std::collections::HashSet<ConnectionId>,
    calling: std::collections::HashSet<ConnectionId>,
    attached: std::collections::HashSet<ConnectionId>,
}

impl World {
    fn settle(&mut self, muxer: &mut Muxer) -> Result<(), TestCaseError> {
        while let Some(action) = muxer.next_action() {
            match action {
                Action::Ask(id, _) => prop_assert!(self.asked.insert(id)),
                Action::Called(id) => {
                    prop_assert!(self.calling.remove(&id));
                    prop_assert!(self.attached.insert(id));
                }
                Action::CallFailed(id) => prop_assert!(self.calling.remove(&id)),
                Action::Abort(id) | Action::CloseAfterFlush(id) => {
                    prop_assert!(self.attached.remove(&id));
                }
                Action::FinishWrite(id) => muxer.flushed(T0, id),
                Action::OpenService(..)
                | Action::Attach(..)
                | Action::DropHeld(_)
                | Action::CancelDial(_) => prop_assert!(false, "{:?}", action),
            }
        }
        Ok(())
    }
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
    /// Whatever the guest, the host and other guests do: every request has at most one end, every call
    /// exactly one outcome, and the counts of both come back to nothing.
    #[test]
    fn asks_and_calls_are_settled_exactly_once(
        steps in proptest::collection::vec(
            (0u8..10, 0u32..4, any_op(), any::<bool>(), 0u32..200_000), 1..300),
    ) {
        let mut muxer = muxer();
        let mut now = T0;
        let mut world = World::default();
        for (step, which, op, messages, len) in steps {
            let socket_type = if messages { SocketType::SeqPacket } else { SocketType::Stream };
            let peer = if which % 2 == 0 { Cid::HOST } else { OTHER };
            let some_asked = world.asked.iter().copied().next();
            let some = world.attached.iter().copied().next();
            match (step, some_asked, some) {
                (0, Some(id), _) => {
                    world.asked.remove(&id);
                    if muxer.accept(now, id) { world.attached.insert(id); }
                }
                (1, Some(id), _) => { world.asked.remove(&id); muxer.refuse(now, id); }
                (2, _, _) => {
                    let caller = match peer {
                        Cid::HOST => Caller::Host,
                        peer => Caller::Guest(peer, VsockPort(80 + which)),
                    };
                    if let Some((id, _)) = muxer.call(now, caller, VsockPort(5000), socket_type) {
                        prop_assert!(world.calling.insert(id));
                    }
                }
                (3, _, Some(id)) => muxer.host_readable(id),
                (4, _, Some(id)) => muxer.host_reset(now, id),
                (5, _, _) => { now = now.after_ms(u64::from(len) / 50); muxer.late(now); }
                (6, _, _) => while let Some(rx) = muxer.next_rx() {
                    if let Rx::Data { id, .. } = rx {
                        prop_assert!(world.attached.contains(&id));
                        muxer.turn_over(now, id, TurnEnd::Drained);
                    }
                },
                _ => {
                    let packet = header(peer, 80 + which, op, socket_type, len);
                    match muxer.packet(now, Ok(packet), len) {
                        Verdict::NoPayload => {}
                        Verdict::Write(id, len) | Verdict::Message(id, len, _) => {
                            prop_assert!(world.attached.contains(&id));
                            muxer.forwarded(id, len);
                        }
                    }
                }
            }
            world.settle(&mut muxer)?;
            prop_assert_eq!(muxer.calling, world.calling.len());
            prop_assert!(muxer.asked <= world.asked.len());
        }
        for id in world.asked { muxer.refuse(now, id); }
        muxer.late(now.after_ms(limits::CALL_MS));
        prop_assert_eq!((muxer.asked, muxer.calling), (0, 0));
    }
}
