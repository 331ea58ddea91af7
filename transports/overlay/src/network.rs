//! Network: the protocols' names, which keep networks apart, and the gate of an open network.
//!
//! in: a network's name; out: names of protocols. Owner: nobody. Kept: two networks have no protocol in
//! common but those whose names libp2p fixes, and those are behind the [`Gate`]. Bound: 64 bytes.

use libp2p::StreamProtocol;
use outsock_peer::PeerKey;

use crate::admission::Gate;

/// The protocol of a purpose in a network.
pub(crate) fn protocol(network: &str, purpose: &str) -> StreamProtocol {
    // The slash before makes every name a valid one.
    StreamProtocol::try_from_owned(format!("/outsock/{network}/{purpose}"))
        .unwrap_or(StreamProtocol::new("/outsock/invalid"))
}

/// A network that everyone may join who knows its name.
#[derive(Clone, Debug)]
pub struct OpenNetwork(pub String);

impl Gate for OpenNetwork {
    fn hello(&self) -> Vec<u8> {
        self.0.as_bytes().to_vec()
    }

    fn admit(&self, hello: &[u8], _key: &PeerKey) -> Result<(), String> {
        match hello == self.0.as_bytes() {
            true => Ok(()),
            false => Err("this is another network".to_owned()),
        }
    }
}
