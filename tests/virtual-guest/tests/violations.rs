//! Every rule that the guest checks is seen when a backend breaks it.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod backend;

use std::io::{Read, Write};

use backend::{BREACHES, Backend, Breach, port};
use outsock_virtual_guest::{Layout, Options, PacketLimit, ViolationKind as Kind, VirtualGuest};

fn expected(breach: Breach, kind: &Kind) -> bool {
    match breach {
        Breach::UsedTwice => matches!(kind, Kind::UsedIdNotOutstanding { .. }),
        Breach::UsedMadeUp => matches!(kind, Kind::UsedIdNotOutstanding { .. }),
        Breach::UsedTooLong => matches!(kind, Kind::UsedLenBeyondBuffer { .. }),
        Breach::LengthMismatch => matches!(kind, Kind::LengthMismatch { .. }),
        Breach::WrongCid => matches!(kind, Kind::WrongDestination(_)),
        Breach::NeverOpened => matches!(kind, Kind::NeverOpened(_)),
        Breach::AfterRst => matches!(kind, Kind::AfterRst(_)),
        Breach::BeyondCredit => matches!(kind, Kind::BeyondCredit { .. }),
        Breach::ManyPackets => matches!(kind, Kind::TooManyPackets { .. }),
        Breach::FwdCntAhead => matches!(kind, Kind::FwdCntAhead { by: 7 }),
        Breach::FwdCntBack => matches!(kind, Kind::FwdCntBack { by: 1 }),
        Breach::SecondResponse => matches!(kind, Kind::UnexpectedOp { .. }),
        Breach::DataAfterShutdown => matches!(kind, Kind::DataAfterShutdown),
        Breach::BadOp => matches!(kind, Kind::BadHeader(_)),
        Breach::EmptyRw => matches!(kind, Kind::EmptyRw),
        Breach::OutsideBuffer => matches!(kind, Kind::WroteOutsideBuffer),
    }
}

#[test]
fn every_breach_is_seen_and_nothing_else() {
    let backend = Backend::start();
    for (number, breach) in BREACHES.into_iter().enumerate() {
        let options = Options {
            packet_limit: PacketLimit::Report,
            ..Options::for_layout(Layout::linux_7_2())
        };
        let guest = VirtualGuest::connect(backend.path(), options).unwrap();
        let port = port::BREAKS + u32::try_from(number).unwrap();
        let mut bad = guest.open(port).unwrap();
        bad.write_all(b"break it").unwrap();
        // The answer on a second connection comes behind everything on the first.
        let mut good = guest.open(port::ECHO).unwrap();
        good.write_all(b"still there?").unwrap();
        good.read_exact(&mut [0; 12]).unwrap();
        let found = guest.violations();
        assert!(!found.is_empty(), "{breach:?} was not seen");
        for violation in &found {
            assert!(expected(breach, &violation.kind), "{breach:?}: {violation}");
        }
    }
}

#[test]
fn a_new_kernel_resets_with_enobufs() {
    let backend = Backend::start();
    let options =
        Options { packet_limit: PacketLimit::Reset, ..Options::for_layout(Layout::linux_7_2()) };
    let guest = VirtualGuest::connect(backend.path(), options).unwrap();
    let number = BREACHES.iter().position(|b| *b == Breach::ManyPackets).unwrap();
    let mut bad = guest.open(port::BREAKS + u32::try_from(number).unwrap()).unwrap();
    bad.write_all(b"break it").unwrap();
    // Nobody reads meanwhile: the answer here comes behind all packets there.
    let mut good = guest.open(port::ECHO).unwrap();
    good.write_all(b"x").unwrap();
    good.read_exact(&mut [0]).unwrap();
    let error = bad.read_to_end(&mut Vec::new()).unwrap_err();
    assert_eq!(error.raw_os_error(), Some(105));
}

#[test]
#[should_panic(expected = "violations by the gateway")]
fn assert_clean_panics() {
    let backend = Backend::start();
    let guest = VirtualGuest::connect(backend.path(), Options::default()).unwrap();
    let mut bad = guest.open(port::BREAKS).unwrap();
    bad.write_all(b"break it").unwrap();
    let mut good = guest.open(port::ECHO).unwrap();
    good.write_all(b"x").unwrap();
    good.read_exact(&mut [0]).unwrap();
    guest.assert_clean();
}
