//! Errors: what connect() says when there is no connection, and what never leaves the guest.
//!
//! in: a world; out: a verdict each. Owner: the caller. Kept: the errno is the one that native TCP would
//! have given, blocking and as SO_ERROR.

use crate::Verdict;
use crate::host::{missing, program};
use crate::net::{CLOSED, HOST, HTTP, REFUSED_BY_RULE, SILENT, STRANGER};
use crate::programs::need;
use crate::world::World;

pub(crate) fn errnos(world: &mut World) -> Verdict {
    need!("python3", "python3");
    let mut cases: Vec<(&str, u16, &str)> = vec![
        (HOST, CLOSED, "ECONNREFUSED"),
        (HOST, SILENT, "ETIMEDOUT"),
        (STRANGER, HTTP, "EACCES"),
        // The host's metadata service and the like: never reached without a rule of their own.
        ("169.254.169.254", HTTP, "EACCES"),
    ];
    cases.extend(REFUSED_BY_RULE.map(|(port, errno)| (HOST, port, errno)));
    let ports: Vec<String> = cases.iter().map(|(_, port, _)| port.to_string()).collect();
    let mut argv = vec!["/usr/bin/python3", "/mnt/share/errnos.py"];
    for ((host, _, _), port) in cases.iter().zip(&ports) {
        argv.extend([*host, port]);
    }
    let output = world.succeed(&argv);
    let found: Vec<&str> = output.lines().collect();
    let expected: Vec<String> =
        cases.iter().map(|(_, _, errno)| format!("{errno} {errno}")).collect();
    assert_eq!(found, expected, "{cases:?}");
    Verdict::Passed
}

pub(crate) fn loopback_stays_in_the_guest(world: &mut World) -> Verdict {
    need!("python3", "python3");
    let asked = |world: &World| {
        let status = world.gateway().status().unwrap();
        let guest = &status.guests[0];
        guest.dialled + guest.dials_failed + guest.refused_by_rule
    };
    let before = asked(world);
    let output = world.succeed(&["/usr/bin/python3", "/mnt/share/local.py"]);
    assert_eq!(output, "stayed in the guest\n");
    assert_eq!(asked(world), before, "the host heard of it");
    Verdict::Passed
}
