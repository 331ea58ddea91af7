//! Data: every byte, in every way of writing and reading it.
//!
//! in: a world; out: a verdict each. Owner: the caller. Kept: digests are taken at both ends. Bound: 4 MiB
//! per connection, so that software emulation is in time too.

use std::time::Duration;

use outsock_boot::Kernel;
use outsock_e2e::{ServerEvent, pattern};

use crate::Verdict;
use crate::host::{missing, program};
use crate::net::{HALF, HOST, SINK, SOURCE};
use crate::programs::need;
use crate::world::World;

/// Around the borders of pages, packets (32 and 64 KiB) and credit (256 KiB).
const SIZES: [&str; 17] = [
    "1", "2", "43", "44", "45", "1000", "4095", "4096", "4097", "32767", "32768", "32769", "65535",
    "65536", "65537", "262145", "1048576",
];
/// What transfer.py says when the kernel cannot do what is asked.
const EXIT_NOT_HERE: i32 = 77;
const EVENT_TIMEOUT: Duration = Duration::from_secs(20);

fn transfer(world: &World, way: &str, method: &str, port: u16) -> Verdict {
    need!("python3", "python3");
    let port = port.to_string();
    let argv =
        [&["/usr/bin/python3", "/mnt/share/transfer.py", way, method, HOST, &port][..], &SIZES]
            .concat();
    let output = world.outsock(&argv);
    let text = output.stdout_text() + &output.stderr_text();
    if output.status.code() == Some(EXIT_NOT_HERE) {
        return Verdict::Skipped(format!("{}: {}", world.kernel(), text.trim()));
    }
    assert!(output.status.success(), "{}: {text}", output.status);
    assert!(text.contains("every digest equal"), "{text}");
    Verdict::Passed
}

pub(crate) fn send(world: &mut World) -> Verdict {
    transfer(world, "up", "send", SINK)
}

pub(crate) fn sendmsg(world: &mut World) -> Verdict {
    transfer(world, "up", "sendmsg", SINK)
}

pub(crate) fn sendfile(world: &mut World) -> Verdict {
    transfer(world, "up", "sendfile", SINK)
}

pub(crate) fn splice_out(world: &mut World) -> Verdict {
    transfer(world, "up", "splice", SINK)
}

pub(crate) fn zerocopy(world: &mut World) -> Verdict {
    if world.kernel() == Kernel::Qemu61 {
        return Verdict::Skipped("vsock has MSG_ZEROCOPY from Linux 6.7 on".to_owned());
    }
    transfer(world, "up", "zerocopy", SINK)
}

pub(crate) fn recv(world: &mut World) -> Verdict {
    transfer(world, "down", "recv", SOURCE)
}

pub(crate) fn recv_into(world: &mut World) -> Verdict {
    transfer(world, "down", "recv_into", SOURCE)
}

pub(crate) fn splice_in(world: &mut World) -> Verdict {
    transfer(world, "down", "splice", SOURCE)
}

/// The guest ends its half; the host then still answers, with what it has got.
pub(crate) fn guest_ends_first(world: &mut World) -> Verdict {
    need!("python3", "python3");
    let argv = [
        "/usr/bin/python3",
        "/mnt/share/transfer.py",
        "up",
        "send",
        HOST,
        &SINK.to_string(),
        "100000",
    ];
    assert!(world.succeed(&argv).contains("every digest equal"));
    Verdict::Passed
}

/// The host ends its half; the guest then still writes.
pub(crate) fn host_ends_first(world: &mut World) -> Verdict {
    need!("python3", "python3");
    let length = 300_000;
    world.servers.half.forget_events();
    let (port, size) = (HALF.to_string(), length.to_string());
    world.succeed(&["/usr/bin/python3", "/mnt/share/transfer.py", "half", HOST, &port, &size]);
    let told = world.servers.half.event(EVENT_TIMEOUT);
    assert_eq!(told, Some(ServerEvent::Served(format!("{length} {}", pattern::digest(length)))));
    Verdict::Passed
}
