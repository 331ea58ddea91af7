//! Stream: DNS over TCP, messages with two bytes of length before each (RFC 1035, 4.2.2).
//!
//! in: bytes of a program; out: its queries, and answers in any order. Owner: the stub's loop. Kept: a
//! program that does not read its answers is not read from. Bounds: [`limits::DNS_STREAM_QUERIES_MAX`]
//! queries under way, and their answers; [`limits::DNS_STREAM_IDLE`].

use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::time::Instant;

use outsock_vmrpc::resolver;

use crate::limits;
use crate::sys::poll::{FAILED, HUNG_UP, READABLE, WRITABLE};

const LENGTH_BYTES: usize = 2;

/// One connection of a program.
#[derive(Debug)]
pub(super) struct Stream {
    socket: TcpStream,
    inbox: Vec<u8>,
    outbox: Vec<u8>,
    /// Queries without an answer.
    under_way: usize,
    /// The program has ended its side; it may still read.
    ended: bool,
    /// Nothing more can be done.
    broken: bool,
    active: Instant,
}

impl Stream {
    pub(super) fn new(socket: TcpStream, now: Instant) -> io::Result<Self> {
        socket.set_nonblocking(true)?;
        Ok(Self {
            socket,
            inbox: Vec::new(),
            outbox: Vec::new(),
            under_way: 0,
            ended: false,
            broken: false,
            active: now,
        })
    }

    pub(super) fn socket(&self) -> &TcpStream {
        &self.socket
    }

    fn takes_more(&self) -> bool {
        let quiet = self.outbox.len() < limits::DNS_STREAM_OUTBOX_BYTES;
        quiet && !self.ended && self.under_way < limits::DNS_STREAM_QUERIES_MAX
    }

    /// The events to wait for.
    pub(super) fn wanted(&self) -> u32 {
        let read = if self.takes_more() { READABLE } else { 0 };
        let write = if self.outbox.is_empty() { 0 } else { WRITABLE };
        read | write
    }

    /// When it may be closed for idleness. No query is under way for so long.
    pub(super) fn idle_until(&self) -> Instant {
        self.active + limits::DNS_STREAM_IDLE
    }

    /// Whether nothing more will happen.
    pub(super) fn is_over(&self) -> bool {
        self.broken || (self.ended && self.under_way == 0 && self.outbox.is_empty())
    }

    /// Reads and writes what goes without waiting; `events` is what the loop has seen.
    pub(super) fn advance(&mut self, events: u32, now: Instant) {
        self.active = now;
        // These come again and again until the socket is closed.
        self.broken |= events & (FAILED | HUNG_UP) != 0;
        if self.takes_more() {
            let mut chunk = [0u8; 4096];
            match self.socket.read(&mut chunk) {
                Ok(0) => self.ended = true,
                Ok(length) => self.inbox.extend_from_slice(&chunk[..length]),
                Err(error) => self.broken |= !is_harmless(&error),
            }
        }
        self.write();
    }

    fn write(&mut self) {
        if self.outbox.is_empty() {
            return;
        }
        match self.socket.write(&self.outbox) {
            Ok(length) => drop(self.outbox.drain(..length)),
            Err(error) => self.broken |= !is_harmless(&error),
        }
    }

    /// The next whole query, which is then under way.
    pub(super) fn next_query(&mut self) -> Option<Vec<u8>> {
        if self.broken || self.under_way >= limits::DNS_STREAM_QUERIES_MAX {
            return None;
        }
        let length = usize::from(u16::from_be_bytes(*self.inbox.first_chunk()?));
        let query = self.inbox.get(LENGTH_BYTES..LENGTH_BYTES + length)?.to_vec();
        if !resolver::is_acceptable_length(&query) {
            self.broken = true;
            return None;
        }
        self.inbox.drain(..LENGTH_BYTES + length);
        self.under_way += 1;
        Some(query)
    }

    /// Ends a query; `None` ends the stream, too.
    pub(super) fn answer(&mut self, answer: Option<&[u8]>, now: Instant) {
        self.under_way = self.under_way.saturating_sub(1);
        self.active = now;
        match answer.and_then(|answer| Some((answer, u16::try_from(answer.len()).ok()?))) {
            Some((answer, length)) => {
                self.outbox.extend(length.to_be_bytes());
                self.outbox.extend(answer);
                self.write();
            }
            None => self.broken = true,
        }
    }
}

fn is_harmless(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::TcpListener;

    fn pair() -> (TcpStream, Stream) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let program = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let stream = Stream::new(listener.accept().unwrap().0, Instant::now()).unwrap();
        (program, stream)
    }

    fn advance_until(stream: &mut Stream, mut done: impl FnMut(&mut Stream) -> bool) {
        while !done(stream) {
            stream.advance(READABLE, Instant::now());
        }
    }

    fn framed(byte: u8, length: u16) -> Vec<u8> {
        let mut message = length.to_be_bytes().to_vec();
        message.resize(LENGTH_BYTES + usize::from(length), byte);
        message
    }

    #[test]
    fn queries_in_pieces_and_in_bunches_come_out_whole() {
        let (mut program, mut stream) = pair();
        let bytes = [framed(1, 17), framed(2, 20)].concat();
        program.write_all(&bytes[..5]).unwrap();
        advance_until(&mut stream, |stream| stream.inbox.len() == 5);
        assert_eq!(stream.next_query(), None);
        program.write_all(&bytes[5..]).unwrap();
        advance_until(&mut stream, |stream| stream.inbox.len() == bytes.len());
        assert_eq!(stream.next_query(), Some(vec![1; 17]));
        assert_eq!(stream.next_query(), Some(vec![2; 20]));
        assert_eq!(stream.next_query(), None);
        stream.answer(Some(b"two"), Instant::now());
        stream.answer(Some(b"one"), Instant::now());
        drop(program.shutdown(std::net::Shutdown::Write));
        advance_until(&mut stream, |stream| stream.is_over());
        drop(stream);
        let mut answers = Vec::new();
        program.read_to_end(&mut answers).unwrap();
        assert_eq!(answers, b"\x00\x03two\x00\x03one");
    }

    #[test]
    fn a_message_that_is_none_ends_the_stream() {
        let (mut program, mut stream) = pair();
        program.write_all(&framed(0, 5)).unwrap();
        advance_until(&mut stream, |stream| stream.inbox.len() == 7);
        assert_eq!(stream.next_query(), None);
        assert!(stream.is_over());
    }

    #[test]
    fn who_does_not_wait_for_answers_is_not_read() {
        let (mut program, mut stream) = pair();
        let many: Vec<u8> =
            (0..=limits::DNS_STREAM_QUERIES_MAX).flat_map(|_| framed(0, 12)).collect();
        program.write_all(&many).unwrap();
        advance_until(&mut stream, |stream| stream.inbox.len() == many.len());
        while stream.next_query().is_some() {}
        assert_eq!(stream.under_way, limits::DNS_STREAM_QUERIES_MAX);
        assert_eq!(stream.wanted() & READABLE, 0);
        stream.answer(Some(b"x"), Instant::now());
        assert!(stream.next_query().is_some());
    }
}
