//! The example conforms.

use std::sync::Arc;

use async_trait::async_trait;
use outsock_example_transport::Xor;
use outsock_transport::conformance::{self, Setup, Staging};
use outsock_transport::{Destination, Transport};
use outsock_transport_direct::Direct;

struct Loopback(Xor);

#[async_trait]
impl Setup for Loopback {
    fn dialer(&self) -> &dyn Transport {
        &self.0
    }

    fn listener(&self) -> &dyn Transport {
        &self.0
    }

    fn listen_at(&self) -> Destination {
        Destination::Address(([127, 0, 0, 1], 0).into())
    }

    async fn refuses(&self) -> Staging {
        Staging::at(Destination::Address(([127, 0, 0, 1], 1).into()))
    }
}

#[test]
fn conformance() {
    let report = conformance::run("xor", || async { Loopback(Xor(42, Arc::new(Direct))) });
    assert_eq!(report.not_applicable, []);
    // Unreachable and silent hosts: those of the transport below.
    assert_eq!(report.not_staged.len(), 2);
}
