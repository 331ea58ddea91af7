//! TLS: the certificates of gateways, and that they have the right key.
//!
//! in:  our identity, the peers' keys; out: TLS configurations for quinn, a connection's key
//! owner: the endpoint; the table of peers' keys is shared with the verifier
//! keeps: a certificate is a self-signed wrapper around an Ed25519 key. Names, dates and issuers in it
//!        mean nothing; the key must be the expected one, and the handshake must be signed by it
//! bound: one certificate of one key; longer chains are refused

use std::collections::HashSet;
use std::fmt;
use std::sync::{Arc, PoisonError, RwLock};

use outsock_peer::{Identity, PeerKey};
use quinn::crypto::rustls::{QuicClientConfig, QuicServerConfig};
use rustls::client::Resumption;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, PrivatePkcs8KeyDer, ServerName, UnixTime};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::server::{NoServerSessionStorage, ParsedCertificate};
use rustls::{
    CertificateError, DigitallySignedStruct, DistinguishedName, Error, OtherError, SignatureScheme,
};

use crate::tuning::Rate;

/// What both sides name in the handshake, so that no other QUIC service is taken for a gateway.
const ALPN: &[u8] = b"outsock/1";

/// The name that every certificate carries and no verifier looks at.
pub(crate) const SERVER_NAME: &str = "gateway.outsock.invalid";

/// The keys of configured peers.
pub(crate) type KnownKeys = Arc<RwLock<HashSet<PeerKey>>>;

/// Our certificate.
#[derive(Debug)]
pub(crate) struct Credentials {
    certificate: CertificateDer<'static>,
    key: PrivatePkcs8KeyDer<'static>,
    provider: Arc<CryptoProvider>,
}

/// The key is not the expected one.
#[derive(Debug)]
struct WrongKey(String);

impl fmt::Display for WrongKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for WrongKey {}

fn wrong_key(text: String) -> Error {
    Error::InvalidCertificate(CertificateError::Other(OtherError(Arc::new(WrongKey(text)))))
}

impl Credentials {
    pub(crate) fn new(identity: &Identity) -> Result<Self, rcgen::Error> {
        let key = PrivatePkcs8KeyDer::from(identity.to_pkcs8());
        let pair = rcgen::KeyPair::from_pkcs8_der_and_sign_algo(&key, &rcgen::PKCS_ED25519)?;
        let mut params = rcgen::CertificateParams::new(vec![SERVER_NAME.to_owned()])?;
        params.distinguished_name = rcgen::DistinguishedName::new();
        params.distinguished_name.push(rcgen::DnType::CommonName, identity.key().to_string());
        let certificate = params.self_signed(&pair)?.der().clone();
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        Ok(Self { certificate, key, provider })
    }

    /// For a connection to the peer that has this key.
    pub(crate) fn client(&self, expected: PeerKey) -> Result<QuicClientConfig, Error> {
        let verifier = PinnedServer { expected, provider: Arc::clone(&self.provider) };
        let mut config = rustls::ClientConfig::builder_with_provider(Arc::clone(&self.provider))
            .with_protocol_versions(&[&rustls::version::TLS13])?
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(verifier))
            .with_client_auth_cert(vec![self.certificate.clone()], self.key.clone_key().into())?;
        config.alpn_protocols = vec![ALPN.to_vec()];
        config.resumption = Resumption::disabled();
        config.try_into().map_err(|_| Error::General("no cipher suite for QUIC".to_owned()))
    }

    /// For connections from any peer with a known key.
    pub(crate) fn server(&self, known: KnownKeys) -> Result<QuicServerConfig, Error> {
        let provider = Arc::clone(&self.provider);
        let verifier = KnownClient { known, provider, log: Rate::for_log() };
        let mut config = rustls::ServerConfig::builder_with_provider(Arc::clone(&self.provider))
            .with_protocol_versions(&[&rustls::version::TLS13])?
            .with_client_cert_verifier(Arc::new(verifier))
            .with_single_cert(vec![self.certificate.clone()], self.key.clone_key().into())?;
        config.alpn_protocols = vec![ALPN.to_vec()];
        config.session_storage = Arc::new(NoServerSessionStorage {});
        config.send_tls13_tickets = 0;
        config.max_early_data_size = 0;
        config.try_into().map_err(|_| Error::General("no cipher suite for QUIC".to_owned()))
    }
}

/// The key of a connection that stands.
pub(crate) fn key_of(connection: &quinn::Connection) -> Option<PeerKey> {
    let chain = connection.peer_identity()?.downcast::<Vec<CertificateDer<'static>>>().ok()?;
    key_in(chain.first()?).ok()
}

fn key_in(certificate: &CertificateDer<'_>) -> Result<PeerKey, Error> {
    let parsed = ParsedCertificate::try_from(certificate)?;
    PeerKey::from_spki(&parsed.subject_public_key_info())
        .ok_or_else(|| wrong_key("the certificate is not of an Ed25519 key".to_owned()))
}

fn alone(intermediates: &[CertificateDer<'_>]) -> Result<(), Error> {
    if intermediates.is_empty() {
        Ok(())
    } else {
        Err(wrong_key("a gateway's certificate stands alone".to_owned()))
    }
}

#[derive(Debug)]
struct PinnedServer {
    expected: PeerKey,
    provider: Arc<CryptoProvider>,
}

impl ServerCertVerifier for PinnedServer {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        alone(intermediates)?;
        let found = key_in(end_entity)?;
        if found == self.expected {
            Ok(ServerCertVerified::assertion())
        } else {
            let text = format!("the gateway there has the key {found}, not {}", self.expected);
            Err(wrong_key(text))
        }
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _cert: &CertificateDer<'_>,
        _dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Err(Error::General("QUIC has TLS 1.3 only".to_owned()))
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        verify_tls13_signature(message, cert, dss, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        vec![SignatureScheme::ED25519]
    }
}

#[derive(Debug)]
struct KnownClient {
    known: KnownKeys,
    provider: Arc<CryptoProvider>,
    log: Rate,
}

impl ClientCertVerifier for KnownClient {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        alone(intermediates)?;
        let found = key_in(end_entity)?;
        if self.known.read().unwrap_or_else(PoisonError::into_inner).contains(&found) {
            return Ok(ClientCertVerified::assertion());
        }
        if let Some(left_out) = self.log.admit() {
            tracing::warn!(key = %found, left_out, "refused: no [[peer]] has this key");
        }
        Err(Error::InvalidCertificate(CertificateError::ApplicationVerificationFailure))
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _cert: &CertificateDer<'_>,
        _dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Err(Error::General("QUIC has TLS 1.3 only".to_owned()))
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        verify_tls13_signature(message, cert, dss, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        vec![SignatureScheme::ED25519]
    }
}
