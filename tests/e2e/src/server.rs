//! Server: accepts on loopback, one thread per connection.
//!
//! in: connections, a function that serves one; out: [`ServerEvent`]s. Owner: the test. Kept: dropping
//! it stops accepting; connections end with their clients. Bound: [`limits::EVENTS_MAX`].

use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use crate::limits;

/// How a connection ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ServerEvent {
    /// As it should; what the service wants to tell.
    Served(String),
    /// With an error.
    Broken(io::ErrorKind),
}

/// Serves one connection.
pub(crate) type Service = fn(TcpStream) -> io::Result<String>;

/// A running server.
#[derive(Debug)]
pub struct Server {
    address: SocketAddr,
    ended: Arc<AtomicBool>,
    accepted: Arc<AtomicU64>,
    events: Mutex<Receiver<ServerEvent>>,
    thread: Option<JoinHandle<()>>,
}

impl Server {
    pub(crate) fn start(service: Service) -> io::Result<Self> {
        Self::listen(SocketAddr::from((Ipv4Addr::LOCALHOST, 0)), service)
    }

    fn listen(address: SocketAddr, service: Service) -> io::Result<Self> {
        let listener = TcpListener::bind(address)?;
        let address = listener.local_addr()?;
        let ended = Arc::new(AtomicBool::new(false));
        let accepted = Arc::new(AtomicU64::new(0));
        let (sender, events) = sync_channel(limits::EVENTS_MAX);
        let (stop, count) = (Arc::clone(&ended), Arc::clone(&accepted));
        let thread = std::thread::Builder::new().name("server".to_owned()).spawn(move || {
            for stream in listener.incoming().flatten() {
                if stop.load(Ordering::Acquire) {
                    return;
                }
                count.fetch_add(1, Ordering::AcqRel);
                let sender = sender.clone();
                std::thread::spawn(move || serve(stream, service, &sender));
            }
        })?;
        let events = Mutex::new(events);
        Ok(Self { address, ended, accepted, events, thread: Some(thread) })
    }

    pub(crate) fn start_on_ipv6(service: Service) -> io::Result<Self> {
        Self::listen(SocketAddr::from((Ipv6Addr::LOCALHOST, 0)), service)
    }

    /// Where it listens.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Connections so far.
    #[must_use]
    pub fn accepted(&self) -> u64 {
        self.accepted.load(Ordering::Acquire)
    }

    /// Forgets the events so far.
    pub fn forget_events(&self) {
        let events = self.events.lock().unwrap_or_else(PoisonError::into_inner);
        while events.try_recv().is_ok() {}
    }

    /// The next event, if one comes in time.
    #[must_use]
    pub fn event(&self, timeout: Duration) -> Option<ServerEvent> {
        self.events.lock().unwrap_or_else(PoisonError::into_inner).recv_timeout(timeout).ok()
    }
}

fn serve(stream: TcpStream, service: Service, events: &SyncSender<ServerEvent>) {
    let timeout = Some(limits::CONNECTION_TIMEOUT);
    let prepared =
        stream.set_read_timeout(timeout).and_then(|()| stream.set_write_timeout(timeout));
    let event = match prepared.and_then(|()| service(stream)) {
        Ok(told) => ServerEvent::Served(told),
        Err(error) => ServerEvent::Broken(error.kind()),
    };
    // A test that takes no events has its queue full some day; nobody waits for the rest.
    let _ = events.try_send(event);
}

impl Drop for Server {
    fn drop(&mut self) {
        self.ended.store(true, Ordering::Release);
        // Wakes the thread; if that fails it cannot be waited for.
        if TcpStream::connect(self.address).is_ok()
            && let Some(thread) = self.thread.take()
        {
            // If it panicked, the message is on the screen.
            let _ = thread.join();
        }
    }
}
