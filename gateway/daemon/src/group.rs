//! LiveGroup: a group of transports, with the checks of its members.
//!
//! in: how dials end; out: the order in which to try the members. Owner: shared by all dials; one
//! task per group checks where the configuration names something to dial, at intervals and after a
//! dial by a member failed. Kept: the rules of [`outsock_core::group`]. Bound: one check of each
//! member at a time, of at most the member's timeout.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use outsock_core::group::{Group, Member};
use outsock_transport::{Destination, DialError, DialRequest};
use tokio::sync::Notify;
use tokio::task::JoinHandle;

use crate::clock;
use crate::config::{GroupConfig, HostPort};
use crate::registry::NamedTransport;
use crate::upstream::Upstream;

/// A group at work.
#[derive(Debug)]
pub(crate) struct LiveGroup {
    pub(crate) config: GroupConfig,
    pub(crate) members: Vec<NamedTransport>,
    state: Mutex<Group>,
    check_now: Notify,
    checks: Mutex<Option<JoinHandle<()>>>,
}

impl LiveGroup {
    /// Starts a group; one of `old` that is the same lives on.
    pub(crate) fn start<'a>(
        config: &GroupConfig,
        members: Vec<NamedTransport>,
        upstream: Arc<Upstream>,
        mut old: impl Iterator<Item = &'a Arc<Self>>,
    ) -> Arc<Self> {
        let same = |old: &&Arc<Self>| {
            let pairs = old.members.iter().zip(&members);
            old.config == *config
                && old.members.len() == members.len()
                && pairs.into_iter().all(|(a, b)| Arc::ptr_eq(&a.transport, &b.transport))
        };
        if let Some(old) = old.find(same) {
            return Arc::clone(old);
        }
        let group = Arc::new(Self {
            config: config.clone(),
            state: Mutex::new(Group::new(config.policy, members.len(), config.check.is_some())),
            members,
            check_now: Notify::new(),
            checks: Mutex::new(None),
        });
        if let Some(check) = config.check.clone() {
            let task = check_members(Arc::downgrade(&group), check, upstream);
            *group.checks() = Some(tokio::spawn(task));
        }
        group
    }

    fn state(&self) -> MutexGuard<'_, Group> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn checks(&self) -> MutexGuard<'_, Option<JoinHandle<()>>> {
        self.checks.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The members in the order in which a guest's dial tries them.
    pub(crate) fn order(&self, cid: u64) -> Vec<(Member, NamedTransport)> {
        let order = self.state().order(cid, clock::now());
        let named = |member: Member| Some((member, self.members.get(member.0)?.clone()));
        order.into_iter().filter_map(named).collect()
    }

    /// A dial by a member ended.
    pub(crate) fn dialled(&self, member: Member, cid: u64, error: Option<&DialError>) {
        match error {
            None => self.state().dial_succeeded(member, cid),
            Some(error) if speaks_of_the_path(error) => {
                if self.state().dial_failed(member, cid, clock::now()) {
                    self.check_now.notify_one();
                }
            }
            Some(_) => {}
        }
    }

    /// For each member: its name, whether it works, how fast it is.
    pub(crate) fn health(&self) -> Vec<(String, bool, Option<u64>)> {
        let state = self.state();
        let now = clock::now();
        let members = self.members.iter().enumerate().map(|(at, named)| {
            let member = Member(at);
            // No guest has CID 0: this asks for what the checks say.
            let works = !state.is_blocked(member, 0, now);
            (named.name.to_string(), works, state.latency_ms(member))
        });
        members.collect()
    }
}

impl Drop for LiveGroup {
    fn drop(&mut self) {
        if let Some(checks) = self.checks().take() {
            checks.abort();
        }
    }
}

/// Whether an error says something about the way, and not only about what lies at its end.
fn speaks_of_the_path(error: &DialError) -> bool {
    match error {
        DialError::TimedOut
        | DialError::HostUnreachable
        | DialError::NetworkUnreachable
        | DialError::NetworkDown
        | DialError::Reset
        | DialError::OutOfResources(_)
        | DialError::PeerMisbehaved(_)
        | DialError::NotAuthenticated(_) => true,
        DialError::Refused
        | DialError::Denied(_)
        | DialError::AddressInUse
        | DialError::AddressNotAvailable
        | DialError::UnsupportedDestination(_)
        | DialError::Relayed { .. }
        | DialError::Os(_) => false,
    }
}

async fn check_members(
    group: std::sync::Weak<LiveGroup>,
    check: HostPort,
    upstream: Arc<Upstream>,
) {
    loop {
        let Some(strong) = group.upgrade() else { return };
        for (at, named) in strong.members.iter().enumerate() {
            let begun = Instant::now();
            let outcome = check_one(named, &check, &upstream, strong.config.member_timeout).await;
            let took = u64::try_from(begun.elapsed().as_millis()).unwrap_or(u64::MAX);
            if let Err(error) = &outcome {
                let (group, member) = (&strong.config.name, &named.name);
                tracing::info!(group, %member, %error, "a member of a group does not work");
            }
            strong.state().checked(Member(at), outcome.ok().map(|()| took), clock::now());
        }
        let interval = strong.config.check_interval;
        // A storm of failed dials is no reason for a storm of checks.
        let pause = interval.min(Duration::from_secs(1));
        tokio::time::sleep(pause).await;
        tokio::select! {
            () = strong.check_now.notified() => {}
            () = tokio::time::sleep(interval.saturating_sub(pause)) => {}
        }
    }
}

async fn check_one(
    named: &NamedTransport,
    check: &HostPort,
    upstream: &Upstream,
    timeout: Duration,
) -> Result<(), DialError> {
    let destination = match check {
        HostPort::Address(address) => Destination::Address(*address),
        HostPort::Name(name, port) if named.transport.capabilities().dials_names => {
            Destination::Name { name: name.clone(), port: *port }
        }
        HostPort::Name(name, port) => {
            let address = upstream.addresses(name).await.first().copied();
            let address = address.ok_or(DialError::HostUnreachable)?;
            Destination::Address((address, *port).into())
        }
    };
    let request = DialRequest { timeout, ..DialRequest::to(destination) };
    let dial = named.transport.dial(request);
    tokio::time::timeout(timeout, dial).await.unwrap_or(Err(DialError::TimedOut)).map(drop)
}
