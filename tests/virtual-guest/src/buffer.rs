//! Buffer: packets in guest memory, scattered over pieces.
//!
//! in: bytes of packets, pieces of a layout; out: descriptors, bytes. Owned by the driver. Kept:
//! bytes behind an RX piece stay as they are unless the device runs over its end, and then that is
//! seen. Bound: slots are allocated once, at boot.

use crate::layout::{GAP_BYTES, Piece};
use crate::memory::{GuestMemory, MemoryError, Place};
use crate::options::Options;
use crate::ring::{DESC_WRITE, Descriptor};
use crate::violation::ViolationKind;

const CANARY: [u8; GAP_BYTES] = [0xa5; GAP_BYTES];

/// The payload of a packet to send.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Payload<'a> {
    /// Copied in, as a kernel does.
    Bytes(&'a [u8]),
    /// That many bytes of whatever lies in the slot: the guest's copy costs nothing.
    InPlace(usize),
}

impl Payload<'_> {
    pub(crate) fn len(self) -> usize {
        match self {
            Self::Bytes(bytes) => bytes.len(),
            Self::InPlace(len) => len,
        }
    }
}

/// An RX buffer, cut once and for all.
#[derive(Debug)]
pub(crate) struct RxSlot {
    pub place: Place,
    pub chain: Vec<Descriptor>,
    pieces: Vec<Piece>,
}

impl RxSlot {
    pub(crate) fn allocate(
        memory: &mut GuestMemory,
        options: &Options,
        index: usize,
    ) -> Result<Self, MemoryError> {
        let place = memory.allocate(options.layout.rx.slot_bytes())?;
        let pieces = options.layout.rx.pieces(index);
        for piece in &pieces {
            memory.write(place.offset + piece.offset + piece.len, &CANARY);
        }
        let chain = pieces.iter().map(|piece| descriptor(place, *piece, DESC_WRITE)).collect();
        Ok(Self { place, chain, pieces })
    }

    /// Looks whether the device wrote behind one of the pieces.
    pub(crate) fn check_canaries(&self, memory: &GuestMemory) -> Result<(), ViolationKind> {
        for piece in &self.pieces {
            let at = self.place.offset + piece.offset + piece.len;
            let mut gap = [0; GAP_BYTES];
            memory.read(at, &mut gap);
            if gap != CANARY {
                memory.write(at, &CANARY);
                return Err(ViolationKind::WroteOutsideBuffer);
            }
        }
        Ok(())
    }

    /// Copies bytes out, from `skip` bytes behind the packet's start.
    #[inline]
    pub(crate) fn copy_out(&self, memory: &GuestMemory, mut skip: usize, mut to: &mut [u8]) {
        for piece in &self.pieces {
            if to.is_empty() {
                return;
            }
            if skip >= piece.len {
                skip -= piece.len;
                continue;
            }
            let len = to.len().min(piece.len - skip);
            let (now, rest) = to.split_at_mut(len);
            memory.read(self.place.offset + piece.offset + skip, now);
            to = rest;
            skip = 0;
        }
    }
}

/// The descriptor of a piece.
#[inline]
pub(crate) fn descriptor(place: Place, piece: Piece, flags: u16) -> Descriptor {
    let len = u32::try_from(piece.len).unwrap_or(u32::MAX);
    Descriptor { address: place.address + piece.offset as u64, len, flags, next: 0 }
}

/// Writes header and payload over the pieces, in their order.
#[inline]
pub(crate) fn scatter(
    memory: &GuestMemory,
    place: Place,
    pieces: &[Piece],
    header: &[u8],
    payload: Payload<'_>,
) {
    let mut header = header;
    let mut payload = match payload {
        Payload::Bytes(bytes) => bytes,
        Payload::InPlace(_) => &[],
    };
    for piece in pieces {
        let mut at = place.offset + piece.offset;
        let mut room = piece.len;
        for source in [&mut header, &mut payload] {
            let (now, later) = source.split_at(source.len().min(room));
            memory.write(at, now);
            *source = later;
            at += now.len();
            room -= now.len();
        }
    }
}
