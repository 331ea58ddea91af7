//! External: the transport, in front of its process.
//!
//! in:  dials and listens; out: streams through the process
//! owner: like any transport; the process starts with the first dial
//! keeps: fail closed: without the process there is no connection
//! bound: the dial's timeout

use std::sync::{Arc, OnceLock};

use async_trait::async_trait;
use outsock_transport::{
    Capabilities, Destination, DialError, DialRequest, Dialed, ListenError, Listener, Stream,
    Transport,
};
use outsock_transport_direct::Direct;
use outsock_transport_proxy::{Auth, Socks5};

use crate::guard::Guarded;
use crate::listener;
use crate::settings::{ExternalSettings, Mode, arguments};
use crate::supervisor::Supervisor;

/// See the module.
#[derive(Debug)]
pub struct External {
    settings: ExternalSettings,
    client: OnceLock<Supervisor>,
}

impl External {
    /// Nothing is started yet.
    pub fn new(settings: ExternalSettings) -> Self {
        Self { settings, client: OnceLock::new() }
    }

    fn client(&self) -> &Supervisor {
        self.client.get_or_init(|| Supervisor::start(self.settings.clone(), Mode::Client))
    }

    async fn through(&self, request: DialRequest) -> Result<Dialed, DialError> {
        let mut options = self.settings.options.clone();
        options.extend(request.arguments.iter().cloned());
        let ready = self.client().ready_to_dial().await?;
        let auth = match arguments(&options) {
            none if none.is_empty() => Auth::None,
            some => Auth::arguments(&some).map_err(|_| {
                DialError::Denied("its arguments are longer than 510 bytes".to_owned())
            })?,
        };
        let server = Destination::Address(ready.at);
        let socks = Socks5::new(Arc::new(Direct), server, auth);
        let dialed = socks.dial(request).await;
        // A process that dies on the way is no refusal by the far end.
        let Dialed { stream, .. } = dialed
            .map_err(|error| if ready.life.is_over() { DialError::NetworkDown } else { error })?;
        let stream = stream.into_async().map_err(|error| DialError::from_io(&error))?;
        let stream = Stream::Async(Box::pin(Guarded::new(stream, ready.life)));
        // The socket that it is has a name on this host's loopback, which is nobody's business.
        Ok(Dialed { stream, local: None })
    }
}

#[async_trait]
impl Transport for External {
    fn kind(&self) -> &'static str {
        "external"
    }

    fn capabilities(&self) -> Capabilities {
        Capabilities {
            dials_addresses: true,
            dials_names: false,
            dials_unix: false,
            listens: true,
            half_close: self.settings.half_close,
            reset: self.settings.reset,
            encrypted: self.settings.encrypted,
        }
    }

    async fn dial(&self, request: DialRequest) -> Result<Dialed, DialError> {
        match &request.destination {
            Destination::Address(_) => {}
            Destination::Name { .. } => return Err(DialError::UnsupportedDestination("names")),
            Destination::Unix(_) => {
                return Err(DialError::UnsupportedDestination("Unix sockets"));
            }
        }
        let timeout = request.timeout;
        let dial = self.through(request);
        tokio::time::timeout(timeout, dial).await.unwrap_or(Err(DialError::TimedOut))
    }

    async fn listen(&self, at: &Destination) -> Result<Box<dyn Listener>, ListenError> {
        match at {
            Destination::Address(at) => listener::listen(&self.settings, *at).await,
            Destination::Name { .. } => Err(ListenError::Unsupported("a name")),
            Destination::Unix(_) => Err(ListenError::Unsupported("a Unix socket")),
        }
    }
}
