//! Answer: DNS messages as this module reads and writes them.
//!
//! in: a query's bytes, records; out: an answer's bytes. Plain data; hickory-proto parses. Kept: an
//! answer carries the query's id and question as they came, letter case included, which some
//! clients check; it never exceeds what the client takes: records go, and TC says so.

use std::net::IpAddr;

use hickory_net::NoRecords;
use hickory_proto::op::{Edns, Message, MessageType, OpCode, Query, ResponseCode};
use hickory_proto::rr::rdata::PTR;
use hickory_proto::rr::{DNSClass, Name, RData, Record, RecordType};
use hickory_resolver::lookup::Lookup;

use crate::limits;

/// What this gateway says that it takes over UDP (the common value that is never fragmented).
const EDNS_BYTES: u16 = 1232;

/// A query that can be answered.
#[derive(Debug)]
pub(super) struct Question {
    query: Query,
    /// An answer without records.
    blank: Message,
}

/// Reads a query: one that can be answered, or the answer that says why not. `None` for what is no
/// query at all.
pub(super) fn read(bytes: &[u8]) -> Option<Result<Question, Message>> {
    let header: &[u8; 12] = bytes.first_chunk()?;
    let id = u16::from_be_bytes([header[0], header[1]]);
    let op_code = OpCode::from_u8(header[2] >> 3 & 0xf);
    const QR: u8 = 0x80;
    if header[2] & QR != 0 {
        return None;
    }
    let error = |code| Some(Err(Message::error_msg(id, op_code, code)));
    if op_code != OpCode::Query {
        return error(ResponseCode::NotImp);
    }
    let Ok(query) = Message::from_vec(bytes) else {
        return error(ResponseCode::FormErr);
    };
    if query.metadata.message_type != MessageType::Query {
        return None;
    }
    let [question] = query.queries.as_slice() else {
        return error(ResponseCode::FormErr);
    };
    let mut blank = Message::response(id, op_code);
    blank.metadata.recursion_desired = query.metadata.recursion_desired;
    blank.metadata.recursion_available = true;
    blank.add_query(question.clone());
    if query.edns.is_some() {
        let mut edns = Edns::new();
        edns.set_max_payload(EDNS_BYTES);
        blank.set_edns(edns);
    }
    let question = Question { query: question.clone(), blank };
    if question.query.query_class() != DNSClass::IN {
        return Some(Err(question.code(ResponseCode::Refused)));
    }
    Some(match question.kind() {
        RecordType::AXFR | RecordType::IXFR => Err(question.code(ResponseCode::Refused)),
        _ => Ok(question),
    })
}

/// The bytes of an answer, at most `bytes_max`.
pub(super) fn write(reply: &Message, bytes_max: u16) -> Option<Vec<u8>> {
    let fits = |bytes: &Vec<u8>| bytes.len() <= usize::from(bytes_max);
    // A message too long for 16 bits cannot be written at all: truncated, it can.
    if let Some(bytes) = reply.to_vec().ok().filter(fits) {
        return Some(bytes);
    }
    reply.truncate().to_vec().ok()
}

impl Question {
    pub(super) fn name(&self) -> &Name {
        self.query.name()
    }

    pub(super) fn kind(&self) -> RecordType {
        self.query.query_type()
    }

    /// The address that a name under `in-addr.arpa` or `ip6.arpa` stands for.
    pub(super) fn reverse(&self) -> Option<IpAddr> {
        let net = self.name().parse_arpa_name().ok()?;
        let whole = match net.addr() {
            IpAddr::V4(_) => 32,
            IpAddr::V6(_) => 128,
        };
        (net.prefix_len() == whole).then(|| net.addr())
    }

    /// An answer that is only a code.
    pub(super) fn code(&self, code: ResponseCode) -> Message {
        let mut reply = self.blank.clone();
        reply.metadata.response_code = code;
        reply
    }

    /// An answer with records.
    pub(super) fn records(&self, records: impl IntoIterator<Item = Record>) -> Message {
        let mut reply = self.blank.clone();
        reply.answers.extend(records);
        reply
    }

    /// The name of an address.
    pub(super) fn pointer(&self, name: &str) -> Message {
        let Ok(mut target) = Name::from_ascii(name) else {
            return self.code(ResponseCode::ServFail);
        };
        target.set_fqdn(true);
        let data = RData::PTR(PTR(target));
        let ttl = limits::SYNTHETIC_TTL_SECONDS;
        self.records([Record::from_rdata(self.name().clone(), ttl, data)])
    }

    /// What the host's resolvers said.
    pub(super) fn passed_on(&self, lookup: &Lookup) -> Message {
        let mut reply = self.records(lookup.answers().iter().cloned());
        reply.authorities.extend(lookup.authorities().iter().cloned());
        reply.additionals.extend(lookup.additionals().iter().cloned());
        reply
    }

    /// What the host's resolvers said: nothing, and for how long.
    pub(super) fn negative(&self, none: NoRecords) -> Message {
        let mut reply = self.code(none.response_code);
        if let Some(soa) = none.soa {
            reply.authorities.push(soa.into_record_of_rdata());
        }
        reply
    }
}
