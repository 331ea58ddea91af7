//! Signed: bytes with an Ed25519 signature behind them.
//!
//! in: a body and what it is; out: body and signature, or the body of a signature that holds. Plain data.
//! Kept: what is signed names its kind, so that a signed thing is never taken for one of another kind.
//! Bound: the caller's, before a signature is checked.

use outsock_peer::{Identity, PeerKey};

/// Bytes of a signature.
pub const SIGNATURE_BYTES: usize = 64;

fn message(kind: &str, body: &[u8]) -> Vec<u8> {
    [b"outsock ", kind.as_bytes(), &[0], body].concat()
}

/// The body, and its signature.
#[must_use]
pub fn seal(kind: &str, body: Vec<u8>, identity: &Identity) -> Vec<u8> {
    let signature = identity.sign(&message(kind, &body));
    [body, signature.to_vec()].concat()
}

/// Body and signature. `None` where there is no room for a signature.
#[must_use]
pub fn split(bytes: &[u8]) -> Option<(&[u8], &[u8; SIGNATURE_BYTES])> {
    bytes.split_last_chunk()
}

/// Whether the key has signed the body as a thing of this kind.
#[must_use]
pub fn holds(kind: &str, body: &[u8], signature: &[u8; SIGNATURE_BYTES], key: PeerKey) -> bool {
    key.verify(&message(kind, body), signature)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_signature_is_of_one_kind_one_key_and_these_bytes() {
        let identity = Identity::from_seed([1; 32]).unwrap();
        let other = Identity::from_seed([2; 32]).unwrap();
        let bytes = seal("record 1", b"body".to_vec(), &identity);
        let (body, signature) = split(&bytes).unwrap();
        assert_eq!(body, b"body");
        assert!(holds("record 1", body, signature, identity.key()));
        assert!(!holds("certificate 1", body, signature, identity.key()));
        assert!(!holds("record 1", body, signature, other.key()));
        assert!(!holds("record 1", b"bodi", signature, identity.key()));
        assert!(split(&bytes[..63]).is_none());
    }
}
