//! Plain vsock: programs of guests that open AF_VSOCK sockets by themselves.
//!
//! in: what such a program asks for, clients of the guest's sockets on the host; out: connections.
//! Owner: a task per request and per client. Kept: nothing but what a `[[vsock]]` rule names is reached
//! from a guest, of the host's sockets and other guests alike; a host's client gets `OK` only when the
//! guest has accepted. Two guests meet in a pair of sockets, so that each has its own credit. Bounds:
//! the muxer's, [`limits::VSOCK_CLIENTS_MAX`].

use std::future::Future;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use outsock_core::address::{Cid, VsockPort};
use outsock_core::muxer::{Caller, ConnectionId, PlainRequest};
use outsock_core::packet::SocketType;
use outsock_device::{Called, DeviceHandle, FarEnd, Opening};
use socket2::{Domain, SockAddr, Socket, Type};
use tokio::io::AsyncReadExt;
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{Semaphore, oneshot};
use tokio::task::JoinHandle;

use crate::config::{VsockSockets, VsockWay};
use crate::limits;
use crate::socket_module::{GuestSockets, Sockets};

/// Opens what a program of the guest `name` asked for, or refuses it.
pub(crate) async fn answer(
    sockets: Arc<Sockets>,
    guest: Arc<GuestSockets>,
    name: Arc<str>,
    cid: Cid,
    id: ConnectionId,
    request: PlainRequest,
) {
    let far = if sockets.is_draining() || !guest.admit_rate() {
        Err(io::ErrorKind::ResourceBusy.into())
    } else {
        match sockets.policy().config.vsock_way(&name, &request) {
            Some(VsockWay::Unix(path)) => connect(&path, request.socket_type).await,
            Some(VsockWay::Guest(to)) => meet(&sockets, cid, to, &request).await,
            None => Err(io::ErrorKind::PermissionDenied.into()),
        }
    };
    let answered = match far {
        Ok(end) => guest.device.accept(id, end),
        Err(error) => {
            if let Some(left_out) = guest.log.admit() {
                let (to, port) = (request.to.0, request.port.0);
                tracing::info!(left_out, guest = %name, to, port, %error, "vsock refused");
            }
            guest.device.refuse(id)
        }
    };
    if let Err(error) = answered {
        tracing::warn!(guest = %name, %error, "a vsock connection has no answer");
    }
}

fn kind(socket_type: SocketType) -> Type {
    match socket_type {
        SocketType::Stream => Type::STREAM,
        SocketType::SeqPacket => Type::SEQPACKET,
    }
}

fn far_end(socket: impl Into<OwnedFd>, socket_type: SocketType) -> io::Result<FarEnd> {
    let fd = socket.into();
    match socket_type {
        SocketType::Stream => Ok(FarEnd::socket(fd)),
        SocketType::SeqPacket => FarEnd::messages(fd),
    }
}

async fn connect(path: &Path, socket_type: SocketType) -> io::Result<FarEnd> {
    let address = SockAddr::unix(path)?;
    let socket = Socket::new(Domain::UNIX, kind(socket_type).nonblocking(), None)?;
    let mut waited_ms = 0;
    // A Unix socket connects at once, or its backlog is full, which the kernel does not wait for.
    while let Err(error) = socket.connect(&address) {
        if error.kind() != io::ErrorKind::WouldBlock || waited_ms >= limits::VSOCK_CONNECT_MS {
            return Err(error);
        }
        waited_ms += 10;
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    far_end(socket, socket_type)
}

/// A connection to another guest: returned is this guest's end, when the other one has accepted.
async fn meet(sockets: &Sockets, from: Cid, to: Cid, request: &PlainRequest) -> io::Result<FarEnd> {
    let other = sockets.guest_of(to.0).ok_or(io::ErrorKind::HostUnreachable)?;
    let (near, far) = Socket::pair(Domain::UNIX, kind(request.socket_type).nonblocking(), None)?;
    let far = far_end(far, request.socket_type)?;
    let caller = Caller::Guest(from, request.from);
    match call(&other.device, caller, request.port, far, false).await {
        Some(Called::Open) => far_end(near, request.socket_type),
        Some(Called::Refused) | None => Err(io::ErrorKind::ConnectionRefused.into()),
    }
}

async fn call(
    device: &DeviceHandle,
    caller: Caller,
    port: VsockPort,
    end: FarEnd,
    greeting: bool,
) -> Option<Called> {
    let (answer, heard) = oneshot::channel();
    device.call(Opening { caller, port, end, greeting, answer }).ok()?;
    heard.await.ok()
}

/// The sockets of one guest. Dropping it removes them; connections that stand go on.
#[derive(Debug, Default)]
pub(crate) struct Listening {
    at: VsockSockets,
    tasks: Vec<(JoinHandle<()>, PathBuf)>,
}

impl Listening {
    /// Whether these are the sockets.
    pub(crate) fn is_at(&self, at: &VsockSockets) -> bool {
        self.at == *at
    }

    /// Listens; the error has the path.
    pub(crate) fn start(
        at: &VsockSockets,
        device: &DeviceHandle,
    ) -> Result<Self, (PathBuf, io::Error)> {
        let mut listening = Self { at: at.clone(), tasks: Vec::new() };
        let kinds = [(&at.stream, SocketType::Stream), (&at.seqpacket, SocketType::SeqPacket)];
        for (path, socket_type) in kinds {
            let Some(path) = path else { continue };
            let listener = listen(path, socket_type).map_err(|error| (path.clone(), error))?;
            let task = tokio::spawn(serve(listener, socket_type, device.clone()));
            listening.tasks.push((task, path.clone()));
        }
        Ok(listening)
    }
}

impl Drop for Listening {
    fn drop(&mut self) {
        for (task, path) in &self.tasks {
            task.abort();
            let _ = std::fs::remove_file(path);
        }
    }
}

/// The standard library's types stand for Unix sockets of any type: the calls are the same, and a read of
/// a SOCK_SEQPACKET socket is a message. Whoever may write to the file may reach the guest: at first only the gateway's own user.
fn listen(path: &Path, socket_type: SocketType) -> io::Result<UnixListener> {
    let address = SockAddr::unix(path)?;
    if let Ok(found) = std::fs::symlink_metadata(path) {
        if !found.file_type().is_socket() {
            return Err(io::ErrorKind::AlreadyExists.into());
        }
        let probe = Socket::new(Domain::UNIX, kind(socket_type).nonblocking(), None)?;
        match probe.connect(&address) {
            Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {
                std::fs::remove_file(path)?;
            }
            Ok(()) | Err(_) => return Err(io::ErrorKind::AddrInUse.into()),
        }
    }
    let socket = Socket::new(Domain::UNIX, kind(socket_type).nonblocking(), None)?;
    socket.bind(&address)?;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600))?;
    socket.listen(128)?;
    UnixListener::from_std(OwnedFd::from(socket).into())
}

async fn serve(listener: UnixListener, socket_type: SocketType, device: DeviceHandle) {
    let clients = Arc::new(Semaphore::new(limits::VSOCK_CLIENTS_MAX));
    loop {
        let Ok(permit) = Arc::clone(&clients).acquire_owned().await else { return };
        match listener.accept().await {
            Ok((client, _)) => {
                let device = device.clone();
                tokio::spawn(async move {
                    // A client that goes away, or says something else, is its own problem.
                    if let Err(error) = open(client, socket_type, &device).await {
                        tracing::debug!(%error, "a client of a guest's vsock socket");
                    }
                    drop(permit);
                });
            }
            Err(error) => {
                tracing::warn!(%error, "a guest's vsock socket");
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
    }
}

/// The handshake: a line `CONNECT PORT`, answered with `OK PORT` by the device or with an end.
async fn open(
    mut client: UnixStream,
    socket_type: SocketType,
    device: &DeviceHandle,
) -> io::Result<()> {
    let port = within(limits::VSOCK_HANDSHAKE_MS, read_line(&mut client, socket_type)).await??;
    let end = far_end(client.into_std()?, socket_type)?;
    call(device, Caller::Host, port, end, true).await;
    Ok(())
}

async fn within<T>(ms: u64, what: impl Future<Output = T>) -> io::Result<T> {
    let late = |_| io::ErrorKind::TimedOut.into();
    tokio::time::timeout(Duration::from_millis(ms), what).await.map_err(late)
}

/// Reads up to the end of the line and not a byte more: what follows is the guest's. A message is the
/// whole line.
async fn read_line(client: &mut UnixStream, socket_type: SocketType) -> io::Result<VsockPort> {
    let step = match socket_type {
        SocketType::Stream => 1,
        SocketType::SeqPacket => limits::VSOCK_HANDSHAKE_BYTES_MAX,
    };
    let mut line = Vec::new();
    while line.last() != Some(&b'\n') && line.len() < limits::VSOCK_HANDSHAKE_BYTES_MAX {
        let mut piece = [0; limits::VSOCK_HANDSHAKE_BYTES_MAX];
        let n = client.read(&mut piece[..step]).await?;
        if n == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        line.extend_from_slice(&piece[..n]);
        if socket_type == SocketType::SeqPacket {
            break;
        }
    }
    parse(&line).ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "no line: CONNECT PORT"))
}

fn parse(line: &[u8]) -> Option<VsockPort> {
    let line = std::str::from_utf8(line).ok()?.trim_end();
    line.strip_prefix("CONNECT ")?.parse().ok().map(VsockPort)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_handshake_is_a_handshake() {
        assert_eq!(parse(b"CONNECT 52\n"), Some(VsockPort(52)));
        assert_eq!(parse(b"CONNECT 4294967295\r\n"), Some(VsockPort(u32::MAX)));
        for line in
            [&b"CONNECT\n"[..], b"connect 52\n", b"CONNECT -1\n", b"CONNECT 4294967296\n", b"\xff"]
        {
            assert_eq!(parse(line), None, "{line:?}");
        }
    }
}
