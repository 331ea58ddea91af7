//! RPC: what the outsock agent does in a real guest, over virtual connections.
//!
//! in: destinations; out: connections with the names or the errno that the gateway reported. Two
//! pump threads per adapted connection. Kept: a dial announces its token and opens its connection
//! without waiting in between, as the agent does. Bound: [`limits::DIAL_TIMEOUT`] per dial,
//! [`limits::PUMP_BYTES`] per pump.

use std::hash::{BuildHasher, Hasher, RandomState};
use std::io::{self, Read, Write};
use std::net::{Shutdown, SocketAddr};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::mpsc::sync_channel;

use outsock_vmrpc::limits::PRIVILEGED_PORT_MAX;
use outsock_vmrpc::socket::{self, ConnectReply, ConnectRequest, Destination, Token};
use outsock_vmrpc::{Binding, Client, Errno, RpcError};

use crate::connection::{ConnectError, Connection};
use crate::guest::{OpenOptions, VirtualGuest};
use crate::limits;
use crate::pages::QueuePages;

impl Connection {
    /// Turns the connection into a descriptor: one end of a Unix socket pair, pumped both ways.
    /// The descriptor does not keep the guest alive; fails when the connection has clones.
    pub fn into_fd(self) -> io::Result<OwnedFd> {
        let pumped = self
            .without_guest()
            .ok_or_else(|| io::Error::other("the connection has clones: they could not end it"))?;
        // The socket is the pumps' now; dropping our handle must not close it.
        self.forget();
        let (ours, theirs) = UnixStream::pair()?;
        let (to_host, from_program) = (pumped.clone(), ours.try_clone()?);
        spawn("guest-pump-out", move || pump_out(&from_program, &to_host))?;
        spawn("guest-pump-in", move || pump_in(&pumped, &ours))?;
        Ok(theirs.into())
    }
}

fn spawn(name: &str, body: impl FnOnce() + Send + 'static) -> io::Result<()> {
    std::thread::Builder::new().name(name.to_owned()).spawn(body).map(drop)
}

fn pump_out(mut from: &UnixStream, mut to: &Connection) {
    let mut chunk = vec![0; limits::PUMP_BYTES];
    while let Ok(len @ 1..) = from.read(&mut chunk) {
        if to.write_all(&chunk[..len]).is_err() {
            // The reader of the other direction learns the rest.
            let _ = from.shutdown(Shutdown::Read);
            return;
        }
    }
    // Fails only when the connection is over already.
    let _ = to.shutdown(Shutdown::Write);
}

fn pump_in(mut from: &Connection, mut to: &UnixStream) {
    let mut chunk = vec![0; limits::PUMP_BYTES];
    while let Ok(len @ 1..) = from.read(&mut chunk) {
        if to.write_all(&chunk[..len]).is_err() {
            break;
        }
    }
    // Fails only when the program has closed its end; the other pump ends the same way.
    let _ = to.shutdown(if from.is_done() { Shutdown::Both } else { Shutdown::Write });
}

/// Why VM RPC is not there.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RpcSetupError {
    /// The VM RPC port does not answer.
    #[error("cannot connect to the VM RPC port: {0}")]
    Connect(#[from] ConnectError),
    /// The descriptor could not be made.
    #[error("cannot adapt the connection: {0}")]
    Adapt(String),
    /// The gateway refused the greeting or the module.
    #[error(transparent)]
    Rpc(#[from] RpcError),
}

impl VirtualGuest {
    /// A VM RPC client over a new connection to the gateway's VM RPC port.
    pub fn rpc(&self) -> Result<Client, RpcSetupError> {
        let connection = self.open(outsock_vmrpc::limits::VMRPC_PORT)?;
        let fd = connection.into_fd().map_err(|error| RpcSetupError::Adapt(error.to_string()))?;
        Ok(Client::new(fd)?)
    }

    /// As [`Self::rpc`], like a privileged program: from a reserved port, with pages for event queues.
    pub fn rpc_sharing(&self) -> Result<Client, RpcSetupError> {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let port = 1 + NEXT.fetch_add(1, Ordering::Relaxed) % PRIVILEGED_PORT_MAX;
        self.rpc_sharing_from(Some(port))
    }

    /// Names pages without the right to: from any port.
    pub fn rpc_sharing_unprivileged(&self) -> Result<Client, RpcSetupError> {
        self.rpc_sharing_from(None)
    }

    fn rpc_sharing_from(&self, port: Option<u32>) -> Result<Client, RpcSetupError> {
        let adapt = |error: &dyn std::fmt::Display| RpcSetupError::Adapt(error.to_string());
        let pages = QueuePages(self.queue_pages().map_err(|error| adapt(&error))?);
        let options = OpenOptions { local_port: port, ..OpenOptions::default() };
        let connection = self.start_open_with(outsock_vmrpc::limits::VMRPC_PORT, options)?;
        connection.wait_connected()?;
        let fd = connection.into_fd().map_err(|error| adapt(&error))?;
        Ok(Client::with_pages(fd, Box::new(pages))?)
    }

    /// Binds the `socket` module once, for every later dial.
    fn socket_module(&self) -> Result<&Binding, RpcSetupError> {
        if let Some(binding) = self.owner.socket_module.get() {
            return Ok(binding);
        }
        let binding = self.rpc()?.bind_module(socket::NAME, socket::VERSIONS)?;
        Ok(self.owner.socket_module.get_or_init(|| binding))
    }

    /// Connects to `to` through the gateway, as the agent does for a program: the answer is the
    /// connection and the local name of the far socket, or the errno of `connect()`.
    pub fn dial(&self, to: SocketAddr) -> Result<(Connection, Option<SocketAddr>), Errno> {
        self.start_dial(to)?.wait()
    }

    /// Starts [`Self::dial`]: announcement and REQUEST are under way when it returns.
    pub fn start_dial(&self, to: SocketAddr) -> Result<Dialing, Errno> {
        let binding = self.socket_module().map_err(|error| setup_errno(&error))?;
        let token = random_token();
        let request = ConnectRequest { token, destination: Destination::Address(to), source: None };
        let (sender, reply) = sync_channel(1);
        binding.start_rpc(socket::CONNECT, &request.encode(), move |outcome| {
            // Nobody waits any more when the dial was dropped.
            let _ = sender.try_send(outcome);
        });
        let options =
            OpenOptions { connect_timeout: Some(limits::DIAL_TIMEOUT), ..OpenOptions::default() };
        let connection = self.start_open_with(token.raw(), options).map_err(connect_errno)?;
        Ok(Dialing { reply, connection, guest: self.clone(), token })
    }
}

/// A dial under way. Dropping it cancels nothing but forgets the connection.
#[derive(Debug)]
pub struct Dialing {
    reply: std::sync::mpsc::Receiver<Result<Vec<u8>, RpcError>>,
    connection: Connection,
    guest: VirtualGuest,
    token: Token,
}

impl Dialing {
    /// Waits for both answers.
    pub fn wait(self) -> Result<(Connection, Option<SocketAddr>), Errno> {
        let Ok(outcome) = self.reply.recv_timeout(limits::DIAL_TIMEOUT) else {
            self.cancel();
            return Err(Errno::ETIMEDOUT);
        };
        let bytes = outcome.map_err(|error| rpc_errno(&error))?;
        let reply = ConnectReply::decode(&bytes).map_err(|_| Errno::EPROTO)?;
        self.connection.wait_connected().map_err(connect_errno)?;
        Ok((self.connection, reply.local))
    }

    /// Tells the gateway to give the dial up, as the agent does when a program closes early.
    pub fn cancel(&self) {
        if let Ok(binding) = self.guest.socket_module() {
            binding.start_rpc(socket::CANCEL, &self.token.encode(), drop);
        }
    }

    /// The vsock connection, whatever the reply says.
    pub fn connection(&self) -> &Connection {
        &self.connection
    }
}

fn random_token() -> Token {
    // The standard library's only source of randomness: a hasher with random keys.
    let random = RandomState::new().build_hasher().finish();
    Token::from_random(u32::try_from(random >> 32).unwrap_or(0))
}

fn connect_errno(error: ConnectError) -> Errno {
    match error {
        ConnectError::Reset => Errno::ECONNRESET,
        ConnectError::TimedOut => Errno::ETIMEDOUT,
        ConnectError::Protocol => Errno::EPROTO,
        ConnectError::Gone => Errno::ENETDOWN,
    }
}

fn rpc_errno(error: &RpcError) -> Errno {
    match error {
        RpcError::Function(errno) => *errno,
        RpcError::Disconnected => Errno::ENETDOWN,
        RpcError::Host(_) | RpcError::Protocol(_) | RpcError::ArgumentsTooLarge => Errno::EPROTO,
    }
}

fn setup_errno(error: &RpcSetupError) -> Errno {
    match error {
        RpcSetupError::Connect(error) => connect_errno(*error),
        RpcSetupError::Adapt(_) => Errno::EMFILE,
        RpcSetupError::Rpc(error) => rpc_errno(error),
    }
}
