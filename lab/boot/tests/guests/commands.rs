//! What commands in a guest see and give back.

use std::fs;
use std::time::{Duration, Instant};

use outsock_boot::{Guest, GuestCommand, Image, RunError, Status};
use sha2::{Digest, Sha256};

use crate::{Verdict, boot};

/// Bytes that no text filter leaves alone.
pub(crate) fn pattern(length: usize) -> Vec<u8> {
    let mut state = 0x2545_f491_4f6c_dd1d_u64;
    let mut bytes: Vec<u8> = (0..=255).collect();
    while bytes.len() < length {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        bytes.extend_from_slice(&state.to_le_bytes());
    }
    bytes.truncate(length);
    bytes
}

fn hash(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}

fn shell(guest: &Guest, script: &str) -> String {
    let output = guest.run(&["sh", "-c", script]).unwrap_or_else(|error| panic!("{error}"));
    assert!(output.status.success(), "{script}: {}: {}", output.status, output.stderr_text());
    output.stdout_text()
}

pub(crate) fn all(image: &Image) -> Verdict {
    let guest = boot(image);
    println!("  {} up after {:.2} s", guest.release(), guest.boot_time().as_secs_f32());
    assert!(guest.release().starts_with(image.kernel().release_prefix()), "{}", guest.release());
    assert_eq!(shell(&guest, "uname -r").trim(), image.release());
    assert_eq!(guest.cid(), None, "no vsock device was asked for");
    exit_codes(&guest);
    streams(&guest);
    environment(&guest);
    concurrency(&guest);
    timeout(&guest);
    background(&guest);
    Verdict::Passed
}

fn exit_codes(guest: &Guest) {
    for code in [0, 1, 7, 255] {
        let output = guest.run(&["sh", "-c", &format!("exit {code}")]).unwrap();
        assert_eq!(output.status, Status::Exited(code));
    }
    assert_eq!(guest.run(&["sh", "-c", "kill -9 $$"]).unwrap().status, Status::Signaled(9));
    let error = guest.run(&["/no/such/program"]).unwrap_err();
    assert!(matches!(error, RunError::NotStarted { errno: 2, .. }), "{error}");
    assert!(guest.run::<&str>(&[]).is_err());
}

fn streams(guest: &Guest) {
    let output = guest
        .run(&["sh", "-c", "echo to-stderr >&2; printf '\\000\\r\\n\\003\\004\\377'; exit 3"])
        .unwrap();
    assert_eq!(output.stdout, b"\0\r\n\x03\x04\xff");
    assert_eq!(output.stderr, b"to-stderr\n");
    assert_eq!(output.status, Status::Exited(3));
    let bytes = pattern(3 * 1024 * 1024 + 1);
    let output = guest.run_command(&GuestCommand::new(&["cat"]).stdin(bytes.clone())).unwrap();
    assert_eq!(
        hash(&output.stdout),
        hash(&bytes),
        "{} of {} bytes",
        output.stdout.len(),
        bytes.len()
    );
    // A command that reads nothing must not stop the channel.
    let output = guest.run_command(&GuestCommand::new(&["true"]).stdin(bytes)).unwrap();
    assert!(output.status.success());
    let error = guest
        .run_command(&GuestCommand::new(&["cat"]).stdin(vec![0; 17 * 1024 * 1024]))
        .unwrap_err();
    assert!(matches!(error, RunError::TooMuchInput), "{error}");
    let error = guest
        .run_command(&GuestCommand::new(&["true"]).env("LARGE", "x".repeat(200_000)))
        .unwrap_err();
    assert!(matches!(error, RunError::TooLarge(_)), "{error}");
}

fn environment(guest: &Guest) {
    let command =
        GuestCommand::new(&["sh", "-c", "printf '%s|%s|%s' \"$SECRET\" \"$PATH\" \"$PWD\""]);
    let output = guest
        .run_command(&command.env("SECRET", "a b=c\n").env("PATH", "/bin").current_dir("/usr"))
        .unwrap();
    assert_eq!(output.stdout_text(), "a b=c\n|/bin|/usr");
}

fn concurrency(guest: &Guest) {
    let began = Instant::now();
    std::thread::scope(|scope| {
        let run = |index: usize| {
            let script = format!("sleep 1; head -c 100000 /dev/zero; echo {index}");
            scope.spawn(move || (index, guest.run(&["sh", "-c", &script]).unwrap()))
        };
        let threads: Vec<_> = (0..12).map(run).collect();
        for thread in threads {
            let (index, output) = thread.join().unwrap();
            assert_eq!(output.stdout.len(), 100_000 + index.to_string().len() + 1);
            assert!(output.stdout.ends_with(format!("\0{index}\n").as_bytes()));
        }
    });
    assert!(
        began.elapsed() < Duration::from_secs(10),
        "commands ran one after another: {:?}",
        began.elapsed()
    );
}

fn timeout(guest: &Guest) {
    let began = Instant::now();
    let command =
        GuestCommand::new(&["sh", "-c", "trap '' TERM; echo begun; sleep 1000 & wait; sleep 1000"]);
    let error = guest.run_command(&command.timeout(Duration::from_millis(1500))).unwrap_err();
    assert!(began.elapsed() < Duration::from_secs(8), "{:?}", began.elapsed());
    assert!(matches!(&error, RunError::TimedOut { stdout, .. } if stdout == b"begun\n"), "{error}");
    assert_eq!(shell(guest, "pgrep -x sleep | wc -l").trim(), "0", "the whole group must be dead");
}

fn background(guest: &Guest) {
    let script = "echo listening; read line; echo got $line; sleep 1000";
    let mut process = guest.spawn(&GuestCommand::new(&["sh", "-c", script])).unwrap();
    assert!(process.wait_for_text("listening", Duration::from_secs(10)).unwrap());
    process.write_stdin(b"word\n").unwrap();
    assert!(process.wait_for_text("got word", Duration::from_secs(10)).unwrap());
    assert!(process.is_running());
    let output = process.kill().unwrap();
    assert_eq!(
        (output.status, output.stdout),
        (Status::Signaled(9), b"listening\ngot word\n".to_vec())
    );
    // A daemon that keeps the output open must not hold up its parent's end.
    let began = Instant::now();
    assert_eq!(shell(guest, "sleep 1000 & echo started"), "started\n");
    assert!(began.elapsed() < Duration::from_secs(6), "{:?}", began.elapsed());
    assert_eq!(
        shell(guest, "pkill -x sleep; sleep 0.2; pgrep -x sleep | wc -l").trim(),
        "0",
        "init reaps orphans"
    );
    drop(guest.spawn(&GuestCommand::new(&["sleep", "1000"])).unwrap());
    assert_eq!(
        shell(guest, "sleep 0.5; pgrep -f 'sleep 1000' | wc -l").trim(),
        "1",
        "only this shell itself"
    );
}

pub(crate) fn share(image: &Image) -> Verdict {
    let directory = tempfile::tempdir().unwrap();
    let bytes = pattern(8 * 1024 * 1024 + 3);
    fs::write(directory.path().join("from-host"), &bytes).unwrap();
    let mut options = outsock_boot::BootOptions::new(image.clone());
    options.share = Some(directory.path().to_owned());
    let guest = Guest::boot(options).unwrap_or_else(|error| panic!("{error}"));
    assert_eq!(
        shell(&guest, "sha256sum < /mnt/share/from-host").split(' ').next().unwrap(),
        hash(&bytes)
    );
    shell(&guest, "mkdir /mnt/share/sub && cp /mnt/share/from-host /mnt/share/sub/from-guest");
    assert_eq!(hash(&fs::read(directory.path().join("sub/from-guest")).unwrap()), hash(&bytes));
    // What the host changes while the guest runs is seen.
    fs::write(directory.path().join("late"), b"one").unwrap();
    assert_eq!(shell(&guest, "cat /mnt/share/late"), "one");
    fs::write(directory.path().join("late"), b"three").unwrap();
    assert_eq!(shell(&guest, "cat /mnt/share/late"), "three");
    guest.shutdown().unwrap();
    Verdict::Passed
}

pub(crate) fn isolation(image: &Image) -> Verdict {
    let guest = boot(image);
    let mark = format!("outsock-boot-{}", std::process::id());
    for directory in ["/etc", "/usr", "/tmp", "/var/tmp", "/run", "/root", "/dev/shm"] {
        shell(&guest, &format!("echo guest > {directory}/{mark}"));
        assert!(
            !std::path::Path::new(directory).join(&mark).exists(),
            "the guest wrote into the host's {directory}"
        );
    }
    for directory in ["/tmp", "/run", "/root"] {
        let listed = shell(&guest, &format!("ls -A {directory}"));
        assert!(
            listed.lines().all(|name| name == mark || name == "outsock" || name == "lock"),
            "{directory}: {listed}"
        );
    }
    assert_eq!(shell(&guest, "ls /sys/class/net").trim(), "lo", "no network device but lo");
    assert!(shell(&guest, "cat /proc/net/fib_trie").contains("127.0.0.1"));
    assert!(
        shell(&guest, "cat /proc/net/if_inet6").starts_with("00000000000000000000000000000001")
    );
    assert_eq!(shell(&guest, "test -c /dev/vsock && hostname").trim(), "guest");
    assert_eq!(
        shell(
            &guest,
            "printf x > /dev/null; head -c 4 /dev/urandom | wc -c; test -d /proc/self/fd"
        )
        .trim(),
        "4"
    );
    Verdict::Passed
}

pub(crate) fn throughput(image: &Image) -> Verdict {
    let guest = boot(image);
    let megabytes = 24;
    let began = Instant::now();
    let output = guest.run(&["head", "-c", &format!("{megabytes}M"), "/dev/zero"]).unwrap();
    assert_eq!(output.stdout.len(), megabytes * 1024 * 1024);
    let out = began.elapsed().as_secs_f64();
    let began = Instant::now();
    let command = GuestCommand::new(&["wc", "-c"]).stdin(vec![0; 8 * 1024 * 1024]);
    assert_eq!(guest.run_command(&command).unwrap().stdout_text().trim(), "8388608");
    let into = began.elapsed().as_secs_f64();
    let began = Instant::now();
    for _ in 0..20 {
        assert!(guest.run(&["/bin/true"]).unwrap().status.success());
    }
    let each = began.elapsed().as_secs_f64() / 20.0 * 1000.0;
    println!(
        "  command channel: {:.1} MiB/s out of the guest, {:.1} MiB/s into it, {each:.1} ms per command",
        f64::from(u32::try_from(megabytes).unwrap()) / out,
        8.0 / into
    );
    Verdict::Passed
}
