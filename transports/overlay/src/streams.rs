//! Streams: the overlay's own behaviour: guests' streams over chosen connections.
//!
//! in:  orders to open a stream on one connection; peers' streams
//! out: [`Carried`] streams: ours to who ordered them, peers' into a bounded queue
//! owner: the swarm; a handler per connection
//! keeps: many streams are opened at the same time; a stream that finds no place is refused with a
//!        reason, never dropped without a word; our own streams never reach the number at which yamux
//!        ends the whole connection
//! bound: [`limits::STREAMS_PER_SIDE_MAX`] per connection, [`limits::INCOMING_WAITING_MAX`],
//!        [`limits::NEGOTIATION_TIMEOUT`]

use std::collections::{HashMap, VecDeque};
use std::convert::Infallible;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use libp2p::core::transport::PortUse;
use libp2p::core::upgrade::ReadyUpgrade;
use libp2p::core::{Endpoint, Multiaddr};
use libp2p::swarm::handler::{
    ConnectionEvent, DialUpgradeError, FullyNegotiatedInbound, FullyNegotiatedOutbound,
};
use libp2p::swarm::{
    ConnectionDenied, ConnectionHandler, ConnectionHandlerEvent, ConnectionId, FromSwarm,
    NetworkBehaviour, NotifyHandler, StreamUpgradeError, SubstreamProtocol, THandler,
    THandlerInEvent, THandlerOutEvent, ToSwarm,
};
use libp2p::{PeerId, StreamProtocol};
use outsock_transport::DialError;
use tokio::sync::{Semaphore, mpsc, oneshot};

use crate::carried::{Carried, Counted};
use crate::incoming::refuse_in_a_hurry;
use crate::limits;

type Opened = oneshot::Sender<Result<Carried, DialError>>;

/// A peer's stream, before its header.
#[derive(Debug)]
pub(crate) struct Arrived {
    pub(crate) peer: PeerId,
    pub(crate) connection: ConnectionId,
    pub(crate) stream: Carried,
}

/// The behaviour.
#[derive(Debug)]
pub(crate) struct Streams {
    protocol: StreamProtocol,
    arrived: mpsc::Sender<Arrived>,
    refusals: Arc<Semaphore>,
    live: HashMap<ConnectionId, Counted>,
    orders: VecDeque<(PeerId, ConnectionId, Order)>,
    waker: Option<Waker>,
}

/// To a handler.
#[derive(Debug)]
pub(crate) struct Order {
    reply: Opened,
}

impl Streams {
    pub(crate) fn new(protocol: StreamProtocol, arrived: mpsc::Sender<Arrived>) -> Self {
        Self {
            protocol,
            arrived,
            refusals: Arc::new(Semaphore::new(limits::REFUSALS_MAX)),
            live: HashMap::new(),
            orders: VecDeque::new(),
            waker: None,
        }
    }

    /// Opens a stream on a connection.
    pub(crate) fn open(&mut self, peer: PeerId, connection: ConnectionId, reply: Opened) {
        self.orders.push_back((peer, connection, Order { reply }));
        if let Some(waker) = self.waker.take() {
            waker.wake();
        }
    }

    /// Streams of a connection that are not over.
    pub(crate) fn live(&self, connection: ConnectionId) -> usize {
        // The behaviour and the handler hold one each.
        self.live.get(&connection).map_or(0, |live| live.count().saturating_sub(2))
    }

    fn handler(&mut self, peer: PeerId, connection: ConnectionId) -> Handler {
        let live = Counted::default();
        self.live.insert(connection, live.clone());
        Handler {
            peer,
            connection,
            protocol: self.protocol.clone(),
            arrived: self.arrived.clone(),
            refusals: Arc::clone(&self.refusals),
            live,
            ours: Counted::default(),
            orders: VecDeque::new(),
        }
    }
}

impl NetworkBehaviour for Streams {
    type ConnectionHandler = Handler;
    type ToSwarm = Infallible;

    fn handle_established_inbound_connection(
        &mut self,
        connection: ConnectionId,
        peer: PeerId,
        _local: &Multiaddr,
        _remote: &Multiaddr,
    ) -> Result<THandler<Self>, ConnectionDenied> {
        Ok(self.handler(peer, connection))
    }

    fn handle_established_outbound_connection(
        &mut self,
        connection: ConnectionId,
        peer: PeerId,
        _address: &Multiaddr,
        _role: Endpoint,
        _port: PortUse,
    ) -> Result<THandler<Self>, ConnectionDenied> {
        Ok(self.handler(peer, connection))
    }

    fn on_swarm_event(&mut self, event: FromSwarm<'_>) {
        if let FromSwarm::ConnectionClosed(closed) = event {
            self.live.remove(&closed.connection_id);
        }
    }

    fn on_connection_handler_event(
        &mut self,
        _peer: PeerId,
        _connection: ConnectionId,
        event: THandlerOutEvent<Self>,
    ) {
        match event {}
    }

    fn poll(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<ToSwarm<Self::ToSwarm, THandlerInEvent<Self>>> {
        match self.orders.pop_front() {
            Some((peer_id, connection, event)) => Poll::Ready(ToSwarm::NotifyHandler {
                peer_id,
                handler: NotifyHandler::One(connection),
                event,
            }),
            None => {
                self.waker = Some(cx.waker().clone());
                Poll::Pending
            }
        }
    }
}

/// One connection's part.
#[derive(Debug)]
pub(crate) struct Handler {
    peer: PeerId,
    connection: ConnectionId,
    protocol: StreamProtocol,
    arrived: mpsc::Sender<Arrived>,
    refusals: Arc<Semaphore>,
    live: Counted,
    /// Only those that we opened.
    ours: Counted,
    orders: VecDeque<Order>,
}

impl Handler {
    fn accept(&self, stream: libp2p::Stream) {
        let stream = Carried::new(stream, vec![self.live.clone()]);
        let arrived = Arrived { peer: self.peer, connection: self.connection, stream };
        let theirs = self.live.count().saturating_sub(self.ours.count());
        if theirs > limits::STREAMS_PER_SIDE_MAX + 2 {
            return refuse_in_a_hurry(&self.refusals, arrived.stream, "too many streams");
        }
        if let Err(full) = self.arrived.try_send(arrived) {
            let arrived = full.into_inner();
            let text = "the gateway has too many streams to look at";
            refuse_in_a_hurry(&self.refusals, arrived.stream, text);
        }
    }
}

impl ConnectionHandler for Handler {
    type FromBehaviour = Order;
    type ToBehaviour = Infallible;
    type InboundProtocol = ReadyUpgrade<StreamProtocol>;
    type OutboundProtocol = ReadyUpgrade<StreamProtocol>;
    type InboundOpenInfo = ();
    type OutboundOpenInfo = (Opened, Counted);

    fn listen_protocol(&self) -> SubstreamProtocol<Self::InboundProtocol> {
        SubstreamProtocol::new(ReadyUpgrade::new(self.protocol.clone()), ())
            .with_timeout(limits::NEGOTIATION_TIMEOUT)
    }

    fn connection_keep_alive(&self) -> bool {
        !self.orders.is_empty()
    }

    fn poll(
        &mut self,
        _cx: &mut Context<'_>,
    ) -> Poll<
        ConnectionHandlerEvent<Self::OutboundProtocol, Self::OutboundOpenInfo, Self::ToBehaviour>,
    > {
        while let Some(order) = self.orders.pop_front() {
            if order.reply.is_closed() {
                continue;
            }
            if self.ours.count() > limits::STREAMS_PER_SIDE_MAX {
                let error = DialError::OutOfResources("streams to this peer");
                let _ = order.reply.send(Err(error));
                continue;
            }
            let upgrade = ReadyUpgrade::new(self.protocol.clone());
            let protocol = SubstreamProtocol::new(upgrade, (order.reply, self.ours.clone()))
                .with_timeout(limits::NEGOTIATION_TIMEOUT);
            return Poll::Ready(ConnectionHandlerEvent::OutboundSubstreamRequest { protocol });
        }
        Poll::Pending
    }

    fn on_behaviour_event(&mut self, order: Order) {
        self.orders.push_back(order);
    }

    fn on_connection_event(
        &mut self,
        event: ConnectionEvent<
            '_,
            Self::InboundProtocol,
            Self::OutboundProtocol,
            Self::InboundOpenInfo,
            Self::OutboundOpenInfo,
        >,
    ) {
        match event {
            ConnectionEvent::FullyNegotiatedInbound(FullyNegotiatedInbound {
                protocol: stream,
                ..
            }) => self.accept(stream),
            ConnectionEvent::FullyNegotiatedOutbound(FullyNegotiatedOutbound {
                protocol: stream,
                info: (reply, ours),
            }) => {
                let _ = reply.send(Ok(Carried::new(stream, vec![self.live.clone(), ours])));
            }
            ConnectionEvent::DialUpgradeError(DialUpgradeError { info: (reply, _), error }) => {
                let error = match error {
                    StreamUpgradeError::Timeout => DialError::TimedOut,
                    StreamUpgradeError::NegotiationFailed => {
                        DialError::PeerMisbehaved("it takes no streams of this network".to_owned())
                    }
                    StreamUpgradeError::Io(error) => DialError::from_io(&error),
                };
                let _ = reply.send(Err(error));
            }
            // Nothing of ours depends on these, and the list may grow.
            _ => {}
        }
    }
}
