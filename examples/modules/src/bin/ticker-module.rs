//! The process that serves `ticker`: `ticker-module /run/outsock/ticker.sock`.
#![forbid(unsafe_code)]

fn main() -> std::process::ExitCode {
    outsock_example_modules::serve::main(outsock_example_modules::ticker::Ticker)
}
