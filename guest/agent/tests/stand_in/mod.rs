//! A gateway made of Unix sockets, for `outsock run --gateway unix:PATH` without a virtual machine.
//!
//! It serves the `socket` host module at PATH and data connections at PATH.data (see `UnixStandIn` in
//! the agent), and dials loopback addresses only: the documentation addresses that programs connect
//! to stand for behaviours.
//!
//! | Address | What happens |
//! |---|---|
//! | 198.51.100.1, 2001:db8::1 | dials the same port on loopback |
//! | 198.51.100.2 | ENETUNREACH |
//! | 198.51.100.3 | ETIMEDOUT after 300 ms |
//! | 198.51.100.4 | EHOSTUNREACH |
//! | 198.51.100.5 | as 198.51.100.1, but a second later |
//! | 198.51.100.6 | as 198.51.100.1, but 32 seconds later |
//! | 198.51.100.7 | nothing, ever |
//! | 198.51.100.8 | the data connection fails 100 ms before the verdict ECONNREFUSED |
//! | 198.51.100.9 | EACCES |
//!
//! Names: see `names`. Listeners of the program are published as `inbound` says.
#![allow(dead_code, clippy::unwrap_used)]

mod inbound;
mod names;
mod standing;

use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use outsock_vmrpc::host::{CallError, Caller, HostModule, Registry, serve};
use outsock_vmrpc::socket::options::{self, SetOptions, SocketOption};
use outsock_vmrpc::socket::{
    self, Asserted, ConnectReply, ConnectRequest, Destination, Hello, Token,
};
use outsock_vmrpc::{Errno, ModuleName, Version, VersionRange};
use tokio::io::AsyncReadExt;
use tokio::net::{TcpStream, UnixListener, UnixStream};
use tokio::sync::oneshot;

use standing::Standing;

const PREFACE_BYTES: usize = 64 * 1024;

/// A data connection may come before its announcement or after it.
enum Slot {
    Arrived(UnixStream),
    Awaited(oneshot::Sender<UnixStream>),
}

#[derive(Default)]
struct State {
    slots: Mutex<HashMap<u32, Slot>>,
    dials: Mutex<HashMap<u32, tokio::task::AbortHandle>>,
    counters: Mutex<Counters>,
    asserted: Mutex<Vec<Asserted>>,
    inbound: inbound::Inbound,
    standing: Mutex<HashMap<u32, Arc<Standing>>>,
}

/// What the stand-in has seen.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Counters {
    pub(crate) connects: usize,
    pub(crate) cancels: usize,
    pub(crate) opened: usize,
    pub(crate) closed: usize,
    /// Listeners that are registered now.
    pub(crate) listeners: usize,
    /// Connections that came in and were fetched.
    pub(crate) fetched: usize,
    pub(crate) refused: usize,
}

struct SocketModule(Arc<State>);

fn target(to: SocketAddr) -> Option<SocketAddr> {
    let ip = match to.ip() {
        IpAddr::V4(v4) if matches!(v4.octets(), [198, 51, 100, 1 | 5 | 6]) => {
            Ipv4Addr::LOCALHOST.into()
        }
        IpAddr::V6(v6) if v6.segments()[..2] == [0x2001, 0xdb8] => Ipv6Addr::LOCALHOST.into(),
        _ => return None,
    };
    Some(SocketAddr::new(ip, to.port()))
}

async fn dial(to: SocketAddr) -> Result<TcpStream, Errno> {
    let last = match to.ip() {
        IpAddr::V4(v4) if v4.octets()[..3] == [198, 51, 100] => v4.octets()[3],
        IpAddr::V4(_) => 2,
        IpAddr::V6(_) => 1,
    };
    let wait = |ms| tokio::time::sleep(Duration::from_millis(ms));
    match last {
        2 => return Err(Errno::ENETUNREACH),
        3 => {
            wait(300).await;
            return Err(Errno::ETIMEDOUT);
        }
        4 => return Err(Errno::EHOSTUNREACH),
        5 => wait(1000).await,
        6 => wait(32_000).await,
        7 => std::future::pending().await,
        8 => return Err(Errno::ECONNREFUSED),
        9 => return Err(Errno::EACCES),
        _ => {}
    }
    let to = target(to).ok_or(Errno::ENETUNREACH)?;
    TcpStream::connect(to).await.map_err(|error| Errno::of(&error))
}

async fn pump(state: Arc<State>, standing: Arc<Standing>, mut data: UnixStream, far: TcpStream) {
    let mut preface = vec![0u8; PREFACE_BYTES - 4];
    if data.read_exact(&mut preface).await.is_ok() {
        state.counters.lock().unwrap().opened += 1;
        standing.pump(data, far).await;
        state.counters.lock().unwrap().closed += 1;
    }
}

impl SocketModule {
    fn standing(&self, token: Token) -> Result<Arc<Standing>, Errno> {
        let standing = self.0.standing.lock().unwrap();
        standing.get(&token.raw()).cloned().ok_or(Errno::ENOTCONN)
    }

    async fn data_of(&self, token: Token) -> Result<UnixStream, Errno> {
        let receiver = {
            let mut slots = self.0.slots.lock().unwrap();
            if let Some(Slot::Arrived(stream)) = slots.remove(&token.raw()) {
                return Ok(stream);
            }
            let (sender, receiver) = oneshot::channel();
            slots.insert(token.raw(), Slot::Awaited(sender));
            receiver
        };
        receiver.await.map_err(|_| Errno::ECANCELED)
    }

    async fn connect(
        &self,
        request: ConnectRequest,
        options: Vec<SocketOption>,
    ) -> Result<Vec<u8>, Errno> {
        self.0.counters.lock().unwrap().connects += 1;
        let Destination::Address(to) = request.destination else {
            return Err(Errno::EHOSTUNREACH);
        };
        let token = request.token;
        let data = self.data_of(token);
        if to.ip() == IpAddr::V4(Ipv4Addr::new(198, 51, 100, 8)) {
            drop(data.await);
            tokio::time::sleep(Duration::from_millis(100)).await;
            return Err(Errno::ECONNREFUSED);
        }
        let (far, data) = tokio::join!(dial(to), data);
        let (far, data) = (far?, data?);
        let local = far.local_addr().ok();
        let standing = Standing::new(&far, &options);
        self.0.standing.lock().unwrap().insert(token.raw(), Arc::clone(&standing));
        tokio::spawn(pump(Arc::clone(&self.0), standing, data, far));
        Ok(ConnectReply { local }.encode())
    }
}

#[async_trait::async_trait]
impl HostModule for SocketModule {
    fn name(&self) -> ModuleName {
        socket::NAME.parse().unwrap()
    }

    fn versions(&self) -> VersionRange {
        socket::ALL_VERSIONS
    }

    async fn call(
        &self,
        caller: &Caller,
        version: Version,
        function: u32,
        arguments: Vec<u8>,
    ) -> Result<Vec<u8>, CallError> {
        match function {
            socket::CONNECT | options::CONNECT_WITH => {
                let (request, asserted, options) = if function == options::CONNECT_WITH {
                    options::decode_connect(&arguments)?
                } else if version >= socket::V2 {
                    let (request, asserted) = ConnectRequest::decode_v2(&arguments)?;
                    (request, asserted, Vec::new())
                } else {
                    (ConnectRequest::decode(&arguments)?, Asserted::default(), Vec::new())
                };
                self.0.asserted.lock().unwrap().push(asserted);
                let token = request.token.raw();
                let module = Self(Arc::clone(&self.0));
                let task = tokio::spawn(async move { module.connect(request, options).await });
                self.0.dials.lock().unwrap().insert(token, task.abort_handle());
                let result = task.await;
                self.0.dials.lock().unwrap().remove(&token);
                self.0.slots.lock().unwrap().remove(&token);
                result.unwrap_or(Err(Errno::ECANCELED)).map_err(CallError::Errno)
            }
            socket::CANCEL => {
                let token = Token::decode(&arguments)?.raw();
                self.0.counters.lock().unwrap().cancels += 1;
                if let Some(dial) = self.0.dials.lock().unwrap().remove(&token) {
                    dial.abort();
                }
                Ok(Vec::new())
            }
            socket::HELLO => {
                let guest = caller.guest.to_string();
                Ok(Hello { guest, gateway_version: "stand-in".to_owned() }.encode())
            }
            options::SET_OPTIONS => {
                let set = SetOptions::decode(&arguments)?;
                let standing = self.standing(set.token).map_err(CallError::Errno)?;
                standing.set(&set.options).map_err(CallError::Errno)?;
                Ok(Vec::new())
            }
            options::INSPECT => {
                let standing = self.standing(Token::decode(&arguments)?);
                Ok(standing.map_err(CallError::Errno)?.inspect().encode())
            }
            _ => inbound::call(&self.0, function, &arguments).await,
        }
    }
}

async fn take_data(state: Arc<State>, mut stream: UnixStream) {
    let mut token = [0u8; 4];
    if stream.read_exact(&mut token).await.is_err() {
        return;
    }
    let token = u32::from_le_bytes(token);
    let mut slots = state.slots.lock().unwrap();
    match slots.remove(&token) {
        Some(Slot::Awaited(sender)) => drop(sender.send(stream)),
        Some(Slot::Arrived(_)) | None => drop(slots.insert(token, Slot::Arrived(stream))),
    }
}

/// Serves until its runtime ends.
pub(crate) async fn run(path: PathBuf) {
    Gateway::start_on(&path).await.1.await.unwrap();
}

/// A running stand-in.
pub(crate) struct Gateway {
    runtime: Option<tokio::runtime::Runtime>,
    state: Arc<State>,
    path: PathBuf,
}

impl Gateway {
    /// Starts one in threads of this process.
    pub(crate) fn start(path: &Path) -> Self {
        let runtime = tokio::runtime::Runtime::new().unwrap();
        let (state, _) = runtime.block_on(Self::start_on(path));
        Self { runtime: Some(runtime), state, path: path.to_owned() }
    }

    async fn start_on(path: &Path) -> (Arc<State>, tokio::task::JoinHandle<()>) {
        let data_path = PathBuf::from(format!("{}.data", path.display()));
        for path in [path, &data_path] {
            let _ = std::fs::remove_file(path);
        }
        let control = UnixListener::bind(path).unwrap();
        let data = UnixListener::bind(data_path).unwrap();
        let state = Arc::new(State::default());
        let registry = Registry::new();
        registry.register_hm(SocketModule(Arc::clone(&state))).unwrap();
        registry.register_hm(names::ResolverModule).unwrap();
        let for_data = Arc::clone(&state);
        let task = tokio::spawn(async move {
            loop {
                tokio::select! {
                    accepted = control.accept() => {
                        let registry = registry.clone();
                        let stream = accepted.unwrap().0;
                        tokio::spawn(async move {
                            let caller = Caller::new("stand-in", 3);
                            let _ = serve(stream, &registry, caller).await;
                        });
                    }
                    accepted = data.accept() => {
                        tokio::spawn(take_data(Arc::clone(&for_data), accepted.unwrap().0));
                    }
                }
            }
        });
        (state, task)
    }

    /// Where [`inbound`]'s directory answers.
    pub(crate) fn directory(&self) -> String {
        let runtime = self.runtime.as_ref().unwrap();
        runtime.block_on(inbound::directory(Arc::clone(&self.state))).to_string()
    }

    pub(crate) fn counters(&self) -> Counters {
        *self.state.counters.lock().unwrap()
    }

    /// Who asked, connect by connect.
    pub(crate) fn asserted(&self) -> Vec<Asserted> {
        self.state.asserted.lock().unwrap().clone()
    }

    /// All socket options that were told of any connection, in order within each.
    pub(crate) fn options(&self) -> Vec<SocketOption> {
        let standing = self.state.standing.lock().unwrap();
        standing.values().flat_map(|standing| standing.told()).collect()
    }

    /// The option that makes the agent use this stand-in.
    pub(crate) fn option(&self) -> String {
        format!("unix:{}", self.path.display())
    }

    /// Kills it, with everything that is under way.
    pub(crate) fn stop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

impl Drop for Gateway {
    fn drop(&mut self) {
        self.stop();
    }
}

/// The programs of the tests are in Python. Where there is none, they say so and pass.
pub(crate) fn has_python() -> bool {
    let has = std::process::Command::new("python3").arg("--version").output().is_ok();
    if !has {
        eprintln!("NOT TESTED: there is no python3 here");
    }
    has
}
