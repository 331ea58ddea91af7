//! HTTP: just enough of a server for unmodified clients.
//!
//! in: `GET /bytes/N` and `PUT` with a length; out: the pattern, or the body's digest. Owner: the
//! connection's thread. Kept: one request per connection, which it says. Bound: `limits`.

use std::io::{self, Read, Write};
use std::net::TcpStream;

use crate::limits;
use crate::pattern::Hash;
use crate::server::Server;
use crate::services::send_pattern;

/// Serves `GET /bytes/N` (the pattern), `GET /` and `PUT /` (answers with the body's SHA-256).
///
/// # Errors
/// The system's, when it cannot listen.
pub fn http() -> io::Result<Server> {
    Server::start(serve)
}

/// [`http`] on IPv6.
///
/// # Errors
/// The system's, when it cannot listen or has no IPv6.
pub fn http_on_ipv6() -> io::Result<Server> {
    Server::start_on_ipv6(serve)
}

fn serve(mut stream: TcpStream) -> io::Result<String> {
    let (head, rest) = head(&mut stream)?;
    let mut words = head.split_whitespace();
    let (method, path) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
    let length: u64 =
        header(&head, "content-length").and_then(|text| text.parse().ok()).unwrap_or(0);
    match (method, path.strip_prefix("/bytes/").and_then(|number| number.parse::<u64>().ok())) {
        ("GET", Some(wanted)) => {
            let wanted = wanted.min(limits::SOURCE_BYTES_MAX);
            answer(&mut stream, "200 OK", wanted)?;
            send_pattern(&mut stream, wanted)?;
        }
        ("GET", None) => {
            answer(&mut stream, "200 OK", 6)?;
            stream.write_all(b"hello\n")?;
        }
        ("PUT", _) => {
            if header(&head, "expect").is_some() {
                stream.write_all(b"HTTP/1.1 100 Continue\r\n\r\n")?;
            }
            let hash = body(&mut stream, &rest, length)?;
            answer(&mut stream, "200 OK", hash.len() as u64 + 1)?;
            writeln!(stream, "{hash}")?;
        }
        _ => answer(&mut stream, "404 Not Found", 0)?,
    }
    Ok(format!("{method} {path}"))
}

/// The request up to the empty line, and what came behind it.
fn head(stream: &mut TcpStream) -> io::Result<(String, Vec<u8>)> {
    let mut bytes = Vec::new();
    let mut piece = [0; 4096];
    loop {
        if let Some(end) = bytes.windows(4).position(|window| window == b"\r\n\r\n") {
            let rest = bytes.split_off(end + 4);
            return Ok((String::from_utf8_lossy(&bytes).into_owned(), rest));
        }
        let count = stream.read(&mut piece)?;
        if count == 0 || bytes.len() > limits::REQUEST_BYTES_MAX {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        bytes.extend_from_slice(&piece[..count]);
    }
}

fn header<'a>(head: &'a str, name: &str) -> Option<&'a str> {
    let mut pairs = head.lines().filter_map(|line| line.split_once(':'));
    pairs.find(|(found, _)| found.eq_ignore_ascii_case(name)).map(|(_, value)| value.trim())
}

fn body(stream: &mut TcpStream, rest: &[u8], length: u64) -> io::Result<String> {
    let mut hash = Hash::default();
    hash.update(rest);
    let mut left = length.saturating_sub(rest.len() as u64);
    let mut piece = vec![0; limits::PIECE_BYTES];
    while left > 0 {
        let count = stream.read(&mut piece)?;
        if count == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        hash.update(&piece[..count]);
        left = left.saturating_sub(count as u64);
    }
    Ok(hash.hex())
}

fn answer(stream: &mut TcpStream, status: &str, length: u64) -> io::Result<()> {
    write!(stream, "HTTP/1.1 {status}\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n")
}
