//! The near end as a process: natively, or in a real guest.
//!
//! in: where to, and a [`Case`]; out: samples, as one line of JSON. A plain program with blocking
//! sockets, one thread per connection that is open at a time.

use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use rustix::time::{ClockId, clock_gettime};
use socket2::{Domain, SockAddr, Socket, Type};

use crate::case::{self, Case, Direction, Metric, Samples};
use crate::protocol::{self, Purpose, Volume};
use crate::server::Stream;

/// The CID of every guest's host.
const HOST_CID: u32 = 2;

/// Runs one case and prints its samples.
pub(crate) fn main(to: &str, case: &str) -> Result<()> {
    let case = serde_json::from_str(case).context("the case is no case")?;
    let samples = measure(case, || connect(to)).with_context(|| format!("{case} to {to}"))?;
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

/// This process's own processor time.
fn cpu_time() -> Duration {
    let time = clock_gettime(ClockId::ProcessCPUTime);
    Duration::try_from(time).unwrap_or_default()
}
