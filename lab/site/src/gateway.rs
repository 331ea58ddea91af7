//! Gateway: one `outsock-gateway` process.
//!
//! in: a program, a configuration, a directory; out: its status, its log. Owner: the [`Gateway`],
//! dropping it kills the process. Kept: started means that it listens. Bound: [`limits`].

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use crate::directory::Directory;
use crate::limits;
use crate::run::tied;
use crate::status::{Explanation, Status};

/// What went wrong with a gateway.
#[derive(Debug, thiserror::Error)]
pub enum GatewayError {
    /// A file or the program cannot be used.
    #[error("cannot use {path}: {source}")]
    File {
        /// The file or program.
        path: PathBuf,
        /// The system's word.
        source: io::Error,
    },
    /// It ended, or never listened.
    #[error("the gateway {what}; its log ends:\n{log}")]
    Failed {
        /// What it did.
        what: String,
        /// Its last lines.
        log: String,
    },
}

/// A running gateway. Dropping it kills it.
#[derive(Debug)]
pub struct Gateway {
    child: Child,
    program: PathBuf,
    admin_socket: PathBuf,
    config: PathBuf,
    log: PathBuf,
}

impl Gateway {
    /// Starts `program` with `config`, to which it adds the admin socket, and waits until it listens.
    /// Its files are called `name`.* in `directory`.
    ///
    /// # Errors
    /// [`GatewayError`], with the gateway's own words.
    pub fn start(
        program: &Path,
        directory: &Directory,
        name: &str,
        config: &str,
    ) -> Result<Self, GatewayError> {
        let admin_socket = directory.path(&format!("{name}.admin"));
        let (file, log) =
            (directory.path(&format!("{name}.toml")), directory.path(&format!("{name}.log")));
        let wrong = |path: &Path| {
            let path = path.to_owned();
            move |source| GatewayError::File { path, source }
        };
        let gateway_table = format!("[gateway]\nadmin_socket = {admin_socket:?}\n");
        let text = if config.contains("[gateway]\n") {
            config.replace("[gateway]\n", &gateway_table)
        } else {
            format!("{gateway_table}\n{config}")
        };
        fs::write(&file, text).map_err(wrong(&file))?;
        let output = File::create(&log).map_err(wrong(&log))?;
        let errors = output.try_clone().map_err(wrong(&log))?;
        let child = tied(program)
            .args(["run", "--config"])
            .arg(&file)
            .env("RUST_LOG", "debug")
            .env("NO_COLOR", "1")
            .stdin(Stdio::null())
            .stdout(output)
            .stderr(errors)
            .spawn()
            .map_err(wrong(program))?;
        let mut gateway =
            Self { child, program: program.to_owned(), admin_socket, config: file, log };
        gateway.wait_until_it_listens()?;
        Ok(gateway)
    }

    fn wait_until_it_listens(&mut self) -> Result<(), GatewayError> {
        let deadline = Instant::now() + limits::GATEWAY_START;
        // The admin socket comes before those of the guests; only all of them mean that it is ready.
        while self.status().is_err() {
            if let Ok(Some(status)) = self.child.try_wait() {
                return Err(self.failed(format!("ended ({status})")));
            }
            if Instant::now() >= deadline {
                let what = format!("did not listen within {:?}", limits::GATEWAY_START);
                return Err(self.failed(what));
            }
            std::thread::sleep(limits::POLL);
        }
        Ok(())
    }

    fn failed(&self, what: String) -> GatewayError {
        let log = self.log();
        let lines: Vec<&str> = log.lines().collect();
        let last = lines[lines.len().saturating_sub(limits::LINES_IN_ERROR)..].join("\n");
        GatewayError::Failed { what, log: last }
    }

    /// Its configuration file's text.
    #[must_use]
    pub fn config(&self) -> String {
        fs::read_to_string(&self.config).unwrap_or_default()
    }

    /// What it has logged so far.
    #[must_use]
    pub fn log(&self) -> String {
        fs::read_to_string(&self.log).unwrap_or_default()
    }

    fn ask(&self, arguments: &[&str]) -> Result<String, GatewayError> {
        let mut command = Command::new(&self.program);
        command.args(arguments).arg("--admin-socket").arg(&self.admin_socket);
        let output = command
            .output()
            .map_err(|source| GatewayError::File { path: self.program.clone(), source })?;
        if output.status.success() {
            Ok(String::from_utf8_lossy(&output.stdout).into_owned())
        } else {
            Err(self.failed(String::from_utf8_lossy(&output.stderr).trim().to_owned()))
        }
    }

    /// The table that `outsock-gateway status` prints.
    ///
    /// # Errors
    /// [`GatewayError`] if it does not answer.
    pub fn status_table(&self) -> Result<String, GatewayError> {
        self.ask(&["status"])
    }

    /// Its counters.
    ///
    /// # Errors
    /// [`GatewayError`] if it does not answer, or not what is expected.
    pub fn status(&self) -> Result<Status, GatewayError> {
        self.read(&self.ask(&["status", "--json"])?)
    }

    /// Which rule a connection would meet; `how` are further options.
    ///
    /// # Errors
    /// [`GatewayError`] if it does not answer, or not what is expected.
    pub fn explain(
        &self,
        guest: &str,
        destination: &str,
        how: &[&str],
    ) -> Result<Explanation, GatewayError> {
        let arguments = [&["explain", "--json", "--guest", guest, destination], how].concat();
        self.read(&self.ask(&arguments)?)
    }

    fn read<T: serde::de::DeserializeOwned>(&self, text: &str) -> Result<T, GatewayError> {
        serde_json::from_str(text).map_err(|error| self.failed(format!("said {text:?}: {error}")))
    }

    /// The process id. It is the gateway's own: `setpriv` has become it.
    #[must_use]
    pub fn process_id(&self) -> u32 {
        self.child.id()
    }

    /// Whether it still runs.
    pub fn is_running(&mut self) -> bool {
        matches!(self.child.try_wait(), Ok(None))
    }

    /// Sends SIGTERM, which lets connections finish, and waits for the end.
    ///
    /// # Errors
    /// [`GatewayError`] if it did not end by itself in time, or not with code 0.
    pub fn stop(mut self) -> Result<ExitStatus, GatewayError> {
        let id = self.child.id().to_string();
        let sent = Command::new("kill").args(["-TERM", "--", &id]).status();
        if !sent.is_ok_and(|status| status.success()) {
            return Err(self.failed("could not be sent SIGTERM".to_owned()));
        }
        match self.wait(limits::GATEWAY_STOP) {
            Some(status) if status.success() => Ok(status),
            Some(status) => Err(self.failed(format!("ended with {status}"))),
            None => Err(self.failed(format!("ran on {:?} after SIGTERM", limits::GATEWAY_STOP))),
        }
    }

    fn wait(&mut self, timeout: Duration) -> Option<ExitStatus> {
        let deadline = Instant::now() + timeout;
        loop {
            if let Ok(Some(status)) = self.child.try_wait() {
                return Some(status);
            }
            if Instant::now() >= deadline {
                return None;
            }
            std::thread::sleep(limits::POLL);
        }
    }

    /// Kills it (SIGKILL), as a crash would.
    pub fn kill(self) {
        drop(self);
    }
}

impl Drop for Gateway {
    fn drop(&mut self) {
        // Errors say that it has ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
