//! Registry: from a transport's kind in the configuration to a value that dials.
//!
//! One line per plugin. Nothing else in the gateway knows a transport by name.

use std::sync::Arc;

use outsock_transport::Transport;
use outsock_transport_direct::Direct;
use outsock_transport_external::External;
use outsock_transport_proxy::{Auth, HttpConnect, Socks5};

use crate::config::{ConfigError, TransportConfig, TransportSettings};
use crate::group::LiveGroup;
use crate::launch;
use crate::peers::Peers;

/// A configured transport.
#[derive(Clone, Debug)]
pub(crate) struct NamedTransport {
    pub(crate) name: Arc<str>,
    pub(crate) transport: Arc<dyn Transport>,
}

/// What a rule sends its connections by.
#[derive(Clone, Debug)]
pub(crate) enum Way<'a> {
    Transport(NamedTransport),
    Group(&'a Arc<LiveGroup>),
}

impl Way<'_> {
    /// Its name in the configuration.
    pub(crate) fn name(&self) -> &str {
        match self {
            Self::Transport(transport) => &transport.name,
            Self::Group(group) => &group.config.name,
        }
    }

    /// Whether it may lead to another guest of this gateway.
    pub(crate) fn is_local(&self) -> bool {
        let is_local = |named: &NamedTransport| named.transport.kind() == "local";
        match self {
            Self::Transport(transport) => is_local(transport),
            Self::Group(group) => group.members.iter().any(is_local),
        }
    }

    /// Whether everything that it leads to takes names, so that none has to be resolved here.
    pub(crate) fn takes_names(&self) -> bool {
        match self {
            Self::Transport(transport) => transport.transport.capabilities().dials_names,
            Self::Group(group) => {
                group.members.iter().all(|member| member.transport.capabilities().dials_names)
            }
        }
    }
}

/// The configured transports, by number.
#[derive(Debug)]
pub(crate) struct Transports {
    by_id: Vec<Built>,
}

#[derive(Clone, Debug)]
struct Built {
    config: TransportConfig,
    auth: Auth,
    named: NamedTransport,
}

impl Transports {
    /// Builds every configured transport; one that `before` has, unchanged, is taken over. Reads the
    /// files that hold secrets.
    pub(crate) fn build(
        configs: &[TransportConfig],
        before: Option<&Self>,
        peers: &Peers,
    ) -> Result<Self, ConfigError> {
        let mut by_id: Vec<Built> = Vec::new();
        for config in configs {
            let auth = match &config.settings {
                TransportSettings::Socks5(proxy) | TransportSettings::HttpConnect(proxy) => {
                    proxy.auth()?
                }
                TransportSettings::Direct
                | TransportSettings::Local
                | TransportSettings::Peer
                | TransportSettings::Overlay
                | TransportSettings::External(_) => Auth::None,
            };
            let carrier = |all: &[Built], config: &TransportConfig| {
                let below = config.over.and_then(|at| all.get(at));
                below.map(|below| Arc::clone(&below.named.transport))
            };
            let below = carrier(&by_id, config);
            let is_same = |old: &&Built| {
                let old_below = before.and_then(|before| carrier(&before.by_id, &old.config));
                let same_below = match (&old_below, &below) {
                    (Some(old), Some(new)) => Arc::ptr_eq(old, new),
                    (old, new) => old.is_none() && new.is_none(),
                };
                same_below
                    && old.auth == auth
                    && old.config == TransportConfig { over: old.config.over, ..config.clone() }
            };
            let old = before.into_iter().flat_map(|before| &before.by_id).find(is_same);
            by_id.push(match old {
                Some(old) => Built { config: config.clone(), ..old.clone() },
                None => Built {
                    named: NamedTransport {
                        name: config.name.as_str().into(),
                        transport: make(config, below, &auth, peers),
                    },
                    config: config.clone(),
                    auth,
                },
            });
        }
        Ok(Self { by_id })
    }

    /// The transport of a number.
    pub(crate) fn at(&self, at: usize) -> Option<NamedTransport> {
        self.by_id.get(at).map(|built| built.named.clone())
    }

    /// How many there are.
    pub(crate) fn len(&self) -> usize {
        self.by_id.len()
    }
}

/// The one place where a configuration becomes a transport. `below` carries it, where another one does.
fn make(
    config: &TransportConfig,
    below: Option<Arc<dyn Transport>>,
    auth: &Auth,
    peers: &Peers,
) -> Arc<dyn Transport> {
    let below = below.unwrap_or_else(|| Arc::new(Direct));
    match &config.settings {
        TransportSettings::Direct => Arc::new(Direct),
        TransportSettings::Local => peers.local(),
        TransportSettings::Peer => peers.way(&config.name),
        TransportSettings::Overlay => peers.overlay(),
        TransportSettings::Socks5(proxy) => {
            Arc::new(Socks5::new(below, proxy.server.clone(), auth.clone()))
        }
        TransportSettings::HttpConnect(proxy) => {
            Arc::new(HttpConnect::new(below, proxy.server.clone(), auth.clone()))
        }
        TransportSettings::External(external) => {
            let mut settings = external.settings.clone();
            // Without its own program file nothing can be started, so nothing gets out.
            let launcher = launch::launcher(external.run_as.as_deref());
            settings.launcher = launcher.unwrap_or_else(|_| vec!["/nonexistent".into()]);
            Arc::new(External::new(settings))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Config;

    /// One transport of every kind, as a configuration would have it.
    const ONE_OF_EACH: &str = "
        [[transport]]
        name = \"direct\"
        kind = \"direct\"
        [[transport]]
        name = \"s\"
        kind = \"socks5\"
        server = \"127.0.0.1:1\"
        [[transport]]
        name = \"h\"
        kind = \"http-connect\"
        server = \"127.0.0.1:1\"
        [[transport]]
        name = \"e\"
        kind = \"external\"
        program = \"/bin/false\"
        method = \"x\"";

    #[tokio::test]
    async fn the_readme_knows_every_kind_and_what_it_can_do() {
        let config = Config::parse(ONE_OF_EACH, std::path::Path::new("x")).unwrap();
        let peers = Peers::offline(&config);
        let transports = Transports::build(&config.transports, None, &peers).unwrap();
        let configured = (0..transports.len()).map(|at| transports.at(at).unwrap().transport);
        // There without being written down.
        let all = configured.chain([peers.local(), peers.way("osaka")]);
        let readme = include_str!("../../../README.md");
        let mut kinds = Vec::new();
        for transport in all {
            let can = transport.capabilities();
            let cells = [
                can.dials_addresses,
                can.dials_names,
                can.dials_unix,
                can.listens,
                can.half_close,
                can.reset,
                can.encrypted,
            ];
            let cells = cells.map(|can| if can { "yes" } else { "no" }).join(" | ");
            let row = format!("| `{}`", transport.kind());
            let has = |line: &str| line.starts_with(&row) && line.contains(&format!("| {cells} |"));
            assert!(readme.lines().any(has), "README.md lacks {row} | {cells} |");
            kinds.push(transport.kind());
        }
        for (_, name) in crate::config::TransportKind::ALL {
            assert!(kinds.contains(&name), "add one of kind {name} to this test");
        }
    }
}
