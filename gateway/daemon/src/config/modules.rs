//! Modules: host modules beside the gateway's own, and which guests may use which.
//!
//! in: the `[[module]]` tables; out: checked [`ModuleConfig`]s. The gateway's own modules are open to
//! all guests unless a table says otherwise; others to those that their table names. Bound:
//! [`limits::MODULES_MAX`].

use std::path::PathBuf;

use outsock_core::route::{Condition, GuestPattern};
use outsock_vmrpc::{ModuleName, Version, datagram, modules, resolver, socket};

use super::error::{ConfigError, Place};
use super::guests::Guest;
use super::raw;
use crate::limits;

/// The modules that the gateway brings.
pub(crate) const OWN: [&str; 4] = [datagram::NAME, modules::NAME, resolver::NAME, socket::NAME];

/// One module.
#[derive(Clone, Debug)]
pub(crate) struct ModuleConfig {
    pub(crate) name: ModuleName,
    pub(crate) kind: ModuleKind,
    /// `None`: nobody said; an empty list: nobody.
    guests: Option<Condition<GuestPattern>>,
}

/// What runs a module.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum ModuleKind {
    /// The gateway itself.
    Gateway,
    /// A process, which connects to this socket.
    Process {
        socket: PathBuf,
        /// Who may connect, beside root and the gateway's own user.
        user: Option<u32>,
    },
    /// The kernel.
    Ebpf {
        object: PathBuf,
        /// Names of its programs; the first is function 1.
        functions: Vec<String>,
        version: Version,
    },
}

impl ModuleConfig {
    fn allows(&self, guest: &Guest) -> bool {
        match &self.guests {
            None => self.kind == ModuleKind::Gateway,
            Some(guests) => {
                let nobody = guests.is_empty();
                !nobody && guests.accepts(|pattern| pattern.matches(&guest.name, &guest.tags))
            }
        }
    }
}

/// Whether a guest may use a module.
pub(super) fn may_use(modules: &[ModuleConfig], guest: &Guest, name: &ModuleName) -> bool {
    match modules.iter().find(|module| module.name == *name) {
        Some(module) => module.allows(guest),
        None => OWN.contains(&name.as_str()),
    }
}

pub(super) fn check(
    raw: &[raw::Module],
    place: Place<'_>,
) -> Result<Vec<ModuleConfig>, ConfigError> {
    if let Some(extra) = raw.get(limits::MODULES_MAX) {
        return Err(place.at(extra.name.span(), "too many modules for one gateway"));
    }
    let mut modules: Vec<ModuleConfig> = Vec::new();
    for module in raw {
        let name: ModuleName = module.name.get_ref().parse().map_err(
            |error: outsock_vmrpc::name::BadModuleName| {
                place.at(module.name.span(), &error.to_string())
            },
        )?;
        if modules.iter().any(|other| other.name == name) {
            return Err(place.at(module.name.span(), "there is another [[module]] of that name"));
        }
        let kind = kind(module, &name, place)?;
        if let ModuleKind::Process { socket, .. } = &kind {
            let same = |other: &ModuleConfig| matches!(&other.kind, ModuleKind::Process { socket: taken, .. } if taken == socket);
            if let Some(other) = modules.iter().find(|other| same(other)) {
                let message = format!("module {} has the same socket", other.name);
                return Err(place.at(module.name.span(), &message));
            }
        }
        let guests = module.guests.as_ref();
        let guests = guests.map(|all| all.iter().map(|entry| entry.0.clone()).collect());
        modules.push(ModuleConfig { name, kind, guests });
    }
    Ok(modules)
}

fn kind(
    module: &raw::Module,
    name: &ModuleName,
    place: Place<'_>,
) -> Result<ModuleKind, ConfigError> {
    let own = OWN.contains(&name.as_str());
    let wrong = |message: &str| place.at(module.name.span(), message);
    let no_functions = module.functions.is_empty() && module.version.is_none();
    match (&module.socket, &module.object) {
        (None, None) if own && no_functions && module.user.is_none() => Ok(ModuleKind::Gateway),
        (_, _) if own => Err(wrong("this module is the gateway's own: it takes only `guests`")),
        (None, None) => Err(wrong(
            "give the `socket` where the module's process connects, or the `object` of an eBPF \
             module; the gateway's own modules are modules, resolver and socket",
        )),
        (Some(_), Some(_)) => {
            Err(wrong("either `socket` (a process) or `object` (eBPF), not both"))
        }
        (Some(_), None) if !no_functions => {
            Err(wrong("a process says itself what it serves: no `functions`, no `version`"))
        }
        (Some(socket), None) => {
            Ok(ModuleKind::Process { socket: socket.clone(), user: module.user })
        }
        (None, Some(_)) if module.user.is_some() => Err(wrong("`user` goes with `socket`")),
        (None, Some(object)) => {
            if module.functions.is_empty() {
                return Err(wrong("name the object's programs in `functions`, in order from 1"));
            }
            if cfg!(not(feature = "ebpf")) {
                return Err(wrong(
                    "this gateway was built without eBPF: build it with --features ebpf",
                ));
            }
            Ok(ModuleKind::Ebpf {
                object: object.clone(),
                functions: module.functions.clone(),
                version: Version(module.version.unwrap_or(1)),
            })
        }
    }
}
