//! Both sides of a bridge: bytes, ends, bells, bounds.

use std::io::ErrorKind;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use vmm_sys_util::eventfd::EFD_NONBLOCK;

use super::*;

fn new() -> (Arc<Bells>, EventFd, BridgeEnd, BridgeStream) {
    let event = EventFd::new(EFD_NONBLOCK).unwrap();
    let bells = Bells::new(event.try_clone().unwrap());
    let (end, stream) = bridge(&bells);
    end.attach(7);
    (bells, event, end, stream)
}

fn piece(bytes: &[u8]) -> iovec {
    iovec { iov_base: bytes.as_ptr().cast_mut().cast(), iov_len: bytes.len() }
}

fn read(end: &BridgeEnd, len: usize) -> io::Result<Vec<u8>> {
    let mut bytes = vec![0u8; len];
    let (head, tail) = bytes.split_at_mut(len / 2);
    let place = |part: &mut [u8]| iovec { iov_base: part.as_mut_ptr().cast(), iov_len: part.len() };
    let n = end.read(&[place(head), place(tail)])?;
    bytes.truncate(n);
    Ok(bytes)
}

fn run<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(future)
}

#[test]
fn bytes_and_both_fins_go_through() {
    let (_bells, _event, end, mut stream) = new();
    assert_eq!(end.write(&[piece(b"to the "), piece(b"task")]).unwrap(), 11);
    end.finish_write();
    run(async {
        let mut got = String::new();
        stream.read_to_string(&mut got).await.unwrap();
        assert_eq!(got, "to the task");
        stream.write_all(b"to the guest").await.unwrap();
        stream.shutdown().await.unwrap();
    });
    assert_eq!(read(&end, 5).unwrap(), b"to th");
    assert_eq!(read(&end, 100).unwrap(), b"e guest");
    assert_eq!(read(&end, 100).unwrap(), b"");
}

#[test]
fn the_bell_rings_once_until_it_is_heard() {
    let (bells, event, end, mut stream) = new();
    run(async {
        stream.write_all(b"a").await.unwrap();
        stream.write_all(b"b").await.unwrap();
    });
    assert_eq!(event.read().unwrap(), 1);
    assert_eq!(bells.take(), [7]);
    run(stream.write_all(b"c")).unwrap();
    assert!(event.read().is_err(), "not heard yet");
    end.heard();
    run(stream.write_all(b"d")).unwrap();
    assert!(event.read().is_err(), "who has bytes comes again by himself");
    assert!(end.has_news());
    assert_eq!(read(&end, 10).unwrap(), b"abcd");
    run(stream.write_all(b"e")).unwrap();
    assert_eq!(event.read().unwrap(), 1);
    assert_eq!(read(&end, 10).unwrap(), b"e");
}

#[test]
fn both_directions_are_bounded_and_go_on() {
    let (_bells, event, end, mut stream) = new();
    let chunk = vec![1u8; 100_000];
    let mut sent = 0;
    let error = loop {
        match end.write(&[piece(&chunk)]) {
            Ok(n) => sent += n,
            Err(error) => break error,
        }
    };
    assert_eq!(error.kind(), ErrorKind::WouldBlock);
    assert_eq!(sent, limits::BRIDGE_BYTES);
    assert_eq!(run(stream.read(&mut [0; 1000])).unwrap(), 1000);
    assert!(event.read().is_err(), "not worth the while");
    let rest = limits::BRIDGE_BYTES / 2 - 1000;
    run(stream.read_exact(&mut vec![0; rest])).unwrap();
    assert_eq!(event.read().unwrap(), 1, "room again");
    assert_eq!(end.write(&[piece(&chunk)]).unwrap(), chunk.len());
    run(async {
        let mut queued = 0;
        while queued < limits::BRIDGE_BYTES {
            queued += stream.write(&chunk).await.unwrap();
        }
        let more = stream.write(b"x");
        tokio::select! {
            biased;
            _ = more => panic!("beyond the bound"),
            () = async {} => {}
        }
    });
}

#[test]
fn dropping_the_stream_early_is_a_reset() {
    let (_bells, _event, end, mut stream) = new();
    run(stream.write_all(b"unfinished")).unwrap();
    drop(stream);
    assert_eq!(read(&end, 10).unwrap_err().raw_os_error(), Some(Errno::ECONNRESET.raw()));
    assert_eq!(end.write(&[piece(b"x")]).unwrap_err().kind(), ErrorKind::BrokenPipe);
}

#[test]
fn dropping_the_stream_after_its_fin_delivers_all() {
    let (_bells, _event, end, mut stream) = new();
    run(async {
        stream.write_all(b"whole").await.unwrap();
        stream.shutdown().await.unwrap();
    });
    drop(stream);
    assert_eq!(read(&end, 10).unwrap(), b"whole");
    assert_eq!(read(&end, 10).unwrap(), b"");
}

#[test]
fn a_reset_names_its_errno_to_the_other_side() {
    let (_bells, _event, end, stream) = new();
    stream.reset(Errno::ETIMEDOUT);
    assert_eq!(read(&end, 10).unwrap_err().raw_os_error(), Some(Errno::ETIMEDOUT.raw()));
    let (_bells, _event, end, mut stream) = new();
    end.write(&[piece(b"lost")]).unwrap();
    end.reset(Errno::ECONNRESET);
    let error = run(stream.read(&mut [0; 10])).unwrap_err();
    assert_eq!(error.raw_os_error(), Some(Errno::ECONNRESET.raw()));
    assert!(run(stream.write(b"x")).is_err());
}
