//! Readers that stop: the other flows must not notice, and the processor must rest.

use anyhow::{Context, Result};
use outsock_harness::Gateway;
use outsock_virtual_guest::Layout;

use super::guest_of;
use crate::case::Direction;
use crate::cli::Cli;
use crate::contestant::VirtualContestant;
use crate::lab::{self, Server, Way};
use crate::report::{PartReport, Row, Target};
use crate::results::median;
use crate::{cpu, flows, limits};

/// What the others must keep.
const RATIO_MIN: f64 = 0.9;
/// Seconds of the gateway's processor time while everything waits; "near 0" of 10 s.
const IDLE_SECONDS_MAX: f64 = 0.05;

/// Measures the part.
pub(crate) fn measure(cli: &Cli) -> Result<PartReport> {
    let server = Server::start()?;
    let layout = Layout::linux_6_12();
    let (name, cid) = guest_of(&layout, 0);
    let gateway = lab::gateway(cli, &server, &[(name.clone(), cid)])?;
    let place = (&gateway, name.as_str(), cid);
    let guest = VirtualContestant::of_gateway_with_agent(layout.clone(), place, Way::Tcp, &server)?;
    let mut rows = Vec::new();
    for direction in [Direction::Out, Direction::In] {
        rows.push(fairness(cli, &guest, direction)?);
    }
    rows.push(rest(&guest, &gateway)?);
    for row in &mut rows {
        layout.name.clone_into(&mut row.guest);
    }
    let title = "Virtual guest: readers that stop".to_owned();
    Ok(PartReport { title, rows, ..PartReport::default() })
}

/// The others' throughput with and without one that stands still.
fn fairness(cli: &Cli, guest: &VirtualContestant<'_>, direction: Direction) -> Result<Row> {
    let others = limits::FLOWS - 1;
    let bytes = limits::FLOW_BYTES / cli.shrink();
    let (mut with, mut without) = (Vec::new(), Vec::new());
    for round in 1..=cli.rounds() {
        eprintln!(
            "  round {round}/{}: {others} flows {direction:?}, and one stalled",
            cli.rounds()
        );
        // The one before the other in every second round: what comes first finds a rested machine.
        for stalls in [round % 2 == 0, round % 2 != 0] {
            let _stalled = stalls.then(|| flows::stall(guest, direction)).transpose()?;
            std::thread::sleep(limits::STALL_SETTLE);
            let rate = flows::throughput(guest, direction, others, bytes)?;
            if stalls { with.push(rate) } else { without.push(rate) }
        }
    }
    let (with, without) = median(&with).zip(median(&without)).context("there was no round")?;
    let way = match direction {
        Direction::Out => "from",
        Direction::In => "to",
    };
    Ok(Row {
        what: format!("{others} flows {way} the guest beside one whose reader stopped"),
        outsock: format!("{:.2} GB/s", with / 1e9),
        against: format!("without it: {:.2} GB/s", without / 1e9),
        ratio: Some(with / without),
        target: Some(Target::at_least(RATIO_MIN, with / without)),
        ..Row::default()
    })
}

/// The gateway's processor time while nothing can move, half of the flows each way.
fn rest(guest: &VirtualContestant<'_>, gateway: &Gateway) -> Result<Row> {
    let count = limits::STALLED_CONNECTIONS;
    eprintln!("  {count} stalled connections");
    let mut stalled = Vec::with_capacity(count);
    for index in 0..count {
        let direction = if index % 2 == 0 { Direction::Out } else { Direction::In };
        stalled.push(flows::stall(guest, direction)?);
    }
    std::thread::sleep(limits::STALL_SETTLE_ALL);
    let before = cpu::of_threads(gateway.pid());
    std::thread::sleep(limits::STALLED_PERIOD);
    let used = cpu::of_threads(gateway.pid()).saturating_sub(before).as_secs_f64();
    drop(stalled);
    let seconds = limits::STALLED_PERIOD.as_secs();
    Ok(Row {
        what: format!("processor time of the gateway in {seconds} s with {count} stalled flows"),
        outsock: format!("{used:.3} s"),
        target: Some(Target::at_most(IDLE_SECONDS_MAX, "s", used)),
        ..Row::default()
    })
}
