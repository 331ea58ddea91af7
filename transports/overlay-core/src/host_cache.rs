//! Host cache: nodes that were reached before, on disk.
//!
//! in: who was reached where; out: whom to try after a restart, so that no bootstrap is needed. Owner:
//! the transport. Kept: a file that is damaged costs the lines that are damaged, never the start; the
//! file is replaced whole. Only addresses are kept: who somebody is, the handshake says. Bounds:
//! [`limits::HOSTS_MAX`], [`limits::HOST_ADDRESSES_MAX`], [`limits::HOST_FILE_BYTES_MAX`].
//!
//! In the file: a line of header, then for each host `key seen failures carrier address ...`.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

use outsock_peer::PeerKey;

use crate::address::{Address, Carrier};
use crate::limits;
use crate::replace::replace;
use crate::time::UnixTime;

const HEADER: &str = "outsock-hosts 1";

#[derive(Clone, Debug, PartialEq, Eq)]
struct Host {
    seen: UnixTime,
    failures: u32,
    addresses: Vec<Address>,
}

/// See the module.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HostCache {
    hosts: BTreeMap<PeerKey, Host>,
}

/// What was wrong with a file.
#[derive(Debug, thiserror::Error)]
pub enum HostCacheError {
    /// It cannot be read.
    #[error("cannot read it: {0}")]
    Io(#[from] io::Error),
    /// It holds something else. It will be replaced.
    #[error("it is no file of hosts")]
    Foreign,
    /// Some of it is damaged; the rest is used.
    #[error("{0} of its lines are damaged and left out")]
    Damaged(usize),
}

impl HostCache {
    /// Reads a file. There is always a cache then; and what was wrong, to be said once.
    #[must_use]
    pub fn load(path: &Path) -> (Self, Option<HostCacheError>) {
        let mut bytes = Vec::new();
        let read = File::open(path)
            .and_then(|file| file.take(limits::HOST_FILE_BYTES_MAX).read_to_end(&mut bytes));
        match read {
            Ok(_) => Self::decode(&bytes),
            Err(error) if error.kind() == io::ErrorKind::NotFound => (Self::default(), None),
            Err(error) => (Self::default(), Some(error.into())),
        }
    }

    /// Reads a file's bytes.
    #[must_use]
    pub fn decode(bytes: &[u8]) -> (Self, Option<HostCacheError>) {
        let mut cache = Self::default();
        let text = String::from_utf8_lossy(bytes);
        let mut lines = text.split('\n');
        if lines.next() != Some(HEADER) {
            let empty = bytes.is_empty();
            return (cache, (!empty).then_some(HostCacheError::Foreign));
        }
        let mut damaged = 0;
        for line in lines.filter(|line| !line.is_empty()) {
            match parse(line) {
                Some((key, host)) => cache.insert(key, host),
                None => damaged += 1,
            }
        }
        (cache, (damaged > 0).then_some(HostCacheError::Damaged(damaged)))
    }

    /// The file's bytes.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut text = format!("{HEADER}\n");
        for (key, host) in &self.hosts {
            text.push_str(&format!("{key} {} {}", host.seen.0, host.failures));
            for address in &host.addresses {
                text.push_str(&format!(" {} {}", address.carrier, address.at));
            }
            text.push('\n');
        }
        text.into_bytes()
    }

    /// Writes the file.
    ///
    /// # Errors
    /// The system's; the old file is there then.
    pub fn save(&self, path: &Path) -> io::Result<()> {
        replace(path, &self.encode())
    }

    fn insert(&mut self, key: PeerKey, host: Host) {
        self.hosts.insert(key, host);
        if self.hosts.len() > limits::HOSTS_MAX {
            let worst = self
                .hosts
                .iter()
                .min_by_key(|(key, host)| (std::cmp::Reverse(host.failures), host.seen, **key));
            if let Some(worst) = worst.map(|(key, _)| *key) {
                self.hosts.remove(&worst);
            }
        }
    }

    /// A node was reached at these addresses. Those that lead through another are not kept.
    pub fn reached(&mut self, key: PeerKey, addresses: &[Address], now: UnixTime) {
        let own = addresses.iter().filter(|it| it.relay.is_none() && it.is_possible());
        let addresses: Vec<_> = own.take(limits::HOST_ADDRESSES_MAX).copied().collect();
        if !addresses.is_empty() {
            self.insert(key, Host { seen: now, failures: 0, addresses });
        }
    }

    /// A node was not reached.
    pub fn failed(&mut self, key: PeerKey) {
        if let Some(host) = self.hosts.get_mut(&key) {
            host.failures += 1;
            if host.failures >= limits::HOST_FAILURES_MAX {
                self.hosts.remove(&key);
            }
        }
    }

    /// Whom to try, so many: those that did not fail first, among them in an order of `random`, so that
    /// nodes with the same cache do not all try the same.
    pub fn candidates(
        &self,
        count: usize,
        random: &mut dyn FnMut() -> u64,
    ) -> Vec<(PeerKey, Vec<Address>)> {
        let mut hosts: Vec<_> =
            self.hosts.iter().map(|(key, host)| (host.failures, random(), key, host)).collect();
        hosts.sort_by_key(|(failures, drawn, key, _)| (*failures, *drawn, **key));
        hosts.iter().take(count).map(|(_, _, key, host)| (**key, host.addresses.clone())).collect()
    }

    /// How many there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.hosts.len()
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.hosts.is_empty()
    }
}

fn parse(line: &str) -> Option<(PeerKey, Host)> {
    let mut fields = line.split(' ');
    let key = fields.next()?.parse().ok()?;
    let seen = UnixTime(fields.next()?.parse().ok()?);
    let failures = fields.next()?.parse().ok()?;
    let mut addresses = Vec::new();
    while let Some(carrier) = fields.next() {
        let carrier = match carrier {
            "tcp" => Carrier::Tcp,
            "quic" => Carrier::Quic,
            "peer" => Carrier::Peer,
            _ => return None,
        };
        let address = Address { carrier, at: fields.next()?.parse().ok()?, relay: None };
        if !address.is_possible() || addresses.len() >= limits::HOST_ADDRESSES_MAX {
            return None;
        }
        addresses.push(address);
    }
    let known = failures < limits::HOST_FAILURES_MAX && !addresses.is_empty();
    known.then_some((key, Host { seen, failures, addresses }))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::testing::NOW;

    fn key(number: u64) -> PeerKey {
        let mut bytes = [0; 32];
        bytes[..8].copy_from_slice(&number.to_be_bytes());
        PeerKey::new(bytes)
    }

    fn address(number: u16) -> Address {
        let at = ([198, 51, 100, 7], number + 1).into();
        Address { carrier: Carrier::Quic, at, relay: None }
    }

    fn cache(count: u64) -> HostCache {
        let mut cache = HostCache::default();
        for number in 0..count {
            cache.reached(key(number), &[address(1), address(2)], NOW.after_s(number));
        }
        cache
    }

    #[test]
    fn a_restart_finds_them_again() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("state/hosts");
        let (empty, problem) = HostCache::load(&path);
        assert!(empty.is_empty() && problem.is_none());
        let cache = cache(20);
        cache.save(&path).unwrap();
        cache.save(&path).unwrap();
        let (again, problem) = HostCache::load(&path);
        assert!(problem.is_none());
        assert_eq!(again, cache);
        assert_eq!(std::fs::read_dir(path.parent().unwrap()).unwrap().count(), 1, "nothing aside");
    }

    #[test]
    fn the_largest_fits_and_the_oldest_goes() {
        let cache = cache(limits::HOSTS_MAX as u64 + 5);
        assert_eq!(cache.len(), limits::HOSTS_MAX);
        assert!(!cache.hosts.contains_key(&key(4)) && cache.hosts.contains_key(&key(5)));
        assert!((cache.encode().len() as u64) < limits::HOST_FILE_BYTES_MAX);
    }

    #[test]
    fn damage_costs_only_what_is_damaged() {
        let bytes = cache(3).encode();
        let (half, problem) = HostCache::decode(&bytes[..bytes.len() - 3]);
        assert!(half.len() >= 2, "{half:?} {problem:?}");
        let lines: Vec<_> = bytes.split(|byte| *byte == b'\n').collect();
        let noise = [lines[0], b"\xff\xfe", lines[2], b"12D3Koo 1 0"].join(&b'\n');
        let (some, problem) = HostCache::decode(&noise);
        assert_eq!(some.len(), 1);
        assert!(matches!(problem, Some(HostCacheError::Damaged(2))));
        let (none, problem) = HostCache::decode(b"something else");
        assert!(none.is_empty() && matches!(problem, Some(HostCacheError::Foreign)));
    }

    #[test]
    fn failures_count_and_relayed_addresses_are_not_kept() {
        let mut cache = cache(2);
        cache.failed(key(0));
        let first = cache.candidates(1, &mut || 0);
        assert_eq!(first[0].0, key(1));
        for _ in 0..limits::HOST_FAILURES_MAX {
            cache.failed(key(0));
        }
        assert_eq!(cache.len(), 1);
        let relayed = Address { relay: Some(key(1)), ..address(1) };
        cache.reached(key(7), &[relayed], NOW);
        assert_eq!(cache.len(), 1);
    }

    proptest! {
        #[test]
        fn any_bytes_are_a_cache(bytes in proptest::collection::vec(any::<u8>(), 0..400), at in 0_usize..2000) {
            let _ = HostCache::decode(&bytes);
            let mut damaged = cache(5).encode();
            let at = at % damaged.len();
            damaged.truncate(at);
            damaged.extend(&bytes);
            let (cache, _) = HostCache::decode(&damaged);
            prop_assert!(cache.len() <= limits::HOSTS_MAX);
        }
    }
}
