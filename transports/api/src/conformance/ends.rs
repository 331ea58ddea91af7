//! Ends: two connected streams of the transport under test, and what is sent over them.
//!
//! in:  a [`Setup`]
//! out: [`Ends`]; senders and receivers that hash what passes
//! owner: one case
//! keeps: data never repeats within a transfer, so lost, doubled and swapped bytes change the hash
//! bound: chunks of [`CHUNKS`]

use std::pin::Pin;

use sha2::{Digest, Sha256};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

use super::{Setup, limits};
use crate::Errno;
use crate::error::DialError;
use crate::stream::AsyncStream;
use crate::transport::{Destination, Dialed, Inbound, Listener};

/// One end of a connection.
pub(super) type End = Pin<Box<dyn AsyncStream>>;

/// Sizes of writes: odd, prime, and around the sizes at which somebody splits packets.
pub(super) const CHUNKS: &[usize] =
    &[1, 65_537, 7, 4_093, 32_767, 32_769, 131_071, 1_021, 65_535, 4_097];

/// A connection: who dialled and who accepted.
pub(super) struct Ends {
    pub(super) dialer: End,
    pub(super) listener: End,
    /// Some transports end their connections with the listener.
    pub(super) door: Box<dyn Listener>,
}

/// Which end of a connection acts in a case; the other one watches.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Side {
    Dialer,
    Listener,
}

impl Ends {
    /// The acting end, the watching end, and what must stay alive.
    pub(super) fn with(self, actor: Side) -> (End, End, Box<dyn Listener>) {
        match actor {
            Side::Dialer => (self.dialer, self.listener, self.door),
            Side::Listener => (self.listener, self.dialer, self.door),
        }
    }
}

/// Listens, or fails with a message.
pub(super) async fn listen(setup: &dyn Setup) -> Box<dyn Listener> {
    let at = setup.listen_at();
    match setup.listener().listen(&at).await {
        Ok(listener) => listener,
        Err(error) => panic!("cannot listen at {at}: {error}"),
    }
}

/// Dials a listener's address, or fails with a message.
pub(super) async fn dial(setup: &dyn Setup, at: Destination) -> Dialed {
    match setup.dialer().dial(setup.request(at.clone())).await {
        Ok(dialed) => dialed,
        Err(error) => panic!("cannot dial {at}: {error}"),
    }
}

/// Dials what was staged to fail.
pub(super) async fn dial_failing(
    setup: &dyn Setup,
    at: &Destination,
    timeout: std::time::Duration,
) -> DialError {
    let mut request = setup.request(at.clone());
    request.timeout = timeout;
    match setup.dialer().dial(request).await {
        Ok(dialed) => panic!("the dial of {at} must fail, but gave {dialed:?}"),
        Err(error) => error,
    }
}

/// Accepts, or fails with a message.
pub(super) async fn accept(door: &mut dyn Listener) -> Inbound {
    match tokio::time::timeout(limits::DIAL_TIME_MAX, door.accept()).await {
        Ok(Ok(inbound)) => inbound,
        Ok(Err(error)) => panic!("the listener {} accepts nothing: {error}", door.local()),
        Err(_) => panic!("a dial succeeded, but {} has nothing to accept", door.local()),
    }
}

/// A fresh listener and one connection to it.
pub(super) async fn connect(setup: &dyn Setup) -> Ends {
    let mut door = listen(setup).await;
    let at = setup.dial_at(&*door);
    let (dialed, inbound) = tokio::join!(dial(setup, at), accept(&mut *door));
    Ends { dialer: open(dialed.stream), listener: open(inbound.stream), door }
}

/// The stream in the form in which the cases use it.
pub(super) fn open(stream: crate::Stream) -> End {
    stream.into_async().expect("a stream of a transport can be driven by tokio")
}

/// A stream of bytes that does not repeat (xorshift64*).
pub(super) struct Pattern(u64);

impl Pattern {
    pub(super) fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1)
    }

    pub(super) fn fill(&mut self, bytes: &mut [u8]) {
        for chunk in bytes.chunks_mut(8) {
            self.0 ^= self.0 >> 12;
            self.0 ^= self.0 << 25;
            self.0 ^= self.0 >> 27;
            let word = self.0.wrapping_mul(0x2545_F491_4F6C_DD1D).to_le_bytes();
            chunk.copy_from_slice(&word[..chunk.len()]);
        }
    }
}

/// How many bytes went by, and their hash.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) struct Passed {
    pub(super) bytes: u64,
    pub(super) sha256: [u8; 32],
}

impl std::fmt::Debug for Passed {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} bytes, SHA-256 ", self.bytes)?;
        self.sha256[..6].iter().try_for_each(|byte| write!(f, "{byte:02x}"))?;
        f.write_str("..")
    }
}

/// Hashes and counts.
pub(super) struct Meter {
    bytes: u64,
    hash: Sha256,
}

impl Meter {
    pub(super) fn new() -> Self {
        Self { bytes: 0, hash: Sha256::new() }
    }

    pub(super) fn add(&mut self, bytes: &[u8]) {
        self.bytes += bytes.len() as u64;
        self.hash.update(bytes);
    }

    pub(super) fn bytes(&self) -> u64 {
        self.bytes
    }

    pub(super) fn passed(self) -> Passed {
        Passed { bytes: self.bytes, sha256: self.hash.finalize().into() }
    }
}

/// Writes `total` bytes in chunks of the given sizes and shuts the half down.
pub(super) async fn send(
    to: &mut (impl AsyncWrite + Unpin),
    seed: u64,
    total: u64,
    chunks: &[usize],
) -> Passed {
    let mut pattern = Pattern::new(seed);
    let mut meter = Meter::new();
    let mut buffer = vec![0; chunks.iter().copied().max().unwrap_or(1)];
    for size in chunks.iter().copied().cycle() {
        let left = usize::try_from(total - meter.bytes()).unwrap_or(usize::MAX);
        if left == 0 {
            break;
        }
        let chunk = &mut buffer[..size.min(left)];
        pattern.fill(chunk);
        if let Err(error) = to.write_all(chunk).await {
            panic!("writing failed after {} of {total} bytes: {error}", meter.bytes());
        }
        meter.add(chunk);
    }
    if let Err(error) = to.shutdown().await {
        panic!("shutting the half down after {total} bytes failed: {error}");
    }
    meter.passed()
}

/// Reads to the far side's FIN.
pub(super) async fn receive(from: &mut (impl AsyncRead + Unpin)) -> Passed {
    let mut meter = Meter::new();
    let mut buffer = vec![0; 65_521];
    loop {
        match from.read(&mut buffer).await {
            Ok(0) => return meter.passed(),
            Ok(count) => meter.add(&buffer[..count]),
            Err(error) => panic!("reading failed after {} bytes: {error}", meter.bytes()),
        }
    }
}

/// Reads to the far side's FIN, which may not come before `total` bytes: said at once, since a sender
/// whose bytes nobody reads would wait for ever.
pub(super) async fn receive_all(from: &mut (impl AsyncRead + Unpin), total: u64) -> Passed {
    let got = receive(from).await;
    assert!(got.bytes >= total, "a clean end after {} of {total} bytes", got.bytes);
    got
}

/// Reads on to whatever ends the stream: the bytes before it and the errno, `None` for a FIN.
pub(super) async fn read_to_end(from: &mut (impl AsyncRead + Unpin)) -> (u64, Option<Errno>) {
    let mut bytes = 0;
    let mut buffer = vec![0; 65_521];
    loop {
        match from.read(&mut buffer).await {
            Ok(0) => return (bytes, None),
            Ok(count) => bytes += count as u64,
            Err(error) => return (bytes, Some(Errno::of(&error))),
        }
    }
}
