//! Dial: one connection by a chosen way, over as many members and addresses as it takes.
//!
//! in: a [`Chosen`] way; out: a connection, or the error that a program sees. Kept: a guest hears of
//! success only when a far socket has connected, so the next member of a group is tried before the
//! guest knows of anything; of several addresses the next begins when the one before has failed or
//! taken [`limits::NEXT_ADDRESS_MS`] (RFC 8305), and what loses is dropped. Bounds: the dial's
//! timeout over all, a group's own for each member.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use outsock_transport::{
    Destination, DialError, DialRequest, Dialed, Origin, SocketOption, Transport,
};
use tokio::task::JoinSet;
use tokio::time::Instant;

use crate::choose::Chosen;
use crate::config::Target;
use crate::encrypt::{Again, Encryption, Outlet};
use crate::limits;
use crate::registry::{NamedTransport, Way};

/// A connection that stands, and how it came to be.
#[derive(Debug)]
pub(crate) struct Reached {
    pub(crate) dialed: Dialed,
    pub(crate) transport: Arc<str>,
    pub(crate) peer: Destination,
    /// The transport itself encrypts.
    pub(crate) encrypts: bool,
    /// Set where the program may turn out to bring TLS of its own.
    pub(crate) again: Option<Again>,
}

/// Who dials, and how long it may take.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Terms<'a> {
    pub(crate) cid: u64,
    pub(crate) source: Option<SocketAddr>,
    pub(crate) timeout: Duration,
    pub(crate) options: &'a [SocketOption],
    pub(crate) encryption: Option<&'a Arc<Encryption>>,
    pub(crate) origin: &'a Origin,
    /// What the rule says to the transport.
    pub(crate) arguments: Option<&'a Arc<[(String, String)]>>,
}

/// Dials.
pub(crate) async fn dial(
    way: Way<'_>,
    chosen: &Chosen,
    terms: Terms<'_>,
) -> Result<Reached, DialError> {
    let deadline = Instant::now() + terms.timeout;
    match way {
        Way::Transport(named) => one_member(&named, chosen, terms, deadline).await,
        Way::Group(group) => {
            let mut first_error = None;
            let members = group.order(terms.cid);
            let last = members.len().saturating_sub(1);
            for (at, (member, named)) in members.into_iter().enumerate() {
                // The last one may use what time is left: nobody waits behind it.
                let limit = Instant::now() + group.config.member_timeout;
                let until = if at == last { deadline } else { deadline.min(limit) };
                let outcome = one_member(&named, chosen, terms, until).await;
                group.dialled(member, terms.cid, outcome.as_ref().err());
                match outcome {
                    Ok(reached) => return Ok(reached),
                    Err(error) => {
                        tracing::debug!(
                            group = group.config.name, member = %named.name, %error, "next member"
                        );
                        first_error.get_or_insert(error);
                    }
                }
            }
            Err(first_error.unwrap_or(DialError::NetworkUnreachable))
        }
    }
}

async fn one_member(
    named: &NamedTransport,
    chosen: &Chosen,
    terms: Terms<'_>,
    deadline: Instant,
) -> Result<Reached, DialError> {
    let destinations = destinations(&*named.transport, chosen)?;
    let timeout = deadline.saturating_duration_since(Instant::now());
    let options: Arc<[SocketOption]> = terms.options.into();
    let request = |destination, source| {
        let (options, origin) = (Arc::clone(&options), terms.origin.clone());
        let arguments = terms.arguments.cloned().unwrap_or_default();
        DialRequest { source, timeout, options, arguments, origin, ..DialRequest::to(destination) }
    };
    let outlet = Outlet::new(&named.transport, chosen, terms.encryption);
    let from = async |destinations: Vec<Destination>, source| match <[Destination; 1]>::try_from(
        destinations,
    ) {
        Ok([only]) => {
            let dialed = outlet.dial(request(only.clone(), source)).await?;
            Ok((dialed, only))
        }
        Err(several) => race(&outlet, several, |destination| request(destination, source)).await,
    };
    let all = async {
        match from(destinations.clone(), terms.source).await {
            // The port is taken on this host, not in the guest: as behind a NAT, another one does.
            Err(DialError::AddressInUse) if terms.source.is_some() => {
                from(destinations, None).await
            }
            outcome => outcome,
        }
    };
    // A transport that forgets its timeout must not hold a group up.
    let outcome = tokio::time::timeout_at(deadline, all).await;
    let (dialed, peer) = outcome.unwrap_or(Err(DialError::TimedOut))?;
    let again = outlet.again(|| request(peer.clone(), None));
    let encrypts = named.transport.capabilities().encrypted;
    Ok(Reached { dialed, transport: Arc::clone(&named.name), peer, encrypts, again })
}

/// What a transport is asked to dial: an address that was decided about before any name.
pub(crate) fn destinations(
    transport: &dyn Transport,
    chosen: &Chosen,
) -> Result<Vec<Destination>, DialError> {
    match &chosen.target {
        Some(Target::Address(address)) => return Ok(vec![Destination::Address(*address)]),
        Some(Target::Unix(path)) => return Ok(vec![Destination::Unix(path.clone())]),
        None => {}
    }
    let can = transport.capabilities();
    let addresses = chosen.addresses.as_deref().unwrap_or_default();
    if can.dials_addresses && !addresses.is_empty() {
        let to = |ip: &std::net::IpAddr| Destination::Address((*ip, chosen.port).into());
        return Ok(addresses.iter().map(to).collect());
    }
    match &chosen.name {
        Some(name) if can.dials_names => {
            Ok(vec![Destination::Name { name: name.clone(), port: chosen.port }])
        }
        // The name has no address.
        Some(_) => Err(DialError::HostUnreachable),
        None => Err(DialError::UnsupportedDestination("an address without a name")),
    }
}

/// Several addresses of one name.
async fn race(
    outlet: &Outlet,
    several: Vec<Destination>,
    request: impl Fn(Destination) -> DialRequest,
) -> Result<(Dialed, Destination), DialError> {
    let mut waiting = several.into_iter();
    let mut running = JoinSet::new();
    let mut first_error = None;
    let mut start = |running: &mut JoinSet<_>| {
        let Some(destination) = waiting.next() else { return false };
        let (outlet, request) = (outlet.clone(), request(destination.clone()));
        running.spawn(async move {
            let dialed = outlet.dial(request).await?;
            Ok::<_, DialError>((dialed, destination))
        });
        true
    };
    let mut more = start(&mut running);
    loop {
        let pause = tokio::time::sleep(Duration::from_millis(limits::NEXT_ADDRESS_MS));
        tokio::select! {
            ended = running.join_next() => match ended {
                // Dropping the set drops the others' dials.
                Some(Ok(Ok(reached))) => return Ok(reached),
                Some(Ok(Err(error))) => {
                    first_error.get_or_insert(error);
                    more = start(&mut running);
                }
                // A transport panicked: its own trouble.
                Some(Err(_)) => more = start(&mut running),
                None => return Err(first_error.unwrap_or(DialError::HostUnreachable)),
            },
            () = pause, if more => more = start(&mut running),
        }
    }
}

#[cfg(test)]
#[path = "dial/tests.rs"]
mod tests;
