//! Demo: a guest without a network card, an unmodified curl in it, a page from outside.
//!
//! in: which guest; out: what went which way. Owner: [`Scene`] holds all that was started, the guest
//! first, so that it ends before what it uses. Kept: every path out of here drops it, Ctrl-C too.
//! Bound: every wait has a deadline, in the crates that wait.

mod page;
mod scene;

use std::process::ExitCode;

use anyhow::{Context, bail};
use outsock_boot::{Images, Kernel, Output, install_missing};
use outsock_site::{Interrupt, Programs};

use crate::cli;
use crate::report::{Report, indented};
use page::PageServer;
use scene::Scene;

/// The guest asks for this address (RFC 5737: documentation); a rule leads it to our page.
const PAGE_ADDRESS: &str = "192.0.2.10";
/// No rule knows this one.
const OTHER_ADDRESS: &str = "198.51.100.7";
/// curl: "Failed to connect to host".
const CURL_NOT_CONNECTED: i32 = 7;
const CURL: [&str; 6] = ["curl", "-sS", "--noproxy", "*", "--max-time", "10"];

pub(crate) fn run(demo: &cli::Demo, interrupt: &Interrupt) -> anyhow::Result<ExitCode> {
    let mut report = Report::new();
    println!("outsock demo: a virtual machine without a network card, an unmodified curl in it,");
    println!("and a page from a server outside.\n");
    install_missing(&["curl", "util-linux"], &mut |line| report.step(line))?;
    report.step("building the gateway and the static agent (minutes the first time)");
    let programs = Programs::build(interrupt, &mut |line| report.detail(line))?;
    let page = PageServer::start().context("cannot start the demo's own server")?;
    report.step(format!("a server of our own listens on {} (host, not guest)", page.address()));
    let mut scene = Scene::prepare(&programs, &config(&page))?;
    report.step("the gateway runs with this configuration:");
    println!("\n{}", indented(&scene.gateway.config()));
    boot(demo, &mut scene, interrupt, &mut report)?;
    let outcome = show(&scene, &page, interrupt, &report);
    if demo.gateway_log || outcome.is_err() {
        println!("\nThe gateway's log:\n{}", indented(&scene.gateway.log()));
    }
    report.step("ending the guest, the gateway and the server");
    let ended = scene.end();
    outcome?;
    ended?;
    report.step(format!(
        "done after {:.1} s; nothing is left running",
        report.elapsed().as_secs_f32()
    ));
    Ok(ExitCode::SUCCESS)
}

/// The guest and its socket are added by the scene, which knows where that is.
fn config(page: &PageServer) -> String {
    format!(
        "[[route]]\n\
         name = \"the page\"\n\
         to = [\"{PAGE_ADDRESS}/32\"]\n\
         ports = [80]\n\
         via = \"direct\"\n\
         target = \"{}\"\n\
         # Nothing else is allowed: the default is EACCES.\n",
        page.address()
    )
}

/// User Mode Linux first: it boots in a second. Where it cannot run, QEMU can.
fn boot(
    demo: &cli::Demo,
    scene: &mut Scene,
    interrupt: &Interrupt,
    report: &mut Report,
) -> anyhow::Result<()> {
    let kernels = match demo.guest {
        Some(kernel) => vec![kernel],
        None => vec![Kernel::Uml72, Kernel::Qemu61],
    };
    let last = kernels.len() - 1;
    for (number, kernel) in kernels.into_iter().enumerate() {
        if interrupt.is_set() {
            bail!("interrupted");
        }
        report.step(format!("preparing the guest image {kernel} (fetched once)"));
        let booted = Images::in_target_directory()
            .prepare(kernel, &mut |line| report.step(format!("  {line}")))
            .map_err(Into::into)
            .and_then(|image| {
                report.step(format!("booting {kernel}"));
                scene.boot(image)
            });
        match booted {
            Ok(()) => break,
            Err(error) if number < last => {
                report.step(format!("{kernel} does not run here, trying another: {error:#}"));
            }
            Err(error) => return Err(error),
        }
    }
    let guest = scene.guest()?;
    report.step(format!(
        "guest up after {:.1} s: Linux {}, vsock CID {}",
        guest.boot_time().as_secs_f32(),
        guest.release(),
        guest.cid().map_or_else(|| "none".to_owned(), |cid| cid.to_string()),
    ));
    Ok(())
}

/// The acts of the demo, in order. Each checks what it shows.
fn show(
    scene: &Scene,
    page: &PageServer,
    interrupt: &Interrupt,
    report: &Report,
) -> anyhow::Result<()> {
    let url = format!("http://{PAGE_ADDRESS}/");
    let other = format!("http://{OTHER_ADDRESS}/");
    let devices = act(scene, interrupt, report, &["ls", "/sys/class/net"])?;
    if devices.stdout_text().trim() != "lo" {
        bail!("the guest should have no network device but lo");
    }
    let plain = [&CURL[..], &[&url]].concat();
    let without = act(scene, interrupt, report, &plain)?;
    if without.status.code() != Some(CURL_NOT_CONNECTED) {
        bail!("curl without outsock should fail to connect (code {CURL_NOT_CONNECTED})");
    }
    let agent = [scene.agent(), "run", "--"];
    let began = report.elapsed();
    let fetched = act(scene, interrupt, report, &[&agent[..], &CURL, &[&url]].concat())?;
    let took = report.elapsed().saturating_sub(began);
    if !fetched.status.success() || fetched.stdout != page.body() {
        bail!("curl under outsock should print the page");
    }
    let refused = act(scene, interrupt, report, &[&agent[..], &CURL, &[&other]].concat())?;
    if refused.status.success() {
        bail!("no rule allows {OTHER_ADDRESS}, curl should fail");
    }
    println!("\nWhat went which way:\n");
    println!("{}", way(scene, page, &url)?);
    println!("outsock-gateway status:\n{}", indented(&scene.gateway.status_table()?));
    println!("Summary: the page came in {:.2} s, agent start included.", took.as_secs_f32());
    println!("The same curl without outsock failed; a destination without a rule was refused.\n");
    Ok(())
}

fn act(
    scene: &Scene,
    interrupt: &Interrupt,
    report: &Report,
    argv: &[&str],
) -> anyhow::Result<Output> {
    report.step(format!("guest$ {}", argv.join(" ")));
    let output = scene.run(interrupt, argv)?;
    print!("{}{}", indented(&output.stdout_text()), indented(&output.stderr_text()));
    report.step(format!("  -> {}", output.status));
    Ok(output)
}

/// The path of the connection, by what each side saw of it.
fn way(scene: &Scene, page: &PageServer, url: &str) -> anyhow::Result<String> {
    let log = scene.gateway.log();
    let connected = log
        .lines()
        .find(|line| line.contains("connected") && line.contains(PAGE_ADDRESS))
        .context("the gateway's log does not show the connection")?;
    let peer = page.last_peer().context("the server saw no connection")?;
    Ok(format!(
        "    curl in the guest     connect() to {PAGE_ADDRESS}:80 for {url}\n\
         \x20     outsock agent       caught the call, announced a token by VM RPC\n\
         \x20     AF_VSOCK socket     became curl's own descriptor; bytes move in the virtqueues\n\
         \x20   outsock-gateway       rule \"the page\" -> transport \"direct\" -> {}\n\
         \x20     its log             {}\n\
         \x20   server on the host    served a connection from {peer}\n",
        page.address(),
        connected.trim(),
    ))
}
