//! What `modules` prints.

use std::fmt::Write;

use crate::modules_module::Listing;

/// A line per module, and one beneath it per binding and per event queue.
pub(crate) fn modules(listing: &Listing) -> String {
    let mut out = String::new();
    let row = |out: &mut String, cells: [&str; 7]| {
        let [name, kind, versions, state, calls, errors, in_flight] = cells;
        // Writing to a string cannot fail.
        let _ = writeln!(
            out,
            "{name:<32} {kind:<8} {versions:<9} {state:<8} {calls:>10} {errors:>8} {in_flight:>9}"
        );
    };
    row(&mut out, ["MODULE", "KIND", "VERSIONS", "STATE", "CALLS", "ERRORS", "IN FLIGHT"]);
    for module in &listing.modules {
        let versions = match (module.first_version, module.last_version) {
            (first, last) if first == last => first.to_string(),
            (first, last) => format!("{first}-{last}"),
        };
        let numbers = [module.calls, module.errors, module.in_flight].map(|n| n.to_string());
        let state = if module.available { "there" } else { "away" };
        let versions = if module.available { versions.as_str() } else { "-" };
        let [calls, errors, in_flight] = &numbers;
        row(&mut out, [&module.name, &module.kind, versions, state, calls, errors, in_flight]);
        for bound in &module.bindings {
            let numbers = [bound.calls, bound.errors, bound.in_flight].map(|n| n.to_string());
            let [calls, errors, in_flight] = &numbers;
            let who = format!("  {}: {}", bound.guest, bound.client.escape_debug());
            let version = bound.version.to_string();
            row(&mut out, [&who, "", &version, "", calls, errors, in_flight]);
            for queue in &bound.queues {
                let form = queue.form.as_deref().unwrap_or("not open");
                let _ = writeln!(
                    out,
                    "    event queue, {form}: {} of {} bytes wait for the guest, {} for the module; \
                     {} events to the guest, {} from it; {} wake-ups",
                    queue.to_guest_bytes,
                    queue.bytes,
                    queue.to_host_bytes,
                    queue.put,
                    queue.got,
                    queue.wakes_sent + queue.wakes_received,
                );
            }
        }
    }
    out
}
