//! A link for UDP made in user space, for machines whose kernel has no `netem`.
//!
//! Enters: datagrams of any number of clients, to the link's address. Leaves: the same at the far
//! address, each client from a port of its own, and the answers back; after the delay, at the rate,
//! without those that are lost. Owner: the [`Link`]; dropping it ends its tasks and closes its ports.
//! Invariant: nothing overtakes anything in one direction. Bound: [`QUEUE_PACKETS_MAX`] packets wait per
//! direction and client, [`CLIENTS_MAX`] clients.
//!
//! It delays by timers of one millisecond: good for round trips of a country, not for those of a rack.
#![forbid(unsafe_code)]

use std::collections::HashMap;
use std::io;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use tokio::net::UdpSocket;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::Instant;

/// Packets that wait in one direction for one client; the next one is lost, as in a router.
pub const QUEUE_PACKETS_MAX: usize = 4096;

/// Clients of one link: the oldest one is forgotten when there are more.
pub const CLIENTS_MAX: usize = 64;

/// Packets that a recording holds.
pub const RECORDED_MAX: usize = 4096;

const DATAGRAM_BYTES_MAX: usize = 65_536;

/// What a link does to packets. The default is a perfect one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Quality {
    /// One way.
    pub delay: Duration,
    /// Bits per second, each direction; `None` = as fast as the machine.
    pub bits_per_second: Option<u64>,
    /// Of a million packets so many are lost.
    pub loss_per_million: u32,
    /// Larger datagrams are lost without a word, bytes of UDP payload.
    pub bytes_max: Option<usize>,
    /// Nothing passes.
    pub cut: bool,
}

/// See the crate.
#[derive(Debug)]
pub struct Link {
    shared: Arc<Shared>,
    address: SocketAddr,
    tasks: JoinSet<()>,
}

#[derive(Debug)]
struct Shared {
    quality: Mutex<Quality>,
    random: AtomicU64,
    /// What clients sent, while a recording runs.
    recording: Mutex<Option<Vec<Bytes>>>,
    passed: AtomicU64,
    lost: AtomicU64,
}

impl Shared {
    fn quality(&self) -> Quality {
        *self.quality.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn recording(&self) -> MutexGuard<'_, Option<Vec<Bytes>>> {
        self.recording.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether a packet of this size passes. Repeatable: the sequence of losses is always the same.
    fn passes(&self, quality: &Quality, bytes: usize) -> bool {
        let number = self.random.fetch_add(0x9e37_79b9_7f4a_7c15, Ordering::Relaxed);
        let mixed = (number ^ number >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let drawn = (mixed ^ mixed >> 27) % 1_000_000;
        let lost = quality.cut
            || quality.bytes_max.is_some_and(|max| bytes > max)
            || drawn < u64::from(quality.loss_per_million);
        let counter = if lost { &self.lost } else { &self.passed };
        counter.fetch_add(1, Ordering::Relaxed);
        !lost
    }
}

impl Link {
    /// Listens at `at` and leads to `to`.
    ///
    /// # Errors
    /// The system's.
    pub async fn start(at: SocketAddr, to: SocketAddr, quality: Quality) -> io::Result<Self> {
        let socket = Arc::new(UdpSocket::bind(at).await?);
        let address = socket.local_addr()?;
        let shared = Arc::new(Shared {
            quality: Mutex::new(quality),
            random: AtomicU64::new(1),
            recording: Mutex::new(None),
            passed: AtomicU64::new(0),
            lost: AtomicU64::new(0),
        });
        let mut tasks = JoinSet::new();
        tasks.spawn(serve(socket, to, Arc::clone(&shared)));
        Ok(Self { shared, address, tasks })
    }

    /// Where clients send to.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// From now on packets fare like this.
    pub fn set(&self, quality: Quality) {
        *self.shared.quality.lock().unwrap_or_else(PoisonError::into_inner) = quality;
    }

    /// Packets that passed and packets that were lost.
    #[must_use]
    pub fn counts(&self) -> (u64, u64) {
        (self.shared.passed.load(Ordering::Relaxed), self.shared.lost.load(Ordering::Relaxed))
    }

    /// Keeps what clients send from now on.
    pub fn record(&self) {
        *self.shared.recording() = Some(Vec::new());
    }

    /// What was kept, in order.
    #[must_use]
    pub fn recorded(&self) -> Vec<Bytes> {
        self.shared.recording().take().unwrap_or_default()
    }

    /// Ends it. Dropping does the same without waiting.
    pub async fn end(mut self) {
        self.tasks.shutdown().await;
    }
}

/// One client: a port of its own towards the far side, and the two directions' queues.
struct Client {
    up: mpsc::Sender<Bytes>,
    _tasks: JoinSet<()>,
    seen: Instant,
}

async fn serve(socket: Arc<UdpSocket>, to: SocketAddr, shared: Arc<Shared>) {
    let mut clients: HashMap<SocketAddr, Client> = HashMap::new();
    let mut buffer = vec![0; DATAGRAM_BYTES_MAX];
    loop {
        // ICMP errors of a client that is gone arrive here, too.
        let Ok((count, from)) = socket.recv_from(&mut buffer).await else { continue };
        let packet = Bytes::copy_from_slice(&buffer[..count]);
        if let Some(kept) = &mut *shared.recording()
            && kept.len() < RECORDED_MAX
        {
            kept.push(packet.clone());
        }
        if !clients.contains_key(&from) {
            if clients.len() >= CLIENTS_MAX
                && let Some(oldest) = clients.iter().min_by_key(|(_, c)| c.seen).map(|(at, _)| *at)
            {
                clients.remove(&oldest);
            }
            let Ok(client) = Client::start(&socket, from, to, &shared).await else { continue };
            clients.insert(from, client);
        }
        if let Some(client) = clients.get_mut(&from) {
            client.seen = Instant::now();
            // A full queue loses it.
            let _ = client.up.try_send(packet);
        }
    }
}

impl Client {
    async fn start(
        near: &Arc<UdpSocket>,
        from: SocketAddr,
        to: SocketAddr,
        shared: &Arc<Shared>,
    ) -> io::Result<Self> {
        let any: SocketAddr =
            if to.is_ipv4() { ([0, 0, 0, 0], 0).into() } else { ([0_u16; 8], 0).into() };
        let far = Arc::new(UdpSocket::bind(any).await?);
        far.connect(to).await?;
        let (up, up_queue) = mpsc::channel(QUEUE_PACKETS_MAX);
        let (down, down_queue) = mpsc::channel(QUEUE_PACKETS_MAX);
        let mut tasks = JoinSet::new();
        let there = Arc::clone(&far);
        tasks.spawn(carry(up_queue, Arc::clone(shared), there, None));
        tasks.spawn(carry(down_queue, Arc::clone(shared), Arc::clone(near), Some(from)));
        tasks.spawn(async move {
            let mut buffer = vec![0; DATAGRAM_BYTES_MAX];
            loop {
                if let Ok(count) = far.recv(&mut buffer).await {
                    let _ = down.try_send(Bytes::copy_from_slice(&buffer[..count]));
                } else {
                    // Nobody listens at the far address yet.
                    tokio::time::sleep(Duration::from_millis(1)).await;
                }
            }
        });
        Ok(Self { up, _tasks: tasks, seen: Instant::now() })
    }
}

/// One direction: takes packets at the rate, and lets them go after the delay.
async fn carry(
    mut queue: mpsc::Receiver<Bytes>,
    shared: Arc<Shared>,
    out: Arc<UdpSocket>,
    to: Option<SocketAddr>,
) {
    // The wire is free again then.
    let mut free = Instant::now();
    let (flying, mut landing) = mpsc::channel::<(Instant, Bytes)>(QUEUE_PACKETS_MAX);
    let mut landings = JoinSet::new();
    landings.spawn(async move {
        while let Some((due, packet)) = landing.recv().await {
            tokio::time::sleep_until(due).await;
            // A port that nobody has open is as good as a loss.
            let _ = match to {
                Some(to) => out.send_to(&packet, to).await,
                None => out.send(&packet).await,
            };
        }
    });
    while let Some(packet) = queue.recv().await {
        let quality = shared.quality();
        if !shared.passes(&quality, packet.len()) {
            continue;
        }
        let now = Instant::now();
        free = free.max(now);
        if let Some(rate) = quality.bits_per_second {
            let bits = packet.len() as u64 * 8;
            free += Duration::from_nanos(bits.saturating_mul(1_000_000_000) / rate.max(1));
            // Not earlier than a millisecond: timers are no finer.
            if free > now + Duration::from_millis(1) {
                tokio::time::sleep_until(free).await;
            }
        }
        if flying.send((free + quality.delay, packet)).await.is_err() {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn echo() -> SocketAddr {
        let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        let address = socket.local_addr().unwrap();
        tokio::spawn(async move {
            let mut buffer = [0; 2048];
            while let Ok((count, from)) = socket.recv_from(&mut buffer).await {
                let _ = socket.send_to(&buffer[..count], from).await;
            }
        });
        address
    }

    #[tokio::test]
    async fn packets_come_back_late_and_not_when_cut_or_too_large() {
        let any = "127.0.0.1:0".parse().unwrap();
        let quality = Quality { delay: Duration::from_millis(20), ..Quality::default() };
        let link = Link::start(any, echo().await, quality).await.unwrap();
        let client = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        client.connect(link.address()).await.unwrap();
        let began = Instant::now();
        client.send(b"there and back").await.unwrap();
        let mut buffer = [0; 64];
        let count = client.recv(&mut buffer).await.unwrap();
        assert_eq!(&buffer[..count], b"there and back");
        assert!(began.elapsed() >= Duration::from_millis(40), "{:?}", began.elapsed());

        link.set(Quality { bytes_max: Some(3), ..Quality::default() });
        client.send(b"long").await.unwrap();
        client.send(b"ok").await.unwrap();
        let count = client.recv(&mut buffer).await.unwrap();
        assert_eq!(&buffer[..count], b"ok");
        assert_eq!(link.counts(), (4, 1));
        link.end().await;
    }

    #[tokio::test]
    async fn a_tenth_is_lost_and_a_recording_holds_all() {
        let any = "127.0.0.1:0".parse().unwrap();
        let quality = Quality { loss_per_million: 100_000, ..Quality::default() };
        let sink = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        let link = Link::start(any, sink.local_addr().unwrap(), quality).await.unwrap();
        link.record();
        let client = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        client.connect(link.address()).await.unwrap();
        for number in 0..1000_u16 {
            client.send(&number.to_le_bytes()).await.unwrap();
            tokio::task::yield_now().await;
        }
        while link.counts().0 + link.counts().1 < 1000 {
            tokio::task::yield_now().await;
        }
        let (_, lost) = link.counts();
        assert!((50..200).contains(&lost), "{lost} of 1000");
        assert_eq!(link.recorded().len(), 1000);
    }
}
