//! Behaviour: the protocols that a connection of the overlay speaks, composed.
//!
//! in: the settings; out: one libp2p behaviour. Owner: the swarm's task. Kept: protocols carry the
//! network's name where libp2p lets them. Bounds: [`limits`].

use libp2p::connection_limits::{self, ConnectionLimits};
use libp2p::identity::Keypair;
use libp2p::swarm::NetworkBehaviour;
use libp2p::swarm::behaviour::toggle::Toggle;
use libp2p::{autonat, dcutr, identify, kad, mdns, ping, relay};
use tokio::sync::mpsc;

use crate::directory;
use crate::limits;
use crate::network::protocol;
use crate::settings::Settings;
use crate::streams::{Arrived, Streams};

/// See the module.
#[derive(NetworkBehaviour)]
pub(crate) struct Behaviour {
    pub(crate) limits: connection_limits::Behaviour,
    pub(crate) ping: ping::Behaviour,
    pub(crate) identify: identify::Behaviour,
    pub(crate) kad: kad::Behaviour<kad::store::MemoryStore>,
    pub(crate) relay: relay::Behaviour,
    pub(crate) client: relay::client::Behaviour,
    pub(crate) dcutr: dcutr::Behaviour,
    pub(crate) prober: autonat::v2::client::Behaviour,
    pub(crate) probed: autonat::v2::server::Behaviour,
    pub(crate) mdns: Toggle<mdns::tokio::Behaviour>,
    pub(crate) streams: Streams,
}

impl Behaviour {
    pub(crate) fn new(
        keypair: &Keypair,
        settings: &Settings,
        client: relay::client::Behaviour,
        arrived: mpsc::Sender<Arrived>,
    ) -> std::io::Result<Self> {
        let own = keypair.public().to_peer_id();
        let network = &settings.network;
        let mdns = match settings.mdns {
            true => Some(mdns::tokio::Behaviour::new(mdns::Config::default(), own)?),
            false => None,
        };
        let identify = identify::Config::new(protocol(network, "1").to_string(), keypair.public())
            .with_agent_version("outsock".to_owned())
            .with_push_listen_addr_updates(true);
        let ping = ping::Config::new()
            .with_interval(limits::PING_INTERVAL)
            .with_timeout(limits::PING_TIMEOUT);
        Ok(Self {
            limits: connection_limits::Behaviour::new(connection_limits()),
            ping: ping::Behaviour::new(ping),
            identify: identify::Behaviour::new(identify),
            kad: directory::behaviour(own, network),
            relay: relay::Behaviour::new(own, relay_limits()),
            client,
            dcutr: dcutr::Behaviour::new(own),
            prober: autonat::v2::client::Behaviour::default(),
            probed: autonat::v2::server::Behaviour::default(),
            mdns: mdns.into(),
            streams: Streams::new(protocol(network, "stream/1"), arrived),
        })
    }
}

fn connection_limits() -> ConnectionLimits {
    ConnectionLimits::default()
        .with_max_pending_incoming(Some(limits::HANDSHAKES_MAX))
        .with_max_pending_outgoing(Some(limits::HANDSHAKES_MAX))
        .with_max_established(Some(limits::CONNECTIONS_MAX))
        .with_max_established_per_peer(Some(limits::CONNECTIONS_PER_PEER_MAX))
}

/// libp2p's defaults (128 KiB and 2 minutes per circuit) are for introductions, not for bytes.
fn relay_limits() -> relay::Config {
    relay::Config {
        max_reservations: limits::RESERVATIONS_MAX,
        max_reservations_per_peer: limits::RESERVATIONS_PER_PEER_MAX,
        reservation_duration: limits::RESERVATION_TIME,
        max_circuits: limits::CIRCUITS_MAX,
        max_circuits_per_peer: limits::CIRCUITS_PER_PEER_MAX,
        max_circuit_duration: limits::CIRCUIT_TIME_MAX,
        // No limit of bytes; 0 is none.
        max_circuit_bytes: 0,
        ..relay::Config::default()
    }
}
