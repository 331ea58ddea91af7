//! Registry: from a transport's kind in the configuration to a value that dials.
//!
//! One line per plugin. Nothing else in the gateway knows a transport by name.

use std::sync::Arc;

use outsock_transport::Transport;
use outsock_transport_direct::Direct;

use crate::config::{TransportConfig, TransportKind};
use crate::group::LiveGroup;

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
    by_id: Vec<(TransportConfig, NamedTransport)>,
}

impl Transports {
    /// Builds every configured transport; one that `before` has, unchanged, is taken over.
    pub(crate) fn build(configs: &[TransportConfig], before: Option<&Self>) -> Self {
        let by_id = configs
            .iter()
            .map(|config| {
                let mut old = before.into_iter().flat_map(|before| &before.by_id);
                let old = old.find(|(old, _)| old == config).map(|(_, old)| old.clone());
                let named = old.unwrap_or_else(|| NamedTransport {
                    name: config.name.as_str().into(),
                    transport: make(config),
                });
                (config.clone(), named)
            })
            .collect();
        Self { by_id }
    }

    /// The transport of a number.
    pub(crate) fn at(&self, at: usize) -> Option<NamedTransport> {
        self.by_id.get(at).map(|(_, named)| named.clone())
    }

    /// How many there are.
    pub(crate) fn len(&self) -> usize {
        self.by_id.len()
    }
}

fn make(config: &TransportConfig) -> Arc<dyn Transport> {
    match config.kind {
        TransportKind::Direct => Arc::new(Direct),
    }
}
