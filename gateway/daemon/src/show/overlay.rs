//! The overlay for people.
//!
//! in: its status; out: a paragraph for `status`, lists for `overlay peers` and `overlay relays`. Kept:
//! what is told of peers are keys and addresses, never their own words. Bound: the connections.

use std::fmt::Write;

use super::{age, count};
use crate::status::{OverlayPeerStatus, OverlayStatus};

/// In `status`.
pub(super) fn paragraph(out: &mut String, overlay: Option<&OverlayStatus>) {
    let Some(overlay) = overlay else { return };
    let role = if overlay.supernode { "a supernode" } else { "no supernode" };
    let nat = match overlay.nat.as_str() {
        "none" => "others can dial it",
        "mapped" => "behind a NAT or firewall",
        _ => "nobody has said whether others can dial it",
    };
    // Writing to a string cannot fail.
    let _ = writeln!(out, "\noverlay: this gateway is {role}, {nat}");
    out.push_str(&peers(overlay));
}

/// Every connection.
pub(crate) fn peers(overlay: &OverlayStatus) -> String {
    let mut out = String::new();
    if overlay.peers.is_empty() {
        out.push_str("  connected to nobody\n");
    }
    for peer in &overlay.peers {
        one(&mut out, overlay, peer);
    }
    out
}

fn one(out: &mut String, overlay: &OverlayStatus, peer: &OverlayPeerStatus) {
    let name = peer.name.as_deref().unwrap_or(&peer.key);
    let path = match &peer.through {
        None => format!("direct, {} {}", peer.carrier, peer.address),
        Some(relay) => {
            let known = overlay.peers.iter().find(|other| other.key == *relay);
            let relay = known.and_then(|other| other.name.as_deref()).unwrap_or(relay);
            format!("relayed through {relay}")
        }
    };
    let rtt = match peer.rtt_us {
        Some(us) => format!("round trip {}.{:03} ms", us / 1000, us % 1000),
        None => "round trip not measured yet".to_owned(),
    };
    let role = if peer.supernode { ", a supernode" } else { "" };
    let spare = if peer.preferred { "" } else { ", not used for new streams" };
    let (streams, age) = (count(peer.streams, "stream"), age(peer.connected_ms));
    let _ = writeln!(out, "  {name}{role}: {path}, {rtt}, {streams}, for {age}{spare}");
}

/// The supernodes at which this gateway has a place.
pub(crate) fn relays(overlay: &OverlayStatus) -> String {
    if overlay.relays.is_empty() {
        let why = if overlay.nat == "none" {
            "others can dial this gateway: it needs no supernode\n"
        } else {
            "no supernode carries connections for this gateway\n"
        };
        return why.to_owned();
    }
    let mut out = String::new();
    for relay in &overlay.relays {
        let best = overlay.peers.iter().find(|peer| peer.key == *relay && peer.preferred);
        let rtt = best.and_then(|peer| peer.rtt_us).map(|us| us / 1000);
        let rtt = rtt.map(|ms| format!(", round trip {ms} ms")).unwrap_or_default();
        let name = best.and_then(|peer| peer.name.as_deref()).unwrap_or(relay);
        let _ = writeln!(out, "{name}{rtt}");
    }
    out
}
