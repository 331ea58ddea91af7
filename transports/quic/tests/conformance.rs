//! The suite, between two gateways over loopback.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use async_trait::async_trait;
use common::{Site, pair_with, service, settings};
use outsock_transport::conformance::{self, Setup, Staging};
use outsock_transport::{Destination, Transport};
use outsock_transport_quic::{Peer, Settings};

struct Loopback {
    _near: Site,
    far: Site,
    peer: Arc<Peer>,
    names: AtomicU32,
}

impl Loopback {
    fn new(settings: &Settings) -> Self {
        let (near, far, peer) = pair_with(settings.clone(), settings.clone());
        Self { _near: near, far, peer, names: AtomicU32::new(0) }
    }
}

#[async_trait]
impl Setup for Loopback {
    fn dialer(&self) -> &dyn Transport {
        &*self.peer
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

fn run(title: &str, settings: Settings) {
    let report = conformance::run(title, || async move { Loopback::new(&settings) });
    assert_eq!(report.not_applicable, []);
    assert_eq!(report.not_staged, []);
}

#[test]
fn over_loopback() {
    run("quic", settings());
}

/// Windows far smaller than what is sent, no offloads, another congestion controller.
#[test]
fn with_small_windows_and_without_offloads() {
    let settings = Settings {
        stream_window: 64 << 10,
        connection_window: 1 << 20,
        offload: false,
        ack_frequency: false,
        mtu_max: 1200,
        socket_buffer: 256 << 10,
        ..settings()
    };
    run("quic, small", settings);
}
