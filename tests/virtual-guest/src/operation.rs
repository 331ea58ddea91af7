//! Operation: one step of a hostile guest, as data, for fuzz targets.
//!
//! in: a fuzzer's bytes; out: operations, and their effect on a [`RawGuest`]. Pure until applied.
//! Kept: any bytes are some list of operations, so that a fuzzer wastes none; the same bytes are
//! always the same list. Bound: [`OPERATIONS_MAX`] per list.

use outsock_core::packet::HEADER_BYTES;

use crate::driver::{RX, TX};
use crate::guest::GuestError;
use crate::raw::RawGuest;
use crate::ring::{DESC_INDIRECT, Descriptor};

/// Operations in one list: enough for any interesting order, few enough for a thousand lists a
/// second.
pub const OPERATIONS_MAX: usize = 256;

/// Descriptors in one made-up chain.
const CHAIN_MAX: usize = 40;

/// A hostile guest's step.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Operation {
    /// A packet whose tuple is one of a few, so that the next ones meet it; `op` and `len` may be
    /// wrong.
    Packet {
        /// The guest's port: one of four.
        guest_port: u8,
        /// Index into the host ports that the target cares about.
        host_port: u8,
        /// The op, as on the wire.
        op: u16,
        /// The socket type; 1 is right.
        socket_type: u16,
        /// The header's `flags`.
        flags: u32,
        /// Added to the true length in the header's `len`.
        len_error: u32,
        /// `buf_alloc`.
        buf_alloc: u32,
        /// `fwd_cnt`.
        fwd_cnt: u32,
        /// Added to our CID in `src_cid`.
        cid_error: u8,
        /// Bytes of payload.
        payload: u16,
    },
    /// Any bytes as a packet.
    Bytes(Vec<u8>),
    /// A chain of made-up descriptors.
    Chain {
        /// Which queue.
        queue: u8,
        /// The descriptors; NEXT is set between them.
        descriptors: Vec<Descriptor>,
        /// Through an indirect table.
        indirect: bool,
    },
    /// A descriptor as it is, linked to anything, itself too.
    Descriptor {
        /// Which queue.
        queue: u8,
        /// Where in the table.
        index: u16,
        /// What.
        descriptor: Descriptor,
    },
    /// Any head.
    Avail {
        /// Which queue.
        queue: u8,
        /// The head.
        head: u16,
    },
    /// The avail index jumps.
    Jump {
        /// Which queue.
        queue: u8,
        /// By how much.
        by: u16,
    },
    /// The device's own fields are overwritten.
    Scribble {
        /// Which queue.
        queue: u8,
        /// The used index.
        used_index: u16,
        /// The used ring's flags.
        flags: u16,
        /// avail_event.
        avail_event: u16,
    },
    /// Kick.
    Kick {
        /// Which queue.
        queue: u8,
    },
    /// RX buffers of a length.
    PostRx {
        /// How many.
        count: u8,
        /// Bytes of each.
        len: u16,
    },
    /// Look at both used rings.
    Drain,
    /// Send the memory table again.
    Remap {
        /// Only the first region.
        first_only: bool,
    },
    /// Stop a ring and start it where it was.
    Restart {
        /// Which queue.
        queue: u8,
    },
    /// Disable a ring and enable it.
    Toggle {
        /// Which queue.
        queue: u8,
    },
}

/// Reads numbers off a fuzzer's bytes; zeros when they are used up.
struct Bytes<'a>(&'a [u8]);

impl Bytes<'_> {
    fn u8(&mut self) -> u8 {
        let Some((first, rest)) = self.0.split_first() else { return 0 };
        self.0 = rest;
        *first
    }

    fn u16(&mut self) -> u16 {
        u16::from_le_bytes([self.u8(), self.u8()])
    }

    fn u32(&mut self) -> u32 {
        u32::from(self.u16()) | u32::from(self.u16()) << 16
    }

    /// Mostly zero, so that most packets are right in this respect.
    fn rarely(&mut self) -> u32 {
        if self.u8() < 16 { self.u32() } else { 0 }
    }
}

impl Operation {
    /// The list that the bytes stand for.
    pub fn list(bytes: &[u8]) -> Vec<Self> {
        let mut bytes = Bytes(bytes);
        let mut list = Vec::new();
        while !bytes.0.is_empty() && list.len() < OPERATIONS_MAX {
            list.push(Self::next(&mut bytes));
        }
        list
    }

    fn next(bytes: &mut Bytes<'_>) -> Self {
        match bytes.u8() {
            0..=119 => Self::packet(bytes),
            120..=129 => {
                let len = usize::from(bytes.u8());
                Self::Bytes((0..len).map(|_| bytes.u8()).collect())
            }
            130..=159 => Self::chain(bytes),
            160..=174 => Self::Descriptor {
                queue: bytes.u8(),
                index: bytes.u16(),
                descriptor: descriptor(bytes),
            },
            175..=189 => Self::Avail { queue: bytes.u8(), head: bytes.u16() },
            190..=194 => Self::Jump { queue: bytes.u8(), by: bytes.u16() },
            195..=199 => Self::Scribble {
                queue: bytes.u8(),
                used_index: bytes.u16(),
                flags: bytes.u16(),
                avail_event: bytes.u16(),
            },
            200..=214 => Self::Kick { queue: bytes.u8() },
            215..=229 => Self::PostRx { count: bytes.u8() % 32, len: bytes.u16() },
            230..=244 => Self::Drain,
            245..=247 => Self::Remap { first_only: bytes.u8() < 32 },
            248..=251 => Self::Restart { queue: bytes.u8() },
            252..=255 => Self::Toggle { queue: bytes.u8() },
        }
    }

    fn packet(bytes: &mut Bytes<'_>) -> Self {
        let flat = |value: u32| u16::try_from(value & 0xffff).unwrap_or(0);
        Self::Packet {
            guest_port: bytes.u8() % 4,
            host_port: bytes.u8(),
            // 1 to 7 are right, 0 and 8 are not.
            op: u16::from(bytes.u8() % 9),
            socket_type: 1 + flat(bytes.rarely()),
            flags: u32::from(bytes.u8() % 4),
            len_error: bytes.rarely(),
            buf_alloc: if bytes.u8() < 200 { 1 << 18 } else { bytes.u32() },
            fwd_cnt: bytes.rarely(),
            cid_error: u8::try_from(bytes.rarely() & 0xff).unwrap_or(0),
            payload: bytes.u16() >> (bytes.u8() % 16),
        }
    }

    fn chain(bytes: &mut Bytes<'_>) -> Self {
        let queue = bytes.u8();
        let indirect = bytes.u8() < 100;
        // Mostly short ones.
        let count = 1 + ((usize::from(bytes.u8()) % CHAIN_MAX) >> (bytes.u8() % 6));
        Self::Chain {
            queue,
            indirect,
            descriptors: (0..count).map(|_| descriptor(bytes)).collect(),
        }
    }

    /// Does it. `host_ports` are the ports that packets go to. An error is the backend refusing a
    /// vhost-user message, which it may.
    pub fn apply(&self, guest: &mut RawGuest, host_ports: &[u32]) -> Result<(), GuestError> {
        let queue = |queue: &u8| usize::from(*queue) % guest.queues();
        match self {
            Self::Packet { .. } => {
                let bytes = self.packet_bytes(guest.cid().0, host_ports);
                guest.send_bytes(&bytes);
            }
            Self::Bytes(bytes) => {
                guest.send_bytes(bytes);
            }
            Self::Chain { queue: at, descriptors, indirect } => {
                let at = queue(at);
                post(guest, at, descriptors, *indirect);
            }
            Self::Descriptor { queue: at, index, descriptor } => {
                guest.write_descriptor(queue(at), *index, place(guest, *descriptor));
            }
            Self::Avail { queue: at, head } => {
                let at = queue(at);
                guest.push_avail(at, *head);
            }
            Self::Jump { queue: at, by } => {
                let at = queue(at);
                guest.jump_avail(at, *by);
            }
            Self::Scribble { queue: at, used_index, flags, avail_event } => {
                guest.scribble_used(queue(at), *used_index, *flags, *avail_event);
            }
            Self::Kick { queue: at } => guest.kick(queue(at)),
            Self::PostRx { count, len } => {
                for _ in 0..*count {
                    guest.post_rx(usize::from(*len));
                }
                guest.kick(RX);
            }
            Self::Drain => {
                guest.used(RX);
                guest.used(TX);
            }
            Self::Remap { first_only } => {
                guest.set_memory(*first_only)?;
                guest.set_memory(false)?;
            }
            Self::Restart { queue: at } => {
                let at = queue(at);
                let base = guest.stop_ring(at)?;
                guest.start_ring(at, base)?;
            }
            Self::Toggle { queue: at } => {
                let at = queue(at);
                guest.enable_ring(at, false)?;
                guest.enable_ring(at, true)?;
            }
        }
        Ok(())
    }

    fn packet_bytes(&self, cid: u64, host_ports: &[u32]) -> Vec<u8> {
        let Self::Packet {
            guest_port,
            host_port,
            op,
            socket_type,
            flags,
            len_error,
            buf_alloc,
            fwd_cnt,
            cid_error,
            payload,
        } = self
        else {
            return Vec::new();
        };
        let port = host_ports
            .get(usize::from(*host_port) % host_ports.len().max(1))
            .copied()
            .unwrap_or_else(|| u32::from(*host_port));
        let mut bytes = Vec::with_capacity(HEADER_BYTES + usize::from(*payload));
        bytes.extend((cid + u64::from(*cid_error)).to_le_bytes());
        bytes.extend(2u64.to_le_bytes());
        bytes.extend((1024 + u32::from(*guest_port)).to_le_bytes());
        bytes.extend(port.to_le_bytes());
        bytes.extend(u32::from(*payload).wrapping_add(*len_error).to_le_bytes());
        bytes.extend(socket_type.to_le_bytes());
        bytes.extend(op.to_le_bytes());
        bytes.extend(flags.to_le_bytes());
        bytes.extend(buf_alloc.to_le_bytes());
        bytes.extend(fwd_cnt.to_le_bytes());
        bytes.resize(HEADER_BYTES + usize::from(*payload), 0x5a);
        bytes
    }
}

fn descriptor(bytes: &mut Bytes<'_>) -> Descriptor {
    // The top byte chooses where the address lies: see `place`.
    let address = u64::from(bytes.u8()) << 56 | u64::from(bytes.u32());
    let len = if bytes.u8() < 200 { u32::from(bytes.u16()) } else { bytes.u32() };
    Descriptor { address, len, flags: u16::from(bytes.u8() % 8), next: bytes.u16() }
}

/// Turns a made-up address into one that means something in this guest: scratch memory, the edge
/// of it, a hole, a ring, or the end of the address space.
fn place(guest: &RawGuest, mut descriptor: Descriptor) -> Descriptor {
    let low = descriptor.address & 0xffff_ffff;
    let scratch = guest.scratch().address;
    let ring = guest.places((low % 2) as usize);
    descriptor.address = match descriptor.address >> 56 {
        0..=159 => scratch + low % 0x2_0000,
        160..=179 => ring.descriptors.address + low % 0x1000,
        180..=189 => ring.used.address + low % 0x1000,
        190..=199 => scratch.wrapping_sub(low % 0x1000),
        200..=219 => low,
        220..=239 => u64::MAX - low % 0x1_0000,
        _ => low << 32,
    };
    descriptor
}

fn post(guest: &mut RawGuest, queue: usize, descriptors: &[Descriptor], indirect: bool) {
    let placed: Vec<_> = descriptors.iter().map(|entry| place(guest, *entry)).collect();
    if !indirect {
        guest.post_chain(queue, &placed);
        return;
    }
    // Behind what `place` gives out, so that the table itself is hit by nothing but its neighbours.
    let table = guest.scratch().plus(0x3_0000);
    guest.write_table(table.address, &placed);
    let bytes = u32::try_from(placed.len() * 16).unwrap_or(0);
    let entry = Descriptor { address: table.address, len: bytes, flags: DESC_INDIRECT, next: 0 };
    guest.post_chain(queue, &[entry]);
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn any_bytes_are_a_bounded_list(bytes in prop::collection::vec(any::<u8>(), 0..4096)) {
            let list = Operation::list(&bytes);
            prop_assert!(list.len() <= OPERATIONS_MAX);
            prop_assert_eq!(&list, &Operation::list(&bytes));
            prop_assert_eq!(list.is_empty(), bytes.is_empty());
        }
    }
}
