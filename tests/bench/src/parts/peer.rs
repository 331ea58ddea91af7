//! The gateway against another vsock backend, like for like: the same virtual guest, the same server
//! behind the same Unix socket.

use std::path::Path;

use anyhow::Result;
use outsock_virtual_guest::Layout;

use super::guest_of;
use crate::case::{Case, Metric};
use crate::cli::Cli;
use crate::contestant::{Contestant, Native, VirtualContestant, compete};
use crate::lab::{self, Server, Way};
use crate::limits;
use crate::report::{Pair, PartReport};
use crate::results::Results;

/// Of the peer, with messages of 256 bytes.
const RATIO_MIN_SMALL: f64 = 3.0;
/// Of the peer, with larger messages.
const RATIO_MIN_LARGE: f64 = 1.5;

/// Measures the part.
pub(crate) fn measure(cli: &Cli, binary: &Path) -> Result<PartReport> {
    let server = Server::start()?;
    let layouts = [Layout::linux_6_12(), Layout::linux_7_2()];
    let guests: Vec<_> = layouts.iter().zip(0..).map(|(each, n)| guest_of(each, n)).collect();
    let gateway = lab::gateway(cli, &server, &guests)?;
    let mut contestants: Vec<Box<dyn Contestant + '_>> =
        vec![Box::new(Native::new(&server, Way::Unix))];
    for (layout, (name, cid)) in layouts.iter().zip(&guests) {
        let place = (&gateway, name.as_str(), *cid);
        let ours = VirtualContestant::of_gateway(layout.clone(), place, Way::Unix, &server)?;
        contestants.push(Box::new(ours));
        // Another CID, so that the threads of the two guests have different names.
        let place = (binary, cid + guests.len() as u64);
        let mut theirs = VirtualContestant::of_peer(layout.clone(), place, &server)?;
        if layout == &Layout::linux_7_2() {
            theirs = theirs.with_message_max(limits::PEER_MESSAGE_BYTES_MAX);
        }
        contestants.push(Box::new(theirs));
    }
    let cases = cli.cases(1);
    let results = compete(&mut contestants, &cases, cli.rounds());
    let mut rows = Vec::new();
    for &case in &cases {
        let target = target(case);
        for layout in &layouts {
            let (ours, theirs) =
                (format!("outsock, {}", layout.name), format!("peer, {}", layout.name));
            let pair = Pair { guest: layout.name, ours: &ours, theirs: &theirs };
            let mut of_case = pair.rows(&results, case, target);
            let ceiling = ceiling(&results, case, &theirs);
            for target in of_case.iter_mut().filter_map(|row| row.target.as_mut()) {
                // Where client and server cannot be that fast, no gateway can.
                if let Some(ceiling) = ceiling.filter(|_| !target.met) {
                    target.text += &format!(" (native itself: {ceiling:.2})");
                }
            }
            rows.extend(of_case);
        }
    }
    let native = Native::name_of(Way::Unix);
    for &case in &cases {
        let pair = Pair { guest: "", ours: native, theirs: native };
        for mut row in pair.rows(&results, case, None) {
            // What no gateway is in: only shows where client and server are the limit.
            row.what = format!("for comparison: {}", row.what);
            row.outsock = String::new();
            row.ratio = None;
            if !row.against.is_empty() {
                rows.push(row);
            }
        }
    }
    let name = binary.file_name().unwrap_or_default().to_string_lossy();
    let notes = vec![format!(
        "The peer is {name}, with its own default settings, and both guests have the kernel's receive \
         buffers, 256 KiB. From the guest of linux 7.2 it gets \
         {} B messages throughout, because it takes no packet of many descriptors. To the guest, \
         the messages are those of the server's writes. A connect of outsock's is one call of the \
         virtual guest's VM RPC client more, through a socket pair and two threads.",
        limits::PEER_MESSAGE_BYTES_MAX
    )];
    let title = format!("Virtual guest: outsock against {name}, the same Unix socket behind both");
    Ok(PartReport { title, notes, rows, samples: results.into_series() })
}

fn target(case: Case) -> Option<f64> {
    match case {
        Case::Stream { message: 256, .. } => Some(RATIO_MIN_SMALL),
        Case::Stream { .. } => Some(RATIO_MIN_LARGE),
        Case::RoundTrips { .. }
        | Case::Connects { .. }
        | Case::Lookups { .. }
        | Case::Calls { .. } => None,
    }
}

/// How many times faster than the peer no gateway at all is.
fn ceiling(results: &Results, case: Case, peer: &str) -> Option<f64> {
    let native = results.median(Native::name_of(Way::Unix), case, Metric::Rate)?;
    Some(native / results.median(peer, case, Metric::Rate)?)
}
