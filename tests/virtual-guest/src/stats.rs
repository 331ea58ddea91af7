//! Stats: what went over the rings, counted.
//!
//! in: increments by the driver and the stack; out: a copy for tests. A value under the guest's
//! lock. Kept: numbers only grow, also over a reboot. Bound: none needed.

/// What went over the rings.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stats {
    /// Packets put on the TX ring.
    pub tx_packets: u64,
    /// Payload bytes in them.
    pub tx_bytes: u64,
    /// Packets taken from the RX ring.
    pub rx_packets: u64,
    /// Payload bytes in them.
    pub rx_bytes: u64,
    /// Times the TX queue was kicked.
    pub tx_kicks: u64,
    /// Times the RX queue was kicked.
    pub rx_kicks: u64,
    /// CREDIT_UPDATE packets received.
    pub rx_credit_updates: u64,
    /// CREDIT_UPDATE packets sent.
    pub tx_credit_updates: u64,
    /// RST packets for connections that we do not know.
    pub stray_resets: u64,
    /// Late packets for connections that this side has ended: legal, answered with RST.
    pub late_packets: u64,
    /// REQUESTs from the host: nobody listens here, answered with RST.
    pub host_requests: u64,
    /// Times RX was stopped because too many replies waited.
    pub rx_stops: u64,
}
