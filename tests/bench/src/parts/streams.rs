//! Streams, round trips and connects in virtual guests against native loopback TCP.

use anyhow::Result;
use outsock_virtual_guest::Layout;

use super::guest_of;
use crate::case::{Case, Metric};
use crate::cli::Cli;
use crate::contestant::{Contestant, Native, VirtualContestant, compete};
use crate::lab::{self, Server, Way};
use crate::report::{Pair, PartReport};
use crate::results::Results;

/// Of native TCP, with the largest messages.
const RATIO_MIN: f64 = 0.8;

/// Measures the part.
pub(crate) fn measure(cli: &Cli) -> Result<PartReport> {
    let server = Server::start()?;
    let layouts = Layout::kernels();
    let guests: Vec<_> = layouts.iter().zip(0..).map(|(each, n)| guest_of(each, n)).collect();
    let gateway = lab::gateway(cli, &server, &guests)?;
    let mut contestants: Vec<Box<dyn Contestant + '_>> =
        vec![Box::new(Native::new(&server, Way::Tcp))];
    for (layout, (name, cid)) in layouts.iter().zip(&guests) {
        let place = (&gateway, name.as_str(), *cid);
        let guest =
            VirtualContestant::of_gateway_with_agent(layout.clone(), place, Way::Tcp, &server)?;
        contestants.push(Box::new(guest));
    }
    let cases = cli.cases(1);
    let results = compete(&mut contestants, &cases, cli.rounds());
    let mut rows = Vec::new();
    for &case in &cases {
        let target = matches!(case, Case::Stream { message: 65_536, .. }).then_some(RATIO_MIN);
        for layout in &layouts {
            let ours = format!("outsock, {}", layout.name);
            let native = Native::name_of(Way::Tcp);
            let pair = Pair { guest: layout.name, ours: &ours, theirs: native };
            rows.extend(pair.rows(&results, case, target));
        }
    }
    let notes = vec![
        "The virtual guest plays a kernel's vsock driver in one thread and copies each byte once; \
         no program switches between user and kernel mode in it. Each connection has the receive \
         buffer that the agent asks for, 1 MiB."
            .to_owned(),
        processor_time(&results, &cases),
    ];
    let title = "Virtual guest against native loopback TCP".to_owned();
    Ok(PartReport { title, notes, rows, samples: results.into_series() })
}

/// Native TCP has no gateway; what its ends take tells what the gateway adds.
fn processor_time(results: &Results, cases: &[Case]) -> String {
    let native = Native::name_of(Way::Tcp);
    let each = cases.iter().filter_map(|&case| {
        let near = results.median(native, case, Metric::NearCpu)?;
        let far = results.median(native, case, Metric::FarCpu)?;
        Some(format!("{case}: {near:.2} + {far:.2}"))
    });
    let each: Vec<_> = each.collect();
    format!("Processor time of native TCP, client + server, in s/GB: {}.", each.join("; "))
}
