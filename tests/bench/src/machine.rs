//! The machine that measures: its limits, and what to say about it.

use std::fs;

use anyhow::{Context, Result};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use serde::Serialize;

/// Raises this process's limit of open descriptors as far as it may.
pub(crate) fn raise_descriptor_limit() -> Result<()> {
    let limit = getrlimit(Resource::Nofile);
    setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, ..limit })
        .context("cannot raise the limit of open descriptors")
}

/// What the figures depend on.
#[derive(Debug, Serialize)]
pub(crate) struct Machine {
    processor: String,
    cores: usize,
    kernel: String,
    /// Of the last minute, before the run and after it.
    load: [String; 2],
    /// The share of all processors that went to other programs during the run, percent.
    others_percent: u64,
    #[serde(skip)]
    before: Ticks,
}

/// Processor time so far, in the kernel's ticks.
#[derive(Clone, Copy, Debug, Default)]
struct Ticks {
    /// Of all processors together, idle or not.
    all: u64,
    /// When anybody ran.
    busy: u64,
    /// When this process ran, or one that it started and has waited for.
    own: u64,
}

impl Machine {
    /// Looks at the machine, before a run.
    pub(crate) fn look() -> Self {
        let cpuinfo = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
        let model = cpuinfo
            .lines()
            .find_map(|line| line.strip_prefix("model name")?.split_once(": "))
            .map_or("an unknown processor", |(_, model)| model);
        let release = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
        Self {
            processor: model.to_owned(),
            cores: std::thread::available_parallelism().map_or(1, usize::from),
            kernel: release.trim().to_owned(),
            load: [load(), String::new()],
            others_percent: 0,
            before: Ticks::now(),
        }
    }

    /// Looks again, after it, when all processes of the run have ended.
    pub(crate) fn look_again(&mut self) {
        self.load[1] = load();
        let now = Ticks::now();
        let all = now.all.saturating_sub(self.before.all).max(1);
        let busy = now.busy.saturating_sub(self.before.busy);
        let others = busy.saturating_sub(now.own.saturating_sub(self.before.own));
        self.others_percent = others * 100 / all;
    }
}

impl Ticks {
    /// What cannot be read counts as nothing.
    fn now() -> Self {
        let numbers = |text: &str| -> Vec<u64> {
            text.split_whitespace().filter_map(|word| word.parse().ok()).collect()
        };
        let stat = fs::read_to_string("/proc/stat").unwrap_or_default();
        // "cpu", then user, nice, system, idle, iowait, irq, softirq, steal.
        let all = numbers(stat.lines().next().unwrap_or_default());
        let all = all.get(..8).unwrap_or_default();
        let idle: u64 = all.get(3..5).unwrap_or_default().iter().sum();
        let total: u64 = all.iter().sum();
        let stat = fs::read_to_string("/proc/self/stat").unwrap_or_default();
        // Behind the name and the state: utime, stime, cutime and cstime are fields 14 to 17.
        let own = numbers(stat.rsplit_once(") ").map_or("", |(_, rest)| &rest[1..]));
        let own = own.get(10..14).unwrap_or_default().iter().sum();
        Self { all: total, busy: total - idle, own }
    }
}

impl std::fmt::Display for Machine {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { processor, cores, kernel, load: [before, after], others_percent, .. } = self;
        write!(
            formatter,
            "{processor}, {cores} cores, Linux {kernel}; load {before} before and {after} after, \
             and {others_percent} % of the processors with other programs"
        )
    }
}

fn load() -> String {
    let text = fs::read_to_string("/proc/loadavg").unwrap_or_default();
    text.split(' ').next().unwrap_or_default().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ticks_make_sense() {
        let ticks = Ticks::now();
        assert!(ticks.all > ticks.busy && ticks.busy > 0);
        assert!(ticks.own < ticks.busy);
    }
}
