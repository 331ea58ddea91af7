//! Guests: their devices, and one task each that hears what a device has to say.

use std::sync::Arc;
use std::time::Duration;

use outsock_core::address::Cid;
use outsock_device::{DeviceHandle, GuestDevice, GuestDeviceConfig, News, StartError};
use outsock_vmrpc::host::{Caller, MayBind, Registry, Terms, serve_with};
use outsock_vmrpc::limits::{PRIVILEGED_PORT_MAX, VMRPC_PORT};
use outsock_vmrpc::socket::Token;
use tokio::sync::{Semaphore, mpsc};

use crate::config::Guest;
use crate::limits;
use crate::policy::Policy;
use crate::socket_module::{GuestSockets, Sockets};
use crate::vsock::{self, Listening};

/// A guest that is served. Dropping it ends its device.
#[derive(Debug)]
pub(crate) struct ServedGuest {
    pub(crate) config: Guest,
    pub(crate) device: GuestDevice,
    pub(crate) sockets: Arc<GuestSockets>,
    pub(crate) vsock: Listening,
}

impl ServedGuest {
    /// From now on another configuration counts. A socket that cannot be made is missing, and said.
    pub(crate) fn set_config(&mut self, config: &Guest, policy: &Policy) {
        self.sockets.set_limits(config.limits);
        set_plain(self.device.handle(), config, policy);
        if !self.vsock.is_at(&config.vsock) {
            // The old ones go first: the new ones may have their paths.
            self.vsock = Listening::default();
            match Listening::start(&config.vsock, self.device.handle()) {
                Ok(listening) => self.vsock = listening,
                Err((path, error)) => {
                    tracing::warn!(guest = config.name, path = %path.display(), %error, "vsock socket");
                }
            }
        }
        self.config = config.clone();
    }
}

fn set_plain(device: &DeviceHandle, guest: &Guest, policy: &Policy) {
    if let Err(error) = device.set_plain(policy.config.has_vsock(guest)) {
        tracing::warn!(guest = guest.name, %error, "the [[vsock]] rules do not count yet");
    }
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
    let vsock = Listening::start(&config.vsock, device.handle())
        .map_err(|(path, source)| StartError::Listen { path, source })?;
    set_plain(device.handle(), config, &sockets.policy());
    let guest = GuestSockets::new(device.handle().clone(), config.limits);
    sockets.add_guest(config.cid.0, Arc::clone(&guest));
    let caller = Caller::new(config.name.as_str(), config.cid.0);
    let may_bind: MayBind = Arc::new({
        let (sockets, name) = (Arc::clone(sockets), config.name.clone());
        move |module| sockets.policy().config.may_use(&name, module)
    });
    let hearing = Hearing {
        registry: registry.clone(),
        caller,
        guest: Arc::clone(&guest),
        sockets: Arc::clone(sockets),
        may_bind,
    };
    tokio::spawn(hear(news, hearing));
    Ok(ServedGuest { config: config.clone(), device, sockets: guest, vsock })
}

/// What is needed to act on a device's news.
struct Hearing {
    registry: Registry,
    caller: Caller,
    guest: Arc<GuestSockets>,
    sockets: Arc<Sockets>,
    may_bind: MayBind,
}

/// Runs until the device is dropped.
async fn hear(mut news: mpsc::Receiver<News>, hearing: Hearing) {
    let Hearing { registry, caller, guest, sockets, may_bind } = hearing;
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
            News::Asked(id, request) => {
                let (sockets, guest) = (Arc::clone(&sockets), Arc::clone(&guest));
                let (name, cid) = (Arc::clone(&caller.guest), Cid(caller.cid));
                tokio::spawn(vsock::answer(sockets, guest, name, cid, id, request));
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
