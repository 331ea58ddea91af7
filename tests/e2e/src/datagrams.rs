//! Datagrams: a UDP server that sends back what comes.
//!
//! in: datagrams; out: the same, to whoever sent them. Owner: one thread, ended by dropping the server.
//! Kept: it listens on loopback only, on a port that the system chose. Bound: one datagram.

use std::io;
use std::net::{SocketAddr, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

/// See the module.
#[derive(Debug)]
pub struct UdpEcho {
    address: SocketAddr,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl UdpEcho {
    /// Starts it on the loopback of a family.
    ///
    /// # Errors
    /// The system's, when it cannot listen or has no such family.
    pub fn start(v6: bool) -> io::Result<Self> {
        let socket = UdpSocket::bind(if v6 { "[::1]:0" } else { "127.0.0.1:0" })?;
        socket.set_read_timeout(Some(Duration::from_millis(200)))?;
        let address = socket.local_addr()?;
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let serve = move || {
            let mut buffer = vec![0; 65_536];
            while !stopped.load(Ordering::Relaxed) {
                if let Ok((length, from)) = socket.recv_from(&mut buffer) {
                    // Whoever is gone misses nothing.
                    let _ = socket.send_to(&buffer[..length], from);
                }
            }
        };
        let thread = Some(std::thread::Builder::new().name("udp-echo".to_owned()).spawn(serve)?);
        Ok(Self { address, stop, thread })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }
}

impl Drop for UdpEcho {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_comes_goes_back() {
        let server = UdpEcho::start(false).unwrap();
        let client = UdpSocket::bind("127.0.0.1:0").unwrap();
        client.send_to(b"hello", server.address()).unwrap();
        let mut buffer = [0; 8];
        assert_eq!(client.recv_from(&mut buffer).unwrap(), (5, server.address()));
    }
}
