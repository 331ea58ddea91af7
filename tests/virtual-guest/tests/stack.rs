//! The guest's stack against a backend that keeps the rules: every layout, ring and half-close.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod backend;

use std::io::{ErrorKind, Read, Write};
use std::net::Shutdown;
use std::time::{Duration, Instant};

use backend::{Backend, port};
use outsock_virtual_guest::{
    ConnectError, Content, Event, Layout, OpenOptions, Options, StreamError, VirtualGuest, pattern,
};

fn guest(backend: &Backend, options: Options) -> VirtualGuest {
    VirtualGuest::connect(backend.path(), options).unwrap()
}

/// Sends the pattern to the echo port and reads it back, with a thread per direction.
fn echo(guest: &VirtualGuest, bytes: usize, write: usize) {
    let connection = guest.open(port::ECHO).unwrap();
    let mut writer = connection.try_clone().unwrap();
    let sender = std::thread::spawn(move || {
        let mut position = 0;
        while position < bytes {
            let len = write.min(bytes - position);
            writer.write_all(pattern::at(position as u64, len)).unwrap();
            position += len;
        }
        writer.shutdown(Shutdown::Write).unwrap();
    });
    let mut all = Vec::new();
    (&connection).read_to_end(&mut all).unwrap();
    sender.join().unwrap();
    assert_eq!(all.len(), bytes);
    assert_eq!(pattern::mismatch(0, &all), None);
}

#[test]
fn every_layout_carries_every_size_exactly() {
    let backend = Backend::start();
    for layout in Layout::kernels().into_iter().chain(Layout::odd()) {
        for indirect in [true, false] {
            let options = Options { indirect, ..Options::for_layout(layout.clone()) };
            let guest = guest(&backend, options);
            for write in [1, 100, 4096, 32_768, 32_769, 65_536] {
                let bytes = if write == 1 { 300 } else { 500_000 };
                echo(&guest, bytes, write);
            }
            guest.assert_clean();
        }
    }
}

#[test]
fn every_ring_size_and_feature_set_works() {
    for features in [0, backend::EVENT_IDX, backend::INDIRECT] {
        let backend = Backend::with(features, 3);
        for ring_size in [32, 128, 1024] {
            let options = Options {
                ring_size,
                regions: 5,
                queues: 3,
                ..Options::for_layout(Layout::linux_7_2())
            };
            let guest = guest(&backend, options);
            echo(&guest, 1_000_000, 50_000);
            guest.assert_clean();
        }
    }
}

#[test]
fn streams_in_the_driver_thread_are_exact() {
    let backend = Backend::start();
    let guest = guest(&backend, Options::for_layout(Layout::linux_7_2()));
    let source = guest.open(port::SOURCE).unwrap();
    let received = source.receive_stream(20_000_000, Content::Pattern).unwrap();
    assert_eq!(received.bytes, 20_000_000);
    source.close();
    let sink = guest.open(port::DISCARD).unwrap();
    let sent = sink.send_stream(20_000_000, 65_536, Content::Pattern).unwrap();
    assert_eq!((sent.bytes, sent.packets >= 305), (20_000_000, true));
    let echo = guest.open(port::ECHO).unwrap();
    assert_eq!(echo.round_trips(100, 1, Content::Copied).unwrap().round_trips.len(), 100);
    let both = echo.start_send(3_000_000, 4096, Content::Pattern);
    assert_eq!(echo.receive_stream(3_000_000, Content::Pattern).unwrap().bytes, 3_000_000);
    assert_eq!(both.wait().unwrap().bytes, 3_000_000);
    guest.assert_clean();
}

#[test]
fn connect_fails_as_in_linux() {
    let backend = Backend::start();
    let connect_timeout = Duration::from_millis(200);
    let guest = guest(&backend, Options { connect_timeout, ..Options::default() });
    assert_eq!(guest.open(6).unwrap_err(), ConnectError::Reset);
    let start = Instant::now();
    assert_eq!(guest.open(port::SILENT).unwrap_err(), ConnectError::TimedOut);
    assert!(start.elapsed() >= connect_timeout);
    assert_eq!(guest.alive(), 0);
    guest.assert_clean();
}

#[test]
fn end_of_stream_reset_and_broken_pipe() {
    let backend = Backend::start();
    let guest = guest(&backend, Options::default());
    let mut all = Vec::new();
    guest.open(port::MEGABYTE).unwrap().read_to_end(&mut all).unwrap();
    assert_eq!((all.len(), pattern::mismatch(0, &all)), (1 << 20, None));
    // RST on an established connection: queued bytes, then a clean end; writes fail.
    let mut reset = guest.open(port::RESETS).unwrap();
    all.clear();
    reset.read_to_end(&mut all).unwrap();
    assert_eq!(all, b"abc");
    assert_eq!(reset.write(b"x").unwrap_err().kind(), ErrorKind::BrokenPipe);
    let mut stopped = guest.open(port::SOURCE).unwrap();
    stopped.shutdown(Shutdown::Both).unwrap();
    assert_eq!(stopped.write(b"x").unwrap_err().kind(), ErrorKind::BrokenPipe);
    guest.assert_clean();
}

#[test]
fn a_closed_connection_waits_for_rst_only_so_long() {
    let backend = Backend::start();
    let close_timeout = Duration::from_millis(100);
    let guest = guest(&backend, Options { close_timeout, ..Options::default() });
    let prompt = guest.open(port::ECHO).unwrap();
    let slow = guest.open(port::LINGERS).unwrap();
    let start = Instant::now();
    prompt.close();
    slow.close();
    while guest.alive() > 0 {
        assert!(start.elapsed() < Duration::from_secs(5));
        std::thread::yield_now();
    }
    assert!(start.elapsed() >= close_timeout);
    guest.assert_clean();
}

#[test]
fn credit_stops_the_writer_and_patience_ends() {
    let backend = Backend::start();
    let patience = Duration::from_millis(100);
    let guest = guest(&backend, Options { patience, ..Options::default() });
    let mut connection = guest.open(port::STALLS).unwrap();
    let bytes = vec![0; 300_000];
    assert_eq!(connection.write(&bytes).unwrap(), 256 * 1024);
    assert_eq!(connection.write(&bytes).unwrap_err().kind(), ErrorKind::TimedOut);
    assert_eq!(connection.try_write(&bytes).unwrap_err().kind(), ErrorKind::WouldBlock);
    assert_eq!(connection.send_stream(1, 1, Content::InPlace).unwrap_err(), StreamError::TimedOut);
    guest.assert_clean();
}

#[test]
fn a_tuple_can_be_reused_at_once() {
    let backend = Backend::start();
    let guest = guest(&backend, Options::default());
    for _ in 0..200 {
        let options = OpenOptions { local_port: Some(5000), ..OpenOptions::default() };
        let connection = guest.start_open_with(port::ECHO, options).unwrap();
        connection.wait_connected().unwrap();
        connection.reset();
    }
    guest.assert_clean();
}

#[test]
fn ten_thousand_connections_on_one_thread() {
    const COUNT: u64 = 10_000;
    let backend = Backend::start();
    let connect_timeout = Duration::from_secs(20);
    let guest = guest(&backend, Options { connect_timeout, ..Options::default() });
    let connections: Vec<_> = (0..COUNT)
        .map(|token| {
            let options = OpenOptions { watch: Some(token), ..OpenOptions::default() };
            guest.start_open_with(port::ECHO, options).unwrap()
        })
        .collect();
    let mut events: Vec<Event> = Vec::new();
    let mut pinged = vec![false; connections.len()];
    let (mut written, mut read) = (0, 0);
    let start = Instant::now();
    while read < COUNT {
        assert!(start.elapsed() < Duration::from_secs(60), "{written} written, {read} read");
        events.clear();
        guest.poll_events(&mut events, 512, Duration::from_secs(10));
        for event in &events {
            let connection = &connections[connection_index(event)];
            // The TX ring may be full of REQUESTs; then `writable` comes once more.
            if event.ready.writable && !pinged[connection_index(event)] {
                pinged[connection_index(event)] = connection.try_write(b"ping").is_ok();
                written += u64::from(pinged[connection_index(event)]);
            }
            let mut answer = [0; 8];
            if event.ready.readable && connection.try_read(&mut answer).is_ok() {
                assert_eq!(&answer[..4], b"ping");
                read += 1;
            }
        }
    }
    assert_eq!(guest.alive(), 10_000);
    drop(connections);
    while guest.alive() > 0 {
        assert!(start.elapsed() < Duration::from_secs(60));
        std::thread::yield_now();
    }
    guest.assert_clean();
}

fn connection_index(event: &Event) -> usize {
    usize::try_from(event.token).unwrap()
}

#[test]
fn many_at_once_and_many_threads() {
    let backend = Backend::start();
    let guest = guest(&backend, Options::for_layout(Layout::linux_6_1()));
    assert!(guest.open_many(port::ECHO, 500).iter().all(Result::is_ok));
    std::thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| echo(&guest, 200_000, 10_000));
        }
    });
    guest.assert_clean();
}
