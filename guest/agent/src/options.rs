//! getsockopt() and setsockopt() of outsourced sockets.
//!
//! in: notifications; out: values and errors as TCP gives them, because TCP gives them: the calls run
//! on the shadow, the guest's own TCP socket that the program had before. What the shadow cannot know
//! (it is not connected) the host's kernel is asked for (`inquiry`), and options that matter outside
//! the guest go to the host's socket as well (`outward`). Owner: the supervisor's loop. Kept: only the
//! options that `allowed` names reach the shadow. Bound: [`limits::OPTION_BYTES_MAX`].

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::time::Instant;

use outsock_vmrpc::Errno;
use outsock_vmrpc::limits::CONGESTION_BYTES_MAX;
use outsock_vmrpc::socket::Token;
use outsock_vmrpc::socket::options::{Inspection, SocketOption};

use crate::address::Family;
use crate::inquiry::Inquiry;
use crate::notify::{Answer, Notification};
use crate::outward::{Kind, Seen};
use crate::supervisor::{Progress, Subject, Supervisor, progress};
use crate::sys::poll::{FAILED, HUNG_UP, PEER_CLOSED};
use crate::table::State;
use crate::{address, allowed, limits, sys};

/// Options of level SOL_SOCKET that do not follow a socket to the file that replaces it: those that
/// the shadow answers for, those that only tell, and those that carry pointers.
const STAYING: &[i32] = &[
    libc::SO_TYPE,
    libc::SO_ERROR,
    libc::SO_SNDBUF,
    libc::SO_RCVBUF,
    libc::SO_REUSEPORT,
    libc::SO_ATTACH_FILTER,
    libc::SO_DETACH_FILTER,
    libc::SO_SNDBUFFORCE,
    libc::SO_RCVBUFFORCE,
    libc::SO_ATTACH_BPF,
    libc::SO_ATTACH_REUSEPORT_CBPF,
    libc::SO_ATTACH_REUSEPORT_EBPF,
];
/// The longest value that follows: a network device's name (SO_BINDTODEVICE) or a `timeval`.
const FOLLOWING_BYTES_MAX: usize = 16;

/// `include/uapi/asm-generic/socket.h`: getpeername() as an option.
const SO_PEERNAME: i32 = 28;

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
        if (level, name) == (libc::SOL_SOCKET, SO_PEERNAME) {
            return Ok(self.peer_name_option(notification, &subject));
        }
        if !allowed::may_read(level, name) {
            return Ok(Answer::Fail(refused_to_read(level, socket.family)));
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
            let asks = matches!(name, libc::TCP_INFO | libc::TCP_MAXSEG | libc::TCP_CONGESTION);
            if asks && matches!(socket.state, State::Connected { .. }) {
                let inquiry = Inquiry::Option { name, value: value.clone() };
                if let Some(answer) = self.inquire(notification, subject.inode, inquiry, now) {
                    return Ok(answer);
                }
            }
        }
        write_value(notification, &value)
    }

    fn peer_name_option(&mut self, notification: &Notification, subject: &Subject) -> Answer {
        let Some(peer) = self.peer_of(subject) else { return Answer::Fail(Errno::ENOTCONN) };
        let name = address::encode(peer);
        match read_room(notification) {
            Ok(room) if room > name.len() => Answer::Fail(Errno::EINVAL),
            Ok(_) => write_option(notification, &name),
            Err(errno) => Answer::Fail(errno),
        }
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
        let Some(error) = socket.state.take_error() else {
            // The guest's kernel cannot tell a reset from an end; that there is an end it can.
            let asks = !socket.reset_told && has_ended(file);
            let inquiry = Inquiry::Error { inode: subject.inode };
            let answer = asks.then(|| self.inquire(notification, subject.inode, inquiry, now));
            return Ok(answer.flatten().unwrap_or(Answer::Native));
        };
        // The data connection has an error of its own, which only says that there is one.
        let _ = sys::socket::int_option(file.as_fd(), libc::SOL_SOCKET, libc::SO_ERROR);
        let value = error.err().map_or(0, Errno::raw);
        Ok(write_option(notification, &value.to_ne_bytes()))
    }

    pub(crate) fn on_set_option(
        &mut self,
        notification: &Notification,
        now: Instant,
    ) -> io::Result<Answer> {
        let (level, name) = (notification.int(1), notification.int(2));
        let kind = Kind::of(level, name);
        self.seen.note(level, name);
        // Most options of the socket level are the data connection's own as well.
        let is_streams = level == libc::SOL_SOCKET && !allowed::may_set(level, name);
        if self.table.is_empty() || is_streams && kind.is_none() {
            return Ok(Answer::Native);
        }
        let subject = self.subject(notification)?;
        let Some(socket) = self.entry(&subject) else { return Ok(Answer::Native) };
        let by_stream = kind.is_some_and(Kind::is_kept_by_stream);
        if !by_stream && !allowed::may_set(level, name) {
            return Ok(Answer::Fail(Errno::ENOPROTOOPT));
        }
        if let State::Connected { .. } = socket.state
            && is_too_late(level, name)
        {
            return Ok(Answer::Fail(Errno::EINVAL));
        }
        let file = if by_stream { subject.file } else { socket.shadow.try_clone()? };
        let is_v4 = socket.peer.ip().to_canonical().is_ipv4();
        let value = match passed_value(notification) {
            Ok(value) => value,
            Err(errno) => return Ok(Answer::Fail(errno)),
        };
        if kind.is_some_and(Kind::awaits_host)
            && matches!(socket.state, State::Connected { .. })
            && let Some(option) = kind.and_then(|kind| passed_option(kind, &value))
        {
            let file = file.try_clone()?;
            let inquiry = Inquiry::Set { option, file, level, name, value: value.clone() };
            if let Some(answer) = self.inquire(notification, subject.inode, inquiry, now) {
                return Ok(answer);
            }
        }
        if (level, name) == (libc::SOL_TCP, libc::TCP_CONGESTION) && !is_loaded(&value) {
            let errno = if value.is_empty() { Errno::EINVAL } else { Errno::ENOENT };
            return Ok(Answer::Fail(errno));
        }
        if let Err(error) = sys::socket::set_option(file.as_fd(), level, name, &value) {
            return Ok(Answer::Fail(Errno::of(&error)));
        }
        // As the kernel has understood it.
        if let Some(option) = kind.and_then(|kind| kind.read(file.as_fd(), is_v4)) {
            self.tell_options(subject.inode, [option]);
        }
        Ok(Answer::Value(0))
    }

    /// Tells the host of options, when it can.
    pub(crate) fn tell_options(
        &mut self,
        inode: u64,
        options: impl IntoIterator<Item = SocketOption>,
    ) {
        if let Some(socket) = self.table.get(inode) {
            options.into_iter().for_each(|option| socket.outward.push(option));
        }
        self.send_options(inode);
    }

    /// Sends the options that wait, unless others are on their way or the connection does not stand.
    pub(crate) fn send_options(&mut self, inode: u64) {
        let Some(socket) = self.table.get(inode) else { return };
        if !self.link.has_options() || !matches!(socket.state, State::Connected { .. }) {
            return;
        }
        if let Some(options) = socket.outward.take() {
            self.link.set_options(socket.token, options, inode);
        }
    }

    /// The host has taken the options that were on their way.
    pub(crate) fn on_options_set(&mut self, token: Token, inode: u64) {
        let Some(socket) = self.table.get(inode).filter(|socket| socket.token == token) else {
            return;
        };
        socket.outward.arrived();
        self.send_options(inode);
    }
}

/// How getsockopt() refuses what it does not have: IPv4 has a word of its own for levels (`ip_getsockopt()`).
fn refused_to_read(level: i32, family: Family) -> Errno {
    let is_level = matches!(level, libc::SOL_SOCKET | libc::SOL_TCP | libc::SOL_IP);
    if family == Family::V4 && !is_level { Errno::EOPNOTSUPP } else { Errno::ENOPROTOOPT }
}

/// Whether the far side has ended the connection, in whatever way.
pub(crate) fn has_ended(file: &OwnedFd) -> bool {
    const ENDED: u32 = PEER_CLOSED | HUNG_UP | FAILED;
    sys::poll::ready(file.as_fd(), PEER_CLOSED).is_ok_and(|ready| ready & ENDED != 0)
}

/// Options that TCP takes only before it is connected; the shadow never is.
fn is_too_late(level: i32, name: i32) -> bool {
    const BEFORE: [(i32, i32); 2] =
        [(libc::SOL_TCP, libc::TCP_FASTOPEN_CONNECT), (libc::SOL_IPV6, libc::IPV6_V6ONLY)];
    BEFORE.contains(&(level, name))
}

/// The value that a setsockopt() passes, copied once.
fn passed_value(notification: &Notification) -> Result<Vec<u8>, Errno> {
    let length = usize::try_from(notification.int(4)).map_err(|_| Errno::EINVAL)?;
    let mut value = vec![0u8; length.min(limits::OPTION_BYTES_MAX)];
    sys::memory::read(notification.thread, notification.pointer(3), &mut value)
        .map_err(|_| Errno::EFAULT)?;
    Ok(value)
}

/// What a value means to the host, for the options whose answer is the host's. `None`: the guest's
/// kernel will say what is wrong with it.
fn passed_option(kind: Kind, value: &[u8]) -> Option<SocketOption> {
    match kind {
        Kind::Linger => {
            let word = |at: usize| value.get(at..)?.first_chunk().copied().map(i32::from_ne_bytes);
            Some(SocketOption::AbortOnClose(word(0)? != 0 && word(4)? == 0))
        }
        Kind::Congestion => {
            let name = value.split(|byte| *byte == 0).next().unwrap_or_default();
            let name = name.get(..name.len().min(CONGESTION_BYTES_MAX)).unwrap_or_default();
            let name = std::str::from_utf8(name).ok().filter(|name| !name.is_empty())?;
            Some(SocketOption::Congestion(name.to_owned()))
        }
        _ => None,
    }
}

/// Whether a congestion control is there already: the supervisor must not have the kernel load one
/// for a program that could not.
pub(crate) fn is_loaded(name: &[u8]) -> bool {
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

/// Puts the host's answer in the place of the guest's, cut to the length that the program's kernel
/// would have written.
pub(crate) fn refine(name: i32, value: &mut [u8], inspection: Option<&Inspection>) {
    const CLOSE: u8 = 7;
    let Some(inspection) = inspection else { return };
    if let (libc::TCP_INFO, Some(_), Some(state)) = (name, inspection.reset, value.first_mut()) {
        *state = CLOSE;
    }
    let bytes = match name {
        libc::TCP_INFO => inspection.tcp_info.clone(),
        libc::TCP_MAXSEG => inspection.max_segment.map(|bytes| bytes.to_ne_bytes().to_vec()),
        libc::TCP_CONGESTION => inspection.congestion.clone().map(String::into_bytes),
        _ => None,
    };
    let Some(bytes) = bytes else { return };
    // A field that the host's kernel does not have is zero, as one that it does not count.
    value.fill(0);
    let length = value.len().min(bytes.len());
    value[..length].copy_from_slice(&bytes[..length]);
}

/// The length of the buffer that getsockopt() got.
fn read_room(notification: &Notification) -> Result<usize, Errno> {
    let mut length = [0u8; 4];
    sys::memory::read(notification.thread, notification.pointer(4), &mut length)
        .map_err(|_| Errno::EFAULT)?;
    usize::try_from(i32::from_ne_bytes(length)).map_err(|_| Errno::EINVAL)
}

/// Writes an option's value, as much of it as the buffer of getsockopt() takes.
pub(crate) fn write_option(notification: &Notification, value: &[u8]) -> Answer {
    let written = read_room(notification).and_then(|room| {
        write_value(notification, &value[..room.min(value.len())])
            .map_err(|error| Errno::of(&error))
    });
    written.unwrap_or_else(Answer::Fail)
}

pub(crate) fn write_value(notification: &Notification, value: &[u8]) -> io::Result<Answer> {
    let length = i32::try_from(value.len()).unwrap_or(0).to_ne_bytes();
    let written = sys::memory::write(notification.thread, notification.pointer(3), value)
        .and_then(|()| sys::memory::write(notification.thread, notification.pointer(4), &length));
    Ok(if written.is_ok() { Answer::Value(0) } else { Answer::Fail(Errno::EFAULT) })
}

/// Copies the options that follow a socket, of those that were set anywhere. What the other file does
/// not take is left.
pub(crate) fn copy_all(from: &OwnedFd, to: &OwnedFd, flags: i32, seen: Seen) {
    let level = libc::SOL_SOCKET;
    for name in seen.names().filter(|name| !STAYING.contains(name)) {
        let (mut value, mut other) = ([0u8; FOLLOWING_BYTES_MAX], [0u8; FOLLOWING_BYTES_MAX]);
        let Ok(length) = sys::socket::option(from.as_fd(), level, name, &mut value) else {
            continue;
        };
        let there = sys::socket::option(to.as_fd(), level, name, &mut other);
        if there.is_err() || other != value {
            let _ = sys::socket::set_option(to.as_fd(), level, name, &value[..length]);
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
        let mut seen = Seen::default();
        copy_all(&from, &to, 0, seen);
        assert_eq!(keep_alive(&to), 0, "nobody has set it");
        seen.note(libc::SOL_SOCKET, libc::SO_KEEPALIVE);
        copy_all(&from, &to, 0, seen);
        assert_eq!(keep_alive(&to), 1);
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
    fn the_hosts_answer_has_the_length_of_the_guests() {
        let inspection = Inspection {
            tcp_info: Some(vec![9; 240]),
            congestion: Some("reno".to_owned()),
            max_segment: Some(1448),
            ..Inspection::default()
        };
        let refined = |name, length: usize| {
            let mut value = vec![7u8; length];
            refine(name, &mut value, Some(&inspection));
            value
        };
        assert_eq!(refined(libc::TCP_INFO, 104), [9; 104]);
        let long = refined(libc::TCP_INFO, 300);
        assert_eq!((&long[..240], &long[240..]), (&[9; 240][..], &[0; 60][..]));
        assert_eq!(refined(libc::TCP_MAXSEG, 4), 1448i32.to_ne_bytes());
        assert_eq!(refined(libc::TCP_CONGESTION, 16), *b"reno\0\0\0\0\0\0\0\0\0\0\0\0");
        assert_eq!(refined(libc::TCP_CONGESTION, 2), *b"re");
        assert_eq!(refined(libc::TCP_NODELAY, 1), [7]);
    }

    #[test]
    fn a_congestion_control_must_be_there() {
        assert!(!is_loaded(b"no-such-thing\0"));
        assert!(!is_loaded(b""));
        drop(TcpListener::bind("127.0.0.1:0").unwrap());
        assert!(is_loaded(b"reno\0") || is_loaded(b"cubic\0"));
    }
}
