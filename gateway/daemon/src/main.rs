//! outsock-gateway: the host's side of outsock.
//!
//! | Module | What it holds |
//! |---|---|
//! | `cli` | the command line |
//! | `config` | from a TOML file to checked values |
//! | `run` | build, serve, drain, end |
//! | `guests` | one device and one listening task per guest |
//! | `socket_module` | the `socket` host module: rules, dials, tokens |
//! | `registry` | transport kinds |
//! | `pump` | bytes between a guest's bridge and an async transport |
//! | `admin` | the socket that `status` asks |
//! | `limits` | every bound |
#![forbid(unsafe_code)]

mod admin;
mod cli;
mod config;
mod guests;
mod limits;
mod pump;
mod registry;
mod run;
mod show;
mod socket_module;

use std::process::ExitCode;

use clap::Parser;
use tracing_subscriber::EnvFilter;

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
        cli::Command::Check(check) => config::Config::load(&check.config)
            .map(|config| println!("{}", show::summary(&config)))
            .map_err(Into::into),
        cli::Command::Status(status) => show_status(&status),
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
    let log = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    if run.log_json {
        log.json().init();
    } else {
        log.init();
    }
    let runtime =
        tokio::runtime::Builder::new_multi_thread().enable_all().thread_name("gateway").build()?;
    runtime.block_on(run::run(config))
}

fn show_status(status: &cli::Status) -> anyhow::Result<()> {
    let path = match &status.config {
        Some(config) => config::Config::load(config)?.admin_socket,
        None => status.admin_socket.clone(),
    };
    let answer = admin::ask_status(&path).map_err(|error| {
        anyhow::anyhow!("no gateway answers at {}: {error}; is it running?", path.display())
    })?;
    if status.json {
        println!("{}", serde_json::to_string_pretty(&answer)?);
    } else {
        print!("{}", show::status(&answer));
    }
    Ok(())
}
