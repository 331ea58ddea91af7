//! The private network: a network namespace in which every address is local.
//!
//! in: nothing; out: sockets that listen at port 53 of every address. Kept: the namespace has a
//! loopback device and nothing else, so nothing gets out of it; it lives as long as this process or
//! a socket in it. Owner: the resolver's process.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener};
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;

use crate::{address, limits, sys};

/// The sockets of one family.
#[derive(Debug)]
pub(super) struct Servers {
    pub(super) udp: Arc<OwnedFd>,
    pub(super) tcp: TcpListener,
}

/// See the module.
#[derive(Debug)]
pub(super) struct Network {
    pub(super) v4: Servers,
    /// `None` where the kernel has no IPv6.
    pub(super) v6: Option<Servers>,
}

impl Network {
    /// Moves this process into a new network.
    pub(super) fn enter() -> Result<Self, String> {
        sys::process::unshare_network().map_err(|error| {
            format!(
                "this kernel does not let this user make a network namespace ({error}): run it as \
                 root, or allow unprivileged user namespaces"
            )
        })?;
        let network = || {
            let netlink = sys::socket::route_query()?;
            request(&netlink, &loopback_up())?;
            request(&netlink, &everything_is_local(libc::AF_INET))?;
            let v4 = servers(IpAddr::V4(Ipv4Addr::UNSPECIFIED))?;
            let v6 = request(&netlink, &everything_is_local(libc::AF_INET6))
                .and_then(|()| servers(IpAddr::V6(Ipv6Addr::UNSPECIFIED)));
            Ok(Self { v4, v6: v6.ok() })
        };
        network().map_err(|error: io::Error| {
            format!(
                "a network namespace cannot be set up ({error}): run it as root, or allow \
                 unprivileged user namespaces to be used"
            )
        })
    }
}

fn servers(any: IpAddr) -> io::Result<Servers> {
    const ON: [u8; 4] = 1i32.to_ne_bytes();
    let (family, options): (i32, &[(i32, i32)]) = match any {
        IpAddr::V4(_) => (libc::AF_INET, &[(libc::IPPROTO_IP, libc::IP_PKTINFO)]),
        IpAddr::V6(_) => (
            libc::AF_INET6,
            &[
                (libc::IPPROTO_IPV6, libc::IPV6_V6ONLY),
                (libc::IPPROTO_IPV6, libc::IPV6_RECVPKTINFO),
                // To answer from an address that is local by a route only.
                (libc::IPPROTO_IPV6, libc::IPV6_FREEBIND),
            ],
        ),
    };
    let open = |kind| {
        let socket = sys::socket::new(family, kind)?;
        for (level, name) in options {
            sys::socket::set_option(socket.as_fd(), *level, *name, &ON)?;
        }
        let name = address::encode(SocketAddr::new(any, limits::DNS_PORT));
        sys::socket::bind(socket.as_fd(), &name)?;
        Ok::<_, io::Error>(socket)
    };
    let (udp, tcp) = (open(libc::SOCK_DGRAM)?, open(libc::SOCK_STREAM)?);
    let backlog = i32::try_from(limits::DNS_STREAMS_MAX).unwrap_or(i32::MAX);
    sys::socket::listen(tcp.as_fd(), backlog)?;
    let tcp = TcpListener::from(tcp);
    tcp.set_nonblocking(true)?;
    Ok(Servers { udp: Arc::new(udp), tcp })
}

/// `lo` of a new namespace is always the first interface.
const LOOPBACK: u32 = 1;
const RTM_NEWLINK: u16 = 16;
const RTM_NEWROUTE: u16 = 24;
const NLM_F_REQUEST: u16 = 1;
const NLM_F_ACK: u16 = 4;
const NLM_F_CREATE: u16 = 0x400;

fn message(kind: u16, flags: u16, body: &[u8]) -> Vec<u8> {
    let length = u32::try_from(16 + body.len()).unwrap_or(0);
    let mut message = Vec::with_capacity(64);
    message.extend(length.to_ne_bytes());
    message.extend(kind.to_ne_bytes());
    message.extend((NLM_F_REQUEST | NLM_F_ACK | flags).to_ne_bytes());
    message.extend([0u8; 8]);
    message.extend(body);
    message
}

/// `struct ifinfomsg`.
fn loopback_up() -> Vec<u8> {
    let up = libc::IFF_UP.cast_unsigned().to_ne_bytes();
    let body = [&[0u8; 4][..], &LOOPBACK.to_ne_bytes(), &up, &up].concat();
    message(RTM_NEWLINK, 0, &body)
}

/// `struct rtmsg` and the attribute RTA_OIF: `ip route add local 0.0.0.0/0 dev lo`.
fn everything_is_local(family: i32) -> Vec<u8> {
    const TABLE_LOCAL: u8 = 255;
    const PROTOCOL_BOOT: u8 = 3;
    const SCOPE_HOST: u8 = 254;
    const TYPE_LOCAL: u8 = 2;
    const RTA_OIF: u16 = 4;
    let family = u8::try_from(family).unwrap_or(0);
    let mut body =
        vec![family, 0, 0, 0, TABLE_LOCAL, PROTOCOL_BOOT, SCOPE_HOST, TYPE_LOCAL, 0, 0, 0, 0];
    body.extend(8u16.to_ne_bytes());
    body.extend(RTA_OIF.to_ne_bytes());
    body.extend(LOOPBACK.to_ne_bytes());
    message(RTM_NEWROUTE, NLM_F_CREATE, &body)
}

/// Sends a request and takes its acknowledgement (`struct nlmsgerr`).
fn request(netlink: &OwnedFd, message: &[u8]) -> io::Result<()> {
    sys::socket::send(netlink.as_fd(), message)?;
    let mut answer = [0u8; 1024];
    let length = sys::socket::receive(netlink.as_fd(), &mut answer)?;
    let error = answer[..length].get(16..).and_then(<[u8]>::first_chunk);
    match error.map(|error| i32::from_ne_bytes(*error)) {
        Some(0) => Ok(()),
        Some(error) => Err(io::Error::from_raw_os_error(-error)),
        None => Err(io::Error::from_raw_os_error(libc::EPROTO)),
    }
}
