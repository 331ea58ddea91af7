//! Routes: is an address the guest's own? The guest's kernel is asked, every time.
//!
//! in: an address; out: whether a packet to it would stay in the guest. One netlink question, one
//! answer (about 2 us), so an address that was added a moment ago counts, and nothing is cached.
//! Owner: the supervisor's thread.

use std::io;
use std::net::IpAddr;
use std::os::fd::{AsFd, OwnedFd};

use crate::{address, sys};

/// The socket for the questions.
#[derive(Debug)]
pub(crate) struct Routes {
    netlink: OwnedFd,
    sequence: u32,
}

impl Routes {
    pub(crate) fn open() -> io::Result<Self> {
        Ok(Self { netlink: sys::socket::route_query()?, sequence: 0 })
    }

    /// Whether a connection to `address` is one within the guest. An address that the kernel has no
    /// route to is not its own.
    pub(crate) fn is_guests_own(&mut self, address: IpAddr) -> bool {
        if let Some(known) = address::is_guests_own(address) {
            return known;
        }
        self.sequence = self.sequence.wrapping_add(1);
        let question = question(address.to_canonical(), self.sequence);
        self.ask(&question).unwrap_or(false)
    }

    fn ask(&self, question: &[u8]) -> io::Result<bool> {
        sys::socket::send(self.netlink.as_fd(), question)?;
        let mut answer = [0u8; 1024];
        loop {
            let length = sys::socket::receive(self.netlink.as_fd(), &mut answer)?;
            if let Some(own) = parse_answer(&answer[..length], self.sequence) {
                return Ok(own);
            }
        }
    }
}

const RTM_NEWROUTE: u16 = 24;
const RTM_GETROUTE: u16 = 26;
const NLM_F_REQUEST: u16 = 1;
const RTA_DST: u16 = 1;
const RTN_LOCAL: u8 = 2;
const HEADER_BYTES: usize = 16;
/// `rtm_type` within `struct rtmsg`.
const ROUTE_TYPE_AT: usize = HEADER_BYTES + 7;

/// `struct nlmsghdr`, `struct rtmsg`, one attribute RTA_DST.
fn question(address: IpAddr, sequence: u32) -> Vec<u8> {
    let (family, bits, octets) = match address {
        IpAddr::V4(v4) => (libc::AF_INET, 32u8, v4.octets().to_vec()),
        IpAddr::V6(v6) => (libc::AF_INET6, 128u8, v6.octets().to_vec()),
    };
    let short = |length: usize| u16::try_from(length).unwrap_or(0).to_ne_bytes();
    let attribute = 4 + octets.len();
    let mut message = Vec::with_capacity(48);
    message
        .extend(u32::from(u16::from_ne_bytes(short(HEADER_BYTES + 12 + attribute))).to_ne_bytes());
    message.extend(RTM_GETROUTE.to_ne_bytes());
    message.extend(NLM_F_REQUEST.to_ne_bytes());
    message.extend(sequence.to_ne_bytes());
    message.extend(0u32.to_ne_bytes());
    message.extend([u8::try_from(family).unwrap_or(0), bits, 0, 0, 0, 0, 0, 0]);
    message.extend(0u32.to_ne_bytes());
    message.extend(short(attribute));
    message.extend(RTA_DST.to_ne_bytes());
    message.extend(octets);
    message
}

/// `None` for a message that answers another question.
fn parse_answer(message: &[u8], sequence: u32) -> Option<bool> {
    let kind = u16::from_ne_bytes(*message.get(4..)?.first_chunk()?);
    let answered = u32::from_ne_bytes(*message.get(8..)?.first_chunk()?);
    if answered != sequence {
        return None;
    }
    Some(kind == RTM_NEWROUTE && message.get(ROUTE_TYPE_AT) == Some(&RTN_LOCAL))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernel_knows_its_own() {
        let mut routes = Routes::open().unwrap();
        // Past the short cut, to see that question and answer are well formed.
        let ask = |routes: &Routes, address: &str| {
            routes.ask(&question(address.parse().unwrap(), routes.sequence)).unwrap()
        };
        assert!(ask(&routes, "127.0.0.1"));
        assert!(!ask(&routes, "192.0.2.1"));
        assert!(!ask(&routes, "2001:db8::1"));
        // Nor are the gateway's synthetic addresses, which stand for names.
        assert!(!routes.is_guests_own("198.18.0.1".parse().unwrap()));
        assert!(!routes.is_guests_own("fd6f:7574:736f::1".parse().unwrap()));
        assert!(routes.is_guests_own("::1".parse().unwrap()));
        assert!(!routes.is_guests_own("::ffff:192.0.2.1".parse().unwrap()));
    }

    #[test]
    fn a_short_or_late_answer_is_no_answer() {
        assert_eq!(parse_answer(&[], 1), None);
        assert_eq!(parse_answer(&[0; 16], 1), None);
        assert_eq!(parse_answer(&[0; 16], 0), Some(false));
    }
}
