//! Every bound of VM RPC, with its unit and reason.

/// The vsock port on the host (CID 2) where VM RPC is served. Outside the range of tokens.
pub const VMRPC_PORT: u32 = 1042;

/// The highest port that a guest's kernel gives only to privileged processes
/// (`net/vmw_vsock/af_vsock.c`, `LAST_RESERVED_PORT`). A stream from there may name pages for event
/// queues.
pub const PRIVILEGED_PORT_MAX: u32 = 1023;

/// The lowest host port that may be a connection token. Everything below is a service port, so a
/// token can never be taken for VM RPC.
pub const TOKEN_MIN: u32 = 0x4000_0000;

/// The highest token. `u32::MAX` is VMADDR_PORT_ANY, so the range ends well before it.
pub const TOKEN_MAX: u32 = 0x7fff_ffff;

/// Bytes of arguments or result in one frame. Larger data belongs into a stream or an event queue;
/// this much is copied and buffered once per call on either side.
pub const PAYLOAD_BYTES_MAX: usize = 64 * 1024;

/// Calls in flight on one stream. A guest with thousands of slow connects needs thousands; each
/// costs the host one task (about 1 KiB).
pub const CALLS_IN_FLIGHT_MAX: usize = 4096;

/// Modules bound at the same time on one stream. A program needs a handful.
pub const BINDINGS_PER_STREAM_MAX: usize = 64;

/// Modules registered in one gateway.
pub const MODULES_MAX: usize = 1024;

/// Bytes of a module name, so that it fits into a log line and a table column.
pub const MODULE_NAME_BYTES_MAX: usize = 64;

/// Frames waiting to be written to one guest. When the guest does not read, calls wait here and
/// then in their tasks; nothing more is read from that guest meanwhile.
pub const REPLIES_QUEUED_MAX: usize = 64;

/// Bytes of one direction of an event queue, at least: one page.
pub const QUEUE_BYTES_MIN: u32 = 4096;

/// Bytes of one direction of an event queue, at most. 32,768 events of 24 bytes; more only adds
/// delay.
pub const QUEUE_BYTES_MAX: u32 = 1024 * 1024;

/// Bytes of one direction of an event queue when the module does not say: 2,048 small events.
pub const QUEUE_BYTES: u32 = 64 * 1024;

/// Event queues on one stream. A program needs one or two per module.
pub const QUEUES_PER_STREAM_MAX: usize = 64;

/// Bytes of all event queues of one stream, one direction: what they may hold on the host when they
/// use the stream.
pub const QUEUE_BYTES_PER_STREAM_MAX: u32 = 4 * 1024 * 1024;

/// Numbers of event queues from here on are not given out one after the other but agreed on between a
/// gateway and the process of a module.
pub const QUEUE_ID_AGREED: u32 = 0x8000_0000;

/// Event queues between a gateway and one module's process, all guests together.
pub const QUEUES_PER_PROCESS_MAX: usize = 4096;

/// Bytes of those, one direction.
pub const QUEUE_BYTES_PER_PROCESS_MAX: u32 = 256 * 1024 * 1024;

/// Bytes of calls that a module's process has been given and not answered, with
/// [`CALL_BYTES_OVERHEAD`] for each. Further calls wait.
pub const PROCESS_CALL_BYTES_MAX: usize = 16 * 1024 * 1024;

/// What a call costs besides its arguments, bytes.
pub const CALL_BYTES_OVERHEAD: usize = 1024;

/// Pages in one list: the largest queue in pages of 4 KiB.
pub const QUEUE_PAGES_MAX: usize = 1 + 2 * (QUEUE_BYTES_MAX as usize / 4096);

/// How long a side of a queue in shared memory looks for the other side's next move before it
/// sleeps, microseconds: several times what waking a sleeper costs.
pub const QUEUE_SPIN_US: u64 = 50;

/// Bytes of a program's name in a hello (`TASK_COMM_LEN` of Linux and room for more).
pub const CLIENT_NAME_BYTES_MAX: usize = 64;

/// Bytes of a host name in a destination (RFC 1035, 2.3.4: 255 octets on the wire, 253 as text).
pub const HOST_NAME_BYTES_MAX: usize = 253;

/// Bytes of a program's path that a guest asserts: what fits into a page (`PATH_MAX` less one).
pub const PROGRAM_BYTES_MAX: usize = 4095;

/// Bytes of a user's name that a guest asserts (`LOGIN_NAME_MAX` of Linux less one).
pub const USER_NAME_BYTES_MAX: usize = 255;

/// Socket options in one call: every kind once, and room for those to come.
pub const SOCKET_OPTIONS_MAX: usize = 32;

/// Bytes of the name of a congestion control (`TCP_CA_NAME_MAX` of Linux less the final zero).
pub const CONGESTION_BYTES_MAX: usize = 15;

/// Bytes of a `struct tcp_info`. Linux 7.0 has about 280, and only ever appends.
pub const TCP_INFO_BYTES_MAX: usize = 1024;

/// Bytes of a DNS query. A question is at most 271 bytes; the rest is for EDNS options, which are
/// padded to a few hundred bytes (RFC 8467).
pub const DNS_QUERY_BYTES_MAX: usize = 4096;

/// Bytes of a DNS answer: its length before it on TCP has 16 bits.
pub const DNS_ANSWER_BYTES_MAX: usize = 65_535;

/// Connections that one answer of INBOUND tells of: 70 bytes each. More wait for the next question.
pub const NOTICES_MAX: usize = 256;

/// Listeners in one report; those beyond it are in the next one.
pub const REPORT_LISTENERS_MAX: usize = 1024;

/// Places where one listener can be reached, as many as are told of.
pub const PLACES_MAX: usize = 16;

/// Bytes of such a place: the longest is the path of a Unix socket (107) or a host name.
pub const PLACE_BYTES_MAX: usize = 512;

const _: () = assert!(NOTICES_MAX * 80 < PAYLOAD_BYTES_MAX);
const _: () = assert!(REPORT_LISTENERS_MAX * 8 < PAYLOAD_BYTES_MAX - 16);
const _: () = assert!(QUEUE_PAGES_MAX * 8 + 16 <= PAYLOAD_BYTES_MAX);
const _: () = assert!(DNS_ANSWER_BYTES_MAX <= PAYLOAD_BYTES_MAX);
const _: () = assert!(VMRPC_PORT < TOKEN_MIN && TOKEN_MIN < TOKEN_MAX);
const _: () = assert!(HOST_NAME_BYTES_MAX < PAYLOAD_BYTES_MAX);

/// Bytes of a datagram's payload: what a 16-bit length leaves beside the headers of UDP and IPv4.
pub const DATAGRAM_BYTES_MAX: usize = 65_507;
