//! Events: what libp2p tells the node.
//!
//! in: swarm events; out: changes of the table, answers to who waits. Owner: the node's task. Kept: the
//! table has exactly the connections that stand. Bound: one event at a time.

use std::time::Instant;

use libp2p::core::ConnectedPoint;
use libp2p::swarm::{ConnectionId, SwarmEvent};
use libp2p::{Multiaddr, PeerId, identify, kad, mdns, ping};

use super::{Node, of_dial};
use crate::behaviour::BehaviourEvent;
use crate::limits;
use crate::table::{Connection, relay_of};

impl Node {
    pub(super) fn event(&mut self, event: SwarmEvent<BehaviourEvent>) {
        match event {
            SwarmEvent::Behaviour(event) => self.behaviour(event),
            SwarmEvent::ConnectionEstablished { peer_id, connection_id, endpoint, .. } => {
                self.established(peer_id, connection_id, &endpoint);
            }
            SwarmEvent::ConnectionClosed { peer_id, connection_id, cause, .. } => {
                let is_last = self.table.remove(&peer_id, connection_id);
                tracing::info!(peer = %peer_id, is_last, ?cause, "overlay: a connection ended");
                if is_last {
                    self.reach.disconnected(&peer_id);
                }
            }
            SwarmEvent::OutgoingConnectionError { peer_id: Some(peer), error, .. } => {
                tracing::debug!(%peer, %error, "overlay: cannot connect");
                if self.table.best(&peer).is_none() {
                    self.answer(&peer, &of_dial(&error));
                }
            }
            SwarmEvent::IncomingConnectionError { send_back_addr, error, .. } => {
                // Strangers' doing: at debug level, for anyone can cause it.
                tracing::debug!(from = %send_back_addr, %error, "overlay: not let in");
            }
            SwarmEvent::NewListenAddr { address, .. } => self.listens(address),
            SwarmEvent::ListenerClosed { listener_id, reason, .. } => {
                self.reach.listener_closed(listener_id, &reason, Instant::now());
            }
            SwarmEvent::ExternalAddrConfirmed { address } => {
                tracing::info!(%address, "overlay: others can dial this gateway");
            }
            // Nothing depends on the others, and the list may grow.
            _ => {}
        }
    }

    fn behaviour(&mut self, event: BehaviourEvent) {
        match event {
            BehaviourEvent::Ping(event) => self.pinged(&event),
            BehaviourEvent::Identify(identify::Event::Received { peer_id, info, .. }) => {
                self.identified(peer_id, &info);
            }
            BehaviourEvent::Kad(event) => self.kad(event),
            BehaviourEvent::Mdns(mdns::Event::Discovered(found)) => {
                for (peer, address) in found {
                    self.swarm.add_peer_address(peer, address.clone());
                    self.dial_if_away(peer, vec![address]);
                }
            }
            BehaviourEvent::Prober(event) => self.probed(&event),
            BehaviourEvent::Dcutr(event) => match event.result {
                Ok(_) => {
                    tracing::info!(peer = %event.remote_peer_id, "overlay: direct from now on")
                }
                Err(error) => {
                    tracing::info!(peer = %event.remote_peer_id, %error, "overlay: stays relayed");
                }
            },
            // The rest is libp2p's own business.
            _ => {}
        }
    }

    fn established(&mut self, peer: PeerId, id: ConnectionId, endpoint: &ConnectedPoint) {
        let connection = Connection::new(id, endpoint);
        tracing::info!(
            %peer, carrier = %connection.carrier, relayed = connection.through.is_some(),
            "overlay: connected"
        );
        self.table.add(peer, connection);
        self.connected(&peer);
    }

    /// libp2p's ping only tells: who does not answer is cut here.
    fn pinged(&mut self, event: &ping::Event) {
        let Some(connection) = self.table.find(&event.peer, event.connection) else { return };
        match &event.result {
            Ok(rtt) => {
                connection.rtt = Some(*rtt);
                connection.failures = 0;
            }
            Err(ping::Failure::Unsupported) => {}
            Err(failure) => {
                connection.failures += 1;
                if connection.failures >= limits::PING_FAILURES_MAX {
                    tracing::warn!(peer = %event.peer, %failure, "overlay: does not answer: cut");
                    self.swarm.close_connection(event.connection);
                }
            }
        }
    }

    fn identified(&mut self, peer: PeerId, info: &identify::Info) {
        let directory = self.swarm.behaviour().kad.protocol_names().first().cloned();
        let serves = |name: &str| info.protocols.iter().any(|protocol| protocol.as_ref() == name);
        let direct = |address: &&Multiaddr| relay_of(address).is_none();
        let addresses: Vec<_> = info.listen_addrs.iter().filter(direct).cloned().collect();
        if directory.is_some_and(|name| serves(name.as_ref())) {
            for address in addresses.iter().take(limits::ADDRESSES_MAX) {
                self.swarm.behaviour_mut().kad.add_address(&peer, address.clone());
            }
        }
        let is_supernode = serves(libp2p::relay::HOP_PROTOCOL_NAME.as_ref());
        self.reach.identified(peer, is_supernode, addresses);
    }

    fn kad(&mut self, event: kad::Event) {
        match event {
            kad::Event::OutboundQueryProgressed {
                id,
                result: kad::QueryResult::PutRecord(outcome),
                ..
            } => self.published(id, outcome.map(|_| ()).map_err(|error| error.to_string())),
            kad::Event::OutboundQueryProgressed { id, result, step, .. } => {
                if self.lookups.progress(id, result, step.last)
                    && let Some(mut query) = self.swarm.behaviour_mut().kad.query_mut(&id)
                {
                    query.finish();
                }
            }
            kad::Event::InboundRequest {
                request: kad::InboundRequest::PutRecord { record: Some(record), source, .. },
            } => self.put(source, record),
            // Routing is kad's own.
            _ => {}
        }
    }

    pub(super) fn dial_if_away(&mut self, peer: PeerId, addresses: Vec<Multiaddr>) {
        use libp2p::swarm::dial_opts::{DialOpts, PeerCondition};
        if self.table.best(&peer).is_some() || peer == *self.swarm.local_peer_id() {
            return;
        }
        let options = DialOpts::peer_id(peer)
            .condition(PeerCondition::DisconnectedAndNotDialing)
            .addresses(addresses)
            .extend_addresses_through_behaviour()
            .build();
        if let Err(error) = self.swarm.dial(options) {
            tracing::trace!(%peer, %error, "overlay: not dialled");
        }
    }
}
