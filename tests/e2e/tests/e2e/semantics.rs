//! Semantics: the agent's own small programs, one per rule of sockets, in a guest.
//!
//! in: a world; out: a verdict. Owner: the caller. Kept: the same file passes natively (the agent's tests
//! see to that), so a difference is outsock's. Bound: the command's time limit.

use std::time::Duration;

use outsock_boot::GuestCommand;

use crate::Verdict;
use crate::host::{missing, program};
use crate::net::{CLOSED, ECHO, ENDS, HOST, HOST6, REFUSED_BY_RULE, SILENT};
use crate::programs::need;
use crate::world::{self, World};

const PROGRAMS: &str = include_str!("../../../../guest/agent/tests/programs/semantics.py");
const TIME: Duration = Duration::from_secs(240);

fn semantics_in_guest(world: &World) -> String {
    std::fs::write(world.directory.share().join("semantics.py"), PROGRAMS).unwrap();
    // Into a file: what was printed is of use also when the time limit ends it.
    let run = "exec /usr/bin/python3 /mnt/share/semantics.py > /mnt/share/semantics.txt 2>&1";
    let argv = world::outsourced(&["sh", "-c", run]);
    let by_rule = |wanted: &str| {
        let found = REFUSED_BY_RULE.iter().find(|(_, errno)| *errno == wanted);
        found.map(|(port, _)| format!("{HOST}:{port}")).unwrap()
    };
    let mut command = GuestCommand::new(&argv)
        .env("FAR", format!("{HOST}:{ECHO}"))
        .env("REFUSED", format!("{HOST}:{CLOSED}"))
        .env("NEVER", format!("{HOST}:{SILENT}"))
        .env("UNREACHABLE", by_rule("ENETUNREACH"))
        .env("HOST_UNREACHABLE", by_rule("EHOSTUNREACH"))
        .env("TIMED_OUT", by_rule("ETIMEDOUT"))
        .env("DENIED", by_rule("EACCES"))
        .env("LOCAL", "1")
        .env("ENDS", format!("{HOST}:{ENDS}"))
        .timeout(TIME);
    if world.servers.echo6.is_some() {
        command = command.env("FAR6", format!("[{HOST6}]:{ECHO}"));
    }
    let ended = world.guest().run_command(&command);
    let text = std::fs::read_to_string(world.directory.share().join("semantics.txt"));
    let text = text.unwrap_or_default();
    let output = ended.unwrap_or_else(|error| panic!("{error}; so far:\n{text}"));
    text + &output.stdout_text() + &output.stderr_text()
}

pub(crate) fn outsourced(world: &mut World) -> Verdict {
    need!("python3", "python3");
    let text = semantics_in_guest(world);
    let failed: Vec<&str> = text.lines().filter(|line| line.contains(": FAILED")).collect();
    assert!(failed.is_empty(), "{failed:#?}");
    assert!(text.lines().filter(|line| line.contains(": ok (")).count() > 10, "{text}");
    Verdict::Passed
}
