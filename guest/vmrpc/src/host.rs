//! The host side of VM RPC: host modules, their registry, and the server of one guest's stream.
//!
//! in: frames from a guest; out: replies, in the order in which calls end, and events. Owner: one
//! tokio task per stream reads frames and begins calls, one more per call that has to wait; one
//! writes. Kept: every call gets exactly one reply while the stream lives; dropping the stream drops
//! its calls, which is how a module learns that a caller is gone. Bounds:
//! [`limits::CALLS_IN_FLIGHT_MAX`], [`limits::BINDINGS_PER_STREAM_MAX`],
//! [`limits::REPLIES_QUEUED_MAX`], [`limits::MODULES_MAX`].
//!
//! | Module | What it holds |
//! |---|---|
//! | `registry` | [`Registry`]: register_hm, unregister_hm, who has bound what |
//! | `session` | [`serve`]: one stream |
//! | `link` | [`ProcessModule`]: a module whose functions run in another process |
//! | `process` | [`run_module`]: that process's side |

mod link;
mod process;
mod registry;
mod session;

use std::sync::Arc;

use crate::error::{Fault, RpcError};
use crate::frame::Handle;
#[cfg(doc)]
use crate::limits;
use crate::name::{ModuleName, Version, VersionRange};
pub use crate::pages::{GuestMemory, Pages, SharedMemory};
use crate::queue::{EventQueue, QueueError, QueueId};
pub use link::{LinkError, ProcessModule, ProcessSlot};
pub use process::{ModuleError, run_module};
pub use registry::{BindingStatus, ModuleStatus, RegisterError, Registry};
pub use session::{ServeError, serve, serve_with};

/// Who calls: one guest of this gateway, known from the vhost-user socket and never from the guest;
/// and by which binding.
#[derive(Clone, Debug)]
pub struct Caller {
    /// The guest's name in the configuration.
    pub guest: Arc<str>,
    /// Its CID.
    pub cid: u64,
    binding: u64,
    handle: Handle,
    queues: Option<Arc<dyn QueueMaker>>,
}

/// Makes event queues for a binding.
trait QueueMaker: std::fmt::Debug + Send + Sync {
    fn make(&self, id: Option<QueueId>, bytes: u32) -> Result<EventQueue, QueueError>;
}

impl Caller {
    /// A guest.
    pub fn new(guest: impl Into<Arc<str>>, cid: u64) -> Self {
        Self { guest: guest.into(), cid, binding: 0, handle: Handle(0), queues: None }
    }

    /// Names the binding: unique in this process, and gone for good when it is unbound.
    pub fn binding(&self) -> u64 {
        self.binding
    }

    /// Makes an event queue between the module and this binding, with `bytes` for each direction: a
    /// power of two from 4 KiB to 1 MiB. Its [`ticket`](EventQueue::ticket) goes to the guest in the
    /// call's result. What is put in before the guest opens it waits. It ends with the binding.
    pub fn make_ev_queue(&self, bytes: u32) -> Result<EventQueue, QueueError> {
        let queues = self.queues.as_ref().ok_or(QueueError::Disconnected)?;
        queues.make(None, bytes)
    }
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
    /// What runs the module is away.
    #[error("the module's process is not running")]
    Unavailable,
    /// What runs the module came back and does not serve this version any more.
    #[error("the module does not serve this version any more")]
    UnsupportedVersion,
    /// Too many calls or bindings for what runs the module.
    #[error("the module has too much to do")]
    TooMany,
    /// The result is larger than a frame.
    #[error("the result is too large")]
    ResultTooLarge,
}

impl From<crate::wire::Malformed> for CallError {
    fn from(_: crate::wire::Malformed) -> Self {
        Self::BadArguments
    }
}

impl From<CallError> for RpcError {
    fn from(error: CallError) -> Self {
        Self::Host(match error {
            CallError::Errno(errno) => return Self::Function(errno),
            CallError::NoSuchFunction => Fault::NoSuchFunction,
            CallError::BadArguments => Fault::BadArguments,
            CallError::Unavailable => Fault::ModuleUnavailable,
            CallError::UnsupportedVersion => Fault::UnsupportedVersion,
            CallError::TooMany => Fault::TooMany,
            CallError::ResultTooLarge => Fault::ResultTooLarge,
        })
    }
}

/// A host module: a named set of functions that guests may call.
#[async_trait::async_trait]
pub trait HostModule: Send + Sync + 'static {
    /// The name that guests bind.
    fn name(&self) -> ModuleName;

    /// The versions that it serves. May change between binds.
    fn versions(&self) -> VersionRange;

    /// What it is, for listings.
    fn kind(&self) -> &'static str {
        "gateway"
    }

    /// Whether calls can be served now. While not, binds fail with
    /// [`Fault::ModuleUnavailable`].
    fn is_available(&self) -> bool {
        true
    }

    /// A guest has bound it at a version. Called before the first call.
    fn bound(&self, _caller: &Caller, _version: Version) {}

    /// The binding is gone: unbound, or its stream ended. Its queues are deleted already.
    fn unbound(&self, _caller: &Caller) {}

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

/// Says which modules a guest may bind.
pub type MayBind = Arc<dyn Fn(&ModuleName) -> bool + Send + Sync>;

/// What a stream's guest may do.
#[derive(Clone, Default)]
pub struct Terms {
    /// Which modules it may bind; `None` = all. Asked at each bind.
    pub may_bind: Option<MayBind>,
    /// Where its event queues may lie. `None`: they use the stream.
    ///
    /// Whoever opens a queue names the pages that the gateway writes to, so this is only for streams
    /// of which the guest's kernel vouches that a privileged process opened them.
    pub memory: Option<Arc<dyn GuestMemory>>,
}

impl std::fmt::Debug for Terms {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Terms").field("memory", &self.memory.is_some()).finish_non_exhaustive()
    }
}
