//! Encrypt: TLS where a rule says so, over whatever transport carries it.
//!
//! in: what a transport dialled, and whom the program wanted; out: the same connection encrypted, or the
//! dial's error. Owner: one [`Encryption`] per rule, shared by its connections. Kept: the handshake is
//! part of the dial, so a program hears of success only when the far side has proved who it is, a group
//! tries its next member after a wrong certificate, and nothing ever falls back to plain text. Bound: the
//! dial's timeout.

use std::sync::Arc;

use outsock_transport::{Destination, DialError, DialRequest, Dialed, Stream, Transport};
use outsock_transport_tls::Connector;

use crate::choose::Chosen;
use crate::config::{ConfigError, OwnTls, TlsConfig};

/// A rule's encryption, ready to be used.
#[derive(Debug)]
pub(crate) struct Encryption {
    connector: Connector,
    own_tls: OwnTls,
}

impl Encryption {
    /// Reads the files that the rule names.
    pub(crate) fn new(config: &TlsConfig) -> Result<Arc<Self>, ConfigError> {
        Ok(Arc::new(Self { connector: config.connector()?, own_tls: config.own_tls }))
    }
}

/// A transport as a rule uses it.
#[derive(Clone, Debug)]
pub(crate) struct Outlet {
    pub(crate) transport: Arc<dyn Transport>,
    pub(crate) encryption: Option<Arc<Encryption>>,
    /// Whom the program wanted; `None` = whoever is dialled.
    pub(crate) identity: Option<Destination>,
}

impl Outlet {
    /// `chosen` by `transport`.
    pub(crate) fn new(
        transport: &Arc<dyn Transport>,
        chosen: &Chosen,
        encryption: Option<&Arc<Encryption>>,
    ) -> Self {
        let port = chosen.port;
        let by_name = chosen.name.clone().map(|name| Destination::Name { name, port });
        let address = chosen.addresses.as_deref().unwrap_or_default().first();
        let by_address = address.map(|ip| Destination::Address((*ip, port).into()));
        Self {
            transport: Arc::clone(transport),
            encryption: encryption.cloned(),
            // A rule's `target` says where, not who.
            identity: by_name.or(by_address),
        }
    }

    /// Dials, and encrypts.
    pub(crate) async fn dial(&self, request: DialRequest) -> Result<Dialed, DialError> {
        let Some(encryption) = &self.encryption else { return self.transport.dial(request).await };
        let half_close = self.transport.capabilities().half_close;
        let to = self.identity.clone().unwrap_or_else(|| request.destination.clone());
        let Dialed { stream, local } = self.transport.dial(request).await?;
        let stream = encryption.connector.connect(stream, half_close, &to).await?;
        Ok(Dialed { stream: Stream::Async(stream), local })
    }

    /// How to dial the same once more without encrypting, for a program that speaks TLS by itself; where
    /// the rule lets such pass.
    pub(crate) fn again(&self, request: impl FnOnce() -> DialRequest) -> Option<Again> {
        let encryption = self.encryption.as_ref()?;
        match encryption.own_tls {
            OwnTls::Wrap => None,
            OwnTls::Pass => {
                Some(Again { transport: Arc::clone(&self.transport), request: request() })
            }
        }
    }
}

/// A dial without encryption, kept in case that the program brings its own.
#[derive(Debug)]
pub(crate) struct Again {
    transport: Arc<dyn Transport>,
    request: DialRequest,
}

impl Again {
    pub(crate) async fn dial(self) -> Result<Stream, DialError> {
        let timeout = self.request.timeout;
        let dial = self.transport.dial(self.request);
        let dialed = tokio::time::timeout(timeout, dial).await.unwrap_or(Err(DialError::TimedOut));
        dialed.map(|dialed| dialed.stream)
    }
}
