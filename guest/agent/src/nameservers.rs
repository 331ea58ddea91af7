//! Nameservers: which addresses programs ask for names.
//!
//! in: a thread; out: whether an address is a nameserver of it, by the /etc/resolv.conf that it sees.
//! A file that is missing, empty or unreadable means loopback, as all resolvers have it. Kept: an
//! address that once was a nameserver stays one, because programs keep what they have read. Owner: the
//! supervisor's thread. Bounds: [`limits::NAMESERVERS_MAX`], [`limits::RESOLV_CONF_BYTES_MAX`].

use std::collections::VecDeque;
use std::fs::{File, Metadata};
use std::io::Read;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::unix::fs::MetadataExt;

use crate::limits;

/// What resolvers ask when nothing is said (resolv.conf(5)).
const DEFAULT: [IpAddr; 2] = [IpAddr::V4(Ipv4Addr::LOCALHOST), IpAddr::V6(Ipv6Addr::LOCALHOST)];

/// See the module.
#[derive(Debug, Default)]
pub(crate) struct Nameservers {
    known: VecDeque<IpAddr>,
    /// Of the file that was read last.
    read: Option<Version>,
}

/// Changes when a file does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Version(Option<[i64; 5]>);

impl Version {
    fn of(metadata: Option<&Metadata>) -> Self {
        Self(metadata.map(|file| {
            let [device, inode] = [file.dev(), file.ino()].map(u64::cast_signed);
            [device, inode, file.size().cast_signed(), file.mtime(), file.mtime_nsec()]
        }))
    }
}

impl Nameservers {
    /// Whether a thread would ask this address for names.
    pub(crate) fn has(&mut self, thread: u32, address: IpAddr) -> bool {
        let address = address.to_canonical();
        if !self.known.contains(&address) {
            self.look(thread);
        }
        self.known.contains(&address)
    }

    /// Reads the thread's file, if it is not the one that was read last.
    pub(crate) fn look(&mut self, thread: u32) {
        let path = format!("/proc/{thread}/root/etc/resolv.conf");
        let version = Version::of(std::fs::metadata(&path).ok().as_ref());
        if self.read == Some(version) {
            return;
        }
        self.read = Some(version);
        let mut text = Vec::new();
        if let Ok(file) = File::open(path) {
            // A file that cannot be read to its end counts as far as it goes.
            let _ = file.take(limits::RESOLV_CONF_BYTES_MAX).read_to_end(&mut text);
        }
        for address in listed(&String::from_utf8_lossy(&text)) {
            if !self.known.contains(&address) {
                self.known.push_back(address);
            }
            if self.known.len() > limits::NAMESERVERS_MAX {
                self.known.pop_front();
            }
        }
    }
}

/// The nameservers that a resolv.conf names. One on a link (fe80::1%eth0) is not among them: its
/// address means nothing in another network.
fn listed(text: &str) -> Vec<IpAddr> {
    let mut listed: Vec<IpAddr> = text
        .lines()
        .filter_map(|line| line.strip_prefix("nameserver"))
        .filter(|rest| rest.starts_with([' ', '\t']))
        .filter_map(|rest| rest.split_whitespace().next()?.parse().ok())
        .map(|address: IpAddr| address.to_canonical())
        .filter(|address| !matches!(address, IpAddr::V6(v6) if v6.is_unicast_link_local()))
        .take(limits::NAMESERVERS_MAX)
        .collect();
    if listed.is_empty() {
        listed.extend(DEFAULT);
    }
    listed
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(text: &str) -> Vec<String> {
        listed(text).into_iter().map(|address| address.to_string()).collect()
    }

    #[test]
    fn files_are_read_as_resolvers_read_them() {
        let text = "# nameserver 1.1.1.1\nsearch lan\nnameserver 192.0.2.1\n\
                    nameserver\t2001:db8::1 \nnameservers 192.0.2.2\n nameserver 192.0.2.3\n\
                    nameserver ::ffff:192.0.2.4\nnameserver nonsense\nnameserver fe80::1%eth0\n";
        assert_eq!(parsed(text), ["192.0.2.1", "2001:db8::1", "192.0.2.4"]);
        assert_eq!(parsed("search lan\n"), ["127.0.0.1", "::1"]);
        assert_eq!(parsed(""), ["127.0.0.1", "::1"]);
    }

    #[test]
    fn this_machines_nameservers_are_known_and_stay() {
        let mut nameservers = Nameservers::default();
        let stranger = "192.0.2.99".parse().unwrap();
        assert!(!nameservers.has(std::process::id(), stranger));
        assert!(!nameservers.known.is_empty());
        nameservers.known.push_back(stranger);
        // A thread that is gone has no file: loopback.
        assert!(nameservers.has(u32::MAX, "127.0.0.1".parse().unwrap()));
        assert!(nameservers.has(u32::MAX, "::ffff:192.0.2.99".parse().unwrap()));
    }
}
