//! Upstream: the way to a proxy, and its socket back after the set-up.
//!
//! in:  a dial, the exchange that asks the proxy for a destination
//! out: the proxy's stream, as the kernel socket that it is where it is one
//! owner: the dial's future
//! keeps: dropped on the way, the proxy sees a reset; nothing behind the proxy's last word was read
//! bound: the request's timeout

use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use outsock_transport::{
    AsyncStream, Destination, DialError, DialRequest, Dialed, SocketStream, Stream, Transport,
};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// How a proxy is reached.
#[derive(Clone, Debug)]
pub(crate) struct Upstream {
    below: Arc<dyn Transport>,
    server: Destination,
}

/// The proxy's stream during the set-up.
pub(crate) enum Wire {
    Socket(SocketStream),
    Async(Pin<Box<dyn AsyncStream>>),
}

impl Upstream {
    pub(crate) fn new(below: Arc<dyn Transport>, server: Destination) -> Self {
        Self { below, server }
    }

    /// Connects to the proxy and asks it for something, all within the request's time.
    pub(crate) async fn ask<F>(
        &self,
        request: &DialRequest,
        exchange: impl FnOnce(Wire) -> F,
    ) -> Result<Dialed, DialError>
    where
        F: Future<Output = Result<Wire, DialError>>,
    {
        let all = async {
            let (stream, local) = self.open(request).await?;
            let wire = exchange(Wire::of(stream)?).await?;
            Ok(Dialed { stream: wire.stream()?, local })
        };
        tokio::time::timeout(request.timeout, all).await.unwrap_or(Err(DialError::TimedOut))
    }

    async fn open(
        &self,
        request: &DialRequest,
    ) -> Result<(Stream, Option<std::net::SocketAddr>), DialError> {
        let mut first_error = None;
        for server in self.servers().await? {
            // The guest's source port is a wish for the far side of the proxy, not for this one.
            let to = DialRequest { source: None, destination: server, ..request.clone() };
            match self.below.dial(to).await {
                Ok(dialed) => return Ok((dialed.stream, dialed.local)),
                Err(error) => first_error = first_error.or(Some(error)),
            }
        }
        Err(first_error.map_or(DialError::NetworkUnreachable, of_the_way))
    }

    /// Where the proxy is. Its own name is looked up here, unless what carries us takes names.
    async fn servers(&self) -> Result<Vec<Destination>, DialError> {
        match &self.server {
            Destination::Name { name, port } if !self.below.capabilities().dials_names => {
                let found = tokio::net::lookup_host((name.as_str(), *port)).await;
                let found = found.map_err(|_| DialError::NetworkUnreachable)?;
                Ok(found.map(Destination::Address).collect())
            }
            server => Ok(vec![server.clone()]),
        }
    }
}

/// An error on the way to the proxy says nothing about the destination.
fn of_the_way(error: DialError) -> DialError {
    match error {
        DialError::Refused
        | DialError::Reset
        | DialError::HostUnreachable
        | DialError::NetworkUnreachable
        | DialError::AddressInUse
        | DialError::AddressNotAvailable => DialError::NetworkUnreachable,
        DialError::TimedOut
        | DialError::NetworkDown
        | DialError::Denied(_)
        | DialError::UnsupportedDestination(_)
        | DialError::OutOfResources(_)
        | DialError::PeerMisbehaved(_)
        | DialError::NotAuthenticated(_)
        | DialError::Relayed { .. }
        | DialError::Os(_) => error,
    }
}

/// What ended an exchange with the proxy before it had answered.
pub(crate) fn broken(error: &io::Error) -> DialError {
    match error.kind() {
        io::ErrorKind::UnexpectedEof => {
            DialError::PeerMisbehaved("the proxy hung up without an answer".to_owned())
        }
        _ => of_the_way(DialError::from_io(error)),
    }
}

impl Wire {
    fn of(stream: Stream) -> Result<Self, DialError> {
        match stream {
            Stream::Socket(fd) => {
                let stream = SocketStream::new(fd).map_err(|error| DialError::from_io(&error))?;
                Ok(Self::Socket(stream))
            }
            Stream::Async(stream) => Ok(Self::Async(stream)),
        }
    }

    fn stream(self) -> Result<Stream, DialError> {
        match self {
            Self::Socket(stream) => {
                let fd = stream.into_fd().map_err(|error| DialError::from_io(&error))?;
                Ok(Stream::Socket(fd))
            }
            Self::Async(stream) => Ok(Stream::Async(stream)),
        }
    }

    fn inner(&mut self) -> Pin<&mut dyn AsyncStream> {
        match self {
            Self::Socket(stream) => Pin::new(stream),
            Self::Async(stream) => stream.as_mut(),
        }
    }
}

impl AsyncRead for Wire {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        self.inner().poll_read(cx, buf)
    }
}

impl AsyncWrite for Wire {
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
        self.inner().poll_shutdown(cx)
    }
}
