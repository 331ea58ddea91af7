//! Admin socket: `outsock-gateway status` asks here.
//!
//! in: one line, a JSON object `{"ask": "status"}`; out: one JSON object, then the end. Owner: one
//! task; the socket is made with mode 0600, so only the gateway's user asks. Bounds:
//! [`limits::ADMIN_REQUEST_BYTES_MAX`], [`limits::ADMIN_REQUEST_MS`], [`limits::ADMIN_CLIENTS_MAX`].

use std::io::{BufRead, BufReader, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::Semaphore;

use crate::guests::ServedGuest;
use crate::limits;

/// What a client asks.
#[derive(Debug, Serialize, Deserialize)]
#[serde(tag = "ask", rename_all = "lowercase", deny_unknown_fields)]
pub(crate) enum Ask {
    /// The gateway's state.
    Status,
}

/// The answer to [`Ask::Status`]. Fields are only ever added.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Status {
    pub(crate) version: String,
    pub(crate) guests: Vec<GuestStatus>,
}

/// One guest. Counters grow since the gateway started, all but `connections` and `dials`.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct GuestStatus {
    pub(crate) name: String,
    pub(crate) cid: u64,
    pub(crate) socket: String,
    pub(crate) connections: u64,
    pub(crate) dials: u64,
    pub(crate) opened: u64,
    pub(crate) dialled: u64,
    pub(crate) dials_failed: u64,
    pub(crate) refused_by_rule: u64,
    pub(crate) bytes_from_guest: u64,
    pub(crate) bytes_to_guest: u64,
    pub(crate) misbehaved: u64,
    pub(crate) forged_packets: u64,
    pub(crate) bad_chains: u64,
    pub(crate) broken_rings: u64,
    pub(crate) notifications: u64,
}

fn status(guests: &[ServedGuest]) -> Status {
    let guests = guests
        .iter()
        .map(|guest| {
            let device = guest.device.handle().counters();
            let dials = &guest.sockets.counters;
            GuestStatus {
                name: guest.config.name.clone(),
                cid: guest.config.cid.0,
                socket: guest.config.socket.display().to_string(),
                connections: device.open.load(Relaxed),
                dials: guest.sockets.dials_under_way() as u64,
                opened: device.opened.load(Relaxed),
                dialled: dials.dialled.load(Relaxed),
                dials_failed: dials.failed.load(Relaxed),
                refused_by_rule: dials.refused_by_rule.load(Relaxed),
                bytes_from_guest: device.tx_bytes.load(Relaxed),
                bytes_to_guest: device.rx_bytes.load(Relaxed),
                misbehaved: device.misbehaved.load(Relaxed),
                forged_packets: device.forged.load(Relaxed),
                bad_chains: device.bad_chains.load(Relaxed),
                broken_rings: device.broken_rings.load(Relaxed),
                notifications: device.notifications.load(Relaxed),
            }
        })
        .collect();
    Status { version: env!("CARGO_PKG_VERSION").to_owned(), guests }
}

/// Makes the socket. A dead gateway's is replaced, a living one's is not.
pub(crate) fn bind(path: &Path) -> std::io::Result<UnixListener> {
    if let Some(folder) = path.parent() {
        std::fs::create_dir_all(folder)?;
    }
    if path.exists() {
        if std::os::unix::net::UnixStream::connect(path).is_ok() {
            return Err(std::io::ErrorKind::AddrInUse.into());
        }
        std::fs::remove_file(path)?;
    }
    let listener = UnixListener::bind(path)?;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600))?;
    Ok(listener)
}

/// Answers until dropped.
pub(crate) async fn serve(listener: UnixListener, guests: Arc<Vec<ServedGuest>>) {
    let clients = Arc::new(Semaphore::new(limits::ADMIN_CLIENTS_MAX));
    loop {
        let Ok(permit) = Arc::clone(&clients).acquire_owned().await else { return };
        match listener.accept().await {
            Ok((client, _)) => {
                let guests = Arc::clone(&guests);
                tokio::spawn(async move {
                    let limit = Duration::from_millis(limits::ADMIN_REQUEST_MS);
                    // A client that is slow or gone is its own problem.
                    let _ = tokio::time::timeout(limit, answer(client, &guests)).await;
                    drop(permit);
                });
            }
            Err(error) => {
                tracing::warn!(%error, "admin socket");
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
    }
}

async fn answer(client: UnixStream, guests: &[ServedGuest]) -> std::io::Result<()> {
    let (read, mut write) = client.into_split();
    let mut line = String::new();
    tokio::io::BufReader::new(read.take(limits::ADMIN_REQUEST_BYTES_MAX))
        .read_line(&mut line)
        .await?;
    let mut text = match serde_json::from_str(&line) {
        Ok(Ask::Status) => serde_json::to_string(&status(guests))?,
        Err(error) => serde_json::json!({ "error": error.to_string() }).to_string(),
    };
    text.push('\n');
    write.write_all(text.as_bytes()).await
}

/// Asks a running gateway for its status.
pub(crate) fn ask_status(path: &Path) -> std::io::Result<Status> {
    let mut stream = std::os::unix::net::UnixStream::connect(path)?;
    stream.set_read_timeout(Some(Duration::from_millis(limits::ADMIN_REQUEST_MS)))?;
    let mut line = serde_json::to_string(&Ask::Status)?;
    line.push('\n');
    stream.write_all(line.as_bytes())?;
    let mut answer = String::new();
    BufReader::new(stream).read_line(&mut answer)?;
    Ok(serde_json::from_str(&answer)?)
}
