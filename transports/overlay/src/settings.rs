//! Settings: what a configuration says about the overlay.
//!
//! in:  the daemon's checked configuration; out: plain values. Owner: the daemon. Kept: the defaults are
//! those of `configs/reference.toml`. Bound: none of its own.

use std::sync::Arc;

use libp2p::multiaddr::Protocol;
use libp2p::{Multiaddr, PeerId};

use crate::admission::Gate;

/// An address of the overlay: `/ip4/192.0.2.1/tcp/4001`, `/ip4/192.0.2.1/udp/4001/quic-v1`, with
/// `/p2p/KEY` behind it where the peer is to be known.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Address(pub(crate) Multiaddr);

/// A text that is no address of the overlay.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadAddress {
    /// Not a multiaddress at all.
    #[error(
        "this is no address of the overlay: write /ip4/A.B.C.D/tcp/PORT or /ip4/A.B.C.D/udp/PORT/quic-v1"
    )]
    Syntax,
    /// Of a kind that is not spoken.
    #[error("the overlay speaks /tcp/PORT and /udp/PORT/quic-v1 over ip4 and ip6, nothing else")]
    Kind,
    /// Nobody knows whose it is.
    #[error("the peer's key is missing: end the address with /p2p/12D3KooW...")]
    NoKey,
}

impl std::str::FromStr for Address {
    type Err = BadAddress;

    fn from_str(text: &str) -> Result<Self, BadAddress> {
        let address: Multiaddr = text.parse().map_err(|_| BadAddress::Syntax)?;
        let parts: Vec<_> = address.iter().collect();
        let ([Protocol::Ip4(_) | Protocol::Ip6(_), Protocol::Tcp(_), rest @ ..]
        | [Protocol::Ip4(_) | Protocol::Ip6(_), Protocol::Udp(_), Protocol::QuicV1, rest @ ..]) =
            parts.as_slice()
        else {
            return Err(BadAddress::Kind);
        };
        match rest {
            [] | [Protocol::P2p(_)] => Ok(Self(address)),
            _ => Err(BadAddress::Kind),
        }
    }
}

impl std::fmt::Display for Address {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.fmt(f)
    }
}

impl Address {
    /// The same, if it says whose it is.
    ///
    /// # Errors
    /// [`BadAddress::NoKey`].
    pub fn of_a_peer(self) -> Result<Self, BadAddress> {
        self.peer().map(|_| ()).ok_or(BadAddress::NoKey)?;
        Ok(self)
    }

    pub(crate) fn peer(&self) -> Option<PeerId> {
        let Some(Protocol::P2p(peer)) = self.0.iter().last() else { return None };
        Some(peer)
    }
}

/// When this gateway is a supernode.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Wish {
    /// When others can reach it.
    #[default]
    Auto,
    /// Never: it carries nobody's bytes but its own.
    Never,
    /// From the start, at its `external` or listening addresses.
    Always,
}

/// See the module.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The network's name: gateways of other networks are strangers.
    pub network: String,
    /// What the network asks of its members.
    pub gate: Arc<dyn Gate>,
    /// Where others can dial this gateway.
    pub listen: Vec<Address>,
    /// Addresses by which others reach it, where it cannot see that itself.
    pub external: Vec<Address>,
    /// Peers that are dialled first.
    pub bootstrap: Vec<Address>,
    /// When it is a supernode.
    pub supernode: Wish,
    /// Look for gateways of the network on the LAN.
    pub mdns: bool,
}
