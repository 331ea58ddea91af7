//! Bounds of the overlay, with unit and reason. What a configuration may change has its default in
//! [`Settings`](crate::Settings).

use std::time::Duration;

/// Commands that wait for the swarm's task. Each is one dial, lookup or question of the daemon; who
/// finds no place waits, and its own timeout ends that.
pub const COMMANDS_WAITING_MAX: usize = 1024;

/// Streams of peers that wait for the daemon to look at them. Each has one header.
pub const INCOMING_WAITING_MAX: usize = 1024;

/// Streams whose header is being read at the same time. More are refused with a reason.
pub const HEADERS_MAX: usize = 4096;

/// Refusals that are being written at the same time; a stream beyond it is closed without a word.
pub const REFUSALS_MAX: usize = 256;

/// Streams over one connection that each side may open. yamux ends the whole connection at its own
/// limit, [`YAMUX_STREAMS_MAX`], which counts both sides' and the overlay's own streams.
pub const STREAMS_PER_SIDE_MAX: usize = 1920;

/// Streams of one yamux connection: the most that its windows of 256 KiB allow in its 1 GiB.
pub const YAMUX_STREAMS_MAX: usize = 4096;

/// Streams of one QUIC connection that the peer may have open.
pub const QUIC_STREAMS_MAX: u32 = 8192;

/// Bytes of one QUIC stream that may be under way: the window of 1 Gbit/s over 128 ms.
pub const QUIC_STREAM_WINDOW_BYTES: u32 = 16 << 20;

/// Bytes of one QUIC connection that may be under way, all its streams together.
pub const QUIC_CONNECTION_WINDOW_BYTES: u32 = 64 << 20;

/// Streams of one connection that are being negotiated at the same time. More wait.
pub const NEGOTIATING_MAX: usize = 1024;

/// How long a stream's negotiation may take.
pub const NEGOTIATION_TIMEOUT: Duration = Duration::from_secs(10);

/// How long a connection's handshake may take, the exchange of [`admission`](crate) included: five
/// round trips of 3 s.
pub const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(15);

/// Bytes of the first message of a connection: a certificate and the network's name.
pub const ADMISSION_BYTES_MAX: u64 = 2048;

/// How long a refused peer may take to read why.
pub const REFUSAL_TIME: Duration = Duration::from_secs(1);

/// Pause between two pings of a connection. NAT mappings live 55 s or longer.
pub const PING_INTERVAL: Duration = Duration::from_secs(5);

/// A ping without an answer for so long has failed. Two in a row end the connection.
pub const PING_TIMEOUT: Duration = Duration::from_secs(5);

/// Pings in a row that may fail.
pub const PING_FAILURES_MAX: u32 = 2;

/// A connection without streams ends after this long.
pub const IDLE_TIME: Duration = Duration::from_secs(600);

/// Connections at the same time: each costs some 100 kB.
pub const CONNECTIONS_MAX: u32 = 1024;

/// Connections with one peer: relayed, direct, and both once more when both sides dial.
pub const CONNECTIONS_PER_PEER_MAX: u32 = 6;

/// Handshakes under way, each way.
pub const HANDSHAKES_MAX: u32 = 256;

/// Dials of one peer that wait for a connection to it. Each is a guest's connect.
pub const WAITING_PER_PEER_MAX: usize = 4096;

/// How often the swarm's task looks after what no event tells.
pub const TICK: Duration = Duration::from_millis(500);

/// The first pause before a bootstrap is dialled again; it doubles, with jitter, up to
/// [`BOOTSTRAP_RETRY_MAX`].
pub const BOOTSTRAP_RETRY_FIRST: Duration = Duration::from_millis(500);

/// See [`BOOTSTRAP_RETRY_FIRST`].
pub const BOOTSTRAP_RETRY_MAX: Duration = Duration::from_secs(30);

/// Addresses of one peer that are tried.
pub const ADDRESSES_MAX: usize = 16;

/// How long a direct connection stands before the relayed one without streams is closed: what is
/// being opened over it may still come.
pub const SPARE_TIME: Duration = Duration::from_secs(5);

/// Peers that may have a place at this gateway as a supernode, by which others reach them.
pub const RESERVATIONS_MAX: usize = 1024;

/// Places of one peer: one per connection, and a renewal beside each.
pub const RESERVATIONS_PER_PEER_MAX: usize = 8;

/// How long a place is kept without a renewal. libp2p renews at three quarters.
pub const RESERVATION_TIME: Duration = Duration::from_secs(3600);

/// Relayed connections at the same time, each with two streams and two buffers of 8 KiB.
pub const CIRCUITS_MAX: usize = 1024;

/// Relayed connections that one peer may begin.
pub const CIRCUITS_PER_PEER_MAX: usize = 32;

/// The longest relayed connection. Not 0: to libp2p that means "at once".
pub const CIRCUIT_TIME_MAX: Duration = Duration::from_secs(7 * 24 * 3600);

/// Bytes of a record in the directory.
pub const RECORD_BYTES_MAX: usize = 4096;

/// Records of others that this gateway keeps for the network, 16 MiB at the most.
pub const RECORDS_MAX: usize = 4096;

/// How long a lookup may take.
pub const LOOKUP_TIMEOUT: Duration = Duration::from_secs(10);

/// Bytes of a network's name.
pub const NETWORK_BYTES_MAX: usize = 64;

/// Bytes of one address: through a supernode with two keys it has some 200.
pub const ADDRESS_BYTES_MAX: usize = 256;

/// How long a record holds. It is put anew after a quarter, so that its addresses are true.
pub const RECORD_LIFETIME: Duration = Duration::from_secs(3600);

/// The longest life that others' records may claim.
pub const RECORD_LIFETIME_MAX: Duration = Duration::from_secs(24 * 3600);

/// By how much clocks may differ.
pub const CLOCK_SKEW_MAX: Duration = Duration::from_secs(300);

/// The pause before a record that could not be put into the directory is put again.
pub const PUBLISH_RETRY: Duration = Duration::from_secs(2);

/// How long a lookup waits for a later record after the first good one. Nodes answer together.
pub const LATER_RECORD_WAIT: Duration = Duration::from_millis(200);

/// Answers of one lookup that are looked at.
pub const ANSWERS_MAX: usize = 64;
