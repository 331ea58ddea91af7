//! Processes that hang, lie, flood, die, or will not: none of them hurts anybody else.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use outsock_transport::{
    AsyncStream, Destination, DialError, DialRequest, Errno, Listener, Transport,
};
use outsock_transport_direct::Direct;
use outsock_transport_external::{External, ExternalSettings};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

/// A shell script as the process.
fn script(folder: &TempDir, text: &str) -> ExternalSettings {
    let path = folder.path().join("transport.sh");
    std::fs::write(&path, text).unwrap();
    let state = folder.path().join("state");
    let mut settings = ExternalSettings::new("/bin/sh".into(), "x".to_owned(), state);
    settings.arguments = vec![path.into()];
    settings.start_time = Duration::from_secs(20);
    settings
}

fn nowhere() -> DialRequest {
    let to = Destination::Address(([127, 0, 0, 1], 9).into());
    DialRequest { timeout: Duration::from_secs(60), ..DialRequest::to(to) }
}

async fn fails(text: &str) -> DialError {
    let folder = TempDir::new().unwrap();
    External::new(script(&folder, text)).dial(nowhere()).await.unwrap_err()
}

#[tokio::test]
async fn what_is_not_ready_is_no_way_out() {
    for text in [
        "exit 0",
        "echo VERSION-ERROR no-version; cat",
        "echo ENV-ERROR no state; cat",
        "echo VERSION 2; cat",
        "echo VERSION 1; echo CMETHOD-ERROR x no; echo CMETHODS DONE; cat",
        "echo VERSION 1; echo CMETHODS DONE; cat",
        "echo VERSION 1; echo CMETHOD y socks5 127.0.0.1:9; echo CMETHODS DONE; cat",
        "echo VERSION 1; echo CMETHOD x socks4 127.0.0.1:9; echo CMETHODS DONE; cat",
        "echo VERSION 1; echo CMETHOD x socks5 192.0.2.1:9; echo CMETHODS DONE; cat",
        "echo VERSION 1; echo CMETHOD x socks5; echo CMETHODS DONE; cat",
        "head -c 3000000 /dev/urandom; cat",
        "yes; cat",
        "yes >&2 & echo VERSION-ERROR; cat",
    ] {
        let error = fails(text).await;
        assert_eq!(error, DialError::NetworkDown, "{text}");
        assert_eq!(error.errno(), Errno::ENETDOWN);
    }
    let mut missing = ExternalSettings::new("/nonexistent".into(), "x".to_owned(), PathBuf::new());
    let folder = TempDir::new().unwrap();
    missing.state = folder.path().to_owned();
    let error = External::new(missing).dial(nowhere()).await.unwrap_err();
    assert_eq!(error, DialError::NetworkDown);
}

#[tokio::test]
async fn one_that_never_says_done_is_given_up_and_a_dial_waits_no_longer_than_it_may() {
    let folder = TempDir::new().unwrap();
    let mut settings = script(&folder, "echo VERSION 1; exec cat");
    settings.start_time = Duration::from_millis(300);
    let external = External::new(settings);
    assert_eq!(external.dial(nowhere()).await.unwrap_err(), DialError::NetworkDown);
    let mut settings = script(&folder, "echo VERSION 1; exec cat");
    settings.start_time = Duration::from_secs(3600);
    let external = External::new(settings);
    let request = DialRequest { timeout: Duration::from_millis(300), ..nowhere() };
    assert_eq!(external.dial(request).await.unwrap_err(), DialError::TimedOut);
}

/// Each run writes down when it began.
#[tokio::test]
async fn one_that_keeps_dying_is_started_again_after_longer_and_longer_pauses() {
    let folder = TempDir::new().unwrap();
    let settings = script(&folder, "date +%s%N >> starts; exit 1");
    let starts = settings.state.join("starts");
    let external = External::new(settings);
    let begun = || -> Vec<u64> {
        let text = std::fs::read_to_string(&starts).unwrap_or_default();
        text.lines().filter_map(|line| line.parse().ok()).collect()
    };
    external.dial(nowhere()).await.unwrap_err();
    eventually("a fourth run, that nobody has asked for", || begun().len() >= 4).await;
    let gaps: Vec<u64> = begun().windows(2).map(|two| (two[1] - two[0]) / 1_000_000).collect();
    // At least the pauses, whatever the machine does besides; a clock may be set by a little.
    for (gap_ms, pause_ms) in gaps.into_iter().zip([200, 400, 800]) {
        assert!(gap_ms >= pause_ms - 20, "{gap_ms} ms instead of {pause_ms} ms");
    }
}

/// What it sees of us: a handful of variables, a folder of its own. (Its descriptors are the launcher's
/// business: the daemon's tests look at them.)
#[tokio::test]
async fn it_has_nothing_of_ours() {
    let folder = TempDir::new().unwrap();
    let text = "env > env; pwd > pwd; exit 1";
    let settings = script(&folder, text);
    let state = settings.state.clone();
    External::new(settings).dial(nowhere()).await.unwrap_err();
    let read = |name: &str| std::fs::read_to_string(state.join(name)).unwrap();
    for line in read("env").lines() {
        let name = line.split('=').next().unwrap();
        let known = ["PATH", "HOME", "PWD", "SHLVL", "_", "OLDPWD"].contains(&name);
        assert!(known || name.starts_with("TOR_PT_"), "{line}");
    }
    assert_eq!(Path::new(read("pwd").trim()), state.canonicalize().unwrap());
    let mode = std::os::unix::fs::MetadataExt::mode(&std::fs::metadata(&state).unwrap());
    assert_eq!(mode & 0o777, 0o700);
}

fn python(folder: &TempDir) -> ExternalSettings {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../examples/external/xor.py");
    let state = folder.path().join("state");
    let mut settings = ExternalSettings::new("/usr/bin/env".into(), "xor".to_owned(), state);
    settings.arguments = vec!["python3".into(), script.canonicalize().unwrap().into()];
    settings
}

/// The processes that were started in this folder.
fn processes(folder: &TempDir) -> Vec<u32> {
    let state = folder.path().canonicalize().unwrap().join("state");
    let all = std::fs::read_dir("/proc").unwrap().flatten();
    let numbers = all.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    let here = numbers.filter(|pid: &u32| {
        std::fs::read_link(format!("/proc/{pid}/cwd")).is_ok_and(|cwd| cwd == state)
    });
    here.collect()
}

async fn eventually(what: &str, mut is_true: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(30);
    while !is_true() {
        assert!(Instant::now() < deadline, "never came true: {what}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

async fn connected(
    external: &External,
) -> (std::pin::Pin<Box<dyn AsyncStream>>, Box<dyn Listener>) {
    let at = Destination::Address(([127, 0, 0, 1], 0).into());
    let door = Direct.listen(&at).await.unwrap();
    let request = DialRequest { timeout: Duration::from_secs(60), ..DialRequest::to(door.local()) };
    (external.dial(request).await.unwrap().stream.into_async().unwrap(), door)
}

#[tokio::test]
async fn death_in_mid_stream_is_a_reset_and_the_next_dial_finds_a_new_process() {
    let folder = TempDir::new().unwrap();
    let external = External::new(python(&folder));
    let (mut near, mut door) = connected(&external).await;
    let mut far = door.accept().await.unwrap().stream.into_async().unwrap();
    near.write_all(b"x").await.unwrap();
    far.read_exact(&mut [0]).await.unwrap();
    let [pid] = processes(&folder)[..] else { panic!("one process") };
    let killed = std::process::Command::new("kill").args(["-9", &pid.to_string()]).status();
    assert!(killed.unwrap().success());
    let error = near.read(&mut [0]).await.expect_err("a process's death is no end of a stream");
    assert_eq!(Errno::of(&error), Errno::ECONNRESET);
    eventually("another process", || !processes(&folder).is_empty()).await;
    let deadline = Instant::now() + Duration::from_secs(60);
    loop {
        // Between two runs a dial fails at once, and never goes another way.
        let dial = external.dial(DialRequest {
            timeout: Duration::from_secs(30),
            ..DialRequest::to(door.local())
        });
        match dial.await {
            Ok(_) => break,
            Err(error) => assert_eq!(error, DialError::NetworkDown),
        }
        assert!(Instant::now() < deadline);
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test]
async fn it_ends_with_the_transport_also_if_it_does_not_want_to() {
    let folder = TempDir::new().unwrap();
    let external = External::new(python(&folder));
    let (near, _door) = connected(&external).await;
    drop(near);
    assert_eq!(processes(&folder).len(), 1);
    drop(external);
    eventually("the process has ended", || processes(&folder).is_empty()).await;

    // Deaf to the end of its input and to SIGTERM, with a child of its own.
    let folder = TempDir::new().unwrap();
    let stubborn = "trap '' TERM; echo VERSION 1; echo CMETHOD x socks5 127.0.0.1:1; \
                    echo CMETHODS DONE; while true; do sleep 1; done";
    let external = External::new(script(&folder, stubborn));
    let error = external.dial(nowhere()).await.unwrap_err();
    assert_eq!(error, DialError::NetworkUnreachable, "it said where, and nobody is there");
    assert!(!processes(&folder).is_empty());
    drop(external);
    eventually("even this one has ended", || processes(&folder).is_empty()).await;
}
