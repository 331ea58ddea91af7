//! The guest SDK: bind modules, call their functions, open their event queues, over one stream.
//!
//! in: a connected stream socket (AF_VSOCK to CID 2, [`crate::limits::VMRPC_PORT`]); out: results.
//! Callers write frames themselves, and one of those that wait reads for all; only event queues and
//! [`Binding::start_rpc`] have a thread of the client's read. Any number of threads may call at once,
//! each blocks only itself. Kept: every started call ends exactly once, with a result or an error, also
//! when the stream dies. Bounds: [`crate::limits::CALLS_IN_FLIGHT_MAX`],
//! [`crate::limits::QUEUES_PER_STREAM_MAX`].

mod reading;
mod writing;

use std::net::Shutdown;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::sync::{Arc, Weak};

use crate::calls::{Calls, Outcome, client_name, says_that_it_let_go};
use crate::error::RpcError;
use crate::frame::{self, Body, Bound, CallId, Frame, Handle};
use crate::name::{Version, VersionRange};
use crate::pages::PageSource;
use crate::queue::shared::{Shared as SharedQueue, Side};
use crate::queue::table::Table;
use crate::queue::{EventQueue, Form, Outbox, Queue, QueueError, Ticket};
use reading::{Reading, Reply};
use writing::{WriteError, Writing};

/// A stream to the gateway's host modules. Clones share it; it closes with the last.
#[derive(Clone, Debug)]
pub struct Client {
    shared: Arc<Shared>,
}

struct Shared {
    /// Any connected stream socket: std has no type for AF_VSOCK, and this one makes only calls
    /// that every family has.
    stream: UnixStream,
    writing: Writing,
    reading: Reading,
    calls: Calls,
    queues: Table,
    pages: Option<Box<dyn PageSource>>,
}

impl std::fmt::Debug for Shared {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Shared").field("stream", &self.stream).finish_non_exhaustive()
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        self.abandon();
        // Wakes the reader's thread, if any, which holds a descriptor of its own.
        self.hang_up();
    }
}

impl Client {
    /// Connects to the gateway from inside a guest: an AF_VSOCK stream to CID 2. A process that may
    /// (CAP_NET_BIND_SERVICE, CAP_SYS_ADMIN: root, usually) gets event queues in shared memory.
    #[cfg(feature = "guest")]
    pub fn connect() -> Result<Self, ConnectError> {
        let (stream, privileged) = crate::sys::vsock::connect().map_err(ConnectError::Stream)?;
        let pages = privileged.then(|| crate::sys::PinnedPages::new(&stream)).transpose();
        let pages = pages.map_err(ConnectError::Stream)?;
        Ok(Self::start(stream, pages.map(|pages| Box::new(pages) as Box<dyn PageSource>))?)
    }

    /// Takes a connected stream socket, and greets the host. Event queues use the stream.
    pub fn new(stream: OwnedFd) -> Result<Self, RpcError> {
        Self::start(stream, None)
    }

    /// As [`Self::new`], with pages for event queues in shared memory.
    pub fn with_pages(stream: OwnedFd, pages: Box<dyn PageSource>) -> Result<Self, RpcError> {
        Self::start(stream, Some(pages))
    }

    fn start(stream: OwnedFd, pages: Option<Box<dyn PageSource>>) -> Result<Self, RpcError> {
        let stream = UnixStream::from(stream);
        let reading = Reading::new(stream.try_clone().map_err(|_| RpcError::Disconnected)?);
        let shared = Arc::new(Shared {
            stream,
            writing: Writing::default(),
            reading,
            calls: Calls::new(),
            queues: Table::of_a_stream(),
            pages,
        });
        let client = Self { shared };
        client.wait(Body::Hello { versions: frame::PROTOCOL, client: client_name() })?;
        Ok(client)
    }

    /// Binds a host module by name, at the highest version that both sides have.
    pub fn bind_module(&self, name: &str, versions: VersionRange) -> Result<Binding, RpcError> {
        let result = self.wait(Body::Bind { name: name.to_owned(), versions })?;
        let bound = Bound::decode(&result).map_err(|error| RpcError::Protocol(error.0))?;
        Ok(Binding { client: self.clone(), bound })
    }

    fn wait(&self, body: Body) -> Outcome {
        let reply = Reply::new();
        let arrives = Arc::clone(&reply);
        self.call(body, move |outcome| arrives.arrived(outcome));
        self.shared.reading.wait(&self.shared, &reply)
    }

    fn call(&self, body: Body, done: impl FnOnce(Outcome) + Send + 'static) {
        let entered = match &body {
            Body::CloseQueue(_) | Body::Unbind(_) => self.shared.calls.enter_end(Box::new(done)),
            _ => self.shared.calls.enter(Box::new(done)),
        };
        let call = match entered {
            Ok(call) => call,
            Err((done, error)) => return done(Err(error)),
        };
        if let Err(error) = self.shared.write(call, body) {
            self.shared.calls.finish(call, Err(error));
        }
    }
}

/// Why [`Client::connect`] has no client.
#[cfg(feature = "guest")]
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// There is no way to the gateway.
    #[error("cannot reach the gateway (vsock CID 2, port 1042): {0}")]
    Stream(std::io::Error),
    /// The gateway refused the greeting.
    #[error(transparent)]
    Rpc(#[from] RpcError),
}

impl Shared {
    fn abandon(&self) {
        if let Some(pages) = &self.pages {
            pages.abandon();
        }
    }

    /// Where the host has pages, its own end of the stream has to be seen: that says that it does not
    /// touch them any more.
    fn hang_up(&self) {
        let how = if self.pages.is_some() { Shutdown::Write } else { Shutdown::Both };
        // Fails only if already dead.
        let _ = self.stream.shutdown(how);
    }

    /// Nothing more will arrive.
    fn end(&self, error: &RpcError) {
        self.abandon();
        self.calls.fail_all(error);
        self.queues.end();
    }

    fn write(&self, call: CallId, body: Body) -> Result<(), RpcError> {
        let written = self.writing.send(&self.stream, &Frame { call, body });
        if matches!(written, Err(WriteError::Broken)) {
            // Others' frames were on their way with this one.
            self.end(&RpcError::Disconnected);
            self.hang_up();
        }
        Ok(written?)
    }
}

/// The queues are the client's; they do not keep it.
struct ToHost(Weak<Shared>);

impl Outbox for ToHost {
    fn send(&self, body: Body) -> bool {
        self.0.upgrade().is_some_and(|shared| shared.write(CallId(0), body).is_ok())
    }
}

/// A bound host module. Dropping it unbinds it.
#[derive(Debug)]
pub struct Binding {
    client: Client,
    bound: Bound,
}

impl Binding {
    /// The version of the module's interface that the host picked.
    pub fn version(&self) -> Version {
        self.bound.version
    }

    /// Calls function number `function` and waits for its result.
    pub fn perform_rpc(&self, function: u32, arguments: &[u8]) -> Result<Vec<u8>, RpcError> {
        self.client.wait(self.call_body(function, arguments))
    }

    /// Starts a call and returns at once; `done` runs once with the outcome, on the thread that reads
    /// (so it must not block or call [`Self::perform_rpc`]), or on this one when the call cannot
    /// even start.
    pub fn start_rpc(
        &self,
        function: u32,
        arguments: &[u8],
        done: impl FnOnce(Result<Vec<u8>, RpcError>) + Send + 'static,
    ) {
        match self.client.shared.reading.need_thread(&self.client.shared) {
            Ok(()) => self.client.call(self.call_body(function, arguments), done),
            Err(error) => done(Err(error)),
        }
    }

    /// Opens an event queue that the module made for this binding: in shared memory where both sides
    /// can, else over the stream. [`EventQueue::form`] says which it became.
    pub fn open_ev_queue(&self, ticket: Ticket) -> Result<EventQueue, RpcError> {
        match self.open_ev_queue_as(ticket, Form::Shared) {
            Err(RpcError::Host(crate::Fault::QueueNotShared)) => {
                self.open_ev_queue_as(ticket, Form::Stream)
            }
            outcome => outcome,
        }
    }

    /// Opens an event queue in one form. [`Form::Shared`] fails with
    /// [`QueueNotShared`](crate::Fault::QueueNotShared) where guest or gateway cannot do that.
    pub fn open_ev_queue_as(&self, ticket: Ticket, form: Form) -> Result<EventQueue, RpcError> {
        let shared = &self.client.shared;
        shared.reading.need_thread(shared)?;
        let memory = match form {
            Form::Stream => None,
            Form::Shared => {
                let bytes = crate::queue::shared::memory_bytes(ticket.bytes);
                let pinned = shared.pages.as_ref().and_then(|pages| pages.pin(bytes));
                Some(pinned.ok_or(RpcError::Host(crate::Fault::QueueNotShared))?)
            }
        };
        let outbox = Arc::new(ToHost(Arc::downgrade(shared)));
        let queue = shared
            .queues
            .make(Some(ticket.queue), Handle(0), ticket.bytes, outbox)
            .map_err(|error| match error {
                QueueError::Disconnected => RpcError::Disconnected,
                _ => RpcError::Host(crate::Fault::TooMany),
            })?;
        let (pages, memories) = memory.map(|pinned| (pinned.pages, pinned.memories)).unzip();
        match memories {
            Some(memories) => {
                queue.open_shared(SharedQueue::new(Side::Guest, ticket.bytes, memories));
            }
            None => queue.open_stream(),
        }
        if let Err(error) = self.client.wait(Body::OpenQueue { queue: ticket.queue, pages }) {
            if !says_that_it_let_go(&Err(error.clone())) {
                shared.abandon();
            }
            shared.queues.remove(ticket.queue, QueueError::Deleted);
            return Err(error);
        }
        let client = self.client.clone();
        Ok(EventQueue::new(queue, ticket.queue, move |queue, _| client.close(queue)))
    }

    /// Gives the module back. Dropping the binding does the same and ignores the outcome.
    pub fn unbind_module(self) -> Result<(), RpcError> {
        self.client.wait(Body::Unbind(self.bound.handle)).map(drop)
    }

    fn call_body(&self, function: u32, arguments: &[u8]) -> Body {
        Body::Call { handle: self.bound.handle, function, arguments: arguments.to_vec() }
    }
}

impl Client {
    /// The pages stay until the host has said that it does not touch them any more.
    fn close(&self, queue: &Queue) {
        if let Some(queue) = self.shared.queues.remove(queue.id, QueueError::Deleted) {
            let shared = Arc::downgrade(&self.shared);
            self.call(Body::CloseQueue(queue.id), move |outcome| {
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

impl Drop for Binding {
    fn drop(&mut self) {
        self.client.call(Body::Unbind(self.bound.handle), drop);
    }
}
