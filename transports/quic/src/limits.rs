//! Bounds of the QUIC transport, with unit and reason. What a configuration may change has its
//! default in [`Settings`](crate::Settings).

use std::time::Duration;

/// Streams of peers that wait for the daemon to look at them. Each has one header.
pub const INCOMING_WAITING_MAX: usize = 1024;

/// Handshakes with others under way at the same time, before they have proved to be a peer. Each
/// costs some 50 kB.
pub const HANDSHAKES_MAX: usize = 256;

/// From so many on, whoever begins a handshake must first show that its address is its own.
pub const HANDSHAKES_TRUSTED_MAX: usize = 32;

/// How long a handshake that a peer began may take: a round trip of 3 s, three times.
pub const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);

/// How long one that we began may take before it is begun anew. QUIC repeats its first packet with
/// growing pauses, so a path that heals is found by a new try rather than by an old one.
pub const DIAL_TIMEOUT: Duration = Duration::from_secs(4);

/// Connections with one peer at the same time. Each may hold its windows.
pub const LINKS_PER_PEER_MAX: usize = 8;

/// The first wait before a peer is dialled again.
pub const RETRY_FIRST: Duration = Duration::from_millis(200);

/// The longest wait: a peer that is back is found within this, and a silent one costs a packet or
/// two each time.
pub const RETRY_MAX: Duration = Duration::from_secs(5);

/// How long the next address of a peer waits for the one before (RFC 8305, 5).
pub const NEXT_ADDRESS: Duration = Duration::from_millis(250);

/// Addresses of one peer that are tried.
pub const ADDRESSES_MAX: usize = 16;

/// How long a dial waits for the peer's leave to open one more stream, which comes as soon as any
/// other stream ends; and how long a peer's stream waits for the daemon to look at it.
pub const STREAM_WAIT: Duration = Duration::from_secs(5);

/// Streams that a peer may open in one second, after a burst of as many. More are refused: each
/// costs a lookup and a dial.
pub const OPENS_PER_SECOND: u32 = 20_000;

/// How long a connection that became superfluous (both sides dialled) stays without streams.
pub const SPARE_LINK_TIME: Duration = Duration::from_secs(5);

/// How long the end of a connection may take to reach the peer.
pub const CLOSE_TIMEOUT: Duration = Duration::from_secs(1);

/// How often a drain looks whether all streams have ended.
pub const DRAIN_POLL: Duration = Duration::from_millis(20);

/// Bytes of datagrams of all sessions of a connection that wait to be read, and as many that wait to be
/// sent on the sessions' streams. More are dropped and counted.
pub const DATAGRAM_WAITING_BYTES_MAX: usize = 16 << 20;

/// Datagrams of one session that wait to be sent on its stream.
pub const PIECES_WAITING_MAX: usize = 64;

/// Bytes of one datagram: the most that UDP over IPv4 carries.
pub const DATAGRAM_BYTES_MAX: usize = 65_507;

/// Sessions of datagrams in one connection.
pub const SESSIONS_MAX: usize = 4096;

/// Lines about strangers' handshakes and refused streams that are logged per second; the next one
/// says how many were left out.
pub const LOG_LINES_PER_SECOND: u32 = 2;

/// See [`LOG_LINES_PER_SECOND`].
pub const LOG_LINES_BURST: u32 = 20;
