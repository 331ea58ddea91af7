//! Acceptor: the server's side, for connections that came in.
//!
//! in: a stream that was accepted; out: the stream decrypted. Owner: shared by all connections of a
//! listener. Kept: where client certificates are asked for, nobody without one comes through. Bound:
//! [`limits::HANDSHAKE_TIME`](crate::limits::HANDSHAKE_TIME). A certificate that was renewed is shown to
//! whoever comes then; the listener stays, and so do connections that stand.

use std::io;
use std::path::PathBuf;
use std::pin::Pin;
use std::sync::{Arc, PoisonError, RwLock};

use outsock_transport::{AsyncStream, Errno, Stream};
use rustls::ServerConfig;
use rustls::server::WebPkiClientVerifier;
use tokio_rustls::TlsAcceptor;

use crate::settings::{ServerSettings, Setting, SetupError, alpn};
use crate::stream::{Carrier, TlsStream, text};
use crate::{files, limits};

/// See the module. Clones are one: what is renewed by one of them is new for all.
#[derive(Clone, Debug)]
pub struct Acceptor {
    config: Arc<RwLock<Arc<ServerConfig>>>,
}

/// Why a client did not come in.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("no TLS handshake: {message}")]
pub struct HandshakeError {
    /// What a log says.
    pub message: String,
    /// As near as an errno comes.
    pub errno: Errno,
}

impl Acceptor {
    /// Reads the files that the settings name.
    pub fn new(settings: &ServerSettings) -> Result<Self, SetupError> {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let certified = files::identity(&settings.identity)?;
        let builder = ServerConfig::builder_with_provider(Arc::clone(&provider))
            .with_protocol_versions(&[&rustls::version::TLS13])
            .map_err(|error| SetupError::new(Setting::Certificate, error.to_string()))?;
        let builder = if settings.client_roots.is_empty() {
            builder.with_no_client_auth()
        } else {
            let paths = settings.client_roots.iter().map(PathBuf::as_path);
            let store = Arc::new(files::file_roots(paths, Setting::ClientRoots)?);
            let verifier = WebPkiClientVerifier::builder_with_provider(store, provider).build();
            let verifier = verifier
                .map_err(|error| SetupError::new(Setting::ClientRoots, error.to_string()))?;
            builder.with_client_cert_verifier(verifier)
        };
        let mut config =
            builder.with_cert_resolver(Arc::new(rustls::sign::SingleCertAndKey::from(certified)));
        config.alpn_protocols = alpn(&settings.alpn)?;
        Ok(Self { config: Arc::new(RwLock::new(Arc::new(config))) })
    }

    fn config(&self) -> Arc<ServerConfig> {
        Arc::clone(&self.config.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// From now on clients meet what `other` shows and asks for.
    pub fn renew(&self, other: &Self) {
        let config = other.config();
        *self.config.write().unwrap_or_else(PoisonError::into_inner) = config;
    }

    /// Does the handshake. `half_close` says whether what carries the stream closes halves on their own.
    pub async fn accept(
        &self,
        stream: Stream,
        half_close: bool,
    ) -> Result<Pin<Box<dyn AsyncStream>>, HandshakeError> {
        let wrong = |error: io::Error| HandshakeError {
            message: text(&error),
            errno: if error.kind() == io::ErrorKind::InvalidData {
                Errno::EPROTO
            } else {
                Errno::of(&error)
            },
        };
        let stream = stream.into_async().map_err(wrong)?;
        let carrier = Carrier::new(stream, half_close);
        let acceptor = TlsAcceptor::from(self.config());
        let handshake = acceptor.accept_with(carrier, |session| {
            session.set_buffer_limit(Some(limits::UNSENT_BYTES));
        });
        match tokio::time::timeout(limits::HANDSHAKE_TIME, handshake.into_fallible()).await {
            Ok(Ok(stream)) => Ok(Box::pin(TlsStream::new(stream.into()))),
            Ok(Err((error, carrier))) => {
                carrier.close();
                Err(wrong(error))
            }
            Err(_) => Err(wrong(io::ErrorKind::TimedOut.into())),
        }
    }
}
