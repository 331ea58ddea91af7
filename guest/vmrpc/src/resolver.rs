//! The `resolver` host module, version 1: DNS messages in, DNS messages out.
//!
//! # The contract
//!
//! The agent runs a stub resolver on a loopback address of the guest, port 53, UDP and TCP, and
//! makes it the one `nameserver` of the programs that it runs. It does not look into a message: it
//! passes each to [`QUERY`] and hands the result back to whoever asked.
//!
//! * **UDP.** One datagram is one call. [`QueryRequest::answer_bytes_max`] is
//!   [`answer_bytes_max`]`(message)`: 512, or what the client's EDNS says. The answer fits; where it
//!   did not, it comes with TC set, and the client asks again over TCP.
//! * **TCP.** Messages with two bytes of length before each (RFC 1035, 4.2.2), any number on one
//!   connection, several under way at once; answers may go back in any order.
//!   [`QueryRequest::answer_bytes_max`] is [`limits::DNS_ANSWER_BYTES_MAX`].
//! * **Ids.** The answer has the query's id and question. The agent needs no id table of its own.
//! * **Errors of DNS are messages**, not errors of the call: NXDOMAIN, SERVFAIL, REFUSED (this
//!   guest may not ask), FORMERR. Only these calls fail, and the agent does what stands here:
//!
//!   | Outcome of the call | What the stub does |
//!   |---|---|
//!   | `EMSGSIZE`: longer than [`limits::DNS_QUERY_BYTES_MAX`] | drops it (UDP), closes (TCP) |
//!   | `EINVAL`: no DNS query at all (shorter than a header, or an answer) | the same |
//!   | `EAGAIN`: too many queries of this guest under way, or in this second | answers SERVFAIL |
//!   | the stream to the gateway is gone, or any other fault | answers SERVFAIL |
//!
//!   For SERVFAIL, [`servfail`] turns the query into the answer.
//! * **Order.** Calls are pipelined; a slow name delays no other. The gateway answers in at most
//!   10 s, with SERVFAIL at the latest.
//!
//! # What the gateway answers
//!
//! A and AAAA of a name that some `[[route]]` of this guest picks by `domains` come from a pool of
//! synthetic addresses (198.18.0.0/15 and a ULA prefix unless configured otherwise), both families
//! always together, with a short TTL. A connect to such an address is a connect to the name: the
//! agent passes it to `socket.CONNECT` like any other address and must never take it for one of the
//! guest's own networks. One that no name has fails with EHOSTUNREACH. HTTPS and SVCB of such a
//! name are empty, because their hints would lead past the rule. PTR of a synthetic address is its
//! name. Everything else is what the host's resolvers say, all record types, cached; connects to
//! addresses that this guest was just told are matched by name, too.

use crate::limits;
use crate::name::{Version, VersionRange};
use crate::wire::{Malformed, Reader, Writer};

/// The module's name.
pub const NAME: &str = "resolver";

/// The versions that this crate describes.
pub const VERSIONS: VersionRange = VersionRange::only(Version(1));

/// Function 1: one DNS query. Arguments [`QueryRequest`]; the result is the answer, a DNS message
/// of at most [`QueryRequest::answer_bytes_max`] bytes and nothing else.
pub const QUERY: u32 = 1;

/// Bytes of a DNS message's header.
const HEADER_BYTES: usize = 12;

/// What a UDP client takes when it says nothing (RFC 1035, 4.2.1).
const UDP_BYTES: u16 = 512;

/// Arguments of [`QUERY`]. On the wire: `answer_bytes_max` as 16 bits, then the message to the end.
///
/// ```
/// use outsock_vmrpc::resolver::QueryRequest;
/// let query = QueryRequest { answer_bytes_max: 1232, message: vec![0; 17] };
/// assert_eq!(QueryRequest::decode(&query.encode()), Ok(query));
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct QueryRequest {
    /// The longest answer that the client takes, bytes.
    pub answer_bytes_max: u16,
    /// The query, as it came.
    pub message: Vec<u8>,
}

impl QueryRequest {
    /// As arguments.
    pub fn encode(&self) -> Vec<u8> {
        Writer::new().u16(self.answer_bytes_max).raw(&self.message).finish()
    }

    /// From arguments. The message's own form is for the module to judge.
    pub fn decode(bytes: &[u8]) -> Result<Self, Malformed> {
        let mut reader = Reader::new(bytes);
        let answer_bytes_max = reader.u16()?;
        let message = reader.bytes(bytes.len() - 2)?.to_vec();
        reader.finish()?;
        Ok(Self { answer_bytes_max, message })
    }
}

/// How long an answer over UDP may be: what the query's EDNS record says (RFC 6891, 6.2.3), at
/// least 512. Looks only at what it must and never fails: a query that cannot be read gets 512.
pub fn answer_bytes_max(query: &[u8]) -> u16 {
    edns_bytes(query).map_or(UDP_BYTES, |bytes| bytes.max(UDP_BYTES))
}

fn edns_bytes(query: &[u8]) -> Option<u16> {
    let count = |at| Some(u16::from_be_bytes([*query.get(at)?, *query.get(at + 1)?]));
    let mut at = HEADER_BYTES;
    for _ in 0..count(4)? {
        at = skip_name(query, at)?.checked_add(4)?;
    }
    let records = u32::from(count(6)?) + u32::from(count(8)?) + u32::from(count(10)?);
    for _ in 0..records {
        at = skip_name(query, at)?;
        let (kind, class, length) = (count(at)?, count(at + 2)?, count(at + 8)?);
        const OPT: u16 = 41;
        if kind == OPT {
            return Some(class);
        }
        at += 10 + usize::from(length);
    }
    None
}

fn skip_name(message: &[u8], mut at: usize) -> Option<usize> {
    loop {
        match *message.get(at)? {
            0 => return Some(at + 1),
            length @ 1..=63 => at += 1 + usize::from(length),
            // A pointer ends the name.
            192.. => return Some(at + 2),
            64..=191 => return None,
        }
    }
}

/// The answer that says that the server failed: the query's header and question with QR, RA and
/// code 2. `None` for what is no query, which gets no answer.
///
/// ```
/// use outsock_vmrpc::resolver::servfail;
/// let mut query = vec![0x12, 0x34, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0];
/// query.extend(b"\x01a\x00\x00\x01\x00\x01");
/// let answer = servfail(&query).unwrap();
/// assert_eq!(answer[..4], [0x12, 0x34, 0x81, 0x82]);
/// assert_eq!(servfail(&answer), None, "an answer is never answered");
/// ```
pub fn servfail(query: &[u8]) -> Option<Vec<u8>> {
    const QR: u8 = 0x80;
    const OPCODE_AND_RD: u8 = 0x79;
    const RA_AND_SERVFAIL: u8 = 0x82;
    let header: &[u8; HEADER_BYTES] = query.first_chunk()?;
    if header[2] & QR != 0 {
        return None;
    }
    let one_question = header[4..6] == [0, 1];
    let end = skip_name(query, HEADER_BYTES).and_then(|at| at.checked_add(4));
    let question = end.and_then(|end| query.get(HEADER_BYTES..end)).filter(|_| one_question);
    let mut answer = vec![header[0], header[1], QR | (header[2] & OPCODE_AND_RD), RA_AND_SERVFAIL];
    answer.extend([0, u8::from(question.is_some()), 0, 0, 0, 0, 0, 0]);
    answer.extend(question.unwrap_or_default());
    Some(answer)
}

/// Whether a message may be passed to [`QUERY`] at all.
pub fn is_acceptable_length(message: &[u8]) -> bool {
    (HEADER_BYTES..=limits::DNS_QUERY_BYTES_MAX).contains(&message.len())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn query(additional: &[u8]) -> Vec<u8> {
        let mut query = vec![0, 7, 1, 0, 0, 1, 0, 0, 0, 0, 0, u8::from(!additional.is_empty())];
        query.extend(b"\x07example\x03org\x00\x00\x1c\x00\x01");
        query.extend(additional);
        query
    }

    #[test]
    fn edns_says_how_much_a_client_takes() {
        assert_eq!(answer_bytes_max(&query(&[])), 512);
        assert_eq!(answer_bytes_max(&query(&[0, 0, 41, 0x04, 0xd0, 0, 0, 0, 0, 0, 0])), 1232);
        assert_eq!(answer_bytes_max(&query(&[0, 0, 41, 0, 100, 0, 0, 0, 0, 0, 0])), 512);
        assert_eq!(answer_bytes_max(&query(&[0, 0, 41])), 512);
        assert_eq!(answer_bytes_max(b"\x00"), 512);
    }

    #[test]
    fn a_broken_question_is_left_out_of_servfail() {
        let mut broken = query(&[]);
        broken.truncate(15);
        assert_eq!(servfail(&broken).unwrap(), [0, 7, 0x81, 0x82, 0, 0, 0, 0, 0, 0, 0, 0]);
        assert_eq!(servfail(&query(&[])).unwrap().len(), query(&[]).len());
    }

    proptest! {
        #[test]
        fn any_bytes_are_survived(bytes in proptest::collection::vec(any::<u8>(), 0..64)) {
            prop_assert!(answer_bytes_max(&bytes) >= 512);
            let _ = servfail(&bytes);
            let _ = QueryRequest::decode(&bytes);
        }
    }
}
