//! What /proc says about a thread and its descriptors.
//!
//! in: a thread id; out: parsed text. The files belong to the kernel, so a line that does not parse
//! is skipped, not trusted. Bound: [`limits::PROC_TEXT_BYTES_MAX`].

use std::fs::File;
use std::io::{self, Read};
use std::os::fd::RawFd;

use crate::limits;

/// The parts of /proc/TID/status that matter for a waiting call.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Status {
    pub(crate) process: u32,
    pub(crate) threads: u32,
    /// Signals pending for this thread, as a bit set.
    pub(crate) pending_own: u64,
    /// Signals pending for the process.
    pub(crate) pending_shared: u64,
    pub(crate) blocked: u64,
}

pub(crate) fn status(thread: u32) -> io::Result<Status> {
    Ok(parse_status(&text(&format!("/proc/{thread}/status"))?))
}

fn parse_status(text: &str) -> Status {
    let mut status = Status::default();
    for line in text.lines() {
        let Some((name, value)) = line.split_once(':') else { continue };
        let value = value.trim();
        let bits = || u64::from_str_radix(value, 16).unwrap_or(0);
        match name {
            "Tgid" => status.process = value.parse().unwrap_or(0),
            "Threads" => status.threads = value.parse().unwrap_or(0),
            "SigPnd" => status.pending_own = bits(),
            "ShdPnd" => status.pending_shared = bits(),
            "SigBlk" => status.blocked = bits(),
            _ => {}
        }
    }
    status
}

/// One file registered in an epoll set.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Registration {
    /// The descriptor number that it was registered with.
    pub(crate) target: RawFd,
    pub(crate) events: u32,
    pub(crate) data: u64,
    pub(crate) inode: u64,
}

/// /proc/TID/fdinfo/N.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct FdInfo {
    /// As given to open(), with O_CLOEXEC.
    pub(crate) flags: i32,
    /// Only for epoll sets.
    pub(crate) registrations: Vec<Registration>,
}

impl FdInfo {
    pub(crate) fn close_on_exec(&self) -> bool {
        self.flags & libc::O_CLOEXEC != 0
    }
}

pub(crate) fn fd_info(thread: u32, number: RawFd) -> io::Result<FdInfo> {
    Ok(parse_fd_info(&text(&format!("/proc/{thread}/fdinfo/{number}"))?))
}

pub(crate) fn own_fd_info(number: RawFd) -> io::Result<FdInfo> {
    Ok(parse_fd_info(&text(&format!("/proc/self/fdinfo/{number}"))?))
}

fn parse_fd_info(text: &str) -> FdInfo {
    let mut info = FdInfo::default();
    for line in text.lines() {
        if let Some(flags) = line.strip_prefix("flags:") {
            info.flags = i32::from_str_radix(flags.trim(), 8).unwrap_or(0);
        } else if line.starts_with("tfd:") {
            info.registrations.extend(parse_registration(line));
        }
    }
    info
}

/// `tfd:        5 events:       19 data:                5  pos:0 ino:1f03 sdev:8`
fn parse_registration(line: &str) -> Option<Registration> {
    let field = |name: &str| {
        let after = line.split_once(name)?.1.trim_start();
        Some(after.split_whitespace().next().unwrap_or(""))
    };
    Some(Registration {
        target: field("tfd:")?.parse().ok()?,
        events: u32::from_str_radix(field("events:")?, 16).ok()?,
        data: u64::from_str_radix(field("data:")?, 16).ok()?,
        inode: u64::from_str_radix(field("ino:")?, 16).ok()?,
    })
}

/// The open descriptors of a thread.
pub(crate) fn descriptors(thread: u32) -> io::Result<Vec<RawFd>> {
    let entries = std::fs::read_dir(format!("/proc/{thread}/fd"))?;
    let number = |entry: io::Result<std::fs::DirEntry>| {
        entry.ok()?.file_name().to_str()?.parse::<RawFd>().ok()
    };
    Ok(entries.filter_map(number).collect())
}

/// The parent of a process.
pub(crate) fn parent(process: u32) -> Option<u32> {
    let text = text(&format!("/proc/{process}/stat")).ok()?;
    // The second field is a name, which may hold anything.
    text.rsplit_once(')')?.1.split_whitespace().nth(1)?.parse().ok()
}

/// The children that a thread of a process has made. None where the kernel has no list of them.
pub(crate) fn children(process: u32, thread: u32) -> Vec<u32> {
    let text = text(&format!("/proc/{process}/task/{thread}/children")).unwrap_or_default();
    text.split_whitespace().filter_map(|child| child.parse().ok()).collect()
}

/// What a descriptor is: `socket:[123]`, `anon_inode:[eventpoll]`, a path.
pub(crate) fn link(thread: u32, number: RawFd) -> io::Result<std::path::PathBuf> {
    std::fs::read_link(format!("/proc/{thread}/fd/{number}"))
}

/// The inode of a descriptor that is a socket.
pub(crate) fn socket_inode(thread: u32, number: RawFd) -> Option<u64> {
    let link = link(thread, number).ok()?;
    link.to_str()?.strip_prefix("socket:[")?.strip_suffix(']')?.parse().ok()
}

/// The whole of a file, in one read where it is short: these files come out whole.
fn text(path: &str) -> io::Result<String> {
    let mut file = File::open(path)?;
    let mut bytes = vec![0u8; 4096];
    let length = file.read(&mut bytes)?;
    bytes.truncate(length);
    if length > 2048 {
        file.take(limits::PROC_TEXT_BYTES_MAX).read_to_end(&mut bytes)?;
    }
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::fd::{AsFd, AsRawFd};

    #[test]
    fn status_and_fdinfo_parse() {
        let text = "Name:\tx: y\nTgid:\t12\nThreads:\t3\nSigPnd:\t0000000000000200\n\
                    ShdPnd:\t0000000000004000\nSigBlk:\t0000000000000001\nnonsense\n";
        let expected = Status {
            process: 12,
            threads: 3,
            pending_own: 0x200,
            pending_shared: 0x4000,
            blocked: 1,
        };
        assert_eq!(parse_status(text), expected);
        let text = "pos:\t0\nflags:\t02000002\nmnt_id:\t15\nino:\t1060\n\
                    tfd:        5 events: 80000019 data:   7fff00000005  pos:0 ino:1f03 sdev:8\n";
        let info = parse_fd_info(text);
        assert!(info.close_on_exec());
        let expected =
            Registration { target: 5, events: 0x8000_0019, data: 0x7fff_0000_0005, inode: 0x1f03 };
        assert_eq!(info.registrations, [expected]);
        assert_eq!(parse_registration("tfd: x"), None);
    }

    #[test]
    fn the_running_kernel_agrees() {
        let me = std::process::id();
        let status = status(me).unwrap();
        assert_eq!(status.process, me);
        assert!(status.threads >= 1);
        let socket = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
        let number = socket.as_raw_fd();
        let inode = crate::sys::file::identity(socket.as_fd()).unwrap().inode;
        assert_eq!(socket_inode(me, number), Some(inode));
        assert!(descriptors(me).unwrap().contains(&number));
        let set = crate::sys::poll::Epoll::new().unwrap();
        set.add(socket.as_fd(), 1, 77).unwrap();
        let info = own_fd_info(set.as_fd().as_raw_fd()).unwrap();
        assert_eq!(info.registrations.len(), 1);
        assert_eq!((info.registrations[0].data, info.registrations[0].inode), (77, inode));
    }
}
