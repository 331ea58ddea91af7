//! Guests: their devices, and one task each that hears what a device has to say.

use std::sync::Arc;
use std::time::Duration;

use outsock_device::{GuestDevice, GuestDeviceConfig, News, StartError};
use outsock_vmrpc::host::{Caller, MayBind, Registry, Terms, serve_with};
use outsock_vmrpc::limits::{PRIVILEGED_PORT_MAX, VMRPC_PORT};
use outsock_vmrpc::socket::Token;
use tokio::sync::{Semaphore, mpsc};

use crate::config::Guest;
use crate::limits;
use crate::socket_module::{GuestSockets, Sockets};

/// A guest that is served. Dropping it ends its device.
#[derive(Debug)]
pub(crate) struct ServedGuest {
    pub(crate) config: Guest,
    pub(crate) device: GuestDevice,
    pub(crate) sockets: Arc<GuestSockets>,
}

/// Starts the device of a guest.
pub(crate) fn start(
    config: &Guest,
    registry: &Registry,
    sockets: &Arc<Sockets>,
) -> Result<ServedGuest, StartError> {
    let (device, news) = GuestDevice::start(GuestDeviceConfig {
        name: config.name.clone(),
        cid: config.cid,
        socket: config.socket.clone(),
    })?;
    let guest = GuestSockets::new(device.handle().clone(), config.limits);
    sockets.add_guest(config.cid.0, Arc::clone(&guest));
    let caller = Caller::new(config.name.as_str(), config.cid.0);
    let may_bind: MayBind = Arc::new({
        let (sockets, name) = (Arc::clone(sockets), config.name.clone());
        move |module| sockets.policy().config.may_use(&name, module)
    });
    tokio::spawn(hear(news, registry.clone(), caller, Arc::clone(&guest), may_bind));
    Ok(ServedGuest { config: config.clone(), device, sockets: guest })
}

/// Runs until the device is dropped.
async fn hear(
    mut news: mpsc::Receiver<News>,
    registry: Registry,
    caller: Caller,
    guest: Arc<GuestSockets>,
    may_bind: MayBind,
) {
    let streams = Arc::new(Semaphore::new(limits::RPC_STREAMS_PER_GUEST_MAX));
    let waiting = Arc::new(Semaphore::new(limits::RPC_STREAMS_WAITING_MAX));
    while let Some(item) = news.recv().await {
        match item {
            News::Service { port, from, stream, memory } if port.0 == VMRPC_PORT => {
                // Beyond so many a stream waits for its turn, and beyond that it is reset. A guest that
                // floods us keeps only its own news waiting.
                let place = Arc::clone(&waiting).acquire_owned();
                let patience = Duration::from_millis(limits::RPC_STREAM_WAIT_MS);
                let Ok(Ok(place)) = tokio::time::timeout(patience, place).await else {
                    tracing::debug!(guest = %caller.guest, "too many VM RPC streams: one is reset");
                    continue;
                };
                let streams = Arc::clone(&streams);
                let (registry, caller) = (registry.clone(), caller.clone());
                let counted = guest.count_rpc_stream();
                let privileged = from.0 <= PRIVILEGED_PORT_MAX;
                let memory = privileged.then(|| Arc::new(memory) as _);
                let terms = Terms { memory, may_bind: Some(Arc::clone(&may_bind)) };
                tokio::spawn(async move {
                    let Ok(permit) = streams.acquire_owned().await else { return };
                    drop(place);
                    let name = Arc::clone(&caller.guest);
                    if let Err(error) = serve_with(stream, &registry, caller, terms).await {
                        tracing::debug!(guest = %name, %error, "VM RPC stream ended");
                    }
                    drop((permit, counted));
                });
            }
            // The device opens no other service; dropping the stream resets it.
            News::Service { port, .. } => {
                let Some(left_out) = guest.log.admit() else { continue };
                tracing::warn!(left_out, guest = %caller.guest, port = port.0, "no such service");
            }
            News::CancelDial(port) => {
                if let Some(token) = Token::new(port.0) {
                    guest.cancel(token);
                }
            }
            News::GuestGone => {
                tracing::debug!(guest = %caller.guest, "guest gone or started over");
            }
        }
    }
}
