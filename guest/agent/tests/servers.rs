//! Runs `programs/servers.py` natively and under `outsock run` with the stand-in gateway: what it
//! checks holds both ways, or the row says why it is skipped.
#![allow(clippy::unwrap_used)]

mod stand_in;

use std::process::{Command, Output};
use std::time::{Duration, Instant};

use stand_in::{Gateway, has_python};

const PROGRAM: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/programs/servers.py");
const AGENT: &str = env!("CARGO_BIN_EXE_outsock");

fn passed(output: &Output) {
    let text = String::from_utf8_lossy(&output.stdout);
    println!("{text}{}", String::from_utf8_lossy(&output.stderr));
    let failures: Vec<_> = text.lines().filter(|line| line.contains("FAILED")).collect();
    assert!(output.status.success() && failures.is_empty(), "{failures:#?}");
    assert!(text.contains(": ok"), "nothing ran");
}

#[test]
fn the_program_is_right_about_native_tcp() {
    if !has_python() {
        return;
    }
    passed(&Command::new("python3").arg(PROGRAM).output().unwrap());
}

#[test]
fn outsourced_servers_behave_alike() {
    if !has_python() {
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    let gateway = Gateway::start(&directory.path().join("gateway"));
    let output = Command::new(AGENT)
        .args(["run", "--gateway", &gateway.option(), "--", "python3", PROGRAM])
        .env("DIRECTORY", gateway.directory())
        .output()
        .unwrap();
    passed(&output);
    // The agent ends a moment after the program.
    let deadline = Instant::now() + Duration::from_secs(10);
    while gateway.counters().listeners > 0 && Instant::now() < deadline {
        std::thread::sleep(Duration::from_millis(10));
    }
    let counters = gateway.counters();
    assert_eq!(counters.listeners, 0, "all are closed now: {counters:?}");
    assert!(counters.fetched > 1300, "{counters:?}");
    assert!(counters.refused > 19, "{counters:?}");
}
