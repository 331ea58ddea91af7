//! Node: the task that owns the swarm.
//!
//! in:  [`Command`]s of the daemon's tasks, events of libp2p, a tick
//! out: streams, answers, addresses that others can dial
//! owner: one task; nobody else touches the swarm
//! keeps: a stream is opened on the best connection that there is at that moment; a dial that cannot
//!        succeed any more is answered at once; a connection whose pings fail is closed
//! bound: [`limits::COMMANDS_WAITING_MAX`], [`limits::WAITING_PER_PEER_MAX`]

mod events;
mod publish;
mod reach;

use std::collections::HashMap;
use std::time::Instant;

use futures::StreamExt as _;
use libp2p::identity::Keypair;
use libp2p::swarm::dial_opts::{DialOpts, PeerCondition};
use libp2p::swarm::{ConnectionId, Swarm};
use libp2p::{Multiaddr, PeerId, TransportError, kad};
use outsock_transport::DialError;
use tokio::sync::{mpsc, oneshot};
use tokio::time::MissedTickBehavior;

use crate::behaviour::Behaviour;
use crate::carried::Carried;
use crate::limits;
use crate::lookups::Lookups;
use crate::settings::Settings;
use crate::status::Status;
use crate::table::Table;
use publish::Publish;
use reach::Reach;

/// What the daemon's tasks ask.
#[derive(Debug)]
pub(crate) enum Command {
    /// A stream to a peer.
    Open {
        peer: PeerId,
        /// Where it may be, beside what is known already; `None` = only over a connection that stands.
        addresses: Option<Vec<Multiaddr>>,
        reply: oneshot::Sender<Result<Carried, DialError>>,
    },
    /// What is under a key of the directory.
    Lookup { key: kad::RecordKey, reply: mpsc::Sender<Vec<u8>> },
    /// How things stand.
    Status(oneshot::Sender<Status>),
    /// Cuts every connection with a peer.
    Cut(PeerId),
    /// The end: closes everything.
    Close(oneshot::Sender<()>),
}

/// Who waits for a connection to a peer.
type Waiting = Vec<oneshot::Sender<Result<Carried, DialError>>>;

/// See the module.
pub(crate) struct Node {
    pub(crate) swarm: Swarm<Behaviour>,
    pub(crate) settings: Settings,
    pub(crate) table: Table,
    waiting: HashMap<PeerId, Waiting>,
    reach: Reach,
    lookups: Lookups,
    publish: Publish,
    keypair: Keypair,
}

impl Node {
    pub(crate) fn new(swarm: Swarm<Behaviour>, keypair: Keypair, settings: Settings) -> Self {
        Self {
            swarm,
            settings,
            table: Table::default(),
            waiting: HashMap::new(),
            reach: Reach::new(Instant::now()),
            lookups: Lookups::default(),
            publish: Publish::default(),
            keypair,
        }
    }

    /// Runs until the handle is gone or says so.
    pub(crate) async fn run(mut self, mut commands: mpsc::Receiver<Command>) {
        let mut tick = tokio::time::interval(limits::TICK);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        self.begin();
        loop {
            tokio::select! {
                event = self.swarm.select_next_some() => self.event(event),
                command = commands.recv() => match command {
                    Some(Command::Close(done)) => {
                        self.close();
                        let _ = done.send(());
                        return;
                    }
                    Some(command) => self.command(command),
                    None => return self.close(),
                },
                _ = tick.tick() => self.tick(Instant::now()),
            }
        }
    }

    fn command(&mut self, command: Command) {
        match command {
            Command::Open { peer, addresses, reply } => self.open(peer, addresses, reply),
            Command::Lookup { key, reply } => {
                let query = self.swarm.behaviour_mut().kad.get_record(key);
                self.lookups.began(query, reply);
            }
            Command::Status(reply) => drop(reply.send(self.status())),
            Command::Cut(peer) => drop(self.swarm.disconnect_peer_id(peer)),
            Command::Close(done) => drop(done.send(())),
        }
    }

    fn open(
        &mut self,
        peer: PeerId,
        addresses: Option<Vec<Multiaddr>>,
        reply: oneshot::Sender<Result<Carried, DialError>>,
    ) {
        if let Some(best) = self.table.best(&peer) {
            let id = best.id;
            return self.swarm.behaviour_mut().streams.open(peer, id, reply);
        }
        let Some(mut addresses) = addresses else {
            let _ = reply.send(Err(DialError::HostUnreachable));
            return;
        };
        // The directory forgets an address that failed once.
        let fixed = self.settings.bootstrap.iter().filter(|at| at.peer() == Some(peer));
        addresses.extend(fixed.map(|at| at.0.clone()));
        let waiting = self.waiting.entry(peer).or_default();
        waiting.retain(|reply| !reply.is_closed());
        if waiting.len() >= limits::WAITING_PER_PEER_MAX {
            let _ = reply.send(Err(DialError::OutOfResources("dials to this peer")));
            return;
        }
        waiting.push(reply);
        let options = DialOpts::peer_id(peer)
            .condition(PeerCondition::DisconnectedAndNotDialing)
            .addresses(addresses)
            .extend_addresses_through_behaviour()
            .build();
        match self.swarm.dial(options) {
            // Another dial is under way: its outcome is this one's.
            Ok(()) | Err(libp2p::swarm::DialError::DialPeerConditionFalse(_)) => {}
            Err(error) => self.answer(&peer, &of_dial(&error)),
        }
    }

    /// Ends the wait of everyone who waits for a peer.
    fn answer(&mut self, peer: &PeerId, error: &DialError) {
        for reply in self.waiting.remove(peer).unwrap_or_default() {
            let _ = reply.send(Err(error.clone()));
        }
    }

    /// Opens what has waited for a connection.
    fn connected(&mut self, peer: &PeerId) {
        let Some(id) = self.table.best(peer).map(|best| best.id) else { return };
        for reply in self.waiting.remove(peer).unwrap_or_default() {
            self.swarm.behaviour_mut().streams.open(*peer, id, reply);
        }
    }

    fn tick(&mut self, now: Instant) {
        let own = *self.swarm.local_peer_id();
        for (peer, id) in self.table.spare(&own, now, limits::SPARE_TIME) {
            if self.swarm.behaviour().streams.live(id) == 0 {
                tracing::debug!(%peer, "closed a connection beside a better one");
                self.swarm.close_connection(id);
            }
        }
        self.keep_reachable(now);
        self.keep_published(now);
    }

    fn close(&mut self) {
        let peers: Vec<_> = self.swarm.connected_peers().copied().collect();
        for peer in peers {
            let _ = self.swarm.disconnect_peer_id(peer);
        }
        for (_, replies) in self.waiting.drain() {
            for reply in replies {
                let _ = reply.send(Err(DialError::NetworkDown));
            }
        }
    }

    fn status(&self) -> Status {
        let streams = |id: ConnectionId| self.swarm.behaviour().streams.live(id);
        let (relays, supernode) = (self.reach.relays(), self.reach.is_supernode());
        let known = |peer: &PeerId| self.reach.knows_supernode(peer);
        Status::new(&self.swarm, &self.table, &relays, supernode, known, streams)
    }
}

/// What a failed dial of libp2p means to a guest.
fn of_dial(error: &libp2p::swarm::DialError) -> DialError {
    use libp2p::swarm::DialError as Swarm;
    match error {
        Swarm::WrongPeerId { .. } | Swarm::LocalPeerId { .. } => {
            DialError::NotAuthenticated("another gateway answers at its address".to_owned())
        }
        Swarm::Denied { .. } => DialError::OutOfResources("connections of the overlay"),
        Swarm::Transport(tried) => {
            let refused = tried.iter().find_map(|(_, error)| match error {
                TransportError::Other(error) => not_admitted(error),
                TransportError::MultiaddrNotSupported(_) => None,
            });
            refused.map_or(DialError::HostUnreachable, DialError::NotAuthenticated)
        }
        Swarm::NoAddresses | Swarm::DialPeerConditionFalse(_) | Swarm::Aborted => {
            DialError::HostUnreachable
        }
    }
}

/// The word of a gate. libp2p's wrappings pass its text on, but not its type.
fn not_admitted(error: &std::io::Error) -> Option<String> {
    let text = error.to_string();
    text.find(crate::admission::NOT_ADMITTED).map(|at| text[at..].to_owned())
}
