//! Options: which guest to play.
//!
//! in: what a test sets; out: what frontend, driver and sockets read. A value, copied at connect.

use std::time::Duration;

use outsock_core::address::Cid;

use crate::layout::Layout;
use crate::limits;

/// When a reader sends CREDIT_UPDATE.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CreditRule {
    /// When less than 64 KiB are free from the peer's point of view (Linux up to 6.7).
    FreeBelow64K,
    /// Also whenever the queue was emptied (later kernels).
    FreeBelow64KOrEmpty,
}

/// Whether the number of queued packets is limited beside their bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PacketLimit {
    /// It is not (older kernels).
    None,
    /// Counted as a violation; the connection lives on.
    Report,
    /// The connection is reset with ENOBUFS, as new kernels do.
    Reset,
}

/// When the TX queue's interrupt is wanted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TxInterrupts {
    /// Whenever the driver sleeps, as Linux.
    Always,
    /// Only while somebody waits for room in the ring: for benchmarks of the gateway alone.
    WhenBlocked,
}

/// Which guest to play. Build from [`Options::default`] or [`Options::for_layout`].
#[derive(Clone, Debug)]
pub struct Options {
    /// How buffers are cut.
    pub layout: Layout,
    /// Entries of each ring: a power of two, 8 to 1024. QEMU gives 128.
    pub ring_size: u16,
    /// 2 (QEMU: RX and TX) or 3 (also the event queue).
    pub queues: usize,
    /// Our CID; `None` reads the device's configuration space.
    pub cid: Option<Cid>,
    /// Accept VIRTIO_RING_F_EVENT_IDX where offered.
    pub event_idx: bool,
    /// Accept VIRTIO_RING_F_INDIRECT_DESC where offered.
    pub indirect: bool,
    /// Regions of guest memory, 1 to 7.
    pub regions: usize,
    /// Bytes of each connection's receive buffer; it also bounds what we send.
    pub buf_alloc: u32,
    /// Largest payload of one packet.
    pub packet_bytes_max: usize,
    /// When readers send CREDIT_UPDATE.
    pub credit_rule: CreditRule,
    /// Whether queued packets are counted.
    pub packet_limit: PacketLimit,
    /// When TX interrupts are wanted.
    pub tx_interrupts: TxInterrupts,
    /// Check that the device writes only inside descriptors (costs a read per packet).
    pub canaries: bool,
    /// How long a REQUEST may stay unanswered.
    pub connect_timeout: Duration,
    /// How long a closed connection waits for RST.
    pub close_timeout: Duration,
    /// How long any blocking call may take.
    pub patience: Duration,
}

impl Default for Options {
    fn default() -> Self {
        Self::for_layout(Layout::linux_6_12())
    }
}

impl Options {
    /// Linux of that layout in QEMU.
    pub fn for_layout(layout: Layout) -> Self {
        let newest = layout.rx.buffer_bytes() < 4096;
        Self {
            layout,
            ring_size: 128,
            queues: 2,
            cid: None,
            event_idx: true,
            indirect: true,
            regions: 1,
            buf_alloc: limits::BUF_ALLOC_BYTES_DEFAULT,
            packet_bytes_max: limits::PACKET_PAYLOAD_BYTES_MAX,
            credit_rule: if newest {
                CreditRule::FreeBelow64KOrEmpty
            } else {
                CreditRule::FreeBelow64K
            },
            packet_limit: if newest { PacketLimit::Reset } else { PacketLimit::Report },
            tx_interrupts: TxInterrupts::Always,
            canaries: true,
            connect_timeout: limits::CONNECT_TIMEOUT_DEFAULT,
            close_timeout: limits::CLOSE_TIMEOUT,
            patience: limits::PATIENCE_DEFAULT,
        }
    }
}
