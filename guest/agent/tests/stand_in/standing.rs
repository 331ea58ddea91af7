//! Connections that stand: their bytes, options, counters and ends.

use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicBool, AtomicI32, Ordering::Relaxed};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use outsock_vmrpc::Errno;
use outsock_vmrpc::socket::options::{Inspection, SocketOption};
use socket2::SockRef;
use tokio::io::AsyncWriteExt;
use tokio::net::{TcpStream, UnixStream};

/// One connection.
pub(super) struct Standing {
    /// A second descriptor of the far socket, while the connection stands.
    far: Mutex<Option<OwnedFd>>,
    reset: AtomicI32,
    aborts: AtomicBool,
    told: Mutex<Vec<SocketOption>>,
}

impl Standing {
    pub(super) fn new(far: &TcpStream, options: &[SocketOption]) -> Arc<Self> {
        let copy = SockRef::from(far).try_clone().unwrap().into();
        let standing = Self {
            far: Mutex::new(Some(copy)),
            reset: AtomicI32::new(0),
            aborts: AtomicBool::new(false),
            told: Mutex::default(),
        };
        // What travels with a connect cannot fail it.
        let _ = standing.set(options);
        Arc::new(standing)
    }

    pub(super) fn set(&self, options: &[SocketOption]) -> Result<(), Errno> {
        for option in options {
            self.told.lock().unwrap().push(option.clone());
            let far = self.far.lock().unwrap();
            let Some(far) = far.as_ref().map(SockRef::from) else {
                return Err(Errno::ENOTCONN);
            };
            match option {
                SocketOption::AbortOnClose(abort) => self.aborts.store(*abort, Relaxed),
                SocketOption::Congestion(name) => {
                    let set = far.set_tcp_congestion(name.as_bytes());
                    set.map_err(|error| Errno::of(&error))?;
                }
                _ => {}
            }
        }
        Ok(())
    }

    /// All options that were told, in order.
    pub(super) fn told(&self) -> Vec<SocketOption> {
        self.told.lock().unwrap().clone()
    }

    pub(super) fn inspect(&self) -> Inspection {
        let far = self.far.lock().unwrap();
        let far = far.as_ref().map(SockRef::from);
        let name = |name: Vec<u8>| String::from_utf8(name).unwrap().trim_matches('\0').to_owned();
        Inspection {
            reset: Errno::new(self.reset.load(Relaxed)),
            // Only a gateway asks the kernel for these.
            tcp_info: None,
            congestion: far.as_ref().map(|far| name(far.tcp_congestion().unwrap())),
            max_segment: far.as_ref().map(|far| far.tcp_mss().unwrap()),
            out_queue: far.as_ref().map(|_| 0),
        }
    }

    /// Moves bytes until both directions have ended.
    pub(super) async fn pump(&self, mut data: UnixStream, mut far: TcpStream) {
        let ended = {
            let ((mut from_data, mut to_data), (mut from_far, mut to_far)) =
                (data.split(), far.split());
            let out = async {
                tokio::io::copy(&mut from_data, &mut to_far).await?;
                if self.aborts.load(Relaxed) {
                    return Err(std::io::ErrorKind::ConnectionAborted.into());
                }
                to_far.shutdown().await
            };
            let back = async {
                if let Err(error) = tokio::io::copy(&mut from_far, &mut to_data).await {
                    self.reset.store(Errno::of(&error).raw(), Relaxed);
                    return Err(error);
                }
                to_data.shutdown().await
            };
            tokio::try_join!(out, back)
        };
        if ended.is_err() && self.aborts.load(Relaxed) {
            let _ = SockRef::from(&far).set_linger(Some(Duration::ZERO));
        }
        *self.far.lock().unwrap() = None;
    }
}
