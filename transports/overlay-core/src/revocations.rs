//! Revocations: the keys whose certificates the authority took back.
//!
//! in: bytes of a peer or of a file; out: a [`Revocations`] whose signature holds. Plain data. Kept: a
//! list with a higher sequence replaces one with a lower, never the other way round; who is revoked can be
//! certified anew, later. Bound: [`limits::REVOKED_MAX`].
//!
//! On the wire: `version u8, authority 32, sequence u64, count u16, (key 32, at u64)*, signature 64`.

use std::collections::BTreeMap;

use outsock_peer::{Identity, PeerKey};
use outsock_vmrpc::wire::{Malformed, Reader, Writer};

use crate::certificate::Certificate;
use crate::limits;
use crate::record::key;
use crate::signed;
use crate::time::UnixTime;

const VERSION: u8 = 1;
const KIND: &str = "revocations 1";

/// The list of one authority.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Revocations {
    /// Whose list.
    pub authority: PeerKey,
    /// Counts up with each change.
    pub sequence: u64,
    revoked: BTreeMap<PeerKey, UnixTime>,
    signature: [u8; signed::SIGNATURE_BYTES],
}

/// Why a list is none.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RevocationsError {
    /// Longer than any.
    #[error("a list of revocations of {0} bytes is too long")]
    TooLong(usize),
    /// Another version.
    #[error("version {0} of revocations is not known here, only {VERSION}")]
    Version(u8),
    /// Not formed well.
    #[error("the list of revocations is none: {0}")]
    Malformed(#[from] Malformed),
    /// The signature is not its authority's.
    #[error("the signature of the list of revocations is wrong")]
    Signature,
    /// Another network's.
    #[error("the list of revocations is of another network, by {0}")]
    OtherAuthority(PeerKey),
    /// Full.
    #[error(
        "at most {} keys can be revoked; make a new network, or let old certificates end",
        limits::REVOKED_MAX
    )]
    Full,
}

impl Revocations {
    /// Signs a list: in it, a certificate of a key is void when it was issued at or before the moment.
    ///
    /// # Errors
    /// It is full.
    pub fn sign(
        authority: &Identity,
        sequence: u64,
        revoked: BTreeMap<PeerKey, UnixTime>,
    ) -> Result<Self, RevocationsError> {
        if revoked.len() > limits::REVOKED_MAX {
            return Err(RevocationsError::Full);
        }
        let unsigned = Self {
            authority: authority.key(),
            sequence,
            revoked,
            signature: [0; signed::SIGNATURE_BYTES],
        };
        let bytes = signed::seal(KIND, unsigned.body(), authority);
        let (_, signature) = signed::split(&bytes).ok_or(RevocationsError::Signature)?;
        Ok(Self { signature: *signature, ..unsigned })
    }

    fn body(&self) -> Vec<u8> {
        let count = u16::try_from(self.revoked.len()).unwrap_or(u16::MAX);
        let writer = Writer::new().u8(VERSION).raw(self.authority.as_bytes()).u64(self.sequence);
        let put =
            |writer: Writer, (key, at): (&PeerKey, &UnixTime)| writer.raw(key.as_bytes()).u64(at.0);
        self.revoked.iter().fold(writer.u16(count), put).finish()
    }

    /// The bytes.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        [&self.body()[..], &self.signature].concat()
    }

    /// Reads a list and checks that its authority has signed it.
    ///
    /// # Errors
    /// It is none.
    pub fn decode(bytes: &[u8]) -> Result<Self, RevocationsError> {
        if bytes.len() > limits::REVOCATIONS_BYTES_MAX {
            return Err(RevocationsError::TooLong(bytes.len()));
        }
        let (body, signature) = signed::split(bytes).ok_or(Malformed("ends early"))?;
        let mut reader = Reader::new(body);
        let version = reader.u8()?;
        if version != VERSION {
            return Err(RevocationsError::Version(version));
        }
        let (authority, sequence) = (key(&mut reader)?, reader.u64()?);
        let count = reader.u16()?;
        if usize::from(count) > limits::REVOKED_MAX {
            return Err(RevocationsError::Full);
        }
        let mut revoked = BTreeMap::new();
        for _ in 0..count {
            let (key, at) = (key(&mut reader)?, UnixTime(reader.u64()?));
            // In order, so that one list has one spelling.
            if revoked.last_key_value().is_some_and(|(last, _)| *last >= key) {
                return Err(Malformed("keys out of order").into());
            }
            revoked.insert(key, at);
        }
        reader.finish()?;
        if !signed::holds(KIND, body, signature, authority) {
            return Err(RevocationsError::Signature);
        }
        Ok(Self { authority, sequence, revoked, signature: *signature })
    }

    /// Until when a key's certificates are void, if it is revoked.
    #[must_use]
    pub fn of(&self, key: PeerKey) -> Option<UnixTime> {
        self.revoked.get(&key).copied()
    }

    /// Whether a certificate is void.
    #[must_use]
    pub fn voids(&self, certificate: &Certificate) -> bool {
        self.of(certificate.key).is_some_and(|at| certificate.issued <= at)
    }

    /// The keys and their moments.
    #[must_use]
    pub fn entries(&self) -> &BTreeMap<PeerKey, UnixTime> {
        &self.revoked
    }
}
