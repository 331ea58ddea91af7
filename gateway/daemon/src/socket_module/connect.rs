//! Connect: the course of one connect, from a guest's call to a connection that stands.
//!
//! in: a request, who asks; out: the device has the far end, the table the entry, the guest its
//! reply; or an error, which is logged within the guest's share of the log. Owner: the task of the
//! call. Kept: the order announce, limits, rules, dial: nothing is dialled that a rule or limit
//! forbids, and the device learns of every end.

use std::hash::{BuildHasher, Hasher, RandomState};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::Ordering::{Acquire, Relaxed};
use std::time::Instant;

use outsock_core::route::{Protocol, WayId, canonical, canonical_name};
use outsock_transport::{DialError, Origin};
use outsock_vmrpc::Errno;
use outsock_vmrpc::host::Caller;
use outsock_vmrpc::socket::options::SocketOption;
use outsock_vmrpc::socket::{Asserted, ConnectReply, ConnectRequest, Destination, Token};

use super::announced::Announced;
use super::guest::LimitReached;
use super::{GuestSockets, Sockets};
use crate::choose::{Asker, Chosen, Refused, Wanted, choose};
use crate::clock;
use crate::connections::{Connection, Direction, Encrypted};
use crate::dial::{Reached, Terms, dial};
use crate::names::Found;
use crate::own_tls::{Own, carry};
use crate::policy::Policy;
use crate::pump::pump;

/// Why a connect gives no connection.
#[derive(Debug)]
enum ConnectError {
    /// The gateway is about to end, or the guest is not served any more.
    Ending,
    /// The device or the token table has no room, or the token is in use.
    Unannounced(Errno),
    Limit(LimitReached),
    /// The destination is none: a bad name, or a synthetic address that no name has.
    Nowhere(&'static str),
    Refused(Refused),
    Dial(DialError),
    /// Nobody waits any more.
    Cancelled,
}

impl ConnectError {
    /// What the program sees.
    fn errno(&self) -> Errno {
        match self {
            Self::Ending => Errno::ENETDOWN,
            Self::Unannounced(errno) => *errno,
            Self::Limit(limit) => limit.errno(),
            Self::Nowhere(_) => Errno::EHOSTUNREACH,
            Self::Refused(refused) => refused.errno,
            Self::Dial(error) => error.errno(),
            Self::Cancelled => Errno::ECANCELED,
        }
    }
}

impl Sockets {
    pub(super) async fn connect(
        self: &Arc<Self>,
        caller: &Caller,
        request: ConnectRequest,
        asserted: Asserted,
        options: &[SocketOption],
    ) -> Result<ConnectReply, Errno> {
        let guest = self.guest(caller)?;
        let policy = self.policy();
        let to = text(&request.destination);
        let course = Course { sockets: self, caller, guest: &guest, policy: &policy, to: &to };
        let outcome = course.run(request, asserted, options).await;
        outcome.map_err(|error| {
            course.report(&error);
            error.errno()
        })
    }
}

struct Course<'a> {
    sockets: &'a Arc<Sockets>,
    caller: &'a Caller,
    guest: &'a Arc<GuestSockets>,
    policy: &'a Policy,
    to: &'a str,
}

impl Course<'_> {
    async fn run(
        &self,
        request: ConnectRequest,
        asserted: Asserted,
        options: &[SocketOption],
    ) -> Result<ConnectReply, ConnectError> {
        let (announced, cancelled) = Announced::new(Arc::clone(self.guest), request.token)
            .map_err(ConnectError::Unannounced)?;
        if self.sockets.draining.load(Acquire) {
            return Err(ConnectError::Ending);
        }
        self.guest.admit_connect().map_err(ConnectError::Limit)?;
        let settings = self.policy.guest(&self.caller.guest).ok_or(ConnectError::Ending)?;
        let (name, address, port, pooled) = self.destination(&request.destination)?;
        let wanted = Wanted {
            asker: Asker::Guest(settings),
            asserted: &asserted,
            protocol: Protocol::Tcp,
            name,
            address,
            port,
        };
        let begun = Instant::now();
        let dialling = async {
            let chosen = choose(self.policy, &self.sockets.own, &wanted).await;
            let chosen = chosen.map_err(ConnectError::Refused)?;
            let origin = self.origin(chosen.way);
            let details = &self.policy.config.route_details;
            let terms = Terms {
                cid: self.caller.cid,
                source: request.source,
                timeout: self.policy.config.dial_timeout,
                options,
                encryption: self.policy.encryption(chosen.rule),
                origin: &origin,
                arguments: details.get(chosen.rule).map(|detail| &detail.options),
            };
            let way = self.policy.way(chosen.way);
            let way = way.ok_or(ConnectError::Dial(DialError::NetworkUnreachable))?;
            let reached = dial(way, &chosen, terms).await.map_err(ConnectError::Dial)?;
            Ok((chosen, reached))
        };
        let (chosen, reached) = tokio::select! {
            outcome = dialling => outcome?,
            () = cancelled.notified() => return Err(ConnectError::Cancelled),
        };
        let dial_us = u64::try_from(begun.elapsed().as_micros()).unwrap_or(u64::MAX);
        let held = pooled.then(|| self.sockets.names.hold(wanted.name.as_deref().unwrap_or("")));
        let aborts = options.contains(&SocketOption::AbortOnClose(true));
        let end = Made { token: request.token, chosen, asserted, dial_us, held, aborts };
        self.attach(announced, reached, end)
    }

    /// Who asks, for those who are told: other gateways, and listeners of other guests.
    fn origin(&self, way: WayId) -> Origin {
        let way = self.policy.way(way);
        let is_local = way.is_some_and(|way| way.is_local());
        Origin {
            guest: Some(Arc::clone(&self.caller.guest)),
            trace: RandomState::new().build_hasher().finish(),
            hops: 0,
            address: is_local.then(|| self.sockets.stand_in(&self.caller.guest, "local")).flatten(),
        }
    }

    /// Name, address and port; and whether the address is the pool's.
    fn destination(
        &self,
        destination: &Destination,
    ) -> Result<(Option<String>, Option<IpAddr>, u16, bool), ConnectError> {
        match destination {
            Destination::Address(asked) => {
                let ip = canonical(asked.ip());
                match self.sockets.names.find(ip) {
                    Found::Name(name) => Ok((Some(name), None, asked.port(), true)),
                    Found::Unassigned => {
                        Err(ConnectError::Nowhere("a synthetic address that no name has"))
                    }
                    Found::Outside => {
                        let name = self.guest.seen.name_of(ip, clock::now());
                        Ok((name, Some(ip), asked.port(), false))
                    }
                }
            }
            Destination::Name { name, port } => match wanted_address(name) {
                Some(ip) => self.destination(&Destination::Address(SocketAddr::new(ip, *port))),
                None => match canonical_name(name) {
                    Some(name) => Ok((Some(name), None, *port, false)),
                    None => Err(ConnectError::Nowhere("no name")),
                },
            },
        }
    }

    fn attach(
        &self,
        announced: Announced,
        reached: Reached,
        made: Made,
    ) -> Result<ConnectReply, ConnectError> {
        let throttle = self.guest.throttle();
        let local = reached.dialed.local;
        let (encryption, own) = self.encryption(&reached, made.chosen.rule);
        let again = reached.again;
        let ends = self.guest.far_end(reached.dialed.stream, throttle.is_some());
        let (end, pumped) = ends.map_err(|error| ConnectError::Dial(DialError::from_io(&error)))?;
        let (stats, socket) = (end.stats(), end.host_socket());
        stats.set_abort_on_close(made.aborts);
        announced.succeed(end).map_err(ConnectError::Unannounced)?;
        if let Some((bridge, far)) = pumped {
            match again {
                Some(again) => tokio::spawn(carry(bridge, far, again, own, throttle)),
                None => tokio::spawn(pump(bridge, far, throttle)),
            };
        }
        self.guest.counters.dialled.fetch_add(1, Relaxed);
        let rule = self.policy.config.rule_name(Some(made.chosen.rule));
        let (transport, peer) = (&reached.transport, &reached.peer);
        tracing::debug!(
            guest = %self.caller.guest, to = self.to, rule, %transport, %peer, "connected"
        );
        self.guest.connections.add(|number| Connection {
            number,
            token: made.token,
            direction: Direction::Out,
            destination: match &made.chosen.name {
                Some(name) => format!("{name}:{}", made.chosen.port),
                None => self.to.to_owned(),
            },
            asserted: made.asserted,
            rule: rule.to_owned(),
            transport: transport.to_string(),
            encryption,
            peer: peer.to_string(),
            begun: Instant::now(),
            dial_us: made.dial_us,
            stats,
            socket,
            _held: made.held,
        });
        Ok(ConnectReply { local })
    }

    /// Who encrypts, and the place where it will stand that the program does.
    fn encryption(&self, reached: &Reached, rule: usize) -> (Encrypted, Own) {
        let own = Own::default();
        let encryption = match self.policy.encryption(rule) {
            Some(_) => Encrypted::Tls(Arc::clone(&own)),
            None if reached.encrypts => Encrypted::Transport,
            None => Encrypted::No,
        };
        (encryption, own)
    }

    /// Counts an error, and logs it while the guest's share of the log lasts.
    fn report(&self, error: &ConnectError) {
        let counters = &self.guest.counters;
        match error {
            ConnectError::Refused(_) | ConnectError::Nowhere(_) => {
                counters.refused_by_rule.fetch_add(1, Relaxed);
            }
            ConnectError::Limit(_) => {
                counters.refused_by_limit.fetch_add(1, Relaxed);
            }
            ConnectError::Dial(_) => {
                counters.failed.fetch_add(1, Relaxed);
            }
            ConnectError::Ending | ConnectError::Unannounced(_) | ConnectError::Cancelled => return,
        }
        let Some(left_out) = self.guest.log.admit() else { return };
        let (guest, to, errno) = (&self.caller.guest, self.to, error.errno());
        match error {
            ConnectError::Refused(refused) => {
                let rule = self.policy.config.rule_name(refused.rule);
                tracing::info!(%guest, to, rule, %errno, left_out, "refused");
            }
            ConnectError::Nowhere(why) => {
                tracing::info!(%guest, to, why, %errno, left_out, "refused")
            }
            ConnectError::Limit(limit) => {
                tracing::warn!(%guest, to, %limit, %errno, left_out, "refused");
            }
            ConnectError::Dial(error @ DialError::NotAuthenticated(_)) => {
                tracing::warn!(%guest, to, %error, %errno, left_out, "dial failed");
            }
            ConnectError::Dial(error) => {
                tracing::debug!(%guest, to, %error, %errno, left_out, "dial failed");
            }
            ConnectError::Ending | ConnectError::Unannounced(_) | ConnectError::Cancelled => {}
        }
    }
}

/// What is known of a connection besides its ends.
struct Made {
    token: Token,
    chosen: Chosen,
    asserted: Asserted,
    dial_us: u64,
    held: Option<crate::names::Held>,
    /// The guest's close is a reset.
    aborts: bool,
}

/// The address that a name is, if it is one. Only the standard spellings: a decimal or octal form is
/// a name, and no such name exists.
fn wanted_address(name: &str) -> Option<IpAddr> {
    name.parse().ok()
}

fn text(destination: &Destination) -> String {
    match destination {
        Destination::Address(address) => address.to_string(),
        // The guest's bytes: made harmless for a terminal before anything shows them.
        Destination::Name { name, port } => format!("{}:{port}", name.escape_default()),
    }
}
