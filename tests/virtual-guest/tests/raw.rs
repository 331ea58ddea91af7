//! Raw access: hand-made packets and chains get through, wrong ones are counted.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod backend;

use std::time::Duration;

use backend::{Backend, port};
use outsock_core::address::{Cid, VsockPort};
use outsock_core::packet::{Header, Op, SocketType};
use outsock_virtual_guest::raw::readable;
use outsock_virtual_guest::ring::{DESC_INDIRECT, Descriptor};
use outsock_virtual_guest::{Operation, Options, RX, RawGuest, TX};

const SOON: Duration = Duration::from_secs(10);

fn header(guest: &RawGuest, op: Op, len: u32) -> Header {
    Header {
        src_cid: guest.cid(),
        dst_cid: Cid::HOST,
        src_port: VsockPort(1024),
        dst_port: VsockPort(port::ECHO),
        len,
        op,
        socket_type: SocketType::Stream,
        message_end: false,
        buf_alloc: 1 << 18,
        fwd_cnt: 0,
    }
}

#[test]
fn a_hand_made_conversation() {
    let backend = Backend::start();
    let mut guest = RawGuest::connect(backend.path(), &Options::default()).unwrap();
    for _ in 0..4 {
        guest.post_rx(1000);
    }
    guest.send(&header(&guest, Op::Request, 0), b"");
    assert_eq!(guest.received_packet(SOON).unwrap().0.op, Op::Response);
    guest.send(&header(&guest, Op::Rw, 5), b"hello");
    let (answer, payload) = guest.received_packet(SOON).unwrap();
    assert_eq!((answer.op, &payload[..]), (Op::Rw, &b"hello"[..]));
    // The same through an indirect table, the header in two pieces.
    let place = guest.scratch();
    let mut bytes = header(&guest, Op::Rw, 5).encode().to_vec();
    bytes.extend(b"again");
    assert!(guest.write(place.address, &bytes));
    let table = place.plus(4096);
    let mut first = readable(place, 20);
    (first.flags, first.next) = (1, 1);
    assert!(guest.write_table(table.address, &[first, readable(place.plus(20), 29)]));
    let entry = Descriptor { address: table.address, len: 32, flags: DESC_INDIRECT, next: 0 };
    guest.post_chain(TX, &[entry]);
    guest.kick(TX);
    assert_eq!(guest.received_packet(SOON).unwrap().1, b"again");
    guest.wait_used(TX, 1, SOON);
    assert_eq!(guest.counts(RX).unasked + guest.counts(TX).unasked, 0);
    assert_eq!(guest.counts(RX).outstanding(), 1);
}

#[test]
fn operations_run_against_a_device() {
    let backend = Backend::start();
    let mut guest = RawGuest::connect(backend.path(), &Options::default()).unwrap();
    // Only operations that the little backend survives: packets, buffers, kicks.
    let harmless = |operation: &Operation| {
        matches!(operation, Operation::PostRx { .. } | Operation::Drain | Operation::Kick { .. })
    };
    let bytes: Vec<u8> =
        (0..4000u32).map(|n| n.wrapping_mul(2_654_435_761).to_be_bytes()[0]).collect();
    let list = Operation::list(&bytes);
    assert!(list.len() > 50);
    for operation in list.iter().filter(|operation| harmless(operation)) {
        operation.apply(&mut guest, &[port::ECHO]).unwrap();
    }
    guest.used(RX);
    assert_eq!(guest.counts(RX).unasked, 0);
}
