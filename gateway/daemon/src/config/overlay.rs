//! Overlay: the network of gateways that find each other, as the configuration says it.
//!
//! in: `[overlay]`; out: checked values, and the transport `overlay`. Kept: without the table there is no
//! overlay at all; who is named by no `[[peer]]` may use only the services written down here. Bounds:
//! [`limits::OVERLAY_ADDRESSES_MAX`], [`limits::NETWORK_NAME_BYTES_MAX`].

use std::path::PathBuf;

use outsock_core::route::{Condition, Glob, RouteTable};
use outsock_peer::PeerKey;
use outsock_transport_overlay::{Address, Wish};
use outsock_transport_quic::{Congestion, PeerSettings};
use outsock_vmrpc::Errno;
use toml::Spanned;

use super::error::{ConfigError, Place};
use super::peers::{IdentityConfig, PeerConfig};
use super::raw;
use super::text::Text;
use super::transports::{TransportConfig, TransportSettings};
use crate::limits;

/// What a route's `via` calls it.
const NAME: &str = "overlay";

/// See the module.
#[derive(Clone, Debug)]
pub(crate) struct OverlayConfig {
    pub(crate) fixed: Fixed,
    /// What gateways may use that no `[[peer]]` names.
    pub(crate) strangers: PeerConfig,
}

/// What only a start reads.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Fixed {
    pub(crate) network: String,
    pub(crate) listen: Vec<Address>,
    pub(crate) external: Vec<Address>,
    pub(crate) bootstrap: Vec<Address>,
    pub(crate) supernode: Wish,
    pub(crate) mdns: bool,
    pub(crate) private: Option<Private>,
}

/// What makes a network private.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Private {
    pub(crate) authority: PeerKey,
    pub(crate) certificate_file: PathBuf,
    pub(crate) revocations_file: Option<PathBuf>,
}

pub(super) fn check(
    raw: Option<&raw::Overlay>,
    identity: Option<&IdentityConfig>,
    place: Place<'_>,
) -> Result<Option<OverlayConfig>, ConfigError> {
    let Some(raw) = raw else { return Ok(None) };
    if identity.is_none() {
        let message = "a gateway in an overlay needs an identity: outsock-gateway keygen FILE, then \
                       [identity] key_file = \"FILE\"";
        return Err(place.at(raw.network.span(), message));
    }
    let network = raw.network.get_ref().clone();
    let plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
    if network.is_empty()
        || network.len() > limits::NETWORK_NAME_BYTES_MAX
        || !network.chars().all(plain)
    {
        let message = format!(
            "a network's name has 1 to {} of a-z, 0-9 and '-'",
            limits::NETWORK_NAME_BYTES_MAX
        );
        return Err(place.at(raw.network.span(), &message));
    }
    let fixed = Fixed {
        network,
        listen: addresses(&raw.listen, false, place)?,
        external: addresses(&raw.external, false, place)?,
        bootstrap: addresses(&raw.bootstrap, true, place)?,
        supernode: raw.supernode.into(),
        mdns: raw.mdns,
        private: private(raw, place)?,
    };
    let strangers = PeerConfig {
        settings: PeerSettings {
            name: NAME.into(),
            // Nobody's: this entry stands for all that have none.
            key: PeerKey::new([0; 32]),
            addresses: Vec::new(),
            congestion: Congestion::Cubic,
            connections: 1,
        },
        services: raw.services.iter().map(|entry| entry.0.clone()).collect::<Condition<Glob>>(),
        exit: RouteTable::new(Vec::new(), Errno::EACCES),
        exit_details: Vec::new(),
    };
    Ok(Some(OverlayConfig { fixed, strangers }))
}

fn private(raw: &raw::Overlay, place: Place<'_>) -> Result<Option<Private>, ConfigError> {
    let files = [&raw.certificate_file, &raw.revocations_file];
    match (&raw.authority, &raw.certificate_file) {
        (None, _) => match files.into_iter().flatten().next() {
            Some(file) => {
                Err(place.at(file.span(), "whose? [overlay] authority = \"KEY\" says it"))
            }
            None => Ok(None),
        },
        (Some(authority), None) => {
            let message = "a private network's gateway has a certificate: outsock-gateway network \
                           sign, then [overlay] certificate_file = \"FILE\"";
            Err(place.at(authority.span(), message))
        }
        (Some(authority), Some(file)) => Ok(Some(Private {
            authority: authority.get_ref().0,
            certificate_file: file.get_ref().clone(),
            revocations_file: raw.revocations_file.as_ref().map(|file| file.get_ref().clone()),
        })),
    }
}

fn addresses(
    raw: &[Spanned<Text<Address>>],
    of_peers: bool,
    place: Place<'_>,
) -> Result<Vec<Address>, ConfigError> {
    if let Some(extra) = raw.get(limits::OVERLAY_ADDRESSES_MAX) {
        return Err(place.at(extra.span(), "too many addresses"));
    }
    let one = |address: &Spanned<Text<Address>>| {
        let plain = address.get_ref().0.clone();
        let known = if of_peers { plain.of_a_peer() } else { Ok(plain) };
        known.map_err(|error| place.at(address.span(), &error.to_string()))
    };
    raw.iter().map(one).collect()
}

impl From<raw::Wish> for Wish {
    fn from(raw: raw::Wish) -> Self {
        match raw {
            raw::Wish::Auto => Self::Auto,
            raw::Wish::Never => Self::Never,
            raw::Wish::Always => Self::Always,
        }
    }
}

/// Adds the transport.
pub(super) fn transport(
    transports: &mut Vec<TransportConfig>,
    raw: Option<&raw::Overlay>,
    place: Place<'_>,
) -> Result<(), ConfigError> {
    let Some(raw) = raw else { return Ok(()) };
    if transports.iter().any(|transport| transport.name == NAME) {
        let message = "a transport or a peer has the name \"overlay\": call it something else";
        return Err(place.at(raw.network.span(), message));
    }
    transports.push(TransportConfig {
        name: NAME.to_owned(),
        over: None,
        settings: TransportSettings::Overlay,
    });
    Ok(())
}
