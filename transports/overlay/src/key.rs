//! Key: a gateway's key in libp2p's forms.
//!
//! in:  an [`Identity`] or a [`PeerKey`]; out: a keypair, a [`PeerId`]; and back. Owner: nobody.
//! Kept: one key has one [`PeerId`], the text that `outsock-gateway keygen` prints. Bound: none.

use libp2p::PeerId;
use libp2p::identity::Keypair;
use outsock_peer::{Identity, PeerKey};

/// The keypair that noise and TLS sign with.
pub(crate) fn keypair(identity: &Identity) -> Option<Keypair> {
    Keypair::ed25519_from_bytes(*identity.seed()).ok()
}

/// What libp2p calls the peer.
pub(crate) fn peer_id(key: &PeerKey) -> Option<PeerId> {
    PeerId::from_bytes(&key.peer_id_bytes()).ok()
}

/// The key of a peer; `None` where it is of a kind that gateways do not have.
pub(crate) fn peer_key(peer: &PeerId) -> Option<PeerKey> {
    peer.to_base58().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_the_same_in_all_forms() {
        let identity = Identity::from_seed([7; 32]).unwrap();
        let pair = keypair(&identity).unwrap();
        let peer = peer_id(&identity.key()).unwrap();
        assert_eq!(pair.public().to_peer_id(), peer);
        assert_eq!(peer.to_string(), identity.key().to_string());
        assert_eq!(peer_key(&peer), Some(identity.key()));
    }
}
