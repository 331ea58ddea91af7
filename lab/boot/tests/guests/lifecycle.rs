//! How guests begin and end, and that nothing is left of them.

use std::fs;
use std::io::{BufRead, BufReader};
use std::os::unix::net::UnixListener;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use outsock_boot::{BootError, BootOptions, Guest, GuestCommand, Image, Images, Kernel, RunError};

use crate::{Verdict, boot};

/// Makes this program boot a guest, print its monitor's process id and wait to be killed.
pub(crate) const HOLD_FLAG: &str = "--hold-guest";

/// Processes of a group: (id, name).
fn group(leader: u32) -> Vec<(u32, String)> {
    let mut members = Vec::new();
    for entry in fs::read_dir("/proc").unwrap().flatten() {
        let Ok(stat) = fs::read_to_string(entry.path().join("stat")) else { continue };
        let Some((before, after)) = stat.rsplit_once(") ") else { continue };
        let fields: Vec<&str> = after.split(' ').collect();
        if fields[2] == leader.to_string() && fields[0] != "Z" {
            let (id, name) = before.split_once(" (").unwrap();
            members.push((id.parse().unwrap(), name.to_owned()));
        }
    }
    members
}

/// The leader and all that descends from it, whatever group that moved to.
fn descendants(leader: u32) -> Vec<u32> {
    let mut found = vec![leader];
    let mut index = 0;
    while index < found.len() {
        let path = format!("/proc/{0}/task/{0}/children", found[index]);
        let children = fs::read_to_string(path).unwrap_or_default();
        found.extend(children.split_whitespace().map(|id| id.parse::<u32>().unwrap()));
        index += 1;
    }
    found
}

fn alive(process: u32) -> bool {
    let stat = fs::read_to_string(format!("/proc/{process}/stat")).unwrap_or_default();
    stat.rsplit_once(") ").is_some_and(|(_, after)| !after.starts_with('Z'))
}

fn shared_memory_files() -> Vec<String> {
    let entries = fs::read_dir("/dev/shm").unwrap().flatten();
    entries
        .map(|entry| entry.file_name().to_string_lossy().into_owned())
        .filter(|name| name.contains("vm_file"))
        .collect()
}

fn wait_until_dead(leader: u32, all: &[u32]) {
    let deadline = Instant::now() + Duration::from_secs(10);
    loop {
        let left: Vec<u32> = all.iter().copied().filter(|process| alive(*process)).collect();
        if left.is_empty() && group(leader).is_empty() {
            return;
        }
        assert!(Instant::now() < deadline, "still there: {left:?} {:?}", group(leader));
        std::thread::sleep(Duration::from_millis(20));
    }
}

pub(crate) fn nothing_is_left_after_drop(image: &Image) -> Verdict {
    let guest = boot(image);
    let leader = guest.process_id();
    let _busy = guest.spawn(&GuestCommand::new(&["sh", "-c", "while :; do :; done"])).unwrap();
    let all = descendants(leader);
    assert!(alive(leader) && !group(leader).is_empty());
    drop(guest);
    assert!(!alive(leader), "Drop waits for the monitor's end");
    wait_until_dead(leader, &all);
    assert_eq!(shared_memory_files(), [""; 0]);
    let run_directories = fs::read_dir(std::env::temp_dir()).unwrap().flatten();
    let mark = format!("outsock-uml-{}-", std::process::id());
    assert_eq!(
        run_directories
            .filter(|entry| entry.file_name().to_string_lossy().starts_with(&mark))
            .count(),
        0
    );
    let guest = boot(image);
    let leader = guest.process_id();
    let all = descendants(leader);
    guest.shutdown().unwrap();
    wait_until_dead(leader, &all);
    Verdict::Passed
}

pub(crate) fn a_guest_outlives_the_thread_that_booted_it(image: &Image) -> Verdict {
    let guest = std::thread::scope(|scope| scope.spawn(|| boot(image)).join().unwrap());
    std::thread::sleep(Duration::from_millis(500));
    assert!(guest.run(&["true"]).unwrap().status.success());
    Verdict::Passed
}

/// What the process does that is killed in [`nothing_is_left_after_the_parent_is_killed`].
pub(crate) fn hold(kernel: Kernel) -> ! {
    let image = Images::in_target_directory().prepare(kernel, &mut |_| ()).unwrap();
    let guest = boot(&image);
    let _busy = guest.spawn(&GuestCommand::new(&["sh", "-c", "while :; do :; done"])).unwrap();
    assert!(guest.run(&["true"]).unwrap().status.success());
    println!("{}", guest.process_id());
    std::thread::sleep(Duration::from_secs(600));
    std::process::exit(1);
}

pub(crate) fn nothing_is_left_after_the_parent_is_killed(image: &Image) -> Verdict {
    let mut holder = Command::new(std::env::current_exe().unwrap())
        .args([HOLD_FLAG, image.kernel().name()])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut line = String::new();
    BufReader::new(holder.stdout.take().unwrap()).read_line(&mut line).unwrap();
    let leader: u32 = line.trim().parse().unwrap();
    let all = descendants(leader);
    assert!(alive(leader));
    holder.kill().unwrap();
    holder.wait().unwrap();
    wait_until_dead(leader, &all);
    assert_eq!(shared_memory_files(), [""; 0]);
    Verdict::Passed
}

pub(crate) fn a_guest_that_dies_is_an_error(image: &Image) -> Verdict {
    let mut guest = boot(image);
    let sleeper = guest.spawn(&GuestCommand::new(&["sleep", "1000"])).unwrap();
    let began = Instant::now();
    let error = guest.run(&[
        "sh",
        "-c",
        "echo last words > /dev/console; echo c > /proc/sysrq-trigger; sleep 100",
    ]);
    let error = error.unwrap_err();
    assert!(matches!(error, RunError::GuestGone { .. }), "{error}");
    assert!(matches!(
        sleeper.wait(Duration::from_secs(60)).unwrap_err(),
        RunError::GuestGone { .. }
    ));
    assert!(matches!(guest.run(&["true"]).unwrap_err(), RunError::GuestGone { .. }));
    assert!(began.elapsed() < Duration::from_secs(30), "{:?}", began.elapsed());
    assert!(!guest.is_running() || began.elapsed() < Duration::from_secs(30));
    // A kernel that never reaches init.
    let mut options = BootOptions::new(image.clone());
    options.kernel_arguments =
        vec!["rdinit=/no/such/init".to_owned(), "init=/no/such/init".to_owned()];
    options.boot_timeout = Duration::from_secs(40);
    options.kernel_arguments.push("root=/dev/none".to_owned());
    match Guest::boot(options) {
        Err(BootError::Died { console, .. } | BootError::TimedOut { console, .. }) => {
            assert!(console.contains("panic") || console.contains("init"), "{console}");
        }
        Err(error) => panic!("{error}"),
        // User Mode Linux takes the first `init=` on its command line.
        Ok(_) => assert_eq!(image.kernel(), Kernel::Uml72),
    }
    Verdict::Passed
}

pub(crate) fn a_silent_backend_is_no_hang(image: &Image) -> Verdict {
    let directory = tempfile::tempdir().unwrap();
    let socket = directory.path().join("silent");
    let _listener = UnixListener::bind(&socket).unwrap();
    let mut options = BootOptions::new(image.clone());
    options.vsock_socket = Some(socket);
    options.boot_timeout = Duration::from_secs(4);
    let began = Instant::now();
    let error = Guest::boot(options).unwrap_err();
    assert!(matches!(error, BootError::TimedOut { .. }), "{error}");
    assert!(began.elapsed() < Duration::from_secs(10), "{:?}", began.elapsed());
    Verdict::Passed
}

pub(crate) fn two_guests_at_once(image: &Image) -> Verdict {
    std::thread::scope(|scope| {
        let threads: Vec<_> = (0..2).map(|_| scope.spawn(|| boot(image))).collect();
        let guests: Vec<Guest> = threads.into_iter().map(|thread| thread.join().unwrap()).collect();
        assert_ne!(guests[0].process_id(), guests[1].process_id());
        for guest in &guests {
            assert!(guest.run(&["true"]).unwrap().status.success());
        }
    });
    Verdict::Passed
}
