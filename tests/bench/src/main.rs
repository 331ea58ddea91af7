//! Measures outsock against native loopback TCP, and against another vhost-user vsock backend.
//!
//! in: binaries and the names of parts; out: a Markdown table, and JSON. All figures of a table come from
//! one run, in interleaved rounds, so that their ratios mean something on a busy machine.
//!
//! From outside in: [`supervise`] makes a folder and a process group that end with the program;
//! [`run`] does the parts: [`parts`] say what is compared; a [`contestant`] carries out a [`case`]
//! (with [`server`] at the far end, and [`client`] where a process plays the near one) and
//! [`results`] keeps the samples; [`report`] makes rows, [`table`] prints them.
#![forbid(unsafe_code)]

use std::process::ExitCode;

use clap::Parser;

mod calls;
mod case;
mod cli;
mod client;
mod contestant;
mod cpu;
mod flows;
mod lab;
mod limits;
mod machine;
mod parts;
mod peer;
mod protocol;
mod report;
mod results;
mod rpc;
mod run;
mod secure;
mod server;
mod supervise;
mod table;

use cli::{Cli, Task};

fn main() -> ExitCode {
    let cli = Cli::parse();
    let outcome = match &cli.task {
        Some(Task::Serve { unix, doors }) => server::serve(unix, doors),
        Some(Task::Client { to, case }) => client::main(to, case),
        Some(Task::RpcClient { work }) => rpc::main(work),
        None if cli.supervised => run::run(&cli),
        None => return supervise::supervise(),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("outsock-bench: {error:#}");
            ExitCode::FAILURE
        }
    }
}
