//! Head: an HTTP answer up to its blank line, and not a byte more.
//!
//! in:  a stream; out: the bytes of the head
//! owner: the dial's future
//! keeps: what comes behind the blank line stays in the stream: it is the far side's first word
//! bound: [`limits::HEAD_BYTES_MAX`]

use std::io;

use tokio::io::{AsyncRead, AsyncReadExt};

use crate::limits;

const END: &[u8] = b"\r\n\r\n";

/// Reads a head. A head that is too long is [`io::ErrorKind::InvalidData`].
pub(crate) async fn read(from: &mut (impl AsyncRead + Unpin)) -> io::Result<Vec<u8>> {
    let mut head: Vec<u8> = Vec::with_capacity(256);
    loop {
        // At least so many bytes are still to come, so none of them is behind the end.
        let missing = END.len() - matched(&head);
        if missing == 0 {
            return Ok(head);
        }
        if head.len() + missing > limits::HEAD_BYTES_MAX {
            return Err(io::ErrorKind::InvalidData.into());
        }
        let mut piece = [0; END.len()];
        let count = from.read(&mut piece[..missing]).await?;
        if count == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        head.extend_from_slice(&piece[..count]);
    }
}

/// How much of the end has come.
fn matched(head: &[u8]) -> usize {
    (0..=END.len()).rev().find(|length| head.ends_with(&END[..*length])).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn split(bytes: &[u8]) -> (io::Result<Vec<u8>>, Vec<u8>) {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let mut from = bytes;
        let head = runtime.block_on(read(&mut from));
        (head, from.to_vec())
    }

    proptest! {
        #[test]
        fn not_a_byte_too_many(
            head in "[a\r\n]{0,40}",
            behind in prop::collection::vec(any::<u8>(), 0..20),
        ) {
            let head = format!("{}\r\n\r\n", head.replace("\r\n\r\n", "a"));
            let cut = head.find("\r\n\r\n").unwrap() + 4;
            let all = [head.as_bytes(), &behind].concat();
            let (read, rest) = split(&all);
            prop_assert_eq!(read.unwrap(), &all[..cut]);
            prop_assert_eq!(rest, &all[cut..]);
        }
    }

    #[test]
    fn what_has_no_end_is_an_error() {
        let (head, _) = split(b"HTTP/1.1 200 OK\r\n\r");
        assert_eq!(head.unwrap_err().kind(), io::ErrorKind::UnexpectedEof);
        let (head, rest) = split(&vec![b'a'; 1 << 20]);
        assert_eq!(head.unwrap_err().kind(), io::ErrorKind::InvalidData);
        assert!(rest.len() >= (1 << 20) - limits::HEAD_BYTES_MAX);
    }
}
