//! Layout: how a kernel cuts its buffers into descriptors, as data.
//!
//! in: the length of a payload; out: pieces, relative to the start of a buffer slot. Pure. Kept:
//! pieces never overlap, and every slot's pieces fit into [`TX_SLOT_BYTES`] or
//! its RX slot. Bound: [`limits::CHAIN_DESCRIPTORS_MAX`] pieces per buffer.

use outsock_core::packet::HEADER_BYTES;

use crate::limits::{self, PACKET_PAYLOAD_BYTES_MAX};

const PAGE_BYTES: usize = 4096;

/// Colours of slots: headers at one offset in every page would share one set of the L1 cache.
const COLOURS: usize = 32;
const LINE_BYTES: usize = 64;

/// Bytes of a TX slot: the indirect table and the colours, then the largest payload, then room for
/// the pages of a fragmented one, which start on page boundaries.
pub const TX_SLOT_BYTES: usize = PAGE_BYTES + PACKET_PAYLOAD_BYTES_MAX + 2 * PAGE_BYTES;

/// Bytes between two pieces that must not touch, so that a device which runs on past a piece's end
/// is found out.
pub(crate) const GAP_BYTES: usize = 16;

/// A part of a buffer: one descriptor.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Piece {
    /// Offset into the slot.
    pub offset: usize,
    /// Bytes.
    pub len: usize,
}

/// How RX buffers are cut.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RxLayout {
    /// Bytes of each descriptor.
    pub descriptors: Vec<u32>,
}

impl RxLayout {
    /// Linux up to 6.2: the header, then a page.
    pub fn linux_6_1() -> Self {
        Self::of(&[44, 4096])
    }

    /// Linux from 6.3: one descriptor for both.
    pub fn linux_6_12() -> Self {
        Self::of(&[44 + 4096])
    }

    /// Linux from 6.17, and late stable kernels: `SKB_WITH_OVERHEAD(4096)` with the header inside.
    pub fn linux_7_2() -> Self {
        Self::of(&[3776])
    }

    /// Descriptors of these lengths.
    pub fn of(descriptors: &[u32]) -> Self {
        let mut descriptors = descriptors.to_vec();
        descriptors.truncate(limits::CHAIN_DESCRIPTORS_MAX);
        Self { descriptors }
    }

    /// Bytes of a buffer.
    pub fn buffer_bytes(&self) -> usize {
        self.descriptors.iter().map(|len| *len as usize).sum()
    }

    pub(crate) fn slot_bytes(&self) -> usize {
        let gaps = self.descriptors.len() * GAP_BYTES;
        (start(COLOURS - 1) + self.buffer_bytes() + gaps).next_multiple_of(PAGE_BYTES)
    }

    /// The pieces of slot number `index`.
    pub(crate) fn pieces(&self, index: usize) -> Vec<Piece> {
        let mut offset = start(index);
        self.descriptors
            .iter()
            .map(|len| {
                let piece = Piece { offset, len: *len as usize };
                offset += piece.len + GAP_BYTES;
                piece
            })
            .collect()
    }
}

/// How TX packets are cut.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TxLayout {
    /// Linux up to 6.16: the header, then the payload in one descriptor.
    Linear,
    /// Linux from 6.17: payload above `above` bytes in many descriptors, the first one of `first`
    /// bytes and the others of `each`, which do not follow one another in memory.
    Fragmented {
        /// Payload up to here is linear.
        above: usize,
        /// Bytes of the first fragment (at most a page).
        first: usize,
        /// Bytes of the others (at most a page).
        each: usize,
    },
    /// The header over three descriptors.
    HeaderSplit,
    /// Header and payload in one descriptor.
    OneDescriptor,
    /// The header, and the first bytes of the payload, in descriptors of one byte.
    SingleBytes,
    /// Descriptors of zero length before, between and behind.
    ZeroLengths,
}

impl TxLayout {
    /// Linux 6.17 and later, sending from a kernel copy: page after page.
    pub const LINUX_7_2: Self =
        Self::Fragmented { above: 32 * 1024, first: PAGE_BYTES, each: PAGE_BYTES };

    /// Linux 6.17 and later with MSG_ZEROCOPY from memory that does not start on a page: 17
    /// fragments for 64 KiB.
    pub const LINUX_7_2_ZEROCOPY: Self =
        Self::Fragmented { above: 0, first: 100, each: PAGE_BYTES };

    /// Descriptors that the longest packet takes.
    pub fn descriptors_max(self) -> usize {
        let mut pieces = Vec::new();
        self.pieces(0, PACKET_PAYLOAD_BYTES_MAX, &mut pieces);
        pieces.len()
    }

    /// Puts the pieces of a packet in slot number `index` into `pieces`, header first.
    #[inline]
    pub(crate) fn pieces(self, index: usize, payload: usize, pieces: &mut Vec<Piece>) {
        pieces.clear();
        let offset = start(index);
        match self {
            Self::Fragmented { above, first, each } if payload > above => {
                pieces.push(Piece { offset, len: HEADER_BYTES });
                fragments(payload, first, each, pieces);
            }
            Self::Linear | Self::Fragmented { .. } => {
                pieces.push(Piece { offset, len: HEADER_BYTES });
                if payload > 0 {
                    pieces.push(Piece { offset: offset + HEADER_BYTES, len: payload });
                }
            }
            Self::HeaderSplit => cut(offset, &[13, 1, 30, payload], pieces),
            Self::OneDescriptor => cut(offset, &[HEADER_BYTES + payload], pieces),
            Self::SingleBytes => {
                let ones = HEADER_BYTES + payload.min(4);
                let mut lens = [1; HEADER_BYTES + 5];
                lens[ones] = payload - (ones - HEADER_BYTES);
                cut(offset, &lens[..=ones], pieces);
                pieces.retain(|piece| piece.len > 0);
            }
            Self::ZeroLengths => cut(offset, &[0, HEADER_BYTES, 0, 0, payload, 0], pieces),
        }
        // A driver never queues an empty payload descriptor, except where the layout is about it.
        if payload == 0 && self == Self::HeaderSplit {
            pieces.pop();
        }
    }
}

/// Where the pieces of slot `index` start: behind the indirect table, with the payload that
/// follows a header on a cache line.
fn start(index: usize) -> usize {
    limits::INDIRECT_TABLE_BYTES + (index % COLOURS) * LINE_BYTES + (LINE_BYTES - HEADER_BYTES)
}

fn cut(mut offset: usize, lens: &[usize], pieces: &mut Vec<Piece>) {
    for &len in lens {
        pieces.push(Piece { offset, len });
        offset += len + GAP_BYTES;
    }
}

fn fragments(payload: usize, first: usize, each: usize, pieces: &mut Vec<Piece>) {
    let (first, each) = (first.clamp(1, PAGE_BYTES), each.clamp(1, PAGE_BYTES));
    // Pages from the slot's end backwards: neighbours in the packet are none in memory.
    let mut page = TX_SLOT_BYTES;
    let mut left = payload;
    let mut room = first;
    while left > 0 {
        page -= PAGE_BYTES;
        let len = left.min(room);
        pieces.push(Piece { offset: page + (PAGE_BYTES - room), len });
        left -= len;
        room = each;
    }
}

/// The buffers of one kernel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Layout {
    /// For messages.
    pub name: &'static str,
    /// RX buffers.
    pub rx: RxLayout,
    /// TX packets.
    pub tx: TxLayout,
}

impl Layout {
    /// Linux 6.1.
    pub fn linux_6_1() -> Self {
        Self { name: "linux 6.1", rx: RxLayout::linux_6_1(), tx: TxLayout::Linear }
    }

    /// Linux 6.12.
    pub fn linux_6_12() -> Self {
        Self { name: "linux 6.12", rx: RxLayout::linux_6_12(), tx: TxLayout::Linear }
    }

    /// Linux 7.2.
    pub fn linux_7_2() -> Self {
        Self { name: "linux 7.2", rx: RxLayout::linux_7_2(), tx: TxLayout::LINUX_7_2 }
    }

    /// The kernels that a gateway must serve.
    pub fn kernels() -> Vec<Self> {
        vec![Self::linux_6_1(), Self::linux_6_12(), Self::linux_7_2()]
    }

    /// Layouts that no Linux has and the specification allows.
    pub fn odd() -> Vec<Self> {
        let odd = |name, rx: &[u32], tx| Self { name, rx: RxLayout::of(rx), tx };
        vec![
            odd("zerocopy", &[3776], TxLayout::LINUX_7_2_ZEROCOPY),
            odd("header split", &[10, 1, 33, 1000, 3000], TxLayout::HeaderSplit),
            odd("one descriptor", &[65_536], TxLayout::OneDescriptor),
            odd("single bytes", &[1, 43, 1, 1, 1, 512], TxLayout::SingleBytes),
            odd("zero lengths", &[0, 44, 0, 4096, 0], TxLayout::ZeroLengths),
        ]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TX: [TxLayout; 7] = [
        TxLayout::Linear,
        TxLayout::LINUX_7_2,
        TxLayout::LINUX_7_2_ZEROCOPY,
        TxLayout::HeaderSplit,
        TxLayout::OneDescriptor,
        TxLayout::SingleBytes,
        TxLayout::ZeroLengths,
    ];

    #[test]
    fn pieces_hold_the_packet_and_stay_in_their_slot() {
        let mut pieces = Vec::new();
        for layout in TX {
            for payload in [0, 1, 3, 4, 5, 4096, 32_768, 32_769, 65_535, 65_536] {
                for index in [0, 31] {
                    layout.pieces(index, payload, &mut pieces);
                    let total: usize = pieces.iter().map(|piece| piece.len).sum();
                    assert_eq!(total, HEADER_BYTES + payload, "{layout:?} {payload}");
                    assert!(pieces.len() <= limits::CHAIN_DESCRIPTORS_MAX);
                    let mut sorted = pieces.clone();
                    sorted.sort_by_key(|piece| piece.offset);
                    for pair in sorted.windows(2) {
                        assert!(pair[0].offset + pair[0].len <= pair[1].offset, "{layout:?}");
                    }
                    let end = sorted.last().map(|piece| piece.offset + piece.len);
                    assert!(end <= Some(TX_SLOT_BYTES), "{layout:?} {payload}");
                    assert!(sorted[0].offset >= limits::INDIRECT_TABLE_BYTES);
                }
            }
        }
    }

    #[test]
    fn kernels_have_the_descriptors_that_were_measured() {
        assert_eq!(TxLayout::Linear.descriptors_max(), 2);
        assert_eq!(TxLayout::LINUX_7_2.descriptors_max(), 1 + 16);
        assert_eq!(TxLayout::LINUX_7_2_ZEROCOPY.descriptors_max(), 1 + 17);
        assert_eq!(RxLayout::linux_6_1().buffer_bytes(), 4140);
        assert_eq!(RxLayout::linux_7_2().buffer_bytes() - HEADER_BYTES, 3732);
    }

    #[test]
    fn rx_pieces_leave_gaps_and_fit() {
        for layout in Layout::kernels().into_iter().chain(Layout::odd()) {
            let pieces = layout.rx.pieces(31);
            for pair in pieces.windows(2) {
                assert_eq!(pair[0].offset + pair[0].len + GAP_BYTES, pair[1].offset);
            }
            let end = pieces.last().map_or(0, |piece| piece.offset + piece.len + GAP_BYTES);
            assert!(end <= layout.rx.slot_bytes(), "{}", layout.name);
        }
    }
}
