//! Every fault does what it says, to connections that stand as well. Time is tokio's, paused.

use std::num::NonZeroUsize;
use std::pin::Pin;
use std::time::Duration;

use outsock_transport::{
    AcceptError, AsyncStream, Destination, DialError, DialRequest, Errno, ListenError, Listener,
    Transport,
};
use outsock_transport_memory::{DialFault, Faults, Lane, Network, limits};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::{Instant, timeout};

type End = Pin<Box<dyn AsyncStream>>;

struct Pair {
    network: Network,
    at: Destination,
    door: Box<dyn Listener>,
    near: End,
    far: End,
}

async fn pair() -> Pair {
    let network = Network::new();
    let at = Destination::Name { name: "peer".into(), port: 1 };
    let mut door = network.transport().listen(&at).await.expect("a free name");
    let near = dial(&network, &at).await.expect("it listens");
    let far = door.accept().await.expect("it was dialled").stream.into_async().expect("async");
    Pair { network, at, door, near, far }
}

async fn dial(network: &Network, at: &Destination) -> Result<End, DialError> {
    let dialed = network.transport().dial(DialRequest::to(at.clone())).await?;
    Ok(dialed.stream.into_async().expect("an async stream"))
}

impl Pair {
    fn put(&self, faults: Faults) {
        self.network.set_faults(&self.at, faults);
    }

    fn heal(&self) {
        self.put(Faults::default());
    }
}

/// With the clock paused, this is over as soon as nobody else can go on.
async fn waits<T>(future: impl Future<Output = T>) -> bool {
    timeout(Duration::from_secs(60), future).await.is_err()
}

fn reset<T: std::fmt::Debug>(result: std::io::Result<T>) -> Errno {
    Errno::of(&result.expect_err("the connection was reset"))
}

#[tokio::test(start_paused = true)]
async fn a_dial_fails_as_told() {
    let pair = pair().await;
    let dial_fault = DialFault::Fail(DialError::NetworkUnreachable);
    pair.put(Faults { dial: dial_fault, ..Faults::default() });
    let error = dial(&pair.network, &pair.at).await.err();
    assert_eq!(error, Some(DialError::NetworkUnreachable));
    pair.heal();
    dial(&pair.network, &pair.at).await.expect("healed");
}

#[tokio::test(start_paused = true)]
async fn a_dial_is_held_until_released_or_out_of_time() {
    let mut pair = pair().await;
    pair.put(Faults { dial: DialFault::Hold, ..Faults::default() });
    let started = Instant::now();
    let error = dial(&pair.network, &pair.at).await.err();
    assert_eq!(error, Some(DialError::TimedOut));
    assert!(started.elapsed() >= outsock_transport::limits::DIAL_TIMEOUT);

    let (network, at) = (pair.network.clone(), pair.at.clone());
    let held = tokio::spawn(async move { dial(&network, &at).await });
    assert!(waits(pair.door.accept()).await);
    assert!(!held.is_finished());
    pair.heal();
    held.await.expect("no panic").expect("released");
    pair.door.accept().await.expect("the connection of the released dial");
}

#[tokio::test(start_paused = true)]
async fn a_reset_comes_after_exactly_so_many_bytes() {
    let mut pair = pair().await;
    let lane = Lane { reset_after: Some(1000), ..Lane::default() };
    pair.put(Faults { to_listener: lane, ..Faults::default() });
    pair.near.write_all(&[1; 1500]).await.expect("the pipe has room");
    let mut got = vec![];
    let errno = reset(pair.far.read_to_end(&mut got).await);
    assert_eq!((errno, got.len()), (Errno::ECONNRESET, 1000));
    assert_eq!(reset(pair.near.write(&[1]).await), Errno::ECONNRESET);
    assert_eq!(reset(pair.near.read(&mut [0]).await), Errno::ECONNRESET);
}

#[tokio::test(start_paused = true)]
async fn a_stalled_lane_stops_its_writer_and_nobody_else() {
    let mut pair = pair().await;
    let lane = Lane { stalled: true, ..Lane::default() };
    pair.put(Faults { to_listener: lane, ..Faults::default() });
    let bytes = vec![3; limits::PIPE_BYTES + 1];
    assert!(waits(pair.near.write_all(&bytes)).await, "the pipe is bounded");
    assert!(waits(pair.far.read(&mut [0])).await);
    pair.far.write_all(b"other way").await.expect("the other lane works");
    let mut text = [0; 9];
    pair.near.read_exact(&mut text).await.expect("the other lane works");
    pair.heal();
    let mut got = vec![0; limits::PIPE_BYTES];
    pair.far.read_exact(&mut got).await.expect("nothing was lost");
}

#[tokio::test(start_paused = true)]
async fn short_reads_and_writes_are_as_short_as_told() {
    let mut pair = pair().await;
    let lane = Lane {
        read_bytes_max: NonZeroUsize::new(3),
        write_bytes_max: NonZeroUsize::new(5),
        ..Lane::default()
    };
    pair.put(Faults { to_listener: lane, ..Faults::default() });
    assert_eq!(pair.near.write(b"hello world").await.expect("a short write"), 5);
    let mut buffer = [0; 16];
    assert_eq!(pair.far.read(&mut buffer).await.expect("a short read"), 3);
    assert_eq!(pair.far.read(&mut buffer).await.expect("the rest"), 2);
    assert_eq!(pair.far.write(b"hello world").await.expect("the other lane"), 11);
}

#[tokio::test(start_paused = true)]
async fn nothing_passes_a_cut_path_and_all_arrives_after_it() {
    let mut pair = pair().await;
    pair.put(Faults { cut: true, ..Faults::default() });
    pair.near.write_all(b"on its way").await.expect("the own buffers take it");
    pair.near.shutdown().await.expect("the own buffers take it");
    let mut text = String::new();
    assert!(waits(pair.far.read_to_string(&mut text)).await, "no byte and no FIN");
    assert_eq!(dial(&pair.network, &pair.at).await.err(), Some(DialError::TimedOut));
    pair.heal();
    pair.far.read_to_string(&mut text).await.expect("mended");
    assert_eq!(text, "on its way");
}

#[tokio::test(start_paused = true)]
async fn a_reset_does_not_pass_a_cut_path_either() {
    let mut pair = pair().await;
    pair.put(Faults { cut: true, ..Faults::default() });
    pair.near.reset(Errno::ECONNRESET);
    assert!(waits(pair.far.read(&mut [0])).await);
    assert!(waits(pair.far.write(&[0])).await);
    pair.network.set_faults(&pair.at, Faults::default());
    assert_eq!(reset(pair.far.read(&mut [0]).await), Errno::ECONNRESET);
}

#[tokio::test(start_paused = true)]
async fn a_dropped_listener_resets_who_waits_and_frees_its_name() {
    let mut pair = pair().await;
    let mut waiting = dial(&pair.network, &pair.at).await.expect("the backlog takes it");
    pair.network.drop_listener(&pair.at);
    assert_eq!(reset(waiting.read(&mut [0]).await), Errno::ECONNRESET);
    let ended = pair.door.accept().await.err();
    assert_eq!(ended, Some(AcceptError::Ended(Errno::ECONNABORTED)));
    assert_eq!(dial(&pair.network, &pair.at).await.err(), Some(DialError::Refused));
    pair.near.write_all(b"x").await.expect("an accepted connection lives on");

    let memory = pair.network.transport();
    let _second = memory.listen(&pair.at).await.expect("the name is free");
    drop(pair.door);
    dial(&pair.network, &pair.at).await.expect("the old listener closed the new one's door");
    let error = memory.listen(&pair.at).await.err();
    assert_eq!(error, Some(ListenError::AddressInUse));
}

#[tokio::test(start_paused = true)]
async fn connections_can_be_counted_and_reset_with_any_errno() {
    let mut pair = pair().await;
    assert_eq!(pair.network.connections(&pair.at), 1);
    pair.network.reset(&pair.at, Errno::ETIMEDOUT);
    assert_eq!(reset(pair.near.read(&mut [0]).await), Errno::ETIMEDOUT);
    assert_eq!(reset(pair.far.write(&[0]).await), Errno::ETIMEDOUT);
    drop((pair.near, pair.far));
    assert_eq!(pair.network.connections(&pair.at), 0);
}

#[tokio::test(start_paused = true)]
async fn a_full_backlog_makes_dials_wait() {
    let mut pair = pair().await;
    let most = outsock_transport::limits::ACCEPT_BACKLOG_MAX;
    let mut queued = Vec::new();
    for _ in 0..most {
        queued.push(dial(&pair.network, &pair.at).await.expect("room in the backlog"));
    }
    assert_eq!(dial(&pair.network, &pair.at).await.err(), Some(DialError::TimedOut));
    let (network, at) = (pair.network.clone(), pair.at.clone());
    let late = tokio::spawn(async move { dial(&network, &at).await });
    pair.door.accept().await.expect("the first in the backlog");
    late.await.expect("no panic").expect("room again");
}

#[tokio::test(start_paused = true)]
async fn a_source_port_is_granted_and_seen_by_the_listener() {
    let memory = Network::new().transport();
    let at = Destination::Address("[2001:db8::1]:80".parse().expect("an address"));
    let mut door = memory.listen(&at).await.expect("a free address");
    let source = Some("10.0.2.15:7000".parse().expect("an address"));
    let dialed = memory.dial(DialRequest { source, ..DialRequest::to(at) }).await;
    let inbound = door.accept().await.expect("a connection");
    let local = dialed.expect("it listens").local;
    assert_eq!(local, Some("[::1]:7000".parse().expect("an address")));
    assert_eq!(inbound.peer, local);
}
