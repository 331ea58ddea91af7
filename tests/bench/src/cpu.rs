//! Processor time of threads and processes, to the nanosecond where the kernel gives it.

use std::fs;
use std::path::Path;
use std::time::Duration;

/// Of all threads of a process that still run.
pub(crate) fn of_threads(pid: u32) -> Duration {
    sum(pid, |_| true)
}

/// Of this process's threads of that name.
pub(crate) fn of_own_thread(name: &str) -> Duration {
    sum(std::process::id(), |found| found == name)
}

/// Of a process with its threads that ended; in hundredths of a second.
pub(crate) fn of_process(pid: u32) -> Duration {
    outsock_harness::cpu_time(pid).unwrap_or_default()
}

fn sum(pid: u32, wanted: impl Fn(&str) -> bool) -> Duration {
    let tasks = fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten();
    tasks
        .filter(|task| {
            fs::read_to_string(task.path().join("comm")).is_ok_and(|name| wanted(name.trim()))
        })
        .filter_map(|task| of_task(&task.path()))
        .sum()
}

fn of_task(task: &Path) -> Option<Duration> {
    // "time on the processor, time waiting for it, number of turns", in nanoseconds.
    let text = fs::read_to_string(task.join("schedstat")).ok()?;
    text.split(' ').next()?.parse().ok().map(Duration::from_nanos)
}
