//! Link: the gateway's side of a module whose functions run in another process.
//!
//! in: calls of guests; out: frames to the process, and its replies. Owner: one tokio task per process
//! reads, one writes, two per event queue pass events on. Kept: a process that dies ends its calls and
//! queues with named errors and nothing else; when it comes back it learns who has bound it and goes
//! on. Bounds: [`limits::PROCESS_CALL_BYTES_MAX`], [`limits::QUEUES_PER_PROCESS_MAX`].

use std::collections::HashMap;
use std::sync::{Arc, Mutex};

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::sync::{Semaphore, mpsc, oneshot};

use super::{CallError, Caller, HostModule};
use crate::calls::Calls;
use crate::error::{Fault, RpcError};
use crate::frame::{Body, CallId, Decoder, Frame, FrameError, Handle};
use crate::limits;
use crate::name::{ModuleName, Version, VersionRange};
use crate::queue::table::Table;
use crate::queue::{EventQueue, Outbox, Queue, QueueError, QueueId, lock};

/// Why a process is served no more.
#[derive(Debug, thiserror::Error)]
pub enum LinkError {
    /// It sent something that is no frame, or none of its.
    #[error("the module's process broke the protocol: {0}")]
    Misbehaved(#[from] FrameError),
    /// It wants to be another module.
    #[error("the process wants to serve {wanted:?} at the socket of {name}")]
    WrongName {
        /// What it says.
        wanted: String,
        /// The socket's.
        name: ModuleName,
    },
    /// The module has its process.
    #[error("another process serves {0} already")]
    AlreadyServed(ModuleName),
    /// The stream broke.
    #[error("the stream to the module's process broke: {0}")]
    Stream(#[from] std::io::Error),
}

/// A host module that a process serves. Register it; give the [`ProcessSlot`] the process's stream.
#[derive(Debug)]
pub struct ProcessModule {
    slot: ProcessSlot,
}

/// Where a module's process plugs in. Clones share it.
#[derive(Clone, Debug)]
pub struct ProcessSlot {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    name: ModuleName,
    bindings: Mutex<Bindings>,
    call_bytes: Semaphore,
}

#[derive(Debug)]
struct Bindings {
    link: Option<Arc<Link>>,
    /// What the last process served.
    versions: VersionRange,
    lives: u8,
    by_id: HashMap<u64, Bound>,
    last: u16,
}

#[derive(Clone, Debug)]
struct Bound {
    handle: Handle,
    version: Version,
    caller: Caller,
}

/// One life of the process.
struct Link {
    versions: VersionRange,
    /// Counts the lives, so that tickets of the last one are not taken for tickets of this one.
    life: u8,
    calls: Calls,
    queues: Table,
    /// The guests' sides of the queues.
    to_guests: Mutex<HashMap<QueueId, EventQueue>>,
    outbox: Arc<ToProcess>,
}

impl std::fmt::Debug for Link {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Link").field("versions", &self.versions).finish_non_exhaustive()
    }
}

/// Frames to the process. Calls are bounded by their bytes, events by credit, the rest by the number
/// of bindings and queues.
pub(super) struct ToProcess(pub(super) mpsc::UnboundedSender<Vec<u8>>);

impl ToProcess {
    pub(super) fn frame(&self, call: CallId, body: Body) -> bool {
        let mut bytes = Vec::new();
        Frame { call, body }.encode(&mut bytes).is_ok() && self.0.send(bytes).is_ok()
    }
}

/// Writes what is queued, several frames at a time, until nobody queues any more.
pub(super) async fn write_queued(
    queued: &mut mpsc::UnboundedReceiver<Vec<u8>>,
    writer: &mut (impl AsyncWrite + Unpin),
) -> std::io::Result<()> {
    while let Some(mut bytes) = queued.recv().await {
        while bytes.len() < limits::PAYLOAD_BYTES_MAX
            && let Ok(more) = queued.try_recv()
        {
            bytes.extend(more);
        }
        writer.write_all(&bytes).await?;
    }
    Ok(())
}

impl Outbox for ToProcess {
    fn send(&self, body: Body) -> bool {
        self.frame(CallId(0), body)
    }
}

impl ProcessModule {
    /// A module without a process yet.
    pub fn new(name: ModuleName) -> (Self, ProcessSlot) {
        let bindings = Bindings {
            link: None,
            versions: VersionRange::only(Version(0)),
            lives: 0,
            by_id: HashMap::new(),
            last: 0,
        };
        let slot = ProcessSlot {
            shared: Arc::new(Shared {
                name,
                bindings: Mutex::new(bindings),
                call_bytes: Semaphore::new(limits::PROCESS_CALL_BYTES_MAX),
            }),
        };
        (Self { slot: slot.clone() }, slot)
    }
}

#[async_trait::async_trait]
impl HostModule for ProcessModule {
    fn name(&self) -> ModuleName {
        self.slot.shared.name.clone()
    }

    fn versions(&self) -> VersionRange {
        lock(&self.slot.shared.bindings).versions
    }

    fn kind(&self) -> &'static str {
        "process"
    }

    fn is_available(&self) -> bool {
        lock(&self.slot.shared.bindings).link.is_some()
    }

    fn bound(&self, caller: &Caller, version: Version) {
        let mut bindings = lock(&self.slot.shared.bindings);
        let used = |handle: u16| bindings.by_id.values().any(|bound| bound.handle.0 == handle);
        let next = (1..=u16::MAX).map(|step| bindings.last.wrapping_add(step));
        // 0 is nobody's; when all are taken the calls of this one say so.
        let Some(handle) = next.into_iter().find(|handle| *handle != 0 && !used(*handle)) else {
            return;
        };
        bindings.last = handle;
        let bound = Bound { handle: Handle(handle), version, caller: caller.clone() };
        if let Some(link) = &bindings.link {
            link.outbox.send(bound.frame(link.life));
        }
        bindings.by_id.insert(caller.binding, bound);
    }

    fn unbound(&self, caller: &Caller) {
        let mut bindings = lock(&self.slot.shared.bindings);
        if let Some(bound) = bindings.by_id.remove(&caller.binding)
            && let Some(link) = &bindings.link
        {
            link.outbox.send(Body::Unbind(bound.handle));
        }
    }

    async fn call(
        &self,
        caller: &Caller,
        version: Version,
        function: u32,
        arguments: Vec<u8>,
    ) -> Result<Vec<u8>, CallError> {
        let bytes =
            u32::try_from(arguments.len() + limits::CALL_BYTES_OVERHEAD).unwrap_or(u32::MAX);
        let room = self.slot.shared.call_bytes.acquire_many(bytes).await;
        let _room = room.map_err(|_| CallError::Unavailable)?;
        let (link, handle) = {
            let bindings = lock(&self.slot.shared.bindings);
            let link = bindings.link.clone().ok_or(CallError::Unavailable)?;
            let bound = bindings.by_id.get(&caller.binding).ok_or(CallError::TooMany)?;
            (link, bound.handle)
        };
        if link.versions.best_common(VersionRange::only(version)).is_none() {
            return Err(CallError::UnsupportedVersion);
        }
        let (sender, outcome) = oneshot::channel();
        let done = Box::new(move |outcome| {
            // Nobody listens any more when the caller is gone.
            let _ = sender.send(outcome);
        });
        let call = link.calls.enter(done).map_err(|(_, error)| error);
        let call = call.map_err(|error| CallError::of(&error))?;
        let mut waiting = Waiting { link: &link, call, over: false };
        link.outbox.frame(call, Body::Call { handle, function, arguments });
        let outcome = outcome.await.unwrap_or(Err(RpcError::Disconnected));
        waiting.over = true;
        outcome.map_err(|error| CallError::of(&error))
    }
}

/// Cancels a call that is dropped.
struct Waiting<'l> {
    link: &'l Link,
    call: CallId,
    over: bool,
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        if !self.over {
            self.link.calls.finish(self.call, Err(RpcError::Disconnected));
            self.link.outbox.frame(self.call, Body::Cancel);
        }
    }
}

impl CallError {
    /// What a process's reply, or its end, means to the guest.
    fn of(error: &RpcError) -> Self {
        match error {
            RpcError::Function(errno) => Self::Errno(*errno),
            RpcError::Host(fault) => match fault {
                Fault::NoSuchFunction => Self::NoSuchFunction,
                Fault::BadArguments => Self::BadArguments,
                Fault::TooMany => Self::TooMany,
                Fault::ResultTooLarge => Self::ResultTooLarge,
                Fault::UnsupportedVersion => Self::UnsupportedVersion,
                Fault::UnsupportedProtocol
                | Fault::NoSuchModule
                | Fault::NotAllowed
                | Fault::NoSuchHandle
                | Fault::ModuleGone
                | Fault::ModuleUnavailable
                | Fault::NoSuchQueue
                | Fault::QueueNotShared
                | Fault::AlreadyServed => Self::Unavailable,
            },
            RpcError::Disconnected | RpcError::Protocol(_) | RpcError::ArgumentsTooLarge => {
                Self::Unavailable
            }
        }
    }
}

impl Bound {
    fn frame(&self, life: u8) -> Body {
        Body::Binding {
            handle: self.handle,
            version: self.version,
            tickets: self.tickets(life),
            cid: self.caller.cid,
            guest: self.caller.guest.to_string(),
        }
    }

    /// Unique among the bindings of the guest's stream.
    fn tickets(&self, life: u8) -> u32 {
        const { assert!(limits::BINDINGS_PER_STREAM_MAX < 128) };
        let handle = u32::from(self.caller.handle.0) << 24;
        limits::QUEUE_ID_AGREED | handle | u32::from(life) << 16
    }
}

impl ProcessSlot {
    /// Serves a process until it ends. Its calls and queues end then; the bindings stay.
    pub async fn serve<S>(&self, stream: S) -> Result<(), LinkError>
    where
        S: AsyncRead + AsyncWrite + Send + 'static,
    {
        let (mut reader, mut writer) = tokio::io::split(stream);
        #[expect(
            clippy::disallowed_methods,
            reason = "calls and queues have limits: see ToProcess"
        )]
        let (channel, mut queued) = mpsc::unbounded_channel::<Vec<u8>>();
        let outbox = Arc::new(ToProcess(channel));
        let write_all = async { Ok(write_queued(&mut queued, &mut writer).await?) };
        let mut plugged = Plugged { slot: self, link: None };
        let read_all = async {
            let mut decoder = Decoder::new();
            let mut chunk = vec![0u8; 64 * 1024];
            loop {
                let n = reader.read(&mut chunk).await?;
                if n == 0 {
                    return Ok(());
                }
                decoder.push(&chunk[..n]);
                while let Some(frame) = decoder.next()? {
                    match &plugged.link {
                        None => plugged.link = Some(self.register(frame, &outbox)?),
                        Some(link) => self.take(link, frame)?,
                    }
                }
            }
        };
        let ended = tokio::select! {
            result = read_all => result,
            result = write_all => result,
        };
        // What was said last, such as why the process was refused.
        while let Ok(bytes) = queued.try_recv() {
            writer.write_all(&bytes).await?;
        }
        ended
    }

    fn register(&self, frame: Frame, outbox: &Arc<ToProcess>) -> Result<Arc<Link>, LinkError> {
        let Frame { call, body: Body::Register { name, versions } } = frame else {
            return Err(FrameError("the first frame is not a register").into());
        };
        let refuse = |fault| outbox.frame(call, Body::Reply(Err(RpcError::Host(fault))));
        if name != self.shared.name.as_str() {
            refuse(Fault::NoSuchModule);
            return Err(LinkError::WrongName { wanted: name, name: self.shared.name.clone() });
        }
        let mut bindings = lock(&self.shared.bindings);
        if bindings.link.is_some() {
            refuse(Fault::AlreadyServed);
            return Err(LinkError::AlreadyServed(self.shared.name.clone()));
        }
        outbox.frame(call, Body::Reply(Ok(Vec::new())));
        bindings.lives = bindings.lives.wrapping_add(1);
        let life = bindings.lives;
        bindings.by_id.values().for_each(|bound| {
            outbox.send(bound.frame(life));
        });
        let (queues_max, bytes_max) =
            (limits::QUEUES_PER_PROCESS_MAX, limits::QUEUE_BYTES_PER_PROCESS_MAX);
        let link = Arc::new(Link {
            versions,
            life,
            calls: Calls::new(),
            queues: Table::new(queues_max, bytes_max),
            to_guests: Mutex::default(),
            outbox: Arc::clone(outbox),
        });
        bindings.versions = versions;
        bindings.link = Some(Arc::clone(&link));
        Ok(link)
    }

    fn take(&self, link: &Arc<Link>, frame: Frame) -> Result<(), LinkError> {
        match frame.body {
            Body::Reply(_) | Body::Event { .. } | Body::Credit { .. } => {
                link.calls.take(frame, &link.queues)?;
            }
            Body::MakeQueue { queue, bytes } => {
                if let Err(why) = self.make_queue(link, queue, bytes) {
                    link.outbox.send(Body::QueueEnded { queue, why });
                }
            }
            Body::CloseQueue(queue) => {
                link.queues.remove(queue, QueueError::Deleted);
                link.outbox.frame(frame.call, Body::Reply(Ok(Vec::new())));
            }
            Body::Hello { .. }
            | Body::Bind { .. }
            | Body::Unbind(_)
            | Body::Call { .. }
            | Body::OpenQueue { .. }
            | Body::Wake(_)
            | Body::QueueEnded { .. }
            | Body::Register { .. }
            | Body::Binding { .. }
            | Body::Cancel => return Err(FrameError("not a frame of a module's process").into()),
        }
        Ok(())
    }

    fn make_queue(&self, link: &Arc<Link>, id: QueueId, bytes: u32) -> Result<(), QueueError> {
        let (handle, number) = (id.0 >> 16, id.0 & 0xffff);
        let bound = {
            let bindings = lock(&self.shared.bindings);
            bindings.by_id.values().find(|bound| u32::from(bound.handle.0) == handle).cloned()
        };
        let bound = bound.ok_or(QueueError::Deleted)?;
        let maker = bound.caller.queues.as_ref().ok_or(QueueError::Disconnected)?;
        let to_guest = maker.make(Some(QueueId(bound.tickets(link.life) + number)), bytes)?;
        let outbox: Arc<dyn Outbox> = Arc::<ToProcess>::clone(&link.outbox);
        let to_process = link.queues.make(Some(id), bound.handle, bytes, outbox)?;
        to_process.open_stream();
        lock(&link.to_guests).insert(id, to_guest.clone());
        tokio::spawn(to_the_process(Arc::clone(link), to_guest.clone(), Arc::clone(&to_process)));
        tokio::spawn(to_the_guest(to_process, to_guest));
        Ok(())
    }
}

async fn to_the_process(link: Arc<Link>, from: EventQueue, to: Arc<Queue>) {
    let why = loop {
        match from.get_event_async().await {
            Ok(event) => {
                let put = std::future::poll_fn(|context| to.poll_put(&event, context));
                if let Err(why) = put.await {
                    lock(&link.to_guests).remove(&to.id);
                    return from.end(gone(why));
                }
            }
            Err(why) => break why,
        }
    };
    lock(&link.to_guests).remove(&to.id);
    if link.queues.remove(to.id, why).is_some() {
        link.outbox.send(Body::QueueEnded { queue: to.id, why });
    }
}

async fn to_the_guest(from: Arc<Queue>, to: EventQueue) {
    loop {
        match std::future::poll_fn(|context| from.poll_get(context)).await {
            Ok(event) => {
                if to.put_event_async(&event).await.is_err() {
                    // The other task sees it too, and tells the process.
                    return;
                }
            }
            Err(why) => return to.end(gone(why)),
        }
    }
}

/// What the end of a process's queue is to the guest.
fn gone(why: QueueError) -> QueueError {
    match why {
        QueueError::Disconnected => QueueError::ModuleGone,
        other => other,
    }
}

/// Takes the process off when it ends.
struct Plugged<'s> {
    slot: &'s ProcessSlot,
    link: Option<Arc<Link>>,
}

impl Drop for Plugged<'_> {
    fn drop(&mut self) {
        if let Some(link) = self.link.take() {
            link.queues.end();
            let to_guests = std::mem::take(&mut *lock(&link.to_guests));
            to_guests.values().for_each(|queue| queue.end(QueueError::ModuleGone));
            lock(&self.slot.shared.bindings).link = None;
            link.calls.fail_all(&RpcError::Disconnected);
        }
    }
}
