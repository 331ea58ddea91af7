//! Programs: the gateway and the static agent, built from this workspace.
//!
//! in: the workspace's sources; out: paths of two programs. Owner: cargo's target directory. Kept:
//! both are of the sources as they are now, cargo sees to that. Bound: one cargo at a time, its lock
//! sees to that.

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::interrupt::Interrupt;
use crate::run::{RunError, run_lines, tied};

/// The agent is one static file that runs on any distribution.
const AGENT_RUSTFLAGS: &str = "-C target-feature=+crt-static";
const AGENT_TARGET: &str = "x86_64-unknown-linux-gnu";

/// Why the programs are not there.
#[derive(Debug, thiserror::Error)]
pub enum ProgramsError {
    /// Cargo failed.
    #[error("cargo could not build {package}; it said:\n{said}")]
    Build {
        /// What was built.
        package: &'static str,
        /// Its last lines.
        said: String,
    },
    /// Cargo did not run to its end.
    #[error(transparent)]
    Run(#[from] RunError),
}

/// The built programs.
#[derive(Clone, Debug)]
pub struct Programs {
    /// `outsock-gateway`, for the host.
    pub gateway: PathBuf,
    /// `outsock`, static, for guests.
    pub agent: PathBuf,
}

/// The workspace's root.
#[must_use]
pub fn workspace() -> PathBuf {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    root.canonicalize().unwrap_or(root)
}

/// Where cargo puts what it builds.
#[must_use]
pub fn target_directory() -> PathBuf {
    std::env::var_os("CARGO_TARGET_DIR")
        .filter(|value| !value.is_empty())
        .map_or_else(|| workspace().join("target"), |target| workspace().join(target))
}

/// Cargo, in the workspace. Dies with the thread that starts it.
#[must_use]
pub fn cargo() -> Command {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut command = tied(cargo);
    command.current_dir(workspace());
    // Set for us by the cargo that started us; build scripts would take them for theirs.
    for (name, _) in std::env::vars_os() {
        let name = name.to_string_lossy().into_owned();
        if name.starts_with("CARGO_PKG_") || name.starts_with("CARGO_MANIFEST") {
            command.env_remove(name);
        }
    }
    command
}

impl Programs {
    /// Those that `OUTSOCK_GATEWAY` and `OUTSOCK_AGENT` name, to test what is installed somewhere;
    /// without the variables builds both, which is quick when nothing has changed. `progress` hears
    /// what cargo says.
    ///
    /// # Errors
    /// [`ProgramsError`], with the compiler's own words.
    pub fn build(
        interrupt: &Interrupt,
        progress: &mut dyn FnMut(&str),
    ) -> Result<Self, ProgramsError> {
        let named = |variable| std::env::var_os(variable).map(PathBuf::from);
        if let (Some(gateway), Some(agent)) = (named("OUTSOCK_GATEWAY"), named("OUTSOCK_AGENT")) {
            progress("using the programs that OUTSOCK_GATEWAY and OUTSOCK_AGENT name");
            return Ok(Self { gateway, agent });
        }
        let mut gateway = cargo();
        gateway.args(["build", "--release", "--color", "never", "-p", "outsock-gateway"]);
        build("outsock-gateway", &mut gateway, interrupt, progress)?;
        let mut agent = cargo();
        agent.args(["build", "--release", "--color", "never", "-p", "outsock-agent"]);
        agent.args(["--bin", "outsock", "--target", AGENT_TARGET]);
        agent.env("RUSTFLAGS", AGENT_RUSTFLAGS).env_remove("CARGO_ENCODED_RUSTFLAGS");
        build("outsock-agent", &mut agent, interrupt, progress)?;
        let target = target_directory();
        Ok(Self {
            gateway: target.join("release/outsock-gateway"),
            agent: target.join(AGENT_TARGET).join("release/outsock"),
        })
    }
}

fn build(
    package: &'static str,
    cargo: &mut Command,
    interrupt: &Interrupt,
    progress: &mut dyn FnMut(&str),
) -> Result<(), ProgramsError> {
    let ended = run_lines(cargo, interrupt, progress)?;
    if ended.status.success() {
        Ok(())
    } else {
        Err(ProgramsError::Build { package, said: ended.last_lines.join("\n") })
    }
}
