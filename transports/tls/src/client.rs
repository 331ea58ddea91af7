//! Connector: the client's side, for connections that the gateway dials.
//!
//! in: a stream that stands, and what was dialled; out: the stream encrypted, or an error with an
//! errno. Owner: shared by all connections of a rule. Kept: nothing of the program is sent before the
//! server has proved who it is. Bound: the caller's timeout.

use std::pin::Pin;
use std::sync::Arc;

use outsock_transport::{AsyncStream, Destination, DialError, Stream};
use rustls::client::WebPkiServerVerifier;
use rustls::pki_types::ServerName;
use rustls::{AlertDescription, CertificateError, ClientConfig, Error};
use tokio_rustls::TlsConnector;

use crate::settings::{ClientSettings, Roots, Setting, SetupError, alpn};
use crate::stream::{Carrier, TlsStream, text};
use crate::trust::Trust;
use crate::{files, limits};

/// See the module.
#[derive(Clone, Debug)]
pub struct Connector {
    config: Arc<ClientConfig>,
    server_name: Option<ServerName<'static>>,
}

impl Connector {
    /// Reads the files that the settings name.
    pub fn new(settings: &ClientSettings) -> Result<Self, SetupError> {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let roots = match &settings.roots[..] {
            [] if settings.pins.is_empty() => &[Roots::System],
            given => given,
        };
        let chain = if roots.is_empty() {
            None
        } else {
            let store = Arc::new(files::roots(roots)?);
            let verifier =
                WebPkiServerVerifier::builder_with_provider(store, Arc::clone(&provider));
            let wrong = |error: rustls::client::VerifierBuilderError| {
                SetupError::new(Setting::Roots, error.to_string())
            };
            Some(verifier.build().map_err(wrong)?)
        };
        let trust = Trust { chain, pins: settings.pins.clone(), provider: Arc::clone(&provider) };
        let builder = ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&rustls::version::TLS13])
            .map_err(|error| SetupError::new(Setting::Roots, error.to_string()))?
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(trust));
        let mut config = match &settings.identity {
            None => builder.with_no_client_auth(),
            Some(identity) => {
                let certified = files::identity(identity)?;
                builder.with_client_cert_resolver(Arc::new(rustls::sign::SingleCertAndKey::from(
                    certified,
                )))
            }
        };
        config.alpn_protocols = alpn(&settings.alpn)?;
        let server_name = match &settings.server_name {
            None => None,
            Some(name) => Some(ServerName::try_from(name.clone()).map_err(|_| {
                SetupError::new(Setting::ServerName, format!("{name:?} is no name and no address"))
            })?),
        };
        Ok(Self { config: Arc::new(config), server_name })
    }

    /// Encrypts a stream that was dialled to `to`. `half_close` says whether what carries it closes
    /// halves on their own.
    pub async fn connect(
        &self,
        stream: Stream,
        half_close: bool,
        to: &Destination,
    ) -> Result<Pin<Box<dyn AsyncStream>>, DialError> {
        let name = self.name(to)?;
        let stream = stream.into_async().map_err(|error| DialError::from_io(&error))?;
        let carrier = Carrier::new(stream, half_close);
        let handshake =
            TlsConnector::from(Arc::clone(&self.config)).connect_with(name, carrier, |session| {
                session.set_buffer_limit(Some(limits::UNSENT_BYTES))
            });
        match handshake.into_fallible().await {
            Ok(stream) => Ok(Box::pin(TlsStream::new(stream.into()))),
            Err((error, carrier)) => {
                carrier.close();
                Err(failed(&error))
            }
        }
    }

    /// Who must answer.
    fn name(&self, to: &Destination) -> Result<ServerName<'static>, DialError> {
        if let Some(name) = &self.server_name {
            return Ok(name.clone());
        }
        match to {
            Destination::Address(address) => Ok(address.ip().into()),
            Destination::Name { name, .. } => ServerName::try_from(name.clone())
                .map_err(|_| DialError::NotAuthenticated("its name is no host name".to_owned())),
            Destination::Unix(_) => {
                let why = "a Unix socket has no name: set server_name".to_owned();
                Err(DialError::NotAuthenticated(why))
            }
        }
    }
}

/// Why a handshake failed. Whoever the server is, it is not the one that was asked for, or it does not
/// speak TLS 1.3, or it does not let us in.
fn failed(error: &std::io::Error) -> DialError {
    let inner = error.get_ref().and_then(|inner| inner.downcast_ref::<Error>());
    match inner {
        Some(Error::InvalidCertificate(CertificateError::Other(other))) => {
            DialError::NotAuthenticated(text(&other.0))
        }
        Some(Error::InvalidCertificate(_) | Error::NoCertificatesPresented) => {
            DialError::NotAuthenticated(text(&error))
        }
        Some(Error::AlertReceived(alert)) if is_about_us(*alert) => {
            DialError::Denied(format!("the server says {alert:?} about the gateway's certificate"))
        }
        Some(_) => DialError::PeerMisbehaved(format!("no TLS 1.3: {}", text(&error))),
        None if error.kind() == std::io::ErrorKind::UnexpectedEof => {
            DialError::PeerMisbehaved("it ended the TLS handshake".to_owned())
        }
        None => DialError::from_io(error),
    }
}

fn is_about_us(alert: AlertDescription) -> bool {
    matches!(
        alert,
        AlertDescription::AccessDenied
            | AlertDescription::BadCertificate
            | AlertDescription::UnsupportedCertificate
            | AlertDescription::CertificateRevoked
            | AlertDescription::CertificateExpired
            | AlertDescription::CertificateUnknown
            | AlertDescription::CertificateRequired
            | AlertDescription::UnknownCA
    )
}
