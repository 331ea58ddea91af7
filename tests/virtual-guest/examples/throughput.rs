//! Measures a backend with one virtual guest: `throughput SOCKET SINK-PORT SOURCE-PORT ECHO-PORT`.
//!
//! A port of 0 is left out. Behind the ports must be a program that takes everything, one that
//! sends for ever, and one that sends everything back.

use std::time::Duration;

use outsock_virtual_guest::{Content, Layout, Options, Transfer, VirtualGuest};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut arguments = std::env::args().skip(1);
    let path = arguments.next().ok_or("usage: throughput SOCKET SINK SOURCE ECHO")?;
    let mut port = || arguments.next().and_then(|port| port.parse::<u32>().ok()).unwrap_or(0);
    let (sink, source, echo) = (port(), port(), port());
    for layout in Layout::kernels() {
        let name = layout.name;
        let ring_size = 1024;
        let guest =
            VirtualGuest::connect(&path, Options { ring_size, ..Options::for_layout(layout) })?;
        for message in [256, 4096, 65_536] {
            let bytes = if message == 256 { 200 << 20 } else { 2 << 30 };
            if sink > 0 {
                let connection = guest.open(sink)?;
                let sent = connection.send_stream(bytes, message, Content::InPlace)?;
                report(name, "to the host", message, &sent);
            }
        }
        if source > 0 {
            let connection = guest.open(source)?;
            let received = connection.receive_stream(2 << 30, Content::InPlace)?;
            report(name, "to the guest", 65_536, &received);
        }
        if echo > 0 {
            let connection = guest.open(echo)?;
            let mut trips = connection.round_trips(20_000, 1, Content::InPlace)?.round_trips;
            trips.sort_unstable();
            let (p50, p99) = (trips[trips.len() / 2], trips[trips.len() * 99 / 100]);
            println!("{name:12} 1-byte round trip   p50 {p50:?}  p99 {p99:?}");
        }
        println!("{name:12} {:?}", guest.stats());
        std::thread::sleep(Duration::from_millis(1));
        for violation in guest.violations().iter().take(5) {
            println!("{name:12} violation: {violation}");
        }
    }
    Ok(())
}

fn report(layout: &str, what: &str, message: usize, transfer: &Transfer) {
    let gb = transfer.bytes_per_second() / 1e9;
    #[expect(clippy::cast_precision_loss, reason = "a rate needs no more than 52 bits")]
    let packets = transfer.packets as f64 / transfer.elapsed.as_secs_f64() / 1e6;
    println!("{layout:12} {what:12} {message:6} B  {gb:6.3} GB/s  {packets:6.3} M packets/s");
}
