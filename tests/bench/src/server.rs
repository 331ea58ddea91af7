//! The far end: one process that takes, gives, echoes and stalls, over TCP and a Unix socket.
//!
//! in: connections, each with its [`Purpose`]; out: bytes. One thread serves all that is short; a
//! stream gets its own. Kept: ends with its standard input, so with the process that started it.
//! Bound: the limit of open descriptors.

use std::collections::HashMap;
use std::io::{self, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use rustix::event::epoll::{self, CreateFlags, EventData, EventFlags};

use crate::protocol::{self, Purpose, Volume};
use crate::{limits, machine, secure};

/// Serves until standard input ends. The first line of standard output is the TCP address, with a certificate and its key those of [`secure`], too.
pub(crate) fn serve(unix: &Path, doors: &[PathBuf]) -> Result<()> {
    machine::raise_descriptor_limit()?;
    let tcp = TcpListener::bind("127.0.0.1:0").context("cannot listen on loopback")?;
    let unix = UnixListener::bind(unix).context("cannot listen on the Unix socket")?;
    let mut addresses = tcp.local_addr()?.to_string();
    if let [certificate, key] = doors {
        for address in secure::open(certificate, key)? {
            addresses += &format!(" {address}");
        }
    }
    println!("{addresses}");
    std::thread::spawn(|| {
        // Whatever comes, the end of it is what counts.
        let _ = io::stdin().read_to_end(&mut Vec::new());
        std::process::exit(0);
    });
    Server::new(tcp, unix)?.run()
}

#[derive(Debug)]
struct Server {
    epoll: OwnedFd,
    tcp: TcpListener,
    unix: UnixListener,
    short: HashMap<u64, Short>,
}

/// A connection of the main thread.
#[derive(Debug)]
struct Short {
    stream: Stream,
    purpose: Option<Purpose>,
}

/// What to do with a connection after it was looked at.
enum Next {
    Keep,
    Close,
    Stall,
    HandOver(Purpose),
}

impl Server {
    fn new(tcp: TcpListener, unix: UnixListener) -> io::Result<Self> {
        tcp.set_nonblocking(true)?;
        unix.set_nonblocking(true)?;
        let epoll = epoll::create(CreateFlags::CLOEXEC)?;
        for listener in [tcp.as_fd(), unix.as_fd()] {
            epoll::add(&epoll, listener, name(listener), EventFlags::IN)?;
        }
        Ok(Self { epoll, tcp, unix, short: HashMap::new() })
    }

    fn run(mut self) -> Result<()> {
        let mut events = Vec::with_capacity(limits::EVENTS_MAX);
        loop {
            events.clear();
            match epoll::wait(&self.epoll, rustix::buffer::spare_capacity(&mut events), None) {
                Ok(_) | Err(rustix::io::Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
            for event in &events {
                let which = event.data.u64();
                if which == name(self.tcp.as_fd()).u64() {
                    while let Ok((stream, _)) = self.tcp.accept() {
                        self.welcome(Stream::Tcp(stream));
                    }
                } else if which == name(self.unix.as_fd()).u64() {
                    while let Ok((stream, _)) = self.unix.accept() {
                        self.welcome(Stream::Unix(stream));
                    }
                } else if let Some(short) = self.short.remove(&which) {
                    self.serve(short);
                }
            }
        }
    }

    fn welcome(&mut self, stream: Stream) {
        let registered = stream.set_nonblocking(true).and_then(|()| {
            let fd = stream.as_fd();
            Ok(epoll::add(&self.epoll, fd, name(fd), EventFlags::IN)?)
        });
        match registered {
            // The first byte is often there already.
            Ok(()) => self.serve(Short { stream, purpose: None }),
            Err(error) => eprintln!("outsock-bench: a connection is lost: {error}"),
        }
    }

    fn serve(&mut self, mut short: Short) {
        match short.step() {
            Next::Close => {}
            Next::Keep => self.keep(short),
            Next::Stall => {
                let fd = short.stream.as_fd();
                // Not read, but let go when the other side does.
                if epoll::modify(&self.epoll, fd, name(fd), EventFlags::RDHUP).is_ok() {
                    self.keep(short);
                }
            }
            Next::HandOver(purpose) => {
                let stream = short.stream;
                let taken = epoll::delete(&self.epoll, stream.as_fd()).map_err(io::Error::from);
                let started = taken.and_then(|()| stream.set_nonblocking(false)).and_then(|()| {
                    let body = move || stream_until_its_end(stream, purpose);
                    std::thread::Builder::new().stack_size(64 * 1024).spawn(body)
                });
                if let Err(error) = started {
                    eprintln!("outsock-bench: a stream is lost: {error}");
                }
            }
        }
    }

    fn keep(&mut self, short: Short) {
        self.short.insert(name(short.stream.as_fd()).u64(), short);
    }
}

impl Short {
    fn step(&mut self) -> Next {
        if self.purpose == Some(Purpose::Stall) {
            // Only its end makes an event.
            return Next::Close;
        }
        let mut first = [0];
        if self.purpose.is_none() {
            match self.stream.read(&mut first) {
                Ok(1) => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Next::Keep,
                Ok(_) | Err(_) => return Next::Close,
            }
            self.purpose = Purpose::of(first[0]);
            match self.purpose {
                None => return Next::Close,
                Some(Purpose::Stall) => return Next::Stall,
                Some(purpose @ (Purpose::Sink | Purpose::Source)) => {
                    return Next::HandOver(purpose);
                }
                Some(Purpose::Answer) if self.stream.write_all(&first).is_err() => {
                    return Next::Close;
                }
                Some(Purpose::Answer | Purpose::Echo) => {}
            }
        }
        let mut bytes = [0; 4096];
        match self.stream.read(&mut bytes) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Next::Keep,
            // Echoes are small: a full send buffer is an error as good as any.
            Ok(len @ 1..) if self.stream.write_all(&bytes[..len]).is_ok() => Next::Keep,
            Ok(_) | Err(_) => Next::Close,
        }
    }
}

/// The near end sees an error here as the end of its stream.
fn stream_until_its_end(mut stream: Stream, purpose: Purpose) {
    let Ok(volume) = Volume::receive(&mut stream) else { return };
    let _ = match purpose {
        Purpose::Source => protocol::pour(volume, &mut stream),
        Purpose::Sink | Purpose::Echo | Purpose::Answer | Purpose::Stall => {
            protocol::drain(volume.bytes, &mut stream).and_then(|()| stream.write_all(&[1]))
        }
    };
    // The near end closes first, so that ports in TIME_WAIT are always its own.
    let _ = stream.read(&mut [0]);
}

fn name(fd: BorrowedFd<'_>) -> EventData {
    EventData::new_u64(u64::from(fd.as_raw_fd().unsigned_abs()))
}

/// A stream of either kind.
#[derive(Debug)]
pub(crate) enum Stream {
    Tcp(TcpStream),
    Unix(UnixStream),
}

impl Stream {
    fn set_nonblocking(&self, on: bool) -> io::Result<()> {
        match self {
            Self::Tcp(stream) => stream.set_nonblocking(on),
            Self::Unix(stream) => stream.set_nonblocking(on),
        }
    }

    fn as_fd(&self) -> BorrowedFd<'_> {
        match self {
            Self::Tcp(stream) => stream.as_fd(),
            Self::Unix(stream) => stream.as_fd(),
        }
    }
}

impl Read for Stream {
    fn read(&mut self, to: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Tcp(stream) => stream.read(to),
            Self::Unix(stream) => stream.read(to),
        }
    }
}

impl Write for Stream {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Self::Tcp(stream) => stream.write(bytes),
            Self::Unix(stream) => stream.write(bytes),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
