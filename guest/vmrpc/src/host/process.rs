//! Process: a host module in a process of its own, that process's side.
//!
//! in: a stream to the gateway's socket for the module; out: the module's replies and events. Owner:
//! the task that runs [`run_module`]. Kept: the module cannot tell it from being a part of the
//! gateway, except that it also ends with the stream. Bounds: the gateway's.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Weak};

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite};
use tokio::sync::mpsc;
use tokio::task::{AbortHandle, JoinSet};

use super::link::{ToProcess, write_queued};
use super::{Caller, HostModule, QueueMaker};
use crate::error::{Fault, RpcError};
use crate::frame::{Body, CallId, Decoder, Frame, FrameError, Handle};
use crate::limits;
use crate::name::Version;
use crate::queue::table::Table;
use crate::queue::{EventQueue, Outbox, QueueError, QueueId};

/// Why a module is served no more.
#[derive(Debug, thiserror::Error)]
pub enum ModuleError {
    /// The gateway refused the module.
    #[error("the gateway does not take the module: {0}")]
    Refused(RpcError),
    /// It sent something that is no frame.
    #[error("the gateway broke the protocol: {0}")]
    Misbehaved(#[from] FrameError),
    /// The stream broke.
    #[error("the stream to the gateway broke: {0}")]
    Stream(#[from] std::io::Error),
}

/// Serves a module over a stream to the gateway (the Unix socket that its configuration names) until
/// the stream ends. `Ok` when the gateway closed it.
pub async fn run_module<S, M>(stream: S, module: Arc<M>) -> Result<(), ModuleError>
where
    S: AsyncRead + AsyncWrite + Send + 'static,
    M: HostModule,
{
    let (mut reader, mut writer) = tokio::io::split(stream);
    #[expect(clippy::disallowed_methods, reason = "the gateway's limits of calls and queues hold")]
    let (channel, mut queued) = mpsc::unbounded_channel::<Vec<u8>>();
    let outbox = Arc::new(ToProcess(channel));
    let (name, versions) = (module.name().as_str().to_owned(), module.versions());
    outbox.frame(CallId(0), Body::Register { name, versions });
    let mut desk = Desk {
        module,
        queues: Arc::new(Queues { table: table(), outbox: Arc::clone(&outbox) }),
        outbox,
        registered: false,
        bindings: HashMap::new(),
        calls: JoinSet::new(),
        running: HashMap::new(),
    };
    let write_all = async { Ok(write_queued(&mut queued, &mut writer).await?) };
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
                desk.take(frame)?;
            }
        }
    };
    tokio::select! {
        result = read_all => result,
        result = write_all => result,
    }
}

fn table() -> Table {
    Table::new(limits::QUEUES_PER_PROCESS_MAX, limits::QUEUE_BYTES_PER_PROCESS_MAX)
}

struct Queues {
    table: Table,
    outbox: Arc<ToProcess>,
}

/// Makes the queues of one binding.
struct OfBinding {
    queues: Weak<Queues>,
    handle: Handle,
    tickets: u32,
    next: AtomicU32,
}

impl std::fmt::Debug for OfBinding {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("OfBinding").field("handle", &self.handle).finish_non_exhaustive()
    }
}

impl QueueMaker for OfBinding {
    fn make(&self, _: Option<QueueId>, bytes: u32) -> Result<EventQueue, QueueError> {
        let queues = self.queues.upgrade().ok_or(QueueError::Disconnected)?;
        // A number is used once: more than 65,536 queues of one binding are a leak.
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        let number = u16::try_from(number).map_err(|_| QueueError::TooMany)?;
        let id = QueueId(u32::from(self.handle.0) << 16 | u32::from(number));
        let outbox: Arc<dyn Outbox> = Arc::<ToProcess>::clone(&queues.outbox);
        let queue = queues.table.make(Some(id), self.handle, bytes, outbox)?;
        queues.outbox.send(Body::MakeQueue { queue: id, bytes });
        queue.open_stream();
        let ticket = QueueId(self.tickets + u32::from(number));
        let queues = Weak::clone(&self.queues);
        Ok(EventQueue::new(queue, ticket, move |queue, why| {
            let Some(queues) = queues.upgrade() else { return };
            if queues.table.remove(queue.id, why).is_some() {
                queues.outbox.send(Body::CloseQueue(queue.id));
            }
        }))
    }
}

struct Desk<M> {
    module: Arc<M>,
    queues: Arc<Queues>,
    outbox: Arc<ToProcess>,
    registered: bool,
    bindings: HashMap<Handle, (Caller, Version)>,
    calls: JoinSet<CallId>,
    running: HashMap<CallId, AbortHandle>,
}

impl<M: HostModule> Desk<M> {
    fn take(&mut self, Frame { call, body }: Frame) -> Result<(), ModuleError> {
        while let Some(ended) = self.calls.try_join_next() {
            if let Ok(call) = ended {
                self.running.remove(&call);
            }
        }
        match body {
            Body::Reply(Ok(_)) => self.registered = true,
            Body::Reply(Err(error)) if !self.registered => return Err(ModuleError::Refused(error)),
            Body::Reply(Err(_)) => {}
            Body::Binding { handle, version, tickets, cid, guest } => {
                let queues = Arc::downgrade(&self.queues);
                let maker = OfBinding { queues, handle, tickets, next: AtomicU32::new(0) };
                let caller = Caller {
                    guest: guest.into(),
                    cid,
                    binding: u64::from(handle.0),
                    handle,
                    queues: Some(Arc::new(maker)),
                };
                self.module.bound(&caller, version);
                self.bindings.insert(handle, (caller, version));
            }
            Body::Unbind(handle) => {
                if let Some((caller, _)) = self.bindings.remove(&handle) {
                    self.module.unbound(&caller);
                }
            }
            Body::Call { handle, function, arguments } => {
                self.start(call, handle, function, arguments);
            }
            Body::Cancel => {
                if let Some(running) = self.running.remove(&call) {
                    running.abort();
                }
            }
            Body::Event { queue, event } => self.queues.table.event(queue, event)?,
            Body::Credit { queue, bytes } => self.queues.table.credit(queue, bytes)?,
            Body::QueueEnded { queue, why } => {
                self.queues.table.remove(queue, why);
            }
            Body::Hello { .. }
            | Body::Bind { .. }
            | Body::OpenQueue { .. }
            | Body::CloseQueue(_)
            | Body::Wake(_)
            | Body::Register { .. }
            | Body::MakeQueue { .. } => {
                return Err(FrameError("not a frame of the gateway").into());
            }
        }
        Ok(())
    }

    fn start(&mut self, call: CallId, handle: Handle, function: u32, arguments: Vec<u8>) {
        let Some((caller, version)) = self.bindings.get(&handle).cloned() else {
            let fault = RpcError::Host(Fault::NoSuchHandle);
            self.outbox.frame(call, Body::Reply(Err(fault)));
            return;
        };
        let (module, outbox) = (Arc::clone(&self.module), Arc::clone(&self.outbox));
        let running = self.calls.spawn(async move {
            let outcome = module.call(&caller, version, function, arguments).await;
            let reply = Body::Reply(outcome.map_err(RpcError::from));
            if !outbox.frame(call, reply) {
                let too_large = RpcError::Host(Fault::ResultTooLarge);
                outbox.frame(call, Body::Reply(Err(too_large)));
            }
            call
        });
        self.running.insert(call, running);
    }
}

impl<M> Drop for Desk<M> {
    fn drop(&mut self) {
        self.queues.table.end();
        self.calls.abort_all();
    }
}
