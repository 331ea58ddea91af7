//! The near end as a process: natively, or in a real guest.
//!
//! in: where to, and a [`Case`]; out: samples, as one line of JSON. A plain program with blocking
//! sockets, one thread per connection that is open at a time.

use std::io::{self, Read, Write};
use std::net::{TcpListener, TcpStream, UdpSocket};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use rustix::time::{ClockId, clock_gettime};
use socket2::{Domain, SockAddr, Socket, Type};

use crate::calls::{self, Call};
use crate::case::{self, Case, Direction, Metric, Samples};
use crate::limits;
use crate::protocol::{self, Purpose, Volume};
use crate::server::Stream;

/// The CID of every guest's host.
const HOST_CID: u32 = 2;

/// Runs one case and prints its samples.
pub(crate) fn main(to: &str, case: &str) -> Result<()> {
    let case = serde_json::from_str(case).context("the case is no case")?;
    let samples = match case {
        Case::Lookups { count } => lookups(to, count),
        Case::Calls { call, count } => calls(call, count, to),
        _ => measure(case, || connect(to)),
    };
    let samples = samples.with_context(|| format!("{case} to {to}"))?;
    println!("{}", serde_json::to_string(&samples)?);
    Ok(())
}

fn connect(to: &str) -> io::Result<Stream> {
    match to.split_once(':') {
        Some(("unix", path)) => UnixStream::connect(path).map(Stream::Unix),
        Some(("tcp", address)) => TcpStream::connect(address).map(Stream::Tcp),
        Some(("vsock", port)) => connect_vsock(port.parse().map_err(io::Error::other)?),
        _ => Err(io::ErrorKind::InvalidInput.into()),
    }
}

/// To a port of the host, as the programs of a guest without the agent do.
fn connect_vsock(port: u32) -> io::Result<Stream> {
    let socket = Socket::new(Domain::VSOCK, Type::STREAM, None)?;
    socket.connect(&SockAddr::vsock(HOST_CID, port))?;
    // The standard library has no vsock; to read and to write, one socket is like another.
    Ok(Stream::Unix(UnixStream::from(OwnedFd::from(socket))))
}

/// Carries out a case over any kind of connection, with blocking calls.
pub(crate) fn measure<S: Read + Write>(
    case: Case,
    connect: impl Fn() -> io::Result<S> + Sync,
) -> io::Result<Samples> {
    match case {
        Case::Stream { direction, message, bytes } => {
            let mut connection = connect()?;
            let volume = Volume { bytes, message };
            let (began, cpu) = (Instant::now(), cpu_time());
            match direction {
                Direction::Out => {
                    volume.send(Purpose::Sink, &mut connection)?;
                    protocol::pour(volume, &mut connection)?;
                    connection.read_exact(&mut [0])?;
                }
                Direction::In => {
                    volume.send(Purpose::Source, &mut connection)?;
                    protocol::drain(bytes, &mut connection)?;
                }
            }
            let mut samples = case::stream_samples(bytes, began.elapsed());
            let used = cpu_time().saturating_sub(cpu).as_secs_f64();
            samples.push((Metric::NearCpu, used / case::real(bytes) * 1e9));
            Ok(samples)
        }
        Case::RoundTrips { count } => {
            let mut connection = connect()?;
            connection.write_all(&[Purpose::Echo.byte()])?;
            let mut trip = || -> io::Result<Duration> {
                let began = Instant::now();
                connection.write_all(&[1])?;
                connection.read_exact(&mut [0])?;
                Ok(began.elapsed())
            };
            // The first one carries the set-up.
            trip()?;
            let trips = (0..count).map(|_| trip()).collect::<io::Result<_>>()?;
            Ok(case::round_trip_samples(trips))
        }
        Case::Connects { count, parallel } => connects(count, parallel, connect),
        Case::Lookups { .. } | Case::Calls { .. } => Err(io::ErrorKind::Unsupported.into()),
    }
}

fn connects<S: Read + Write>(
    count: u64,
    parallel: u32,
    connect: impl Fn() -> io::Result<S> + Sync,
) -> io::Result<Samples> {
    let left = AtomicU64::new(count);
    let one_after_another = || -> io::Result<()> {
        while left
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(1))
            .is_ok()
        {
            let mut connection = connect()?;
            connection.write_all(&[Purpose::Answer.byte()])?;
            connection.read_exact(&mut [0])?;
        }
        Ok(())
    };
    let began = Instant::now();
    std::thread::scope(|scope| {
        let threads: Vec<_> = (0..parallel).map(|_| scope.spawn(one_after_another)).collect();
        let mut ends = threads.into_iter().map(|thread| thread.join());
        ends.try_for_each(|end| end.unwrap_or_else(|_| Err(io::Error::other("a thread panicked"))))
    })?;
    Ok(case::connect_samples(count, began.elapsed()))
}

/// `own` is a server in this process, for a guest that reaches no other.
fn calls(call: Call, count: u64, to: &str) -> io::Result<Samples> {
    if to != OWN {
        return calls::measure(call, count, to);
    }
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let address = format!("tcp:{}", listener.local_addr()?);
    std::thread::Builder::new().name("server".to_owned()).spawn(move || {
        while let Ok((mut client, _)) = listener.accept() {
            // The purpose, which both give back byte by byte.
            let mut byte = [0];
            let mut is_first = true;
            while client.read_exact(&mut byte).is_ok() {
                let is_echo = byte[0] == Purpose::Echo.byte() && is_first;
                is_first = false;
                if !is_echo && client.write_all(&byte).is_err() {
                    break;
                }
            }
        }
    })?;
    calls::measure(call, count, &address)
}

/// Where to connect to when the server is this process's own.
pub(crate) const OWN: &str = "own";

/// The name that is asked for.
pub(crate) const NAME: &str = "db.bench.peer";

/// Asks a nameserver, `dns:ADDRESS:PORT`, or with `dns:` the first one of /etc/resolv.conf.
fn lookups(to: &str, count: u64) -> io::Result<Samples> {
    let server = match to.strip_prefix("dns:") {
        Some("") => nameserver(),
        Some(address) => address.to_owned(),
        None => return Err(io::ErrorKind::InvalidInput.into()),
    };
    let mut query = vec![0, 0, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0];
    for label in NAME.split('.') {
        query.push(u8::try_from(label.len()).map_err(io::Error::other)?);
        query.extend(label.bytes());
    }
    query.extend([0, 0, 1, 0, 1]);
    let one = |number: u64| -> io::Result<Duration> {
        let began = Instant::now();
        query_once(&server, &query, number)?;
        Ok(began.elapsed())
    };
    // The first one gets the name its address.
    one(0)?;
    Ok(case::round_trip_samples((0..count).map(one).collect::<io::Result<_>>()?))
}

fn query_once(server: &str, query: &[u8], number: u64) -> io::Result<()> {
    let mut query = query.to_vec();
    query[..2].copy_from_slice(&[number.to_le_bytes()[0], number.to_le_bytes()[1]]);
    let any = if server.starts_with('[') { "[::]:0" } else { "0.0.0.0:0" };
    let socket = UdpSocket::bind(any)?;
    socket.set_read_timeout(Some(limits::START_TIMEOUT))?;
    socket.connect(server)?;
    socket.send(&query)?;
    let mut answer = [0; 512];
    let length = socket.recv(&mut answer)?;
    // The same number, no error, one answer.
    let good = length > query.len() && answer[..2] == query[..2] && answer[3] & 15 == 0;
    if good && answer[6..8] == [0, 1] { Ok(()) } else { Err(io::ErrorKind::InvalidData.into()) }
}

/// Whom resolvers ask.
fn nameserver() -> String {
    let text = std::fs::read_to_string("/etc/resolv.conf").unwrap_or_default();
    let listed = text.lines().find_map(|line| line.strip_prefix("nameserver ")).map(str::trim);
    match listed.unwrap_or("127.0.0.1") {
        v6 if v6.contains(':') => format!("[{v6}]:53"),
        v4 => format!("{v4}:53"),
    }
}

/// This process's own processor time.
fn cpu_time() -> Duration {
    let time = clock_gettime(ClockId::ProcessCPUTime);
    Duration::try_from(time).unwrap_or_default()
}
