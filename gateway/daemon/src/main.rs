//! outsock-gateway: the host's side of outsock.
//!
//! | Module | What it holds |
//! |---|---|
//! | `cli` | the command line |
//! | `config` | from a TOML file to checked values |
//! | `run` | build, serve, drain, end |
//! | `gateway` | the running daemon, and its reload |
//! | `policy` | what a reload replaces: configuration, transports, groups, resolvers |
//! | `guests` | one device and one listening task per guest |
//! | `socket_module` | the `socket` host module: limits, dials, tokens |
//! | `modules` | host modules of the configuration: processes and eBPF objects |
//! | `ebpf` | a host module that runs in the kernel (feature `ebpf`) |
//! | `modules_module` | the `modules` host module: who uses what |
//! | `datagram_module` | the `datagram` host module: flows of UDP and ICMP echo |
//! | `resolver_module` | the `resolver` host module: DNS for guests |
//! | `choose`, `dial` | from a wish to a way, from a way to a connection |
//! | `encrypt`, `own_tls` | TLS by rule; programs that bring their own |
//! | `registry`, `group` | transport kinds, groups of transports and their health |
//! | `peers` | other gateways: their streams, their exits |
//! | `names`, `seen`, `upstream` | synthetic addresses, names just resolved, the host's resolvers |
//! | `network` | the authority of a private network: its key, certificates, revocations |
//! | `vsock` | programs of guests that open AF_VSOCK sockets by themselves |
//! | `own` | whether an address is this host's |
//! | `connections` | who is connected where |
//! | `pump`, `throttle` | bytes between a guest's bridge and a far end, and how many a second |
//! | `admin`, `status`, `explain`, `show` | what people ask, and how it is printed |
//! | `launch` | programs of others, with nothing of ours |
//! | `clock`, `logs` | the time, lines that a guest may cause |
//! | `limits` | every bound |
#![forbid(unsafe_code)]

mod admin;
mod choose;
mod cli;
mod clock;
mod config;
mod connections;
mod datagram_module;
mod dial;
#[cfg(feature = "ebpf")]
mod ebpf;
mod encrypt;
mod explain;
mod gateway;
mod group;
mod guests;
mod launch;
mod limits;
mod logs;
mod modules;
mod modules_module;
mod names;
mod network;
mod own;
mod own_tls;
mod peers;
mod policy;
mod pump;
mod registry;
mod resolver_module;
mod run;
mod seen;
mod show;
mod socket_module;
mod status;
mod throttle;
mod upstream;
mod vsock;

use std::io::IsTerminal;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::Parser;
use tracing_subscriber::EnvFilter;

use crate::admin::Ask;

/// EX_USAGE of sysexits.h: the command line or the configuration is wrong.
const EXIT_USAGE: u8 = 64;

fn main() -> ExitCode {
    let cli = match cli::Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => {
            let code = if error.use_stderr() { EXIT_USAGE } else { 0 };
            // Nothing is left to say when the terminal is gone.
            let _ = error.print();
            return ExitCode::from(code);
        }
    };
    let result = match cli.command {
        cli::Command::Run(run) => run_gateway(&run),
        cli::Command::Keygen(keygen) => make_key(&keygen),
        cli::Command::Network(what) => network::run(&what.command),
        cli::Command::Check(check) => check_config(&check),
        cli::Command::Become(what) => launch::become_program(&what),
        cli::Command::Status(status) => show_status(&status),
        cli::Command::Reload(reload) => ask_reload(&reload),
        cli::Command::Explain(question) => show_explanation(&question),
        cli::Command::Modules(modules) => show_modules(&modules.asked),
        cli::Command::Overlay(asked) => show_overlay(&asked),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("outsock-gateway: {error:#}");
            let usage = error.is::<config::ConfigError>();
            ExitCode::from(if usage { EXIT_USAGE } else { 1 })
        }
    }
}

fn run_gateway(run: &cli::Run) -> anyhow::Result<()> {
    let config = config::Config::load(&run.config)?;
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("info"));
    let log = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_ansi(std::io::stderr().is_terminal())
        .with_writer(std::io::stderr);
    if run.log_json {
        log.json().init();
    } else {
        log.init();
    }
    runtime()?.block_on(run::run(&run.config, config))
}

fn make_key(keygen: &cli::Keygen) -> anyhow::Result<()> {
    let identity = if keygen.show {
        outsock_peer::Identity::load(&keygen.file)?
    } else {
        outsock_peer::Identity::create(&keygen.file)?
    };
    // Alone on standard output, for scripts.
    println!("{}", identity.key());
    Ok(())
}

fn check_config(check: &cli::Check) -> anyhow::Result<()> {
    let config = config::Config::load(&check.config)?;
    let summary = show::summary(&config);
    let key_file = config.identity.as_ref().map(|identity| identity.key_file.clone());
    // Also what the file names must be there. Nothing is dialled and nothing started.
    if let Some(identity) = &key_file {
        let identity = outsock_peer::Identity::load(identity)?;
        peers::members(&config, identity.key())?;
    }
    let _entered = runtime()?.block_on(async { policy::Policy::build(config, None) })?;
    println!("{summary}");
    Ok(())
}

fn runtime() -> std::io::Result<tokio::runtime::Runtime> {
    tokio::runtime::Builder::new_multi_thread().enable_all().thread_name("gateway").build()
}

/// The admin socket that a command means.
fn admin_socket(config: Option<&Path>, given: &Path) -> anyhow::Result<PathBuf> {
    Ok(match config {
        Some(config) => config::Config::load(config)?.admin_socket,
        None => given.to_owned(),
    })
}

fn show_status(status: &cli::Status) -> anyhow::Result<()> {
    let path = admin_socket(status.config.as_deref(), &status.admin_socket)?;
    let answer: status::Status = admin::ask(&path, &Ask::Status)?;
    if status.json {
        println!("{}", serde_json::to_string_pretty(&answer)?);
    } else {
        print!("{}", show::status(&answer));
    }
    Ok(())
}

fn show_overlay(asked: &cli::Overlay) -> anyhow::Result<()> {
    let (status, list) = match asked {
        cli::Overlay::Peers(status) => (status, true),
        cli::Overlay::Relays(status) => (status, false),
        cli::Overlay::Lookup(lookup) => return show_lookup(lookup),
    };
    let path = admin_socket(status.config.as_deref(), &status.admin_socket)?;
    let answer: status::Status = admin::ask(&path, &Ask::Status)?;
    let overlay = answer.overlay.ok_or(peers::LookupError::NoOverlay)?;
    match (list, status.json) {
        (true, true) => println!("{}", serde_json::to_string_pretty(&overlay.peers)?),
        (false, true) => println!("{}", serde_json::to_string_pretty(&overlay.relays)?),
        (true, false) => print!("{}", show::overlay_peers(&overlay)),
        (false, false) => print!("{}", show::overlay_relays(&overlay)),
    }
    Ok(())
}

fn show_lookup(lookup: &cli::Lookup) -> anyhow::Result<()> {
    let asked = &lookup.asked;
    let path = admin_socket(asked.config.as_deref(), &asked.admin_socket)?;
    let ask = Ask::Lookup { name: lookup.name.clone() };
    let record: status::OverlayRecord = admin::ask(&path, &ask)?;
    if asked.json {
        println!("{}", serde_json::to_string_pretty(&record)?);
    } else {
        println!("{}", record.key);
        record.addresses.iter().for_each(|address| println!("  {address}"));
    }
    Ok(())
}

fn show_modules(modules: &cli::Status) -> anyhow::Result<()> {
    let path = admin_socket(modules.config.as_deref(), &modules.admin_socket)?;
    let answer: modules_module::Listing = admin::ask(&path, &Ask::Modules)?;
    if modules.json {
        println!("{}", serde_json::to_string_pretty(&answer)?);
    } else {
        print!("{}", show::modules(&answer));
    }
    Ok(())
}

fn ask_reload(reload: &cli::Reload) -> anyhow::Result<()> {
    // A bad file is refused here already, with exit code 64; the gateway reads it for itself.
    let path = admin_socket(reload.config.as_deref(), &reload.admin_socket)?;
    let done: gateway::Reloaded = admin::ask(&path, &Ask::Reload)?;
    println!("{}", show::reloaded(&done));
    Ok(())
}

fn show_explanation(explain: &cli::Explain) -> anyhow::Result<()> {
    let question = explain.question();
    let answer = match &explain.config {
        None => admin::ask(&explain.admin_socket, &Ask::Explain(question))?,
        Some(path) => {
            let config = config::Config::load(path)?;
            let own = own::OwnAddresses::new()?;
            runtime()?.block_on(async {
                let policy = policy::Policy::build(config, None)?;
                anyhow::Ok(explain::explain(&policy, &own, None, &question).await?)
            })?
        }
    };
    if explain.json {
        println!("{}", serde_json::to_string_pretty(&answer)?);
    } else {
        print!("{}", show::explanation(&answer));
    }
    Ok(())
}
