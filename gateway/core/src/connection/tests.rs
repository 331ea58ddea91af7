//! Every state x input, as one snapshot that a reader can check line by line.

use std::fmt::Write;

use super::*;

fn states() -> Vec<State> {
    let mut states = vec![State::Parked, State::Dialing, State::Calling];
    for guest in [GuestHalf::Sending, GuestHalf::Finishing, GuestHalf::Finished] {
        for host in [HostHalf::Sending, HostHalf::Finished, HostHalf::Unwanted] {
            states.push(State::Open { guest, host });
        }
    }
    states
}

fn inputs() -> Vec<Input> {
    let shutdown = |rcv, send| Op::Shutdown(Shutdown { rcv, send });
    let ops = [
        Op::Request,
        Op::Response,
        Op::Rst,
        shutdown(false, false),
        shutdown(true, false),
        shutdown(false, true),
        shutdown(true, true),
        Op::Rw,
        Op::CreditUpdate,
        Op::CreditRequest,
    ];
    let mut inputs: Vec<Input> = ops.into_iter().map(Input::Packet).collect();
    inputs.extend([
        Input::ClosedUnread,
        Input::Malformed,
        Input::Announced,
        Input::DialOk,
        Input::DialFailed,
        Input::HostFinished,
        Input::HostReset,
        Input::Flushed,
        Input::Late,
    ]);
    inputs
}

fn name(state: State) -> String {
    match state {
        State::Parked | State::Dialing | State::Calling => format!("{state:?}"),
        State::Open { guest, host } => format!("Open({guest:?}, {host:?})"),
    }
}

fn input_name(input: Input) -> String {
    match input {
        Input::Packet(Op::Shutdown(Shutdown { rcv, send })) => {
            format!(
                "SHUTDOWN({})",
                match (rcv, send) {
                    (false, false) => "",
                    (true, false) => "RCV",
                    (false, true) => "SEND",
                    (true, true) => "RCV|SEND",
                }
            )
        }
        Input::Packet(op) => format!("{op:?}"),
        other => format!("{other:?}"),
    }
}

#[test]
fn the_whole_table() {
    let mut table = String::new();
    for state in states() {
        for input in inputs() {
            let Effects { next, host, owed } = state.on(input);
            let (host, owed) = (format!("{host:?}"), format!("{owed:?}"));
            let next = next.map_or_else(|| "Gone".to_owned(), name);
            let _ = writeln!(
                table,
                "{:28} {:20} -> {next:28} host {host:15} guest {owed}",
                name(state),
                input_name(input),
            );
        }
    }
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/src/connection/table.snapshot");
    if std::env::var_os("UPDATE_SNAPSHOT").is_some() {
        std::fs::write(path, &table).unwrap();
    }
    let snapshot = std::fs::read_to_string(path).unwrap_or_default();
    assert!(
        table == snapshot,
        "the table changed: run with UPDATE_SNAPSHOT=1, then read the difference"
    );
}

#[test]
fn gone_always_tells_whoever_still_waits() {
    for state in states() {
        for input in inputs() {
            let Effects { next, host, owed } = state.on(input);
            if next.is_some() {
                continue;
            }
            let guest_ended_it = matches!(input, Input::Packet(Op::Rst));
            assert_eq!(owed == Owed::Rst, !guest_ended_it, "{state:?} {input:?}");
            let has_end = matches!(state, State::Open { .. });
            let end_released = matches!(host, HostAction::Abort | HostAction::CloseAfterFlush);
            assert!(!has_end || end_released, "{state:?} {input:?} leaks the host's end");
        }
    }
}

#[test]
fn halves_are_independent() {
    let both = Op::Shutdown(Shutdown { rcv: false, send: true });
    let after_guest = State::OPEN.on(Input::Packet(both)).next.unwrap();
    let after_host = after_guest.on(Input::HostFinished).next.unwrap();
    let other_way = State::OPEN.on(Input::HostFinished).next.unwrap().on(Input::Packet(both));
    assert_eq!(Some(after_host), other_way.next);
}
