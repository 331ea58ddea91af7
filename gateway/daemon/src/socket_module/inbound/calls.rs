//! Calls: what agents ask about their listeners, and what a new configuration changes.
//!
//! in: sessions, listeners, reports, a new policy; out: endpoints opened and closed, notices. Owner:
//! the task of the call; of a session, the call of ATTEND that holds it. Kept: a listener is
//! registered with all the places that its rules name, or with none and an errno; whatever a dropped
//! call had opened is closed again. Bounds: those of [`Inbound`].

use std::sync::Arc;

use outsock_core::address::VsockPort;
use outsock_transport::{ListenError, Transport};
use outsock_transport_tls::Acceptor;
use outsock_vmrpc::Errno;
use outsock_vmrpc::host::Caller;
use outsock_vmrpc::limits::NOTICES_MAX;
use outsock_vmrpc::socket::Token;
use outsock_vmrpc::socket::inbound::{
    ListenReply, ListenRequest, ListenerId, Notices, Report, Session, Unlisten,
};
use tokio::sync::Notify;

use super::endpoint::{Endpoint, EndpointId, Key, accept_all};
use super::{Attended, Inbound, Leftovers, Registered, State};
use crate::config::Guest;
use crate::connections::Encrypted;
use crate::limits;
use crate::policy::Policy;
use crate::socket_module::{GuestSockets, Sockets};

/// A place that a rule wants.
#[derive(Debug)]
struct Wish {
    publish: String,
    key: Key,
    transport: Arc<dyn Transport>,
    acceptor: Option<Acceptor>,
}

/// A session, for as long as this lives.
#[derive(Debug)]
struct Guard {
    guest: Arc<GuestSockets>,
    session: Session,
}

impl Drop for Guard {
    fn drop(&mut self) {
        let inbound = &self.guest.inbound;
        let leftovers = {
            let mut state = inbound.state();
            let listeners: Vec<_> = match state.sessions.get(&self.session) {
                Some(attended) => attended.listeners.keys().copied().collect(),
                None => Vec::new(),
            };
            let mut leftovers = Leftovers::default();
            for listener in listeners {
                leftovers.add(state.remove_listener(self.session, listener));
            }
            state.sessions.remove(&self.session);
            leftovers
        };
        leftovers.end(&inbound.device);
    }
}

impl Sockets {
    /// Holds a session; never returns by itself.
    pub(in crate::socket_module) async fn attend(
        &self,
        caller: &Caller,
        session: Session,
    ) -> Result<std::convert::Infallible, Errno> {
        let guest = self.guest(caller)?;
        {
            let mut state = guest.inbound.state();
            if state.closed {
                return Err(Errno::ENETDOWN);
            }
            if state.sessions.contains_key(&session) {
                return Err(Errno::EBUSY);
            }
            if state.sessions.len() >= limits::SESSIONS_PER_GUEST_MAX {
                return Err(Errno::ENOBUFS);
            }
            state.sessions.insert(session, Attended::default());
        }
        let _guard = Guard { guest, session };
        std::future::pending().await
    }

    /// A program listens.
    pub(in crate::socket_module) async fn listen(
        &self,
        caller: &Caller,
        request: ListenRequest,
    ) -> Result<ListenReply, Errno> {
        let guest = self.guest(caller)?;
        let _alone = guest.inbound.opening.lock().await;
        if let Some(reply) = guest.inbound.listens_already(&request)? {
            return Ok(reply);
        }
        let policy = self.policy();
        let Some(settings) = policy.guest(&caller.guest) else { return Err(Errno::ENETDOWN) };
        let wishes = wishes(&policy, settings, &request);
        let opened = guest.open_all(&wishes).await.map_err(|(wish, error)| {
            let (at, via) = (&wish.key.at, &wish.key.transport);
            if let Some(left_out) = guest.log.admit() {
                tracing::warn!(
                    guest = %caller.guest, publish = wish.publish, %at, %via, %error, left_out,
                    "cannot publish {}", request.address
                );
            }
            error.errno()
        })?;
        let address = request.address;
        let reply = guest.register(request, &wishes, opened)?;
        if !reply.places.is_empty() {
            tracing::info!(guest = %caller.guest, %address, at = ?reply.places, "published");
        }
        Ok(reply)
    }

    /// Nobody listens any more.
    pub(in crate::socket_module) async fn unlisten(
        &self,
        caller: &Caller,
        unlisten: Unlisten,
    ) -> Result<(), Errno> {
        let guest = self.guest(caller)?;
        let _alone = guest.inbound.opening.lock().await;
        let mut leftovers =
            guest.inbound.state().remove_listener(unlisten.session, unlisten.listener);
        let endpoints = leftovers.endpoints.drain(..).map(|(_, endpoint)| endpoint);
        close_all(&caller.guest, endpoints.collect()).await;
        leftovers.end(&guest.inbound.device);
        Ok(())
    }

    /// Waits until someone wants to connect.
    pub(in crate::socket_module) async fn inbound(
        &self,
        caller: &Caller,
        report: Report,
    ) -> Result<Notices, Errno> {
        let guest = self.guest(caller)?;
        let session = report.session;
        guest.take_report(report)?;
        loop {
            let ready = Arc::clone(&guest.inbound.state().session(session)?.ready);
            // Before the look, so that a notice in between is heard.
            let rung = ready.notified();
            {
                let mut state = guest.inbound.state();
                let notices = &mut state.session(session)?.notices;
                let count = notices.len().min(NOTICES_MAX);
                if count > 0 {
                    let taken = notices.drain(..count).collect();
                    if !notices.is_empty() {
                        ready.notify_one();
                    }
                    return Ok(Notices(taken));
                }
            }
            rung.await;
        }
    }

    /// Connections wait no more.
    pub(in crate::socket_module) fn report(
        &self,
        caller: &Caller,
        report: Report,
    ) -> Result<(), Errno> {
        self.guest(caller)?.take_report(report)
    }

    /// No program will take a connection.
    pub(in crate::socket_module) fn refuse(
        &self,
        caller: &Caller,
        token: Token,
    ) -> Result<(), Errno> {
        let guest = self.guest(caller)?;
        guest.device.reset(VsockPort(token.raw())).map_err(|_| Errno::ENOBUFS)
    }

    /// Goes by a new policy: closes what no rule wants any more, then opens what is wanted now.
    pub(crate) async fn republish(&self, policy: &Policy) {
        let guests: Vec<_> = policy.config.guests.iter().collect();
        for settings in guests {
            let Some(guest) = self.guest_of(settings.cid.0) else { continue };
            let _alone = guest.inbound.opening.lock().await;
            guest.republish(policy, settings).await;
        }
    }
}

/// Nobody listens there any more when it returns.
async fn close_all(guest: &str, endpoints: Vec<Endpoint>) {
    for endpoint in endpoints {
        let (at, publish) = (&endpoint.local, &endpoint.publish);
        tracing::info!(guest, publish, %at, "not published any more");
        endpoint.close().await;
    }
}

fn wishes(policy: &Policy, guest: &Guest, request: &ListenRequest) -> Vec<Wish> {
    let mut wishes: Vec<Wish> = Vec::new();
    for (number, publish) in policy.config.publishes.iter().enumerate() {
        let Some(at) = publish.place(guest, request.address) else { continue };
        let Some(named) = policy.transport(publish.via) else { continue };
        let acceptor = policy.acceptor(number).cloned();
        let key = Key { transport: named.name, at, tls: acceptor.is_some() };
        if wishes.iter().all(|wish| !wish.key.competes(&key)) {
            let publish = publish.name.clone();
            wishes.push(Wish { publish, key, transport: named.transport, acceptor });
        }
    }
    wishes
}

impl GuestSockets {
    /// Opens the places that are not open yet: all, or none.
    async fn open_all<'w>(
        self: &Arc<Self>,
        wishes: &'w [Wish],
    ) -> Result<Vec<(EndpointId, Endpoint)>, (&'w Wish, ListenError)> {
        let mut opened = Vec::new();
        for wish in wishes {
            if self.inbound.state().endpoint_of(&wish.key).is_none() {
                opened.push(self.open(wish).await.map_err(|error| (wish, error))?);
            }
        }
        Ok(opened)
    }

    async fn open(self: &Arc<Self>, wish: &Wish) -> Result<(EndpointId, Endpoint), ListenError> {
        let id = {
            let mut state = self.inbound.state();
            if state.endpoints.len() >= limits::ENDPOINTS_PER_GUEST_MAX {
                return Err(ListenError::Os(Errno::ENOBUFS));
            }
            state.made += 1;
            EndpointId(state.made)
        };
        let mut listener = wish.transport.listen(&wish.key.at).await?;
        let can = wish.transport.capabilities();
        let mut encryption = if can.encrypted { Encrypted::Transport } else { Encrypted::No };
        if let Some(acceptor) = &wish.acceptor {
            listener = Box::new(acceptor.listener(listener, can.half_close));
            encryption = Encrypted::Tls(Arc::default());
        }
        let local = listener.local();
        let room = Arc::new(Notify::new());
        let accepting = accept_all(Arc::downgrade(self), id, Arc::clone(&room), listener);
        let endpoint = Endpoint {
            key: wish.key.clone(),
            publish: wish.publish.clone(),
            local,
            encryption,
            acceptor: wish.acceptor.clone(),
            members: Vec::new(),
            turn: 0,
            accepted: 0,
            room,
            task: tokio::spawn(accepting),
        };
        Ok((id, endpoint))
    }

    /// Enters a listener whose places are all open.
    fn register(
        &self,
        request: ListenRequest,
        wishes: &[Wish],
        opened: Vec<(EndpointId, Endpoint)>,
    ) -> Result<ListenReply, Errno> {
        let (session, listener) = (request.session, request.listener);
        let mut state = self.inbound.state();
        if state.closed {
            return Err(Errno::ENETDOWN);
        }
        let registered = Registered { request, waiting: 0, error: None };
        state.session(session)?.listeners.insert(listener, registered);
        state.endpoints.extend(opened);
        state.join(session, listener, wishes);
        state.ring(session, listener);
        Ok(ListenReply { places: state.places(session, listener) })
    }

    fn take_report(&self, report: Report) -> Result<(), Errno> {
        let mut state = self.inbound.state();
        state.session(report.session)?;
        for (listener, ended) in report.ended {
            if let Some(registered) = state.registered(report.session, listener) {
                registered.waiting = registered.waiting.saturating_sub(ended);
                state.ring(report.session, listener);
            }
        }
        Ok(())
    }

    async fn republish(self: &Arc<Self>, policy: &Policy, settings: &Guest) {
        let mut all: Vec<(Session, ListenerId, Vec<Wish>)> = Vec::new();
        let unwanted: Vec<Endpoint> = {
            let mut state = self.inbound.state();
            for (session, attended) in &state.sessions {
                for (listener, registered) in &attended.listeners {
                    let wishes = wishes(policy, settings, &registered.request);
                    all.push((*session, *listener, wishes));
                }
            }
            state.leave_unwanted(&all)
        };
        // Closed before anything is opened: a new rule may want the same place.
        close_all(&settings.name, unwanted).await;
        for (session, listener, wishes) in all {
            let mut error = None;
            for wish in &wishes {
                if self.inbound.state().endpoint_of(&wish.key).is_some() {
                    continue;
                }
                match self.open(wish).await {
                    Ok((id, endpoint)) => {
                        self.inbound.state().endpoints.insert(id, endpoint);
                    }
                    Err(why) => {
                        let (at, publish) = (&wish.key.at, &wish.publish);
                        tracing::warn!(
                            guest = settings.name, publish, %at, error = %why, "cannot publish"
                        );
                        error.get_or_insert_with(|| format!("{at}: {why}"));
                    }
                }
            }
            let mut state = self.inbound.state();
            state.join(session, listener, &wishes);
            if let Some(registered) = state.registered(session, listener) {
                registered.error = error;
            }
            state.endpoints.retain(|_, endpoint| !endpoint.members.is_empty());
            state.ring(session, listener);
        }
    }
}

impl Inbound {
    /// The reply for a listener that is known and only changes its backlog; else whether there is room
    /// for one more. One of that number on another address is forgotten.
    fn listens_already(&self, request: &ListenRequest) -> Result<Option<ListenReply>, Errno> {
        let (session, listener) = (request.session, request.listener);
        let leftovers = {
            let mut state = self.state();
            if state.closed {
                return Err(Errno::ENETDOWN);
            }
            state.session(session)?;
            let known = state.registered(session, listener);
            if let Some(known) = known.filter(|known| known.request.address == request.address) {
                known.request = request.clone();
                state.ring(session, listener);
                return Ok(Some(ListenReply { places: state.places(session, listener) }));
            }
            if state.listeners() >= limits::LISTENERS_PER_GUEST_MAX {
                return Err(Errno::ENOBUFS);
            }
            state.remove_listener(session, listener)
        };
        leftovers.end(&self.device);
        Ok(None)
    }
}

impl State {
    /// Puts a listener behind the endpoints that it wishes for, as far as they are there.
    fn join(&mut self, session: Session, listener: ListenerId, wishes: &[Wish]) {
        for wish in wishes {
            if let Some(endpoint) = self.endpoint_of(&wish.key) {
                endpoint.publish.clone_from(&wish.publish);
                if let (Some(old), Some(new)) = (&endpoint.acceptor, &wish.acceptor) {
                    old.renew(new);
                }
                if !endpoint.members.contains(&(session, listener)) {
                    endpoint.members.push((session, listener));
                }
            }
        }
    }

    /// Takes listeners from behind endpoints that they do not wish for any more; returns those
    /// endpoints that have nobody then.
    fn leave_unwanted(&mut self, all: &[(Session, ListenerId, Vec<Wish>)]) -> Vec<Endpoint> {
        for endpoint in self.endpoints.values_mut() {
            let key = &endpoint.key;
            endpoint.members.retain(|(session, listener)| {
                let its = all.iter().find(|(s, l, _)| (s, l) == (session, listener));
                its.is_some_and(|(_, _, wishes)| wishes.iter().any(|wish| wish.key == *key))
            });
        }
        let ended = self.endpoints.extract_if(|_, endpoint| endpoint.members.is_empty());
        ended.map(|(_, endpoint)| endpoint).collect()
    }

    /// A listener may have room again.
    fn ring(&self, session: Session, listener: ListenerId) {
        for endpoint in self.endpoints.values() {
            if endpoint.members.contains(&(session, listener)) {
                endpoint.room.notify_one();
            }
        }
    }
}
