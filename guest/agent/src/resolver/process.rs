//! The resolver's process: enters the private network, serves DNS there, hands out sockets.
//!
//! in: a byte when sockets are wanted or the gateway is lost; out: sockets, over a Unix stream. Kept: it holds none of
//! the supervisor's descriptors and none of the command's output; it ends when the stream ends.
//! Owner: itself. Bound: two orders per kind under way.

use std::io::{Read, Write};
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::net::UnixStream;
use std::sync::Arc;

use super::network::Network;
use super::stub::Stub;
use super::upstream::{Event, Upstream};
use super::{FAILED, Kind, LOST, READY};
use crate::dial::Dialer;
use crate::mailbox::Mailbox;
use crate::{command, limits, run, sys};

/// Everything, in the child. Returns the exit code.
pub(super) fn run(stream: UnixStream, dialer: &Arc<dyn Dialer>) -> i32 {
    command::release_standard_streams();
    sys::process::leave_session();
    let Ok(stream) = alone(stream) else { return run::EX_UNAVAILABLE };
    if let Err(error) = serve(&stream, dialer) {
        // Fails only when nobody is there to read it.
        let _ = (&stream).write_all(&[FAILED]).and_then(|()| (&stream).write_all(error.as_bytes()));
        return run::EX_UNAVAILABLE;
    }
    0
}

/// Closes every other descriptor: the streams of the supervisor must end with the supervisor.
fn alone(stream: UnixStream) -> std::io::Result<UnixStream> {
    const NUMBER: i32 = 3;
    let stream = if stream.as_raw_fd() == NUMBER {
        stream
    } else {
        sys::file::duplicate_onto(stream.as_fd(), NUMBER)?.into()
    };
    sys::file::close_from(NUMBER + 1)?;
    Ok(stream)
}

fn serve(stream: &UnixStream, dialer: &Arc<dyn Dialer>) -> Result<(), String> {
    let network = Network::enter()?;
    let io = |error: std::io::Error| error.to_string();
    let mailbox = Mailbox::new().map_err(io)?;
    let upstream = Upstream::open(Arc::clone(dialer), mailbox.clone())?;
    let news = mailbox.clone();
    let stub = Stub::new(network, upstream, mailbox).map_err(io)?;
    for kind in Kind::ALL.into_iter().chain(Kind::ALL) {
        // A kernel without IPv6 has no such sockets, and no programs that ask for them.
        let _ = hand_some(stream, kind);
    }
    (&mut &*stream).write_all(&[READY]).map_err(io)?;
    let orders = stream.try_clone().map_err(io)?;
    let thread = std::thread::Builder::new().name("sockets".to_owned());
    thread.spawn(move || fill_orders(orders, &news)).map_err(io)?;
    stub.serve().map_err(io)
}

fn hand_some(stream: &UnixStream, kind: Kind) -> std::io::Result<()> {
    (0..limits::SOCKETS_PER_ORDER).try_for_each(|_| {
        sys::socket::send_descriptor(stream.as_fd(), kind.number(), kind.socket()?.as_fd())
    })
}

/// Some sockets per byte. The end of the stream is the end of the supervisor, and of this process.
fn fill_orders(mut stream: UnixStream, news: &Mailbox<Event>) {
    let mut order = [0u8];
    while matches!(stream.read(&mut order), Ok(1)) {
        if order[0] == LOST {
            news.post(Event::Lost);
        }
        let Some(kind) = Kind::ALL.into_iter().find(|kind| kind.number() == order[0]) else {
            continue;
        };
        if hand_some(&stream, kind).is_err() {
            break;
        }
    }
    std::process::exit(0);
}
