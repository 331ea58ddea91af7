//! Registry: from a transport's kind in the configuration to a value that dials.
//!
//! One line per plugin. Nothing else in the gateway knows a transport by name.

use std::sync::Arc;

use outsock_transport::Transport;
use outsock_transport_direct::Direct;
use outsock_transport_proxy::{Auth, HttpConnect, Socks5};

use crate::config::{ConfigError, TransportConfig, TransportSettings};
use crate::group::LiveGroup;
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
                TransportSettings::Direct | TransportSettings::Local | TransportSettings::Peer => {
                    Auth::None
                }
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
        TransportSettings::Socks5(proxy) => {
            Arc::new(Socks5::new(below, proxy.server.clone(), auth.clone()))
        }
        TransportSettings::HttpConnect(proxy) => {
            Arc::new(HttpConnect::new(below, proxy.server.clone(), auth.clone()))
        }
    }
}
