//! Peers: other gateways, as the daemon sees them.
//!
//! in: the configuration's identity and peers; out: a transport for each peer, the transport of this
//! gateway's own services, streams of peers that are served. Owner: shared by all policies; one task
//! takes peers' streams, one serves each. Kept: a gateway without `[identity]` has no socket for peers
//! at all. Bounds: those of [`outsock_transport_quic`].
//!
//! | Module | What it holds |
//! |---|---|
//! | `arriving` | a peer's stream, whichever carrier it came by |
//! | `serve` | what becomes of it |
//! | `sessions` | a peer's session of datagrams |
//! | `gate` | who belongs to a private network |
//! | `exits` | peers' connections that leave from here, and their counters |
//! | `way` | a peer as a route's way |

mod arriving;
mod exits;
mod gate;
mod serve;
mod sessions;
mod way;

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use outsock_peer::{Identity, PeerKey};
use outsock_transport::{ListenError, Transport};
use outsock_transport_local::{Local, SessionListener};
use outsock_transport_overlay::{Known, Overlay};
use outsock_transport_quic::{Endpoint, Peer};

pub(crate) use exits::Exits;
use gate::Members;
pub(crate) use serve::serve;
use way::{OverlayWay, PeerWay};

use crate::config::{Config, PeerConfig};

/// See the module.
#[derive(Debug)]
pub(crate) struct Peers {
    endpoint: Option<Arc<Endpoint>>,
    overlay: Option<Arc<Overlay>>,
    members: Option<Members>,
    local: Local,
    connected: Connected,
    pub(crate) exits: Exits,
}

/// The right to be in the network, where that is private.
pub(crate) fn members(config: &Config, key: PeerKey) -> anyhow::Result<Option<Members>> {
    let private = config.overlay.as_ref().and_then(|overlay| overlay.fixed.private.as_ref());
    private.map(|private| Members::load(private, key)).transpose()
}

/// Why the overlay's directory says nothing.
#[derive(Debug, thiserror::Error)]
pub(crate) enum LookupError {
    /// There is none.
    #[error("this gateway is in no overlay: its configuration has no [overlay]")]
    NoOverlay,
    /// No `[[peer]]` is called so.
    #[error("no [[peer]] is called {0:?}, and it is no key: names belong to keys here")]
    UnknownName(String),
    /// Nobody keeps a record, or none that holds.
    #[error("the directory has no record of {0}: it is not in the network, or has just come")]
    NoRecord(String),
}

/// The peers of the policy in force.
#[derive(Clone, Debug, Default)]
pub(crate) struct Connected(Arc<Mutex<Vec<Arc<Peer>>>>);

impl Connected {
    fn all(&self) -> Vec<Arc<Peer>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl Peers {
    /// Opens the socket for peers, where the configuration has an identity.
    pub(crate) fn start(config: &Config) -> anyhow::Result<Arc<Self>> {
        let endpoint = match &config.identity {
            None => None,
            Some(identity) => {
                let identity = Identity::load(&identity.key_file)?;
                let endpoint = Endpoint::start(&identity, config.quic.clone())?;
                tracing::info!(
                    key = %endpoint.key(), at = %endpoint.local_addr()?, "this gateway to its peers"
                );
                Some(Arc::new(endpoint))
            }
        };
        let (overlay, members) = match (&config.overlay, &config.identity) {
            (Some(overlay), Some(identity)) => {
                let identity = Identity::load(&identity.key_file)?;
                let members = members(config, identity.key())?;
                let settings = way::settings(&overlay.fixed, members.as_ref());
                (Some(Arc::new(Overlay::start(&identity, settings)?)), members)
            }
            (None, _) | (_, None) => (None, None),
        };
        Ok(Self::new(config, endpoint, overlay, members))
    }

    /// Without a socket: for questions to a file.
    pub(crate) fn offline(config: &Config) -> Arc<Self> {
        Self::new(config, None, None, None)
    }

    fn new(
        config: &Config,
        endpoint: Option<Arc<Endpoint>>,
        overlay: Option<Arc<Overlay>>,
        members: Option<Members>,
    ) -> Arc<Self> {
        let site = config.identity.as_ref().and_then(|identity| identity.site.as_deref());
        Arc::new(Self {
            endpoint,
            overlay,
            members,
            local: Local::new(site),
            connected: Connected::default(),
            exits: Exits::default(),
        })
    }

    /// From now on these are the peers: the policy that names them comes into force.
    pub(crate) fn set(&self, config: &Config) {
        let private = config.overlay.as_ref().and_then(|overlay| overlay.fixed.private.as_ref());
        if let (Some(members), Some(private)) = (&self.members, private)
            && let Err(error) = members.read_revocations(private)
        {
            tracing::warn!("the revocations stay as they were: {error:#}");
        }
        if let Some(overlay) = &self.overlay {
            let known = |peer: &PeerConfig| Known {
                name: Arc::clone(&peer.settings.name),
                key: peer.settings.key,
            };
            overlay.set_known(config.peers.iter().map(known).collect());
        }
        let Some(endpoint) = &self.endpoint else { return };
        let settings: Vec<_> = config.peers.iter().map(|peer| peer.settings.clone()).collect();
        let peers = endpoint.set_peers(&settings);
        *self.connected.0.lock().unwrap_or_else(PoisonError::into_inner) = peers;
    }

    /// The peers that this gateway has a socket for.
    pub(crate) fn all(&self) -> Vec<Arc<Peer>> {
        self.connected.all()
    }

    /// This gateway's key, if it has one.
    pub(crate) fn key(&self) -> Option<String> {
        self.endpoint.as_ref().map(|endpoint| endpoint.key().to_string())
    }

    /// The service of this gateway that a name means.
    pub(crate) fn service(&self, name: &str) -> Option<String> {
        self.local.service(name).map(str::to_owned)
    }

    /// The services of this gateway's own guests.
    pub(crate) fn local(&self) -> Arc<dyn Transport> {
        Arc::new(self.local.clone())
    }

    /// Listens for sessions of datagrams with a service.
    pub(crate) fn sessions(&self, service: &str) -> Result<SessionListener, ListenError> {
        self.local.listen_datagrams(service)
    }

    /// A peer by its name.
    pub(crate) fn way(&self, name: &str) -> Arc<dyn Transport> {
        Arc::new(PeerWay { name: name.to_owned(), connected: self.connected.clone() })
    }

    /// Gateways that are found by name.
    pub(crate) fn overlay(&self) -> Arc<dyn Transport> {
        Arc::new(OverlayWay(self.overlay.clone()))
    }

    /// How the overlay stands, where there is one.
    pub(crate) async fn overlay_status(&self) -> Option<outsock_transport_overlay::Status> {
        self.overlay.as_ref()?.status().await
    }

    /// What the overlay's directory says about a site, or about a key.
    pub(crate) async fn overlay_lookup(
        &self,
        name: &str,
    ) -> Result<outsock_transport_overlay::Record, LookupError> {
        let overlay = self.overlay.as_ref().ok_or(LookupError::NoOverlay)?;
        let site = Overlay::site_of(name);
        let key = overlay.resolve(site).or_else(|| name.parse().ok());
        let key = key.ok_or_else(|| LookupError::UnknownName(site.to_owned()))?;
        overlay.lookup(&key).await.map_err(|_| LookupError::NoRecord(key.to_string()))
    }

    /// Takes no new streams of peers, and tells them.
    pub(crate) async fn drain(&self) {
        if let Some(endpoint) = &self.endpoint {
            endpoint.drain().await;
        }
    }

    /// Ends the connections to peers; streams have so long to end.
    pub(crate) async fn close(&self, patience: Duration) {
        if let Some(endpoint) = &self.endpoint {
            endpoint.close(patience).await;
        }
        if let Some(overlay) = &self.overlay {
            overlay.close(patience).await;
        }
    }
}
