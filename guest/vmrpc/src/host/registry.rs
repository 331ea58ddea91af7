//! Registry: the host modules of a gateway, and who has bound them.
//!
//! in: modules, binds; out: modules to call, listings. Shared; short locks. Kept: a name means one
//! module at a time; a module that was unregistered is called no more. Bound:
//! [`limits::MODULES_MAX`].

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock};

use tokio::sync::Notify;

use super::session::Queues;
use super::{Caller, HostModule, QueueMaker};
use crate::error::Fault;
use crate::frame::Handle;
use crate::limits;
use crate::name::{ModuleName, Version, VersionRange};
use crate::queue::{EventQueue, QueueError, QueueId, QueueStatus, lock};

pub(super) struct Registered {
    pub(super) module: Box<dyn HostModule>,
    gone: AtomicBool,
    gone_notice: Notify,
    pub(super) counters: Counters,
    bindings: Mutex<HashMap<u64, Arc<Live>>>,
}

#[derive(Debug, Default)]
pub(super) struct Counters {
    pub(super) calls: AtomicU64,
    pub(super) errors: AtomicU64,
    pub(super) in_flight: AtomicU64,
}

impl Counters {
    pub(super) fn begin(&self) {
        self.calls.fetch_add(1, Ordering::Relaxed);
        self.in_flight.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn end(&self, failed: bool) {
        self.in_flight.fetch_sub(1, Ordering::Relaxed);
        self.errors.fetch_add(u64::from(failed), Ordering::Relaxed);
    }
}

/// A binding that stands.
pub(super) struct Live {
    pub(super) caller: Caller,
    client: String,
    pub(super) version: Version,
    pub(super) counters: Counters,
    queues: Arc<Queues>,
    handle: Handle,
    /// The guest may not use the module any more.
    pub(super) revoked: AtomicBool,
}

/// The queues of one binding.
#[derive(Debug)]
struct OfBinding {
    queues: Arc<Queues>,
    handle: Handle,
}

impl QueueMaker for OfBinding {
    fn make(&self, id: Option<QueueId>, bytes: u32) -> Result<EventQueue, QueueError> {
        self.queues.make(id, self.handle, bytes)
    }
}

impl Registered {
    pub(super) async fn until_gone(&self) {
        loop {
            let notice = self.gone_notice.notified();
            if self.gone.load(Ordering::Acquire) {
                return;
            }
            notice.await;
        }
    }

    pub(super) fn bind(
        &self,
        caller: &Caller,
        client: &str,
        handle: Handle,
        version: Version,
        queues: &Arc<Queues>,
    ) -> Arc<Live> {
        static BINDINGS: AtomicU64 = AtomicU64::new(1);
        let mut caller = caller.clone();
        caller.binding = BINDINGS.fetch_add(1, Ordering::Relaxed);
        caller.handle = handle;
        caller.queues = Some(Arc::new(OfBinding { queues: Arc::clone(queues), handle }));
        let live = Arc::new(Live {
            caller,
            client: client.to_owned(),
            version,
            counters: Counters::default(),
            queues: Arc::clone(queues),
            handle,
            revoked: AtomicBool::new(false),
        });
        lock(&self.bindings).insert(live.caller.binding, Arc::clone(&live));
        self.module.bound(&live.caller, version);
        live
    }

    pub(super) fn unbind(&self, live: &Live) {
        live.queues.end(live.handle, QueueError::Deleted);
        lock(&self.bindings).remove(&live.caller.binding);
        self.module.unbound(&live.caller);
    }

    fn end_queues(&self) {
        let live: Vec<_> = lock(&self.bindings).values().cloned().collect();
        live.iter().for_each(|live| live.queues.end(live.handle, QueueError::ModuleGone));
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
            counters: Counters::default(),
            bindings: Mutex::default(),
        };
        modules.insert(name, Arc::new(registered));
        Ok(())
    }

    /// Removes a module. Its calls in flight, and calls through old handles, end with
    /// [`Fault::ModuleGone`]; its event queues with [`QueueError::ModuleGone`]. `false` when there
    /// was none of that name.
    pub fn unregister_hm(&self, name: &ModuleName) -> bool {
        let removed = self.modules.write().unwrap_or_else(PoisonError::into_inner).remove(name);
        let Some(registered) = removed else {
            return false;
        };
        registered.gone.store(true, Ordering::Release);
        registered.gone_notice.notify_waiters();
        registered.end_queues();
        true
    }

    /// The names of all modules, sorted.
    pub fn names(&self) -> Vec<ModuleName> {
        self.sorted().into_iter().map(|(name, _)| name).collect()
    }

    /// Takes bindings away that their guests may not have any more: calls by them end with
    /// [`Fault::NotAllowed`], their event queues are deleted.
    pub fn revoke(&self, mut may_use: impl FnMut(&str, &ModuleName) -> bool) {
        for (name, registered) in self.sorted() {
            let live: Vec<_> = lock(&registered.bindings).values().cloned().collect();
            for live in live.into_iter().filter(|live| !may_use(&live.caller.guest, &name)) {
                live.revoked.store(true, Ordering::Release);
                live.queues.end(live.handle, QueueError::ModuleGone);
            }
        }
    }

    /// Every module, sorted by name, and who has bound it.
    pub fn list(&self) -> Vec<ModuleStatus> {
        self.sorted().into_iter().map(|(name, registered)| registered.status(name)).collect()
    }

    fn sorted(&self) -> Vec<(ModuleName, Arc<Registered>)> {
        let modules = self.modules.read().unwrap_or_else(PoisonError::into_inner);
        let pairs = modules.iter().map(|(name, registered)| (name.clone(), Arc::clone(registered)));
        let mut pairs: Vec<_> = pairs.collect();
        pairs.sort_by(|one, other| one.0.cmp(&other.0));
        pairs
    }

    pub(super) fn find(&self, name: &str) -> Result<(ModuleName, Arc<Registered>), Fault> {
        let name: ModuleName = name.parse().map_err(|_| Fault::NoSuchModule)?;
        let modules = self.modules.read().unwrap_or_else(PoisonError::into_inner);
        let registered = modules.get(&name).cloned().ok_or(Fault::NoSuchModule)?;
        Ok((name, registered))
    }
}

impl Registered {
    fn status(&self, name: ModuleName) -> ModuleStatus {
        let mut live: Vec<_> = lock(&self.bindings).values().cloned().collect();
        live.sort_by_key(|live| live.caller.binding);
        let count = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        ModuleStatus {
            name,
            kind: self.module.kind(),
            versions: self.module.versions(),
            available: self.module.is_available(),
            calls: count(&self.counters.calls),
            errors: count(&self.counters.errors),
            in_flight: count(&self.counters.in_flight),
            bindings: live
                .iter()
                .map(|live| BindingStatus {
                    guest: Arc::clone(&live.caller.guest),
                    client: live.client.clone(),
                    version: live.version,
                    calls: count(&live.counters.calls),
                    errors: count(&live.counters.errors),
                    in_flight: count(&live.counters.in_flight),
                    queues: live.queues.status(live.handle),
                })
                .collect(),
        }
    }
}

/// A host module at this moment.
#[derive(Clone, Debug)]
pub struct ModuleStatus {
    /// Its name.
    pub name: ModuleName,
    /// What it is: [`HostModule::kind`].
    pub kind: &'static str,
    /// What it serves.
    pub versions: VersionRange,
    /// Whether it can be called.
    pub available: bool,
    /// Calls so far, of all guests.
    pub calls: u64,
    /// How many of them failed.
    pub errors: u64,
    /// Calls under way.
    pub in_flight: u64,
    /// Who has bound it.
    pub bindings: Vec<BindingStatus>,
}

/// A binding at this moment.
#[derive(Clone, Debug)]
pub struct BindingStatus {
    /// The guest.
    pub guest: Arc<str>,
    /// The program in the guest, as it says.
    pub client: String,
    /// The version that was picked.
    pub version: Version,
    /// Its calls so far.
    pub calls: u64,
    /// How many of them failed.
    pub errors: u64,
    /// Calls under way.
    pub in_flight: u64,
    /// Its event queues, seen from the module.
    pub queues: Vec<QueueStatus>,
}
