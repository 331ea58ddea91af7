//! Endpoint: one place on the host where a guest's listeners are reached.
//!
//! in: a transport's listener; out: accepted connections, delivered to one of the listeners behind.
//! Owner: the guest's [`Inbound`](super::Inbound); a task of its own accepts, and ends with it. Kept:
//! nothing is accepted while no listener behind has room, so clients wait in the transport's own
//! backlog. Bound: that backlog.

use std::sync::{Arc, Weak};
use std::time::Duration;

use outsock_transport::{AcceptError, Destination, Listener};
use outsock_transport_tls::Acceptor;
use outsock_vmrpc::socket::inbound::{ListenerId, Session};
use tokio::sync::Notify;
use tokio::task::JoinHandle;

use crate::connections::Encrypted;
use crate::limits;
use crate::socket_module::GuestSockets;

/// Names an endpoint for its task.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct EndpointId(pub(super) u64);

/// What makes two endpoints the same one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Key {
    pub(super) transport: Arc<str>,
    pub(super) at: Destination,
    /// Whether TLS ends there.
    pub(super) tls: bool,
}

impl Key {
    /// Whether both want the same place.
    pub(super) fn competes(&self, other: &Self) -> bool {
        self.transport == other.transport && self.at == other.at
    }
}

/// See the module.
#[derive(Debug)]
pub(super) struct Endpoint {
    pub(super) key: Key,
    /// The rule's name.
    pub(super) publish: String,
    /// Where it listens, with the true port.
    pub(super) local: Destination,
    /// Who decrypts what comes.
    pub(super) encryption: Encrypted,
    /// What ends TLS there.
    pub(super) acceptor: Option<Acceptor>,
    pub(super) members: Vec<(Session, ListenerId)>,
    /// Whose turn it is.
    pub(super) turn: usize,
    pub(super) accepted: u64,
    /// Rings when a member may have room again.
    pub(super) room: Arc<Notify>,
    pub(super) task: JoinHandle<()>,
}

impl Endpoint {
    /// Stops to listen; nobody listens there any more when it returns.
    pub(super) async fn close(mut self) {
        self.task.abort();
        // It was cancelled or had ended: the listener is gone either way.
        let _ = (&mut self.task).await;
    }
}

impl Drop for Endpoint {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Accepts for as long as the endpoint is there.
pub(super) async fn accept_all(
    guest: Weak<GuestSockets>,
    id: EndpointId,
    room: Arc<Notify>,
    mut listener: Box<dyn Listener>,
) {
    loop {
        loop {
            let rung = room.notified();
            let Some(guest) = guest.upgrade() else { return };
            if guest.has_room_for(id) {
                break;
            }
            drop(guest);
            // Nobody rings when a connection of the guest has ended.
            let pause = Duration::from_millis(limits::INBOUND_ROOM_MS);
            let _ = tokio::time::timeout(pause, rung).await;
        }
        match listener.accept().await {
            Ok(inbound) => {
                let Some(guest) = guest.upgrade() else { return };
                guest.deliver(id, inbound);
            }
            Err(error @ AcceptError::Connection(_)) => {
                tracing::debug!(%error, "a client did not come through");
            }
            Err(error @ AcceptError::Ended(_)) => {
                let Some(guest) = guest.upgrade() else { return };
                guest.inbound.endpoint_failed(id, &error);
                return;
            }
        }
    }
}
