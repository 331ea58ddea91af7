//! The suite over services of one gateway.

use std::sync::atomic::{AtomicU32, Ordering};

use async_trait::async_trait;
use outsock_transport::conformance::{self, Setup, Staging};
use outsock_transport::{Destination, Listener, Transport};
use outsock_transport_local::Local;

struct Services {
    local: Local,
    names: AtomicU32,
}

fn name(text: &str) -> Destination {
    Destination::Name { name: text.to_owned(), port: 7 }
}

#[async_trait]
impl Setup for Services {
    fn dialer(&self) -> &dyn Transport {
        &self.local
    }

    fn listener(&self) -> &dyn Transport {
        &self.local
    }

    fn listen_at(&self) -> Destination {
        name(&format!("s{}", self.names.fetch_add(1, Ordering::Relaxed)))
    }

    fn dial_at(&self, listener: &dyn Listener) -> Destination {
        match listener.local() {
            Destination::Name { name: service, .. } => name(&format!("{service}.local.peer")),
            other => other,
        }
    }

    async fn refuses(&self) -> Staging {
        Staging::at(name("nobody.local.peer"))
    }

    async fn unreachable(&self) -> Staging {
        Staging::at(name("db.elsewhere.peer"))
    }
}

#[test]
fn services() {
    let make = || async { Services { local: Local::new(None), names: AtomicU32::new(0) } };
    let report = conformance::run("local services", make);
    assert_eq!(report.not_applicable, []);
    // A full backlog would take 1024 connections; the wait for a place is tokio's own.
    assert_eq!(report.not_staged.len(), 1);
}
