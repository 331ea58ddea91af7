//! Net: the addresses that the guests of these tests know, and the rules that lead from them to the host.
//!
//! in: the servers' real addresses; out: a gateway configuration. Owner: nobody, plain data. Kept: guests
//! see documentation addresses only (RFC 5737, RFC 3849), so nothing can leave this machine.

use std::fmt::Write;
use std::net::SocketAddr;
use std::ops::Range;

/// The host that has all the services.
pub(crate) const HOST: &str = "192.0.2.1";
pub(crate) const HOST6: &str = "2001:db8::1";

pub(crate) const ECHO: u16 = 7;
pub(crate) const SINK: u16 = 9;
pub(crate) const SOURCE: u16 = 19;
pub(crate) const SSH: u16 = 22;
pub(crate) const HTTP: u16 = 80;
pub(crate) const HALF: u16 = 90;
pub(crate) const ENDLESS: u16 = 91;
/// Goes out again, to what the guest itself listens on.
pub(crate) const RELAY: u16 = 92;
pub(crate) const IPERF3: u16 = 5201;
pub(crate) const GIT: u16 = 9418;
pub(crate) const ENDS: u16 = 102;
/// Nobody listens there.
pub(crate) const CLOSED: u16 = 100;
/// Nobody answers there.
pub(crate) const SILENT: u16 = 101;
/// Services of the host that a test starts when it needs them.
pub(crate) const TLS: u16 = 443;
pub(crate) const POSTGRES: u16 = 5432;
pub(crate) const REDIS: u16 = 6379;
pub(crate) const NGINX: u16 = 8080;
pub(crate) const STARTED_LATER: [u16; 4] = [TLS, POSTGRES, REDIS, NGINX];
/// Ports of guests that the host reaches, one for each server that a test runs there.
pub(crate) const PUBLISHED: Range<u16> = 8001..8020;
/// Those of the differential test's `frame.h`: reached over IPv4, over IPv6.
pub(crate) const REACHED4: Range<u16> = 7010..7014;
pub(crate) const REACHED6: Range<u16> = 7014..7018;
/// Refused by rules, each with the errno beside it.
pub(crate) const REFUSED_BY_RULE: [(u16, &str); 5] = [
    (111, "EACCES"),
    (112, "ECONNREFUSED"),
    (113, "EHOSTUNREACH"),
    (114, "ENETUNREACH"),
    (115, "ETIMEDOUT"),
];
/// Hosts of the differential test to which there is no way, each with the errno that a rule gives. Natively the
/// guest's own routes do that.
const NO_WAY: [(&str, &str); 6] = [
    ("198.51.100.101/32", "ENETUNREACH"),
    ("198.51.100.102/32", "EHOSTUNREACH"),
    ("198.51.100.103/32", "EACCES"),
    ("2001:db8:1::1/128", "ENETUNREACH"),
    ("2001:db8:1::2/128", "EHOSTUNREACH"),
    ("2001:db8:1::3/128", "EACCES"),
];
/// No rule knows this host: the default.
pub(crate) const STRANGER: &str = "198.51.100.1";

/// How long the gateway dials, short enough for a test that waits for it.
pub(crate) const DIAL_TIMEOUT_MS: u64 = 3000;

/// One service: the port that guests know, and where it really is.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Service {
    pub(crate) host: &'static str,
    pub(crate) port: u16,
    pub(crate) target: SocketAddr,
}

/// Guests by name, CID and socket; rules for the services; where ports of guests are published. All
/// other ports that guests listen on are reached on the host's loopback, on the same port.
pub(crate) fn config(
    guests: &[(&str, u32, String)],
    services: &[Service],
    published: &[(u16, SocketAddr)],
) -> String {
    let mut text = format!(
        "[gateway]\ndial_timeout_ms = {DIAL_TIMEOUT_MS}\ndrain_timeout_ms = 5000\ndefault = \"EACCES\"\n\n"
    );
    for (name, cid, socket) in guests {
        write!(text, "[[guest]]\nname = {name:?}\ncid = {cid}\nsocket = {socket:?}\n\n").unwrap();
    }
    for Service { host, port, target } in services {
        let bits = if host.contains(':') { 128 } else { 32 };
        write!(
            text,
            "[[route]]\nto = [\"{host}/{bits}\"]\nports = [{port}]\nvia = \"direct\"\ntarget = \"{target}\"\n\n"
        )
        .unwrap();
    }
    for (port, errno) in REFUSED_BY_RULE {
        write!(text, "[[route]]\nto = [\"{HOST}/32\"]\nports = [{port}]\nrefuse = \"{errno}\"\n\n")
            .unwrap();
    }
    for (to, errno) in NO_WAY {
        write!(text, "[[route]]\nto = [\"{to}\"]\nrefuse = \"{errno}\"\n\n").unwrap();
    }
    for (port, at) in published {
        write!(text, "[[publish]]\nports = [{port}]\nlisten = \"{at}\"\n\n").unwrap();
    }
    let others: String = published.iter().map(|(port, _)| format!(", \"!{port}\"")).collect();
    writeln!(
        text,
        "[[publish]]\nname = \"servers\"\nports = [\"1024-65535\"{others}]\nlisten = \"127.0.0.1\"\n"
    )
    .unwrap();
    text
}
