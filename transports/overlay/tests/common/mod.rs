//! What the tests share: gateways of an overlay on loopback, and services behind them.
#![allow(dead_code, unreachable_pub, reason = "each test file uses a part of it")]
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::collections::HashMap;
use std::future::Future;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use outsock_peer::{Bound, Identity, PeerKey, Refusal, Target};
use outsock_transport::{
    AcceptError, Capabilities, Destination, DialError, DialRequest, Dialed, Errno, Inbound,
    ListenError, Listener, Stream, Transport,
};
use outsock_transport_overlay::{Address, Incoming, Known, OpenNetwork, Overlay, Settings, Wish};
use tokio::sync::mpsc;

/// Longer than anything here takes, on a machine that does much else.
pub const PATIENCE: Duration = Duration::from_secs(60);

pub const TCP: &str = "/ip4/127.0.0.1/tcp/0";
pub const QUIC: &str = "/ip4/127.0.0.1/udp/0/quic-v1";

pub fn settings(listen: &[&str]) -> Settings {
    Settings {
        network: "test".to_owned(),
        gate: Arc::new(OpenNetwork("test".to_owned())),
        listen: listen.iter().map(|at| at.parse().unwrap()).collect(),
        external: Vec::new(),
        bootstrap: Vec::new(),
        supernode: Wish::Never,
        mdns: false,
    }
}

/// An identity of a number.
pub fn identity(number: u8) -> Identity {
    Identity::from_seed([number; 32]).unwrap()
}

/// A gateway whose streams are served by [`Doors`].
pub struct Site {
    pub overlay: Arc<Overlay>,
    pub doors: Doors,
    pub key: PeerKey,
}

impl Site {
    pub fn start(number: u8, settings: Settings) -> Self {
        let identity = identity(number);
        let overlay = Arc::new(Overlay::start(&identity, settings).unwrap());
        let doors = Doors::default();
        let serve = (Arc::clone(&overlay), doors.clone());
        tokio::spawn(async move {
            while let Some(incoming) = serve.0.accept().await {
                tokio::spawn(serve.1.clone().serve(incoming));
            }
        });
        Self { overlay, doors, key: identity.key() }
    }

    /// Where it listens, with its key, once it does.
    pub async fn addresses(&self, count: usize) -> Vec<Address> {
        let listens = async || {
            let status = self.overlay.status().await.unwrap();
            (status.listen.len() >= count).then_some(status.listen)
        };
        let listen = eventually("it listens", listens).await;
        listen.iter().map(|at| format!("{at}/p2p/{}", self.key).parse().unwrap()).collect()
    }

    pub fn knows(&self, name: &str, other: &Self) {
        self.overlay.set_known(vec![Known { name: name.into(), key: other.key }]);
    }
}

/// Asks until there is an answer.
pub async fn eventually<T, F: Future<Output = Option<T>>>(
    what: &str,
    mut ask: impl FnMut() -> F,
) -> T {
    let asking = async {
        loop {
            match ask().await {
                Some(answer) => return answer,
                None => tokio::time::sleep(Duration::from_millis(20)).await,
            }
        }
    };
    tokio::time::timeout(PATIENCE, asking).await.unwrap_or_else(|_| panic!("never: {what}"))
}

/// Two gateways; `far` is called so by `near`.
pub async fn pair(listen: &str) -> (Site, Site) {
    let far = Site::start(2, settings(&[listen]));
    let bootstrap = far.addresses(1).await;
    let near = Site::start(1, Settings { bootstrap, ..settings(&[listen]) });
    near.knows("far", &far);
    (near, far)
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
        "overlay services"
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
