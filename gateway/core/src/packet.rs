//! Packets: the 44-byte virtio-vsock header, parsed once into types.
//!
//! in: 44 bytes, copied out of guest memory exactly once; out: [`Header`] or the reason why the
//! bytes are none. Nothing else in outsock knows the offsets. Source: virtio 1.3, 5.10.6;
//! Linux `include/uapi/linux/virtio_vsock.h`.

use crate::address::{Cid, VsockPort};

/// Bytes of a header. Little-endian, packed.
pub const HEADER_BYTES: usize = 44;

const SEQPACKET_EOM: u32 = 1;

/// The kind of socket on both ends of a connection.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum SocketType {
    /// SOCK_STREAM: bytes.
    #[default]
    Stream,
    /// SOCK_SEQPACKET: messages (VIRTIO_VSOCK_F_SEQPACKET). One may take several [`Op::Rw`].
    SeqPacket,
}

impl SocketType {
    fn of(wire: u16) -> Option<Self> {
        match wire {
            1 => Some(Self::Stream),
            2 => Some(Self::SeqPacket),
            _ => None,
        }
    }

    fn wire(self) -> u16 {
        match self {
            Self::Stream => 1,
            Self::SeqPacket => 2,
        }
    }
}

const SHUTDOWN_RCV: u32 = 1;
const SHUTDOWN_SEND: u32 = 2;

/// Which halves the sender of a SHUTDOWN gives up. Both may be set.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Shutdown {
    /// It will not receive any more.
    pub rcv: bool,
    /// It will not send any more.
    pub send: bool,
}

/// What a packet does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Op {
    /// Opens a connection.
    Request,
    /// Accepts one.
    Response,
    /// Refuses or aborts one.
    Rst,
    /// Gives up halves.
    Shutdown(Shutdown),
    /// Carries bytes.
    Rw,
    /// Tells the sender's `buf_alloc` and `fwd_cnt`.
    CreditUpdate,
    /// Asks for a [`Op::CreditUpdate`].
    CreditRequest,
}

/// One packet's header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// Who sends.
    pub src_cid: Cid,
    /// Who receives.
    pub dst_cid: Cid,
    /// The sender's port.
    pub src_port: VsockPort,
    /// The receiver's port.
    pub dst_port: VsockPort,
    /// Bytes of payload.
    pub len: u32,
    /// What it does.
    pub op: Op,
    /// Between sockets of which kind.
    pub socket_type: SocketType,
    /// The last packet of a message; only an [`Op::Rw`] between [`SocketType::SeqPacket`] has it.
    pub message_end: bool,
    /// The sender's receive buffer, bytes.
    pub buf_alloc: u32,
    /// Bytes the sender has taken out of its receive buffer, wrapping.
    pub fwd_cnt: u32,
}

/// Why 44 bytes are no header that we serve. Addresses are known all the same, so that the sender
/// can be told with an RST.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum HeaderError {
    /// A socket type other than STREAM and SEQPACKET.
    #[error("unknown socket type {0}")]
    Type(u16),
    /// An op that the specification does not have.
    #[error("unknown op {0}")]
    Op(u16),
}

/// A header that does not parse: enough of it to answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BadHeader {
    /// Who claims to have sent it.
    pub src_cid: Cid,
    /// For whom.
    pub dst_cid: Cid,
    /// The sender's port.
    pub src_port: VsockPort,
    /// The receiver's port.
    pub dst_port: VsockPort,
    /// What is wrong.
    pub error: HeaderError,
}

fn take<const N: usize>(bytes: &[u8; HEADER_BYTES], at: usize) -> [u8; N] {
    // Every caller's offset is a constant below 44 - N; the fallback cannot be reached.
    bytes[at..].first_chunk().copied().unwrap_or([0; N])
}

impl Header {
    /// Parses a header.
    ///
    /// ```
    /// use outsock_core::packet::{Header, Op, SocketType};
    /// use outsock_core::address::{Cid, VsockPort};
    /// let header = Header {
    ///     src_cid: Cid(3), dst_cid: Cid::HOST,
    ///     src_port: VsockPort(1024), dst_port: VsockPort(80),
    ///     len: 5, op: Op::Rw, socket_type: SocketType::SeqPacket, message_end: true,
    ///     buf_alloc: 262_144, fwd_cnt: 7,
    /// };
    /// assert_eq!(Header::parse(&header.encode()), Ok(header));
    /// ```
    pub fn parse(bytes: &[u8; HEADER_BYTES]) -> Result<Self, BadHeader> {
        let src_cid = Cid(u64::from_le_bytes(take(bytes, 0)));
        let dst_cid = Cid(u64::from_le_bytes(take(bytes, 8)));
        let src_port = VsockPort(u32::from_le_bytes(take(bytes, 16)));
        let dst_port = VsockPort(u32::from_le_bytes(take(bytes, 20)));
        let bad = |error| BadHeader { src_cid, dst_cid, src_port, dst_port, error };
        let socket_type = u16::from_le_bytes(take(bytes, 28));
        let flags = u32::from_le_bytes(take(bytes, 32));
        let op = match u16::from_le_bytes(take(bytes, 30)) {
            1 => Op::Request,
            2 => Op::Response,
            3 => Op::Rst,
            4 => Op::Shutdown(Shutdown {
                rcv: flags & SHUTDOWN_RCV != 0,
                send: flags & SHUTDOWN_SEND != 0,
            }),
            5 => Op::Rw,
            6 => Op::CreditUpdate,
            7 => Op::CreditRequest,
            other => return Err(bad(HeaderError::Op(other))),
        };
        let Some(socket_type) = SocketType::of(socket_type) else {
            return Err(bad(HeaderError::Type(socket_type)));
        };
        Ok(Self {
            src_cid,
            dst_cid,
            src_port,
            dst_port,
            len: u32::from_le_bytes(take(bytes, 24)),
            op,
            socket_type,
            message_end: socket_type == SocketType::SeqPacket
                && op == Op::Rw
                && flags & SEQPACKET_EOM != 0,
            buf_alloc: u32::from_le_bytes(take(bytes, 36)),
            fwd_cnt: u32::from_le_bytes(take(bytes, 40)),
        })
    }

    /// The header's bytes.
    pub fn encode(&self) -> [u8; HEADER_BYTES] {
        let (op, flags): (u16, u32) = match self.op {
            Op::Request => (1, 0),
            Op::Response => (2, 0),
            Op::Rst => (3, 0),
            Op::Shutdown(Shutdown { rcv, send }) => {
                (4, if rcv { SHUTDOWN_RCV } else { 0 } | if send { SHUTDOWN_SEND } else { 0 })
            }
            Op::Rw => (5, if self.message_end { SEQPACKET_EOM } else { 0 }),
            Op::CreditUpdate => (6, 0),
            Op::CreditRequest => (7, 0),
        };
        let mut bytes = [0; HEADER_BYTES];
        bytes[0..8].copy_from_slice(&self.src_cid.0.to_le_bytes());
        bytes[8..16].copy_from_slice(&self.dst_cid.0.to_le_bytes());
        bytes[16..20].copy_from_slice(&self.src_port.0.to_le_bytes());
        bytes[20..24].copy_from_slice(&self.dst_port.0.to_le_bytes());
        bytes[24..28].copy_from_slice(&self.len.to_le_bytes());
        bytes[28..30].copy_from_slice(&self.socket_type.wire().to_le_bytes());
        bytes[30..32].copy_from_slice(&op.to_le_bytes());
        bytes[32..36].copy_from_slice(&flags.to_le_bytes());
        bytes[36..40].copy_from_slice(&self.buf_alloc.to_le_bytes());
        bytes[40..44].copy_from_slice(&self.fwd_cnt.to_le_bytes());
        bytes
    }
}
