//! Real guests: every kernel is booted and used.
//!
//! Enters: optionally a word that a case's name must hold. Leaves: a line per case and a closing count; exit code 1
//! if one failed. A case that cannot run on this machine is *skipped*, with the reason on the line and in the count;
//! with `OUTSOCK_REQUIRE_GUESTS=1` it fails instead.

#![allow(clippy::unwrap_used, reason = "a test that finds something else than it expects fails")]

mod commands;
mod lifecycle;
mod vsock;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::process::ExitCode;
use std::time::Instant;

use outsock_boot::{BootOptions, Guest, Image, Images, Kernel};

/// How a case ended, if it did not panic.
enum Verdict {
    Passed,
    Skipped(String),
}

type Case = fn(&Image) -> Verdict;

const CASES: &[(&str, Case)] = &[
    ("commands", commands::all),
    ("share", commands::share),
    ("isolation", commands::isolation),
    ("throughput", commands::throughput),
    ("drop", lifecycle::nothing_is_left_after_drop),
    ("short-lived-thread", lifecycle::a_guest_outlives_the_thread_that_booted_it),
    ("parent-killed", lifecycle::nothing_is_left_after_the_parent_is_killed),
    ("guest-dies", lifecycle::a_guest_that_dies_is_an_error),
    ("silent-backend", lifecycle::a_silent_backend_is_no_hang),
    ("two-at-once", lifecycle::two_guests_at_once),
    ("vsock", vsock::bytes_cross_both_ways),
    ("vsock-between-guests", vsock::guests_meet),
    ("vsock-wrong-cid", vsock::a_wrong_cid_is_refused),
];

/// A guest without a vsock device.
fn boot(image: &Image) -> Guest {
    Guest::boot(BootOptions::new(image.clone())).unwrap_or_else(|error| panic!("{error}"))
}

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    if let [flag, kernel] = arguments.as_slice()
        && flag == lifecycle::HOLD_FLAG
    {
        lifecycle::hold(kernel.parse().expect("a kernel"));
    }
    if arguments.iter().any(|argument| argument == "--list") {
        return ExitCode::SUCCESS;
    }
    let filter =
        arguments.iter().find(|argument| !argument.starts_with('-')).cloned().unwrap_or_default();
    let required = std::env::var_os("OUTSOCK_REQUIRE_GUESTS").is_some_and(|value| value == "1");
    let (mut passed, mut failed, mut skipped) = (0, 0, 0);
    for kernel in Kernel::ALL {
        let wanted = |name: &str| format!("{kernel}/{name}").contains(&filter);
        if !CASES.iter().any(|(name, _)| wanted(name)) {
            continue;
        }
        let images = Images::in_target_directory();
        let image = images
            .prepare(kernel, &mut |line| println!("{kernel}: {line}"))
            .map_err(|error| error.to_string());
        for (name, case) in CASES.iter().filter(|(name, _)| wanted(name)) {
            let began = Instant::now();
            let verdict = match &image {
                Ok(image) => catch_unwind(AssertUnwindSafe(|| case(image))),
                Err(reason) => Ok(Verdict::Skipped(reason.clone())),
            };
            let took = began.elapsed().as_secs_f32();
            match verdict {
                Ok(Verdict::Passed) => {
                    passed += 1;
                    println!("test {kernel}/{name} ... ok ({took:.1} s)");
                }
                Ok(Verdict::Skipped(reason)) if !required => {
                    skipped += 1;
                    println!("test {kernel}/{name} ... SKIPPED: {reason}");
                }
                Ok(Verdict::Skipped(reason)) => {
                    failed += 1;
                    println!(
                        "test {kernel}/{name} ... FAILED, since it is required and cannot run: {reason}"
                    );
                }
                Err(_) => {
                    failed += 1;
                    println!("test {kernel}/{name} ... FAILED ({took:.1} s), the reason is above");
                }
            }
        }
    }
    println!("{passed} passed, {failed} failed, {skipped} skipped");
    if failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
