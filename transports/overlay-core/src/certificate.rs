//! Certificate: the authority's word that a key is a member, and what it is called.
//!
//! in: bytes of a peer or of a file; out: a [`Certificate`] whose signature holds. Plain data. Kept: a
//! certificate is of one authority, one key, one name, and ends. Bound: [`limits::CERTIFICATE_BYTES_MAX`].
//!
//! On the wire: `version u8, authority 32, key 32, name text, issued u64, lifetime u64, signature 64`;
//! integers are little-endian.

use outsock_peer::{Identity, PeerKey};
use outsock_vmrpc::wire::{Malformed, Reader, Writer};

use crate::limits;
use crate::name::Label;
use crate::record::key;
use crate::signed;
use crate::time::UnixTime;

const VERSION: u8 = 1;
const KIND: &str = "certificate 1";

/// Of a member of a private network.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Certificate {
    /// Who says so.
    pub authority: PeerKey,
    /// Of whom.
    pub key: PeerKey,
    /// What the member is called.
    pub name: Label,
    /// Since when.
    pub issued: UnixTime,
    /// For how long, seconds.
    pub lifetime_s: u64,
    signature: [u8; signed::SIGNATURE_BYTES],
}

/// Why a certificate is not worth anything here.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CertificateError {
    /// Longer than any.
    #[error("a certificate of {0} bytes is too long")]
    TooLong(usize),
    /// Another version.
    #[error("version {0} of certificates is not known here, only {VERSION}")]
    Version(u8),
    /// Not formed well.
    #[error("the certificate is none: {0}")]
    Malformed(#[from] Malformed),
    /// The signature is not its authority's.
    #[error("the certificate's signature is wrong")]
    Signature,
    /// Of another network.
    #[error("the certificate is of another network, by {0}")]
    OtherAuthority(PeerKey),
    /// Not yet valid.
    #[error("the certificate is valid from {from} and it is {now} here: is a clock wrong?")]
    Future {
        /// Since when it will be.
        from: UnixTime,
        /// Our clock.
        now: UnixTime,
    },
    /// No longer valid.
    #[error(
        "the certificate ended at {end} and it is {now} here: `outsock-gateway network sign` renews it"
    )]
    Expired {
        /// When it ended.
        end: UnixTime,
        /// Our clock.
        now: UnixTime,
    },
    /// For longer than any.
    #[error("a certificate is valid for at most {} days", limits::CERTIFICATE_LIFETIME_S_MAX / 86_400)]
    Lifetime,
    /// The authority took it back.
    #[error("the authority has revoked this key's certificate")]
    Revoked,
}

impl Certificate {
    /// Signs one.
    ///
    /// # Errors
    /// It would be valid for too long.
    pub fn sign(
        authority: &Identity,
        key: PeerKey,
        name: Label,
        issued: UnixTime,
        lifetime_s: u64,
    ) -> Result<Self, CertificateError> {
        if lifetime_s > limits::CERTIFICATE_LIFETIME_S_MAX {
            return Err(CertificateError::Lifetime);
        }
        let unsigned = Self {
            authority: authority.key(),
            key,
            name,
            issued,
            lifetime_s,
            signature: [0; signed::SIGNATURE_BYTES],
        };
        let bytes = signed::seal(KIND, unsigned.body(), authority);
        let (_, signature) = signed::split(&bytes).ok_or(CertificateError::Signature)?;
        Ok(Self { signature: *signature, ..unsigned })
    }

    fn body(&self) -> Vec<u8> {
        Writer::new()
            .u8(VERSION)
            .raw(self.authority.as_bytes())
            .raw(self.key.as_bytes())
            .text(self.name.as_str())
            .u64(self.issued.0)
            .u64(self.lifetime_s)
            .finish()
    }

    /// The bytes.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        [&self.body()[..], &self.signature].concat()
    }

    /// Reads one, and checks that its authority has signed it. Whether that authority is ours, and the
    /// certificate valid now, [`Authority::check`](crate::Authority::check) says.
    ///
    /// # Errors
    /// It is none.
    pub fn decode(bytes: &[u8]) -> Result<Self, CertificateError> {
        if bytes.len() > limits::CERTIFICATE_BYTES_MAX {
            return Err(CertificateError::TooLong(bytes.len()));
        }
        let (body, signature) = signed::split(bytes).ok_or(Malformed("ends early"))?;
        let mut reader = Reader::new(body);
        let version = reader.u8()?;
        if version != VERSION {
            return Err(CertificateError::Version(version));
        }
        let (authority, key) = (key(&mut reader)?, key(&mut reader)?);
        let text = reader.text(63)?;
        let name = Label::parse(text).map_err(|_| Malformed("bad name"))?;
        if name.as_str() != text {
            return Err(Malformed("name with upper case").into());
        }
        let (issued, lifetime_s) = (UnixTime(reader.u64()?), reader.u64()?);
        reader.finish()?;
        if lifetime_s > limits::CERTIFICATE_LIFETIME_S_MAX {
            return Err(CertificateError::Lifetime);
        }
        if !signed::holds(KIND, body, signature, authority) {
            return Err(CertificateError::Signature);
        }
        Ok(Self { authority, key, name, issued, lifetime_s, signature: *signature })
    }

    /// When it ends.
    #[must_use]
    pub fn end(&self) -> UnixTime {
        self.issued.after_s(self.lifetime_s)
    }
}
