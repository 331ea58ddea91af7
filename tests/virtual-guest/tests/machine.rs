//! What a VMM does to a running guest: memory, pause, reboot, death.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod backend;

use std::io::{Read, Write};
use std::time::Duration;

use backend::{Backend, port};
use outsock_virtual_guest::{ConnectError, Content, Options, StreamError, VirtualGuest};

fn guest(backend: &Backend) -> VirtualGuest {
    let patience = Duration::from_secs(10);
    VirtualGuest::connect(backend.path(), Options { patience, ..Options::default() }).unwrap()
}

#[test]
fn memory_changes_while_a_stream_runs() {
    let backend = Backend::start();
    let guest = guest(&backend);
    let source = guest.open(port::SOURCE).unwrap();
    let running = source.start_receive(Some(100_000_000), Content::Pattern);
    for _ in 0..20 {
        guest.plug_memory(1 << 20).unwrap();
        guest.unplug_memory().unwrap();
    }
    assert_eq!(running.wait().unwrap().bytes, 100_000_000);
    guest.assert_clean();
}

#[test]
fn a_paused_guest_goes_on_where_it_was() {
    let backend = Backend::start();
    let guest = guest(&backend);
    let source = guest.open(port::SOURCE).unwrap();
    let running = source.start_receive(Some(50_000_000), Content::Pattern);
    for _ in 0..5 {
        let paused = guest.pause().unwrap();
        guest.resume(&paused).unwrap();
    }
    assert_eq!(running.wait().unwrap().bytes, 50_000_000);
    guest.assert_clean();
}

#[test]
fn a_reboot_ends_everything_and_starts_anew() {
    let backend = Backend::start();
    let guest = guest(&backend);
    let old = guest.open(port::ECHO).unwrap();
    guest.reboot().unwrap();
    assert!((&old).write(b"x").is_err());
    let mut new = guest.open(port::ECHO).unwrap();
    new.write_all(b"hello").unwrap();
    let mut back = [0; 5];
    new.read_exact(&mut back).unwrap();
    assert_eq!(&back, b"hello");
    guest.assert_clean();
}

#[test]
fn a_guest_that_hangs_up_fails_at_once_and_the_backend_serves_the_next() {
    let backend = Backend::start();
    let first = guest(&backend);
    let source = first.open(port::SOURCE).unwrap();
    let running = source.start_receive(None, Content::Pattern);
    first.disconnect();
    assert!(matches!(
        running.wait().unwrap_err(),
        StreamError::Failed { .. } | StreamError::NotConnected { .. }
    ));
    assert_eq!(first.open(port::ECHO).unwrap_err(), ConnectError::Gone);
    drop((source, first));
    assert!(guest(&backend).open(port::ECHO).is_ok());
}
