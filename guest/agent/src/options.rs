//! getsockopt() and setsockopt() of outsourced sockets.
//!
//! in: notifications; out: values and errors as TCP gives them, because TCP gives them: the calls run
//! on the shadow, the guest's own TCP socket that the program had before. What the shadow cannot know
//! (it is not connected) is patched. Owner: the supervisor's loop. Kept: the supervisor may have more
//! privileges than the program, so only the options in the tables below reach the shadow: those that
//! need no privilege and carry no pointers. Any other is ENOPROTOOPT. Bound: [`limits::OPTION_BYTES_MAX`].

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::time::Instant;

use outsock_vmrpc::Errno;

use crate::notify::{Answer, Notification};
use crate::supervisor::{Progress, Supervisor, progress};
use crate::table::State;
use crate::{limits, sys};

/// Options of level IPPROTO_TCP that may be read.
const TCP_GET: &[i32] = &[
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
    libc::TCP_INFO,
    libc::TCP_QUICKACK,
    libc::TCP_CONGESTION,
    libc::TCP_THIN_LINEAR_TIMEOUTS,
    libc::TCP_THIN_DUPACK,
    libc::TCP_USER_TIMEOUT,
    libc::TCP_FASTOPEN,
    libc::TCP_TIMESTAMP,
    libc::TCP_NOTSENT_LOWAT,
    libc::TCP_SAVE_SYN,
    libc::TCP_FASTOPEN_CONNECT,
    libc::TCP_ULP,
    libc::TCP_INQ,
];

/// Options of level IPPROTO_TCP that may be set.
const TCP_SET: &[i32] = &[
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

/// Options of level IPPROTO_IP.
const IP_GET: &[i32] = &[
    libc::IP_TOS,
    libc::IP_TTL,
    libc::IP_OPTIONS,
    libc::IP_RECVOPTS,
    libc::IP_RETOPTS,
    libc::IP_PKTINFO,
    libc::IP_MTU_DISCOVER,
    libc::IP_RECVERR,
    libc::IP_RECVTTL,
    libc::IP_RECVTOS,
    libc::IP_MTU,
    libc::IP_FREEBIND,
    libc::IP_TRANSPARENT,
    libc::IP_MINTTL,
    libc::IP_BIND_ADDRESS_NO_PORT,
    libc::IP_MULTICAST_TTL,
    libc::IP_MULTICAST_LOOP,
    libc::IP_MULTICAST_ALL,
    libc::IP_UNICAST_IF,
];

const IP_SET: &[i32] = &[
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

/// Options of level IPPROTO_IPV6.
const IPV6_GET: &[i32] = &[
    libc::IPV6_UNICAST_HOPS,
    libc::IPV6_MULTICAST_HOPS,
    libc::IPV6_MULTICAST_LOOP,
    libc::IPV6_MTU_DISCOVER,
    libc::IPV6_MTU,
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

const IPV6_SET: &[i32] = &[
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

/// Options of level SOL_SOCKET that a vsock socket answers differently from TCP, or not at all.
const SOCKET_GET: &[i32] =
    &[libc::SO_DOMAIN, libc::SO_PROTOCOL, libc::SO_RCVBUF, libc::SO_SNDBUF, libc::SO_REUSEPORT];

const SOCKET_SET: &[i32] = &[libc::SO_RCVBUF, libc::SO_SNDBUF, libc::SO_REUSEPORT];

/// Options of level SOL_SOCKET that follow a socket to the file that replaces it. Each is at most 16
/// bytes; defaults are not copied.
const FOLLOWING: &[i32] = &[
    libc::SO_KEEPALIVE,
    libc::SO_LINGER,
    libc::SO_RCVTIMEO,
    libc::SO_SNDTIMEO,
    libc::SO_RCVLOWAT,
    libc::SO_PRIORITY,
    libc::SO_MARK,
    libc::SO_TIMESTAMP,
    libc::SO_ZEROCOPY,
];

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

impl Supervisor {
    pub(crate) fn on_get_option(
        &mut self,
        notification: &Notification,
        now: Instant,
    ) -> io::Result<Answer> {
        let (level, name) = (notification.int(1), notification.int(2));
        if self.table.is_empty() {
            return Ok(Answer::Native);
        }
        if (level, name) == (libc::SOL_SOCKET, libc::SO_ERROR) {
            return self.on_get_error(notification, now);
        }
        let subject = self.subject(notification)?;
        let Some(socket) = self.entry(&subject) else { return Ok(Answer::Native) };
        if !is_in_table([SOCKET_GET, TCP_GET, IP_GET, IPV6_GET], level, name) {
            return Ok(Answer::Fail(Errno::ENOPROTOOPT));
        }
        let room = match read_room(notification) {
            Ok(room) => room,
            Err(errno) => return Ok(Answer::Fail(errno)),
        };
        let mut value = vec![0u8; room.min(limits::OPTION_BYTES_MAX)];
        let length = match sys::socket::option(socket.shadow.as_fd(), level, name, &mut value) {
            Ok(length) => length,
            Err(error) => return Ok(Answer::Fail(Errno::of(&error))),
        };
        value.truncate(length);
        if level == libc::SOL_TCP {
            patch(name, &mut value, socket.state);
        }
        write_value(notification, &value)
    }

    /// SO_ERROR: the errno of the dial, once.
    fn on_get_error(&mut self, notification: &Notification, now: Instant) -> io::Result<Answer> {
        let subject = self.subject(notification)?;
        let file = &subject.file;
        let Some(socket) = self.entry(&subject) else { return Ok(Answer::Native) };
        if let State::Connecting(token) = socket.state
            && progress(file) == Some(Progress::Failed)
        {
            return Ok(self.wait_for_verdict(notification, token, true, now));
        }
        let Some(error) = socket.state.take_error() else { return Ok(Answer::Native) };
        // The data connection has an error of its own, which only says that there is one.
        let _ = sys::socket::int_option(file.as_fd(), libc::SOL_SOCKET, libc::SO_ERROR);
        let value = error.err().map_or(0, Errno::raw);
        match read_room(notification) {
            Ok(room) => write_value(notification, &value.to_ne_bytes()[..room.min(4)]),
            Err(errno) => Ok(Answer::Fail(errno)),
        }
    }

    pub(crate) fn on_set_option(&mut self, notification: &Notification) -> io::Result<Answer> {
        let (level, name) = (notification.int(1), notification.int(2));
        if self.table.is_empty() {
            return Ok(Answer::Native);
        }
        let subject = self.subject(notification)?;
        let Some(socket) = self.entry(&subject) else { return Ok(Answer::Native) };
        if !is_in_table([SOCKET_SET, TCP_SET, IP_SET, IPV6_SET], level, name) {
            return Ok(Answer::Fail(Errno::ENOPROTOOPT));
        }
        let Ok(length) = usize::try_from(notification.int(4)) else {
            return Ok(Answer::Fail(Errno::EINVAL));
        };
        let mut value = vec![0u8; length.min(limits::OPTION_BYTES_MAX)];
        if sys::memory::read(notification.thread, notification.pointer(3), &mut value).is_err() {
            return Ok(Answer::Fail(Errno::EFAULT));
        }
        if (level, name) == (libc::SOL_TCP, libc::TCP_CONGESTION) && !is_loaded(&value) {
            return Ok(Answer::Fail(Errno::ENOENT));
        }
        Ok(match sys::socket::set_option(socket.shadow.as_fd(), level, name, &value) {
            Ok(()) => Answer::Value(0),
            Err(error) => Answer::Fail(Errno::of(&error)),
        })
    }
}

/// Whether a congestion control is there already: the supervisor must not have the kernel load one
/// for a program that could not.
fn is_loaded(name: &[u8]) -> bool {
    let name = name.split(|byte| *byte == 0).next().unwrap_or(&[]);
    let path = "/proc/sys/net/ipv4/tcp_available_congestion_control";
    let Ok(available) = std::fs::read(path) else { return false };
    !name.is_empty() && available.split(u8::is_ascii_whitespace).any(|one| one == name)
}

/// What an unconnected shadow does not know.
fn patch(name: i32, value: &mut [u8], state: State) {
    const ESTABLISHED: u8 = 1;
    const SYN_SENT: u8 = 2;
    const CLOSE: u8 = 7;
    /// TCP_MSS_DEFAULT: nothing negotiated, nothing set.
    const MSS_UNKNOWN: i32 = 536;
    /// A usual Ethernet segment.
    const MSS_USUAL: i32 = 1460;
    match name {
        libc::TCP_INFO => {
            if let Some(tcpi_state) = value.first_mut() {
                *tcpi_state = match state {
                    State::Connecting(_) => SYN_SENT,
                    State::Connected { .. } => ESTABLISHED,
                    State::Failed(_) | State::Idle => CLOSE,
                };
            }
        }
        libc::TCP_MAXSEG
            if matches!(state, State::Connected { .. }) && value == MSS_UNKNOWN.to_ne_bytes() =>
        {
            value.copy_from_slice(&MSS_USUAL.to_ne_bytes());
        }
        _ => {}
    }
}

/// The length of the buffer that getsockopt() got.
fn read_room(notification: &Notification) -> Result<usize, Errno> {
    let mut length = [0u8; 4];
    sys::memory::read(notification.thread, notification.pointer(4), &mut length)
        .map_err(|_| Errno::EFAULT)?;
    usize::try_from(i32::from_ne_bytes(length)).map_err(|_| Errno::EINVAL)
}

fn write_value(notification: &Notification, value: &[u8]) -> io::Result<Answer> {
    let length = i32::try_from(value.len()).unwrap_or(0).to_ne_bytes();
    let written = sys::memory::write(notification.thread, notification.pointer(3), value)
        .and_then(|()| sys::memory::write(notification.thread, notification.pointer(4), &length));
    Ok(if written.is_ok() { Answer::Value(0) } else { Answer::Fail(Errno::EFAULT) })
}

/// Copies the options that follow a socket. Those that the other file does not take are left.
pub(crate) fn copy_all(from: &OwnedFd, to: &OwnedFd, flags: i32) {
    for name in FOLLOWING {
        let mut value = [0u8; sys::socket::OPTION_BYTES_SMALL];
        let level = libc::SOL_SOCKET;
        let Ok(length) = sys::socket::option(from.as_fd(), level, *name, &mut value) else {
            continue;
        };
        let value = &value[..length];
        let default: &[u8] = if *name == libc::SO_RCVLOWAT { &[1, 0, 0, 0] } else { &[0; 16] };
        if !default.starts_with(value) {
            let _ = sys::socket::set_option(to.as_fd(), level, *name, value);
        }
    }
    if flags & libc::O_ASYNC != 0 {
        let _ = sys::file::copy_signal_owner(from.as_fd(), to.as_fd());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::TcpListener;

    #[test]
    fn options_follow() {
        let socket = || sys::socket::stream(libc::AF_INET).unwrap();
        let (from, to) = (socket(), socket());
        let keep_alive = |socket: &OwnedFd| {
            sys::socket::int_option(socket.as_fd(), libc::SOL_SOCKET, libc::SO_KEEPALIVE).unwrap()
        };
        let on = 1i32.to_ne_bytes();
        sys::socket::set_option(from.as_fd(), libc::SOL_SOCKET, libc::SO_KEEPALIVE, &on).unwrap();
        copy_all(&from, &to, 0);
        assert_eq!(keep_alive(&to), 1);
    }

    #[test]
    fn only_harmless_options_reach_the_shadow() {
        let set = |level, name| is_in_table([SOCKET_SET, TCP_SET, IP_SET, IPV6_SET], level, name);
        assert!(set(libc::SOL_TCP, libc::TCP_NODELAY));
        for name in [libc::TCP_REPAIR, libc::TCP_ULP, libc::TCP_MD5SIG] {
            assert!(!set(libc::SOL_TCP, name), "{name}");
        }
        // IP_TRANSPARENT, IP_IPSEC_POLICY, and the firewall's.
        for name in [libc::IP_TRANSPARENT, 16, 64] {
            assert!(!set(libc::SOL_IP, name), "{name}");
        }
        assert!(!set(263, 1));
    }

    #[test]
    fn the_state_in_tcp_info_is_the_connections() {
        let connected = State::Connected { local: None, told: true };
        let mut info = [7u8; 104];
        patch(libc::TCP_INFO, &mut info, connected);
        assert_eq!((info[0], info[1]), (1, 7));
        let mut mss = 536i32.to_ne_bytes();
        patch(libc::TCP_MAXSEG, &mut mss, State::Idle);
        assert_eq!(mss, 536i32.to_ne_bytes());
        patch(libc::TCP_MAXSEG, &mut mss, connected);
        assert_eq!(mss, 1460i32.to_ne_bytes());
        patch(libc::TCP_INFO, &mut [], connected);
    }

    #[test]
    fn a_congestion_control_must_be_there() {
        assert!(!is_loaded(b"no-such-thing\0"));
        assert!(!is_loaded(b""));
        drop(TcpListener::bind("127.0.0.1:0").unwrap());
        assert!(is_loaded(b"reno\0") || is_loaded(b"cubic\0"));
    }
}
