//! Allowed: the socket options that the supervisor sets or reads for a program on its shadow.
//!
//! in: level and name of an option; out: whether it may reach the shadow. Kept: the supervisor may
//! have more privileges than the program, so the tables hold only options that need none and carry no
//! pointers. Any other is ENOPROTOOPT.

/// Options of level IPPROTO_TCP that may be read and set.
const TCP: &[i32] = &[
    libc::TCP_NODELAY,
    libc::TCP_MAXSEG,
    libc::TCP_CORK,
    libc::TCP_KEEPIDLE,
    libc::TCP_KEEPINTVL,
    libc::TCP_KEEPCNT,
    libc::TCP_SYNCNT,
    libc::TCP_LINGER2,
    libc::TCP_DEFER_ACCEPT,
    libc::TCP_WINDOW_CLAMP,
    libc::TCP_QUICKACK,
    libc::TCP_CONGESTION,
    libc::TCP_THIN_LINEAR_TIMEOUTS,
    libc::TCP_THIN_DUPACK,
    libc::TCP_USER_TIMEOUT,
    libc::TCP_NOTSENT_LOWAT,
    libc::TCP_FASTOPEN_CONNECT,
    libc::TCP_INQ,
];

/// Those that may only be read.
const TCP_READ_ONLY: &[i32] =
    &[libc::TCP_INFO, libc::TCP_FASTOPEN, libc::TCP_TIMESTAMP, libc::TCP_SAVE_SYN, libc::TCP_ULP];

/// Options of level IPPROTO_IP that may be read and set.
const IP: &[i32] = &[
    libc::IP_TOS,
    libc::IP_TTL,
    libc::IP_RECVOPTS,
    libc::IP_RETOPTS,
    libc::IP_PKTINFO,
    libc::IP_MTU_DISCOVER,
    libc::IP_RECVERR,
    libc::IP_RECVTTL,
    libc::IP_RECVTOS,
    libc::IP_FREEBIND,
    libc::IP_MINTTL,
    libc::IP_BIND_ADDRESS_NO_PORT,
    libc::IP_MULTICAST_TTL,
    libc::IP_MULTICAST_LOOP,
    libc::IP_MULTICAST_ALL,
];

/// Those that may only be read.
const IP_READ_ONLY: &[i32] =
    &[libc::IP_OPTIONS, libc::IP_MTU, libc::IP_TRANSPARENT, libc::IP_UNICAST_IF];

/// Options of level IPPROTO_IPV6 that may be read and set.
const IPV6: &[i32] = &[
    libc::IPV6_UNICAST_HOPS,
    libc::IPV6_MULTICAST_HOPS,
    libc::IPV6_MULTICAST_LOOP,
    libc::IPV6_MTU_DISCOVER,
    libc::IPV6_RECVERR,
    libc::IPV6_V6ONLY,
    libc::IPV6_RECVPKTINFO,
    libc::IPV6_RECVHOPLIMIT,
    libc::IPV6_RECVTCLASS,
    libc::IPV6_TCLASS,
    libc::IPV6_DONTFRAG,
    libc::IPV6_AUTOFLOWLABEL,
    libc::IPV6_ADDR_PREFERENCES,
    libc::IPV6_MINHOPCOUNT,
    libc::IPV6_FREEBIND,
];

/// Those that may only be read.
const IPV6_READ_ONLY: &[i32] = &[libc::IPV6_MTU];

/// Options of level SOL_SOCKET that a vsock socket answers differently from TCP, or not at all that may be read and set.
const SOCKET: &[i32] = &[libc::SO_RCVBUF, libc::SO_SNDBUF, libc::SO_REUSEPORT, SO_TXREHASH];

/// Those that may only be read.
const SOCKET_READ_ONLY: &[i32] = &[libc::SO_DOMAIN, libc::SO_PROTOCOL, libc::SO_COOKIE];

/// `include/uapi/asm-generic/socket.h`.
const SO_TXREHASH: i32 = 74;

/// Whether getsockopt() may ask the shadow for an option.
pub(crate) fn may_read(level: i32, name: i32) -> bool {
    let read_only = [SOCKET_READ_ONLY, TCP_READ_ONLY, IP_READ_ONLY, IPV6_READ_ONLY];
    may_set(level, name) || is_in_table(read_only, level, name)
}

/// Whether setsockopt() may set an option of the shadow.
pub(crate) fn may_set(level: i32, name: i32) -> bool {
    is_in_table([SOCKET, TCP, IP, IPV6], level, name)
}

fn is_in_table(tables: [&[i32]; 4], level: i32, name: i32) -> bool {
    let [socket, tcp, ip, ipv6] = tables;
    let table = match level {
        libc::SOL_SOCKET => socket,
        libc::SOL_TCP => tcp,
        libc::SOL_IP => ip,
        libc::SOL_IPV6 => ipv6,
        _ => &[],
    };
    table.contains(&name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_harmless_options_reach_the_shadow() {
        assert!(may_set(libc::SOL_TCP, libc::TCP_NODELAY));
        for name in [libc::TCP_REPAIR, libc::TCP_ULP, libc::TCP_MD5SIG] {
            assert!(!may_set(libc::SOL_TCP, name), "{name}");
        }
        // IP_TRANSPARENT, IP_IPSEC_POLICY, and the firewall's.
        for name in [libc::IP_TRANSPARENT, 16, 64] {
            assert!(!may_set(libc::SOL_IP, name), "{name}");
        }
        assert!(!may_set(263, 1));
    }
}
