//! Services: what a [`Server`] does with a connection.
//!
//! in: a stream; out: what the test wants to know of it. Owner: the connection's thread. Kept: each
//! treats the two directions as the independent halves that they are. Bound: `limits`.

use std::io::{self, Read, Write};
use std::net::{Shutdown, TcpStream};

use crate::limits;
use crate::pattern::{Hash, period};
use crate::server::Server;

/// Reads to the end; hashes.
fn drain(stream: &mut TcpStream) -> io::Result<(u64, String)> {
    let mut piece = vec![0; limits::PIECE_BYTES];
    let (mut total, mut hash) = (0_u64, Hash::default());
    loop {
        match stream.read(&mut piece)? {
            0 => return Ok((total, hash.hex())),
            count => {
                total += count as u64;
                hash.update(&piece[..count]);
            }
        }
    }
}

/// Sends back what comes; answers a half-close with one.
///
/// # Errors
/// The system's, when it cannot listen.
pub fn echo() -> io::Result<Server> {
    Server::start(echo_stream)
}

/// [`echo`] on IPv6.
///
/// # Errors
/// The system's, when it cannot listen or has no IPv6.
pub fn echo_on_ipv6() -> io::Result<Server> {
    Server::start_on_ipv6(echo_stream)
}

/// What [`echo`] does with a connection.
fn echo_stream(mut stream: TcpStream) -> io::Result<String> {
    let mut piece = vec![0; limits::PIECE_BYTES];
    let mut total = 0_u64;
    loop {
        let count = stream.read(&mut piece)?;
        if count == 0 {
            stream.shutdown(Shutdown::Write)?;
            return Ok(total.to_string());
        }
        total += count as u64;
        stream.write_all(&piece[..count])?;
    }
}

/// Reads to the end, then sends `LENGTH SHA-256` and a line feed back through the half that is still
/// open.
///
/// # Errors
/// The system's, when it cannot listen.
pub fn sink() -> io::Result<Server> {
    Server::start(|mut stream| {
        let (total, hash) = drain(&mut stream)?;
        let answer = format!("{total} {hash}\n");
        stream.write_all(answer.as_bytes())?;
        Ok(answer.trim().to_owned())
    })
}

/// Reads a line with a number and sends so many bytes of the pattern.
///
/// # Errors
/// The system's, when it cannot listen.
pub fn source() -> io::Result<Server> {
    Server::start(|mut stream| {
        let mut line = Vec::new();
        let mut byte = [0];
        while line.len() < limits::REQUEST_BYTES_MAX
            && stream.read(&mut byte)? == 1
            && byte[0] != b'\n'
        {
            line.push(byte[0]);
        }
        let wanted: u64 = String::from_utf8_lossy(&line)
            .trim()
            .parse()
            .map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))?;
        send_pattern(&mut stream, wanted.min(limits::SOURCE_BYTES_MAX))?;
        Ok(wanted.to_string())
    })
}

/// Sends the first `length` bytes of the pattern.
pub(crate) fn send_pattern(stream: &mut TcpStream, length: u64) -> io::Result<()> {
    let period = period();
    let mut left = length;
    while left > 0 {
        let count = usize::try_from(left).unwrap_or(usize::MAX).min(period.len());
        stream.write_all(&period[..count])?;
        left -= count as u64;
    }
    Ok(())
}

/// Sends the pattern for as long as somebody reads.
///
/// # Errors
/// The system's, when it cannot listen.
pub fn endless() -> io::Result<Server> {
    Server::start(|mut stream| {
        send_pattern(&mut stream, u64::MAX)?;
        Ok(String::new())
    })
}

/// Ends its own half at once, then reads to the end; tells the test `LENGTH SHA-256`.
///
/// # Errors
/// The system's, when it cannot listen.
pub fn half() -> io::Result<Server> {
    Server::start(|mut stream| {
        stream.write_all(b"that is all\n")?;
        stream.shutdown(Shutdown::Write)?;
        let (total, hash) = drain(&mut stream)?;
        Ok(format!("{total} {hash}"))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pattern::{bytes, digest};
    use crate::server::ServerEvent;
    use std::time::Duration;

    fn talk(server: &Server, say: &[u8]) -> Vec<u8> {
        let mut stream = TcpStream::connect(server.address()).unwrap();
        stream.write_all(say).unwrap();
        stream.shutdown(Shutdown::Write).unwrap();
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).unwrap();
        answer
    }

    #[test]
    fn services_do_what_they_say() {
        assert_eq!(talk(&echo().unwrap(), b"abc"), b"abc");
        assert_eq!(talk(&source().unwrap(), b"70000\n"), bytes(70_000));
        let wanted = format!("1000 {}\n", digest(1000));
        assert_eq!(talk(&sink().unwrap(), &bytes(1000)), wanted.as_bytes());
        let half = half().unwrap();
        assert_eq!(talk(&half, &bytes(10)), b"that is all\n");
        let told = half.event(Duration::from_secs(5)).unwrap();
        assert_eq!(told, ServerEvent::Served(format!("10 {}", digest(10))));
        assert_eq!(half.accepted(), 1);
    }
}
