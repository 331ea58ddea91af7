//! What people read: a configuration in one paragraph, a status as a table.

use std::fmt::Write;

use crate::admin::Status;
use crate::config::Config;

/// What `check` prints for a good file.
pub(crate) fn summary(config: &Config) -> String {
    let count = |n: usize, noun: &str| format!("{n} {noun}{}", if n == 1 { "" } else { "s" });
    format!(
        "ok: {}, {}, {}",
        count(config.guests.len(), "guest"),
        count(config.transports.len(), "transport"),
        count(config.route_details.len(), "route"),
    )
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
    out
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
