//! VM RPC in a virtual and in a real guest: calls against a plain vsock echo, event queues in shared
//! memory against those over the stream.

use anyhow::{Context, Result, bail};
use outsock_boot::{BootOptions, Guest, GuestCommand, Images, Kernel};
use outsock_virtual_guest::{Layout, Options, VirtualGuest};

use super::guest_of;
use crate::cli::Cli;
use crate::contestant::CLIENT;
use crate::limits;
use crate::report::{PartReport, Row, Target};
use crate::results::median;
use crate::rpc::host::Host;
use crate::rpc::{self, Figures, Work};

/// Of a plain echo's median.
const CALL_MAX: f64 = 1.5;
/// Of the stream form's events, in the virtual guest.
const EVENTS_MIN: f64 = 20.0;
/// For a million events.
const WAKES_MAX: f64 = 100.0;

/// A guest that does work.
trait Worker {
    fn name(&self) -> String;
    fn work(&self, host: &Host, work: Work) -> Result<Figures>;
    /// How much less it does.
    fn shrink(&self) -> u64;
}

struct Virtual(VirtualGuest);

impl Worker for Virtual {
    fn name(&self) -> String {
        "virtual, 6.12".to_owned()
    }

    fn work(&self, _: &Host, work: Work) -> Result<Figures> {
        match work {
            Work::Echoes { bytes, callers, count, port } => {
                let connect = |index| {
                    let connection = self.0.open(port + index).map_err(std::io::Error::other)?;
                    connection.into_fd().map(Into::into)
                };
                rpc::echoes(connect, bytes, callers, count)
            }
            #[cfg(feature = "ttrpc")]
            Work::Ttrpc { bytes, callers, count, port } => {
                let stream = self.0.open(port)?.into_fd()?.into();
                rpc::ttrpc_calls(stream, bytes, callers, count)
            }
            Work::Calls { .. } | Work::Events { .. } => {
                rpc::measure(&rpc::bind(&self.0.rpc_sharing()?)?, work)
            }
        }
    }

    fn shrink(&self) -> u64 {
        1
    }
}

struct Real(Guest);

impl Worker for Real {
    fn name(&self) -> String {
        format!("UML {}", self.0.release())
    }

    fn work(&self, _: &Host, work: Work) -> Result<Figures> {
        let argv = [
            format!("/mnt/share/{CLIENT}"),
            "rpc-client".to_owned(),
            serde_json::to_string(&work)?,
        ];
        let command = GuestCommand::new(&argv).timeout(limits::GUEST_CASE_TIMEOUT);
        let output = self.0.run_command(&command)?;
        if !output.status.success() {
            bail!("the client failed in the guest: {}", output.stderr_text().trim());
        }
        serde_json::from_str(&output.stdout_text()).context("the client gave no figures")
    }

    fn shrink(&self) -> u64 {
        4
    }
}

/// Measures the part.
pub(crate) fn measure(cli: &Cli) -> Result<PartReport> {
    let mut report = PartReport {
        title: "VM RPC: calls and event queues".to_owned(),
        notes: vec![
            "Calls go to a module that gives the arguments back, plain messages to a port that \
             echoes; device, module and echo are in one process. Each of 64 callers of the echo has \
             a connection of its own, those of VM RPC share one, as those of ttrpc do (synchronous client \
             and server). Events have 16 bytes, their queue 1 \
             MiB each way. Wake-ups are the messages, both ways, that woke a sleeping side."
                .to_owned(),
        ],
        ..PartReport::default()
    };
    let layout = Layout::linux_6_12();
    let (_, cid) = guest_of(&layout, 0);
    let host = Host::start(cid)?;
    let options = Options { canaries: false, ..Options::for_layout(layout) };
    compare(cli, &host, &Virtual(VirtualGuest::connect(host.socket(), options)?), &mut report)?;
    let image =
        Images::in_target_directory().prepare(Kernel::Uml72, &mut |line| eprintln!("  {line}"))?;
    let share = tempfile::tempdir()?;
    std::fs::copy(std::env::current_exe()?, share.path().join(CLIENT))?;
    let host = Host::start(cid)?;
    let guest = Guest::boot(BootOptions {
        vsock_socket: Some(host.socket()),
        share: Some(share.path().to_owned()),
        ..BootOptions::new(image)
    })?;
    compare(cli, &host, &Real(guest), &mut report)?;
    Ok(report)
}

fn compare(cli: &Cli, host: &Host, worker: &dyn Worker, report: &mut PartReport) -> Result<()> {
    let shrink = cli.shrink() * worker.shrink();
    for (bytes, callers) in [(0, 1), (4096, 1), (0, 64), (4096, 64)] {
        let count = limits::ROUND_TRIPS / shrink / u64::from(callers);
        let (mut calls, mut echoes, mut others) = (Vec::new(), Vec::new(), Vec::new());
        for round in 1..=cli.rounds() {
            eprintln!("  round {round}: {bytes} bytes, {callers} callers");
            calls.push(worker.work(host, Work::Calls { bytes, callers, count })?);
            let port = host.echo_ports(callers)?;
            echoes.push(worker.work(host, Work::Echoes { bytes, callers, count, port })?);
            others.extend(by_others(host, worker, bytes, callers, count)?);
        }
        let what = format!("perform_rpc, {bytes} B, {callers} callers");
        for (against, theirs) in [("vsock echo", &echoes), ("ttrpc", &others)] {
            if theirs.is_empty() {
                continue;
            }
            let p50 = pair(&calls, theirs, |figures| figures.p50);
            let is_promised = against == "vsock echo";
            let target = is_promised.then(|| Target::at_most(CALL_MAX, "x", p50.0 / p50.1));
            report.rows.push(times(format!("{what}, p50"), worker, against, p50, target));
            let p99 = pair(&calls, theirs, |figures| figures.p99);
            report.rows.push(times(format!("{what}, p99"), worker, against, p99, None));
        }
    }
    for from_guest in [true, false] {
        let (mut shared, mut stream) = (Vec::new(), Vec::new());
        for round in 1..=cli.rounds() {
            eprintln!("  round {round}: events, from the guest: {from_guest}");
            let work = |shared, count| Work::Events { shared, from_guest, count };
            shared.push(worker.work(host, work(true, limits::EVENTS / shrink))?);
            stream.push(worker.work(host, work(false, limits::EVENTS_STREAM / shrink))?);
        }
        let way = if from_guest { "from the guest" } else { "to the guest" };
        let (ours, theirs) = pair(&shared, &stream, |figures| figures.events_per_second);
        let row = Row { guest: worker.name(), ..Row::default() };
        let is_virtual = worker.shrink() == 1;
        report.rows.push(Row {
            what: format!("events put and got, {way}"),
            outsock: format!("{ours:.0} /s"),
            against: format!("over the stream: {theirs:.0} /s"),
            ratio: Some(ours / theirs),
            target: is_virtual.then(|| Target::at_least(EVENTS_MIN, ours / theirs)),
            ..row
        });
        let (wakes, _) = pair(&shared, &stream, |figures| figures.wakes_per_million);
        report.rows.push(Row {
            what: format!("wake-ups for a million events, {way}"),
            guest: worker.name(),
            outsock: format!("{wakes:.0}"),
            target: Some(Target::at_most(WAKES_MAX, "", wakes)),
            ..Row::default()
        });
    }
    Ok(())
}

#[cfg(feature = "ttrpc")]
fn by_others(
    host: &Host,
    worker: &dyn Worker,
    bytes: u32,
    callers: u32,
    count: u64,
) -> Result<Option<Figures>> {
    let port = host.ttrpc_port()?;
    worker.work(host, Work::Ttrpc { bytes, callers, count, port }).map(Some)
}

#[cfg(not(feature = "ttrpc"))]
#[expect(clippy::unnecessary_wraps, reason = "the same with the feature")]
fn by_others(_: &Host, _: &dyn Worker, _: u32, _: u32, _: u64) -> Result<Option<Figures>> {
    Ok(None)
}

fn pair(ours: &[Figures], theirs: &[Figures], figure: impl Fn(&Figures) -> f64) -> (f64, f64) {
    let middle =
        |all: &[Figures]| median(&all.iter().map(&figure).collect::<Vec<_>>()).unwrap_or(f64::NAN);
    (middle(ours), middle(theirs))
}

fn times(
    what: String,
    worker: &dyn Worker,
    against: &str,
    (ours, theirs): (f64, f64),
    target: Option<Target>,
) -> Row {
    Row {
        what,
        guest: worker.name(),
        outsock: format!("{:.1} us", ours * 1e6),
        against: format!("{against}: {:.1} us", theirs * 1e6),
        ratio: Some(ours / theirs),
        target,
    }
}
