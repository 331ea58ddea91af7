//! Pattern: bytes that both ends can make, in which a lost, doubled or moved piece shows.
//!
//! in: a length; out: bytes, digests. Owner: nobody. Kept: the period is a prime, so it never lines up
//! with pages, buffers or rings. `guest/pattern.py` makes the same. Bound: none, it is an iterator.

use sha2::{Digest, Sha256};

/// The largest prime below 65536.
const PERIOD: usize = 65521;

/// One period.
#[must_use]
pub fn period() -> Vec<u8> {
    let byte = |place: usize| u8::try_from((place * place + place / 251) & 255);
    (0..PERIOD).filter_map(|place| byte(place).ok()).collect()
}

/// The first `length` bytes.
#[must_use]
pub fn bytes(length: usize) -> Vec<u8> {
    period().into_iter().cycle().take(length).collect()
}

/// SHA-256 in hexadecimal.
#[derive(Clone, Debug, Default)]
pub struct Hash(Sha256);

impl Hash {
    /// Takes in more.
    pub fn update(&mut self, bytes: &[u8]) {
        self.0.update(bytes);
    }

    /// The digest.
    #[must_use]
    pub fn hex(self) -> String {
        self.0.finalize().iter().map(|byte| format!("{byte:02x}")).collect()
    }
}

/// The digest of the first `length` bytes.
#[must_use]
pub fn digest(length: usize) -> String {
    let mut hash = Hash::default();
    hash.update(&bytes(length));
    hash.hex()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_pattern_does_not_change() {
        assert_eq!(period().len(), PERIOD);
        assert_eq!(bytes(6), [0, 1, 4, 9, 16, 25]);
        assert_eq!(digest(0), "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855");
    }
}
