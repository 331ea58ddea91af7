//! Bytes arrive exactly, whatever their sizes and whatever the guest's buffers look like.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use std::io::{Read, Write};
use std::time::Duration;

use common::{boot, dial, echo_server, far_ends, gateway_to, layouts, pair, server};
use outsock_virtual_guest::{Content, Options, pattern};
use sha2::{Digest, Sha256};

const EDGES: [usize; 13] =
    [1, 2, 43, 128, 129, 576, 4095, 4097, 32_767, 32_768, 32_769, 65_536, 65_537];

#[test]
fn every_layout_carries_every_size_both_ways() {
    let gateway = gateway_to(echo_server());
    for layout in layouts() {
        for event_idx in [true, false] {
            let name = layout.name;
            let options = Options { event_idx, regions: 3, ..Options::for_layout(layout.clone()) };
            let guest = gateway.boot("web", options).unwrap();
            let mut connection = dial(&guest, 1);
            let mut position = 0;
            for size in EDGES.into_iter().chain([1 << 20]) {
                let sent = pattern::at(position, size.min(65_536));
                let sent: Vec<u8> = sent.iter().copied().cycle().take(size).collect();
                let mut writer = connection.try_clone().unwrap();
                let to_send = sent.clone();
                let thread = std::thread::spawn(move || writer.write_all(&to_send).unwrap());
                let mut back = vec![0; size];
                connection.read_exact(&mut back).unwrap();
                thread.join().unwrap();
                assert!(back == sent, "{name}: {size} bytes came back changed");
                position += size as u64;
            }
            guest.assert_clean();
        }
    }
}

#[test]
fn both_directions_at_once_with_hashes_at_both_ends() {
    let (_gateway, guest, connection, mut far) = pair();
    let total = 256u64 << 20;
    let mut far_writer = far.try_clone().unwrap();
    let writer = std::thread::spawn(move || {
        let mut sent = 0u64;
        let mut hash = Sha256::new();
        while sent < total {
            let chunk = pattern::at(sent, 60_000.min(usize::try_from(total - sent).unwrap()));
            hash.update(chunk);
            far_writer.write_all(chunk).unwrap();
            sent += chunk.len() as u64;
        }
        hash.finalize()
    });
    let reader = std::thread::spawn(move || {
        let mut hash = Sha256::new();
        let mut buffer = vec![0; 1 << 20];
        let mut left = total;
        while left > 0 {
            let n = far.read(&mut buffer).unwrap();
            assert!(n > 0, "ended {left} bytes early");
            hash.update(&buffer[..n]);
            left -= n as u64;
        }
        hash.finalize()
    });
    let sending = connection.start_send(total, 50_001, Content::Pattern);
    let receiving = connection.start_receive(Some(total), Content::Pattern);
    sending.wait().unwrap();
    receiving.wait().unwrap();
    let (sent_hash, received_hash) = (writer.join().unwrap(), reader.join().unwrap());
    assert_eq!(sent_hash, received_hash, "the same pattern went both ways");
    guest.assert_clean();
}

/// The counters of credit are 32 bits wide.
#[test]
fn more_than_4_gib_on_one_connection() {
    let port = server(|mut stream| {
        let mut buffer = vec![0; 1 << 20];
        let mut position = 0u64;
        loop {
            match stream.read(&mut buffer).unwrap() {
                0 => break,
                n => {
                    assert_eq!(pattern::mismatch(position, &buffer[..n]), None, "at {position}");
                    position += n as u64;
                }
            }
        }
        stream.write_all(&position.to_le_bytes()).unwrap();
    });
    let gateway = gateway_to(port);
    let guest = boot(&gateway);
    let mut connection = dial(&guest, 1);
    let total = (4u64 << 30) + 12_345;
    connection.send_stream(total, 65_536, Content::Pattern).unwrap();
    connection.shutdown(std::net::Shutdown::Write).unwrap();
    let mut counted = [0; 8];
    connection.read_exact(&mut counted).unwrap();
    assert_eq!(u64::from_le_bytes(counted), total);
    guest.assert_clean();
}

/// Linux resets a connection with ENOBUFS when too many small packets queue up.
#[test]
fn many_small_writes_to_a_paused_reader() {
    let (_gateway, guest, connection, far) = pair();
    far.set_nodelay(true).unwrap();
    let mut writer = far.try_clone().unwrap();
    let total = 3000 * 129;
    let thread = std::thread::spawn(move || {
        for i in 0..3000u64 {
            writer.write_all(pattern::at(i * 129, 129)).unwrap();
            if i % 16 == 0 {
                std::thread::yield_now();
            }
        }
    });
    common::eventually("the guest's queue stops growing", || {
        let before = connection.queued();
        std::thread::sleep(Duration::from_millis(50));
        before.0 > 0 && connection.queued() == before
    });
    connection.receive_stream(total, Content::Pattern).unwrap();
    thread.join().unwrap();
    guest.assert_clean();
}

/// Backpressure goes all the way: the far side stops when the guest does not read, and the other
/// way round; nothing is lost.
#[test]
fn backpressure_both_ways() {
    let (gateway, guest, connection, far) = pair();
    far.set_nonblocking(true).unwrap();
    let mut writer = &far;
    let chunk = pattern::at(0, 65_536);
    let mut sent = 0usize;
    let mut idle = 0;
    while idle < 20 {
        match writer.write(&chunk[sent % 32_768..sent % 32_768 + 32_768]) {
            Ok(n) => {
                sent += n;
                idle = 0;
            }
            Err(_) => {
                idle += 1;
                std::thread::sleep(Duration::from_millis(10));
            }
        }
    }
    assert!(sent < 64 << 20, "{sent} bytes went out to nobody");
    let mut got = 0;
    let mut buffer = vec![0; 1 << 20];
    while got < sent {
        got += (&connection).read(&mut buffer).unwrap();
    }
    assert_eq!(got, sent);
    let bounded = gateway.rss_bytes().unwrap();
    let mut sent = 0;
    let mut idle = 0;
    while idle < 20 {
        match connection.try_write(chunk) {
            Ok(n) => {
                sent += n;
                idle = 0;
            }
            Err(_) => {
                idle += 1;
                std::thread::sleep(Duration::from_millis(10));
            }
        }
    }
    assert!(gateway.rss_bytes().unwrap() < bounded + (16 << 20));
    let mut got = 0;
    far.set_nonblocking(false).unwrap();
    while got < sent {
        let n = (&far).read(&mut buffer).unwrap();
        assert!(n > 0);
        got += n;
    }
    assert_eq!(got, sent);
    guest.assert_clean();
}

#[test]
fn the_receive_buffer_may_change_at_any_time() {
    let (far_port, far_ends) = far_ends();
    let gateway = gateway_to(far_port);
    let guest = boot(&gateway);
    let connection = dial(&guest, 1);
    let mut far = far_ends.recv().unwrap();
    let total = 32u64 << 20;
    let thread = std::thread::spawn(move || {
        let mut sent = 0;
        while sent < total {
            far.write_all(pattern::at(sent, 32_768)).unwrap();
            sent += 32_768;
        }
        far
    });
    let receiving = connection.start_receive(Some(total), Content::Pattern);
    for round in 0..200u32 {
        connection.set_buf_alloc(1024 << (round * 7 % 13));
        std::thread::yield_now();
    }
    connection.set_buf_alloc(1 << 20);
    receiving.wait().unwrap();
    drop(thread.join().unwrap());
    // A shrunk buffer holds more than it says; that is the guest's doing, not the gateway's.
    let _ = guest.take_violations();
}
