//! Serves `outsock run --gateway unix:PATH` from this machine: `stand_in_gateway PATH`.
//!
//! For trying the agent without a virtual machine; see `tests/stand_in` for what it does.

#[path = "../tests/stand_in/mod.rs"]
mod stand_in;

#[tokio::main]
async fn main() {
    let Some(path) = std::env::args_os().nth(1) else {
        eprintln!("usage: stand_in_gateway PATH");
        std::process::exit(64);
    };
    stand_in::run(path.into()).await;
}
