//! `outsock modules`: which host modules this guest may use, and who in it uses them.
//!
//! in: the gateway's answer; out: a table, or JSON. Kept: what programs call themselves is shown with
//! its control characters escaped. Bound: one answer.

use std::fmt::Write;

use outsock_vmrpc::modules::{self, List};
use outsock_vmrpc::{Client, RpcError};

use crate::dial::Dialer;
use crate::{dial, limits};

/// Why there is no list.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ModulesError {
    /// No way to the gateway.
    #[error("no gateway at {place}: {error}: {}", dial::advice(error))]
    Unreachable {
        /// Where it was looked for.
        place: String,
        /// Why.
        error: std::io::Error,
    },
    /// It does not answer.
    #[error("the gateway does not list its modules: {0}")]
    Refused(#[from] RpcError),
}

/// Asks the gateway.
pub(crate) fn list(dialer: &dyn Dialer) -> Result<List, ModulesError> {
    let unreachable = |error| ModulesError::Unreachable { place: dialer.place(), error };
    let stream = dialer.control(limits::GATEWAY_START).map_err(unreachable)?;
    let binding = Client::new(stream)?.bind_module(modules::NAME, modules::VERSIONS)?;
    let bytes = binding.perform_rpc(modules::LIST, &[])?;
    Ok(List::decode(&bytes).map_err(|error| RpcError::Protocol(error.0))?)
}

/// For people.
pub(crate) fn table(list: &List) -> String {
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
    for module in &list.modules {
        let state = if module.available { "there" } else { "away" };
        let (first, last) = (module.versions.first(), module.versions.last());
        let versions = match (module.available, first == last) {
            (false, _) => "-".to_owned(),
            (true, true) => first.to_string(),
            (true, false) => format!("{first}-{last}"),
        };
        row(&mut out, [&module.name, &module.kind, &versions, state, "", "", ""]);
        for bound in &module.bindings {
            let numbers = [bound.calls, bound.errors, bound.in_flight].map(|n| n.to_string());
            let [calls, errors, in_flight] = &numbers;
            let who = format!("  {}", bound.client.escape_debug());
            row(&mut out, [&who, "", &bound.version.to_string(), "", calls, errors, in_flight]);
            for queue in &bound.queues {
                let form =
                    queue.form.map_or_else(|| "not open".to_owned(), |form| form.to_string());
                let _ = writeln!(
                    out,
                    "    event queue, {form}: {} of {} bytes wait for the guest, {} for the module",
                    queue.to_guest_bytes, queue.bytes, queue.to_host_bytes
                );
            }
        }
        if module.left_out > 0 {
            let _ = writeln!(out, "  and {} more", module.left_out);
        }
    }
    out
}

/// For programs.
pub(crate) fn json(list: &List) -> String {
    let modules = list.modules.iter().map(|module| {
        let bindings = module.bindings.iter().map(|bound| {
            let queues = bound.queues.iter().map(|queue| {
                let form = queue.form.map_or_else(|| "null".to_owned(), |form| text(&form.to_string()));
                format!(
                    r#"{{"form":{form},"bytes":{},"to_host_bytes":{},"to_guest_bytes":{}}}"#,
                    queue.bytes, queue.to_host_bytes, queue.to_guest_bytes
                )
            });
            format!(
                r#"{{"client":{},"version":{},"calls":{},"errors":{},"in_flight":{},"queues":[{}]}}"#,
                text(&bound.client),
                bound.version,
                bound.calls,
                bound.errors,
                bound.in_flight,
                queues.collect::<Vec<_>>().join(",")
            )
        });
        format!(
            r#"{{"name":{},"kind":{},"first_version":{},"last_version":{},"available":{},"left_out":{},"bindings":[{}]}}"#,
            text(&module.name),
            text(&module.kind),
            module.versions.first(),
            module.versions.last(),
            module.available,
            module.left_out,
            bindings.collect::<Vec<_>>().join(",")
        )
    });
    format!(r#"{{"modules":[{}]}}"#, modules.collect::<Vec<_>>().join(","))
}

/// A JSON string (RFC 8259, 7).
fn text(text: &str) -> String {
    let mut out = String::from('"');
    for letter in text.chars() {
        match letter {
            '"' | '\\' => out.extend(['\\', letter]),
            '\0'..' ' => {
                let _ = write!(out, "\\u{:04x}", u32::from(letter));
            }
            _ => out.push(letter),
        }
    }
    out.push('"');
    out
}

#[cfg(test)]
mod tests {
    use outsock_vmrpc::modules::{Bound, Module};
    use outsock_vmrpc::{Version, VersionRange};

    use super::*;

    #[test]
    fn names_of_programs_cannot_break_out() {
        let bound = Bound {
            client: "a\"b\\c\n\u{1b}[2J".to_owned(),
            version: Version(2),
            calls: 7,
            errors: 1,
            in_flight: 0,
            queues: Vec::new(),
        };
        let module = Module {
            name: "kv".to_owned(),
            kind: "process".to_owned(),
            versions: VersionRange::only(Version(2)),
            available: true,
            bindings: vec![bound],
            left_out: 0,
        };
        let list = List { modules: vec![module] };
        assert!(json(&list).contains(r#""client":"a\"b\\c\u000a\u001b[2J""#), "{}", json(&list));
        assert!(!table(&list).contains('\u{1b}'));
    }
}
