//! Differential: one socket program, natively over the guest's own TCP and outsourced through the gateway.
//!
//! in: a world; out: a verdict. Owner: the caller; the peer belongs to the world. Kept: both runs are of the same
//! guest kernel, so a difference is outsock's; the differences are exactly those of `docs/socket-semantics.md`.
//! Bound: [`TIME`].

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, Stdio};
use std::time::Duration;

use outsock_boot::GuestCommand;
use outsock_e2e::differential::{Difference, Observations};
use outsock_e2e::document::Document;
use outsock_site::{Directory, target_directory, tied, workspace};

use crate::Verdict;
use crate::host::{missing, program};
use crate::net::{HOST, HOST6, REACHED4, REACHED6, Service};
use crate::places::Places;
use crate::world::{World, outsourced};

/// Software emulation on a busy machine.
const TIME: Duration = Duration::from_secs(600);
const PROGRAM: &str = "differential";
const DOCUMENT: &str = "docs/socket-semantics.md";

/// The program's other end, on the host.
pub(crate) struct Peer {
    child: Child,
    pub(crate) services: Vec<Service>,
    _output: BufReader<ChildStdout>,
}

impl Drop for Peer {
    fn drop(&mut self) {
        // Its own process group: the processes that it forked end too.
        let group = format!("-{}", self.child.id());
        let _ = Command::new("kill").args(["-KILL", "--", &group]).stderr(Stdio::null()).status();
        let _ = self.child.wait();
    }
}

/// Builds the program into the share directory.
fn build(directory: &Directory) -> Result<PathBuf, String> {
    let gcc = program(&["gcc"]).ok_or_else(|| missing("gcc"))?;
    let sources = workspace().join("tests/e2e/guest/differential");
    let mut files: Vec<PathBuf> = std::fs::read_dir(&sources)
        .map_err(|error| error.to_string())?
        .flatten()
        .map(|entry| entry.path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "c"))
        .collect();
    files.sort();
    let target = directory.share().join(PROGRAM);
    let output = Command::new(gcc)
        .args(["-static", "-O1", "-Wall", "-Wextra", "-Werror", "-pthread", "-o"])
        .arg(&target)
        .args(&files)
        .output()
        .map_err(|error| error.to_string())?;
    if !output.status.success() {
        return Err(String::from_utf8_lossy(&output.stderr).into_owned());
    }
    let script = sources.join("native.sh");
    std::fs::copy(script, directory.share().join("native.sh"))
        .map_err(|error| error.to_string())?;
    Ok(target)
}

/// Starts the peer on the host's loopback.
pub(crate) fn peer(directory: &Directory, places: &Places) -> Result<Peer, String> {
    let built = build(directory)?;
    if !places.published.iter().any(|(port, _)| REACHED6.contains(port)) {
        return Err("this host has no IPv6 loopback".to_owned());
    }
    // The guest may not change what runs on the host.
    let own = directory.path("peer");
    std::fs::copy(&built, &own).map_err(|error| error.to_string())?;
    let mut command = tied(&own);
    command.args(["peer", "127.0.0.1", "::1", "any"]);
    let reached = REACHED4.chain(REACHED6).map(|port| places.published(port).port().to_string());
    command.args(reached);
    let mut child = command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::inherit())
        .spawn()
        .map_err(|error| error.to_string())?;
    let mut output = BufReader::new(child.stdout.take().unwrap());
    let services = services(&mut output);
    let peer = Peer { child, services: services.clone().unwrap_or_default(), _output: output };
    services.map(|_| peer)
}

/// Reads "FAMILY PORT REAL-PORT" lines until "ready".
fn services(output: &mut impl BufRead) -> Result<Vec<Service>, String> {
    let mut services = Vec::new();
    let mut line = String::new();
    while output.read_line(&mut line).is_ok_and(|length| length > 0) {
        let text = std::mem::take(&mut line);
        let words: Vec<&str> = text.split_whitespace().collect();
        match words[..] {
            ["ready"] => return Ok(services),
            [family, port, real] => {
                let (host, at) = if family == "6" { (HOST6, "[::1]") } else { (HOST, "127.0.0.1") };
                let (Ok(port), Ok(target)) = (port.parse(), format!("{at}:{real}").parse()) else {
                    return Err(format!("the peer said {text:?}"));
                };
                services.push(Service { host, port, target });
            }
            _ => return Err(format!("the peer said {text:?}")),
        }
    }
    Err("the peer ended; its reason is above (it needs IPv4 and IPv6 on loopback)".to_owned())
}

fn observe(world: &World, way: &str, argv: &[&str]) -> Observations {
    let command = GuestCommand::new(argv).timeout(TIME);
    let output =
        world.guest().run_command(&command).unwrap_or_else(|error| panic!("{way}: {error}"));
    let text = output.stdout_text();
    keep(&text, &format!("{}-{way}.txt", world.kernel()));
    assert!(output.status.success(), "{way}: {}{}", output.status, output.stderr_text());
    Observations::parse(&text).unwrap_or_else(|error| panic!("{way}: {error}"))
}

/// For who wants to look at it.
fn keep(text: &str, name: &str) {
    let directory = target_directory().join("differential");
    let kept = std::fs::create_dir_all(&directory)
        .and_then(|()| std::fs::write(Path::new(&directory).join(name), text));
    if let Err(error) = kept {
        println!("cannot write {}: {error}", directory.join(name).display());
    }
}

/// Runs the program both ways.
fn compare(world: &World) -> (Observations, Vec<Difference>) {
    let program = format!("/mnt/share/{PROGRAM}");
    let outsock = observe(world, "outsock", &outsourced(&[&program, "run", "outsock"]));
    let native = observe(world, "native", &["sh", "/mnt/share/native.sh", "/mnt/share"]);
    assert!(native.broken().is_empty(), "natively: {:#?}", native.broken());
    let differences = native.differences(&outsock);
    (native, differences)
}

pub(crate) fn differential(world: &mut World) -> Verdict {
    if let Err(reason) = &world.processes.peer {
        return Verdict::Skipped(reason.clone());
    }
    let (native, differences) = compare(world);
    let text = std::fs::read_to_string(workspace().join(DOCUMENT)).unwrap();
    let document = Document::parse(&text).unwrap_or_else(|error| panic!("{DOCUMENT}: {error}"));
    // `uml-7.2` is 7.2 in the document.
    let name = world.kernel().name();
    let kernel = name.rsplit_once('-').map_or(name, |(_, kernel)| kernel);
    let mut wrong = document.contradictions();
    let mut cases: Vec<&str> = native.cases().map(|(case, _)| case).collect();
    cases.dedup();
    wrong.extend(document.unbacked(&cases));
    let mut disagreements = document.disagreements(kernel, &differences);
    if !disagreements.is_empty() {
        // What a busy moment made of one value is not there a second time.
        for line in &disagreements {
            println!("{DOCUMENT}: looking again: {line}");
        }
        let again = document.disagreements(kernel, &compare(world).1);
        disagreements.retain(|line| again.contains(line));
    }
    wrong.extend(disagreements);
    for line in &wrong {
        println!("{DOCUMENT}: {line}");
    }
    println!("{} values compared, {} differ", native.count(), differences.len());
    assert!(wrong.is_empty(), "{} disagreements with {DOCUMENT}", wrong.len());
    Verdict::Passed
}
