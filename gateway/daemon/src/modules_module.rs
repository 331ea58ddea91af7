//! The `modules` host module: who uses what, for guests; and the same for the host's admin.
//!
//! in: the registry; out: listings. A guest sees the modules that it may use and its own bindings.
//! Bounds: [`limits::LISTED_MODULES_MAX`], [`limits::LISTED_BINDINGS_MAX`].

use std::sync::Arc;

use outsock_vmrpc::host::{CallError, Caller, HostModule, ModuleStatus, Registry};
use outsock_vmrpc::modules::{self, Bound, List, Module, Queue};
use outsock_vmrpc::queue::QueueStatus;
use outsock_vmrpc::{ModuleName, Version, VersionRange};
use serde::{Deserialize, Serialize};

use crate::limits;
use crate::socket_module::Sockets;

/// The module itself.
#[derive(Debug)]
pub(crate) struct ModulesModule {
    pub(crate) registry: Registry,
    pub(crate) sockets: Arc<Sockets>,
}

#[async_trait::async_trait]
impl HostModule for ModulesModule {
    fn name(&self) -> ModuleName {
        modules::NAME.parse().unwrap_or_else(|error| unreachable!("a constant: {error}"))
    }

    fn versions(&self) -> VersionRange {
        modules::VERSIONS
    }

    async fn call(
        &self,
        caller: &Caller,
        _: Version,
        function: u32,
        _: Vec<u8>,
    ) -> Result<Vec<u8>, CallError> {
        match function {
            modules::LIST => Ok(self.list(&caller.guest).encode()),
            _ => Err(CallError::NoSuchFunction),
        }
    }
}

impl ModulesModule {
    fn list(&self, guest: &str) -> List {
        let policy = self.sockets.policy();
        let all = self.registry.list().into_iter();
        let may_use = all.filter(|module| policy.config.may_use(guest, &module.name));
        let modules = may_use.take(limits::LISTED_MODULES_MAX).map(|module| of(module, guest));
        List { modules: modules.collect() }
    }
}

fn of(module: ModuleStatus, guest: &str) -> Module {
    let own = module.bindings.into_iter().filter(|bound| *bound.guest == *guest);
    let mut bindings: Vec<Bound> = own
        .map(|bound| Bound {
            client: bound.client,
            version: bound.version,
            calls: bound.calls,
            errors: bound.errors,
            in_flight: bound.in_flight,
            queues: bound.queues.iter().take(8).map(queue).collect(),
        })
        .collect();
    let left_out = bindings.len().saturating_sub(limits::LISTED_BINDINGS_MAX);
    bindings.truncate(limits::LISTED_BINDINGS_MAX);
    Module {
        name: module.name.as_str().to_owned(),
        kind: module.kind.to_owned(),
        versions: module.versions,
        available: module.available,
        bindings,
        left_out: u32::try_from(left_out).unwrap_or(u32::MAX),
    }
}

fn queue(status: &QueueStatus) -> Queue {
    Queue {
        form: status.form,
        bytes: status.bytes,
        to_host_bytes: status.to_take_bytes,
        to_guest_bytes: status.to_send_bytes,
    }
}

/// What `modules --json` prints. Fields are only ever added.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Listing {
    pub(crate) modules: Vec<ListedModule>,
}

/// One module. Counters grow since it was registered, all but `in_flight`.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct ListedModule {
    pub(crate) name: String,
    pub(crate) kind: String,
    pub(crate) first_version: u16,
    pub(crate) last_version: u16,
    pub(crate) available: bool,
    pub(crate) calls: u64,
    pub(crate) errors: u64,
    pub(crate) in_flight: u64,
    pub(crate) bindings: Vec<ListedBinding>,
}

/// One binding.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct ListedBinding {
    pub(crate) guest: String,
    /// As the program says.
    pub(crate) client: String,
    pub(crate) version: u16,
    pub(crate) calls: u64,
    pub(crate) errors: u64,
    pub(crate) in_flight: u64,
    pub(crate) queues: Vec<ListedQueue>,
}

/// One event queue, seen from the module.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct ListedQueue {
    /// "shared memory" or "stream"; `None` until the guest opened it.
    pub(crate) form: Option<String>,
    pub(crate) bytes: u32,
    pub(crate) to_host_bytes: u32,
    pub(crate) to_guest_bytes: u32,
    /// Events to the guest, and from it.
    pub(crate) put: u64,
    pub(crate) got: u64,
    /// Messages that woke the guest, and the module.
    pub(crate) wakes_sent: u64,
    pub(crate) wakes_received: u64,
}

/// Everything, for the host's admin.
pub(crate) fn listing(registry: &Registry) -> Listing {
    Listing { modules: registry.list().into_iter().map(listed).collect() }
}

fn listed(module: ModuleStatus) -> ListedModule {
    let bindings = module.bindings.into_iter().map(|bound| ListedBinding {
        guest: bound.guest.to_string(),
        client: bound.client,
        version: bound.version.0,
        calls: bound.calls,
        errors: bound.errors,
        in_flight: bound.in_flight,
        queues: bound.queues.iter().map(listed_queue).collect(),
    });
    ListedModule {
        name: module.name.as_str().to_owned(),
        kind: module.kind.to_owned(),
        first_version: module.versions.first().0,
        last_version: module.versions.last().0,
        available: module.available,
        calls: module.calls,
        errors: module.errors,
        in_flight: module.in_flight,
        bindings: bindings.collect(),
    }
}

fn listed_queue(status: &QueueStatus) -> ListedQueue {
    ListedQueue {
        form: status.form.map(|form| form.to_string()),
        bytes: status.bytes,
        to_host_bytes: status.to_take_bytes,
        to_guest_bytes: status.to_send_bytes,
        put: status.put,
        got: status.got,
        wakes_sent: status.wakes_sent,
        wakes_received: status.wakes_received,
    }
}
