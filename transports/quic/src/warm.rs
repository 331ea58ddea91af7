//! Warm: keeps a connection to a peer.
//!
//! in:  a peer with addresses; out: links, for as long as the peer is configured
//! owner: one task per peer with addresses
//! keeps: tries come with growing, jittered waits, at once when a guest asks and the last try is not
//!        fresh; a peer that dials us is not dialled
//! bound: [`limits::RETRY_MAX`], [`limits::ADDRESSES_MAX`] addresses at once

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use outsock_transport::DialError;
use ring::rand::{SecureRandom, SystemRandom};
use tokio::task::JoinSet;

use crate::failure::{self, CLOSE_REPLACED};
use crate::limits;
use crate::link::Link;
use crate::peer::Peer;

/// A failed try this young answers for a new one.
pub(crate) const FRESH: Duration = Duration::from_millis(500);

/// Whether there is a connection to a peer.
#[derive(Clone, Debug, Default)]
pub(crate) enum Phase {
    /// There is none, and a try is due.
    #[default]
    Down,
    /// A try is under way.
    Dialling,
    /// There is at least one.
    Up,
    /// The last try failed; the next one waits.
    Failed {
        /// Why.
        error: DialError,
        /// When.
        at: Instant,
    },
}

/// Runs until aborted.
pub(crate) async fn keep(peer: Arc<Peer>) {
    let mut phase = peer.phase.subscribe();
    let mut wait = limits::RETRY_FIRST;
    let mut said = String::new();
    loop {
        if peer.open_links() >= peer.settings.connections {
            let changed = tokio::time::timeout(limits::SPARE_LINK_TIME, phase.changed()).await;
            if changed.is_err() {
                end_spare(&peer);
            }
            continue;
        }
        if peer.open_links() == 0 {
            peer.phase.send_replace(Phase::Dialling);
        }
        phase.mark_unchanged();
        match connect(&peer).await {
            Ok(()) => {
                wait = limits::RETRY_FIRST;
                said.clear();
            }
            Err(error) => {
                let text = error.to_string();
                if text != said {
                    tracing::warn!(peer = %peer.name(), %error, "cannot connect to a peer");
                    said = text;
                }
                if peer.open_links() == 0 {
                    peer.phase.send_replace(Phase::Failed { error, at: Instant::now() });
                }
                phase.mark_unchanged();
                pause(&mut phase, jittered(wait)).await;
                wait = (wait * 2).min(limits::RETRY_MAX);
            }
        }
    }
}

/// Waits, or until a guest asks for a try, or the peer has come by itself.
async fn pause(phase: &mut tokio::sync::watch::Receiver<Phase>, wait: Duration) {
    let asked = async {
        tokio::time::sleep(FRESH.min(wait)).await;
        while phase.changed().await.is_ok() {
            if !matches!(*phase.borrow(), Phase::Failed { .. }) {
                return;
            }
        }
    };
    let _ = tokio::time::timeout(wait, asked).await;
}

/// Between half and all of a wait, so that gateways that lost each other in the same moment do not
/// come back in the same moment.
fn jittered(wait: Duration) -> Duration {
    let mut byte = [0];
    // Without random numbers all waits are the longest.
    if SystemRandom::new().fill(&mut byte).is_err() {
        return wait;
    }
    wait / 2 + wait / 2 * u32::from(byte[0]) / 255
}

/// One of two links of a simultaneous dial goes when nobody uses it: ours, if the other is preferred.
fn end_spare(peer: &Peer) {
    let links = peer.links();
    if links.len() <= peer.settings.connections || !links.iter().any(|link| peer.prefers(link)) {
        return;
    }
    let spare =
        links.iter().find(|link| link.is_ours() && !peer.prefers(link) && link.streams() == 0);
    if let Some(link) = spare {
        link.connection.close(CLOSE_REPLACED.into(), b"one connection is enough");
    }
}

/// Tries the peer's addresses, the next one when the one before has failed or is slow.
async fn connect(peer: &Arc<Peer>) -> Result<(), DialError> {
    let mut addresses = resolve(&peer.settings.addresses).await.into_iter();
    let mut tries = JoinSet::new();
    let mut first_error = None;
    let mut more = true;
    loop {
        if more {
            match addresses.next() {
                Some(address) => {
                    let peer = Arc::clone(peer);
                    tries.spawn(async move { connect_to(&peer, address).await });
                }
                None => more = false,
            }
        }
        tokio::select! {
            ended = tries.join_next() => match ended {
                Some(Ok(Ok(()))) => return Ok(()),
                Some(Ok(Err(error))) => {
                    first_error.get_or_insert(error);
                }
                // Cannot be: nothing aborts them, and a panic is a bug of ours that was printed.
                Some(Err(_)) => {}
                None if more => {}
                None => return Err(first_error.unwrap_or(DialError::HostUnreachable)),
            },
            () = tokio::time::sleep(limits::NEXT_ADDRESS), if more => {}
        }
    }
}

async fn resolve(addresses: &[String]) -> Vec<SocketAddr> {
    let mut found = Vec::new();
    for address in addresses {
        match tokio::net::lookup_host(address).await {
            Ok(resolved) => {
                for address in resolved {
                    if !found.contains(&address) && found.len() < limits::ADDRESSES_MAX {
                        found.push(address);
                    }
                }
            }
            Err(error) => tracing::debug!(address, %error, "cannot resolve a peer's address"),
        }
    }
    found
}

async fn connect_to(peer: &Arc<Peer>, address: SocketAddr) -> Result<(), DialError> {
    let shared = &peer.shared;
    let config = shared.client_config(peer)?;
    let dialled =
        shared.endpoint.connect_with(config, shared.to_dial(address), crate::tls::SERVER_NAME);
    let connecting = dialled.map_err(|error| match error {
        quinn::ConnectError::EndpointStopping => DialError::NetworkDown,
        quinn::ConnectError::InvalidRemoteAddress(_) => DialError::NetworkUnreachable,
        quinn::ConnectError::CidsExhausted
        | quinn::ConnectError::InvalidServerName(_)
        | quinn::ConnectError::NoDefaultClientConfig
        | quinn::ConnectError::UnsupportedVersion => DialError::OutOfResources("connection ids"),
    })?;
    let connection = tokio::time::timeout(limits::DIAL_TIMEOUT, connecting)
        .await
        .map_err(|_| DialError::HostUnreachable)?
        .map_err(|error| failure::of_handshake(&error))?;
    let (link, control) = Link::greet(connection, shared.life).await?;
    establish(peer, link, control)
}

/// Takes a link that stands into service.
pub(crate) fn establish(
    peer: &Arc<Peer>,
    link: Arc<Link>,
    control: quinn::RecvStream,
) -> Result<(), DialError> {
    if let Err(why) = peer.add(&link) {
        link.connection.close(CLOSE_REPLACED.into(), why.as_bytes());
        return Err(DialError::Relayed {
            errno: outsock_transport::Errno::EHOSTUNREACH,
            reason: why.to_owned(),
        });
    }
    let address = link.connection.remote_address();
    tracing::info!(peer = %peer.name(), %address, dialled_by_us = link.is_ours(), "connected to a peer");
    let peer = Arc::clone(peer);
    tokio::spawn(async move {
        Arc::clone(&link).serve(Arc::clone(&peer), control).await;
        peer.remove(&link);
    });
    Ok(())
}
