//! The suite must catch what transports get wrong: the memory transport with one lie at a time.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, Waker};

use async_trait::async_trait;
use outsock_transport::conformance::{self, Setup, Staging};
use outsock_transport::{
    AcceptError, AsyncStream, Capabilities, Destination, DialError, DialRequest, Dialed, Errno,
    Inbound, ListenError, Listener, Stream, Transport,
};
use outsock_transport_memory::{DialFault, Faults, Memory, Network};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Lie {
    /// A reset reads as a clean end, as in yamux.
    ResetIsEnd,
    /// A dropped stream sends FIN, as quinn's does.
    DropIsEnd,
    /// A dropped stream is reset although it was finished: the tail is lost.
    DropIsReset,
    /// Closing one half closes the other, as in a naive TLS or WebSocket wrapper.
    OneCloseForBoth,
    /// A byte changes far into the stream.
    Corrupt,
    /// Writes are always taken, whoever reads.
    NoBackpressure,
    /// The dial says that it connected before it knows.
    ConnectedEarly,
    /// Every failure is the same.
    OneErrno,
    /// The timeout of the request is not looked at.
    OwnTimeout,
    /// What cannot be dialled is a failure of the network.
    NothingIsUnsupported,
}

struct Liar {
    inner: Option<Pin<Box<dyn AsyncStream>>>,
    lie: Lie,
    written: u64,
    finished: bool,
}

impl Liar {
    fn wrap(stream: Stream, lie: Lie) -> Stream {
        let inner = Some(stream.into_async().expect("an async stream"));
        Stream::Async(Box::pin(Self { inner, lie, written: 0, finished: false }))
    }

    fn inner(&mut self) -> Pin<&mut dyn AsyncStream> {
        self.inner.as_mut().expect("not reset yet").as_mut()
    }
}

impl AsyncStream for Liar {
    fn reset(mut self: Pin<Box<Self>>, errno: Errno) {
        self.inner.take().expect("not reset yet").reset(errno);
    }
}

impl Drop for Liar {
    fn drop(&mut self) {
        let Some(mut inner) = self.inner.take() else { return };
        match self.lie {
            Lie::DropIsEnd => {
                let _ = inner.as_mut().poll_shutdown(&mut Context::from_waker(Waker::noop()));
            }
            Lie::DropIsReset => inner.reset(Errno::ECONNRESET),
            _ => {}
        }
    }
}

impl AsyncRead for Liar {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.lie == Lie::OneCloseForBoth && self.finished {
            return Poll::Ready(Ok(()));
        }
        match self.inner().poll_read(cx, buf) {
            Poll::Ready(Err(_)) if self.lie == Lie::ResetIsEnd => Poll::Ready(Ok(())),
            other => other,
        }
    }
}

impl AsyncWrite for Liar {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let mut changed = bytes.to_vec();
        if self.lie == Lie::Corrupt && self.written > 1 << 20 {
            changed[0] ^= 1;
        }
        match self.inner().poll_write(cx, &changed) {
            Poll::Pending if self.lie == Lie::NoBackpressure => Poll::Ready(Ok(bytes.len())),
            Poll::Ready(Ok(count)) => {
                self.written += count as u64;
                Poll::Ready(Ok(count))
            }
            other => other,
        }
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.inner().poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.finished = true;
        self.inner().poll_shutdown(cx)
    }
}

#[derive(Debug)]
struct LyingTransport {
    memory: Memory,
    lie: Lie,
}

#[async_trait]
impl Transport for LyingTransport {
    fn kind(&self) -> &'static str {
        "liar"
    }

    fn capabilities(&self) -> Capabilities {
        Capabilities { dials_unix: false, ..self.memory.capabilities() }
    }

    async fn dial(&self, mut request: DialRequest) -> Result<Dialed, DialError> {
        let unix = matches!(request.destination, Destination::Unix(_));
        if unix && self.lie != Lie::NothingIsUnsupported {
            return Err(DialError::UnsupportedDestination("Unix sockets"));
        }
        if self.lie == Lie::OwnTimeout {
            request.timeout *= 10;
        }
        match self.memory.dial(request).await {
            Ok(Dialed { stream, local }) => {
                Ok(Dialed { stream: Liar::wrap(stream, self.lie), local })
            }
            Err(_) if self.lie == Lie::OneErrno => Err(DialError::Os(Errno::EIO)),
            Err(_) if self.lie == Lie::ConnectedEarly => {
                let (near, _far) = std::os::unix::net::UnixStream::pair().expect("a pair");
                Ok(Dialed { stream: Stream::Socket(near.into()), local: None })
            }
            Err(error) => Err(error),
        }
    }

    async fn listen(&self, at: &Destination) -> Result<Box<dyn Listener>, ListenError> {
        Ok(Box::new(LyingListener { inner: self.memory.listen(at).await?, lie: self.lie }))
    }
}

#[derive(Debug)]
struct LyingListener {
    inner: Box<dyn Listener>,
    lie: Lie,
}

#[async_trait]
impl Listener for LyingListener {
    fn local(&self) -> Destination {
        self.inner.local()
    }

    async fn accept(&mut self) -> Result<Inbound, AcceptError> {
        let inbound = self.inner.accept().await?;
        Ok(Inbound { stream: Liar::wrap(inbound.stream, self.lie), ..inbound })
    }
}

struct Lying {
    network: Network,
    transport: LyingTransport,
}

impl Lying {
    fn failing(&self, name: &str, dial: DialFault) -> Staging {
        let at = Destination::Name { name: name.to_owned(), port: 9 };
        self.network.set_faults(&at, Faults { dial, ..Faults::default() });
        Staging::at(at)
    }
}

#[async_trait]
impl Setup for Lying {
    fn dialer(&self) -> &dyn Transport {
        &self.transport
    }

    fn listener(&self) -> &dyn Transport {
        &self.transport
    }

    fn listen_at(&self) -> Destination {
        Destination::Address(([127, 0, 0, 1], 0).into())
    }

    async fn refuses(&self) -> Staging {
        self.failing("refuses", DialFault::None)
    }

    async fn unreachable(&self) -> Staging {
        self.failing("unreachable", DialFault::Fail(DialError::HostUnreachable))
    }

    async fn times_out(&self) -> Staging {
        self.failing("silent", DialFault::Hold)
    }
}

/// The lie makes exactly the expected ones of the chosen cases fail.
fn caught(lie: Lie, expected: &[&str], unharmed: &[&str]) {
    let report = conformance::examine(
        |case| expected.contains(&case) || unharmed.contains(&case),
        |_, _| (),
        || async {
            let network = Network::new();
            let transport = LyingTransport { memory: network.transport(), lie };
            Lying { network, transport }
        },
    );
    let failed: Vec<_> = report.failed.iter().map(|(case, _)| *case).collect();
    assert_eq!(failed, expected, "{lie:?}: {:#?}", report.failed);
    assert_eq!(report.passed.len(), unharmed.len());
}

#[test]
fn a_reset_that_reads_as_an_end() {
    let expected = [
        "dialer_resets",
        "listener_resets",
        "dialer_resets_in_mid_transfer",
        "listener_resets_in_mid_transfer",
        "reading_dialer_resets_the_writer",
        "reading_listener_resets_the_writer",
        "dropped_unfinished_dialer_is_a_reset",
        "dropped_unfinished_listener_is_a_reset",
        "dropped_after_the_far_end_finished_is_a_reset",
    ];
    caught(Lie::ResetIsEnd, &expected, &["echo", "both_halves_close"]);
}

#[test]
fn a_drop_that_looks_finished() {
    let expected = [
        "dropped_unfinished_dialer_is_a_reset",
        "dropped_unfinished_listener_is_a_reset",
        "dropped_after_the_far_end_finished_is_a_reset",
    ];
    caught(Lie::DropIsEnd, &expected, &["dialer_resets", "close_flushes_what_nobody_read_yet"]);
}

#[test]
fn a_close_that_loses_the_tail() {
    let expected = ["close_flushes_to_a_slow_reader", "close_flushes_what_nobody_read_yet"];
    caught(Lie::DropIsReset, &expected, &["dropped_unfinished_dialer_is_a_reset"]);
}

#[test]
fn one_close_for_both_halves() {
    let expected = ["dialer_closes_its_half_first", "listener_closes_its_half_first"];
    caught(Lie::OneCloseForBoth, &expected, &["dialer_resets"]);
}

#[test]
fn changed_bytes() {
    caught(Lie::Corrupt, &["big_transfers_both_ways"], &["echo", "one_byte_writes"]);
}

#[test]
fn a_writer_that_never_stops() {
    let expected = ["backpressure_reaches_the_dialer", "backpressure_reaches_the_listener"];
    caught(Lie::NoBackpressure, &expected, &["both_halves_close"]);
}

#[test]
fn dials_that_lie() {
    let expected = ["dropped_listener_is_closed", "refused", "unreachable", "timed_out"];
    caught(Lie::ConnectedEarly, &expected, &["concurrent_dials", "unsupported_destinations"]);
    caught(Lie::OneErrno, &expected, &["concurrent_dials"]);
    caught(Lie::OwnTimeout, &["timed_out"], &["refused", "unreachable"]);
    caught(Lie::NothingIsUnsupported, &["unsupported_destinations"], &["refused"]);
}
