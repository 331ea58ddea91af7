//! Places: where servers are, before they run: a gateway's rules are written first.
//!
//! in: nothing; out: addresses on the host's loopback that were free. Owner: the world. Kept: each place is given
//! once. Another program could take one before its server does; then that server fails to start, which is seen.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener};

use crate::net::{self, HOST, Service};

/// All of them.
pub(crate) struct Places {
    /// Ports that servers in the guest listen at, and where the host reaches them.
    pub(crate) published: Vec<(u16, SocketAddr)>,
    /// Services of the host that a test starts when it needs them.
    pub(crate) services: Vec<Service>,
}

impl Places {
    pub(crate) fn new() -> io::Result<Self> {
        let guests = net::PUBLISHED.chain(net::REACHED4);
        let mut published =
            free(net::STARTED_LATER.into_iter().chain(guests), Ipv4Addr::LOCALHOST.into())?;
        let services = published
            .drain(..net::STARTED_LATER.len())
            .map(|(port, target)| Service { host: HOST, port, target })
            .collect();
        // A host without IPv6 has no such places.
        published.extend(free(net::REACHED6, Ipv6Addr::LOCALHOST.into()).unwrap_or_default());
        Ok(Self { published, services })
    }

    /// Where the host reaches a port of the guest.
    pub(crate) fn published(&self, port: u16) -> SocketAddr {
        let found = self.published.iter().find(|(guests, _)| *guests == port);
        found.expect("the port is among the published ones").1
    }

    /// Where a service of the host belongs.
    pub(crate) fn service(&self, port: u16) -> SocketAddr {
        let found = self.services.iter().find(|service| service.port == port);
        found.expect("the port is among those that are started later").target
    }
}

/// A free place for each port; all are held until all are known.
fn free(ports: impl Iterator<Item = u16>, at: IpAddr) -> io::Result<Vec<(u16, SocketAddr)>> {
    let held: Vec<(u16, TcpListener)> = ports
        .map(|port| TcpListener::bind((at, 0)).map(|listener| (port, listener)))
        .collect::<io::Result<_>>()?;
    held.iter().map(|(port, listener)| listener.local_addr().map(|at| (*port, at))).collect()
}
