//! The process that serves `kv`: `kv-module /run/outsock/kv.sock`.
#![forbid(unsafe_code)]

fn main() -> std::process::ExitCode {
    outsock_example_modules::serve::main(outsock_example_modules::kv::Kv::default())
}
