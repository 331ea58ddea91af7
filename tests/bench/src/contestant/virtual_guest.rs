//! A virtual guest on a backend: the gateway, or a peer.
//!
//! in: a backend and a kernel's layout; out: samples. Streams and round trips run in the guest's
//! driver thread, which copies every byte once, as a kernel does. Kept: both kinds of backend get the
//! same guest.

use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::time::Instant;

use anyhow::Result;
use outsock_harness::Gateway;
use outsock_virtual_guest::{Connection, Content, Layout, Options, VirtualGuest};

use super::Contestant;
use crate::case::{self, Case, Direction, Metric, Samples, real};
use crate::lab::{self, Server, Way};
use crate::peer::Peer;
use crate::protocol::{Purpose, Volume};
use crate::{client, cpu, limits};

/// Who moves the bytes.
#[derive(Debug)]
pub(crate) enum Backend<'a> {
    /// A guest of the gateway, by name, and how it comes to the server.
    Gateway { gateway: &'a Gateway, guest: String, way: Way },
    /// A peer of its own.
    Peer { binary: PathBuf, prefix: PathBuf, process: Peer },
}

/// A virtual guest and its backend.
#[derive(Debug)]
pub(crate) struct VirtualContestant<'a> {
    name: String,
    cid: u64,
    options: Options,
    backend: Backend<'a>,
    server: &'a Server,
    /// `None` only between two guests.
    guest: Option<VirtualGuest>,
    message_max: u32,
}

/// A guest of this layout, in QEMU.
fn options(layout: Layout) -> Options {
    // Canaries cost a read for every packet.
    Options { canaries: false, ..Options::for_layout(layout) }
}

impl<'a> VirtualContestant<'a> {
    /// A guest of the gateway, with as large a receive buffer for each connection as the agent asks
    /// the kernel for.
    pub(crate) fn of_gateway_with_agent(
        layout: Layout,
        place: (&'a Gateway, &str, u64),
        way: Way,
        server: &'a Server,
    ) -> Result<Self> {
        let mut contestant = Self::of_gateway(layout, place, way, server)?;
        contestant.options.buf_alloc = limits::AGENT_BUFFER_BYTES;
        contestant.recover()?;
        Ok(contestant)
    }

    /// A guest of the gateway, with the kernel's own settings.
    pub(crate) fn of_gateway(
        layout: Layout,
        (gateway, guest, cid): (&'a Gateway, &str, u64),
        way: Way,
        server: &'a Server,
    ) -> Result<Self> {
        let name = format!("outsock, {}", layout.name);
        let backend = Backend::Gateway { gateway, guest: guest.to_owned(), way };
        Self::new(name, cid, layout, backend, server)
    }

    /// A guest of a peer.
    pub(crate) fn of_peer(
        layout: Layout,
        (binary, cid): (&Path, u64),
        server: &'a Server,
    ) -> Result<Self> {
        let name = format!("peer, {}", layout.name);
        let prefix = server.hybrid_prefix();
        let process = Peer::start(binary, cid, &prefix)?;
        let backend = Backend::Peer { binary: binary.to_owned(), prefix, process };
        Self::new(name, cid, layout, backend, server)
    }

    fn new(
        name: String,
        cid: u64,
        layout: Layout,
        backend: Backend<'a>,
        server: &'a Server,
    ) -> Result<Self> {
        let options = options(layout);
        let mut contestant =
            Self { name, cid, options, backend, server, guest: None, message_max: u32::MAX };
        contestant.boot()?;
        Ok(contestant)
    }

    /// Sends no larger messages.
    #[must_use]
    pub(crate) fn with_message_max(mut self, bytes: u32) -> Self {
        self.message_max = bytes;
        self
    }

    /// Gives it another name.
    pub(crate) fn call(&mut self, name: &str) {
        name.clone_into(&mut self.name);
    }

    /// A connection to the server.
    pub(crate) fn connect(&self) -> Result<Connection> {
        Ok(self.connect_io()?)
    }

    fn connect_io(&self) -> io::Result<Connection> {
        let guest = self.guest.as_ref().ok_or(io::ErrorKind::NotConnected)?;
        match &self.backend {
            Backend::Gateway { way, .. } => {
                let dialled = guest.dial(way.destination());
                dialled.map(|(connection, _)| connection).map_err(io::Error::from)
            }
            Backend::Peer { .. } => guest.open(lab::HYBRID_PORT).map_err(io::Error::other),
        }
    }

    /// The process of the backend.
    pub(crate) fn backend_pid(&self) -> u32 {
        match &self.backend {
            Backend::Gateway { gateway, .. } => gateway.pid(),
            Backend::Peer { process, .. } => process.pid(),
        }
    }

    fn boot(&mut self) -> Result<()> {
        let socket = match &self.backend {
            Backend::Gateway { gateway, guest, .. } => gateway.socket(guest),
            Backend::Peer { process, .. } => process.socket(),
        };
        self.guest = Some(VirtualGuest::connect(socket, self.options.clone())?);
        Ok(())
    }

    fn stream(&self, direction: Direction, volume: Volume) -> Result<Samples> {
        let mut connection = self.connect()?;
        let thread = format!("guest-{}", self.cid);
        let now = || {
            [
                cpu::of_threads(self.backend_pid()),
                cpu::of_own_thread(&thread),
                cpu::of_process(self.server.pid()),
            ]
        };
        let before = now();
        let began = Instant::now();
        match direction {
            Direction::Out => {
                volume.send(Purpose::Sink, &mut connection)?;
                let message = usize::try_from(volume.message)?;
                connection.send_stream(volume.bytes, message, Content::Copied)?;
                connection.read_exact(&mut [0])?;
            }
            Direction::In => {
                volume.send(Purpose::Source, &mut connection)?;
                connection.receive_stream(volume.bytes, Content::Copied)?;
            }
        }
        let mut samples = case::stream_samples(volume.bytes, began.elapsed());
        let metrics = [Metric::GatewayCpu, Metric::NearCpu, Metric::FarCpu];
        for (metric, (before, after)) in metrics.into_iter().zip(before.into_iter().zip(now())) {
            let used = after.saturating_sub(before).as_secs_f64();
            samples.push((metric, used / real(volume.bytes) * 1e9));
        }
        Ok(samples)
    }
}

impl Contestant for VirtualContestant<'_> {
    fn name(&self) -> &str {
        &self.name
    }

    fn measure(&mut self, case: Case) -> Result<Samples> {
        match case {
            Case::Stream { direction, message, bytes } => {
                // Only what the guest sends is the backend's to take.
                let message = match direction {
                    Direction::Out => message.min(self.message_max),
                    Direction::In => message,
                };
                self.stream(direction, Volume { bytes, message })
            }
            Case::RoundTrips { count } => {
                let mut connection = self.connect()?;
                connection.write_all(&[Purpose::Echo.byte()])?;
                let transfer = connection.round_trips(count, 1, Content::Copied)?;
                Ok(case::round_trip_samples(transfer.round_trips))
            }
            Case::Connects { .. } | Case::Lookups { .. } | Case::Calls { .. } => {
                Ok(client::measure(case, || self.connect_io())?)
            }
        }
    }

    fn recover(&mut self) -> Result<()> {
        self.guest = None;
        if let Backend::Peer { binary, prefix, process } = &mut self.backend {
            *process = Peer::start(binary, self.cid, prefix)?;
        } else {
            // The gateway takes a moment from one guest to the next.
            std::thread::sleep(limits::STALL_SETTLE);
        }
        self.boot()
    }
}
