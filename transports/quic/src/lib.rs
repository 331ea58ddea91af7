//! QUIC between gateways.
//!
//! in:  guests' dials to a peer; a peer's streams
//! out: [`Dialed`](outsock_transport::Dialed) streams; [`Incoming`] streams for the daemon to serve
//! owner: one [`Endpoint`] per gateway (one UDP socket), one [`Peer`] per configured peer
//! keeps: a peer is who holds its key, and nobody else gets past the handshake; a connection to each
//!        peer is kept warm, so a guest's connect costs one round trip more than the far dial; a reset
//!        is a reset with its errno, and a stream dropped unfinished is one too
//! bound: [`limits`], and the windows of [`Settings`]: what all peers together may make us hold is
//!        [`Settings::memory_max`]
//!
//! | Module | What it holds |
//! |---|---|
//! | `endpoint` | the UDP socket, handshakes of others, drain and end |
//! | `peer` | one peer: its connections, its [`Transport`](outsock_transport::Transport) |
//! | `warm` | keeps a connection to a peer: back-off, several addresses |
//! | `link` | one QUIC connection: streams that come in, control messages |
//! | `stream` | one guest's connection as an [`AsyncStream`](outsock_transport::AsyncStream) |
//! | `datagrams` | sessions of datagrams |
//! | `incoming` | a stream of a peer before it is answered |
//! | `tls` | certificates, and that they have the right key |
//! | `settings`, `tuning` | what can be set, and what quinn makes of it |
//! | `failure` | quinn's errors as errnos |
//!
//! # Decisions
//!
//! * **No 0-RTT, no session tickets.** Each connection is a full handshake: what was captured cannot
//!   be replayed, and a peer that is removed from the configuration cannot resume.
//! * **Ends are QUIC's own**: FIN, and RESET_STREAM / STOP_SENDING whose code is the errno. quinn
//!   finishes a stream that is dropped; ours resets it.
//! * **A peer that starts anew** says so in its first control message, and by stateless resets whose key
//!   follows from its identity: connections to its earlier life end at once with `ECONNRESET`.
//! * **Large datagrams** go through the session's stream: none is cut or lost without a word.
//! * **A stream's window is a part of its connection's**, so that streams that nobody reads leave room for
//!   others. quinn fixes windows when a connection begins; they do not follow how fast a stream is read.
//!
//! # What the tests do not stage
//!
//! A network card whose GSO fails in the middle (the suite runs without offloads instead); a connection
//! idle for an hour (three times the time after which a silent peer is dead instead); a change of the
//! host's interfaces (the UDP socket moves instead). Delay, loss, cuts and small paths are made in user
//! space, because the test kernels have no `netem`.
#![forbid(unsafe_code)]

mod datagrams;
mod endpoint;
mod failure;
mod incoming;
pub mod limits;
mod link;
mod peer;
mod settings;
mod stream;
mod tls;
mod tuning;
mod warm;

pub use datagrams::Datagrams;
pub use endpoint::{Endpoint, StartError};
pub use incoming::Incoming;
pub use peer::{Peer, PeerStatus};
pub use settings::{Congestion, PeerSettings, Settings};
