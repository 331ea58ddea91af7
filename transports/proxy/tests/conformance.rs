//! The suite through a proxy of either kind, by address and by name, with a login; and with TLS over that.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use std::sync::Arc;

use async_trait::async_trait;
use common::{Kind, LOGIN, NAME, proxy};
use outsock_transport::conformance::{self, Setup, Staging};
use outsock_transport::{Destination, Listener, Transport};
use outsock_transport_direct::Direct;
use outsock_transport_proxy::{Auth, HttpConnect, Socks5};
use outsock_transport_tls::{
    Acceptor, ClientSettings, Connector, Identity, Roots, ServerSettings, Tls,
};

struct Through {
    dialer: Arc<dyn Transport>,
    listener: Arc<dyn Transport>,
    by_name: bool,
    silent: std::net::TcpListener,
    full: Vec<std::net::TcpStream>,
}

#[async_trait]
impl Setup for Through {
    fn dialer(&self) -> &dyn Transport {
        &*self.dialer
    }

    fn listener(&self) -> &dyn Transport {
        &*self.listener
    }

    fn listen_at(&self) -> Destination {
        Destination::Address(([127, 0, 0, 1], 0).into())
    }

    fn dial_at(&self, listener: &dyn Listener) -> Destination {
        match listener.local() {
            Destination::Address(address) if self.by_name => {
                Destination::Name { name: NAME.to_owned(), port: address.port() }
            }
            other => other,
        }
    }

    async fn refuses(&self) -> Staging {
        Staging::at(Destination::Address(([127, 0, 0, 1], 1).into()))
    }

    async fn unreachable(&self) -> Staging {
        Staging::at(Destination::Address(([255, 255, 255, 255], 9).into()))
    }

    async fn times_out(&self) -> Staging {
        let _ = &self.full;
        Staging::at(Destination::Address(self.silent.local_addr().unwrap()))
    }
}

/// A listener whose backlog is full.
fn silent() -> (std::net::TcpListener, Vec<std::net::TcpStream>) {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    // The standard library asks for more: cut it.
    socket2::SockRef::from(&listener).listen(0).unwrap();
    let at = listener.local_addr().unwrap();
    let mut full = Vec::new();
    while let Ok(stream) =
        std::net::TcpStream::connect_timeout(&at, std::time::Duration::from_millis(100))
    {
        full.push(stream);
        assert!(full.len() < 16, "a backlog of 0 took them all");
    }
    (listener, full)
}

/// Both ends of TLS, for the server's name and its address.
fn tls() -> (Connector, Acceptor) {
    let names = vec![NAME.to_owned(), "127.0.0.1".to_owned()];
    let made = rcgen::generate_simple_self_signed(names).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    let identity = Identity { certificate: at("pem"), key: at("key") };
    std::fs::write(&identity.certificate, made.cert.pem()).unwrap();
    std::fs::write(&identity.key, made.signing_key.serialize_pem()).unwrap();
    let client = ClientSettings {
        roots: vec![Roots::File(identity.certificate.clone())],
        ..ClientSettings::default()
    };
    let server = ServerSettings { identity, client_roots: Vec::new(), alpn: Vec::new() };
    (Connector::new(&client).unwrap(), Acceptor::new(&server).unwrap())
}

fn run(title: &str, kind: Kind, by_name: bool, by_tls: bool) {
    let report = conformance::run(title, || async {
        let server = proxy(kind, true).await;
        let auth = Auth::password(LOGIN.0, LOGIN.1).unwrap();
        let below = Arc::new(Direct);
        let dialer: Arc<dyn Transport> = match kind {
            Kind::Socks5 => Arc::new(Socks5::new(below, server, auth)),
            Kind::Http => Arc::new(HttpConnect::new(below, server, auth)),
        };
        let (silent, full) = silent();
        if by_tls {
            let (connector, acceptor) = tls();
            let dialer = Arc::new(Tls::over(dialer, Some(connector), None));
            let listener = Arc::new(Tls::over(Arc::new(Direct), None, Some(acceptor)));
            return Through { dialer, listener, by_name, silent, full };
        }
        Through { dialer, listener: Arc::new(Direct), by_name, silent, full }
    });
    assert_eq!(report.not_applicable, []);
    assert_eq!(report.not_staged, []);
}

#[test]
fn socks5_by_address() {
    run("socks5", Kind::Socks5, false, false);
}

#[test]
fn socks5_by_name() {
    run("socks5 by name", Kind::Socks5, true, false);
}

#[test]
fn http_connect_by_address() {
    run("http-connect", Kind::Http, false, false);
}

#[test]
fn http_connect_by_name() {
    run("http-connect by name", Kind::Http, true, false);
}

#[test]
fn tls_over_socks5() {
    run("tls over socks5", Kind::Socks5, false, true);
}

#[test]
fn tls_over_http_connect() {
    run("tls over http-connect", Kind::Http, true, true);
}
