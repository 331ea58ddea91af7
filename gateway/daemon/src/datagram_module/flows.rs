//! Flows: the flows of a channel, by their ends.
//!
//! in: the ends of a datagram; out: its flow, which begins now if there was none. Owner: the
//! channel's task. Kept: flows of one socket of the guest share the port that they come from, so that
//! whoever it speaks to sees one address; when there is no room for another flow, the one that was
//! idle longest makes some, unless all are in use. Bounds: [`limits::FLOWS_PER_GUEST_MAX`], the
//! guest's `connects_per_second_max`.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};

use outsock_vmrpc::datagram::FlowKey;
use tokio::sync::OwnedSemaphorePermit;
use tokio::task::{AbortHandle, JoinSet};

use super::channel::Channel;
use super::flow::Flow;
use crate::socket_module::LimitReached;
use crate::{clock, limits};

/// A flow that a datagram may take.
pub(super) struct Admitted<'a>(pub(super) &'a Flow);

/// See the module.
#[derive(Debug)]
pub(super) struct Flows {
    channel: Arc<Channel>,
    by_key: HashMap<FlowKey, (Arc<Flow>, AbortHandle)>,
    tasks: JoinSet<FlowKey>,
    ports: Arc<Ports>,
}

impl Flows {
    pub(super) fn new(channel: Arc<Channel>) -> Self {
        Self { channel, by_key: HashMap::new(), tasks: JoinSet::new(), ports: Arc::default() }
    }

    /// The flow of these ends.
    pub(super) fn admit(&mut self, key: FlowKey) -> Result<Admitted<'_>, LimitReached> {
        self.forget_ended();
        if !self.by_key.contains_key(&key) {
            let permit = self.permit()?;
            let flow = Arc::new(Flow::new(key));
            let course = Arc::clone(&flow).run(Arc::clone(&self.channel), Arc::clone(&self.ports));
            let task = self.tasks.spawn(async move {
                course.await;
                drop(permit);
                key
            });
            self.by_key.insert(key, (flow, task));
        }
        match self.by_key.get(&key) {
            Some((flow, _)) => Ok(Admitted(flow)),
            None => Err(LimitReached::Flows),
        }
    }

    fn forget_ended(&mut self) {
        while let Some(ended) = self.tasks.try_join_next() {
            // One that was aborted has left the table already.
            if let Ok(key) = ended {
                self.by_key.remove(&key);
            }
        }
    }

    fn permit(&mut self) -> Result<OwnedSemaphorePermit, LimitReached> {
        let guest = Arc::clone(&self.channel.guest);
        if !guest.admit_rate() {
            return Err(LimitReached::Rate);
        }
        if let Some(permit) = guest.datagrams.admit_flow() {
            return Ok(permit);
        }
        let idle = self.by_key.iter().map(|(key, (flow, _))| (flow.used(), *key));
        let (used, key) = idle.min_by_key(|(used, _)| *used).ok_or(LimitReached::Flows)?;
        if clock::now() < used.after_ms(limits::FLOW_BUSY_MS) {
            return Err(LimitReached::Flows);
        }
        if let Some((_, task)) = self.by_key.remove(&key) {
            task.abort();
        }
        // Its permit comes back when its task has ended; the guest's next datagram finds it.
        guest.datagrams.admit_flow().ok_or(LimitReached::Flows)
    }
}

/// The ports that the guest's sockets come from.
#[derive(Debug, Default)]
pub(crate) struct Ports(Mutex<HashMap<SocketAddr, (u16, usize)>>);

/// A flow's share in a port. Dropping it gives the share back.
#[derive(Debug)]
pub(crate) struct Port {
    ports: Arc<Ports>,
    guest: SocketAddr,
}

impl Ports {
    /// The port that other flows of this socket of the guest have.
    pub(super) fn of(&self, guest: SocketAddr) -> Option<u16> {
        let ports = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        ports.get(&guest).map(|(port, _)| *port)
    }

    /// A flow has this port.
    pub(super) fn share(self: &Arc<Self>, guest: SocketAddr, port: u16) -> Port {
        let mut ports = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        ports.entry(guest).or_insert((port, 0)).1 += 1;
        Port { ports: Arc::clone(self), guest }
    }
}

impl Drop for Port {
    fn drop(&mut self) {
        let mut ports = self.ports.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, flows)) = ports.get_mut(&self.guest) {
            *flows -= 1;
            if *flows == 0 {
                ports.remove(&self.guest);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_port_is_remembered_while_a_flow_has_it() {
        let ports = Arc::new(Ports::default());
        let guest = "192.0.0.2:5000".parse().unwrap();
        assert_eq!(ports.of(guest), None);
        let first = ports.share(guest, 40_000);
        let second = ports.share(guest, 40_001);
        assert_eq!(ports.of(guest), Some(40_000));
        drop(first);
        assert_eq!(ports.of(guest), Some(40_000));
        drop(second);
        assert_eq!(ports.of(guest), None);
    }
}
