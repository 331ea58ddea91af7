//! Gateway: the running daemon as one value, and how a new configuration takes the old one's place.
//!
//! in: the configuration file, again and again; out: served guests and a policy. Owner: shared by
//! signals and the admin socket; one reload at a time. Kept: a reload does everything or nothing: a
//! bad file, or a guest whose device cannot start, leaves all as it was; connections of guests that
//! stay are not touched. Bound: [`limits::GUESTS_MAX`](crate::limits::GUESTS_MAX) guests.

use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use outsock_device::StartError;
use outsock_vmrpc::host::Registry;
use serde::{Deserialize, Serialize};

use crate::config::{Config, ConfigError, Guest};
use crate::guests::{self, ServedGuest};
use crate::modules::{ModuleStartError, Modules};
use crate::policy::Policy;
use crate::socket_module::Sockets;

/// See the module.
#[derive(Debug)]
pub(crate) struct Gateway {
    path: PathBuf,
    pub(crate) registry: Registry,
    modules: Modules,
    pub(crate) sockets: Arc<Sockets>,
    served: Mutex<Vec<ServedGuest>>,
    reloading: tokio::sync::Mutex<()>,
}

/// What a reload changed.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Reloaded {
    pub(crate) guests_added: Vec<String>,
    pub(crate) guests_removed: Vec<String>,
    pub(crate) routes: usize,
    #[serde(default)]
    pub(crate) publishes: usize,
}

/// Why a reload changed nothing.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ReloadError {
    /// The file is bad.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// A setting that only a start reads.
    #[error("{0} cannot change while the gateway runs: restart it, or change it back")]
    Fixed(&'static str),
    /// A guest would take a name, CID or socket from one that is served.
    #[error(
        "guest {0:?} has the name, cid or socket of another guest that is served: remove that one \
         with a reload of its own first"
    )]
    Collision(String),
    /// A new guest's device does not start.
    #[error("guest {guest:?}: {source}")]
    Start {
        /// Which.
        guest: String,
        /// Why.
        source: StartError,
    },
    /// A new host module does not start.
    #[error(transparent)]
    Module(#[from] ModuleStartError),
    /// The gateway is about to end.
    #[error("the gateway is about to end")]
    Ending,
}

impl Gateway {
    pub(crate) fn new(path: PathBuf, registry: Registry, sockets: Arc<Sockets>) -> Arc<Self> {
        Arc::new(Self {
            path,
            registry,
            modules: Modules::default(),
            sockets,
            served: Mutex::default(),
            reloading: tokio::sync::Mutex::default(),
        })
    }

    /// The guests that are served.
    pub(crate) fn served(&self) -> MutexGuard<'_, Vec<ServedGuest>> {
        self.served.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Starts the modules and the guests of the first configuration.
    pub(crate) fn start(&self) -> Result<(), ReloadError> {
        let policy = self.sockets.policy();
        let modules = self.modules.prepare(&policy.config.modules)?;
        self.modules.commit(modules, &policy.config.modules, &self.registry);
        let started = self.start_all(policy.config.guests.iter())?;
        self.served().extend(started);
        Ok(())
    }

    /// Unregisters the modules: their calls end, their sockets are removed.
    pub(crate) fn end_modules(&self) {
        self.modules.end(&self.registry);
    }

    /// Reads the file again.
    pub(crate) async fn reload(&self) -> Result<Reloaded, ReloadError> {
        let _alone = self.reloading.lock().await;
        let path = self.path.clone();
        let load = tokio::task::spawn_blocking(move || Config::load(&path));
        let config = load.await.map_err(|_| ReloadError::Ending)??;
        let before = self.sockets.policy();
        stays_fixed(&before.config, &config)?;
        let policy = Policy::build(config, Some(&before))?;
        let (added, removed) = self.compare(&policy.config)?;
        let modules = self.modules.prepare(&policy.config.modules)?;
        let started = self.start_all(added.into_iter())?;
        // From here on nothing can fail.
        policy.peers.set(&policy.config);
        self.sockets.set_policy(Arc::clone(&policy));
        self.modules.commit(modules, &policy.config.modules, &self.registry);
        self.registry.revoke(|guest, module| policy.config.may_use(guest, module));
        let mut changes = Reloaded {
            routes: policy.config.route_details.len(),
            publishes: policy.config.publishes.len(),
            ..Reloaded::default()
        };
        let gone = {
            let mut served = self.served();
            let gone: Vec<_> =
                served.extract_if(.., |guest| removed.contains(&guest.config.name)).collect();
            changes.guests_added = started.iter().map(|guest| guest.config.name.clone()).collect();
            served.extend(started);
            for guest in served.iter_mut() {
                if let Some(config) = policy.guest(&guest.config.name) {
                    guest.set_config(config, &policy);
                }
            }
            gone
        };
        for guest in &gone {
            self.sockets.remove_guest(guest.config.cid.0);
            changes.guests_removed.push(guest.config.name.clone());
        }
        self.sockets.republish(&policy).await;
        // Joins their threads.
        let _ = tokio::task::spawn_blocking(move || drop(gone)).await;
        Ok(changes)
    }

    /// Which guests of a new configuration are new, and the names of those that it lacks.
    fn compare<'c>(
        &self,
        config: &'c Config,
    ) -> Result<(Vec<&'c Guest>, Vec<String>), ReloadError> {
        let served = self.served();
        let is_served = |guest: &&Guest| served.iter().any(|s| s.config.is_same_device(guest));
        let (_, added): (Vec<_>, Vec<_>) = config.guests.iter().partition(is_served);
        let taken = |guest: &&&Guest| served.iter().any(|s| s.config.collides_with(guest));
        if let Some(guest) = added.iter().find(taken) {
            return Err(ReloadError::Collision(guest.name.clone()));
        }
        let is_gone = |guest: &&ServedGuest| config.guest(&guest.config.name).is_none();
        let removed = served.iter().filter(is_gone).map(|guest| guest.config.name.clone());
        Ok((added, removed.collect()))
    }

    /// Starts devices: all of them, or none.
    fn start_all<'a>(
        &self,
        guests: impl Iterator<Item = &'a Guest>,
    ) -> Result<Vec<ServedGuest>, ReloadError> {
        let mut started: Vec<ServedGuest> = Vec::new();
        for guest in guests {
            match guests::start(guest, &self.registry, &self.sockets) {
                Ok(served) => {
                    let socket = guest.socket.display();
                    tracing::info!(
                        guest = guest.name, cid = guest.cid.0, %socket, "waiting for its VMM"
                    );
                    started.push(served);
                }
                Err(source) => {
                    for guest in &started {
                        self.sockets.remove_guest(guest.config.cid.0);
                    }
                    return Err(ReloadError::Start { guest: guest.name.clone(), source });
                }
            }
        }
        Ok(started)
    }
}

fn stays_fixed(before: &Config, config: &Config) -> Result<(), ReloadError> {
    let names = (&before.names, &config.names);
    let fixed = [
        ("[gateway] admin_socket", before.admin_socket == config.admin_socket),
        ("[identity]", before.identity == config.identity),
        ("[quic]", before.quic == config.quic),
        (
            "[overlay]",
            before.overlay.as_ref().map(|overlay| &overlay.fixed)
                == config.overlay.as_ref().map(|overlay| &overlay.fixed),
        ),
        ("[names] pool_v4", names.0.pool_v4 == names.1.pool_v4),
        ("[names] pool_v6", names.0.pool_v6 == names.1.pool_v6),
        ("[names] file", names.0.file == names.1.file),
    ];
    match fixed.into_iter().find(|(_, same)| !same) {
        Some((key, _)) => Err(ReloadError::Fixed(key)),
        None => Ok(()),
    }
}
