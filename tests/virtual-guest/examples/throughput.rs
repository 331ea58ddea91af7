//! Measures a backend with one virtual guest:
//! `throughput SOCKET SINK-PORT SOURCE-PORT ECHO-PORT [UNIX-PREFIX]`.
//!
//! A port of 0 is left out. Behind the ports must be a program that takes everything, one that
//! sends for ever, and one that sends everything back. With a prefix this program serves them
//! itself at `PREFIX_PORT`, where a hybrid-vsock backend looks for them.

use std::io::{Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::time::Duration;

use outsock_virtual_guest::{Content, GuestError, Layout, Options, Transfer, VirtualGuest};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut arguments = std::env::args().skip(1);
    let path = arguments.next().ok_or("usage: throughput SOCKET SINK SOURCE ECHO")?;
    let mut port = || arguments.next().and_then(|port| port.parse::<u32>().ok()).unwrap_or(0);
    let (sink, source, echo) = (port(), port(), port());
    if let Some(prefix) = std::env::args().nth(5) {
        serve(&prefix, sink, |stream| while stream.read(&mut [0; 65_536]).is_ok_and(|n| n > 0) {})?;
        serve(&prefix, source, |stream| while stream.write_all(&[0; 65_536]).is_ok() {})?;
        serve(&prefix, echo, |stream| {
            let mut bytes = [0; 65_536];
            while let Ok(len @ 1..) = stream.read(&mut bytes) {
                if stream.write_all(&bytes[..len]).is_err() {
                    break;
                }
            }
        })?;
    }
    for layout in Layout::kernels() {
        let name = layout.name;
        let ring_size = 1024;
        let options = Options { ring_size, ..Options::for_layout(layout) };
        let guest = connect(&path, &options)?;
        for message in [256, 4096, 65_536] {
            let bytes = if message == 256 { 200 << 20 } else { 2 << 30 };
            if sink > 0 {
                let connection = guest.open(sink)?;
                let before = driver_seconds();
                let sent = connection.send_stream(bytes, message, Content::InPlace)?;
                report(name, "to the host", message, &sent, driver_seconds() - before);
            }
        }
        if source > 0 {
            let connection = guest.open(source)?;
            let before = driver_seconds();
            let received = connection.receive_stream(2 << 30, Content::InPlace)?;
            report(name, "to the guest", 65_536, &received, driver_seconds() - before);
        }
        if echo > 0 {
            let connection = guest.open(echo)?;
            let mut trips = connection.round_trips(20_000, 1, Content::InPlace)?.round_trips;
            trips.sort_unstable();
            let (p50, p99) = (trips[trips.len() / 2], trips[trips.len() * 99 / 100]);
            println!("{name:12} 1-byte round trip   p50 {p50:?}  p99 {p99:?}");
        }
        println!("{name:12} {:?}", guest.stats());
        for violation in guest.violations().iter().take(5) {
            println!("{name:12} violation: {violation}");
        }
    }
    Ok(())
}

/// Some backends take a moment from one guest to the next.
fn connect(path: &str, options: &Options) -> Result<VirtualGuest, GuestError> {
    for _ in 0..50 {
        if let Ok(guest) = VirtualGuest::connect(path, options.clone()) {
            return Ok(guest);
        }
        std::thread::sleep(Duration::from_millis(100));
    }
    VirtualGuest::connect(path, options.clone())
}

/// CPU seconds of the driver thread so far, from its scheduler statistics.
fn driver_seconds() -> f64 {
    let tasks = std::fs::read_dir("/proc/self/task").into_iter().flatten().flatten();
    tasks
        .filter(|task| {
            std::fs::read_to_string(task.path().join("comm"))
                .is_ok_and(|name| name.starts_with("guest-"))
        })
        .filter_map(|task| std::fs::read_to_string(task.path().join("schedstat")).ok())
        .filter_map(|text| text.split(' ').next()?.parse::<f64>().ok())
        .sum::<f64>()
        / 1e9
}

fn serve(prefix: &str, port: u32, body: fn(&mut UnixStream)) -> std::io::Result<()> {
    let path = format!("{prefix}_{port}");
    // A leftover of an earlier run.
    let _ = std::fs::remove_file(&path);
    let listener = UnixListener::bind(path)?;
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            std::thread::spawn(move || {
                let mut stream = stream;
                body(&mut stream);
            });
        }
    });
    Ok(())
}

fn report(layout: &str, what: &str, message: usize, transfer: &Transfer, cpu: f64) {
    let gb = transfer.bytes_per_second() / 1e9;
    #[expect(clippy::cast_precision_loss, reason = "a rate needs no more than 52 bits")]
    let packets = transfer.packets as f64;
    let rate = packets / transfer.elapsed.as_secs_f64() / 1e6;
    let each = cpu / packets * 1e9;
    println!(
        "{layout:12} {what:12} {message:6} B  {gb:6.3} GB/s  {rate:6.3} M packets/s  \
         driver thread {each:5.0} ns/packet"
    );
}
