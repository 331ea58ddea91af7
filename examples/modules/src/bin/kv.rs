//! A program for guests: `kv put KEY VALUE`, `kv get KEY`, `kv delete KEY`, `kv count`.
#![forbid(unsafe_code)]

use std::io::Write;
use std::process::ExitCode;

use outsock_example_modules::{kv, way};
use outsock_vmrpc::{Errno, RpcError};

fn main() -> ExitCode {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    match run(&words) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("kv: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run(words: &[&str]) -> Result<ExitCode, Box<dyn std::error::Error>> {
    let (function, arguments) = match words {
        ["put", key, value] => (kv::PUT, kv::pair(key, value.as_bytes())),
        ["get", key] => (kv::GET, key.as_bytes().to_vec()),
        ["delete", key] => (kv::DELETE, key.as_bytes().to_vec()),
        ["count"] => (kv::COUNT, Vec::new()),
        _ => {
            eprintln!("usage: kv put KEY VALUE | get KEY | delete KEY | count");
            return Ok(ExitCode::from(64));
        }
    };
    let module = way::client()?.bind_module(kv::NAME, kv::VERSIONS)?;
    match module.perform_rpc(function, &arguments) {
        Ok(count) if function == kv::COUNT => {
            println!("{}", u32::from_le_bytes(count.as_slice().try_into()?));
        }
        Ok(value) => std::io::stdout().write_all(&value)?,
        Err(RpcError::Function(Errno::ENOENT)) => {
            eprintln!("kv: there is no such key");
            return Ok(ExitCode::FAILURE);
        }
        Err(error) => return Err(error.into()),
    }
    Ok(ExitCode::SUCCESS)
}
