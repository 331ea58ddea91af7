//! The host side of VM RPC: a registry of host modules, and the server of one guest's stream.
//!
//! in: frames from a guest; out: replies, in the order in which calls end. Owner: one tokio task
//! per stream reads frames and begins calls, one more per call that has to wait; one writes replies. Kept: every call
//! gets exactly one reply while the stream lives; dropping the stream drops its calls, which is how
//! a module learns that a caller is gone. Bounds: [`limits::CALLS_IN_FLIGHT_MAX`],
//! [`limits::BINDINGS_PER_STREAM_MAX`], [`limits::REPLIES_QUEUED_MAX`], [`limits::MODULES_MAX`].

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, PoisonError, RwLock};
use std::task::Poll;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::sync::{Notify, mpsc};
use tokio::task::JoinSet;

use crate::error::{Fault, RpcError};
use crate::frame::{self, Body, Bound, CallId, Decoder, Frame, FrameError, Handle};
use crate::limits;
use crate::name::{ModuleName, Version, VersionRange};

/// Who calls: one guest of this gateway. Known from the vhost-user socket, never from the guest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Caller {
    /// The guest's name in the configuration.
    pub guest: Arc<str>,
    /// Its CID.
    pub cid: u64,
}

/// Why a function has no result.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CallError {
    /// The function ran and failed.
    #[error("{0}")]
    Errno(crate::Errno),
    /// There is no function of that number.
    #[error("no such function")]
    NoSuchFunction,
    /// The arguments do not parse.
    #[error("bad arguments")]
    BadArguments,
}

impl From<crate::wire::Malformed> for CallError {
    fn from(_: crate::wire::Malformed) -> Self {
        Self::BadArguments
    }
}

/// A host module: a named set of functions that guests may call.
#[async_trait::async_trait]
pub trait HostModule: Send + Sync + 'static {
    /// The name that guests bind.
    fn name(&self) -> ModuleName;

    /// The versions that it serves.
    fn versions(&self) -> VersionRange;

    /// Runs one function. The future is dropped when the caller's stream ends or the module is
    /// unregistered, so it must leave nothing half done at an `await`.
    async fn call(
        &self,
        caller: &Caller,
        version: Version,
        function: u32,
        arguments: Vec<u8>,
    ) -> Result<Vec<u8>, CallError>;
}

struct Registered {
    module: Box<dyn HostModule>,
    gone: AtomicBool,
    gone_notice: Notify,
}

impl Registered {
    async fn until_gone(&self) {
        loop {
            let notice = self.gone_notice.notified();
            if self.gone.load(Ordering::Acquire) {
                return;
            }
            notice.await;
        }
    }
}

/// Why a module cannot be registered.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RegisterError {
    /// The name is taken.
    #[error("a host module named {0} is already registered")]
    NameTaken(ModuleName),
    /// There are [`limits::MODULES_MAX`] modules.
    #[error("the gateway has as many host modules as it may have")]
    TooMany,
}

/// The host modules of a gateway. Clones share it.
#[derive(Clone, Default)]
pub struct Registry {
    modules: Arc<RwLock<HashMap<ModuleName, Arc<Registered>>>>,
}

impl std::fmt::Debug for Registry {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Registry").field("modules", &self.names()).finish()
    }
}

impl Registry {
    /// An empty registry.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a module; guests can bind it from now on.
    pub fn register_hm(&self, module: impl HostModule) -> Result<(), RegisterError> {
        let name = module.name();
        let mut modules = self.modules.write().unwrap_or_else(PoisonError::into_inner);
        if modules.contains_key(&name) {
            return Err(RegisterError::NameTaken(name));
        }
        if modules.len() >= limits::MODULES_MAX {
            return Err(RegisterError::TooMany);
        }
        let registered = Registered {
            module: Box::new(module),
            gone: AtomicBool::new(false),
            gone_notice: Notify::new(),
        };
        modules.insert(name, Arc::new(registered));
        Ok(())
    }

    /// Removes a module. Its calls in flight, and calls through old handles, end with
    /// [`Fault::ModuleGone`]. `false` when there was none of that name.
    pub fn unregister_hm(&self, name: &ModuleName) -> bool {
        let removed = self.modules.write().unwrap_or_else(PoisonError::into_inner).remove(name);
        let Some(registered) = removed else {
            return false;
        };
        registered.gone.store(true, Ordering::Release);
        registered.gone_notice.notify_waiters();
        true
    }

    /// The names of all modules, sorted.
    pub fn names(&self) -> Vec<ModuleName> {
        let modules = self.modules.read().unwrap_or_else(PoisonError::into_inner);
        let mut names: Vec<_> = modules.keys().cloned().collect();
        names.sort();
        names
    }

    fn find(&self, name: &str) -> Result<Arc<Registered>, Fault> {
        let name: ModuleName = name.parse().map_err(|_| Fault::NoSuchModule)?;
        let modules = self.modules.read().unwrap_or_else(PoisonError::into_inner);
        modules.get(&name).cloned().ok_or(Fault::NoSuchModule)
    }
}

/// Why serving a stream ended early.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// The guest sent something that is no frame, or a frame that is not a guest's to send.
    #[error("the guest broke the protocol: {0}")]
    GuestMisbehaved(#[from] FrameError),
    /// The stream broke.
    #[error("the stream to the guest broke: {0}")]
    Stream(#[from] std::io::Error),
}

/// Serves one guest's stream until it ends. `Ok` when the guest closed it between frames.
pub async fn serve<S>(stream: S, registry: &Registry, caller: Caller) -> Result<(), ServeError>
where
    S: AsyncRead + AsyncWrite + Send + 'static,
{
    let (mut reader, mut writer) = tokio::io::split(stream);
    let (replies, mut queued) = mpsc::channel::<Vec<u8>>(limits::REPLIES_QUEUED_MAX);
    let mut session = Session {
        registry,
        caller: Arc::new(caller),
        greeted: false,
        bindings: HashMap::new(),
        calls: JoinSet::new(),
        replies,
    };
    let write_all = async {
        while let Some(mut bytes) = queued.recv().await {
            while let Ok(more) = queued.try_recv() {
                bytes.extend(more);
            }
            writer.write_all(&bytes).await?;
            writer.flush().await?;
        }
        Ok::<(), ServeError>(())
    };
    let read_all = async {
        let mut decoder = Decoder::new();
        let mut chunk = vec![0u8; 16 * 1024];
        loop {
            let n = reader.read(&mut chunk).await?;
            if n == 0 {
                let whole = !decoder.is_mid_frame();
                return if whole { Ok(()) } else { Err(FrameError("ends inside a frame").into()) };
            }
            decoder.push(&chunk[..n]);
            while let Some(frame) = decoder.next()? {
                session.handle(frame).await?;
            }
        }
    };
    // The writer alone never ends: the session holds a sender. Whichever side breaks ends both.
    tokio::select! {
        result = read_all => result,
        result = write_all => result,
    }
}

struct Binding {
    registered: Arc<Registered>,
    version: Version,
}

struct Session<'r> {
    registry: &'r Registry,
    caller: Arc<Caller>,
    greeted: bool,
    bindings: HashMap<Handle, Binding>,
    calls: JoinSet<()>,
    replies: mpsc::Sender<Vec<u8>>,
}

impl Session<'_> {
    async fn handle(&mut self, Frame { call, body }: Frame) -> Result<(), FrameError> {
        while self.calls.try_join_next().is_some() {}
        if !self.greeted && !matches!(body, Body::Hello(_)) {
            return Err(FrameError("the first frame is not a hello"));
        }
        match body {
            Body::Hello(versions) => {
                let common = frame::PROTOCOL.best_common(versions);
                self.greeted = common.is_some();
                let outcome = common.map(|_| Vec::new()).ok_or(Fault::UnsupportedProtocol);
                self.reply(call, outcome.map_err(RpcError::Host)).await;
            }
            Body::Bind { name, versions } => {
                let outcome = self.bind(&name, versions).map(Bound::encode);
                self.reply(call, outcome.map_err(RpcError::Host)).await;
            }
            Body::Unbind(handle) => {
                let found = self.bindings.remove(&handle).map(|_| Vec::new());
                self.reply(call, found.ok_or(RpcError::Host(Fault::NoSuchHandle))).await;
            }
            Body::Call { handle, function, arguments } => {
                let ended = match self.start(call, handle, function, arguments).await {
                    Ok(ended) => ended,
                    Err(fault) => Some(Err(RpcError::Host(fault))),
                };
                if let Some(outcome) = ended {
                    self.reply(call, outcome).await;
                }
            }
            Body::Reply(_) => return Err(FrameError("a reply from a guest")),
        }
        Ok(())
    }

    fn bind(&mut self, name: &str, versions: VersionRange) -> Result<Bound, Fault> {
        let registered = self.registry.find(name)?;
        let served = registered.module.versions();
        let version = served.best_common(versions).ok_or(Fault::UnsupportedVersion)?;
        if self.bindings.len() >= limits::BINDINGS_PER_STREAM_MAX {
            return Err(Fault::TooMany);
        }
        let free = (1..u16::MAX).map(Handle).find(|handle| !self.bindings.contains_key(handle));
        let handle = free.ok_or(Fault::TooMany)?;
        self.bindings.insert(handle, Binding { registered, version });
        Ok(Bound { handle, version })
    }

    /// Begins a call, here and now, so that calls of one stream begin in the order in which they
    /// came (a cancel behind its connect finds it); `None` when it has to wait for something, then
    /// a task of its own goes on with it.
    async fn start(
        &mut self,
        call: CallId,
        handle: Handle,
        function: u32,
        arguments: Vec<u8>,
    ) -> Result<Option<Result<Vec<u8>, RpcError>>, Fault> {
        let binding = self.bindings.get(&handle).ok_or(Fault::NoSuchHandle)?;
        if self.calls.len() >= limits::CALLS_IN_FLIGHT_MAX {
            return Err(Fault::TooMany);
        }
        let registered = Arc::clone(&binding.registered);
        let version = binding.version;
        let caller = Arc::clone(&self.caller);
        let mut running = Box::pin(async move {
            tokio::select! {
                biased;
                () = registered.until_gone() => Err(RpcError::Host(Fault::ModuleGone)),
                result = registered.module.call(&caller, version, function, arguments) => {
                    result.map_err(rpc_error)
                }
            }
        });
        let first = std::future::poll_fn(|cx| Poll::Ready(running.as_mut().poll(cx))).await;
        if let Poll::Ready(outcome) = first {
            return Ok(Some(outcome));
        }
        let replies = self.replies.clone();
        self.calls.spawn(async move {
            let outcome = running.await;
            send_reply(&replies, call, outcome).await;
        });
        Ok(None)
    }

    async fn reply(&self, call: CallId, outcome: Result<Vec<u8>, RpcError>) {
        send_reply(&self.replies, call, outcome).await;
    }
}

fn rpc_error(error: CallError) -> RpcError {
    match error {
        CallError::Errno(errno) => RpcError::Function(errno),
        CallError::NoSuchFunction => RpcError::Host(Fault::NoSuchFunction),
        CallError::BadArguments => RpcError::Host(Fault::BadArguments),
    }
}

async fn send_reply(
    replies: &mpsc::Sender<Vec<u8>>,
    call: CallId,
    outcome: Result<Vec<u8>, RpcError>,
) {
    let mut bytes = Vec::new();
    if (Frame { call, body: Body::Reply(outcome) }).encode(&mut bytes).is_err() {
        let too_large = Body::Reply(Err(RpcError::Host(Fault::ResultTooLarge)));
        // A fault has no payload, so it always fits.
        let _ = Frame { call, body: too_large }.encode(&mut bytes);
    }
    // The receiver is gone only when the stream is: then nobody waits for the reply.
    let _ = replies.send(bytes).await;
}
