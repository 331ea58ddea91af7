//! Option: a program's socket options on a socket of the host's kernel.
//!
//! in:  options as the guest's agent sends them ([`SocketOption`]: a closed list, no pointers)
//! out: `setsockopt` on one socket, or the kernel's own error
//! owner: the caller, who holds the socket for the time of the call
//! keeps: a guest gets nothing that an unprivileged program of the host would not
//! bound: the kernel's limits for buffers (`net.core.wmem_max`, `rmem_max`)

use std::io;
use std::os::fd::BorrowedFd;
use std::time::Duration;

use outsock_vmrpc::Errno;
pub use outsock_vmrpc::socket::options::SocketOption;
use socket2::{Domain, SockRef, TcpKeepalive};

/// Which congestion controls the host's administrator lets every program use.
const ALLOWED_CONGESTION: &str = "/proc/sys/net/ipv4/tcp_allowed_congestion_control";

/// Sets one option. A Unix socket takes those that it knows and ignores TCP's.
///
/// ```
/// use std::net::{TcpListener, TcpStream};
/// use std::os::fd::AsFd;
/// use outsock_transport::option::{SocketOption, apply};
///
/// # fn main() -> std::io::Result<()> {
/// let listener = TcpListener::bind("127.0.0.1:0")?;
/// let stream = TcpStream::connect(listener.local_addr()?)?;
/// apply(stream.as_fd(), &SocketOption::NoDelay(true))?;
/// assert!(stream.nodelay()?);
/// # Ok(()) }
/// ```
pub fn apply(socket: BorrowedFd<'_>, option: &SocketOption) -> io::Result<()> {
    let socket = SockRef::from(&socket);
    let domain = socket.domain()?;
    let is_tcp = domain == Domain::IPV4 || domain == Domain::IPV6;
    match option {
        SocketOption::KeepAlive(on) => socket.set_keepalive(*on),
        SocketOption::SendBuffer(bytes) => socket.set_send_buffer_size(size(*bytes)),
        SocketOption::ReceiveBuffer(bytes) => socket.set_recv_buffer_size(size(*bytes)),
        // The device's to do: a socket that is closed elsewhere must not be reset.
        SocketOption::AbortOnClose(_) => Ok(()),
        _ if !is_tcp => Ok(()),
        SocketOption::NoDelay(on) => socket.set_tcp_nodelay(*on),
        SocketOption::KeepIdle(seconds) => {
            keep_alive(&socket, TcpKeepalive::new().with_time(duration(*seconds)))
        }
        SocketOption::KeepInterval(seconds) => {
            keep_alive(&socket, TcpKeepalive::new().with_interval(duration(*seconds)))
        }
        SocketOption::KeepCount(probes) => {
            keep_alive(&socket, TcpKeepalive::new().with_retries(*probes))
        }
        SocketOption::UserTimeout(milliseconds) => {
            socket.set_tcp_user_timeout(Some(Duration::from_millis(u64::from(*milliseconds))))
        }
        SocketOption::TrafficClass(class) if domain == Domain::IPV4 => {
            socket.set_tos_v4(u32::from(*class))
        }
        SocketOption::TrafficClass(class) => socket.set_tclass_v6(u32::from(*class)),
        SocketOption::HopLimit(hops) if domain == Domain::IPV4 => {
            socket.set_ttl_v4(u32::from(*hops))
        }
        SocketOption::HopLimit(hops) => socket.set_unicast_hops_v6(u32::from(*hops)),
        SocketOption::MaxSegment(bytes) => socket.set_tcp_mss(u32::from(*bytes)),
        SocketOption::Congestion(name) => {
            if !is_allowed(name) {
                // What the kernel says of one that it does not have.
                return Err(Errno::ENOENT.into());
            }
            socket.set_tcp_congestion(name.as_bytes())
        }
    }
}

/// Sets all of them, in order; the first error is returned after the others were set as well.
pub fn apply_all(socket: BorrowedFd<'_>, options: &[SocketOption]) -> io::Result<()> {
    let mut result = Ok(());
    for option in options {
        if let Err(error) = apply(socket, option) {
            result = result.and(Err(error));
        }
    }
    result
}

fn size(bytes: u32) -> usize {
    // The kernel takes an int.
    usize::try_from(bytes.min(i32::MAX.cast_unsigned())).unwrap_or(0)
}

fn duration(seconds: u32) -> Duration {
    Duration::from_secs(u64::from(seconds))
}

/// The library turns keepalive on with its times; a program's own choice is restored.
fn keep_alive(socket: &SockRef<'_>, times: TcpKeepalive) -> io::Result<()> {
    let on = socket.keepalive()?;
    let set = socket.set_tcp_keepalive(&times);
    if !on {
        socket.set_keepalive(false)?;
    }
    set
}

/// The gateway may have the privilege to use, and even to load, any of them.
fn is_allowed(name: &str) -> bool {
    let Ok(allowed) = std::fs::read_to_string(ALLOWED_CONGESTION) else { return false };
    allowed.split_whitespace().any(|one| one == name)
}

#[cfg(test)]
mod tests {
    use std::net::{TcpListener, TcpStream};
    use std::os::fd::AsFd;

    use super::*;

    fn stream(address: &str) -> TcpStream {
        let listener = TcpListener::bind(address).unwrap();
        TcpStream::connect(listener.local_addr().unwrap()).unwrap()
    }

    #[test]
    fn what_is_set_is_there() {
        let stream = stream("127.0.0.1:0");
        let set = |option| apply(stream.as_fd(), &option);
        let socket = SockRef::from(&stream);
        set(SocketOption::NoDelay(true)).unwrap();
        assert!(socket.tcp_nodelay().unwrap());
        for (option, on) in [
            (SocketOption::KeepIdle(77), false),
            (SocketOption::KeepAlive(true), true),
            (SocketOption::KeepInterval(11), true),
            (SocketOption::KeepCount(4), true),
            (SocketOption::KeepAlive(false), false),
        ] {
            set(option.clone()).unwrap();
            assert_eq!(socket.keepalive().unwrap(), on, "{option:?}");
        }
        assert_eq!(socket.tcp_keepalive_time().unwrap(), Duration::from_secs(77));
        assert_eq!(socket.tcp_keepalive_interval().unwrap(), Duration::from_secs(11));
        assert_eq!(socket.tcp_keepalive_retries().unwrap(), 4);
        set(SocketOption::UserTimeout(5000)).unwrap();
        assert_eq!(socket.tcp_user_timeout().unwrap(), Some(Duration::from_secs(5)));
        set(SocketOption::TrafficClass(0x10)).unwrap();
        assert_eq!(socket.tos_v4().unwrap(), 0x10);
        set(SocketOption::HopLimit(33)).unwrap();
        assert_eq!(socket.ttl_v4().unwrap(), 33);
        set(SocketOption::SendBuffer(50_000)).unwrap();
        assert_eq!(socket.send_buffer_size().unwrap(), 100_000);
        set(SocketOption::ReceiveBuffer(u32::MAX)).unwrap();
    }

    #[test]
    fn the_kernel_judges_and_its_errno_comes_back() {
        let stream = stream("127.0.0.1:0");
        let errno = |option| apply(stream.as_fd(), &option).map_err(|error| Errno::of(&error));
        assert_eq!(errno(SocketOption::KeepIdle(0)), Err(Errno::EINVAL));
        assert_eq!(errno(SocketOption::KeepCount(4000)), Err(Errno::EINVAL));
        assert_eq!(errno(SocketOption::HopLimit(0)), Err(Errno::EINVAL));
        assert_eq!(errno(SocketOption::Congestion("nonesuch".to_owned())), Err(Errno::ENOENT));
        let options = [SocketOption::KeepIdle(0), SocketOption::NoDelay(true)];
        assert!(apply_all(stream.as_fd(), &options).is_err());
        assert!(stream.nodelay().unwrap(), "the others are set all the same");
    }

    #[test]
    fn only_what_everybody_may_use() {
        assert!(is_allowed("reno"));
        assert!(!is_allowed("reno cubic") && !is_allowed(""));
    }

    #[test]
    fn a_unix_socket_ignores_what_is_tcps() {
        let (one, _two) = std::os::unix::net::UnixStream::pair().unwrap();
        for option in [SocketOption::NoDelay(true), SocketOption::Congestion("reno".to_owned())] {
            apply(one.as_fd(), &option).unwrap();
        }
        apply(one.as_fd(), &SocketOption::SendBuffer(50_000)).unwrap();
        assert_eq!(SockRef::from(&one).send_buffer_size().unwrap(), 100_000);
    }
}
