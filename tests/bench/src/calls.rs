//! Calls: how long single calls of a program take, around the sockets that the agent looks after.
//!
//! in: which call, and where to connect; out: the median and the 99th percentile of one call. The
//! clock runs around the call alone. Owner: the client process. Bound: `limits::CALLS`.

use std::fs::File;
use std::io::{self, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use crate::case::{Samples, round_trip_samples};
use crate::limits;
use crate::protocol::Purpose;

/// One call.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub(crate) enum Call {
    /// `connect()`, blocking, to the server.
    Connect,
    /// The same in a process with [`limits::CROWD`] more descriptors.
    ConnectCrowded,
    /// `accept()` of a client that is there, on a listener that only loopback reaches.
    Accept,
    /// `getsockname()` of a connection to the server.
    SocketName,
    /// `write()` of a byte to the server.
    Write,
    /// `getsockname()` of an AF_UNIX socket, which is none of the agent's business.
    UnixSocketName,
}

impl Call {
    /// All of them.
    pub(crate) const ALL: [Self; 6] = [
        Self::Connect,
        Self::ConnectCrowded,
        Self::Accept,
        Self::SocketName,
        Self::Write,
        Self::UnixSocketName,
    ];

    /// As a table says it.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Connect => "connect()",
            Self::ConnectCrowded => "connect() beside 1,000 more descriptors",
            Self::Accept => "accept() of a local client",
            Self::SocketName => "getsockname()",
            Self::Write => "write() of a byte",
            Self::UnixSocketName => "getsockname() of an AF_UNIX socket",
        }
    }
}

/// Makes the call `count` times; `server` is `tcp:ADDRESS`.
pub(crate) fn measure(call: Call, count: u64, server: &str) -> io::Result<Samples> {
    let server = server.strip_prefix("tcp:").ok_or(io::ErrorKind::InvalidInput)?;
    let times = match call {
        Call::Connect => connects(count, server)?,
        Call::ConnectCrowded => {
            let crowd: io::Result<Vec<File>> =
                (0..limits::CROWD).map(|_| File::open("/dev/null")).collect();
            let crowd = crowd?;
            let times = connects(count, server)?;
            drop(crowd);
            times
        }
        Call::Accept => accepts(count)?,
        Call::SocketName => {
            let connection = TcpStream::connect(server)?;
            each(count, || connection.local_addr().map(drop))?
        }
        Call::Write => {
            let mut connection = TcpStream::connect(server)?;
            connection.write_all(&[Purpose::Echo.byte()])?;
            let mut times = Vec::new();
            for _ in 0..count {
                let began = Instant::now();
                connection.write_all(&[1])?;
                times.push(began.elapsed());
                // Outside the clock: neither side's buffer may fill.
                connection.read_exact(&mut [0])?;
            }
            times
        }
        Call::UnixSocketName => {
            let (one, _other) = UnixStream::pair()?;
            each(count, || one.local_addr().map(drop))?
        }
    };
    Ok(round_trip_samples(times))
}

fn each(count: u64, mut call: impl FnMut() -> io::Result<()>) -> io::Result<Vec<Duration>> {
    let one = |_| {
        let began = Instant::now();
        call()?;
        Ok(began.elapsed())
    };
    (0..count).map(one).collect()
}

fn connects(count: u64, server: &str) -> io::Result<Vec<Duration>> {
    let one = |_| {
        let began = Instant::now();
        let mut connection = TcpStream::connect(server)?;
        let took = began.elapsed();
        connection.write_all(&[Purpose::Answer.byte()])?;
        connection.read_exact(&mut [0])?;
        Ok(took)
    };
    (0..count).map(one).collect()
}

fn accepts(count: u64) -> io::Result<Vec<Duration>> {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let address = listener.local_addr()?;
    let one = |_| {
        // The kernel has it connected before anybody accepts.
        let _client = TcpStream::connect(address)?;
        let began = Instant::now();
        listener.accept()?;
        Ok(began.elapsed())
    };
    (0..count).map(one).collect()
}
