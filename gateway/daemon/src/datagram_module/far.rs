//! Far: a flow by a chosen way, over as many members and addresses as it takes.
//!
//! in: a [`Chosen`] way of a guest or of a peer; out: the transport's flow. Owner: the task that opens
//! it. Kept: only transports that carry such datagrams are asked; an address that was decided about is
//! the one that is asked for. Bound: `FLOW_TIMEOUT` for each try.

use std::net::SocketAddr;
use std::sync::Arc;

use outsock_transport::{Carried, DialError, Flow, FlowRequest, Origin};

use super::flows::{Port, Ports};
use crate::choose::Chosen;
use crate::dial::destinations;
use crate::registry::{NamedTransport, Way};

/// Who wants what.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Wish<'a> {
    /// Groups judge their members for each guest.
    pub(crate) cid: u64,
    pub(crate) carried: Carried,
    pub(crate) origin: &'a Origin,
    /// The guest's socket, whose flows come from one port, where there is one.
    pub(crate) socket: Option<(SocketAddr, &'a Arc<Ports>)>,
}

/// A flow that stands.
#[derive(Debug)]
pub(crate) struct Reached {
    pub(crate) flow: Arc<dyn Flow>,
    pub(crate) transport: Arc<str>,
    pub(crate) port: Option<Port>,
}

/// Opens a flow.
pub(crate) async fn open(
    way: Option<Way<'_>>,
    chosen: &Chosen,
    wish: Wish<'_>,
) -> Result<Reached, DialError> {
    let members: Vec<NamedTransport> = match way {
        Some(Way::Transport(named)) => vec![named],
        Some(Way::Group(group)) => {
            group.order(wish.cid).into_iter().map(|(_, named)| named).collect()
        }
        None => return Err(DialError::NetworkUnreachable),
    };
    let able = members.into_iter().filter(|named| named.transport.carries(wish.carried));
    let mut last = DialError::UnsupportedDestination("datagrams");
    for named in able {
        match open_with(&named, chosen, wish).await {
            Ok(reached) => return Ok(reached),
            Err(error) => last = error,
        }
    }
    Err(last)
}

async fn open_with(
    named: &NamedTransport,
    chosen: &Chosen,
    wish: Wish<'_>,
) -> Result<Reached, DialError> {
    let mut last = DialError::HostUnreachable;
    for destination in destinations(&*named.transport, chosen)? {
        let source_port = wish.socket.and_then(|(guest, ports)| ports.of(guest));
        let request = FlowRequest {
            source_port,
            origin: wish.origin.clone(),
            ..FlowRequest::to(destination, wish.carried)
        };
        let opening = async {
            match named.transport.flow(request.clone()).await {
                Err(DialError::AddressInUse) if source_port.is_some() => {
                    named.transport.flow(FlowRequest { source_port: None, ..request }).await
                }
                outcome => outcome,
            }
        };
        let timeout = outsock_transport::limits::FLOW_TIMEOUT;
        let outcome = tokio::time::timeout(timeout, opening).await;
        match outcome.unwrap_or(Err(DialError::TimedOut)) {
            Ok(flow) => {
                let local = flow.local().map(|local| local.port());
                let shared = wish.socket.zip(local);
                let port = shared.map(|((guest, ports), port)| ports.share(guest, port));
                let transport = Arc::clone(&named.name);
                return Ok(Reached { flow: Arc::from(flow), transport, port });
            }
            Err(error) => last = error,
        }
    }
    Err(last)
}
