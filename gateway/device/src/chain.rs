//! Descriptor chains: from a head index to checked slices of guest memory.
//!
//! in: a head that the driver made available; out: a [`Chain`] whose first 44 bytes are the header
//! and whose rest are `iovec`s, appended to a list that the worker reuses. Any layout is taken:
//! header and payload in one descriptor or in many, indirect tables, empty descriptors. Keeps: each
//! descriptor is read once; a chain walks at most as many descriptors as its table has entries, so
//! a loop ends; nothing outside guest memory is ever touched. Owner: the vring worker.

use libc::iovec;
use outsock_core::packet::HEADER_BYTES;

use crate::limits;
use crate::memory::MemoryMap;
use crate::ring::Ring;

const F_NEXT: u16 = 1;
const F_WRITE: u16 = 2;
const F_INDIRECT: u16 = 4;
const DESCRIPTOR_BYTES: usize = 16;

/// Why a chain cannot be used. It goes back with length 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum ChainError {
    #[error("descriptor index beyond its table")]
    BadIndex,
    #[error("a buffer lies outside guest memory")]
    OutsideMemory,
    #[error("the chain loops")]
    Loop,
    #[error("a malformed indirect table")]
    BadIndirect,
    #[error("a buffer of the wrong direction")]
    WrongDirection,
    #[error("more pieces than one system call takes")]
    TooManyPieces,
    #[error("no room for a header")]
    TooShort,
}

/// Which buffers a chain must have: the driver writes TX, the device writes RX.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Direction {
    DeviceReads,
    DeviceWrites,
}

#[derive(Clone, Copy)]
struct Descriptor {
    addr: u64,
    len: u32,
    flags: u16,
    next: u16,
}

/// # Safety
/// `table` must point to at least `index + 1` descriptors in mapped memory.
unsafe fn read_descriptor(table: *const u8, index: usize) -> Descriptor {
    // SAFETY: inside the table, by the caller's promise.
    let pointer = unsafe { table.add(index * DESCRIPTOR_BYTES) };
    // SAFETY: 16 bytes of mapped memory, read once; alignment 1.
    let raw = unsafe { pointer.cast::<[u8; DESCRIPTOR_BYTES]>().read_volatile() };
    let [a0, a1, a2, a3, a4, a5, a6, a7, l0, l1, l2, l3, f0, f1, n0, n1] = raw;
    Descriptor {
        addr: u64::from_le_bytes([a0, a1, a2, a3, a4, a5, a6, a7]),
        len: u32::from_le_bytes([l0, l1, l2, l3]),
        flags: u16::from_le_bytes([f0, f1]),
        next: u16::from_le_bytes([n0, n1]),
    }
}

/// A chain whose buffers were appended to a list of pieces.
#[derive(Debug)]
pub(crate) struct Chain {
    header: HeaderPlace,
    /// Bytes behind the header.
    pub(crate) payload_len: usize,
}

/// Where a header lies. Linux never splits it; the specification allows it.
#[derive(Debug)]
enum HeaderPlace {
    Whole(*mut u8),
    /// Pieces that add up to 44 bytes; none is empty, so there are at most 44.
    Split(Vec<(*mut u8, usize)>),
}

/// Walks the chain at `head`. The payload's pieces are appended to `payload`; on an error the list
/// is as before.
pub(crate) fn walk(
    ring: &Ring<'_>,
    head: u16,
    direction: Direction,
    payload: &mut Vec<iovec>,
) -> Result<Chain, ChainError> {
    let start = payload.len();
    let mut walker = Walker {
        memory: ring.memory,
        direction,
        payload,
        payload_len: 0,
        header: None,
        header_missing: HEADER_BYTES,
    };
    let result = walker.run(ring.table(), head).and_then(|()| walker.finish());
    if result.is_err() {
        payload.truncate(start);
    }
    result
}

struct Walker<'a> {
    memory: &'a MemoryMap,
    direction: Direction,
    payload: &'a mut Vec<iovec>,
    payload_len: usize,
    header: Option<HeaderPlace>,
    header_missing: usize,
}

impl Walker<'_> {
    fn run(&mut self, (mut table, size): (*const u8, u16), head: u16) -> Result<(), ChainError> {
        let mut entries = usize::from(size);
        let mut index = usize::from(head);
        let mut indirect = false;
        let mut steps_left = entries;
        loop {
            if index >= entries {
                return Err(ChainError::BadIndex);
            }
            if steps_left == 0 {
                return Err(ChainError::Loop);
            }
            steps_left -= 1;
            // SAFETY: `index` is below the entries of a table that was checked to be mapped.
            let descriptor = unsafe { read_descriptor(table, index) };
            if descriptor.flags & F_INDIRECT != 0 {
                if indirect || descriptor.flags & F_NEXT != 0 {
                    return Err(ChainError::BadIndirect);
                }
                let len = descriptor.len as usize;
                if len == 0 || !len.is_multiple_of(DESCRIPTOR_BYTES) {
                    return Err(ChainError::BadIndirect);
                }
                entries = len / DESCRIPTOR_BYTES;
                if entries > limits::INDIRECT_ENTRIES_MAX {
                    return Err(ChainError::BadIndirect);
                }
                let mapped = self.memory.contiguous(descriptor.addr, len);
                table = mapped.ok_or(ChainError::OutsideMemory)?;
                indirect = true;
                index = 0;
                steps_left = entries;
                continue;
            }
            self.buffer(descriptor)?;
            if descriptor.flags & F_NEXT == 0 {
                return Ok(());
            }
            index = usize::from(descriptor.next);
        }
    }

    fn buffer(&mut self, descriptor: Descriptor) -> Result<(), ChainError> {
        let device_writes = descriptor.flags & F_WRITE != 0;
        if device_writes != (self.direction == Direction::DeviceWrites) {
            return Err(ChainError::WrongDirection);
        }
        let mut addr = descriptor.addr;
        let mut len = descriptor.len as usize;
        while len > 0 {
            let (pointer, here) =
                self.memory.translate(addr, len).ok_or(ChainError::OutsideMemory)?;
            self.piece(pointer, here)?;
            len -= here;
            // A buffer may go on in the region that follows; an overflow ends outside memory.
            addr = addr.checked_add(here as u64).ok_or(ChainError::OutsideMemory)?;
        }
        Ok(())
    }

    fn piece(&mut self, mut pointer: *mut u8, mut len: usize) -> Result<(), ChainError> {
        if self.header_missing > 0 {
            let here = len.min(self.header_missing);
            self.header = Some(match self.header.take() {
                None if here == HEADER_BYTES => HeaderPlace::Whole(pointer),
                None => HeaderPlace::Split(vec![(pointer, here)]),
                // Whole cannot be: then nothing would be missing.
                Some(HeaderPlace::Whole(first)) => HeaderPlace::Whole(first),
                Some(HeaderPlace::Split(mut pieces)) => {
                    pieces.push((pointer, here));
                    HeaderPlace::Split(pieces)
                }
            });
            self.header_missing -= here;
            len -= here;
            if len == 0 {
                return Ok(());
            }
            // SAFETY: `here` bytes of this piece are behind us and `len` more follow.
            pointer = unsafe { pointer.add(here) };
        }
        if self.payload.len() >= limits::PIECES_MAX {
            return Err(ChainError::TooManyPieces);
        }
        self.payload.push(iovec { iov_base: pointer.cast(), iov_len: len });
        self.payload_len += len;
        Ok(())
    }

    fn finish(&mut self) -> Result<Chain, ChainError> {
        match self.header.take() {
            Some(header) if self.header_missing == 0 => {
                Ok(Chain { header, payload_len: self.payload_len })
            }
            _ => Err(ChainError::TooShort),
        }
    }
}

impl Chain {
    /// Copies the header out of guest memory, once.
    pub(crate) fn read_header(&self) -> [u8; HEADER_BYTES] {
        match &self.header {
            HeaderPlace::Whole(pointer) => {
                // SAFETY: the walk found 44 mapped bytes there; alignment 1.
                unsafe { pointer.cast::<[u8; HEADER_BYTES]>().read_volatile() }
            }
            HeaderPlace::Split(pieces) => {
                let mut header = [0; HEADER_BYTES];
                let mut at = 0;
                for &(pointer, len) in pieces {
                    // SAFETY: `len` mapped bytes at `pointer`, by the walk; the pieces add up to
                    // 44 bytes; guest memory and `header` do not overlap.
                    unsafe {
                        std::ptr::copy_nonoverlapping(pointer, header[at..].as_mut_ptr(), len);
                    }
                    at += len;
                }
                header
            }
        }
    }

    /// Writes the header into guest memory.
    pub(crate) fn write_header(&self, header: &[u8; HEADER_BYTES]) {
        match &self.header {
            HeaderPlace::Whole(pointer) => {
                // SAFETY: the walk found 44 mapped bytes there, for the device to write.
                unsafe { pointer.cast::<[u8; HEADER_BYTES]>().write_volatile(*header) };
            }
            HeaderPlace::Split(pieces) => {
                let mut at = 0;
                for &(pointer, len) in pieces {
                    // SAFETY: as in `read_header`, the other way.
                    unsafe {
                        std::ptr::copy_nonoverlapping(header[at..].as_ptr(), pointer, len);
                    }
                    at += len;
                }
            }
        }
    }
}
