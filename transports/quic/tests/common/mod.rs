//! What the tests share: gateways on loopback, and services behind them.
#![allow(dead_code, unreachable_pub, reason = "each test file uses a part of it")]
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use outsock_peer::{Bound, Identity, PeerKey, Refusal, Target};
use outsock_transport::{
    AcceptError, Capabilities, Destination, DialError, DialRequest, Dialed, Errno, Inbound,
    ListenError, Listener, Stream, Transport,
};
use outsock_transport_quic::{Endpoint, Incoming, Peer, PeerSettings, Settings};
use tokio::sync::mpsc;

/// Longer than anything here takes, on a machine that does much else.
pub const PATIENCE: Duration = Duration::from_secs(60);

pub fn loopback(port: u16) -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], port))
}

pub fn settings() -> Settings {
    Settings { listen: loopback(0), ..Settings::default() }
}

/// An identity of a number.
pub fn identity(number: u8) -> Identity {
    Identity::from_seed([number; 32]).unwrap()
}

/// A gateway whose streams are served by [`Doors`].
pub struct Site {
    pub endpoint: Arc<Endpoint>,
    pub doors: Doors,
    pub key: PeerKey,
    pub address: SocketAddr,
}

impl Site {
    pub fn start(number: u8, settings: Settings) -> Self {
        let identity = identity(number);
        let endpoint = Arc::new(Endpoint::start(&identity, settings).unwrap());
        let doors = Doors::default();
        let serve = (Arc::clone(&endpoint), doors.clone());
        tokio::spawn(async move {
            while let Some(incoming) = serve.0.accept().await {
                tokio::spawn(serve.1.clone().serve(incoming));
            }
        });
        let address = endpoint.local_addr().unwrap();
        Self { endpoint, doors, key: identity.key(), address }
    }

    /// Makes `other` a peer that is dialled.
    pub fn dials(&self, name: &str, other: &Self) -> Arc<Peer> {
        let settings = PeerSettings::new(name, other.key, &[other.address.to_string()]);
        self.endpoint.set_peers(&[settings]).remove(0)
    }

    /// Makes `other` a peer that dials us.
    pub fn expects(&self, name: &str, other: &Self) -> Arc<Peer> {
        self.endpoint.set_peers(&[PeerSettings::new(name, other.key, &[])]).remove(0)
    }
}

/// Two gateways; `far` is called so by `near`, and dialled.
pub fn pair() -> (Site, Site, Arc<Peer>) {
    pair_with(settings(), settings())
}

pub fn pair_with(near: Settings, far: Settings) -> (Site, Site, Arc<Peer>) {
    let (near, far) = (Site::start(1, near), Site::start(2, far));
    far.expects("near", &near);
    let peer = near.dials("far", &far);
    (near, far, peer)
}

/// Services by name, as listeners of a transport.
#[derive(Clone, Debug, Default)]
pub struct Doors {
    open: Arc<Mutex<HashMap<String, mpsc::Sender<Inbound>>>>,
    silent: Arc<Mutex<Vec<Incoming>>>,
}

impl Doors {
    async fn serve(self, incoming: Incoming) {
        let Target::Service { name, .. } = incoming.open().target.clone() else {
            return incoming.refuse(Refusal::new(Errno::EACCES, "only services")).await;
        };
        match name.as_str() {
            "silent" => return self.silent.lock().unwrap().push(incoming),
            "away" => return incoming.refuse(Refusal::of(&DialError::HostUnreachable)).await,
            _ => {}
        }
        let door = self.open.lock().unwrap().get(&name).cloned();
        let Some(door) = door.filter(|door| !door.is_closed()) else {
            return incoming.refuse(Refusal::of(&DialError::Refused)).await;
        };
        let Ok(stream) = incoming.accept(Bound::default()).await else { return };
        let inbound = Inbound { stream: Stream::Async(stream), peer: None, local: None };
        // A listener that closes meanwhile resets it.
        let _ = door.send(inbound).await;
    }
}

#[derive(Debug)]
struct Door {
    at: Destination,
    inbound: mpsc::Receiver<Inbound>,
}

#[async_trait]
impl Transport for Doors {
    fn kind(&self) -> &'static str {
        "quic services"
    }

    fn capabilities(&self) -> Capabilities {
        Capabilities {
            dials_addresses: false,
            dials_names: false,
            dials_unix: false,
            listens: true,
            half_close: true,
            reset: true,
            encrypted: true,
        }
    }

    async fn dial(&self, _request: DialRequest) -> Result<Dialed, DialError> {
        Err(DialError::UnsupportedDestination("dials"))
    }

    async fn listen(&self, at: &Destination) -> Result<Box<dyn Listener>, ListenError> {
        let Destination::Name { name, .. } = at else {
            return Err(ListenError::Unsupported("all but names"));
        };
        let service = name.split('.').next().unwrap_or_default().to_owned();
        let (sender, inbound) = mpsc::channel(1024);
        self.open.lock().unwrap().insert(service, sender);
        Ok(Box::new(Door { at: at.clone(), inbound }))
    }
}

#[async_trait]
impl Listener for Door {
    fn local(&self) -> Destination {
        self.at.clone()
    }

    async fn accept(&mut self) -> Result<Inbound, AcceptError> {
        self.inbound.recv().await.ok_or(AcceptError::Ended(Errno::ECONNABORTED))
    }
}

/// `SERVICE.far.peer`.
pub fn service(name: &str) -> Destination {
    Destination::Name { name: format!("{name}.far.peer"), port: 7 }
}

pub fn request(to: Destination) -> DialRequest {
    DialRequest { timeout: PATIENCE, ..DialRequest::to(to) }
}
