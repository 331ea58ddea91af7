//! Flow: the course of one flow, from its first datagram to its end.
//!
//! in: datagrams of the guest, datagrams of the far end; out: the same on the other side, and news of
//! failures to the guest. Owner: a task of its own opens it, receives, and ends it when nothing came
//! or went for a while; the channel's task sends. Kept: what the guest sends while the flow opens
//! waits its turn; a flow that was refused answers each datagram with the same errno for a moment, and
//! is decided about anew after that. Bounds: [`limits::FLOW_WAITING_BYTES_MAX`],
//! [`limits::FLOW_IDLE_MS`], [`limits::FLOW_REFUSED_MS`].

use std::cell::RefCell;
use std::hash::{BuildHasher, Hasher, RandomState};
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use outsock_core::address::Instant;
use outsock_core::route::{Protocol, canonical};
use outsock_transport::{Carried, DialError, Flow as FarFlow, Origin};
use outsock_vmrpc::Errno;
use outsock_vmrpc::datagram::{FlowKey, Message};
use outsock_vmrpc::socket::Asserted;

use super::channel::Channel;
use super::far::{self, Wish};
use super::flows::{Port, Ports};
use crate::choose::{Asker, Refused, Wanted, choose};
use crate::names::{Found, Held};
use crate::policy::Policy;
use crate::registry::Way;
use crate::{clock, limits};

thread_local! {
    /// Where a datagram is received: none is kept there across an `await`.
    static SCRATCH: RefCell<Vec<u8>> =
        RefCell::new(vec![0; outsock_transport::limits::DATAGRAM_BYTES_MAX]);
}

/// See the module.
#[derive(Debug)]
pub(super) struct Flow {
    key: FlowKey,
    state: Mutex<State>,
    used_ms: AtomicU64,
}

#[derive(Debug)]
enum State {
    Opening { waiting: Vec<Vec<u8>>, bytes: usize },
    Open(Arc<dyn FarFlow>),
    Refused(Errno),
}

/// Why a flow does not stand.
#[derive(Debug)]
struct NotOpened {
    /// The rule that was followed; `None` = the default, or none was asked.
    rule: Option<usize>,
    by_rule: bool,
    error: DialError,
}

impl NotOpened {
    fn failed(rule: Option<usize>, error: DialError) -> Self {
        Self { rule, by_rule: false, error }
    }
}

/// Where a flow goes. A synthetic address stays its name's while the flow lives.
#[derive(Debug)]
struct Place {
    name: Option<String>,
    address: Option<IpAddr>,
    held: Option<Held>,
}

/// A flow that stands, and what lives as long.
#[derive(Debug)]
struct Opened {
    far: Arc<dyn FarFlow>,
    _port: Option<Port>,
    _held: Option<Held>,
}

impl Flow {
    pub(super) fn new(key: FlowKey) -> Self {
        let state = Mutex::new(State::Opening { waiting: Vec::new(), bytes: 0 });
        Self { key, state, used_ms: AtomicU64::new(clock::now().0) }
    }

    /// When a datagram last came or went.
    pub(super) fn used(&self) -> Instant {
        Instant(self.used_ms.load(Relaxed))
    }

    fn touch(&self) {
        self.used_ms.store(clock::now().0, Relaxed);
    }

    /// Sends a datagram of the guest.
    pub(super) fn send(&self, channel: &Channel, payload: &[u8]) {
        self.touch();
        let far = {
            let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
            match &mut *state {
                State::Opening { waiting, bytes } => {
                    // An empty one takes its place, too.
                    *bytes += payload.len().max(1);
                    if *bytes <= limits::FLOW_WAITING_BYTES_MAX {
                        return waiting.push(payload.to_vec());
                    }
                    channel.guest.datagrams.dropped.fetch_add(1, Relaxed);
                    return;
                }
                State::Open(far) => Arc::clone(far),
                State::Refused(errno) => {
                    return channel.tell(&Message::Failed { flow: self.key, errno: *errno });
                }
            }
        };
        self.send_to(channel, &*far, payload);
    }

    fn send_to(&self, channel: &Channel, far: &dyn FarFlow, payload: &[u8]) {
        // The first try may only tell news of an earlier datagram.
        for _ in 0..2 {
            match far.try_send(payload) {
                Ok(()) => {
                    channel.guest.datagrams.sent.fetch_add(1, Relaxed);
                    return;
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) => {
                    let errno = Errno::of(&error);
                    channel.tell(&Message::Failed { flow: self.key, errno });
                    if errno == Errno::EMSGSIZE {
                        break;
                    }
                }
            }
        }
        channel.guest.datagrams.dropped.fetch_add(1, Relaxed);
    }

    /// The whole course.
    pub(super) async fn run(self: Arc<Self>, channel: Arc<Channel>, ports: Arc<Ports>) {
        match self.open(&channel, &ports).await {
            Ok(opened) => {
                self.set(&channel, State::Open(Arc::clone(&opened.far)));
                self.receive(&channel, &*opened.far).await;
            }
            Err(errno) => {
                self.set(&channel, State::Refused(errno));
                tokio::time::sleep(Duration::from_millis(limits::FLOW_REFUSED_MS)).await;
            }
        }
    }

    /// The end of opening: what has waited goes on, or is answered.
    fn set(&self, channel: &Channel, new: State) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let old = std::mem::replace(&mut *state, new);
        // Under the lock, so that what waited goes first.
        if let (State::Opening { waiting, .. }, now) = (old, &*state) {
            match now {
                State::Open(far) => {
                    waiting.iter().for_each(|payload| self.send_to(channel, &**far, payload));
                }
                State::Refused(errno) => {
                    channel.tell(&Message::Failed { flow: self.key, errno: *errno });
                }
                State::Opening { .. } => {}
            }
        }
    }

    async fn receive(&self, channel: &Channel, far: &dyn FarFlow) {
        loop {
            let received: io::Result<usize> = SCRATCH.with_borrow_mut(|buffer| {
                let length = far.try_receive(buffer)?;
                channel.tell(&self.to_guest(&buffer[..length]));
                Ok(length)
            });
            match received {
                Ok(length) => {
                    self.touch();
                    if let Some(throttle) = channel.guest.throttle() {
                        throttle.pass(length).await;
                    }
                    tokio::task::coop::consume_budget().await;
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    let ends = self.used().after_ms(limits::FLOW_IDLE_MS);
                    let left = Duration::from_millis(ends.0.saturating_sub(clock::now().0));
                    match tokio::time::timeout(left, far.readable()).await {
                        Ok(Ok(())) => {}
                        Ok(Err(_)) => return,
                        Err(_) if self.used().after_ms(limits::FLOW_IDLE_MS) <= clock::now() => {
                            return;
                        }
                        Err(_) => {}
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return,
                Err(error) => {
                    let errno = Errno::of(&error);
                    channel.tell(&Message::Failed { flow: self.key, errno });
                }
            }
        }
    }

    fn to_guest<'a>(&self, payload: &'a [u8]) -> Message<'a> {
        match self.key {
            FlowKey::Udp { guest, far } => Message::Datagram { from: far, to: guest, payload },
            FlowKey::Echo { guest, far, identifier } => {
                Message::Echo { from: far, to: guest, identifier, payload }
            }
        }
    }

    async fn open(&self, channel: &Channel, ports: &Arc<Ports>) -> Result<Opened, Errno> {
        let policy = channel.sockets.policy();
        let outcome = self.open_by(channel, &policy, ports).await;
        outcome.map_err(|NotOpened { rule, by_rule, error }| {
            let (guest, counters) = (&channel.guest, &channel.guest.counters);
            let counter = if by_rule { &counters.refused_by_rule } else { &counters.failed };
            counter.fetch_add(1, Relaxed);
            guest.datagrams.refused.fetch_add(1, Relaxed);
            if let Some(left_out) = guest.log.admit() {
                let rule = policy.config.rule_name(rule);
                let (guest, flow) = (&channel.caller.guest, self.key);
                tracing::info!(%guest, ?flow, rule, %error, left_out, "datagrams refused");
            }
            error.errno()
        })
    }

    async fn open_by(
        &self,
        channel: &Channel,
        policy: &Policy,
        ports: &Arc<Ports>,
    ) -> Result<Opened, NotOpened> {
        let failed = |error| NotOpened::failed(None, error);
        let settings = policy.guest(&channel.caller.guest);
        let settings = settings.ok_or_else(|| failed(DialError::NetworkDown))?;
        let (far, carried, protocol) = match self.key {
            FlowKey::Udp { far, .. } => (far, Carried::Udp, Protocol::Udp),
            FlowKey::Echo { far, .. } => (SocketAddr::new(far, 0), Carried::Echo, Protocol::Icmp),
        };
        let Place { name, address, held } = place(channel, canonical(far.ip())).map_err(failed)?;
        let wanted = Wanted {
            asker: Asker::Guest(settings),
            asserted: &Asserted::default(),
            protocol,
            name,
            address,
            port: far.port(),
        };
        let chosen = choose(policy, &channel.sockets.own, &wanted).await;
        let chosen = chosen.map_err(|Refused { rule, errno }| NotOpened {
            rule,
            by_rule: true,
            error: DialError::Os(errno),
        })?;
        let way = policy.way(chosen.way);
        let guest = &channel.caller.guest;
        let is_local = way.as_ref().is_some_and(Way::is_local);
        let origin = Origin {
            guest: Some(Arc::clone(guest)),
            trace: RandomState::new().build_hasher().finish(),
            hops: 0,
            address: is_local.then(|| channel.sockets.stand_in(guest, "local")).flatten(),
        };
        let socket = match self.key {
            FlowKey::Udp { guest, .. } => Some((guest, ports)),
            FlowKey::Echo { .. } => None,
        };
        let wish = Wish { cid: channel.caller.cid, carried, origin: &origin, socket };
        let reached = far::open(way, &chosen, wish).await;
        let far::Reached { flow: far, transport, port } =
            reached.map_err(|error| NotOpened::failed(Some(chosen.rule), error))?;
        let (flow, trace) = (self.key, origin.trace);
        let rule = policy.config.rule_name(Some(chosen.rule));
        tracing::debug!(%guest, ?flow, rule, %transport, trace, "flow opened");
        Ok(Opened { far, _port: port, _held: held })
    }
}

fn place(channel: &Channel, ip: IpAddr) -> Result<Place, DialError> {
    match channel.sockets.names.find(ip) {
        Found::Name(name) => {
            let held = Some(channel.sockets.names.hold(&name));
            Ok(Place { name: Some(name), address: None, held })
        }
        Found::Unassigned => Err(DialError::HostUnreachable),
        Found::Outside => {
            let name = channel.guest.seen.name_of(ip, clock::now());
            Ok(Place { name, address: Some(ip), held: None })
        }
    }
}
