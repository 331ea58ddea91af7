//! Runs the backend: one guest after the other.

use std::collections::{BTreeMap, VecDeque};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, RwLock};
use std::thread::JoinHandle;

use vhost_user_backend::VhostUserDaemon;
use vm_memory::{GuestMemoryAtomic, GuestMemoryMmap};
use vmm_sys_util::event::{EventFlag, new_event_consumer_and_notifier};

use super::Device;

/// A running backend. It serves one guest after the other until it is dropped.
pub struct Backend {
    pub path: PathBuf,
    stop: Arc<std::sync::atomic::AtomicBool>,
    thread: Option<JoinHandle<()>>,
    _dir: tempfile::TempDir,
}

pub const EVENT_IDX: u64 = 1 << 29;
pub const INDIRECT: u64 = 1 << 28;
const BASE_FEATURES: u64 = 1 << 32 | 1 << 30;

impl Backend {
    pub fn start() -> Self {
        Self::with(EVENT_IDX | INDIRECT, 3)
    }

    pub fn with(features: u64, queues: usize) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("vsock.sock");
        let mut listener = vhost::vhost_user::Listener::new(&path, true).unwrap();
        let stop = Arc::new(std::sync::atomic::AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let thread = std::thread::spawn(move || {
            while !stopped.load(std::sync::atomic::Ordering::SeqCst) {
                serve(&mut listener, features | BASE_FEATURES, queues);
            }
        });
        Self { path, stop, thread: Some(thread), _dir: dir }
    }

    pub fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for Backend {
    fn drop(&mut self) {
        self.stop.store(true, std::sync::atomic::Ordering::SeqCst);
        // Wakes `accept`; the connection ends at once.
        drop(std::os::unix::net::UnixStream::connect(&self.path));
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn serve(listener: &mut vhost::vhost_user::Listener, offers: u64, queues: usize) {
    let exit = new_event_consumer_and_notifier(EventFlag::NONBLOCK).unwrap();
    let device = Arc::new(RwLock::new(Device {
        memory: None,
        event_idx: false,
        offers,
        queues,
        connections: BTreeMap::new(),
        control: VecDeque::new(),
        turn: 0,
        exit: Mutex::new(Some(exit)),
    }));
    let memory = GuestMemoryAtomic::new(GuestMemoryMmap::new());
    let mut daemon = VhostUserDaemon::new("test-backend".to_owned(), device, memory).unwrap();
    daemon.start(listener).unwrap();
    // How a guest hangs up is its own business.
    let _ = daemon.wait();
    for handler in daemon.get_epoll_handlers() {
        handler.send_exit_event();
    }
}
