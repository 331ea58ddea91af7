//! Outward: options of a program's socket that matter outside the guest.
//!
//! in: setsockopt() calls of programs; out: [`SocketOption`]s for the host's socket: with the connect
//! what was set before it, by a call of their own those that come later. Owner: the supervisor's loop.
//! Kept: a program waits for the host only where its answer depends on it (`options`); per connection
//! one call is under way, later values of the same option replace earlier ones that still wait, so
//! that the last value is the last to arrive. Order with respect to data is not kept: data takes
//! another way. Bound: one waiting value per kind of option and connection.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use outsock_vmrpc::socket::options::SocketOption;

use crate::sys;

/// What a value is, and where the program's own kernel keeps it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    NoDelay,
    KeepAlive,
    KeepIdle,
    KeepInterval,
    KeepCount,
    UserTimeout,
    ClassV4,
    ClassV6,
    HopsV4,
    HopsV6,
    MaxSegment,
    SendBuffer,
    ReceiveBuffer,
    Linger,
    Congestion,
}

const ALL: [Kind; 15] = [
    Kind::NoDelay,
    Kind::KeepAlive,
    Kind::KeepIdle,
    Kind::KeepInterval,
    Kind::KeepCount,
    Kind::UserTimeout,
    Kind::ClassV4,
    Kind::ClassV6,
    Kind::HopsV4,
    Kind::HopsV6,
    Kind::MaxSegment,
    Kind::SendBuffer,
    Kind::ReceiveBuffer,
    Kind::Linger,
    Kind::Congestion,
];

/// What an unconnected socket says when no segment size was set (TCP_MSS_DEFAULT).
const SEGMENT_UNSET: i32 = 536;
/// `net.ipv4.ip_default_ttl`, and -1 for IPv6.
const HOPS_UNSET: [i32; 2] = [64, -1];
/// SO_BUF_LOCK: which buffers a program has set itself.
const BUFFER_LOCK: i32 = 72;
const BUFFER_LOCK_SEND: i32 = 1;
const BUFFER_LOCK_RECEIVE: i32 = 2;
const LINGER_BYTES: usize = 8;

impl Kind {
    /// The option that a setsockopt() sets, if it matters outside.
    pub(crate) fn of(level: i32, name: i32) -> Option<Self> {
        ALL.into_iter().find(|kind| kind.place() == (level, name))
    }

    fn place(self) -> (i32, i32) {
        match self {
            Self::NoDelay => (libc::SOL_TCP, libc::TCP_NODELAY),
            Self::KeepAlive => (libc::SOL_SOCKET, libc::SO_KEEPALIVE),
            Self::KeepIdle => (libc::SOL_TCP, libc::TCP_KEEPIDLE),
            Self::KeepInterval => (libc::SOL_TCP, libc::TCP_KEEPINTVL),
            Self::KeepCount => (libc::SOL_TCP, libc::TCP_KEEPCNT),
            Self::UserTimeout => (libc::SOL_TCP, libc::TCP_USER_TIMEOUT),
            Self::ClassV4 => (libc::SOL_IP, libc::IP_TOS),
            Self::ClassV6 => (libc::SOL_IPV6, libc::IPV6_TCLASS),
            Self::HopsV4 => (libc::SOL_IP, libc::IP_TTL),
            Self::HopsV6 => (libc::SOL_IPV6, libc::IPV6_UNICAST_HOPS),
            Self::MaxSegment => (libc::SOL_TCP, libc::TCP_MAXSEG),
            Self::SendBuffer => (libc::SOL_SOCKET, libc::SO_SNDBUF),
            Self::ReceiveBuffer => (libc::SOL_SOCKET, libc::SO_RCVBUF),
            Self::Linger => (libc::SOL_SOCKET, libc::SO_LINGER),
            Self::Congestion => (libc::SOL_TCP, libc::TCP_CONGESTION),
        }
    }

    /// Whether the data connection itself keeps the value; of the others the shadow does.
    pub(crate) fn is_kept_by_stream(self) -> bool {
        matches!(self, Self::KeepAlive | Self::Linger)
    }

    /// Whether the program's answer depends on the host: a close may follow at once, or the host may
    /// not have what is asked for.
    pub(crate) fn awaits_host(self) -> bool {
        matches!(self, Self::Linger | Self::Congestion)
    }

    /// The value that `socket` has, for a connection to an IPv4 address or not. `None` when it means
    /// nothing for that connection.
    pub(crate) fn read(self, socket: BorrowedFd<'_>, is_v4: bool) -> Option<SocketOption> {
        let (level, name) = self.place();
        let number = || sys::socket::int_option(socket, level, name).ok();
        let natural = || number().and_then(|number| u32::try_from(number).ok());
        let byte = || number().and_then(|number| u8::try_from(number).ok());
        Some(match self {
            Self::NoDelay => SocketOption::NoDelay(number()? != 0),
            Self::KeepAlive => SocketOption::KeepAlive(number()? != 0),
            Self::KeepIdle => SocketOption::KeepIdle(natural()?),
            Self::KeepInterval => SocketOption::KeepInterval(natural()?),
            Self::KeepCount => SocketOption::KeepCount(natural()?),
            Self::UserTimeout => SocketOption::UserTimeout(natural()?),
            Self::ClassV4 if is_v4 => SocketOption::TrafficClass(byte()?),
            Self::ClassV6 if !is_v4 => SocketOption::TrafficClass(byte()?),
            Self::HopsV4 if is_v4 => SocketOption::HopLimit(byte()?),
            Self::HopsV6 if !is_v4 => SocketOption::HopLimit(byte()?),
            Self::ClassV4 | Self::ClassV6 | Self::HopsV4 | Self::HopsV6 => return None,
            Self::MaxSegment => SocketOption::MaxSegment(u16::try_from(number()?).ok()?),
            // The kernel has doubled what the program passed.
            Self::SendBuffer => SocketOption::SendBuffer(natural()? / 2),
            Self::ReceiveBuffer => SocketOption::ReceiveBuffer(natural()? / 2),
            Self::Linger => SocketOption::AbortOnClose(is_abort(socket).ok()?),
            Self::Congestion => SocketOption::Congestion(congestion(socket).ok()?),
        })
    }
}

fn is_abort(socket: BorrowedFd<'_>) -> io::Result<bool> {
    let mut linger = [0u8; LINGER_BYTES];
    sys::socket::option(socket, libc::SOL_SOCKET, libc::SO_LINGER, &mut linger)?;
    let word = |at: usize| linger.get(at..)?.first_chunk().copied().map(i32::from_ne_bytes);
    Ok(word(0) != Some(0) && word(4) == Some(0))
}

fn congestion(socket: BorrowedFd<'_>) -> io::Result<String> {
    let mut name = [0u8; 16];
    let length = sys::socket::option(socket, libc::SOL_TCP, libc::TCP_CONGESTION, &mut name)?;
    let name = name[..length].split(|byte| *byte == 0).next().unwrap_or_default();
    Ok(String::from_utf8_lossy(name).into_owned())
}

/// The options that supervised programs have set at all, on whatever socket. Only these are read from
/// a socket that connects: most programs set one or two, and each look costs a system call.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Seen {
    kinds: u32,
    /// Of level SOL_SOCKET, by name.
    names: u128,
}

impl Seen {
    /// A setsockopt() call.
    pub(crate) fn note(&mut self, level: i32, name: i32) {
        if let Some(kind) = Kind::of(level, name) {
            self.kinds |= 1 << kind as u32;
        }
        if level == libc::SOL_SOCKET {
            self.names |= bit(name);
        }
    }

    /// Whether an option of level SOL_SOCKET was set anywhere.
    pub(crate) fn has(self, name: i32) -> bool {
        self.names & bit(name) != 0
    }

    /// The names of level SOL_SOCKET that were set somewhere.
    pub(crate) fn names(self) -> impl Iterator<Item = i32> {
        (0..128).filter(move |name| self.has(*name))
    }

    fn kinds(self) -> impl Iterator<Item = Kind> {
        ALL.into_iter().filter(move |kind| self.kinds & (1 << *kind as u32) != 0)
    }

    /// What a socket that connects has been told and the host's would not have by itself. `tcp`: who
    /// answers for TCP's options; `stream`: the socket itself.
    pub(crate) fn collect(self, tcp: &OwnedFd, stream: &OwnedFd, is_v4: bool) -> Vec<SocketOption> {
        let value = |kind: Kind| {
            let socket = if kind.is_kept_by_stream() { stream } else { tcp };
            let option = kind.read(socket.as_fd(), is_v4)?;
            is_worth_telling(&option, socket.as_fd()).then_some(option)
        };
        self.kinds().filter_map(value).collect()
    }
}

fn bit(name: i32) -> u128 {
    u32::try_from(name).ok().and_then(|name| 1u128.checked_shl(name)).unwrap_or(0)
}

fn is_worth_telling(option: &SocketOption, socket: BorrowedFd<'_>) -> bool {
    let locked = |bit: i32| {
        let locks = sys::socket::int_option(socket, libc::SOL_SOCKET, BUFFER_LOCK);
        locks.is_ok_and(|locks| locks & bit != 0)
    };
    match option {
        // Whether a program has turned it off or never on is not known; the host's sockets have it.
        SocketOption::NoDelay(_) => false,
        SocketOption::KeepAlive(on) | SocketOption::AbortOnClose(on) => *on,
        SocketOption::KeepIdle(_) | SocketOption::KeepInterval(_) | SocketOption::KeepCount(_) => {
            true
        }
        SocketOption::UserTimeout(milliseconds) => *milliseconds != 0,
        SocketOption::TrafficClass(class) => *class != 0,
        SocketOption::HopLimit(hops) => !HOPS_UNSET.contains(&i32::from(*hops)),
        SocketOption::MaxSegment(bytes) => i32::from(*bytes) != SEGMENT_UNSET,
        SocketOption::SendBuffer(_) => locked(BUFFER_LOCK_SEND),
        SocketOption::ReceiveBuffer(_) => locked(BUFFER_LOCK_RECEIVE),
        SocketOption::Congestion(name) => !is_default_congestion(name),
    }
}

fn is_default_congestion(name: &str) -> bool {
    std::fs::read_to_string("/proc/sys/net/ipv4/tcp_congestion_control")
        .is_ok_and(|default| default.trim() == name)
}

/// Options of one connection on their way to the host.
#[derive(Debug, Default)]
pub(crate) struct Queue {
    under_way: bool,
    waiting: Vec<SocketOption>,
}

impl Queue {
    /// One more; a waiting value of the same option is out of date.
    pub(crate) fn push(&mut self, option: SocketOption) {
        self.waiting.retain(|other| !other.is_same_option(&option));
        self.waiting.push(option);
    }

    /// What to send now. Nothing while a call is under way.
    pub(crate) fn take(&mut self) -> Option<Vec<SocketOption>> {
        if self.under_way || self.waiting.is_empty() {
            return None;
        }
        self.under_way = true;
        Some(std::mem::take(&mut self.waiting))
    }

    /// The call that was under way has ended.
    pub(crate) fn arrived(&mut self) {
        self.under_way = false;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn set(socket: &OwnedFd, level: i32, name: i32, value: i32) {
        sys::socket::set_option(socket.as_fd(), level, name, &value.to_ne_bytes()).unwrap();
    }

    #[test]
    fn what_was_set_is_collected_and_defaults_are_not() {
        let socket = sys::socket::stream(libc::AF_INET).unwrap();
        let mut seen = Seen::default();
        ALL.into_iter().for_each(|kind| seen.note(kind.place().0, kind.place().1));
        let told = |socket: &OwnedFd| {
            let options = seen.collect(socket, socket, true);
            let always = |option: &SocketOption| {
                matches!(
                    option,
                    SocketOption::KeepIdle(7200)
                        | SocketOption::KeepInterval(75)
                        | SocketOption::KeepCount(9)
                )
            };
            options.into_iter().filter(|option| !always(option)).collect::<Vec<_>>()
        };
        assert_eq!(told(&socket), []);
        set(&socket, libc::SOL_TCP, libc::TCP_NODELAY, 1);
        set(&socket, libc::SOL_SOCKET, libc::SO_KEEPALIVE, 1);
        set(&socket, libc::SOL_TCP, libc::TCP_KEEPIDLE, 33);
        set(&socket, libc::SOL_IP, libc::IP_TOS, 0x10);
        set(&socket, libc::SOL_IP, libc::IP_TTL, 12);
        set(&socket, libc::SOL_TCP, libc::TCP_MAXSEG, 900);
        set(&socket, libc::SOL_SOCKET, libc::SO_SNDBUF, 30_000);
        let linger: Vec<u8> = [1i32, 0].into_iter().flat_map(i32::to_ne_bytes).collect();
        let at = (libc::SOL_SOCKET, libc::SO_LINGER);
        sys::socket::set_option(socket.as_fd(), at.0, at.1, &linger).unwrap();
        let expected = [
            SocketOption::KeepAlive(true),
            SocketOption::KeepIdle(33),
            SocketOption::TrafficClass(0x10),
            SocketOption::HopLimit(12),
            SocketOption::MaxSegment(900),
            SocketOption::SendBuffer(30_000),
            SocketOption::AbortOnClose(true),
        ];
        assert_eq!(told(&socket), expected);
        assert_eq!(Seen::default().collect(&socket, &socket, true), []);
    }

    #[test]
    fn later_values_replace_earlier_ones_that_wait() {
        let mut queue = Queue::default();
        assert_eq!(queue.take(), None);
        queue.push(SocketOption::NoDelay(true));
        assert_eq!(queue.take(), Some(vec![SocketOption::NoDelay(true)]));
        queue.push(SocketOption::NoDelay(false));
        queue.push(SocketOption::KeepIdle(5));
        queue.push(SocketOption::NoDelay(true));
        assert_eq!(queue.take(), None, "one call at a time");
        queue.arrived();
        let last = vec![SocketOption::KeepIdle(5), SocketOption::NoDelay(true)];
        assert_eq!(queue.take(), Some(last));
    }

    #[test]
    fn names_out_of_range_are_none() {
        let mut seen = Seen::default();
        for name in [-1, 128, i32::MAX, 5, 127] {
            seen.note(libc::SOL_SOCKET, name);
        }
        assert_eq!(seen.names().collect::<Vec<_>>(), [5, 127]);
    }

    #[test]
    fn a_calls_place_names_its_kind() {
        for kind in ALL {
            let (level, name) = kind.place();
            assert_eq!(Kind::of(level, name), Some(kind));
        }
        assert_eq!(Kind::of(libc::SOL_TCP, libc::TCP_CORK), None);
    }
}
