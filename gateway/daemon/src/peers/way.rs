//! PeerWay: a peer as a route's way.
//!
//! in: dials; out: streams and flows by the connection that the peer has at that moment. Owner: the policies.
//! Kept: a policy that was built but never came into force, or only answers questions, touches no
//! connection. Bound: none of its own.

use std::sync::Arc;

use async_trait::async_trait;
use outsock_transport::{
    Capabilities, Carried, Destination, DialError, DialRequest, Dialed, Flow, FlowRequest,
    ListenError, Listener, Transport,
};
use outsock_transport_overlay::{Gate, OpenNetwork, Overlay, Settings};
use outsock_transport_quic::Peer;

use super::Connected;
use super::gate::Members;
use crate::config::Fixed;

/// See the module.
#[derive(Debug)]
pub(super) struct PeerWay {
    pub(super) name: String,
    pub(super) connected: Connected,
}

impl PeerWay {
    fn peer(&self) -> Option<Arc<Peer>> {
        self.connected.all().into_iter().find(|peer| **peer.name() == *self.name)
    }
}

#[async_trait]
impl Transport for PeerWay {
    fn kind(&self) -> &'static str {
        "peer"
    }

    fn capabilities(&self) -> Capabilities {
        Capabilities {
            dials_addresses: true,
            dials_names: true,
            dials_unix: false,
            listens: false,
            half_close: true,
            reset: true,
            encrypted: true,
        }
    }

    async fn dial(&self, request: DialRequest) -> Result<Dialed, DialError> {
        match self.peer() {
            Some(peer) => peer.dial(request).await,
            // Removed since the rules were asked.
            None => Err(DialError::NetworkDown),
        }
    }

    async fn listen(&self, _at: &Destination) -> Result<Box<dyn Listener>, ListenError> {
        Err(ListenError::Unsupported("a peer: listen = \"service:NAME\" offers to peers"))
    }

    fn carries(&self, carried: Carried) -> bool {
        match carried {
            Carried::Udp | Carried::Echo => true,
        }
    }

    async fn flow(&self, request: FlowRequest) -> Result<Box<dyn Flow>, DialError> {
        match self.peer() {
            Some(peer) => peer.flow(request).await,
            // Removed since the rules were asked.
            None => Err(DialError::NetworkDown),
        }
    }
}

/// The overlay as a route's way. A policy that only answers questions has none behind it.
#[derive(Debug)]
pub(super) struct OverlayWay(pub(super) Option<Arc<Overlay>>);

#[async_trait]
impl Transport for OverlayWay {
    fn kind(&self) -> &'static str {
        "overlay"
    }

    fn capabilities(&self) -> Capabilities {
        outsock_transport_overlay::CAPABILITIES
    }

    async fn dial(&self, request: DialRequest) -> Result<Dialed, DialError> {
        match &self.0 {
            Some(overlay) => overlay.dial(request).await,
            None => Err(DialError::NetworkDown),
        }
    }

    async fn listen(&self, _at: &Destination) -> Result<Box<dyn Listener>, ListenError> {
        Err(ListenError::Unsupported("the overlay: listen = \"service:NAME\" offers to peers"))
    }
}

/// What the configuration says, as the overlay wants it.
pub(super) fn settings(fixed: &Fixed, members: Option<&Members>) -> Settings {
    let gate: Arc<dyn Gate> = match members {
        Some(members) => Arc::new(members.clone()),
        None => Arc::new(OpenNetwork(fixed.network.clone())),
    };
    Settings {
        network: fixed.network.clone(),
        gate,
        listen: fixed.listen.clone(),
        external: fixed.external.clone(),
        bootstrap: fixed.bootstrap.clone(),
        supernode: fixed.supernode,
        mdns: fixed.mdns,
    }
}
