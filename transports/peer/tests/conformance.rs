//! The suite over the peer protocol on plain TCP: header, reply and framed ends, without QUIC.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use async_trait::async_trait;
use outsock_peer::reply::{Bound, Refusal, Reply};
use outsock_peer::{Framed, Open, StreamKind, Target, accept, ask, exchange};
use outsock_transport::conformance::{self, Setup, Staging};
use outsock_transport::{
    AcceptError, Capabilities, Destination, DialError, DialRequest, Dialed, Errno, Inbound,
    ListenError, Listener, SocketStream, Stream, Transport,
};
use outsock_transport_direct::Direct;

/// The peer protocol over [`Direct`].
#[derive(Debug)]
struct Plain;

#[derive(Debug)]
struct Door(Box<dyn Listener>);

#[async_trait]
impl Transport for Plain {
    fn kind(&self) -> &'static str {
        "plain"
    }

    fn capabilities(&self) -> Capabilities {
        Capabilities {
            dials_addresses: true,
            dials_names: false,
            dials_unix: false,
            listens: true,
            half_close: true,
            reset: true,
            encrypted: false,
        }
    }

    async fn dial(&self, request: DialRequest) -> Result<Dialed, DialError> {
        if !matches!(request.destination, Destination::Address(_)) {
            return Err(DialError::UnsupportedDestination("all but addresses"));
        }
        let timeout = request.timeout;
        let dial = async {
            let Stream::Socket(fd) = Direct.dial(request).await?.stream else { unreachable!() };
            let mut carrier = SocketStream::new(fd).map_err(|e| DialError::from_io(&e))?;
            let open = Open {
                kind: StreamKind::Stream,
                hops: 1,
                trace: 1,
                origin: "test".to_owned(),
                target: Target::Service { name: "test".to_owned(), port: 1 },
            };
            let (mut receive, mut send) = tokio::io::split(&mut carrier);
            let bound = ask(&mut send, &mut receive, &open).await?;
            let stream = Stream::Async(Box::pin(Framed::new(carrier)));
            Ok(Dialed { stream, local: bound.local })
        };
        tokio::time::timeout(timeout, dial).await.unwrap_or(Err(DialError::TimedOut))
    }

    async fn listen(&self, at: &Destination) -> Result<Box<dyn Listener>, ListenError> {
        Ok(Box::new(Door(Direct.listen(at).await?)))
    }
}

#[async_trait]
impl Listener for Door {
    fn local(&self) -> Destination {
        self.0.local()
    }

    async fn accept(&mut self) -> Result<Inbound, AcceptError> {
        let inbound = self.0.accept().await?;
        let Stream::Socket(fd) = inbound.stream else { unreachable!() };
        let mut carrier = SocketStream::new(fd).unwrap();
        // What a gateway does in a task of its own is done in line here: the header is on its way.
        let broken = |_| AcceptError::Connection(Errno::ECONNRESET);
        accept(&mut carrier).await.map_err(|_| broken(()))?;
        exchange::reply(&mut carrier, &Reply::Ok(Bound::default()))
            .await
            .map_err(|_| broken(()))?;
        let stream = Stream::Async(Box::pin(Framed::new(carrier)));
        Ok(Inbound { stream, peer: inbound.peer, local: inbound.local })
    }
}

struct OverTcp;

#[async_trait]
impl Setup for OverTcp {
    fn dialer(&self) -> &dyn Transport {
        &Plain
    }

    fn listener(&self) -> &dyn Transport {
        &Plain
    }

    fn listen_at(&self) -> Destination {
        Destination::Address(([127, 0, 0, 1], 0).into())
    }

    fn exception(&self, case: &str) -> Option<String> {
        // The header and reply of this stand-in are read within `accept`.
        (case == "cancelled_accept_loses_nothing")
            .then(|| "the test's own listener exchanges headers within accept".to_owned())
    }

    async fn refuses(&self) -> Staging {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        Staging::at(Destination::Address(listener.local_addr().unwrap()))
    }
}

#[test]
fn framed_over_tcp() {
    let report = conformance::run("peer protocol over TCP", || async { OverTcp });
    assert_eq!(report.not_applicable.len(), 1);
    assert_eq!(report.not_staged.len(), 2);
}

#[tokio::test]
async fn a_carrier_that_ends_unmarked_was_cut() {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let (near, mut far) = tokio::io::duplex(1024);
    let mut near = Framed::new(near);
    far.write_all(&[1, 2, 0, b'h', b'i']).await.unwrap();
    far.shutdown().await.unwrap();
    let mut text = [0; 2];
    near.read_exact(&mut text).await.unwrap();
    assert_eq!(&text, b"hi");
    for _ in 0..2 {
        let error = near.read(&mut text).await.unwrap_err();
        assert_eq!(Errno::of(&error), Errno::ECONNRESET);
    }
    let refusal = Refusal::new(Errno::EACCES, "no");
    assert_eq!(DialError::from(refusal).errno(), Errno::EACCES);
}

#[tokio::test]
async fn a_reset_carries_its_errno_and_garbage_is_no_data() {
    use outsock_transport::AsyncStream as _;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let (near, far) = tokio::io::duplex(1024);
    let (near, mut far) = (Framed::new(near), Framed::new(far));
    Box::pin(near).reset(Errno::ETIMEDOUT);
    assert_eq!(Errno::of(&far.read(&mut [0; 8]).await.unwrap_err()), Errno::ETIMEDOUT);
    for header in [[0, 0, 0], [1, 0, 0], [1, 1, 255], [2, 1, 0], [9, 9, 9]] {
        let (mut near, far) = tokio::io::duplex(1024);
        let mut far = Framed::new(far);
        near.write_all(&header).await.unwrap();
        assert_eq!(Errno::of(&far.read(&mut [0; 8]).await.unwrap_err()), Errno::EPROTO);
    }
}
