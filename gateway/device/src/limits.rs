//! Every bound of the device, with its unit and reason.

/// Queues: RX, TX, event. QEMU serves the event queue itself and offers two; UML offers all three.
pub const QUEUES: usize = 3;

/// Entries per ring. QEMU uses 128; a larger ring holds more RX buffers between two wake-ups.
pub const QUEUE_SIZE_MAX: u16 = 1024;

/// Descriptors in one indirect table: as many as a ring may have entries.
pub const INDIRECT_ENTRIES_MAX: usize = QUEUE_SIZE_MAX as usize;

/// Pieces of guest memory in one system call: IOV_MAX of Linux.
pub const PIECES_MAX: usize = 1024;

/// Chains taken from the TX ring before RX has its turn: the size of QEMU's ring, so that a guest
/// that never stops sending cannot starve its own receivers.
pub const TX_PASS_CHAINS_MAX: usize = 256;

/// Bytes gathered from several packets for one `sendmsg`. Beyond this the system call's fixed cost
/// no longer counts, and the guest should get its buffers back.
pub const GATHER_BYTES_MAX: usize = 512 * 1024;

/// RX chains filled by one `recvmsg`.
pub const SCATTER_CHAINS_MAX: usize = 64;

/// Turns of reading before the TX ring is looked at again.
pub const RX_PASS_TURNS_MAX: usize = 64;

/// Events taken from the worker's epoll at once.
pub const EVENTS_MAX: usize = 256;

/// Bytes of one direction of a bridge between the worker and an async stream. With one on either
/// side of tokio's copy this is what a stalled far side can make the gateway hold.
pub const BRIDGE_BYTES: usize = 256 * 1024;

/// Commands from the daemon that the worker has not taken. The worker takes them all at once; more
/// than this waiting means that it is stuck, and dials fail with ENOBUFS.
pub const COMMANDS_MAX: usize = 65_536;

/// News from one worker to the daemon that wait. Further service connections are reset.
pub const NEWS_MAX: usize = 1024;

/// Connections that the guest has closed and whose last bytes the far side has not taken. The
/// oldest is given up when there are more.
pub const LINGERING_MAX: usize = 4096;

/// How long such a connection may go without any progress, milliseconds: as long as Linux keeps an
/// orphan whose peer takes nothing (`tcp_orphan_retries`), about two minutes.
pub const LINGERING_MS: u64 = 120_000;

const _: () = assert!(QUEUE_SIZE_MAX.is_power_of_two());
const _: () = assert!(SCATTER_CHAINS_MAX < PIECES_MAX);

/// Rounds of work before the thread looks whether it should end.
pub const WORK_ROUNDS_MAX: usize = 64;
