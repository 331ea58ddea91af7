//! Carriers: the libp2p transports of the overlay, stacked.
//!
//! in:  the gateway's key, its network's [`Gate`]; out: one transport for TCP (noise, yamux), QUIC and
//! relayed connections, and the behaviour that relaying needs. Owner: the swarm. Kept: no connection
//! leaves it that was not admitted. Bound: [`limits::HANDSHAKE_TIMEOUT`] per connection.

use std::io;
use std::sync::Arc;

use futures::future::Either;
use libp2p::core::muxing::StreamMuxerBox;
use libp2p::core::transport::Boxed;
use libp2p::core::transport::timeout::TransportTimeout;
use libp2p::core::upgrade::Version;
use libp2p::identity::Keypair;
use libp2p::{PeerId, Transport as _, noise, quic, relay, tcp, yamux};

use crate::admission::{Gate, admit};
use crate::limits;

/// What the swarm dials and listens with.
pub(crate) type Carrier = Boxed<(PeerId, StreamMuxerBox)>;

/// Builds it.
pub(crate) fn build(
    keypair: &Keypair,
    gate: Arc<dyn Gate>,
) -> io::Result<(Carrier, relay::client::Behaviour)> {
    let noise = noise::Config::new(keypair).map_err(io::Error::other)?;
    let tcp = tcp::tokio::Transport::new(tcp::Config::default().nodelay(true))
        .upgrade(Version::V1Lazy)
        .authenticate(noise.clone())
        .multiplex(muxer())
        .map(|(peer, muxer), _| (peer, StreamMuxerBox::new(muxer)));
    let quic = quic::tokio::Transport::new(quic_config(keypair))
        .map(|(peer, connection), _| (peer, StreamMuxerBox::new(connection)));
    let (relayed, client) = relay::client::new(keypair.public().to_peer_id());
    let relayed = relayed
        .upgrade(Version::V1Lazy)
        .authenticate(noise)
        .multiplex(muxer())
        .map(|(peer, muxer), _| (peer, StreamMuxerBox::new(muxer)));
    let all = relayed
        .or_transport(tcp)
        .map(|either, _| either.into_inner())
        .or_transport(quic)
        .map(|either: Either<_, _>, _| either.into_inner())
        .and_then(move |output, point| admit(Arc::clone(&gate), output, point));
    let all = TransportTimeout::new(all, limits::HANDSHAKE_TIMEOUT);
    Ok((all.boxed(), client))
}

fn muxer() -> yamux::Config {
    let mut config = yamux::Config::default();
    config.set_max_num_streams(limits::YAMUX_STREAMS_MAX);
    config
}

fn quic_config(keypair: &Keypair) -> quic::Config {
    let mut config = quic::Config::new(keypair);
    config.max_concurrent_stream_limit = limits::QUIC_STREAMS_MAX;
    config.max_stream_data = limits::QUIC_STREAM_WINDOW_BYTES;
    config.max_connection_data = limits::QUIC_CONNECTION_WINDOW_BYTES;
    config.keep_alive_interval = limits::PING_INTERVAL;
    config
}
