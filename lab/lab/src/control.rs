//! Control: what the other commands ask a running lab.
//!
//! in: one JSON line per connection to a Unix socket (mode 0600); out: JSON lines, the last one an end
//! or an error. Owner: one thread per client; the lab is shared. Kept: a client that goes away takes its
//! command in the guest with it. Bounds: [`limits::QUESTION_BYTES_MAX`], [`limits::CLIENTS_MAX`].

use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use anyhow::{Context, bail};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use outsock_boot::Status;
use serde::{Deserialize, Serialize};

use crate::limits;
use crate::run::Lab;

/// What is asked.
#[derive(Debug, Serialize, Deserialize)]
#[serde(tag = "ask", rename_all = "lowercase", deny_unknown_fields)]
pub enum Ask {
    /// Run a command in a guest.
    Exec {
        /// SITE/GUEST.
        guest: String,
        /// The command.
        argv: Vec<String>,
        /// Its standard input, base64.
        stdin: String,
    },
    /// The state of all sites.
    Status,
    /// A gateway's log (SITE), or a guest's console (SITE/GUEST).
    Logs {
        /// Which.
        of: String,
    },
    /// Cut the link between two sites, or heal it.
    Link {
        /// The sites.
        between: [String; 2],
        /// Whether packets pass.
        up: bool,
    },
    /// End the lab.
    Down,
}

/// One line of an answer.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Answer {
    /// Bytes of standard output, base64.
    Out(String),
    /// Bytes of standard error, base64.
    Err(String),
    /// The end, with an exit code.
    End(i32),
    /// It did not work.
    Failed(String),
}

/// Where the labs of this user listen: one at a time.
#[must_use]
pub fn socket() -> PathBuf {
    if let Some(path) = std::env::var_os("OUTSOCK_LAB") {
        return PathBuf::from(path);
    }
    let run = std::env::var_os("XDG_RUNTIME_DIR").map_or_else(|| "/run".into(), PathBuf::from);
    run.join("outsock-lab.sock")
}

/// The control socket. Dropping it removes it.
#[derive(Debug)]
pub struct Door {
    path: PathBuf,
    listener: UnixListener,
}

impl Door {
    /// Listens. A dead lab's socket is replaced, a living one's is not.
    ///
    /// # Errors
    /// Another lab runs, or the system's.
    pub fn open(path: PathBuf) -> anyhow::Result<Self> {
        if UnixStream::connect(&path).is_ok() {
            bail!(
                "a lab is up already: outsock-lab down ends it (OUTSOCK_LAB names another socket)"
            );
        }
        if path.exists() {
            std::fs::remove_file(&path).with_context(|| format!("{}", path.display()))?;
        }
        let listener =
            UnixListener::bind(&path).with_context(|| format!("cannot make {}", path.display()))?;
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600))?;
        Ok(Self { path, listener })
    }

    /// Answers in threads of its own until `down` is set.
    ///
    /// # Errors
    /// The system's.
    pub fn serve(&self, lab: &Arc<Lab>, down: &Arc<AtomicBool>) -> anyhow::Result<()> {
        let listener = self.listener.try_clone()?;
        let (lab, down) = (Arc::downgrade(lab), Arc::clone(down));
        let clients = Arc::new(AtomicUsize::new(0));
        std::thread::Builder::new().name("control".to_owned()).spawn(move || {
            for client in listener.incoming() {
                let (Ok(client), Some(lab)) = (client, lab.upgrade()) else { return };
                if clients.fetch_add(1, Ordering::AcqRel) >= limits::CLIENTS_MAX {
                    clients.fetch_sub(1, Ordering::AcqRel);
                    continue;
                }
                let (down, clients) = (Arc::clone(&down), Arc::clone(&clients));
                std::thread::spawn(move || {
                    // A client that is gone is its own problem.
                    let _ = answer(client, &lab, &down);
                    clients.fetch_sub(1, Ordering::AcqRel);
                });
            }
        })?;
        Ok(())
    }
}

impl Drop for Door {
    fn drop(&mut self) {
        // Somebody may have removed it.
        let _ = std::fs::remove_file(&self.path);
    }
}

fn say(client: &mut UnixStream, answer: &Answer) -> std::io::Result<()> {
    let mut line = serde_json::to_string(answer)?;
    line.push('\n');
    client.write_all(line.as_bytes())
}

fn answer(mut client: UnixStream, lab: &Lab, down: &AtomicBool) -> anyhow::Result<()> {
    let mut line = String::new();
    BufReader::new(client.try_clone()?.take(limits::QUESTION_BYTES_MAX)).read_line(&mut line)?;
    let outcome = serde_json::from_str(&line)
        .map_err(Into::into)
        .and_then(|ask| carry_out(ask, &mut client, lab, down));
    let last = match outcome {
        Ok(code) => Answer::End(code),
        Err(error) => Answer::Failed(format!("{error:#}")),
    };
    Ok(say(&mut client, &last)?)
}

fn carry_out(
    ask: Ask,
    client: &mut UnixStream,
    lab: &Lab,
    down: &AtomicBool,
) -> anyhow::Result<i32> {
    let mut print = |text: &str| say(client, &Answer::Out(BASE64.encode(text)));
    match ask {
        Ask::Exec { guest, argv, stdin } => {
            let stdin = BASE64.decode(stdin)?;
            return exec(client, lab, &guest, &argv, &stdin);
        }
        Ask::Status => {
            for (site, guests) in lab.places() {
                let table =
                    lab.gateway_status(&site).unwrap_or_else(|error| format!("{error:#}\n"));
                print(&format!("site {site} ({})\n{table}\n", guests.join(", ")))?;
            }
        }
        Ask::Logs { of } if of.contains('/') => print(&lab.console(&of)?)?,
        Ask::Logs { of } => print(&lab.gateway_log(&of)?)?,
        Ask::Link { between: [one, other], up } => lab.set_link([&one, &other], up)?,
        Ask::Down => down.store(true, Ordering::Release),
    }
    Ok(0)
}

fn exec(
    client: &mut UnixStream,
    lab: &Lab,
    guest: &str,
    argv: &[String],
    stdin: &[u8],
) -> anyhow::Result<i32> {
    let mut process = lab.spawn(guest, argv, stdin)?;
    process.close_stdin()?;
    let mut told = (0, 0);
    loop {
        let running = process.is_running();
        let (out, err) = process.output_so_far();
        for (bytes, told, wrap) in [
            (&out, &mut told.0, Answer::Out as fn(String) -> Answer),
            (&err, &mut told.1, Answer::Err as fn(String) -> Answer),
        ] {
            if bytes.len() > *told {
                // Fails when the client has gone: then the command is killed with its handle.
                say(client, &wrap(BASE64.encode(&bytes[*told..])))?;
                *told = bytes.len();
            }
        }
        if !running {
            break;
        }
        is_there(client)?;
        std::thread::sleep(limits::POLL);
    }
    Ok(match process.wait(limits::EXEC_TIME)?.status {
        Status::Exited(code) => code,
        // As a shell says it.
        Status::Signaled(signal) => 128 + signal,
    })
}

/// An error when the client has closed its end.
fn is_there(client: &UnixStream) -> std::io::Result<()> {
    client.set_nonblocking(true)?;
    let read = (&*client).read(&mut [0]);
    client.set_nonblocking(false)?;
    match read {
        Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => Ok(()),
        Ok(0) => Err(std::io::ErrorKind::BrokenPipe.into()),
        Ok(_) => Ok(()),
        Err(error) => Err(error),
    }
}

/// Asks the running lab; prints what comes. The exit code.
///
/// # Errors
/// No lab is up, or it says why not.
pub fn ask(path: &Path, ask: &Ask) -> anyhow::Result<i32> {
    let mut stream = UnixStream::connect(path)
        .with_context(|| "no lab is up: outsock-lab up configs/two-sites.toml starts one")?;
    let mut line = serde_json::to_string(ask)?;
    line.push('\n');
    stream.write_all(line.as_bytes())?;
    for line in BufReader::new(stream).lines() {
        match serde_json::from_str(&line?)? {
            Answer::Out(bytes) => {
                let mut out = std::io::stdout().lock();
                out.write_all(&BASE64.decode(bytes)?)?;
                out.flush()?;
            }
            Answer::Err(bytes) => std::io::stderr().lock().write_all(&BASE64.decode(bytes)?)?,
            Answer::End(code) => return Ok(code),
            Answer::Failed(error) => bail!("{error}"),
        }
    }
    bail!("the lab has ended")
}
