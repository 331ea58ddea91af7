//! Fragments: datagrams that came in pieces.
//!
//! in: fragments; out: whole datagrams. Owner: the relay. Kept: pieces count in order only, which is
//! how the guest's own kernel sends them, one behind the other (an IPv6 datagram longer than the
//! device's MTU, or one that a container's bridge has cut). Bound: [`limits::FRAGMENTED_MAX`]
//! datagrams, of which the oldest is given up first.

use std::collections::VecDeque;
use std::net::IpAddr;

use super::packet::{Fragment, Packet};
use crate::limits;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Key {
    from: IpAddr,
    to: IpAddr,
    protocol: u8,
    identification: u32,
}

/// See the module.
#[derive(Debug, Default)]
pub(crate) struct Fragments {
    parts: VecDeque<(Key, Vec<u8>)>,
}

impl Fragments {
    /// Takes a fragment in; returns the datagram when it was the last one.
    pub(crate) fn take(&mut self, packet: &Packet<'_>, fragment: Fragment) -> Option<Vec<u8>> {
        let key = Key {
            from: packet.from,
            to: packet.to,
            protocol: packet.protocol,
            identification: fragment.identification,
        };
        let known = self.parts.iter().position(|(other, _)| *other == key);
        let mut bytes = match known.and_then(|at| self.parts.remove(at)) {
            Some((_, bytes)) => bytes,
            None => Vec::new(),
        };
        let fits = bytes.len() + packet.body.len() <= limits::FRAGMENTED_BYTES_MAX;
        if bytes.len() != fragment.offset || !fits {
            return None;
        }
        bytes.extend(packet.body);
        if !fragment.more {
            return Some(bytes);
        }
        if self.parts.len() >= limits::FRAGMENTED_MAX {
            self.parts.pop_front();
        }
        self.parts.push_back((key, bytes));
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn take(fragments: &mut Fragments, id: u32, offset: usize, more: bool) -> Option<Vec<u8>> {
        let body = [7u8; 16];
        let fragment = Fragment { identification: id, offset, more };
        let packet = Packet {
            from: "192.0.0.2".parse().unwrap(),
            to: "203.0.113.1".parse().unwrap(),
            protocol: 17,
            hop_limit: 64,
            whole: &body,
            fragment: Some(fragment),
            body: &body,
        };
        fragments.take(&packet, fragment)
    }

    #[test]
    fn pieces_in_order_make_a_datagram() {
        let mut fragments = Fragments::default();
        assert_eq!(take(&mut fragments, 1, 0, true), None);
        assert_eq!(take(&mut fragments, 2, 0, true), None);
        assert_eq!(take(&mut fragments, 1, 16, true), None);
        assert_eq!(take(&mut fragments, 1, 32, false).map(|bytes| bytes.len()), Some(48));
        assert_eq!(take(&mut fragments, 2, 16, false).map(|bytes| bytes.len()), Some(32));
        assert!(fragments.parts.is_empty());
    }

    #[test]
    fn a_gap_gives_up_and_a_flood_stays_within_its_bound() {
        let mut fragments = Fragments::default();
        assert_eq!(take(&mut fragments, 1, 0, true), None);
        assert_eq!(take(&mut fragments, 1, 32, false), None);
        assert!(fragments.parts.is_empty());
        for id in 0..1000 {
            assert_eq!(take(&mut fragments, id, 0, true), None);
        }
        assert_eq!(fragments.parts.len(), limits::FRAGMENTED_MAX);
    }
}
