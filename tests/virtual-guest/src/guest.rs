//! Guest: the public face of a virtual guest.
//!
//! in: a gateway's vhost-user socket and [`Options`]; out: connections, events, violations. Any
//! thread may call anything. Kept: the driver thread ends with the last handle of the guest and
//! its connections. Bound: [`Options::patience`] for every call that blocks.

use std::path::Path;
use std::sync::{Arc, Condvar, Mutex, OnceLock, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use outsock_core::address::{Cid, VsockPort};
use vmm_sys_util::eventfd::{EFD_CLOEXEC, EFD_NONBLOCK, EventFd};

use crate::connection::{ConnectError, Connection};
use crate::driver::Driver;
use crate::event::Event;
use crate::frontend::{Frontend, FrontendError};
use crate::limits;
use crate::machine::Plugged;
use crate::memory::{GuestMemory, MemoryError};
use crate::options::Options;
use crate::stack::{CallError, Stack};
use crate::stats::Stats;
use crate::violation::Violation;
use crate::worker::{Shared, epoll, lock};

/// Why there is no guest.
#[derive(Debug, thiserror::Error)]
pub enum GuestError {
    /// The backend does not do.
    #[error(transparent)]
    Frontend(#[from] FrontendError),
    /// There is no memory for it.
    #[error(transparent)]
    Memory(#[from] MemoryError),
    /// The system refused a descriptor or a thread.
    #[error("cannot set up the driver thread: {0}")]
    System(#[from] std::io::Error),
    /// Options that no guest can have.
    #[error("bad options: {0}")]
    Options(String),
}

/// A guest without a VM. Clones are the same guest; it ends with the last of them and of its
/// connections.
#[derive(Clone, Debug)]
pub struct VirtualGuest {
    pub(crate) owner: Arc<Owner>,
}

/// Ends the driver thread when nobody uses the guest any more.
#[derive(Debug)]
pub(crate) struct Owner {
    pub(crate) shared: Arc<Shared>,
    thread: Mutex<Option<JoinHandle<()>>>,
    pub(crate) patience: Duration,
    pub(crate) plugged: Mutex<Plugged>,
    pub(crate) socket_module: OnceLock<outsock_vmrpc::Binding>,
}

impl Drop for Owner {
    fn drop(&mut self) {
        // The RPC client's reader thread ends with the stream.
        self.shared.lock().stopping = true;
        self.shared.wake();
        if let Some(thread) = lock(&self.thread).take() {
            // A panic of the driver thread was printed already; a second one here would abort.
            let _ = thread.join();
        }
        lock(&self.shared.frontend).disconnect();
    }
}

impl VirtualGuest {
    /// Connects to a gateway and starts the device, as a VMM and a driver do at boot.
    pub fn connect(path: impl AsRef<Path>, options: Options) -> Result<Self, GuestError> {
        check(&options)?;
        let mut frontend = Frontend::connect(path.as_ref(), &options)?;
        let cid = match options.cid {
            Some(cid) => cid,
            None => frontend.cid()?,
        };
        let kicks = event_fds(options.queues)?;
        let calls = event_fds(options.queues)?;
        let driver = boot(&mut frontend, &options, &kicks, &calls)?;
        let wake = event_fd()?;
        let backend = frontend.socket()?;
        let epoll = epoll(&wake, &calls, &backend)?;
        let events = Arc::new(Condvar::new());
        let patience = options.patience;
        let stack = Stack::new(driver, cid, options, Arc::clone(&events));
        let shared = Arc::new(Shared::new(stack, frontend, wake, kicks, calls, events));
        let for_thread = Arc::clone(&shared);
        let thread = std::thread::Builder::new().name(format!("guest-{cid}")).spawn(move || {
            // The socket must stay open as long as it is watched.
            let _backend = backend;
            for_thread.run(&epoll);
        })?;
        Ok(Self {
            owner: Arc::new(Owner {
                shared,
                thread: Mutex::new(Some(thread)),
                patience,
                plugged: Mutex::new(Plugged::default()),
                socket_module: OnceLock::new(),
            }),
        })
    }

    pub(crate) fn shared(&self) -> &Arc<Shared> {
        &self.owner.shared
    }

    /// Our CID.
    pub fn cid(&self) -> Cid {
        self.shared().lock().cid
    }

    /// Connects to a port of the host, and waits for the answer.
    pub fn open(&self, host_port: u32) -> Result<Connection, ConnectError> {
        let connection = self.start_open(host_port)?;
        connection.wait_connected()?;
        Ok(connection)
    }

    /// Sends REQUEST and does not wait. [`Connection::wait_connected`] does, or an event tells.
    pub fn start_open(&self, host_port: u32) -> Result<Connection, ConnectError> {
        self.start_open_with(host_port, OpenOptions::default())
    }

    /// As [`Self::start_open`], with everything that can be set.
    pub fn start_open_with(
        &self,
        host_port: u32,
        options: OpenOptions,
    ) -> Result<Connection, ConnectError> {
        let mut stack = self.shared().lock();
        let timeout = options.connect_timeout.unwrap_or(stack.options.connect_timeout);
        let local = options.local_port.map(VsockPort);
        let id =
            stack.open(VsockPort(host_port), local, timeout, options.watch).map_err(|error| {
                match error {
                    CallError::Failed(failure) => ConnectError::from(failure),
                    CallError::WouldBlock | CallError::NotConnected | CallError::BrokenPipe => {
                        ConnectError::Gone
                    }
                }
            })?;
        let key = stack.get(id).map(|socket| socket.key).ok_or(ConnectError::Gone)?;
        self.shared().settle(&mut stack);
        drop(stack);
        Ok(Connection::new(Arc::clone(self.shared()), Some(Arc::clone(&self.owner)), id, key))
    }

    /// Opens many connections at once: all REQUESTs first, then all answers.
    pub fn open_many(&self, host_port: u32, count: usize) -> Vec<Result<Connection, ConnectError>> {
        let started: Vec<_> = (0..count).map(|_| self.start_open(host_port)).collect();
        started
            .into_iter()
            .map(|connection| {
                let connection = connection?;
                connection.wait_connected()?;
                Ok(connection)
            })
            .collect()
    }

    /// Waits for events of watched connections and appends at most `most` of them to `events`.
    pub fn poll_events(&self, events: &mut Vec<Event>, most: usize, timeout: Duration) -> usize {
        let deadline = Instant::now() + timeout;
        let mut stack = self.shared().lock();
        loop {
            let count = stack.take_events(events, most);
            let left = deadline.saturating_duration_since(Instant::now());
            if count > 0 || most == 0 || left.is_zero() {
                return count;
            }
            self.shared().settle(&mut stack);
            stack = self
                .shared()
                .events
                .wait_timeout(stack, left)
                .unwrap_or_else(PoisonError::into_inner)
                .0;
        }
    }

    /// What the gateway did wrong so far (the first [`limits::VIOLATIONS_KEPT_MAX`]).
    pub fn violations(&self) -> Vec<Violation> {
        self.shared().lock().driver.violations.list()
    }

    /// As [`Self::violations`], and forgets them.
    pub fn take_violations(&self) -> Vec<Violation> {
        self.shared().lock().driver.violations.take()
    }

    /// Panics if the gateway did anything wrong.
    #[track_caller]
    pub fn assert_clean(&self) {
        let stack = self.shared().lock();
        let (total, list) = (stack.driver.violations.total(), stack.driver.violations.list());
        drop(stack);
        let lines: Vec<_> = list.iter().take(20).map(ToString::to_string).collect();
        assert!(total == 0, "{total} violations by the gateway:\n  {}", lines.join("\n  "));
    }

    /// What went over the rings so far.
    pub fn stats(&self) -> Stats {
        self.shared().lock().driver.stats
    }

    /// Tuples in use: connections that are opening, open or waiting for the peer's RST.
    pub fn alive(&self) -> usize {
        self.shared().lock().alive()
    }

    /// Descriptor chains that the device holds now, by queue.
    pub fn outstanding(&self) -> Vec<u16> {
        self.shared().lock().driver.outstanding()
    }
}

/// What a connection may be given before it opens.
#[derive(Clone, Copy, Debug, Default)]
pub struct OpenOptions {
    /// Bind to this port first. A port of a connection that is over may be used again.
    pub local_port: Option<u32>,
    /// How long REQUEST may stay unanswered; `None` is [`Options::connect_timeout`].
    pub connect_timeout: Option<Duration>,
    /// Make events under this name from the start.
    pub watch: Option<u64>,
}

fn check(options: &Options) -> Result<(), GuestError> {
    let bad = |text: String| Err(GuestError::Options(text));
    let size = options.ring_size;
    if !size.is_power_of_two() || !(limits::RING_SIZE_MIN..=limits::RING_SIZE_MAX).contains(&size) {
        return bad(format!("ring size {size} is no power of two from 8 to 1024"));
    }
    if !(2..=3).contains(&options.queues) {
        return bad(format!("{} queues: a vsock device has 2 or 3", options.queues));
    }
    if options.packet_bytes_max == 0 || options.packet_bytes_max > limits::PACKET_PAYLOAD_BYTES_MAX
    {
        return bad(format!("packets of {} bytes", options.packet_bytes_max));
    }
    let longest = options.layout.tx.descriptors_max().max(options.layout.rx.descriptors.len());
    if longest == 0 || longest > usize::from(size) || options.layout.rx.buffer_bytes() <= 44 {
        return bad(format!("layout {:?} does not fit a ring of {size}", options.layout.name));
    }
    Ok(())
}

/// Makes memory and rings and starts them in the backend.
pub(crate) fn boot(
    frontend: &mut Frontend,
    options: &Options,
    kicks: &[EventFd],
    calls: &[EventFd],
) -> Result<Driver, GuestError> {
    let memory = GuestMemory::new(Driver::memory_bytes(options), options.regions)?;
    let copies = kicks.iter().map(EventFd::try_clone).collect::<Result<_, _>>()?;
    let (event_idx, indirect) = (frontend.event_idx(), frontend.indirect());
    let mut driver = Driver::new(memory, options, event_idx, indirect, copies)?;
    frontend.set_memory(&driver.memory.table())?;
    for (queue, places) in driver.places().iter().enumerate() {
        frontend.start_ring(queue, places, 0, &kicks[queue], &calls[queue])?;
    }
    driver.start();
    Ok(driver)
}

pub(crate) fn event_fd() -> std::io::Result<EventFd> {
    EventFd::new(EFD_CLOEXEC | EFD_NONBLOCK)
}

pub(crate) fn event_fds(count: usize) -> std::io::Result<Vec<EventFd>> {
    (0..count).map(|_| event_fd()).collect()
}
