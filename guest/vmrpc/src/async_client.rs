//! The guest SDK for async programs (feature `async`, runtime: tokio).
//!
//! in: a connected stream; out: results. Two tasks per [`AsyncClient`]: one reads, one writes; callers
//! never block a thread. Otherwise as [`crate::client`], and with the same limits. Dropping the future
//! of a call forgets its result; the call itself goes on at the host.

use std::sync::{Arc, Weak};

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinHandle;

use crate::Fault;
use crate::calls::{Calls, Outcome, client_name, encoded, says_that_it_let_go};
use crate::error::RpcError;
use crate::frame::{self, Body, Bound, CallId, Decoder, Handle};
use crate::limits;
use crate::name::{Version, VersionRange};
use crate::pages::PageSource;
use crate::queue::shared::{Shared as SharedQueue, Side};
use crate::queue::table::Table;
use crate::queue::{EventQueue, Form, Outbox, Queue, QueueError, Ticket};

/// A stream to the gateway's host modules. Clones share it; it closes with the last.
#[derive(Clone, Debug)]
pub struct AsyncClient {
    shared: Arc<Shared>,
}

struct Shared {
    calls: Calls,
    queues: Table,
    pages: Option<Box<dyn PageSource>>,
    /// As many frames as calls may be in flight; one that does not fit waits.
    frames: mpsc::Sender<Vec<u8>>,
    /// Frames about queues, which their credit bounds.
    notes: mpsc::UnboundedSender<Vec<u8>>,
    tasks: std::sync::OnceLock<JoinHandle<()>>,
}

impl std::fmt::Debug for Shared {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Shared").finish_non_exhaustive()
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        self.abandon();
        if let Some(task) = self.tasks.get() {
            task.abort();
        }
        self.calls.fail_all(&RpcError::Disconnected);
        self.queues.end();
    }
}

impl Shared {
    fn abandon(&self) {
        if let Some(pages) = &self.pages {
            pages.abandon();
        }
    }
}

/// Frames that wait for the stream: what a burst of calls makes.
const FRAMES_MAX: usize = 1024;

impl AsyncClient {
    /// Connects to the gateway from inside a guest, as [`crate::Client::connect`] does.
    #[cfg(feature = "guest")]
    pub async fn connect() -> Result<Self, crate::client::ConnectError> {
        use crate::client::ConnectError;
        let connect = tokio::task::spawn_blocking(crate::sys::vsock::connect);
        let connected = connect.await.map_err(|error| ConnectError::Stream(error.into()))?;
        let (stream, privileged) = connected.map_err(ConnectError::Stream)?;
        let pages = privileged.then(|| crate::sys::PinnedPages::new(&stream)).transpose();
        let pages = pages.map_err(ConnectError::Stream)?;
        // Any connected stream socket: tokio has no type for AF_VSOCK, and this one makes only calls
        // that every family has.
        let stream = std::os::unix::net::UnixStream::from(stream);
        stream.set_nonblocking(true).map_err(ConnectError::Stream)?;
        let stream = tokio::net::UnixStream::from_std(stream).map_err(ConnectError::Stream)?;
        let pages = pages.map(|pages| Box::new(pages) as Box<dyn PageSource>);
        Ok(Self::start(stream, pages).await?)
    }

    /// Takes a connected stream and greets the host. Event queues use the stream.
    pub async fn new<S>(stream: S) -> Result<Self, RpcError>
    where
        S: AsyncRead + AsyncWrite + Send + 'static,
    {
        Self::start(stream, None).await
    }

    /// As [`Self::new`], with pages for event queues in shared memory.
    pub async fn with_pages<S>(stream: S, pages: Box<dyn PageSource>) -> Result<Self, RpcError>
    where
        S: AsyncRead + AsyncWrite + Send + 'static,
    {
        Self::start(stream, Some(pages)).await
    }

    async fn start<S>(stream: S, pages: Option<Box<dyn PageSource>>) -> Result<Self, RpcError>
    where
        S: AsyncRead + AsyncWrite + Send + 'static,
    {
        let (frames, queued) = mpsc::channel(FRAMES_MAX);
        #[expect(clippy::disallowed_methods, reason = "the queues' credit is its limit")]
        let (notes, noted) = mpsc::unbounded_channel();
        let shared = Arc::new(Shared {
            calls: Calls::new(),
            queues: Table::of_a_stream(),
            pages,
            frames,
            notes,
            tasks: std::sync::OnceLock::new(),
        });
        let task = tokio::spawn(run(stream, Arc::downgrade(&shared), queued, noted));
        // Set once, here.
        let _ = shared.tasks.set(task);
        let client = Self { shared };
        client.call(Body::Hello { versions: frame::PROTOCOL, client: client_name() }).await?;
        Ok(client)
    }

    /// Binds a host module by name, at the highest version that both sides have.
    pub async fn bind_module(
        &self,
        name: &str,
        versions: VersionRange,
    ) -> Result<AsyncBinding, RpcError> {
        let result = self.call(Body::Bind { name: name.to_owned(), versions }).await?;
        let bound = Bound::decode(&result).map_err(|error| RpcError::Protocol(error.0))?;
        Ok(AsyncBinding { client: self.clone(), bound })
    }

    async fn call(&self, body: Body) -> Outcome {
        let (sender, outcome) = oneshot::channel();
        let done = Box::new(move |outcome| {
            // Nobody listens any more when the future was dropped.
            let _ = sender.send(outcome);
        });
        let call = self.shared.calls.enter(done).map_err(|(_, error)| error)?;
        let bytes = encoded(call, body).inspect_err(|error| {
            self.shared.calls.finish(call, Err(error.clone()));
        })?;
        if self.shared.frames.send(bytes).await.is_err() {
            self.shared.calls.finish(call, Err(RpcError::Disconnected));
        }
        outcome.await.unwrap_or(Err(RpcError::Disconnected))
    }

    /// Sends a frame that ends something; nobody waits for its reply.
    fn tell(&self, body: Body, done: impl FnOnce(Outcome) + Send + 'static) {
        let call = match self.shared.calls.enter_end(Box::new(done)) {
            Ok(call) => call,
            Err((done, error)) => return done(Err(error)),
        };
        let bytes = encoded(call, body);
        if !bytes.is_ok_and(|bytes| self.shared.notes.send(bytes).is_ok()) {
            self.shared.calls.finish(call, Err(RpcError::Disconnected));
        }
    }

    /// The pages stay until the host has said that it does not touch them any more.
    fn close(&self, queue: &Queue) {
        if let Some(queue) = self.shared.queues.remove(queue.id, QueueError::Deleted) {
            let shared = Arc::downgrade(&self.shared);
            self.tell(Body::CloseQueue(queue.id), move |outcome| {
                if !says_that_it_let_go(&outcome)
                    && let Some(shared) = shared.upgrade()
                {
                    shared.abandon();
                }
                drop(queue);
            });
        }
    }
}

async fn run<S>(
    stream: S,
    shared: Weak<Shared>,
    mut queued: mpsc::Receiver<Vec<u8>>,
    mut noted: mpsc::UnboundedReceiver<Vec<u8>>,
) where
    S: AsyncRead + AsyncWrite + Send + 'static,
{
    let (mut reader, mut writer) = tokio::io::split(stream);
    let write_all = async {
        loop {
            let mut bytes = tokio::select! {
                Some(bytes) = queued.recv() => bytes,
                Some(bytes) = noted.recv() => bytes,
                else => return RpcError::Disconnected,
            };
            while bytes.len() < limits::PAYLOAD_BYTES_MAX
                && let Ok(more) = queued.try_recv().or_else(|_| noted.try_recv())
            {
                bytes.extend(more);
            }
            if writer.write_all(&bytes).await.is_err() {
                return RpcError::Disconnected;
            }
        }
    };
    let read_all = async {
        let mut decoder = Decoder::new();
        let mut chunk = vec![0u8; 64 * 1024];
        loop {
            let n = match reader.read(&mut chunk).await {
                Ok(0) | Err(_) => return RpcError::Disconnected,
                Ok(n) => n,
            };
            decoder.push(&chunk[..n]);
            let Some(shared) = shared.upgrade() else { return RpcError::Disconnected };
            if let Err(error) = shared.calls.take_all(&mut decoder, &shared.queues) {
                return RpcError::Protocol(error.0);
            }
        }
    };
    let error = tokio::select! {
        error = read_all => error,
        error = write_all => error,
    };
    if let Some(shared) = shared.upgrade() {
        shared.abandon();
        shared.calls.fail_all(&error);
        shared.queues.end();
    }
}

/// The queues are the client's; they do not keep it.
struct ToHost(Weak<Shared>);

impl Outbox for ToHost {
    fn send(&self, body: Body) -> bool {
        let Some(shared) = self.0.upgrade() else { return false };
        encoded(CallId(0), body).is_ok_and(|bytes| shared.notes.send(bytes).is_ok())
    }
}

/// A bound host module. Dropping it unbinds it.
#[derive(Debug)]
pub struct AsyncBinding {
    client: AsyncClient,
    bound: Bound,
}

impl AsyncBinding {
    /// The version of the module's interface that the host picked.
    pub fn version(&self) -> Version {
        self.bound.version
    }

    /// Calls function number `function`.
    pub async fn perform_rpc(&self, function: u32, arguments: &[u8]) -> Result<Vec<u8>, RpcError> {
        let (handle, arguments) = (self.bound.handle, arguments.to_vec());
        self.client.call(Body::Call { handle, function, arguments }).await
    }

    /// Opens an event queue, as [`crate::Binding::open_ev_queue`] does. Use its `_async` methods.
    pub async fn open_ev_queue(&self, ticket: Ticket) -> Result<EventQueue, RpcError> {
        match self.open_ev_queue_as(ticket, Form::Shared).await {
            Err(RpcError::Host(Fault::QueueNotShared)) => {
                self.open_ev_queue_as(ticket, Form::Stream).await
            }
            outcome => outcome,
        }
    }

    /// Opens an event queue in one form, as [`crate::Binding::open_ev_queue_as`] does.
    pub async fn open_ev_queue_as(
        &self,
        ticket: Ticket,
        form: Form,
    ) -> Result<EventQueue, RpcError> {
        let shared = &self.client.shared;
        let memory = match form {
            Form::Stream => None,
            Form::Shared => {
                let bytes = crate::queue::shared::memory_bytes(ticket.bytes);
                let pinned = shared.pages.as_ref().and_then(|pages| pages.pin(bytes));
                Some(pinned.ok_or(RpcError::Host(Fault::QueueNotShared))?)
            }
        };
        let outbox = Arc::new(ToHost(Arc::downgrade(shared)));
        let queue = shared
            .queues
            .make(Some(ticket.queue), Handle(0), ticket.bytes, outbox)
            .map_err(|error| match error {
                QueueError::Disconnected => RpcError::Disconnected,
                _ => RpcError::Host(Fault::TooMany),
            })?;
        let (pages, memories) = memory.map(|pinned| (pinned.pages, pinned.memories)).unzip();
        match memories {
            Some(memories) => {
                queue.open_shared(SharedQueue::new(Side::Guest, ticket.bytes, memories));
            }
            None => queue.open_stream(),
        }
        let client = self.client.clone();
        // From here on dropping the future closes the queue.
        let opened = EventQueue::new(queue, ticket.queue, move |queue, _| client.close(queue));
        self.client.call(Body::OpenQueue { queue: ticket.queue, pages }).await?;
        Ok(opened)
    }

    /// Gives the module back. Dropping the binding does the same and ignores the outcome.
    pub async fn unbind_module(self) -> Result<(), RpcError> {
        self.client.call(Body::Unbind(self.bound.handle)).await.map(drop)
    }
}

impl Drop for AsyncBinding {
    fn drop(&mut self) {
        self.client.tell(Body::Unbind(self.bound.handle), drop);
    }
}
