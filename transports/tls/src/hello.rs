//! Hello: whether a program speaks TLS by itself, by the first bytes that it sends.
//!
//! in: bytes; out: a verdict. Pure. It recognizes programs, it does not hold them: one that wants to
//! look like TLS can.

/// Bytes after which there is always a verdict: a record's header (RFC 8446, 5.1), a handshake's (4)
/// and the version in a ClientHello (4.1.2).
pub const DECIDES: usize = 11;

const HANDSHAKE: u8 = 22;
const CLIENT_HELLO: u8 = 1;
/// The most that a plaintext record may hold.
const RECORD_BYTES_MAX: usize = 1 << 14;
/// Version, random and three empty lists.
const HELLO_BYTES_MIN: usize = 2 + 32 + 1 + 2 + 1;

/// What the first bytes of a program look like.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Looks {
    /// A ClientHello, of any version since SSL 3.0.
    ClientHello,
    /// Something else.
    Other,
    /// Too few bytes to say.
    Unclear,
}

/// Looks at the first bytes.
///
/// ```
/// use outsock_transport_tls::hello::{Looks, looks};
/// assert_eq!(looks(b"\x16\x03\x01\x00\xf8\x01\x00\x00\xf4\x03\x03"), Looks::ClientHello);
/// assert_eq!(looks(b"\x16\x03"), Looks::Unclear);
/// assert_eq!(looks(b"GET / HTTP/1.0"), Looks::Other);
/// ```
pub fn looks(bytes: &[u8]) -> Looks {
    let is = |at: usize, fits: fn(u8) -> bool| bytes.get(at).is_none_or(|byte| fits(*byte));
    let fits = is(0, |byte| byte == HANDSHAKE)
        && is(1, |byte| byte == 3)
        && is(2, |byte| byte <= 4)
        && is(5, |byte| byte == CLIENT_HELLO)
        // A ClientHello of more than 64 KiB would need a program that means harm.
        && is(6, |byte| byte == 0)
        && is(9, |byte| byte == 3)
        && is(10, |byte| byte <= 4);
    if !fits {
        return Looks::Other;
    }
    let number =
        |at: usize| Some(usize::from(*bytes.get(at)?) << 8 | usize::from(*bytes.get(at + 1)?));
    let record = number(3);
    if record.is_some_and(|len| !(4..=RECORD_BYTES_MAX).contains(&len))
        || number(7).is_some_and(|len| len < HELLO_BYTES_MIN)
    {
        return Looks::Other;
    }
    if bytes.len() < DECIDES { Looks::Unclear } else { Looks::ClientHello }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_prefix_of_a_hello_is_unclear_and_every_other_start_is_not() {
        let hello = b"\x16\x03\x01\x00\xf8\x01\x00\x00\xf4\x03\x03random";
        for len in 0..DECIDES {
            assert_eq!(looks(&hello[..len]), Looks::Unclear, "{len}");
        }
        assert_eq!(looks(hello), Looks::ClientHello);
        for at in [0, 1, 2, 5, 6, 9, 10] {
            let mut other = hello.to_vec();
            other[at] = 0x77;
            assert_eq!(looks(&other), Looks::Other, "{at}");
        }
        for text in ["SSH-2.0-", "GET /", "\x16\x03\x01\x7f\x7f", "\x16\x03\x01\x00\x03"] {
            assert_eq!(looks(text.as_bytes()), Looks::Other, "{text:?}");
        }
        assert_eq!(looks(b"\x16\x03\x01\x00\xf8\x02"), Looks::Other, "a ServerHello");
    }
}
