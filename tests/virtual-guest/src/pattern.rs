//! Pattern: bytes that tell where in a stream they belong.
//!
//! in: a position in a stream; out: the bytes that stand there, or whether given bytes are those.
//! Pure. Kept: a lost, doubled or swapped piece is seen unless it is a multiple of the period, a
//! prime that no buffer size is a multiple of. Bound: none needed, one static table.

use std::sync::OnceLock;

use crate::limits::PACKET_PAYLOAD_BYTES_MAX;

const PERIOD: usize = 65_521;

fn table() -> &'static [u8] {
    static TABLE: OnceLock<Vec<u8>> = OnceLock::new();
    TABLE.get_or_init(|| {
        let mut state = 0x2545_f491_4f6c_dd1d_u64;
        let mut bytes: Vec<u8> = (0..PERIOD)
            .map(|_| {
                state ^= state << 13;
                state ^= state >> 7;
                state ^= state << 17;
                state.to_le_bytes()[3]
            })
            .collect();
        bytes.extend_from_within(..);
        bytes.extend_from_within(..PACKET_PAYLOAD_BYTES_MAX);
        bytes
    })
}

/// The bytes of a stream from `position` on: at most 64 KiB at once.
pub fn at(position: u64, len: usize) -> &'static [u8] {
    let len = len.min(PACKET_PAYLOAD_BYTES_MAX);
    let start = usize::try_from(position % PERIOD as u64).unwrap_or(0);
    &table()[start..start + len]
}

/// Where `bytes`, which stand at `position`, differ from the pattern for the first time.
pub fn mismatch(position: u64, bytes: &[u8]) -> Option<u64> {
    let mut at_byte = position;
    for chunk in bytes.chunks(PACKET_PAYLOAD_BYTES_MAX) {
        let expected = at(at_byte, chunk.len());
        if chunk != expected {
            let first = chunk.iter().zip(expected).position(|(a, b)| a != b).unwrap_or(0);
            return Some(at_byte + first as u64);
        }
        at_byte += chunk.len() as u64;
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stream_can_be_checked_in_any_pieces() {
        let whole: Vec<u8> = (0..5).flat_map(|n| at(n * 65_536, 65_536)).copied().collect();
        for piece in [1000, 65_537, 200_000] {
            let mut position = 0;
            for chunk in whole.chunks(piece) {
                assert_eq!(mismatch(position, chunk), None);
                position += chunk.len() as u64;
            }
        }
        assert!(mismatch(4096, &whole[..10]).is_some());
    }
}
