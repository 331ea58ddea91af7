//! The suite, between two gateways over loopback, by each carrier.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use std::sync::atomic::{AtomicU32, Ordering};

use async_trait::async_trait;
use common::{QUIC, Site, TCP, pair, service};
use outsock_transport::conformance::{self, Setup, Staging};
use outsock_transport::{Destination, Transport};

struct Loopback {
    near: Site,
    far: Site,
    names: AtomicU32,
}

#[async_trait]
impl Setup for Loopback {
    fn dialer(&self) -> &dyn Transport {
        &*self.near.overlay
    }

    fn listener(&self) -> &dyn Transport {
        &self.far.doors
    }

    fn listen_at(&self) -> Destination {
        service(&format!("door{}", self.names.fetch_add(1, Ordering::Relaxed)))
    }

    async fn refuses(&self) -> Staging {
        Staging::at(service("nobody"))
    }

    async fn unreachable(&self) -> Staging {
        Staging::at(service("away"))
    }

    async fn times_out(&self) -> Staging {
        Staging::at(service("silent"))
    }
}

fn run(title: &str, listen: &'static str) {
    let report = conformance::run(title, || async move {
        let (near, far) = pair(listen).await;
        Loopback { near, far, names: AtomicU32::new(0) }
    });
    assert_eq!(report.not_applicable, []);
    assert_eq!(report.not_staged, []);
}

#[test]
fn over_tcp() {
    run("overlay, tcp", TCP);
}

#[test]
fn over_quic() {
    run("overlay, quic", QUIC);
}
