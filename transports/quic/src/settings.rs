//! Settings: what of the QUIC transport can be set.
//!
//! in:  the daemon's configuration; out: values for `tuning`. Kept: defaults are in one place.
//! owner: plain values
//! keeps: what was checked stays checked; `tuning` cuts what QUIC cannot express
//! bound: none of its own

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use outsock_peer::PeerKey;

/// What holds for the whole endpoint.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// The UDP address; with port 0 nobody can dial us.
    pub listen: SocketAddr,
    /// Bytes that one stream may have on its way without having been read. Twice the path's
    /// bandwidth times its round trip is enough. At most a 64th of the connection's
    /// window: 48 streams that nobody reads do not stop the others.
    pub stream_window: u32,
    /// The same for all streams of one connection.
    pub connection_window: u32,
    /// Bytes that all peers together may make this gateway hold; connections get less of a window
    /// when there are many.
    pub memory_max: u64,
    /// Streams that one peer may have open.
    pub streams_max: u32,
    /// A peer that is silent for this long is dead.
    pub dead_after: Duration,
    /// Bytes of each of the UDP socket's two buffers. Most losses of QUIC come from a small one.
    pub socket_buffer: usize,
    /// Many datagrams in one system call (GSO, GRO). Off for network cards that do it badly.
    pub offload: bool,
    /// The largest datagram that is tried, bytes of UDP payload.
    pub mtu_max: u16,
    /// Ask the peer for fewer acknowledgements.
    pub ack_frequency: bool,
    /// For connections that a peer dialled.
    pub congestion: Congestion,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            listen: SocketAddr::from(([0, 0, 0, 0], 0)),
            stream_window: 4 << 20,
            connection_window: 256 << 20,
            memory_max: 512 << 20,
            streams_max: 16_384,
            dead_after: Duration::from_secs(12),
            socket_buffer: 8 << 20,
            offload: true,
            mtu_max: 1452,
            ack_frequency: true,
            congestion: Congestion::Cubic,
        }
    }
}

/// How fast to send.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Congestion {
    /// RFC 9438.
    #[default]
    Cubic,
    /// quinn's BBR, an early version of it: for lossy paths, after a measurement.
    Bbr,
    /// RFC 9002, 7.
    NewReno,
}

/// One peer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PeerSettings {
    /// What it is called here. Its services are `NAME.<this>.peer`.
    pub name: Arc<str>,
    /// Who it is.
    pub key: PeerKey,
    /// Where it may be: `HOST:PORT` or `ADDRESS:PORT`. Empty: it dials us.
    pub addresses: Vec<String>,
    /// For connections that we dial.
    pub congestion: Congestion,
    /// Connections that we keep; more than one only where one processor core is too slow.
    pub connections: usize,
}

impl PeerSettings {
    /// A peer with one connection.
    pub fn new(name: &str, key: PeerKey, addresses: &[String]) -> Self {
        Self {
            name: name.into(),
            key,
            addresses: addresses.to_vec(),
            congestion: Congestion::Cubic,
            connections: 1,
        }
    }
}
