//! A process that serves a module: connects to the gateway's socket for it, again and again.

use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use outsock_vmrpc::host::{HostModule, ModuleError, run_module};

/// Between two attempts to reach a gateway that is not there.
const RETRY: Duration = Duration::from_millis(500);

/// Serves `module` at the socket that the command line names, until it is refused.
pub fn main(module: impl HostModule) -> ExitCode {
    let Some(path) = std::env::args_os().nth(1).map(PathBuf::from) else {
        eprintln!("usage: give the Unix socket that the gateway's [[module]] table names");
        return ExitCode::from(64);
    };
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            eprintln!("{error}");
            return ExitCode::FAILURE;
        }
    };
    let module = Arc::new(module);
    runtime.block_on(async {
        loop {
            if let Ok(stream) = tokio::net::UnixStream::connect(&path).await {
                match run_module(stream, Arc::clone(&module)).await {
                    Err(error @ (ModuleError::Refused(_) | ModuleError::Misbehaved(_))) => {
                        eprintln!("{error}");
                        return ExitCode::FAILURE;
                    }
                    Ok(()) | Err(ModuleError::Stream(_)) => {}
                }
            }
            tokio::time::sleep(RETRY).await;
        }
    })
}
