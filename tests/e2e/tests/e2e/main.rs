//! End to end: unmodified programs in real guests, through the gateway, to servers on the host.
//!
//! Enters: optionally words, one of which a test's name must hold; `OUTSOCK_E2E_KERNELS` may name kernels,
//! with commas; with `OUTSOCK_E2E_LONG` some tests take minutes. Leaves: a line per test and a closing count; exit code 1 if one failed. Owner: this process;
//! a [`world::World`] per kernel owns the gateway, the guest and the servers. Invariant: a test that
//! cannot run says what is missing and is counted as skipped. Bound: every command has a time limit.

#![allow(clippy::unwrap_used, reason = "a test that finds something else than it expects fails")]

mod apps;
mod churn;
mod clients;
mod data;
mod datagrams;
mod differential;
mod errors;
mod host;
mod lifecycle;
mod modules;
mod names;
mod net;
mod once;
mod places;
mod programs;
mod semantics;
mod servers;
mod serving;
mod ways;
mod ways_in;
mod world;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::process::ExitCode;
use std::time::Instant;

use outsock_boot::{Images, Kernel};
use outsock_site::{Interrupt, Programs};
use world::World;

/// How a test ended, if it did not panic.
pub(crate) enum Verdict {
    Passed,
    Skipped(String),
}

type Test = fn(&mut World) -> Verdict;

/// Programs that are too large for software emulation within the time of a test run: run in guests of native speed.
const WIDE: &[(&str, Test)] = &[
    ("close-unsent", churn::close_unsent),
    ("client-scp-rsync", clients::scp_and_rsync),
    ("client-keepalive", clients::keepalive),
    ("client-postgres", clients::postgres),
    ("client-node", clients::node),
    ("client-java", clients::java),
    ("client-openssl", clients::openssl),
    ("serve-sshd", serving::sshd),
    ("serve-postgres", serving::postgres),
    ("serve-node", serving::node),
    ("serve-java", serving::java),
    ("serve-nc", serving::nc),
    ("serve-socat", serving::socat),
    ("published-tls", ways_in::published_tls),
];

/// In this order: the last ones take the world apart.
const TESTS: &[(&str, Test)] = &[
    ("only-lo", programs::only_lo),
    ("curl", programs::curl),
    ("curl-ipv6", programs::curl_over_ipv6),
    ("wget", programs::wget),
    ("git-clone", programs::git_clone),
    ("ssh", programs::ssh),
    ("iperf3", programs::iperf3),
    ("iperf3-reverse", programs::iperf3_reverse),
    ("iperf3-parallel", programs::iperf3_parallel),
    ("iperf3-bidir", programs::iperf3_bidir),
    ("go-static", programs::go_static),
    ("asyncio", programs::asyncio),
    ("client-nc", clients::nc),
    ("client-redis", clients::redis),
    ("serve-nginx", serving::nginx),
    ("serve-redis", serving::redis),
    ("serve-go-proxy", serving::go_proxy),
    ("errno", errors::errnos),
    ("once-signals", once::signals),
    ("once-rewriting", once::rewriting),
    ("loopback-stays", errors::loopback_stays_in_the_guest),
    ("socket-semantics", semantics::outsourced),
    ("differential", differential::differential),
    ("send", data::send),
    ("sendmsg", data::sendmsg),
    ("sendfile", data::sendfile),
    ("splice-out", data::splice_out),
    ("zerocopy", data::zerocopy),
    ("recv", data::recv),
    ("recv-into", data::recv_into),
    ("splice-in", data::splice_in),
    ("half-close-guest", data::guest_ends_first),
    ("half-close-host", data::host_ends_first),
    ("names-resolvers", names::resolvers),
    ("names-programs", names::by_name),
    ("names-c-ares", names::c_ares),
    ("names-resolv-conf", names::resolv_conf),
    ("names-rules", names::rules_decide),
    ("names-storm", names::storm),
    ("udp-semantics", datagrams::semantics),
    ("udp-server", datagrams::server),
    ("udp-iperf3", datagrams::iperf3),
    ("ping", datagrams::ping),
    ("traceroute", datagrams::traceroute),
    ("udp-rest-prohibited", datagrams::the_rest_is_prohibited),
    ("udp-agents-take-turns", datagrams::agents_take_turns),
    ("server-semantics", servers::semantics),
    ("server-http", servers::http_server),
    ("server-asyncio", servers::asyncio_server),
    ("server-go", servers::go_server),
    ("server-iperf3", servers::iperf3_server),
    ("server-ssh", servers::ssh_server),
    ("server-git", servers::git_daemon_server),
    ("server-openssl", servers::openssl_server),
    ("server-killed", servers::killed_server),
    ("server-backlog", servers::backlog),
    ("churn-connects", churn::connects),
    ("churn-accepts", churn::accepts),
    ("server-local", servers::not_published),
    ("vmrpc-rust", modules::rust),
    ("vmrpc-c", modules::c),
    ("vmrpc-python", modules::python),
    ("vmrpc-unprivileged", modules::unprivileged),
    ("vmrpc-killed", modules::killed),
    ("three-ways", ways::three_ways),
    ("two-guests", lifecycle::two_guests_at_once),
    ("guest-killed", lifecycle::guest_killed),
    ("counters", lifecycle::no_guest_misbehaved),
    ("gateway-drains", lifecycle::gateway_drains),
    ("gateway-killed", lifecycle::gateway_killed),
    ("no-gateway", lifecycle::no_gateway),
];

#[derive(Default)]
struct Count {
    passed: u32,
    failed: u32,
    skipped: u32,
}

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    if arguments.iter().any(|argument| argument == "--list") {
        return ExitCode::SUCCESS;
    }
    let words: Vec<&String> =
        arguments.iter().filter(|argument| !argument.starts_with('-')).collect();
    let wanted = |kernel: Kernel, name: &str| {
        let name = format!("{kernel}/{name}");
        words.is_empty() || words.iter().any(|word| name.contains(word.as_str()))
    };
    let programs = Programs::build(&Interrupt::default(), &mut |line| {
        if line.contains("Compiling outsock") {
            println!("{}", line.trim());
        }
    })
    .unwrap_or_else(|error| panic!("{error}"));
    let mut count = Count::default();
    for kernel in kernels() {
        let wide = if kernel == Kernel::Uml72 { WIDE } else { &[] };
        let tests: Vec<(&str, Test)> =
            wide.iter().chain(TESTS).copied().filter(|(name, _)| wanted(kernel, name)).collect();
        if !tests.is_empty() {
            run_kernel(kernel, &programs, &tests, &mut count);
        }
    }
    println!("{} passed, {} failed, {} skipped", count.passed, count.failed, count.skipped);
    if count.failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn kernels() -> Vec<Kernel> {
    let named = std::env::var("OUTSOCK_E2E_KERNELS").unwrap_or_default();
    if named.is_empty() {
        return Kernel::ALL.to_vec();
    }
    named.split(',').map(|name| name.parse().unwrap_or_else(|error| panic!("{error}"))).collect()
}

fn run_kernel(kernel: Kernel, programs: &Programs, tests: &[(&str, Test)], count: &mut Count) {
    let image = Images::in_target_directory()
        .prepare(kernel, &mut |line| println!("{kernel}: {line}"))
        .map_err(|error| error.to_string());
    let mut world = match image.and_then(|image| {
        catch_unwind(AssertUnwindSafe(|| World::start(image, programs)))
            .map_err(|_| "the guest or its gateway did not start, the reason is above".to_owned())
    }) {
        Ok(world) => world,
        // Where a guest does not boot nothing was shown, and that is no success.
        Err(reason) => {
            println!("test {kernel}/boot ... FAILED: {reason}");
            count.failed += 1;
            return;
        }
    };
    println!("{kernel}: up after {:.1} s", world.guest().boot_time().as_secs_f32());
    for (name, test) in tests {
        let began = Instant::now();
        let verdict = catch_unwind(AssertUnwindSafe(|| test(&mut world)));
        let took = began.elapsed().as_secs_f32();
        match verdict {
            Ok(Verdict::Passed) => {
                count.passed += 1;
                println!("test {kernel}/{name} ... ok ({took:.1} s)");
            }
            Ok(Verdict::Skipped(reason)) => {
                count.skipped += 1;
                println!("test {kernel}/{name} ... SKIPPED: {reason}");
            }
            Err(_) => {
                count.failed += 1;
                println!("test {kernel}/{name} ... FAILED ({took:.1} s), the reason is above");
                println!("{}", world.gateway_log_tail());
            }
        }
    }
}
