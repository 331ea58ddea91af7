//! Plain vsock: what guests' programs that open AF_VSOCK sockets by themselves may reach.
//!
//! in: the `[[vsock]]` tables; out: checked [`VsockRule`]s, tried in order. Kept: no match is a refusal,
//! so that without a rule a guest reaches nothing. Bound: [`limits::VSOCK_RULES_MAX`].

use std::path::PathBuf;
use std::str::FromStr;

use outsock_core::address::Cid;
use outsock_core::muxer::PlainRequest;
use outsock_core::route::{Condition, Entry, GuestPattern};
use toml::Spanned;

use super::error::{ConfigError, Place};
use super::guests::Guest;
use super::raw;
use super::text::{Text, unix_path};
use crate::limits;

/// A range of vsock ports, which have 32 bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct VsockPorts {
    first: u32,
    last: u32,
}

impl FromStr for VsockPorts {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (first, last) = text.split_once('-').unwrap_or((text, text));
        match (first.trim().parse(), last.trim().parse()) {
            (Ok(first), Ok(last)) if first <= last => Ok(Self { first, last }),
            _ => {
                Err(format!("{text:?} is neither a vsock port (0 to 4294967295) nor a range: 1-9"))
            }
        }
    }
}

/// One rule.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct VsockRule {
    guests: Condition<GuestPattern>,
    ports: Condition<VsockPorts>,
    to: To,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum To {
    /// A Unix socket of the host, by a path with `{port}` and `{guest}` in it.
    Unix(String),
    /// The same port of other guests.
    Guests(Condition<GuestPattern>),
}

/// Where a connection goes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum VsockWay {
    /// To a Unix socket of the host.
    Unix(PathBuf),
    /// To the same port of this guest.
    Guest(Cid),
}

impl VsockRule {
    /// Whether it lets this guest open anything, or be reached by others.
    pub(super) fn concerns(&self, guest: &Guest) -> bool {
        let reached = match &self.to {
            To::Unix(_) => false,
            To::Guests(to) => to.accepts(|pattern| pattern.matches(&guest.name, &guest.tags)),
        };
        reached || self.lets(guest)
    }

    fn lets(&self, guest: &Guest) -> bool {
        self.guests.accepts(|pattern| pattern.matches(&guest.name, &guest.tags))
    }

    fn way(&self, guest: &Guest, others: &[Guest], request: &PlainRequest) -> Option<VsockWay> {
        let port = request.port.0;
        let in_range = |range: &VsockPorts| (range.first..=range.last).contains(&port);
        if !self.lets(guest) || !self.ports.accepts(in_range) {
            return None;
        }
        match &self.to {
            To::Unix(path) if request.to == Cid::HOST => {
                let path = path.replace("{port}", &port.to_string());
                Some(VsockWay::Unix(path.replace("{guest}", &guest.name).into()))
            }
            To::Guests(to) => {
                let other = others.iter().find(|other| other.cid == request.to)?;
                to.accepts(|pattern| pattern.matches(&other.name, &other.tags))
                    .then_some(VsockWay::Guest(other.cid))
            }
            To::Unix(_) => None,
        }
    }
}

/// Where the first rule that matches sends a connection; `None` = nowhere.
pub(super) fn choose(
    rules: &[VsockRule],
    guest: &Guest,
    others: &[Guest],
    request: &PlainRequest,
) -> Option<VsockWay> {
    rules.iter().find_map(|rule| rule.way(guest, others, request))
}

pub(super) fn check(
    raw: &[Spanned<raw::Vsock>],
    place: Place<'_>,
) -> Result<Vec<VsockRule>, ConfigError> {
    if let Some(extra) = raw.get(limits::VSOCK_RULES_MAX) {
        return Err(place.at(extra.span(), "too many [[vsock]] tables"));
    }
    raw.iter().map(|spanned| one(spanned, place)).collect()
}

fn one(spanned: &Spanned<raw::Vsock>, place: Place<'_>) -> Result<VsockRule, ConfigError> {
    let rule = spanned.get_ref();
    let to = match (&rule.connect, &rule.to) {
        (Some(connect), None) => match unix_path(connect.get_ref()) {
            Ok(Some(path)) => To::Unix(path.display().to_string()),
            Ok(None) => {
                let message = "write unix:PATH; {port} and {guest} in it are filled in";
                return Err(place.at(connect.span(), message));
            }
            Err(error) => return Err(place.at(connect.span(), &error)),
        },
        (None, Some(to)) if to.get_ref().is_empty() => {
            return Err(place.at(to.span(), "name the guests that may be reached"));
        }
        (None, Some(to)) => To::Guests(condition(to.get_ref())),
        (None, None) | (Some(_), Some(_)) => {
            let message = "either `connect` (a Unix socket of the host) or `to` (other guests)";
            return Err(place.at(spanned.span(), message));
        }
    };
    Ok(VsockRule { guests: condition(&rule.guests), ports: condition(&rule.ports), to })
}

fn condition<T: Clone>(entries: &[Text<Entry<T>>]) -> Condition<T> {
    entries.iter().map(|entry| entry.0.clone()).collect()
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use outsock_core::address::VsockPort;
    use outsock_core::packet::SocketType;

    use super::*;
    use crate::config::Config;

    const GUESTS: &str = "
[[guest]]
name = \"web\"
cid = 3
socket = \"/run/web\"
[[guest]]
name = \"db\"
cid = 4
socket = \"/run/db\"
tags = [\"store\"]
";

    fn way(rules: &str, to: u64, port: u32) -> Option<VsockWay> {
        let config = Config::parse(&format!("{GUESTS}{rules}"), Path::new("x")).unwrap();
        let request = PlainRequest {
            to: Cid(to),
            port: VsockPort(port),
            from: VsockPort(1024),
            socket_type: SocketType::Stream,
        };
        config.vsock_way("web", &request)
    }

    #[test]
    fn the_first_rule_that_matches_decides() {
        assert_eq!(way("", 2, 80), None);
        let rules = "[[vsock]]\nports = [\"5000-5009\", \"!5003\"]\n\
                     connect = \"unix:/run/{guest}/{port}.sock\"\n\
                     [[vsock]]\nguests = [\"web\"]\nports = [70000]\nto = [\"tag:store\"]\n";
        let unix = VsockWay::Unix("/run/web/5004.sock".into());
        assert_eq!(way(rules, 2, 5004), Some(unix));
        assert_eq!(way(rules, 2, 5003), None);
        assert_eq!(way(rules, 2, 70_000), None);
        assert_eq!(way(rules, 4, 5004), None);
        assert_eq!(way(rules, 4, 70_000), Some(VsockWay::Guest(Cid(4))));
        assert_eq!(way(rules, 5, 70_000), None);
    }

    #[test]
    fn mistakes_are_named() {
        for (rule, says) in [
            ("", "either `connect`"),
            ("connect = \"/run/x\"", "unix:PATH"),
            ("connect = \"unix:\"", "path behind"),
            ("to = []", "name the guests"),
            ("to = [\"db\"]\nports = [\"9-1\"]", "neither a vsock port"),
            ("to = [\"db\"]\nports = [4294967296]", "neither a vsock port"),
        ] {
            let text = format!("{GUESTS}[[vsock]]\n{rule}\n");
            let error = Config::parse(&text, Path::new("x")).unwrap_err().to_string();
            assert!(error.contains(says), "{error}");
        }
    }
}
