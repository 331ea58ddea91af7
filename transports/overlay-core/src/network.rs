//! Network: which overlay a thing belongs to.
//!
//! in: an authority's key, or the name of an open network; out: an id, the names of its protocols, the
//! places of its directory. Plain data. Kept: two networks share no protocol name and no place, so they
//! never merge, also where a node of one meets a node of the other. Bound: 32 bytes.

use std::fmt;

use outsock_peer::PeerKey;
use ring::digest::{SHA256, digest};

use crate::name::Label;

/// An overlay.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct NetworkId([u8; 32]);

/// A place of the directory: a key of Kademlia's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Locator(pub [u8; 32]);

fn hash(parts: &[&[u8]]) -> [u8; 32] {
    // Each part is either of a fixed length or the last one, so no two lists give the same bytes.
    let mut hashed = [0; 32];
    hashed.copy_from_slice(digest(&SHA256, &parts.concat()).as_ref());
    hashed
}

impl NetworkId {
    /// The private network of an authority.
    #[must_use]
    pub fn private(authority: PeerKey) -> Self {
        Self(hash(&[b"outsock private network 1\0", authority.as_bytes()]))
    }

    /// The open network of a name: whoever knows the name may join.
    #[must_use]
    pub fn open(name: &str) -> Self {
        Self(hash(&[b"outsock open network 1\0", name.as_bytes()]))
    }

    /// From the wire.
    #[must_use]
    pub fn new(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// The bytes.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }

    /// The name of one of this network's protocols.
    ///
    /// ```
    /// let network = outsock_overlay_core::NetworkId::open("lab");
    /// let name = network.protocol("kad/1");
    /// assert!(name.starts_with("/outsock/") && name.ends_with("/kad/1"), "{name}");
    /// ```
    #[must_use]
    pub fn protocol(&self, protocol: &str) -> String {
        format!("/outsock/{self}/{protocol}")
    }

    /// Where a node's own record is.
    #[must_use]
    pub fn locator_of_key(&self, key: PeerKey) -> Locator {
        Locator(hash(&[b"outsock record of key 1\0", &self.0, key.as_bytes()]))
    }

    /// Where the record is that has a certified name.
    #[must_use]
    pub fn locator_of_name(&self, name: &Label) -> Locator {
        Locator(hash(&[b"outsock record of name 1\0", &self.0, name.as_str().as_bytes()]))
    }

    /// Under which supernodes are announced as providers.
    #[must_use]
    pub fn locator_of_supernodes(&self) -> Locator {
        Locator(hash(&[b"outsock supernodes 1\0", &self.0]))
    }
}

impl fmt::Display for NetworkId {
    /// Short: 16 hexadecimal digits.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().take(8).try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn networks_share_nothing() {
        let (one, other) = (NetworkId::open("one"), NetworkId::open("other"));
        let (key, name) = (PeerKey::new([7; 32]), Label::parse("osaka").unwrap());
        assert_ne!(one.protocol("kad/1"), other.protocol("kad/1"));
        assert_ne!(one.locator_of_key(key), other.locator_of_key(key));
        assert_ne!(one.locator_of_name(&name), other.locator_of_name(&name));
        assert_ne!(one.locator_of_supernodes(), other.locator_of_supernodes());
        assert_ne!(NetworkId::private(key), NetworkId::private(PeerKey::new([8; 32])));
    }
}
