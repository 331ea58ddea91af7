//! Tls: a whole transport with TLS over it: what it dials and what it accepts is encrypted.
//!
//! in:  a transport below, a [`Connector`], an [`Acceptor`]
//! out: a transport that keeps halves apart and says a reset, whatever the one below can
//! owner: like any transport
//! keeps: a dial returns after the handshake; clients that do not shake hands hold nobody else up
//! bound: the dial's timeout over both; [`limits::HANDSHAKES_MAX`]

use std::sync::Arc;

use async_trait::async_trait;
use outsock_transport::{
    AcceptError, Capabilities, Destination, DialError, DialRequest, Dialed, Errno, Inbound,
    ListenError, Listener, Stream, Transport,
};
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout_at};

use crate::limits;
use crate::server::HandshakeError;
use crate::{Acceptor, Connector};

/// See the module.
#[derive(Clone, Debug)]
pub struct Tls {
    below: Arc<dyn Transport>,
    connector: Option<Connector>,
    acceptor: Option<Acceptor>,
}

impl Tls {
    /// TLS over `below`, for dials, for listeners, or for both.
    pub fn over(
        below: Arc<dyn Transport>,
        connector: Option<Connector>,
        acceptor: Option<Acceptor>,
    ) -> Self {
        Self { below, connector, acceptor }
    }
}

#[async_trait]
impl Transport for Tls {
    fn kind(&self) -> &'static str {
        "tls"
    }

    fn capabilities(&self) -> Capabilities {
        let below = self.below.capabilities();
        let listens = below.listens && self.acceptor.is_some();
        Capabilities { listens, half_close: true, reset: true, encrypted: true, ..below }
    }

    async fn dial(&self, request: DialRequest) -> Result<Dialed, DialError> {
        let Some(connector) = &self.connector else {
            return Err(DialError::UnsupportedDestination("anything: it only listens"));
        };
        let half_close = self.below.capabilities().half_close;
        let (deadline, to) = (Instant::now() + request.timeout, request.destination.clone());
        let Dialed { stream, local } = self.below.dial(request).await?;
        let handshake = connector.connect(stream, half_close, &to);
        let stream = timeout_at(deadline, handshake).await.unwrap_or(Err(DialError::TimedOut))?;
        Ok(Dialed { stream: Stream::Async(stream), local })
    }

    async fn listen(&self, at: &Destination) -> Result<Box<dyn Listener>, ListenError> {
        let Some(acceptor) = self.acceptor.clone() else {
            return Err(ListenError::Unsupported("anything: it has no certificate"));
        };
        let below = self.below.listen(at).await?;
        let half_close = self.below.capabilities().half_close;
        Ok(Box::new(acceptor.listener(below, half_close)))
    }
}

impl Acceptor {
    /// A listener whose connections have done their handshakes. A client that fails is
    /// [`AcceptError::Connection`].
    pub fn listener(&self, below: Box<dyn Listener>, half_close: bool) -> impl Listener + 'static {
        TlsListener { below, acceptor: self.clone(), half_close, handshakes: JoinSet::new() }
    }
}

#[derive(Debug)]
struct TlsListener {
    below: Box<dyn Listener>,
    acceptor: Acceptor,
    half_close: bool,
    handshakes: JoinSet<Result<Inbound, HandshakeError>>,
}

#[async_trait]
impl Listener for TlsListener {
    fn local(&self) -> Destination {
        self.below.local()
    }

    async fn accept(&mut self) -> Result<Inbound, AcceptError> {
        loop {
            let room = self.handshakes.len() < limits::HANDSHAKES_MAX;
            tokio::select! {
                Some(done) = self.handshakes.join_next() => match done {
                    Ok(Ok(inbound)) => return Ok(inbound),
                    Ok(Err(error)) => return Err(AcceptError::Connection(error.errno)),
                    Err(_) => return Err(AcceptError::Connection(Errno::ECONNABORTED)),
                },
                inbound = self.below.accept(), if room => {
                    let Inbound { stream, peer, local } = inbound?;
                    let (acceptor, half_close) = (self.acceptor.clone(), self.half_close);
                    self.handshakes.spawn(async move {
                        let stream = acceptor.accept(stream, half_close).await?;
                        Ok(Inbound { stream: Stream::Async(stream), peer, local })
                    });
                }
            }
        }
    }
}
