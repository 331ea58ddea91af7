//! PeerKey: the public key that a gateway is known by.
//!
//! in:  32 bytes of an Ed25519 public key, or its text
//! out: the text, the bytes, the DER form that certificates carry
//! owner: nobody; a plain value
//! keeps: the text *is* the key, in the form of a libp2p PeerId: base58 of an identity multihash of
//!        the protobuf-encoded key, so it always begins with `12D3KooW`. One text names a gateway
//!        for QUIC and for an overlay, and nothing has to be looked up
//! bound: 32 bytes
//!
//! Source: libp2p specs, peer-ids; RFC 8410 for the DER form.

use std::fmt;
use std::str::FromStr;

/// Identity multihash (0x00) of 36 bytes: a protobuf with key type Ed25519 (1) and 32 bytes of key.
const PEER_ID_PREFIX: [u8; 6] = [0x00, 0x24, 0x08, 0x01, 0x12, 0x20];

/// SubjectPublicKeyInfo of an Ed25519 key, up to the key itself (RFC 8410, 4).
const SPKI_PREFIX: [u8; 12] =
    [0x30, 0x2a, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x03, 0x21, 0x00];

/// The text of every key has this many characters.
const TEXT_CHARACTERS: usize = 52;

/// An Ed25519 public key.
///
/// ```
/// use outsock_peer::PeerKey;
/// let text = "12D3KooWDpJ7As7BWAwRMfu1VU2WCqNjvq387JEYKDBj4kx6nXTN";
/// let key: PeerKey = text.parse()?;
/// assert_eq!(key.to_string(), text);
/// # Ok::<(), outsock_peer::BadKey>(())
/// ```
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PeerKey([u8; 32]);

/// A text that is no key.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadKey {
    /// Another length.
    #[error(
        "a peer's key has {TEXT_CHARACTERS} characters, this has {0}: `outsock-gateway keygen` prints it"
    )]
    Length(usize),
    /// Characters that base58 has not.
    #[error("a peer's key is base58 (no 0, O, I, l); `outsock-gateway keygen` prints it")]
    Alphabet,
    /// Base58, but no Ed25519 key.
    #[error("this is no Ed25519 key: a peer's key begins with 12D3KooW")]
    OtherKind,
}

impl PeerKey {
    /// Takes the raw bytes of a public key.
    pub const fn new(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// The raw bytes.
    pub fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }

    /// The key in a certificate's SubjectPublicKeyInfo; `None` when it is of another kind.
    pub fn from_spki(der: &[u8]) -> Option<Self> {
        let raw = der.strip_prefix(&SPKI_PREFIX)?;
        Some(Self(raw.try_into().ok()?))
    }

    /// Whether this key has signed a message (Ed25519, RFC 8032).
    pub fn verify(&self, message: &[u8], signature: &[u8; 64]) -> bool {
        let key = ring::signature::UnparsedPublicKey::new(&ring::signature::ED25519, &self.0);
        key.verify(message, signature).is_ok()
    }

    /// The bytes of the libp2p PeerId.
    pub fn peer_id_bytes(&self) -> Vec<u8> {
        [&PEER_ID_PREFIX[..], &self.0].concat()
    }
}

impl fmt::Display for PeerKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&bs58::encode(self.peer_id_bytes()).into_string())
    }
}

impl fmt::Debug for PeerKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for PeerKey {
    type Err = BadKey;

    fn from_str(text: &str) -> Result<Self, BadKey> {
        if text.len() != TEXT_CHARACTERS {
            return Err(BadKey::Length(text.chars().count()));
        }
        let bytes = bs58::decode(text).into_vec().map_err(|_| BadKey::Alphabet)?;
        let raw = bytes.strip_prefix(&PEER_ID_PREFIX).ok_or(BadKey::OtherKind)?;
        raw.try_into().map(Self).map_err(|_| BadKey::OtherKind)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_known_peer_id_is_read_as_libp2p_reads_it() {
        // libp2p specs, peer-ids: the example PeerId of an Ed25519 key.
        let text = "12D3KooWD3eckifWpRn9wQpMG9R9hX3sD158z7EqHWmweQAJU5SA";
        let key: PeerKey = text.parse().unwrap();
        assert_eq!(key.to_string(), text);
        assert_eq!(key.peer_id_bytes().len(), 38);
    }

    #[test]
    fn what_is_no_key_is_named() {
        let text = "12D3KooWD3eckifWpRn9wQpMG9R9hX3sD158z7EqHWmweQAJU5SA";
        assert_eq!(PeerKey::from_str(&text[..51]), Err(BadKey::Length(51)));
        assert_eq!(PeerKey::from_str(&text.replace('k', "0")), Err(BadKey::Alphabet));
        assert_eq!(PeerKey::from_str(&text.replace("12D3", "zzzz")), Err(BadKey::OtherKind));
    }

    proptest! {
        #[test]
        fn text_and_der_lead_back(bytes: [u8; 32]) {
            let key = PeerKey::new(bytes);
            prop_assert_eq!(key.to_string().parse::<PeerKey>(), Ok(key));
            prop_assert!(key.to_string().starts_with("12D3KooW"));
            let der = [&SPKI_PREFIX[..], &bytes].concat();
            prop_assert_eq!(PeerKey::from_spki(&der), Some(key));
        }

        #[test]
        fn any_text_is_a_key_or_an_error(text in ".{0,80}") {
            let _ = text.parse::<PeerKey>();
        }
    }
}
