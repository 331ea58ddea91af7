//! VM RPC: what is measured in a guest, virtual or real.
//!
//! in: a bound module or a way to echo connections; out: [`Figures`]. Values and blocking calls; a thread
//! for each caller. [`host`] is the other side.

pub(crate) mod host;
#[cfg(feature = "ttrpc")]
mod ttrpc_echo;

use std::io::{self, Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use outsock_vmrpc::{Binding, Client, EventQueue, Form, Ticket, Version, VersionRange};
use serde::{Deserialize, Serialize};
use socket2::{Domain, SockAddr, Socket, Type};

use crate::case::real;

/// One thing to measure. A real guest gets it as JSON.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub(crate) enum Work {
    /// Calls that give their arguments back.
    Calls { bytes: u32, callers: u32, count: u64 },
    /// The same over plain vsock connections, one per caller, to the ports from `port` on.
    Echoes { bytes: u32, callers: u32, count: u64, port: u32 },
    /// The same by ttrpc, over one vsock connection, to `port`.
    #[cfg(feature = "ttrpc")]
    Ttrpc { bytes: u32, callers: u32, count: u64, port: u32 },
    /// Events of 16 bytes through a queue of 1 MiB.
    Events { shared: bool, from_guest: bool, count: u64 },
}

/// What came of it. Only what the work is about is not zero.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
pub(crate) struct Figures {
    /// Seconds.
    pub(crate) p50: f64,
    pub(crate) p99: f64,
    /// Events, each put in at one side and taken out at the other.
    pub(crate) events_per_second: f64,
    /// Messages between guest and host that woke either side, for a million events.
    pub(crate) wakes_per_million: f64,
}

/// The module's name, version and functions; see [`host`].
pub(crate) const MODULE: &str = "bench";
pub(crate) const ECHO: u32 = 1;
pub(crate) const QUEUE: u32 = 2;
const EVENT: [u8; 16] = [7; 16];

/// Binds the module.
pub(crate) fn bind(client: &Client) -> Result<Binding> {
    Ok(client.bind_module(MODULE, VersionRange::only(Version(1)))?)
}

/// In a real guest: does the work and prints what came of it.
pub(crate) fn main(work: &str) -> Result<()> {
    let work = serde_json::from_str(work).context("the work is no work")?;
    let figures = match work {
        Work::Echoes { bytes, callers, count, port } => {
            echoes(|index| connect_vsock(port + index), bytes, callers, count)?
        }
        #[cfg(feature = "ttrpc")]
        Work::Ttrpc { bytes, callers, count, port } => {
            ttrpc_calls(connect_vsock(port)?, bytes, callers, count)?
        }
        Work::Calls { .. } | Work::Events { .. } => measure(&bind(&Client::connect()?)?, work)?,
    };
    println!("{}", serde_json::to_string(&figures)?);
    Ok(())
}

/// Work that a binding does.
pub(crate) fn measure(binding: &Binding, work: Work) -> Result<Figures> {
    match work {
        Work::Calls { bytes, callers, count } => {
            let arguments = vec![1; bytes as usize];
            round_trips(callers, count, |_| {
                || match binding.perform_rpc(ECHO, &arguments) {
                    Ok(result) if result.len() == arguments.len() => Ok(()),
                    Ok(_) => Err(io::ErrorKind::InvalidData.into()),
                    Err(error) => Err(io::Error::other(error)),
                }
            })
        }
        Work::Events { shared, from_guest, count } => events(binding, shared, from_guest, count),
        Work::Echoes { .. } => bail!("an echo needs no binding"),
        #[cfg(feature = "ttrpc")]
        Work::Ttrpc { .. } => bail!("ttrpc needs no binding"),
    }
}

/// Messages there and back on connections of their own.
pub(crate) fn echoes(
    connect: impl Fn(u32) -> io::Result<UnixStream>,
    bytes: u32,
    callers: u32,
    count: u64,
) -> Result<Figures> {
    let streams = (0..callers).map(&connect).collect::<io::Result<Vec<_>>>()?;
    // A message of nothing does not exist: one byte is the least.
    let bytes = bytes.max(1) as usize;
    round_trips(callers, count, |index| {
        let mut stream = &streams[index as usize];
        let mut message = vec![1; bytes];
        move || {
            stream.write_all(&message)?;
            stream.read_exact(&mut message)
        }
    })
}

/// Calls of ttrpc that give their payload back.
#[cfg(feature = "ttrpc")]
pub(crate) fn ttrpc_calls(
    stream: UnixStream,
    bytes: u32,
    callers: u32,
    count: u64,
) -> Result<Figures> {
    let client = ttrpc_echo::connect(stream)?;
    let payload = vec![1; bytes as usize];
    round_trips(callers, count, |_| {
        let (client, payload) = (client.clone(), &payload);
        move || ttrpc_echo::call(&client, payload)
    })
}

fn connect_vsock(port: u32) -> io::Result<UnixStream> {
    let socket = Socket::new(Domain::VSOCK, Type::STREAM, None)?;
    socket.connect(&SockAddr::vsock(2, port))?;
    // To read and to write, one socket is like another.
    Ok(UnixStream::from(OwnedFd::from(socket)))
}

/// `count` trips of each caller's; the first one of each carries the set-up and is not counted.
fn round_trips<T: FnMut() -> io::Result<()>>(
    callers: u32,
    count: u64,
    trip: impl Fn(u32) -> T + Sync,
) -> Result<Figures> {
    let mut all = std::thread::scope(|scope| {
        let trip = &trip;
        let one = move |index| -> io::Result<Vec<Duration>> {
            let mut trip = trip(index);
            trip()?;
            let timed = |_| {
                let began = Instant::now();
                trip().map(|()| began.elapsed())
            };
            (0..count).map(timed).collect()
        };
        let threads: Vec<_> = (0..callers).map(|index| scope.spawn(move || one(index))).collect();
        let mut all = Vec::new();
        for thread in threads {
            all.extend(thread.join().map_err(|_| io::Error::other("a thread panicked"))??);
        }
        Ok::<_, io::Error>(all)
    })?;
    all.sort_unstable();
    let at = |percent: usize| {
        all.get((all.len() * percent / 100).min(all.len() - 1))
            .map_or(f64::NAN, Duration::as_secs_f64)
    };
    Ok(Figures { p50: at(50), p99: at(99), ..Figures::default() })
}

fn events(binding: &Binding, shared: bool, from_guest: bool, count: u64) -> Result<Figures> {
    let arguments = [&count.to_le_bytes()[..], &[u8::from(from_guest)]].concat();
    let ticket = Ticket::decode(&binding.perform_rpc(QUEUE, &arguments)?)?;
    let form = if shared { Form::Shared } else { Form::Stream };
    let queue = binding.open_ev_queue_as(ticket, form)?;
    let began = Instant::now();
    if from_guest {
        (0..count).try_for_each(|_| queue.put_event_wait(&EVENT, None))?;
        // The module has taken the last one out.
        queue.get_event_wait(None)?;
    } else {
        queue.put_event_wait(&EVENT, None)?;
        for _ in 0..count {
            queue.get_event_wait(None)?;
        }
    }
    let elapsed = began.elapsed().as_secs_f64();
    let status = queue.status();
    let wakes = status.wakes_sent + status.wakes_received;
    Ok(Figures {
        events_per_second: real(count) / elapsed,
        wakes_per_million: real(wakes) / real(count) * 1e6,
        ..Figures::default()
    })
}

/// The module's side of [`events`].
pub(crate) fn serve_events(queue: &EventQueue, count: u64, from_guest: bool) {
    let outcome = if from_guest {
        (0..count)
            .try_for_each(|_| queue.get_event_wait(None).map(drop))
            .and_then(|()| queue.put_event_wait(&EVENT, None))
    } else {
        queue
            .get_event_wait(None)
            .and_then(|_| (0..count).try_for_each(|_| queue.put_event_wait(&EVENT, None)))
    };
    // Until the guest closes the queue, which it does when it has seen all.
    let _ = outcome.and_then(|()| queue.get_event_wait(None).map(drop));
}
