//! Session: one guest's stream.
//!
//! in: frames; out: replies and events. Owner: the task that runs [`serve`]. Kept: calls of one
//! stream begin in the order in which they came; when the stream ends its calls are dropped, its
//! bindings unbound and its queues ended. Bounds: see [`crate::host`].

use std::collections::{HashMap, HashSet};
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex};
use std::task::Poll;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::sync::mpsc;
use tokio::task::JoinSet;

use super::registry::{Live, Registered};
use super::{Caller, Registry, Terms};
use crate::error::{Fault, RpcError};
use crate::frame::{self, Body, Bound, CallId, Decoder, Frame, FrameError, Handle, Pages};
use crate::limits;
use crate::name::VersionRange;
use crate::queue::shared::{self, Shared, Side};
use crate::queue::table::Table;
use crate::queue::{EventQueue, Outbox, QueueError, QueueId, QueueStatus, lock};

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

/// Frames about queues. No more are on their way than the queues' credit allows, and one wake-up
/// each, so the channel needs no bound of its own.
struct ToGuest {
    channel: mpsc::UnboundedSender<Note>,
    /// Queues whose wake-up is in the channel.
    waking: Mutex<HashSet<QueueId>>,
}

enum Note {
    Frame(Vec<u8>),
    Wake(QueueId),
}

impl Outbox for ToGuest {
    fn send(&self, body: Body) -> bool {
        if let Body::Wake(queue) = body {
            return !lock(&self.waking).insert(queue)
                || self.channel.send(Note::Wake(queue)).is_ok();
        }
        encoded(body).is_some_and(|bytes| self.channel.send(Note::Frame(bytes)).is_ok())
    }
}

impl ToGuest {
    /// The frame of a note that is about to be written.
    fn frame(&self, note: Note) -> Vec<u8> {
        match note {
            Note::Frame(bytes) => bytes,
            Note::Wake(queue) => {
                // Before it is written: who wakes from now on needs another one.
                lock(&self.waking).remove(&queue);
                encoded(Body::Wake(queue)).unwrap_or_default()
            }
        }
    }
}

fn encoded(body: Body) -> Option<Vec<u8>> {
    let mut bytes = Vec::new();
    Frame { call: CallId(0), body }.encode(&mut bytes).ok().map(|()| bytes)
}

/// The event queues of one stream.
pub(super) struct Queues {
    table: Table,
    outbox: Arc<ToGuest>,
}

impl std::fmt::Debug for Queues {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.table.fmt(f)
    }
}

impl Queues {
    /// Makes a queue, under a number of its own or under one that was agreed on.
    pub(super) fn make(
        self: &Arc<Self>,
        id: Option<QueueId>,
        owner: Handle,
        bytes: u32,
    ) -> Result<EventQueue, QueueError> {
        let outbox: Arc<dyn Outbox> = Arc::<ToGuest>::clone(&self.outbox);
        let queue = self.table.make(id, owner, bytes, outbox)?;
        let queues = Arc::downgrade(self);
        let id = queue.id;
        Ok(EventQueue::new(queue, id, move |queue, why| {
            if let Some(queues) = queues.upgrade() {
                queues.delete(queue.id, why);
            }
        }))
    }

    /// Deletes a queue and tells the guest.
    fn delete(&self, id: QueueId, why: QueueError) {
        if self.table.remove(id, why).is_some() {
            self.outbox.send(Body::QueueEnded { queue: id, why });
        }
    }

    /// Deletes the queues of one binding.
    pub(super) fn end(&self, owner: Handle, why: QueueError) {
        self.table.of(owner).iter().for_each(|queue| self.delete(queue.id, why));
    }

    pub(super) fn status(&self, owner: Handle) -> Vec<QueueStatus> {
        self.table.of(owner).iter().map(|queue| queue.status()).collect()
    }

    fn open(&self, id: QueueId, pages: Option<Pages>, terms: &Terms) -> Result<(), Fault> {
        let queue = self.table.find(id).ok_or(Fault::NoSuchQueue)?;
        if queue.is_open() {
            return Err(Fault::NoSuchQueue);
        }
        let Some(pages) = pages else {
            queue.open_stream();
            return Ok(());
        };
        let bytes = shared::memory_bytes(queue.bytes());
        let memory = terms.memory.as_ref().ok_or(Fault::QueueNotShared)?;
        let map = || memory.map(&pages, bytes).ok_or(Fault::QueueNotShared);
        queue.open_shared(Shared::new(Side::Host, queue.bytes(), [map()?, map()?]));
        Ok(())
    }
}

/// Serves one guest's stream until it ends, with every module and without shared memory. `Ok` when
/// the guest closed it between frames.
pub async fn serve<S>(stream: S, registry: &Registry, caller: Caller) -> Result<(), ServeError>
where
    S: AsyncRead + AsyncWrite + Send + 'static,
{
    serve_with(stream, registry, caller, Terms::default()).await
}

/// As [`serve`], on terms.
pub async fn serve_with<S>(
    stream: S,
    registry: &Registry,
    caller: Caller,
    terms: Terms,
) -> Result<(), ServeError>
where
    S: AsyncRead + AsyncWrite + Send + 'static,
{
    let (mut reader, mut writer) = tokio::io::split(stream);
    let (replies, mut queued) = mpsc::channel::<Vec<u8>>(limits::REPLIES_QUEUED_MAX);
    #[expect(clippy::disallowed_methods, reason = "the queues' credit is its limit: see ToGuest")]
    let (channel, mut notes) = mpsc::unbounded_channel::<Note>();
    let outbox = Arc::new(ToGuest { channel, waking: Mutex::default() });
    let queues = Arc::new(Queues { table: Table::of_a_stream(), outbox: Arc::clone(&outbox) });
    let mut session = Session {
        registry,
        caller,
        terms,
        client: String::new(),
        greeted: false,
        bindings: HashMap::new(),
        calls: JoinSet::new(),
        replies,
        queues,
    };
    let write_all = async {
        loop {
            let mut bytes = tokio::select! {
                Some(bytes) = queued.recv() => bytes,
                Some(note) = notes.recv() => outbox.frame(note),
                else => return Ok::<(), ServeError>(()),
            };
            while bytes.len() < limits::PAYLOAD_BYTES_MAX
                && let Ok(more) =
                    queued.try_recv().or_else(|_| notes.try_recv().map(|note| outbox.frame(note)))
            {
                bytes.extend(more);
            }
            writer.write_all(&bytes).await?;
            writer.flush().await?;
        }
    };
    let read_all = async {
        let mut decoder = Decoder::new();
        let mut chunk = vec![0u8; 64 * 1024];
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

/// Unbinds when dropped.
struct Binding {
    registered: Arc<Registered>,
    live: Arc<Live>,
}

impl Drop for Binding {
    fn drop(&mut self) {
        self.registered.unbind(&self.live);
    }
}

/// Counts a call, also one that is dropped half-way.
struct Counted {
    registered: Arc<Registered>,
    live: Arc<Live>,
    failed: bool,
}

impl Counted {
    fn new(registered: &Arc<Registered>, live: &Arc<Live>) -> Self {
        registered.counters.begin();
        live.counters.begin();
        Self { registered: Arc::clone(registered), live: Arc::clone(live), failed: true }
    }
}

impl Counted {
    fn ended(&mut self, outcome: &Result<Vec<u8>, RpcError>) {
        self.failed = outcome.is_err();
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.registered.counters.end(self.failed);
        self.live.counters.end(self.failed);
    }
}

struct Session<'r> {
    registry: &'r Registry,
    caller: Caller,
    terms: Terms,
    /// How the program in the guest calls itself.
    client: String,
    greeted: bool,
    bindings: HashMap<Handle, Binding>,
    calls: JoinSet<()>,
    replies: mpsc::Sender<Vec<u8>>,
    queues: Arc<Queues>,
}

impl Drop for Session<'_> {
    fn drop(&mut self) {
        // First, so that nobody touches the guest's pages from here on.
        self.queues.table.end();
        self.calls.abort_all();
    }
}

impl Session<'_> {
    async fn handle(&mut self, Frame { call, body }: Frame) -> Result<(), FrameError> {
        while self.calls.try_join_next().is_some() {}
        if !self.greeted && !matches!(body, Body::Hello { .. }) {
            return Err(FrameError("the first frame is not a hello"));
        }
        match body {
            Body::Hello { versions, client } => {
                let common = frame::PROTOCOL.best_common(versions);
                self.greeted = common.is_some();
                self.client = client;
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
            Body::OpenQueue { queue, pages } => {
                let opened = self.queues.open(queue, pages, &self.terms);
                self.reply(call, opened.map(|()| Vec::new()).map_err(RpcError::Host)).await;
            }
            Body::CloseQueue(queue) => {
                let found = self.queues.table.remove(queue, QueueError::Disconnected);
                let outcome = found.map(|_| Vec::new()).ok_or(RpcError::Host(Fault::NoSuchQueue));
                self.reply(call, outcome).await;
            }
            Body::Event { queue, event } => self.queues.table.event(queue, event)?,
            Body::Credit { queue, bytes } => self.queues.table.credit(queue, bytes)?,
            Body::Wake(queue) => self.queues.table.wake(queue),
            Body::Reply(_)
            | Body::QueueEnded { .. }
            | Body::Register { .. }
            | Body::Binding { .. }
            | Body::Cancel
            | Body::MakeQueue { .. } => {
                return Err(FrameError("a frame that is not a guest's to send"));
            }
        }
        Ok(())
    }

    fn bind(&mut self, name: &str, versions: VersionRange) -> Result<Bound, Fault> {
        let (name, registered) = self.registry.find(name)?;
        if self.terms.may_bind.as_ref().is_some_and(|may_bind| !may_bind(&name)) {
            return Err(Fault::NotAllowed);
        }
        if !registered.module.is_available() {
            return Err(Fault::ModuleUnavailable);
        }
        let served = registered.module.versions();
        let version = served.best_common(versions).ok_or(Fault::UnsupportedVersion)?;
        if self.bindings.len() >= limits::BINDINGS_PER_STREAM_MAX {
            return Err(Fault::TooMany);
        }
        let free = (1..u16::MAX).map(Handle).find(|handle| !self.bindings.contains_key(handle));
        let handle = free.ok_or(Fault::TooMany)?;
        let live = registered.bind(&self.caller, &self.client, handle, version, &self.queues);
        self.bindings.insert(handle, Binding { registered, live });
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
        let mut counted = Counted::new(&binding.registered, &binding.live);
        if binding.live.revoked.load(Ordering::Acquire) {
            return Err(Fault::NotAllowed);
        }
        let mut running = Box::pin(async move {
            let Counted { registered, live, .. } = &counted;
            let outcome = tokio::select! {
                biased;
                () = registered.until_gone() => Err(RpcError::Host(Fault::ModuleGone)),
                result = registered.module.call(&live.caller, live.version, function, arguments) => {
                    result.map_err(RpcError::from)
                }
            };
            counted.ended(&outcome);
            outcome
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
