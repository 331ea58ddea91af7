//! Arriving: a stream that a peer opens, whichever carrier it came by.
//!
//! in: a stream of the QUIC endpoint or of the overlay; out: the same calls for both. Owner: the task
//! that serves it. Kept: who asks is known by key; a name is looked up in the policy of that moment.
//! Bound: those of the carriers.

use std::io;
use std::pin::Pin;
use std::sync::Arc;

use outsock_peer::{Bound, Open, Refusal};
use outsock_transport::AsyncStream;

use crate::config::PeerConfig;
use crate::policy::Policy;

/// See the module.
#[derive(Debug)]
pub(super) enum Arriving {
    Quic(outsock_transport_quic::Incoming),
    Overlay(outsock_transport_overlay::Incoming),
}

impl Arriving {
    /// Who asks, as logs and `status` call it.
    pub(super) fn name(&self, policy: &Policy) -> Arc<str> {
        match (self, self.config(policy)) {
            (Self::Quic(incoming), _) => Arc::clone(incoming.peer().name()),
            (Self::Overlay(_), Some(config)) => Arc::clone(&config.settings.name),
            (Self::Overlay(incoming), None) => incoming.key().to_string().into(),
        }
    }

    /// What it may do here; `None` = nothing any more.
    pub(super) fn config<'p>(&self, policy: &'p Policy) -> Option<&'p PeerConfig> {
        let peers = &policy.config.peers;
        match self {
            Self::Quic(incoming) => {
                peers.iter().find(|peer| peer.name() == &**incoming.peer().name())
            }
            Self::Overlay(incoming) => peers
                .iter()
                .find(|peer| peer.settings.key == *incoming.key())
                .or_else(|| policy.config.overlay.as_ref().map(|overlay| &overlay.strangers)),
        }
    }

    pub(super) fn open(&self) -> &Open {
        match self {
            Self::Quic(incoming) => incoming.open(),
            Self::Overlay(incoming) => incoming.open(),
        }
    }

    /// Ends when the peer has given the dial up, or is gone.
    pub(super) fn cancelled(&mut self) -> Pin<Box<dyn Future<Output = ()> + Send>> {
        match self {
            Self::Quic(incoming) => Box::pin(incoming.cancelled()),
            Self::Overlay(incoming) => Box::pin(incoming.cancelled()),
        }
    }

    /// Says yes.
    pub(super) async fn accept(self, bound: Bound) -> io::Result<Pin<Box<dyn AsyncStream>>> {
        match self {
            Self::Quic(incoming) => incoming.accept(bound).await,
            Self::Overlay(incoming) => incoming.accept(bound).await,
        }
    }

    /// Whether it can be a session of datagrams.
    pub(super) fn carries_datagrams(&self) -> bool {
        match self {
            Self::Quic(_) => true,
            Self::Overlay(_) => false,
        }
    }

    /// Says yes to a session of datagrams.
    pub(super) async fn accept_datagrams(self) -> io::Result<outsock_transport_quic::Datagrams> {
        match self {
            Self::Quic(incoming) => incoming.accept_datagrams().await,
            Self::Overlay(_) => Err(io::ErrorKind::Unsupported.into()),
        }
    }

    /// Says no.
    pub(super) async fn refuse(self, refusal: Refusal) {
        match self {
            Self::Quic(incoming) => incoming.refuse(refusal).await,
            Self::Overlay(incoming) => incoming.refuse(refusal).await,
        }
    }
}
