//! One guest's device: its vhost-user socket, its threads, its start and its end.
//!
//! in: a socket path and a CID; out: a [`DeviceHandle`] and a channel of [`News`]. Owner: the
//! daemon. One frontend at a time; when it hangs up (the VMM ended or crashed) the guest's
//! connections are reset and the socket waits for the next one. Keeps: a frontend's protocol errors
//! end only its own connection to the gateway.

use std::io;
use std::os::unix::fs::FileTypeExt;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;

use outsock_core::address::Cid;
use tokio::sync::mpsc;
use vhost::vhost_user::Listener;
use vhost_user_backend::VhostUserDaemon;
use vm_memory::{GuestMemoryAtomic, GuestMemoryMmap};
use vmm_sys_util::epoll::EventSet;
use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

use crate::backend::Backend;
use crate::bridge::Bells;
use crate::handle::{DeviceCounters, DeviceHandle, Mailbox, News};
use crate::limits;
use crate::worker::Worker;

/// The event number under which the worker's own epoll is registered, beside the queues and the
/// library's exit event.
const WORKER_EVENT: u64 = limits::QUEUES as u64 + 1;

/// What a guest's device needs to know.
#[derive(Clone, Debug)]
pub struct GuestDeviceConfig {
    /// A name for threads and logs.
    pub name: String,
    /// The guest's CID.
    pub cid: Cid,
    /// Where the VMM finds the vhost-user socket.
    pub socket: PathBuf,
}

/// Why a device cannot start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// Another gateway serves that socket.
    #[error("{0} is in use: is another gateway running with this configuration?")]
    InUse(PathBuf),
    /// The path holds something that is no socket.
    #[error("{0} exists and is no socket: move it away, or choose another path")]
    NotASocket(PathBuf),
    /// The socket cannot be made.
    #[error("cannot listen on {path}: {source}")]
    Listen {
        /// Where.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The kernel has no epoll, eventfd or thread left.
    #[error("cannot set up the device: {0}")]
    Resources(io::Error),
}

/// A running device.
#[derive(Debug)]
pub struct GuestDevice {
    handle: DeviceHandle,
    stop: Arc<Stop>,
    thread: Option<JoinHandle<()>>,
    socket: PathBuf,
}

struct Stop {
    stopping: AtomicBool,
    frontend: Mutex<Option<vhost_user_backend::ShutdownHandle>>,
}

impl std::fmt::Debug for Stop {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Stop").field("stopping", &self.stopping).finish_non_exhaustive()
    }
}

impl GuestDevice {
    /// Listens on the guest's socket and serves it until dropped.
    pub fn start(config: GuestDeviceConfig) -> Result<(Self, mpsc::Receiver<News>), StartError> {
        let listener = listen(&config.socket)?;
        let (news, receiver) = mpsc::channel(limits::NEWS_MAX);
        let event = || EventFd::new(EFD_NONBLOCK).map_err(StartError::Resources);
        let bells_event = event()?;
        let bells = Bells::new(bells_event.try_clone().map_err(StartError::Resources)?);
        let mailbox = Arc::new(Mailbox { commands: Mutex::default(), event: event()? });
        let counters = Arc::new(DeviceCounters::default());
        let handle = DeviceHandle {
            mailbox: Arc::clone(&mailbox),
            bells: Arc::clone(&bells),
            counters: Arc::clone(&counters),
        };
        let worker = Worker::new(config.cid, mailbox, bells, bells_event, news, counters)
            .map_err(StartError::Resources)?;
        let backend = Backend::new(config.cid, worker).map_err(StartError::Resources)?;
        let backend = Arc::new(backend);
        let stop = Arc::new(Stop { stopping: AtomicBool::new(false), frontend: Mutex::new(None) });
        let thread = std::thread::Builder::new()
            .name(format!("guest-{}", config.name))
            .spawn({
                let stop = Arc::clone(&stop);
                move || serve_frontends(&config.name, listener, &backend, &stop)
            })
            .map_err(StartError::Resources)?;
        let socket = config.socket;
        Ok((Self { handle, stop, thread: Some(thread), socket }, receiver))
    }

    /// For commands and counters.
    pub fn handle(&self) -> &DeviceHandle {
        &self.handle
    }
}

impl Drop for GuestDevice {
    fn drop(&mut self) {
        self.stop.stopping.store(true, Ordering::Release);
        if let Some(frontend) =
            self.stop.frontend.lock().unwrap_or_else(PoisonError::into_inner).take()
        {
            frontend.shutdown();
        }
        // Wakes the accept of a thread that waits for a frontend.
        let _ = std::os::unix::net::UnixStream::connect(&self.socket);
        if let Some(thread) = self.thread.take() {
            // It panicked only if the library did; the guest is gone either way.
            let _ = thread.join();
        }
        let _ = std::fs::remove_file(&self.socket);
    }
}

/// Binds the socket; takes the place of one that a dead gateway left behind.
fn listen(path: &Path) -> Result<UnixListener, StartError> {
    match std::fs::symlink_metadata(path) {
        Ok(found) if !found.file_type().is_socket() => {
            return Err(StartError::NotASocket(path.to_owned()));
        }
        Ok(_) => {
            if std::os::unix::net::UnixStream::connect(path).is_ok() {
                return Err(StartError::InUse(path.to_owned()));
            }
            let _ = std::fs::remove_file(path);
        }
        Err(_) => {}
    }
    UnixListener::bind(path).map_err(|source| StartError::Listen { path: path.to_owned(), source })
}

fn serve_frontends(name: &str, listener: UnixListener, backend: &Arc<Backend>, stop: &Stop) {
    let mut listener = Listener::from(listener);
    while !stop.stopping.load(Ordering::Acquire) {
        if let Err(error) = serve_frontend(name, &mut listener, backend, stop) {
            tracing::info!(guest = name, %error, "the frontend hung up");
        }
        *stop.frontend.lock().unwrap_or_else(PoisonError::into_inner) = None;
        backend.worker().hang_up();
    }
}

fn serve_frontend(
    name: &str,
    listener: &mut Listener,
    backend: &Arc<Backend>,
    stop: &Stop,
) -> Result<(), vhost_user_backend::Error> {
    let memory = GuestMemoryAtomic::new(GuestMemoryMmap::new());
    let mut daemon = VhostUserDaemon::new(format!("vhost-{name}"), Arc::clone(backend), memory)?;
    daemon.start(listener)?;
    if stop.stopping.load(Ordering::Acquire) {
        return Ok(());
    }
    tracing::info!(guest = name, "a frontend connected");
    *stop.frontend.lock().unwrap_or_else(PoisonError::into_inner) = daemon.shutdown_handle();
    let poll_fd = backend.worker().poll_fd();
    for handler in daemon.get_epoll_handlers() {
        handler
            .register_listener(poll_fd, EventSet::IN, WORKER_EVENT)
            .map_err(vhost_user_backend::Error::StartDaemon)?;
    }
    daemon.wait()
}
