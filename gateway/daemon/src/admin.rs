//! Admin socket: `status`, `reload`, `explain` and `modules` ask here.
//!
//! in: one line, a JSON object such as `{"ask": "status"}`; out: one JSON object, then the end; it
//! has a field `error` where the request failed. Owner: one task; the socket is made with mode 0600,
//! so only the gateway's user asks. Bounds: [`limits::ADMIN_REQUEST_BYTES_MAX`],
//! [`limits::ADMIN_REQUEST_MS`], [`limits::ADMIN_ANSWER_MS`], [`limits::ADMIN_CLIENTS_MAX`].

use std::io::{BufRead, BufReader, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::Semaphore;

use crate::explain::{Question, explain};
use crate::gateway::{Gateway, ReloadError, Reloaded};
use crate::limits;
use crate::modules_module::listing;
use crate::status::{OverlayRecord, overlay, status};

/// What a client asks.
#[derive(Debug, Serialize, Deserialize)]
#[serde(tag = "ask", rename_all = "lowercase")]
pub(crate) enum Ask {
    /// The gateway's state.
    Status,
    /// To read the configuration file again.
    Reload,
    /// Which rule decides.
    Explain(Question),
    /// What the overlay's directory says about a name.
    Lookup {
        /// `SERVICE.SITE.peer`, `SITE`, or a key.
        name: String,
    },
    /// Who uses which host module.
    Modules,
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
pub(crate) async fn serve(listener: UnixListener, gateway: Arc<Gateway>) {
    let clients = Arc::new(Semaphore::new(limits::ADMIN_CLIENTS_MAX));
    loop {
        let Ok(permit) = Arc::clone(&clients).acquire_owned().await else { return };
        match listener.accept().await {
            Ok((client, _)) => {
                let gateway = Arc::clone(&gateway);
                tokio::spawn(async move {
                    // A client that is slow or gone is its own problem.
                    let _ = answer(client, &gateway).await;
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

async fn answer(client: UnixStream, gateway: &Gateway) -> std::io::Result<()> {
    let (read, mut write) = client.into_split();
    let mut line = String::new();
    let mut reader = tokio::io::BufReader::new(read.take(limits::ADMIN_REQUEST_BYTES_MAX));
    let patience = Duration::from_millis(limits::ADMIN_REQUEST_MS);
    tokio::time::timeout(patience, reader.read_line(&mut line)).await??;
    let answer = match serde_json::from_str(&line) {
        Ok(Ask::Status) => {
            let overlay = overlay(&gateway.sockets.policy()).await;
            serde_json::to_value(crate::status::Status { overlay, ..status(gateway) })?
        }
        Ok(Ask::Reload) => outcome(reload(gateway).await)?,
        Ok(Ask::Explain(question)) => {
            let sockets = &gateway.sockets;
            let policy = sockets.policy();
            let names = Some(&*sockets.names);
            outcome(explain(&policy, &sockets.own, names, &question).await)?
        }
        Ok(Ask::Lookup { name }) => {
            let found = gateway.sockets.policy().peers.overlay_lookup(&name).await;
            outcome(found.map(OverlayRecord::from))?
        }
        Ok(Ask::Modules) => serde_json::to_value(listing(&gateway.registry))?,
        Err(error) => refusal(&error),
    };
    let mut text = answer.to_string();
    text.push('\n');
    tokio::time::timeout(patience, write.write_all(text.as_bytes())).await?
}

/// Reads the configuration again, and logs what came of it.
pub(crate) async fn reload(gateway: &Gateway) -> Result<Reloaded, ReloadError> {
    let outcome = gateway.reload().await;
    match &outcome {
        Ok(done) => tracing::info!(
            routes = done.routes,
            guests_added = ?done.guests_added,
            guests_removed = ?done.guests_removed,
            "new configuration"
        ),
        Err(error) => tracing::error!(%error, "the old configuration stays"),
    }
    outcome
}

fn outcome<T: Serialize>(
    result: Result<T, impl std::fmt::Display>,
) -> Result<Value, serde_json::Error> {
    match result {
        Ok(value) => serde_json::to_value(value),
        Err(error) => Ok(refusal(&error)),
    }
}

fn refusal(error: &impl std::fmt::Display) -> Value {
    serde_json::json!({ "error": error.to_string() })
}

/// Asks a running gateway.
pub(crate) fn ask<T: DeserializeOwned>(path: &Path, ask: &Ask) -> anyhow::Result<T> {
    let unreachable = |error| {
        anyhow::anyhow!("no gateway answers at {}: {error}; is it running?", path.display())
    };
    let value = exchange(path, ask).map_err(unreachable)?;
    if let Some(error) = value.get("error").and_then(Value::as_str) {
        anyhow::bail!("{error}");
    }
    Ok(serde_json::from_value(value)?)
}

fn exchange(path: &Path, ask: &Ask) -> std::io::Result<Value> {
    let mut stream = std::os::unix::net::UnixStream::connect(path)?;
    stream.set_read_timeout(Some(Duration::from_millis(limits::ADMIN_ANSWER_MS)))?;
    let mut line = serde_json::to_string(ask)?;
    line.push('\n');
    stream.write_all(line.as_bytes())?;
    let mut answer = String::new();
    BufReader::new(stream).read_line(&mut answer)?;
    Ok(serde_json::from_str(&answer)?)
}
