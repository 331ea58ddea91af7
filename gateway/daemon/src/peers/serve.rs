//! Serve: what becomes of a stream that a peer opens.
//!
//! in: a header; out: a connection or a session of datagrams to a guest's service, or to where the
//! peer's exit rules allow, or a refusal with a reason. Owner: one task per stream; it ends with the stream. Kept: what a peer may
//! not use is refused by name before anything is dialled; an exit dials only addresses that the rules
//! were asked about, by the code that asks them for guests; success is said when the far socket has
//! connected. Bounds: the peer's streams; the dial's timeout.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use outsock_core::route::{Protocol, canonical, canonical_name};
use outsock_peer::{Bound, Open, Refusal, StreamKind, Target};
use outsock_transport::{Carried, DialError, Flow, Inbound, Origin, Stream};
use outsock_vmrpc::Errno;
use outsock_vmrpc::socket::Asserted;

use super::arriving::Arriving;
use super::exits::PeerCounts;
use super::sessions::relay;
use crate::choose::{Asker, Wanted, choose};
use crate::config::PeerConfig;
use crate::datagram_module::far::{self, Wish};
use crate::dial::{Terms, dial};
use crate::policy::Policy;
use crate::pump::pump;
use crate::socket_module::Sockets;

/// Serves the peers' streams until the endpoint ends.
pub(crate) async fn serve(sockets: Arc<Sockets>) {
    let policy = sockets.policy();
    let (endpoint, overlay) = (policy.peers.endpoint.clone(), policy.peers.overlay.clone());
    drop(policy);
    let by_quic = async {
        let Some(endpoint) = endpoint else { return };
        while let Some(incoming) = endpoint.accept().await {
            tokio::spawn(one(Arc::clone(&sockets), Arriving::Quic(incoming)));
        }
    };
    let by_overlay = async {
        let Some(overlay) = overlay else { return };
        while let Some(incoming) = overlay.accept().await {
            tokio::spawn(one(Arc::clone(&sockets), Arriving::Overlay(incoming)));
        }
    };
    tokio::join!(by_quic, by_overlay);
}

async fn one(sockets: Arc<Sockets>, mut incoming: Arriving) {
    let policy = sockets.policy();
    let peer = incoming.name(&policy);
    // Gateways that no [[peer]] names share one count, so that there are never more than peers.
    let counted = incoming.config(&policy).map_or(&*peer, PeerConfig::name);
    let counts = policy.peers.exits.of(counted);
    let cancelled = incoming.cancelled();
    let course = Course { sockets: &sockets, policy: &policy, peer: &peer, counts: &counts };
    let decided = tokio::select! {
        decided = course.decide(&incoming) => decided,
        // Nobody waits any more.
        () = cancelled => return,
    };
    match decided {
        Ok(ready) => course.connect(incoming, ready).await,
        Err(refusal) => {
            course.report(&incoming, &refusal);
            incoming.refuse(refusal).await;
        }
    }
}

/// What the rules are asked for.
fn protocol(kind: StreamKind) -> Protocol {
    match kind {
        StreamKind::Stream => Protocol::Tcp,
        StreamKind::Datagrams => Protocol::Udp,
        StreamKind::Echo => Protocol::Icmp,
    }
}

/// What a session carries; `None` = it is a stream.
fn carried(kind: StreamKind) -> Option<Carried> {
    match kind {
        StreamKind::Stream => None,
        StreamKind::Datagrams => Some(Carried::Udp),
        StreamKind::Echo => Some(Carried::Echo),
    }
}

struct Course<'a> {
    sockets: &'a Arc<Sockets>,
    policy: &'a Policy,
    peer: &'a str,
    counts: &'a PeerCounts,
}

/// What a peer's stream is about to be connected with.
enum Ready {
    /// A place in the backlog of a service.
    Service { place: outsock_transport_local::Place, name: String },
    /// A far socket that has connected.
    Exit { reached: Box<crate::dial::Reached>, rule: String, far: SocketOrName },
    /// Datagrams: to a service, or out of here.
    Flow { far: Arc<dyn Flow>, rule: String, via: Arc<str> },
}

type SocketOrName = Option<SocketAddr>;

impl Course<'_> {
    async fn decide(&self, incoming: &Arriving) -> Result<Ready, Refusal> {
        if self.sockets.is_draining() {
            return Err(Refusal::new(Errno::ENETDOWN, "the gateway is about to end"));
        }
        let config = incoming
            .config(self.policy)
            .ok_or_else(|| Refusal::new(Errno::EACCES, "no such peer any more"))?;
        let open = incoming.open();
        if carried(open.kind).is_some() && !incoming.carries_datagrams() {
            let reason = "the overlay carries no datagrams: peers have them over QUIC";
            return Err(Refusal::new(Errno::EOPNOTSUPP, reason));
        }
        match &open.target {
            Target::Service { name, .. } => self.service(config, open, name).await,
            Target::Name { name, port } => self.exit(config, open, Some(name), None, *port).await,
            Target::Address(address) => {
                let ip = canonical(address.ip());
                self.exit(config, open, None, Some(ip), address.port()).await
            }
        }
    }

    async fn service(
        &self,
        config: &PeerConfig,
        open: &Open,
        name: &str,
    ) -> Result<Ready, Refusal> {
        if !config.may_use(name) {
            let reason = format!("peer {} may not use service {name}", self.peer);
            return Err(Refusal::new(Errno::EACCES, reason));
        }
        let protocol = protocol(open.kind);
        let is_offered =
            self.policy.config.publishes.iter().any(|publish| publish.offers(name, protocol));
        if !is_offered {
            let reason = format!("no [[publish]] offers a service {name} ({protocol})");
            return Err(Refusal::new(Errno::EHOSTUNREACH, reason));
        }
        if let Some(carried) = carried(open.kind) {
            // Whatever the other side calls itself: no address of this host, least of all loopback.
            let client = self.sockets.stand_in(&open.origin, self.peer);
            let pipe = self.policy.peers.local.open(name, carried, client);
            let far = Arc::new(pipe.map_err(|error| Refusal::of(&error))?);
            let rule = format!("service {name}");
            return Ok(Ready::Flow { far, rule, via: "local".into() });
        }
        let place = self.policy.peers.local.reserve(name);
        let place = tokio::time::timeout(self.policy.config.dial_timeout, place).await;
        let place =
            place.unwrap_or(Err(DialError::TimedOut)).map_err(|error| Refusal::of(&error))?;
        Ok(Ready::Service { place, name: name.to_owned() })
    }

    async fn exit(
        &self,
        config: &PeerConfig,
        open: &Open,
        name: Option<&str>,
        address: Option<IpAddr>,
        port: u16,
    ) -> Result<Ready, Refusal> {
        let name = match name {
            None => None,
            Some(name) => Some(
                canonical_name(name).ok_or_else(|| Refusal::new(Errno::EHOSTUNREACH, "no name"))?,
            ),
        };
        let asserted = Asserted::default();
        let asker = Asker::Peer(config);
        let protocol = protocol(open.kind);
        let wanted = Wanted { asker, asserted: &asserted, protocol, name, address, port };
        let chosen = choose(self.policy, &self.sockets.own, &wanted).await.map_err(|refused| {
            let rule = asker.rule_name(self.policy, refused.rule);
            let reason = format!("peer {} may not go there: {rule}", self.peer);
            Refusal::new(refused.errno, reason)
        })?;
        let origin = Origin {
            guest: Some(format!("{}.{}", open.origin, self.peer).into()),
            trace: open.trace,
            hops: open.hops,
            address: self.sockets.stand_in(&open.origin, self.peer),
        };
        let rule = asker.rule_name(self.policy, Some(chosen.rule)).to_owned();
        let way = self.policy.way(chosen.way);
        if let Some(carried) = carried(open.kind) {
            let wish = Wish { cid: 0, carried, origin: &origin, socket: None };
            let reached = far::open(way, &chosen, wish).await;
            let reached = reached.map_err(|error| Refusal::of(&error))?;
            return Ok(Ready::Flow { far: reached.flow, rule, via: reached.transport });
        }
        let terms = Terms {
            // No guest has it: groups judge their members for all peers together.
            cid: 0,
            source: None,
            timeout: self.policy.config.dial_timeout,
            options: &[],
            encryption: None,
            arguments: None,
            origin: &origin,
        };
        let way = way.ok_or_else(|| Refusal::of(&DialError::NetworkUnreachable))?;
        let reached = dial(way, &chosen, terms).await.map_err(|error| Refusal::of(&error))?;
        let far = match &reached.peer {
            outsock_transport::Destination::Address(address) => Some(*address),
            outsock_transport::Destination::Name { .. }
            | outsock_transport::Destination::Unix(_) => None,
        };
        Ok(Ready::Exit { reached: Box::new(reached), rule, far })
    }

    /// Says yes, and moves bytes until the connection ends.
    async fn connect(&self, incoming: Arriving, ready: Ready) {
        let (origin, to) = (incoming.open().origin.clone(), incoming.open().target.to_string());
        let trace = incoming.open().trace;
        tracing::debug!(peer = self.peer, origin, to, trace, "a peer's stream is connected");
        match ready {
            Ready::Service { place, name } => {
                // Whatever the other side calls itself: no address of this host, least of all loopback.
                let client = self.sockets.stand_in(&origin, self.peer);
                let Ok(stream) = incoming.accept(Bound::default()).await else { return };
                self.counts.served.fetch_add(1, Relaxed);
                tracing::debug!(peer = self.peer, service = name, "a guest's listener gets it");
                place.put(Inbound { stream: Stream::Async(stream), peer: client, local: None });
            }
            Ready::Exit { reached, rule, far } => {
                let bound = Bound { local: reached.dialed.local, peer: far };
                let listed =
                    self.policy.peers.exits.add(self.peer, &origin, to, &rule, &reached.transport);
                let Ok(far) = reached.dialed.stream.into_async() else { return };
                let Ok(near) = incoming.accept(bound).await else { return };
                pump(near, far, None).await;
                drop(listed);
            }
            Ready::Flow { far, rule, via } => {
                let listed = self.policy.peers.exits.add(self.peer, &origin, to, &rule, &via);
                let Ok(session) = incoming.accept_datagrams().await else { return };
                relay(&session, &*far).await;
                drop(listed);
            }
        }
    }

    /// Counts a refusal, and logs it while the peer's share of the log lasts.
    fn report(&self, incoming: &Arriving, refusal: &Refusal) {
        let is_rule = refusal.errno == Errno::EACCES;
        let counter = if is_rule { &self.counts.refused } else { &self.counts.failed };
        counter.fetch_add(1, Relaxed);
        let Some(left_out) = self.counts.log.admit() else { return };
        let (open, errno, reason) = (incoming.open(), refusal.errno, &refusal.reason);
        let (to, origin) = (&open.target, &open.origin);
        if is_rule {
            tracing::info!(peer = self.peer, %to, origin, %errno, reason, left_out, "refused");
        } else {
            tracing::debug!(peer = self.peer, %to, origin, %errno, reason, left_out, "failed");
        }
    }
}
