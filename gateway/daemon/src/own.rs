//! OwnAddresses: whether an address leads to this host itself.
//!
//! in: an address that is about to be dialled; out: yes or no. Owner: shared; one netlink socket
//! under a short lock. Kept: the answer is the kernel's own, of this moment. A list of the
//! interfaces' addresses, read now and then or kept up to date by notifications, is always a little
//! late and knows neither `local` routes without an interface (`ip route add local ...`) nor
//! broadcast addresses; so each dial asks the routing table, whose `local` part comes before any
//! policy. That costs one system call pair, about 5 us (`own::tests` prints it). Trying `bind()`
//! would be as short, but says yes to everything where `ip_nonlocal_bind` is set. Bound: none held.

use std::io;
use std::net::IpAddr;
use std::sync::{Mutex, PoisonError};

use netlink_packet_core::{NLM_F_REQUEST, NetlinkMessage, NetlinkPayload};
use netlink_packet_route::route::{RouteAddress, RouteAttribute, RouteMessage, RouteType};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};
use netlink_sys::protocols::NETLINK_ROUTE;
use netlink_sys::{Socket, SocketAddr};
use outsock_core::route::embedded;
use outsock_vmrpc::Errno;

/// Room for the answer to one question; it has about 100 bytes.
const ANSWER_BYTES: usize = 8 * 1024;

/// Asks the kernel's routing table.
#[derive(Debug)]
pub(crate) struct OwnAddresses {
    asked: Mutex<Asked>,
}

#[derive(Debug)]
struct Asked {
    socket: Socket,
    sequence: u32,
}

impl OwnAddresses {
    /// Opens the socket and makes sure that it answers.
    pub(crate) fn new() -> io::Result<Self> {
        let mut socket = Socket::new(NETLINK_ROUTE)?;
        socket.bind_auto()?;
        socket.connect(&SocketAddr::new(0, 0))?;
        // The kernel has answered when the question's system call returns.
        socket.set_non_blocking(true)?;
        let own = Self { asked: Mutex::new(Asked { socket, sequence: 0 }) };
        own.holds(IpAddr::from([127, 0, 0, 1]))?;
        Ok(own)
    }

    /// Whether the address, or an IPv4 address that it carries, is this host's. Where the kernel
    /// cannot be asked the answer is an error, and the address must not be dialled.
    pub(crate) fn holds(&self, ip: IpAddr) -> io::Result<bool> {
        let inside = embedded(ip).into_iter().flatten().map(IpAddr::V4);
        for ip in std::iter::once(ip).chain(inside) {
            if self.is_local(ip)? {
                return Ok(true);
            }
        }
        Ok(false)
    }

    fn is_local(&self, ip: IpAddr) -> io::Result<bool> {
        let mut asked = self.asked.lock().unwrap_or_else(PoisonError::into_inner);
        asked.sequence = asked.sequence.wrapping_add(1);
        let question = question(ip, asked.sequence);
        asked.socket.send(&question, 0)?;
        loop {
            let mut answer = Vec::with_capacity(ANSWER_BYTES);
            asked.socket.recv(&mut answer, 0)?;
            let message = NetlinkMessage::<RouteNetlinkMessage>::deserialize(&answer)
                .map_err(|error| io::Error::other(error.to_string()))?;
            // An answer to an earlier question, whose asker gave up.
            if message.header.sequence_number != asked.sequence {
                continue;
            }
            return match message.payload {
                NetlinkPayload::InnerMessage(RouteNetlinkMessage::NewRoute(route)) => {
                    Ok(leads_here(route.header.kind))
                }
                NetlinkPayload::Error(error) => no_route(&error.to_io()),
                _ => Err(io::Error::other("the routing table gave an answer of another kind")),
            };
        }
    }
}

fn question(ip: IpAddr, sequence: u32) -> Vec<u8> {
    let mut route = RouteMessage::default();
    let (family, bits, address) = match ip {
        IpAddr::V4(v4) => (AddressFamily::Inet, 32, RouteAddress::Inet(v4)),
        IpAddr::V6(v6) => (AddressFamily::Inet6, 128, RouteAddress::Inet6(v6)),
    };
    route.header.address_family = family;
    route.header.destination_prefix_length = bits;
    route.attributes.push(RouteAttribute::Destination(address));
    let mut message = NetlinkMessage::from(RouteNetlinkMessage::GetRoute(route));
    message.header.flags = NLM_F_REQUEST;
    message.header.sequence_number = sequence;
    message.finalize();
    let mut bytes = vec![0; message.buffer_len()];
    message.serialize(&mut bytes);
    bytes
}

/// Everything but a way to somebody else.
fn leads_here(kind: RouteType) -> bool {
    !matches!(
        kind,
        RouteType::Unicast
            | RouteType::BlackHole
            | RouteType::Unreachable
            | RouteType::Prohibit
            | RouteType::Throw
    )
}

/// No way leads to the address at all, so it is not ours, unless the kernel could not even look.
fn no_route(error: &io::Error) -> io::Result<bool> {
    match Errno::of(error) {
        errno @ (Errno::EPERM | Errno::ENOMEM | Errno::ENOBUFS | Errno::EAGAIN) => {
            Err(errno.into())
        }
        _ => Ok(false),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn loopback_broadcast_and_interfaces_are_ours_and_others_are_not() {
        let own = OwnAddresses::new().unwrap();
        for ours in ["127.0.0.1", "127.1.2.3", "255.255.255.255", "2002:7f00:1::"] {
            assert!(own.holds(ours.parse().unwrap()).unwrap(), "{ours}");
        }
        for other in ["192.0.2.99", "203.0.113.7", "2001:db8::7", "64:ff9b::cb00:7107"] {
            assert!(!own.holds(other.parse().unwrap()).unwrap(), "{other}");
        }
        // Where the host has a way out, the address that it would come from is its own.
        let out = std::net::UdpSocket::bind("0.0.0.0:0").unwrap();
        if out.connect("203.0.113.7:9").is_ok() {
            let mine = out.local_addr().unwrap().ip();
            assert!(own.holds(mine).unwrap(), "{mine}");
        }
        let begun = std::time::Instant::now();
        for _ in 0..1000 {
            own.holds("203.0.113.7".parse().unwrap()).unwrap();
        }
        println!("one question: {:?}", begun.elapsed() / 1000);
    }
}
