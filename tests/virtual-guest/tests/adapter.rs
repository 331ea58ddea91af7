//! A connection as a descriptor: for libraries that want one.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod backend;

use std::io::{Read, Write};
use std::net::Shutdown;
use std::os::unix::net::UnixStream;

use backend::{Backend, port};
use outsock_virtual_guest::{Options, VirtualGuest, pattern};
use outsock_vmrpc::Errno;

#[test]
fn bytes_and_ends_pass_both_ways() {
    let backend = Backend::start();
    let guest = VirtualGuest::connect(backend.path(), Options::default()).unwrap();
    let mut stream = UnixStream::from(guest.open(port::ECHO).unwrap().into_fd().unwrap());
    let mut writer = stream.try_clone().unwrap();
    let sender = std::thread::spawn(move || {
        for chunk in 0..50u64 {
            writer.write_all(pattern::at(chunk * 60_000, 60_000)).unwrap();
        }
        writer.shutdown(Shutdown::Write).unwrap();
    });
    let mut all = Vec::new();
    stream.read_to_end(&mut all).unwrap();
    sender.join().unwrap();
    assert_eq!((all.len(), pattern::mismatch(0, &all)), (3_000_000, None));
    guest.assert_clean();
}

#[test]
fn the_guest_ends_while_a_descriptor_is_open() {
    let backend = Backend::start();
    let guest = VirtualGuest::connect(backend.path(), Options::default()).unwrap();
    let mut stream = UnixStream::from(guest.open(port::ECHO).unwrap().into_fd().unwrap());
    drop(guest);
    assert_eq!(stream.read(&mut [0; 10]).unwrap(), 0);
}

#[test]
fn a_connection_with_clones_cannot_become_a_descriptor() {
    let backend = Backend::start();
    let guest = VirtualGuest::connect(backend.path(), Options::default()).unwrap();
    let connection = guest.open(port::ECHO).unwrap();
    let clone = connection.try_clone().unwrap();
    assert!(connection.into_fd().is_err());
    drop(clone);
    // No VM RPC port there: the errno of a gateway that refuses.
    assert_eq!(guest.dial("192.0.2.1:80".parse().unwrap()).unwrap_err(), Errno::ECONNRESET);
}
