//! Relay: connects from outside, on behalf of a program in a guest.
//!
//! in: a connection on which a guest sends a port and a line feed; out: a connection to that port of this
//! host's loopback. The answer is the name of that connection, or an errno's, and a line feed; then the
//! bytes go between. Owner: the connection's threads. Kept: a guest's reset is a reset outside; one from
//! outside is told to the guest in words.
//! Bound: `limits`.

use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, Shutdown, TcpStream};
use std::time::Duration;

use socket2::SockRef;

use crate::limits;
use crate::server::Server;

/// Starts one.
///
/// # Errors
/// The system's, when it cannot listen.
pub fn relay() -> io::Result<Server> {
    Server::start(serve)
}

fn serve(mut guest: TcpStream) -> io::Result<String> {
    let mut line = Vec::new();
    let mut byte = [0];
    while line.len() < limits::REQUEST_BYTES_MAX && guest.read(&mut byte)? == 1 && byte[0] != b'\n'
    {
        line.push(byte[0]);
    }
    let bad = |error| io::Error::new(io::ErrorKind::InvalidData, error);
    let port: u16 = String::from_utf8_lossy(&line).trim().parse().map_err(bad)?;
    let far = match TcpStream::connect((Ipv4Addr::LOCALHOST, port)) {
        Ok(far) => far,
        Err(error) => {
            let refused = error.kind() == io::ErrorKind::ConnectionRefused;
            let name = if refused { "ECONNREFUSED" } else { "EIO" };
            guest.write_all(format!("{name}\n").as_bytes())?;
            return Ok(name.to_owned());
        }
    };
    // A guest's program may take long to answer; its end is what ends this.
    for stream in [&guest, &far] {
        stream.set_read_timeout(None)?;
        stream.set_nodelay(true)?;
    }
    guest.write_all(format!("{}\n", far.local_addr()?).as_bytes())?;
    let (guest_too, far_too) = (guest.try_clone()?, far.try_clone()?);
    let back = std::thread::spawn(move || {
        let moved = pump(&far_too, &guest_too);
        if moved.is_err() {
            // A guest's kernel shows a reset as an end, so it is said in words.
            let _ = (&guest_too).write_all(RESET);
            let _ = guest_too.shutdown(Shutdown::Both);
        }
        moved
    });
    let there = pump(&guest, &far);
    if there.is_err() {
        let _ = SockRef::from(&far).set_linger(Some(Duration::ZERO));
        let _ = far.shutdown(Shutdown::Read);
    }
    let back = back.join().unwrap_or(Ok(()));
    there.and(back).map(|()| port.to_string())
}

/// What a guest gets in place of a reset.
const RESET: &[u8] = b"\xffRESET";

fn pump(mut from: &TcpStream, mut to: &TcpStream) -> io::Result<()> {
    let mut piece = vec![0; limits::PIECE_BYTES];
    loop {
        match from.read(&mut piece)? {
            0 => return to.shutdown(Shutdown::Write),
            count => to.write_all(&piece[..count])?,
        }
    }
}
