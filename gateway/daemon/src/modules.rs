//! Modules: the host modules of the configuration, and the listing of all.
//!
//! in: `[[module]]` tables at the start and at each reload; out: modules in the registry, a listener
//! per module that a process serves. Owner: the daemon. Kept: a reload starts what is new before it
//! removes anything, and does neither when something does not start. Bounds:
//! [`limits::MODULES_MAX`], [`limits::MODULE_STREAMS_MAX`].

use std::collections::HashMap;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use outsock_vmrpc::ModuleName;
use outsock_vmrpc::host::{ProcessModule, ProcessSlot, Registry};
use tokio::net::UnixListener;
use tokio::sync::Semaphore;
use tokio::task::JoinHandle;

use crate::config::{ModuleConfig, ModuleKind};
use crate::limits;

/// Why a module does not start.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ModuleStartError {
    /// Its socket cannot be made.
    #[error("module {name}: cannot listen on {path}: {source}")]
    Socket {
        /// Which.
        name: ModuleName,
        /// Where.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// Its object cannot be loaded.
    #[error("module {name}: {why}")]
    Object {
        /// Which.
        name: ModuleName,
        /// Why.
        why: String,
    },
    /// A module that runs cannot become another one.
    #[error(
        "module {0}: its socket, user, object, functions or version cannot change while the gateway \
         runs: remove it with a reload of its own first, or change it back"
    )]
    Changed(ModuleName),
}

/// See the module.
#[derive(Debug, Default)]
pub(crate) struct Modules {
    running: Mutex<HashMap<ModuleName, Running>>,
}

#[derive(Debug)]
struct Running {
    kind: ModuleKind,
    /// Ends the listener and removes its socket.
    _listener: Option<Listener>,
}

#[derive(Debug)]
struct Listener {
    path: PathBuf,
    task: JoinHandle<()>,
}

impl Drop for Listener {
    fn drop(&mut self) {
        self.task.abort();
        let _ = std::fs::remove_file(&self.path);
    }
}

enum Started {
    Process(ProcessModule, Listener),
    #[cfg(feature = "ebpf")]
    Ebpf(crate::ebpf::EbpfModule),
}

/// What will run once a reload is certain.
pub(crate) struct Prepared(Vec<(ModuleConfig, Started)>);

impl Modules {
    /// Starts what is new in a configuration. Nothing is registered yet.
    pub(crate) fn prepare(&self, modules: &[ModuleConfig]) -> Result<Prepared, ModuleStartError> {
        let running = self.running.lock().unwrap_or_else(PoisonError::into_inner);
        let mut prepared = Vec::new();
        for module in modules {
            match running.get(&module.name) {
                Some(old) if old.kind == module.kind => {}
                Some(_) => return Err(ModuleStartError::Changed(module.name.clone())),
                None => {
                    if let Some(started) = start(module)? {
                        prepared.push((module.clone(), started));
                    }
                }
            }
        }
        Ok(Prepared(prepared))
    }

    /// Registers what was prepared, and unregisters what the configuration lacks.
    pub(crate) fn commit(&self, prepared: Prepared, modules: &[ModuleConfig], registry: &Registry) {
        let mut running = self.running.lock().unwrap_or_else(PoisonError::into_inner);
        let stays = |name: &ModuleName| modules.iter().any(|module| module.name == *name);
        running.retain(|name, _| {
            let stays = stays(name);
            if !stays {
                registry.unregister_hm(name);
                tracing::info!(module = %name, "unregistered");
            }
            stays
        });
        for (config, started) in prepared.0 {
            let (registered, listener) = match started {
                Started::Process(module, listener) => {
                    (registry.register_hm(module), Some(listener))
                }
                #[cfg(feature = "ebpf")]
                Started::Ebpf(module) => (registry.register_hm(module), None),
            };
            match registered {
                Ok(()) => {
                    tracing::info!(module = %config.name, "registered");
                    let kind = config.kind;
                    running.insert(config.name, Running { kind, _listener: listener });
                }
                // Names are unique in the configuration, and limited to what the registry takes.
                Err(error) => tracing::error!(module = %config.name, %error, "not registered"),
            }
        }
    }
}

impl Modules {
    /// Unregisters all.
    pub(crate) fn end(&self, registry: &Registry) {
        self.commit(Prepared(Vec::new()), &[], registry);
    }
}

fn start(module: &ModuleConfig) -> Result<Option<Started>, ModuleStartError> {
    match &module.kind {
        ModuleKind::Gateway => Ok(None),
        ModuleKind::Process { socket, user } => {
            let failed = |source| ModuleStartError::Socket {
                name: module.name.clone(),
                path: socket.clone(),
                source,
            };
            let listener = bind(socket, *user).map_err(failed)?;
            let (process, slot) = ProcessModule::new(module.name.clone());
            let task = tokio::spawn(listen(module.name.clone(), listener, slot));
            Ok(Some(Started::Process(process, Listener { path: socket.clone(), task })))
        }
        #[cfg(feature = "ebpf")]
        ModuleKind::Ebpf { object, functions, version } => {
            let name = module.name.clone();
            match crate::ebpf::EbpfModule::load(name.clone(), object, functions, *version) {
                Ok(module) => Ok(Some(Started::Ebpf(module))),
                Err(why) => Err(ModuleStartError::Object { name, why }),
            }
        }
        // The configuration refuses it.
        #[cfg(not(feature = "ebpf"))]
        ModuleKind::Ebpf { .. } => {
            Err(ModuleStartError::Object { name: module.name.clone(), why: "no eBPF".to_owned() })
        }
    }
}

/// Only the gateway's user and root connect; and `user`, who then owns the socket.
fn bind(path: &Path, user: Option<u32>) -> std::io::Result<UnixListener> {
    let listener = crate::admin::bind(path)?;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600))?;
    if user.is_some() {
        std::os::unix::fs::chown(path, user, None)?;
    }
    Ok(listener)
}

async fn listen(name: ModuleName, listener: UnixListener, slot: ProcessSlot) {
    let streams = Arc::new(Semaphore::new(limits::MODULE_STREAMS_MAX));
    loop {
        let Ok(permit) = Arc::clone(&streams).acquire_owned().await else { return };
        let stream = match listener.accept().await {
            Ok((stream, _)) => stream,
            Err(error) => {
                tracing::warn!(module = %name, %error, "cannot accept the module's process");
                // Descriptors ran out: others have to end first.
                tokio::time::sleep(std::time::Duration::from_millis(limits::DRAIN_POLL_MS)).await;
                continue;
            }
        };
        let (name, slot) = (name.clone(), slot.clone());
        tokio::spawn(async move {
            match slot.serve(stream).await {
                Ok(()) => tracing::info!(module = %name, "the module's process is gone"),
                Err(error) => {
                    tracing::warn!(module = %name, %error, "the module's process is gone")
                }
            }
            drop(permit);
        });
    }
}
