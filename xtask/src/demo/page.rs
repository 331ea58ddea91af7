//! Page: a small HTTP server on the host's loopback.
//!
//! in: connections; out: one page each. Owner: one thread, ended by dropping the [`PageServer`].
//! Kept: it listens on a port that the system chose, nobody else's. Bound: one connection at a time,
//! [`REQUEST_BYTES_MAX`], [`REQUEST_TIMEOUT`].

use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

/// A request line and some headers.
const REQUEST_BYTES_MAX: usize = 16 * 1024;
const REQUEST_TIMEOUT: Duration = Duration::from_secs(10);
const BODY: &str = "Hello from outside the virtual machine.\n";

#[derive(Debug, Default)]
struct Shared {
    ended: AtomicBool,
    last_peer: Mutex<Option<SocketAddr>>,
}

/// A running server.
#[derive(Debug)]
pub(crate) struct PageServer {
    address: SocketAddr,
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

impl PageServer {
    pub(crate) fn start() -> io::Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
        let address = listener.local_addr()?;
        let shared = Arc::new(Shared::default());
        let theirs = Arc::clone(&shared);
        let thread = std::thread::Builder::new().name("page".to_owned()).spawn(move || {
            for stream in listener.incoming() {
                if theirs.ended.load(Ordering::Acquire) {
                    return;
                }
                // One visitor's trouble is not the server's.
                let _ = stream.and_then(|stream| serve(stream, &theirs));
            }
        })?;
        Ok(Self { address, shared, thread: Some(thread) })
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    pub(crate) fn body(&self) -> &'static [u8] {
        BODY.as_bytes()
    }

    /// Who asked last.
    pub(crate) fn last_peer(&self) -> Option<SocketAddr> {
        *self.shared.last_peer.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn serve(mut stream: TcpStream, shared: &Shared) -> io::Result<()> {
    stream.set_read_timeout(Some(REQUEST_TIMEOUT))?;
    stream.set_write_timeout(Some(REQUEST_TIMEOUT))?;
    let peer = stream.peer_addr()?;
    *shared.last_peer.lock().unwrap_or_else(PoisonError::into_inner) = Some(peer);
    let mut request = Vec::new();
    let mut piece = [0; 1024];
    while !request.windows(4).any(|window| window == b"\r\n\r\n") {
        let count = stream.read(&mut piece)?;
        request.extend_from_slice(&piece[..count]);
        if count == 0 || request.len() > REQUEST_BYTES_MAX {
            return Ok(());
        }
    }
    write!(
        stream,
        "HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{BODY}",
        BODY.len()
    )
}

impl Drop for PageServer {
    fn drop(&mut self) {
        self.shared.ended.store(true, Ordering::Release);
        // Wakes the thread; if that fails it cannot be waited for.
        if TcpStream::connect(self.address).is_ok()
            && let Some(thread) = self.thread.take()
        {
            // It does not panic; if it did, the message is on the screen.
            let _ = thread.join();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_visitor_gets_the_page() {
        let server = PageServer::start().unwrap();
        let mut stream = TcpStream::connect(server.address()).unwrap();
        stream.write_all(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n").unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        assert!(answer.ends_with(BODY), "{answer}");
        assert_eq!(server.last_peer(), Some(stream.local_addr().unwrap()));
    }
}
