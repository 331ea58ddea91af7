//! Armor: signed things as text, for files and mails.
//!
//! in: bytes; out: a block of base64 between two lines that say what it is, and back. Plain data. Kept:
//! a block of another kind is not taken; text around a block is for people. Bound:
//! [`limits::ARMOR_BYTES_MAX`].

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;

use crate::limits;

/// What the block of a certificate says it is.
pub const CERTIFICATE: &str = "OUTSOCK CERTIFICATE";
/// What the block of revocations says it is.
pub const REVOCATIONS: &str = "OUTSOCK REVOCATIONS";

/// The block.
///
/// ```
/// use outsock_overlay_core::armor;
/// let text = armor::wrap(armor::CERTIFICATE, b"hello");
/// assert_eq!(armor::unwrap(armor::CERTIFICATE, &text), Some(b"hello".to_vec()));
/// assert_eq!(armor::unwrap(armor::REVOCATIONS, &text), None);
/// ```
#[must_use]
pub fn wrap(kind: &str, bytes: &[u8]) -> String {
    let text = BASE64.encode(bytes);
    let mut lines = format!("-----BEGIN {kind}-----\n");
    for (at, letter) in text.chars().enumerate() {
        if at > 0 && at % 64 == 0 {
            lines.push('\n');
        }
        lines.push(letter);
    }
    lines + &format!("\n-----END {kind}-----\n")
}

/// The bytes of the first block of this kind.
#[must_use]
pub fn unwrap(kind: &str, text: &str) -> Option<Vec<u8>> {
    if text.len() > limits::ARMOR_BYTES_MAX {
        return None;
    }
    let (_, rest) = text.split_once(&format!("-----BEGIN {kind}-----"))?;
    let (body, _) = rest.split_once(&format!("-----END {kind}-----"))?;
    let plain: String = body.split_ascii_whitespace().collect();
    BASE64.decode(plain).ok()
}
