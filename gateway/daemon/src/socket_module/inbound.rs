//! Inbound: a guest's listeners, where others reach them, and who waits to be accepted.
//!
//! in: listeners and reports of the guest's agents, connections that transports accept; out: notices
//! for the agents, far ends for the device. Owner: shared by the guest's calls and the accepting task
//! of each endpoint; one short lock. Kept:
//! * an endpoint listens on the host exactly as long as a listener of the guest stands behind it;
//! * a connection that was accepted here is told of once, and ends with a reset when its listener or
//!   its agent goes before the guest has fetched it;
//! * a listener never has more waiting than its backlog; beyond that clients wait in the backlog of the
//!   host's socket.
//!
//! Bounds: [`limits::SESSIONS_PER_GUEST_MAX`], [`limits::LISTENERS_PER_GUEST_MAX`],
//! [`limits::ENDPOINTS_PER_GUEST_MAX`], [`limits::INBOUND_WAITING_MAX`].
//!
//! | Module | What it holds |
//! |---|---|
//! | `calls` | the functions that agents call, and what a reload changes |
//! | `endpoint` | one place on the host: its accepting task |
//! | `deliver` | from an accepted connection to a notice |

mod calls;
mod deliver;
mod endpoint;

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use outsock_core::address::VsockPort;
use outsock_device::DeviceHandle;
use outsock_transport::Destination;
use outsock_vmrpc::Errno;
use outsock_vmrpc::socket::inbound::{ListenRequest, ListenerId, Notice, Session};
use tokio::sync::Notify;

use crate::limits;
use endpoint::{Endpoint, EndpointId, Key};

/// See the module.
#[derive(Debug)]
pub(crate) struct Inbound {
    device: DeviceHandle,
    state: Mutex<State>,
    /// Endpoints are opened by one at a time, so that two listeners never race for one place.
    opening: tokio::sync::Mutex<()>,
}

#[derive(Debug, Default)]
struct State {
    /// The guest is not served any more, or the gateway ends.
    closed: bool,
    sessions: HashMap<Session, Attended>,
    endpoints: HashMap<EndpointId, Endpoint>,
    made: u64,
}

/// One agent.
#[derive(Debug, Default)]
struct Attended {
    listeners: BTreeMap<ListenerId, Registered>,
    notices: VecDeque<Notice>,
    ready: Arc<Notify>,
}

/// One listener.
#[derive(Debug)]
struct Registered {
    request: ListenRequest,
    /// Connections that its program has not taken yet.
    waiting: u32,
    /// Why a rule that came later does not publish it.
    error: Option<String>,
}

impl Registered {
    fn backlog(&self) -> u32 {
        self.request.backlog.clamp(1, limits::LISTEN_BACKLOG_MAX)
    }
}

/// What `status` shows of a listener.
#[derive(Debug)]
pub(crate) struct ListenerView<'a> {
    pub(crate) request: &'a ListenRequest,
    pub(crate) waiting: u32,
    pub(crate) places: Vec<String>,
    pub(crate) error: Option<&'a str>,
}

/// What `status` shows of an endpoint.
#[derive(Debug)]
pub(crate) struct EndpointView<'a> {
    pub(crate) publish: &'a str,
    pub(crate) transport: &'a str,
    pub(crate) local: &'a Destination,
    pub(crate) listeners: usize,
    pub(crate) accepted: u64,
}

impl Inbound {
    pub(crate) fn new(device: DeviceHandle) -> Self {
        Self { device, state: Mutex::default(), opening: tokio::sync::Mutex::default() }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Listens nowhere any more. Connections that stand go on.
    pub(crate) fn close(&self) {
        let endpoints = {
            let mut state = self.state();
            state.closed = true;
            std::mem::take(&mut state.endpoints)
        };
        drop(endpoints);
    }

    /// Connections that wait to be accepted.
    pub(crate) fn waiting(&self) -> u64 {
        self.state().waiting() as u64
    }

    /// Shows each listener to `see`.
    pub(crate) fn each_listener(&self, mut see: impl FnMut(&ListenerView<'_>)) {
        let state = self.state();
        for (session, attended) in &state.sessions {
            for (id, registered) in &attended.listeners {
                see(&ListenerView {
                    request: &registered.request,
                    waiting: registered.waiting,
                    places: state.places(*session, *id),
                    error: registered.error.as_deref(),
                });
            }
        }
    }

    /// Shows each endpoint to `see`.
    pub(crate) fn each_endpoint(&self, mut see: impl FnMut(&EndpointView<'_>)) {
        for endpoint in self.state().endpoints.values() {
            see(&EndpointView {
                publish: &endpoint.publish,
                transport: &endpoint.key.transport,
                local: &endpoint.local,
                listeners: endpoint.members.len(),
                accepted: endpoint.accepted,
            });
        }
    }
}

impl State {
    fn session(&mut self, session: Session) -> Result<&mut Attended, Errno> {
        self.sessions.get_mut(&session).ok_or(Errno::EINVAL)
    }

    fn registered(&mut self, session: Session, listener: ListenerId) -> Option<&mut Registered> {
        self.sessions.get_mut(&session)?.listeners.get_mut(&listener)
    }

    fn listeners(&self) -> usize {
        self.sessions.values().map(|attended| attended.listeners.len()).sum()
    }

    fn waiting(&self) -> usize {
        let listeners = self.sessions.values().flat_map(|attended| attended.listeners.values());
        listeners.map(|registered| registered.waiting as usize).sum()
    }

    fn endpoint_of(&mut self, key: &Key) -> Option<&mut Endpoint> {
        self.endpoints.values_mut().find(|endpoint| endpoint.key == *key)
    }

    /// Where a listener is reached.
    fn places(&self, session: Session, listener: ListenerId) -> Vec<String> {
        let endpoints = self.endpoints.values();
        let its = endpoints.filter(|endpoint| endpoint.members.contains(&(session, listener)));
        its.map(|endpoint| endpoint.local.to_string()).collect()
    }

    /// Takes a listener out. Returns the endpoints that nobody stands behind any more, to be dropped
    /// without the lock, and the connections that will not be fetched.
    #[must_use]
    fn remove_listener(&mut self, session: Session, listener: ListenerId) -> Leftovers {
        let mut unfetched = Vec::new();
        if let Some(attended) = self.sessions.get_mut(&session) {
            let removed = attended.listeners.remove(&listener);
            // One that follows on the same address, as a server does that listens anew, takes over.
            let address = removed.map(|removed| removed.request.address);
            let mut others = attended.listeners.iter_mut();
            let heir = others.find(|(_, other)| Some(other.request.address) == address);
            if let Some((heir, registered)) = heir {
                for notice in attended.notices.iter_mut().filter(|n| n.listener == listener) {
                    notice.listener = *heir;
                    registered.waiting += 1;
                }
            } else {
                let (its, others): (Vec<_>, Vec<_>) = std::mem::take(&mut attended.notices)
                    .into_iter()
                    .partition(|notice| notice.listener == listener);
                (unfetched, attended.notices) = (its, others.into());
            }
        }
        Leftovers { endpoints: self.leave_endpoints(session, listener), unfetched }
    }

    fn leave_endpoints(
        &mut self,
        session: Session,
        listener: ListenerId,
    ) -> Vec<(EndpointId, Endpoint)> {
        for endpoint in self.endpoints.values_mut() {
            endpoint.members.retain(|member| *member != (session, listener));
        }
        self.endpoints.extract_if(|_, endpoint| endpoint.members.is_empty()).collect()
    }
}

/// See [`State::remove_listener`].
#[derive(Debug, Default)]
struct Leftovers {
    endpoints: Vec<(EndpointId, Endpoint)>,
    unfetched: Vec<Notice>,
}

impl Leftovers {
    fn add(&mut self, other: Self) {
        self.endpoints.extend(other.endpoints);
        self.unfetched.extend(other.unfetched);
    }

    /// Stops to listen, and resets whoever waited.
    fn end(self, device: &DeviceHandle) {
        for notice in self.unfetched {
            // An overloaded device resets it when its time is over.
            let _ = device.reset(VsockPort(notice.token.raw()));
        }
    }
}
