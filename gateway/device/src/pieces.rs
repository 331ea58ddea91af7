//! Pieces: lists of guest memory slices, copied from and to host buffers.
//!
//! The pieces come from a chain walk, which checked that they are mapped. The guest may change the
//! bytes while they are copied: they are its own payload, so it can only garble itself.

use std::collections::VecDeque;

use libc::iovec;

/// Bytes in all pieces.
pub(crate) fn len(pieces: &[iovec]) -> usize {
    pieces.iter().map(|piece| piece.iov_len).sum()
}

/// Cuts the list after `bytes`, which must not be more than it holds.
pub(crate) fn truncate(pieces: &mut Vec<iovec>, bytes: usize) {
    let mut left = bytes;
    let mut keep = 0;
    for piece in pieces.iter_mut() {
        if left == 0 {
            break;
        }
        piece.iov_len = piece.iov_len.min(left);
        left -= piece.iov_len;
        keep += 1;
    }
    pieces.truncate(keep);
}

/// Appends to `out` the bytes behind the first `skip`.
pub(crate) fn take_rest(pieces: &[iovec], mut skip: usize, out: &mut VecDeque<u8>) {
    for piece in pieces {
        if skip >= piece.iov_len {
            skip -= piece.iov_len;
            continue;
        }
        out.extend(slice(piece, skip, piece.iov_len - skip));
        skip = 0;
    }
}

/// Appends at most `room` bytes to `out`; returns how many.
pub(crate) fn take(pieces: &[iovec], room: usize, out: &mut VecDeque<u8>) -> usize {
    let mut left = room;
    for piece in pieces {
        let here = piece.iov_len.min(left);
        out.extend(slice(piece, 0, here));
        left -= here;
        if left == 0 {
            break;
        }
    }
    room - left
}

fn slice(piece: &iovec, from: usize, len: usize) -> &[u8] {
    // SAFETY: `from + len` is at most the piece's length.
    let start = unsafe { piece.iov_base.cast::<u8>().add(from) };
    // SAFETY: the chain walk found these bytes mapped, and the memory map outlives the pass in
    // which pieces are used. The guest may write to them meanwhile; `u8` has no invalid values.
    unsafe { std::slice::from_raw_parts(start, len) }
}

/// Fills the pieces from the sources, in order; returns how many bytes were copied.
pub(crate) fn fill(pieces: &[iovec], sources: [&[u8]; 2]) -> usize {
    let mut copied = 0;
    let mut sources = sources.into_iter();
    let mut source = sources.next().unwrap_or_default();
    for piece in pieces {
        let mut at = 0;
        while at < piece.iov_len {
            if source.is_empty() {
                match sources.next() {
                    Some(next) if !next.is_empty() => source = next,
                    _ => return copied,
                }
            }
            let here = source.len().min(piece.iov_len - at);
            // SAFETY: `at + here` is at most the piece's length.
            let target = unsafe { piece.iov_base.cast::<u8>().add(at) };
            // SAFETY: `here` bytes on either side; `source` is host memory, the piece is guest
            // memory, mapped for the device to write.
            unsafe { std::ptr::copy_nonoverlapping(source.as_ptr(), target, here) };
            source = &source[here..];
            at += here;
            copied += here;
        }
    }
    copied
}
