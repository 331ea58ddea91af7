//! The suite over addresses and over names.

use async_trait::async_trait;
use outsock_transport::conformance::{self, Setup, Staging};
use outsock_transport::{Destination, DialError, Transport};
use outsock_transport_memory::{DialFault, Faults, Memory, Network};

struct InProcess {
    network: Network,
    memory: Memory,
    at: Destination,
}

impl InProcess {
    fn new(at: Destination) -> Self {
        let network = Network::new();
        Self { memory: network.transport(), network, at }
    }

    fn failing(&self, dial: DialFault) -> Staging {
        let at = Destination::Unix("/dev/shm/no-such-peer".into());
        self.network.set_faults(&at, Faults { dial, ..Faults::default() });
        Staging::at(at)
    }
}

#[async_trait]
impl Setup for InProcess {
    fn dialer(&self) -> &dyn Transport {
        &self.memory
    }

    fn listener(&self) -> &dyn Transport {
        &self.memory
    }

    fn listen_at(&self) -> Destination {
        self.at.clone()
    }

    async fn refuses(&self) -> Staging {
        self.failing(DialFault::None)
    }

    async fn unreachable(&self) -> Staging {
        self.failing(DialFault::Fail(DialError::HostUnreachable))
    }

    async fn times_out(&self) -> Staging {
        self.failing(DialFault::Hold)
    }
}

fn run(title: &str, at: Destination) {
    let report = conformance::run(title, || async { InProcess::new(at) });
    assert_eq!(report.not_applicable, []);
    assert_eq!(report.not_staged, []);
}

#[test]
fn addresses() {
    run("memory addresses", Destination::Address(([127, 0, 0, 1], 0).into()));
}

#[test]
fn names() {
    run("memory names", Destination::Name { name: "db.osaka.peer".into(), port: 0 });
}
