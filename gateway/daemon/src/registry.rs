//! Registry: from a transport's kind in the configuration to a value that dials.
//!
//! One line per plugin. Nothing else in the gateway knows a transport by name.

use std::sync::Arc;

use outsock_core::route::WayId;
use outsock_transport::Transport;
use outsock_transport_direct::Direct;

use crate::config::{TransportConfig, TransportKind};

/// The configured transports, by number.
#[derive(Clone, Debug)]
pub(crate) struct Transports {
    by_id: Arc<[(String, Arc<dyn Transport>)]>,
}

impl Transports {
    /// Builds every configured transport.
    pub(crate) fn build(configs: &[TransportConfig]) -> Self {
        let by_id = configs
            .iter()
            .map(|config| {
                let transport: Arc<dyn Transport> = match config.kind {
                    TransportKind::Direct => Arc::new(Direct),
                };
                (config.name.clone(), transport)
            })
            .collect();
        Self { by_id }
    }

    /// Name and value of a transport.
    pub(crate) fn find(&self, id: WayId) -> Option<(&str, &Arc<dyn Transport>)> {
        self.by_id.get(usize::from(id.0)).map(|(name, transport)| (name.as_str(), transport))
    }
}
