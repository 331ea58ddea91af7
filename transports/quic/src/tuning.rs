//! Tuning: [`Settings`] as quinn takes them.
//!
//! in:  settings, the number of connections that share the memory
//! out: a transport configuration, a UDP socket with buffers
//! owner: whoever makes connections
//! keeps: windows of all connections together stay within [`Settings::memory_max`]; a stream has a part of
//!        its connection's window, so that streams that nobody reads do not stop the others; the idle time and
//!        the keep-alive together detect a dead peer within [`Settings::dead_after`]
//! bound: as the settings say

use std::io;
use std::net::{SocketAddr, UdpSocket};
use std::sync::Arc;
use std::time::Duration;

use quinn::congestion::{BbrConfig, ControllerFactory, CubicConfig, NewRenoConfig};
use quinn::{AckFrequencyConfig, IdleTimeout, MtuDiscoveryConfig, TransportConfig, VarInt};
use socket2::{Domain, Protocol, Socket, Type};

use crate::limits;
use crate::settings::{Congestion, Settings};

/// A round trip before the first one is measured: two sites of one continent.
const INITIAL_RTT: Duration = Duration::from_millis(100);

/// Packets that one acknowledgement may cover.
const ACK_THRESHOLD: u32 = 10;

/// The least window of a connection, whatever the memory: a stream must get on.
const WINDOW_MIN: u64 = 256 << 10;

/// A stream's window is at most such a part of its connection's, so that 48 that nobody reads leave room
/// for the others: quinn tells of new room when an eighth of the window is free.
const STREAMS_FULL_MIN: u64 = 64;

/// The least window of a stream, whatever the memory.
const STREAM_WINDOW_MIN: u64 = 64 << 10;

/// For one connection of `sharing` that share the memory.
pub(crate) fn transport(
    settings: &Settings,
    congestion: Congestion,
    sharing: usize,
) -> TransportConfig {
    let mut transport = TransportConfig::default();
    // Half for what was received and not read, half for what was sent and not acknowledged.
    let share = settings.memory_max / 2 / (sharing.max(1) as u64);
    let window = u64::from(settings.connection_window).min(share).max(WINDOW_MIN);
    let fair = (window / STREAMS_FULL_MIN).max(STREAM_WINDOW_MIN);
    let stream_window = u64::from(settings.stream_window).min(fair);
    let fits = |bytes: u64| VarInt::from_u64(bytes).unwrap_or(VarInt::MAX);
    transport
        .receive_window(fits(window))
        .stream_receive_window(fits(stream_window))
        .send_window(window)
        .max_concurrent_bidi_streams(settings.streams_max.into())
        // The control stream, and one for a later version.
        .max_concurrent_uni_streams(2_u32.into())
        .max_idle_timeout(idle_timeout(settings))
        .keep_alive_interval(Some(settings.dead_after / 4))
        .initial_rtt(INITIAL_RTT)
        .enable_segmentation_offload(settings.offload)
        .datagram_receive_buffer_size(Some(1 << 20))
        .datagram_send_buffer_size(1 << 20)
        .congestion_controller_factory(controller(congestion));
    let mut discovery = MtuDiscoveryConfig::default();
    discovery.upper_bound(settings.mtu_max);
    transport.mtu_discovery_config((settings.mtu_max > 1200).then_some(discovery));
    let mut acks = AckFrequencyConfig::default();
    acks.ack_eliciting_threshold(ACK_THRESHOLD.into());
    transport.ack_frequency_config(settings.ack_frequency.then_some(acks));
    transport
}

/// A ping goes out at the latest a quarter of the time after the last packet came, and the idle time
/// counts from that ping: together they are less than the whole.
fn idle_timeout(settings: &Settings) -> Option<IdleTimeout> {
    IdleTimeout::try_from(settings.dead_after * 7 / 10).ok()
}

fn controller(congestion: Congestion) -> Arc<dyn ControllerFactory + Send + Sync> {
    match congestion {
        Congestion::Cubic => Arc::new(CubicConfig::default()),
        Congestion::Bbr => Arc::new(BbrConfig::default()),
        Congestion::NewReno => Arc::new(NewRenoConfig::default()),
    }
}

/// A bound UDP socket with large buffers, for both families where the address is `[::]`.
pub(crate) fn bind(at: SocketAddr, buffer: usize) -> io::Result<UdpSocket> {
    let socket = Socket::new(Domain::for_address(at), Type::DGRAM.cloexec(), Some(Protocol::UDP))?;
    if at.is_ipv6() {
        socket.set_only_v6(false)?;
    }
    // Root may go beyond the system's limit (net.core.rmem_max); others get what it allows.
    if rustix::net::sockopt::set_socket_recv_buffer_size_force(&socket, buffer).is_err() {
        socket.set_recv_buffer_size(buffer)?;
    }
    socket.set_send_buffer_size(buffer)?;
    let granted = socket.recv_buffer_size()?;
    if granted < buffer {
        tracing::warn!(
            granted,
            wanted = buffer,
            "small UDP buffer: bulk transfers will lose packets; raise net.core.rmem_max"
        );
    }
    socket.bind(&at.into())?;
    Ok(socket.into())
}

/// Lines that a stranger or a peer may cause, and streams that a peer may open: so many a second.
#[derive(Debug)]
pub(crate) struct Rate {
    per_second: u32,
    burst: u32,
    state: std::sync::Mutex<RateState>,
}

#[derive(Debug)]
struct RateState {
    tokens: f64,
    at: std::time::Instant,
    left_out: u64,
}

impl Rate {
    pub(crate) fn new(per_second: u32, burst: u32) -> Self {
        let state = RateState { tokens: burst.into(), at: std::time::Instant::now(), left_out: 0 };
        Self { per_second, burst, state: std::sync::Mutex::new(state) }
    }

    /// For log lines.
    pub(crate) fn for_log() -> Self {
        Self::new(limits::LOG_LINES_PER_SECOND, limits::LOG_LINES_BURST)
    }

    /// `Some` when one more is within the rate: how many were not since the last one that was.
    pub(crate) fn admit(&self) -> Option<u64> {
        let mut state = self.state.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let now = std::time::Instant::now();
        let earned = now.duration_since(state.at).as_secs_f64() * f64::from(self.per_second);
        state.tokens = (state.tokens + earned).min(self.burst.into());
        state.at = now;
        if state.tokens < 1.0 {
            state.left_out += 1;
            return None;
        }
        state.tokens -= 1.0;
        Some(std::mem::take(&mut state.left_out))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_dead_peer_is_seen_in_time() {
        let settings = Settings::default();
        let idle = idle_timeout(&settings).expect("a time that QUIC can express");
        let whole = IdleTimeout::try_from(settings.dead_after * 3 / 4).expect("so is this");
        assert!(idle <= whole, "with a quarter until the ping: {idle:?}");
        assert!(settings.dead_after <= Duration::from_secs(15));
    }

    #[test]
    fn a_rate_lets_a_burst_through_and_counts_the_rest() {
        let rate = Rate::new(1, 3);
        let admitted = (0..10).filter(|_| rate.admit().is_some()).count();
        assert_eq!(admitted, 3);
    }
}
