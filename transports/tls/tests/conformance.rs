//! The suite with TLS over every transport here: TCP, Unix sockets, memory, and one that cannot close
//! halves on their own.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use async_trait::async_trait;
use common::Authority;
use outsock_transport::conformance::{self, Report, Setup, Staging};
use outsock_transport::{
    Capabilities, Destination, DialError, DialRequest, Dialed, ListenError, Listener, Transport,
};
use outsock_transport_direct::Direct;
use outsock_transport_memory::{DialFault, Faults, Network};
use outsock_transport_tls::{Acceptor, ClientSettings, Connector, Roots, Tls};
use tempfile::TempDir;

const NAME: &str = "db.osaka.peer";

/// TLS on both sides over `below`.
fn tls(below: impl Transport) -> Tls {
    let authority = Authority::new();
    let settings = ClientSettings {
        server_name: Some(NAME.to_owned()),
        roots: vec![Roots::File(authority.file())],
        ..ClientSettings::default()
    };
    let connector = Connector::new(&settings).unwrap();
    let acceptor = Acceptor::new(&authority.server(&[NAME])).unwrap();
    Tls::over(Arc::new(below), Some(connector), Some(acceptor))
}

struct Over {
    tls: Tls,
    at: Box<dyn Fn() -> Destination + Send + Sync>,
    /// Destinations that fail: refused, unreachable, silent.
    failing: [Option<Destination>; 3],
}

impl Over {
    fn staged(&self, which: usize) -> Staging {
        match &self.failing[which] {
            Some(at) => Staging::at(at.clone()),
            None => Staging::missing("the transport below stages it in its own tests"),
        }
    }
}

#[async_trait]
impl Setup for Over {
    fn dialer(&self) -> &dyn Transport {
        &self.tls
    }

    fn listener(&self) -> &dyn Transport {
        &self.tls
    }

    fn listen_at(&self) -> Destination {
        (self.at)()
    }

    async fn refuses(&self) -> Staging {
        self.staged(0)
    }

    async fn unreachable(&self) -> Staging {
        self.staged(1)
    }

    async fn times_out(&self) -> Staging {
        self.staged(2)
    }
}

fn nothing_left_out(report: &Report, not_staged: usize) {
    assert_eq!(report.not_applicable, []);
    assert_eq!(report.not_staged.len(), not_staged, "{:#?}", report.not_staged);
}

#[test]
fn over_tcp() {
    // A TCP server that never says a word, in whose backlog the handshake waits.
    let silent = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let silent_at = silent.local_addr().unwrap();
    let report = conformance::run("tls over tcp", || async {
        Over {
            tls: tls(Direct),
            at: Box::new(|| Destination::Address(([127, 0, 0, 1], 0).into())),
            failing: [
                Some(Destination::Address(([127, 0, 0, 1], 1).into())),
                Some(Destination::Address(([255, 255, 255, 255], 9).into())),
                Some(Destination::Address(silent_at)),
            ],
        }
    });
    nothing_left_out(&report, 0);
}

#[test]
fn over_unix_sockets_with_honest_resets() {
    let folder = TempDir::new().unwrap();
    let next = AtomicU32::new(0);
    let path = folder.path().to_owned();
    let report = conformance::run("tls over unix", || async {
        Over {
            tls: tls(Direct),
            at: Box::new(move || {
                let number = next.fetch_add(1, Ordering::Relaxed);
                Destination::Unix(path.join(format!("{number}.sock")))
            }),
            failing: [Some(Destination::Unix("/nonexistent/outsock".into())), None, None],
        }
    });
    // Even where the socket itself knows no reset.
    nothing_left_out(&report, 2);
}

fn network() -> (Network, [Option<Destination>; 3]) {
    let network = Network::new();
    let failing = [
        ("refuses.invalid", DialFault::None),
        ("unreachable.invalid", DialFault::Fail(DialError::HostUnreachable)),
        ("silent.invalid", DialFault::Hold),
    ];
    let failing = failing.map(|(name, dial)| {
        let at = Destination::Name { name: name.to_owned(), port: 9 };
        network.set_faults(&at, Faults { dial, ..Faults::default() });
        Some(at)
    });
    (network, failing)
}

#[test]
fn over_memory() {
    let (network, failing) = network();
    let report = conformance::run("tls over memory", || async {
        let at = || Destination::Name { name: NAME.to_owned(), port: 0 };
        Over { tls: tls(network.transport()), at: Box::new(at), failing }
    });
    nothing_left_out(&report, 0);
}

/// Its FIN ends both directions, as in many proxies and in pluggable transports.
#[derive(Debug)]
struct OneClose(outsock_transport_memory::Memory);

#[async_trait]
impl Transport for OneClose {
    fn kind(&self) -> &'static str {
        "one-close"
    }

    fn capabilities(&self) -> Capabilities {
        Capabilities { half_close: false, reset: false, ..self.0.capabilities() }
    }

    async fn dial(&self, request: DialRequest) -> Result<Dialed, DialError> {
        let Dialed { stream, local } = self.0.dial(request).await?;
        Ok(Dialed { stream: one_close::wrap(stream), local })
    }

    async fn listen(&self, at: &Destination) -> Result<Box<dyn Listener>, ListenError> {
        Ok(Box::new(one_close::Door(self.0.listen(at).await?)))
    }
}

mod one_close {
    use std::io;
    use std::pin::Pin;
    use std::task::{Context, Poll};

    use async_trait::async_trait;
    use outsock_transport::{
        AcceptError, AsyncStream, Destination, Errno, Inbound, Listener, Stream,
    };
    use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

    #[derive(Debug)]
    pub(super) struct Door(pub(super) Box<dyn Listener>);

    #[async_trait]
    impl Listener for Door {
        fn local(&self) -> Destination {
            self.0.local()
        }

        async fn accept(&mut self) -> Result<Inbound, AcceptError> {
            let inbound = self.0.accept().await?;
            Ok(Inbound { stream: wrap(inbound.stream), ..inbound })
        }
    }

    pub(super) fn wrap(stream: Stream) -> Stream {
        let inner = Some(stream.into_async().unwrap());
        Stream::Async(Box::pin(OneClose { inner, closed: false }))
    }

    struct OneClose {
        inner: Option<Pin<Box<dyn AsyncStream>>>,
        closed: bool,
    }

    impl OneClose {
        fn inner(&mut self) -> Pin<&mut dyn AsyncStream> {
            self.inner.as_mut().unwrap().as_mut()
        }
    }

    impl AsyncStream for OneClose {
        /// Ends look the same, whatever they were.
        fn reset(self: Pin<Box<Self>>, _errno: Errno) {}
    }

    impl Drop for OneClose {
        fn drop(&mut self) {
            let mut nobody = Context::from_waker(std::task::Waker::noop());
            let _ = self.inner().poll_shutdown(&mut nobody);
        }
    }

    impl AsyncRead for OneClose {
        fn poll_read(
            mut self: Pin<&mut Self>,
            cx: &mut Context<'_>,
            buf: &mut ReadBuf<'_>,
        ) -> Poll<io::Result<()>> {
            if self.closed { Poll::Ready(Ok(())) } else { self.inner().poll_read(cx, buf) }
        }
    }

    impl AsyncWrite for OneClose {
        fn poll_write(
            mut self: Pin<&mut Self>,
            cx: &mut Context<'_>,
            bytes: &[u8],
        ) -> Poll<io::Result<usize>> {
            self.inner().poll_write(cx, bytes)
        }

        fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
            self.inner().poll_flush(cx)
        }

        fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
            self.closed = true;
            self.inner().poll_shutdown(cx)
        }
    }
}

#[test]
fn over_a_transport_that_has_one_close_for_both_halves() {
    let (network, failing) = network();
    let report = conformance::run("tls over one-close", || async {
        let at = || Destination::Name { name: NAME.to_owned(), port: 0 };
        Over { tls: tls(OneClose(network.transport())), at: Box::new(at), failing }
    });
    nothing_left_out(&report, 0);
}
