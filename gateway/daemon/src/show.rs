//! What people read: a configuration in one paragraph, a status as tables, an explanation as a list.
//!
//! in: values; out: text for a terminal. Kept: what a guest asserts is shown with its control
//! characters escaped.

mod modules;
mod overlay;

use std::fmt::Write;

use crate::config::Config;
use crate::explain::Explanation;
use crate::gateway::Reloaded;
pub(crate) use modules::modules;
pub(crate) use overlay::{peers as overlay_peers, relays as overlay_relays};

use crate::status::{ConnectionStatus, PlaceStatus, Status};

fn count(n: usize, noun: &str) -> String {
    format!("{n} {noun}{}", if n == 1 { "" } else { "s" })
}

/// What `check` prints for a good file.
pub(crate) fn summary(config: &Config) -> String {
    let mut parts = vec![
        count(config.guests.len(), "guest"),
        count(config.transports.len(), "transport"),
        count(config.route_details.len(), "route"),
    ];
    if !config.peers.is_empty() {
        parts.push(count(config.peers.len(), "peer"));
    }
    if !config.groups.is_empty() {
        parts.insert(2, count(config.groups.len(), "group"));
    }
    let encrypted = config.route_details.iter().filter(|detail| detail.tls.is_some()).count();
    if encrypted > 0 {
        parts.push(format!("{encrypted} of them encrypted by tls"));
    }
    if !config.publishes.is_empty() {
        let noun = if config.publishes.len() == 1 { "publish" } else { "publishes" };
        parts.push(format!("{} {noun}", config.publishes.len()));
    }
    let encrypted = config.publishes.iter().filter(|publish| publish.tls.is_some()).count();
    if encrypted > 0 {
        parts.push(format!("{encrypted} of them encrypted by tls"));
    }
    format!("ok: {}", parts.join(", "))
}

/// What `reload` prints.
pub(crate) fn reloaded(done: &Reloaded) -> String {
    let mut text = format!("reloaded: {}", count(done.routes, "route"));
    for (what, guests) in [("added", &done.guests_added), ("removed", &done.guests_removed)] {
        if !guests.is_empty() {
            let _ = write!(text, ", {what} {}", guests.join(", "));
        }
    }
    text
}

/// What `explain` prints.
pub(crate) fn explanation(answer: &Explanation) -> String {
    let mut out = String::new();
    let asked = match (&answer.name, &answer.address) {
        (Some(name), Some(address)) => format!("{name} at {address}"),
        (Some(name), None) => format!("{name}, by name"),
        (None, Some(address)) => address.clone(),
        (None, None) => answer.destination.clone(),
    };
    // Writing to a string cannot fail.
    let _ = writeln!(out, "guest {} to {} ({asked})", answer.guest, answer.destination);
    if answer.left_out > 0 {
        let _ = writeln!(out, "  {} before these do not match", count(answer.left_out, "rule"));
    }
    for tried in &answer.tried {
        let _ = writeln!(out, "  {:>5}  {}: {}", tried.number, tried.name, tried.verdict);
    }
    let target = answer.target.as_ref().map(|target| format!(", to {target}")).unwrap_or_default();
    let how = answer.encryption.as_ref().map(|how| format!(", encrypted by {how}"));
    let how = how.unwrap_or_default();
    let _ = writeln!(out, "decided by {}: {}{target}{how}", answer.rule, answer.action);
    for note in &answer.notes {
        let _ = writeln!(out, "note: {note}");
    }
    out
}

/// What `status` prints.
pub(crate) fn status(status: &Status) -> String {
    let mut out = String::new();
    let row = |out: &mut String, cells: [&str; 8]| {
        let [name, cid, open, dialled, failed, refused, from, to] = cells;
        // Writing to a string cannot fail.
        let _ = writeln!(
            out,
            "{name:<20} {cid:>10} {open:>8} {dialled:>9} {failed:>7} {refused:>8} {from:>10} {to:>10}"
        );
    };
    row(&mut out, ["GUEST", "CID", "OPEN", "DIALLED", "FAILED", "REFUSED", "FROM", "TO"]);
    for guest in &status.guests {
        row(
            &mut out,
            [
                &guest.name,
                &guest.cid.to_string(),
                &guest.connections.to_string(),
                &guest.dialled.to_string(),
                &guest.dials_failed.to_string(),
                &guest.refused_by_rule.to_string(),
                &bytes(guest.bytes_from_guest),
                &bytes(guest.bytes_to_guest),
            ],
        );
    }
    for group in &status.groups {
        let _ = writeln!(out, "\ngroup {}", group.name);
        for member in &group.members {
            let health = if member.works { "works" } else { "fails" };
            let speed = member.latency_ms.map(|ms| format!(", {ms} ms")).unwrap_or_default();
            let _ = writeln!(out, "  {}: {health}{speed}", member.transport);
        }
    }
    peers(&mut out, status);
    overlay::paragraph(&mut out, status.overlay.as_ref());
    published(&mut out, status);
    if !status.connections.is_empty() {
        out.push('\n');
        connections(&mut out, status);
    }
    out
}

/// Other gateways, and their connections that leave from here.
fn peers(out: &mut String, status: &Status) {
    if let Some(key) = status.key.as_ref().filter(|_| !status.peers.is_empty()) {
        let _ = writeln!(out, "\nthis gateway's key is {key}");
    }
    for peer in &status.peers {
        let name = &peer.name;
        let _ = match (&peer.address, &peer.error) {
            (Some(address), _) => {
                let rtt = peer.rtt_us.unwrap_or(0);
                let for_how_long = age(peer.connected_ms.unwrap_or(0));
                let streams = count(peer.streams, "stream");
                writeln!(
                    out,
                    "peer {name}: connected to {address} for {for_how_long}, round trip \
                     {}.{:03} ms, {streams}, {} sent, {} received",
                    rtt / 1000,
                    rtt % 1000,
                    bytes(peer.bytes_sent),
                    bytes(peer.bytes_received),
                )
            }
            (None, Some(error)) => writeln!(out, "peer {name}: not connected: {error}"),
            (None, None) => writeln!(out, "peer {name}: not connected"),
        };
        if peer.served + peer.refused + peer.failed > 0 {
            let (served, refused, failed) = (peer.served, peer.refused, peer.failed);
            let _ = writeln!(
                out,
                "  it asked for: {served} served, {refused} refused, {failed} failed"
            );
        }
    }
    for exit in &status.exits {
        let (peer, origin, to) = (&exit.peer, &exit.origin, &exit.destination);
        let (rule, via, age) = (&exit.rule, &exit.transport, age(exit.age_ms));
        let _ = writeln!(out, "  {origin} of {peer} to {to} by {rule}, via {via}, for {age}");
    }
}

/// Rules that publish, and listeners.
fn published(out: &mut String, status: &Status) {
    for publish in &status.publishes {
        let _ = writeln!(out, "\npublish {}", publish.name);
        for place in &publish.places {
            let PlaceStatus { guest, transport, at, listeners, accepted } = place;
            let listeners = count(*listeners, "listener");
            let _ = writeln!(
                out,
                "  {at} via {transport} to {guest}: {listeners}, {accepted} accepted"
            );
        }
        if publish.places.is_empty() {
            let _ = writeln!(out, "  no guest listens on these ports");
        }
    }
    if status.listeners.is_empty() {
        return;
    }
    let row = |out: &mut String, cells: [&str; 5]| {
        let [guest, program, address, waiting, places] = cells;
        let _ = writeln!(out, "{guest:<12} {program:<24} {address:<28} {waiting:>7}  {places}");
    };
    out.push('\n');
    row(out, ["GUEST", "PROGRAM", "LISTENS ON", "WAITING", "REACHED AT"]);
    for listener in &status.listeners {
        let program = listener.program.as_deref().unwrap_or("-").escape_debug().to_string();
        let places = match (&listener.error, listener.places.join(", ")) {
            (Some(error), _) => error.clone(),
            (None, places) if places.is_empty() => "-".to_owned(),
            (None, places) => places,
        };
        let waiting = listener.waiting.to_string();
        row(out, [&listener.guest, &program, &listener.address, &waiting, &places]);
    }
    if status.listeners_left_out > 0 {
        let _ = writeln!(out, "and {} more", status.listeners_left_out);
    }
}

fn connections(out: &mut String, status: &Status) {
    let row = |out: &mut String, cells: [&str; 10]| {
        let [guest, program, direction, to, rule, transport, peer, age, from, bytes_to] = cells;
        let _ = writeln!(
            out,
            "{guest:<12} {program:<16} {direction:<3} {to:<28} {rule:<16} {transport:<16} \
             {peer:<24} {age:>8} {from:>10} {bytes_to:>10}"
        );
    };
    row(out, ["GUEST", "PROGRAM", "DIR", "TO", "RULE", "VIA", "PEER", "AGE", "FROM", "TO"]);
    for connection in &status.connections {
        let ConnectionStatus { guest, rule, destination, peer, .. } = connection;
        let transport = match connection.encryption.as_str() {
            "no" => connection.transport.clone(),
            how => format!("{} ({how})", connection.transport),
        };
        let program = connection.program.as_deref().unwrap_or("-").escape_debug().to_string();
        row(
            out,
            [
                guest,
                &program,
                &connection.direction,
                destination,
                rule,
                &transport,
                peer,
                &age(connection.age_ms),
                &bytes(connection.bytes_from_guest),
                &bytes(connection.bytes_to_guest),
            ],
        );
    }
    if status.connections_left_out > 0 {
        let _ = writeln!(out, "and {} more", status.connections_left_out);
    }
}

fn age(ms: u64) -> String {
    let seconds = ms / 1000;
    match seconds {
        0..60 => format!("{}.{} s", seconds, ms % 1000 / 100),
        60..3600 => format!("{}m{:02}s", seconds / 60, seconds % 60),
        _ => format!("{}h{:02}m", seconds / 3600, seconds % 3600 / 60),
    }
}

fn bytes(n: u64) -> String {
    let units = ["B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB"];
    let mut unit = 0;
    let mut whole = n;
    let mut tenths = 0;
    while whole >= 1024 && unit + 1 < units.len() {
        tenths = whole % 1024 * 10 / 1024;
        whole /= 1024;
        unit += 1;
    }
    if unit == 0 { format!("{n} B") } else { format!("{whole}.{tenths} {}", units[unit]) }
}
