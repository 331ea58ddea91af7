//! Many connections: they all work, and an idle one takes little memory.

use std::io::{Read, Write};
use std::time::Instant;

use anyhow::{Context, Result, bail};
use outsock_virtual_guest::{Connection, Layout};

use super::guest_of;
use crate::case::real;
use crate::cli::Cli;
use crate::contestant::VirtualContestant;
use crate::lab::{self, Server, Way};
use crate::limits;
use crate::protocol::Purpose;
use crate::report::{PartReport, Row, Target};

const MEMORY: &str = "Memory is the growth of the process's resident set; the kernel's socket buffers \
                      are not in it.";

/// KiB of the gateway's memory for one connection.
const KIB_MAX: f64 = 4.0;

/// Opening and holding so many connections.
#[derive(Debug)]
struct Step {
    /// Connections now.
    count: usize,
    /// How fast those that were added were opened, per second.
    opened_per_second: f64,
    /// KiB that the process has grown by since the first step, for each connection.
    kib_each: f64,
}

/// Measures the part.
pub(crate) fn measure(cli: &Cli) -> Result<PartReport> {
    let server = Server::start()?;
    let layout = Layout::linux_6_12();
    let (name, cid) = guest_of(&layout, 0);
    let gateway = lab::gateway(cli, &server, &[(name.clone(), cid)])?;
    let place = (&gateway, name.as_str(), cid);
    let ours = VirtualContestant::of_gateway_with_agent(layout.clone(), place, Way::Tcp, &server)?;
    let mut steps = Vec::new();
    hold(&ours, &limits::IDLE_CONNECTIONS, &mut steps)?;
    let (mut peers, mut notes) = (Vec::new(), vec![MEMORY.to_owned()]);
    if let Some(binary) = &cli.peer {
        let peer = VirtualContestant::of_peer(layout.clone(), (binary, cid + 1), &server)?;
        if let Err(error) = hold(&peer, &limits::IDLE_CONNECTIONS, &mut peers) {
            eprintln!("  the peer fails: {error:#}");
            notes.push(format!("The peer fails where it has no figure: {error:#}."));
        }
    }
    let mut rows = Vec::new();
    for step in &steps {
        let peer = peers.iter().find(|peer| peer.count == step.count);
        let row = |what: String, outsock: String, peer: Option<String>| Row {
            what,
            guest: layout.name.to_owned(),
            outsock,
            against: peer.map(|text| format!("peer: {text}")).unwrap_or_default(),
            ..Row::default()
        };
        let opened = |step: &Step| format!("all, opened at {:.0} /s", step.opened_per_second);
        let what = format!("{} connections at a time, a byte each way on each", step.count);
        rows.push(row(what, opened(step), peer.map(opened)));
        let memory = |step: &Step| format!("{:.2} KiB", step.kib_each);
        let what = format!("memory for each idle one of {}", step.count);
        let mut memory = row(what, memory(step), peer.map(memory));
        memory.ratio = peer.map(|peer| step.kib_each / peer.kib_each);
        memory.target = Some(Target::at_most(KIB_MAX, "KiB", step.kib_each));
        rows.push(memory);
    }
    let title = "Virtual guest: many connections".to_owned();
    Ok(PartReport { title, notes, rows, samples: Vec::new() })
}

/// Opens more and more connections, and sends a byte there and back on each of them, new and old.
fn hold(contestant: &VirtualContestant<'_>, counts: &[usize], steps: &mut Vec<Step>) -> Result<()> {
    // What a first connection needs is not what each needs.
    echo(&open(contestant)?)?;
    let pid = contestant.backend_pid();
    let empty = rss_bytes(pid)?;
    let mut held: Vec<Connection> = Vec::new();
    for &count in counts {
        let added = count - held.len();
        let began = Instant::now();
        held.extend(open_many(contestant, added)?);
        let opened_per_second = real(added as u64) / began.elapsed().as_secs_f64();
        for connection in &held {
            echo(connection)?;
        }
        let grown = rss_bytes(pid)?.saturating_sub(empty);
        let kib_each = real(grown) / 1024.0 / real(count as u64);
        eprintln!("  {count} connections, {opened_per_second:.0} /s");
        steps.push(Step { count, opened_per_second, kib_each });
    }
    Ok(())
}

fn open_many(contestant: &VirtualContestant<'_>, count: usize) -> Result<Vec<Connection>> {
    let each = count.div_ceil(limits::IDLE_OPENING);
    std::thread::scope(|scope| {
        let starts = (0..count).step_by(each);
        let threads: Vec<_> = starts
            .map(|start| {
                let count = each.min(count - start);
                scope
                    .spawn(move || (0..count).map(|_| open(contestant)).collect::<Result<Vec<_>>>())
            })
            .collect();
        let mut all = Vec::with_capacity(count);
        for thread in threads {
            match thread.join() {
                Ok(connections) => all.extend(connections?),
                Err(_) => bail!("a thread panicked"),
            }
        }
        Ok(all)
    })
}

fn open(contestant: &VirtualContestant<'_>) -> Result<Connection> {
    let mut connection = contestant.connect()?;
    connection.write_all(&[Purpose::Echo.byte()])?;
    echo(&connection)?;
    Ok(connection)
}

fn echo(mut connection: &Connection) -> Result<()> {
    connection.write_all(&[0x42])?;
    let mut byte = [0];
    connection.read_exact(&mut byte)?;
    if byte != [0x42] {
        bail!("another byte came back");
    }
    Ok(())
}

/// Memory of a process, bytes.
fn rss_bytes(pid: u32) -> Result<u64> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kib = line.and_then(|line| line.trim().trim_end_matches(" kB").parse::<u64>().ok());
    Ok(kib.context("no VmRSS")? * 1024)
}
