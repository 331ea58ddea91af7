//! Measures a backend with one virtual guest:
//! `throughput SOCKET SINK SOURCE ECHO [SERVE]`.
//!
//! Behind SINK must be a program that takes everything, behind SOURCE one that sends for ever,
//! behind ECHO one that sends everything back. Each is a vsock port of the host, or an address
//! that the gateway dials as for an agent; `-` leaves it out. SERVE starts those programs here:
//! `unix:PREFIX` at `PREFIX_PORT`, where a hybrid-vsock backend looks for them, `tcp:PORT` at
//! three ports of the loopback from PORT on.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpListener};
use std::os::unix::net::UnixListener;
use std::time::Duration;

use outsock_virtual_guest::{
    Connection, Content, GuestError, Layout, Options, Transfer, VirtualGuest,
};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [path, sink, source, echo, serve @ ..] = &arguments[..] else {
        return Err("usage: throughput SOCKET SINK SOURCE ECHO [SERVE]".into());
    };
    if let Some(at) = serve.first() {
        serve_at(at, [sink, source, echo])?;
    }
    for layout in Layout::kernels() {
        let name = layout.name;
        let options = Options { ring_size: 1024, ..Options::for_layout(layout) };
        let guest = connect(path, &options)?;
        for (message, bytes) in [(256, 200 << 20), (4096, 2 << 30), (65_536, 4 << 30)] {
            if let Some(connection) = open(&guest, sink)? {
                let before = driver_seconds();
                let sent = connection.send_stream(bytes, message, Content::InPlace)?;
                report(name, "to the host", message, &sent, driver_seconds() - before);
            }
        }
        if let Some(connection) = open(&guest, source)? {
            let before = driver_seconds();
            let received = connection.receive_stream(4 << 30, Content::InPlace)?;
            report(name, "to the guest", 65_536, &received, driver_seconds() - before);
        }
        if let Some(connection) = open(&guest, echo)? {
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

fn open(guest: &VirtualGuest, to: &str) -> Result<Option<Connection>, Box<dyn std::error::Error>> {
    if let Ok(port) = to.parse::<u32>() {
        return Ok(Some(guest.open(port)?));
    }
    match to.parse::<SocketAddr>() {
        Ok(address) => Ok(Some(guest.dial(address).map_err(|errno| errno.to_string())?.0)),
        Err(_) => Ok(None),
    }
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
                .is_ok_and(|name| name.starts_with("guest-") && !name.contains("pump"))
        })
        .filter_map(|task| std::fs::read_to_string(task.path().join("schedstat")).ok())
        .filter_map(|text| text.split(' ').next()?.parse::<f64>().ok())
        .sum::<f64>()
        / 1e9
}

trait Stream: Read + Write + Send {}
impl<T: Read + Write + Send> Stream for T {}

type Body = fn(&mut dyn Stream);

fn serve_at(at: &str, names: [&String; 3]) -> io::Result<()> {
    let bodies: [Body; 3] = [
        |stream| while stream.read(&mut [0; 262_144]).is_ok_and(|n| n > 0) {},
        |stream| while stream.write_all(&[0; 262_144]).is_ok() {},
        |stream| {
            let mut bytes = [0; 65_536];
            while let Ok(len @ 1..) = stream.read(&mut bytes) {
                if stream.write_all(&bytes[..len]).is_err() {
                    break;
                }
            }
        },
    ];
    let first_port = at.strip_prefix("tcp:").and_then(|port| port.parse::<u16>().ok());
    for ((name, body), number) in names.into_iter().zip(bodies).zip(0u16..) {
        if let Some(port) = first_port {
            let listener = TcpListener::bind(("127.0.0.1", port + number))?;
            serve(body, move || {
                let stream = listener.accept()?.0;
                stream.set_nodelay(true)?;
                Ok(stream)
            });
        } else if let Some(prefix) = at.strip_prefix("unix:") {
            let path = format!("{prefix}_{name}");
            // A leftover of an earlier run.
            let _ = std::fs::remove_file(&path);
            let listener = UnixListener::bind(path)?;
            serve(body, move || Ok(listener.accept()?.0));
        }
    }
    Ok(())
}

fn serve<S: Stream + 'static>(body: Body, accept: impl Fn() -> io::Result<S> + Send + 'static) {
    std::thread::spawn(move || {
        while let Ok(mut stream) = accept() {
            std::thread::spawn(move || body(&mut stream));
        }
    });
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
