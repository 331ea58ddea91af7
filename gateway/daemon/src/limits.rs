//! Every bound of the daemon, with its unit and reason.

/// Bytes of a configuration file. 10,000 routes take about 1 MiB.
pub(crate) const CONFIG_BYTES_MAX: u64 = 16 * 1024 * 1024;

/// Guests of one gateway. Each costs two threads and, with its VMM, a few descriptors.
pub(crate) const GUESTS_MAX: usize = 1024;

/// Configured host modules.
pub(crate) const MODULES_MAX: usize = outsock_vmrpc::limits::MODULES_MAX - 16;

/// Processes that connect to one module's socket at the same time: one serves, others are told so.
pub(crate) const MODULE_STREAMS_MAX: usize = 16;

/// Bindings of one module that `modules` lists to a guest: an answer has 64 KiB.
pub(crate) const LISTED_BINDINGS_MAX: usize = 64;

/// Modules that `modules` lists to a guest.
pub(crate) const LISTED_MODULES_MAX: usize = 16;

/// Bytes of arguments or result of an eBPF module's function: what lies in its context.
#[cfg(feature = "ebpf")]
pub(crate) const EBPF_DATA_BYTES: usize = 4096;

/// Configured transports. Routes name them by a 16-bit number.
pub(crate) const TRANSPORTS_MAX: usize = 1024;

/// How long connections may go on after SIGTERM when the configuration does not say,
/// milliseconds. Longer than a request, shorter than systemd's 90 s.
pub(crate) const DRAIN_TIMEOUT_MS: u64 = 10_000;

/// How often a draining gateway looks whether it may end, milliseconds.
pub(crate) const DRAIN_POLL_MS: u64 = 50;

/// How long a dial may take when the configuration does not say, milliseconds: Linux's own
/// patience with SYNs.
pub(crate) const DIAL_TIMEOUT_MS: u64 = 130_000;

/// Dials of one guest under way at the same time. Each has one descriptor or one stream.
pub(crate) const DIALS_PER_GUEST_MAX: usize = 4096;

/// VM RPC streams of one guest at the same time: one per agent, one per program with the SDK.
pub(crate) const RPC_STREAMS_PER_GUEST_MAX: usize = 256;

/// VM RPC streams of one guest that wait because it has that many: a guest that just rebooted must
/// not be refused because its old streams are not all forgotten yet.
pub(crate) const RPC_STREAMS_WAITING_MAX: usize = 1024;

/// How long a VM RPC stream waits for one of those places, milliseconds. Streams of a guest that is
/// gone leave theirs at once.
pub(crate) const RPC_STREAM_WAIT_MS: u64 = 1_000;

/// Bytes that the pump between a bridge and an async stream holds per direction.
pub(crate) const PUMP_BYTES: usize = 64 * 1024;

/// How long the first bytes of a program may stay too few to say whether it speaks TLS by itself,
/// milliseconds. A ClientHello leaves a program in one piece; what does not is something else.
pub(crate) const OWN_TLS_MS: u64 = 300;

/// Bytes of one request on the admin socket.
pub(crate) const ADMIN_REQUEST_BYTES_MAX: u64 = 64 * 1024;

/// How long an admin client may take to send its request, milliseconds.
pub(crate) const ADMIN_REQUEST_MS: u64 = 5_000;

/// How long an admin client waits for its answer, milliseconds: longer than a lookup
/// ([`LOOKUP_MS`]) and than a reload that starts many guests.
pub(crate) const ADMIN_ANSWER_MS: u64 = 30_000;

/// Admin clients at the same time.
pub(crate) const ADMIN_CLIENTS_MAX: usize = 16;

/// Connections of one guest when the configuration does not say: what its device holds. Each is a
/// descriptor of the host.
pub(crate) const CONNECTIONS_PER_GUEST: u64 = outsock_core::limits::CONNECTIONS_MAX as u64;

/// Connects per second of one guest when the configuration does not say: twice what one processor
/// can dial, half of what it can refuse, so that only a flood meets it.
pub(crate) const CONNECTS_PER_SECOND: u64 = 50_000;

/// Groups of transports.
pub(crate) const GROUPS_MAX: usize = 1024;

/// Members of one group: they are tried one after the other while a program waits.
pub(crate) const GROUP_MEMBERS_MAX: usize = 16;

/// How long a member of a group may take before the next is tried, milliseconds. Longer than three
/// SYNs to the other side of the world (1 + 2 s and a round trip).
pub(crate) const GROUP_MEMBER_TIMEOUT_MS: u64 = 5_000;

/// How often members are checked when the configuration does not say, milliseconds.
pub(crate) const GROUP_CHECK_INTERVAL_MS: u64 = 30_000;

/// The shortest such interval, milliseconds.
pub(crate) const GROUP_CHECK_INTERVAL_MS_MIN: u64 = 100;

/// By how much another member must be faster to become the first, milliseconds: jitter of a
/// wireless link is no reason to move.
pub(crate) const GROUP_TOLERANCE_MS: u64 = 50;

/// How long the second address of a name waits for the first, milliseconds (RFC 8305, 5).
pub(crate) const NEXT_ADDRESS_MS: u64 = 250;

/// Addresses of one name that are dialled.
pub(crate) const ADDRESSES_MAX: usize = 16;

/// How long a lookup at the host's resolvers may take, milliseconds: programs ask again after 5 s
/// and give up after 10.
pub(crate) const LOOKUP_MS: u64 = 9_000;

/// DNS queries of one guest under way at the same time.
pub(crate) const QUERIES_PER_GUEST_MAX: usize = 256;

/// DNS queries per second of one guest.
pub(crate) const QUERIES_PER_SECOND: u64 = 1_000;

/// Answers of the host's resolvers that are kept.
pub(crate) const DNS_CACHE_ANSWERS: u64 = 8_192;

/// How often /etc/resolv.conf is looked at for a change, milliseconds.
pub(crate) const RESOLV_CONF_MS: u64 = 5_000;

/// TTL of a synthetic address, seconds. The pool keeps it far longer; short, so that a name that is
/// no longer routed by name soon gets its true address.
pub(crate) const SYNTHETIC_TTL_SECONDS: u32 = 10;

/// Addresses for which is remembered which name a guest just resolved to them, per guest.
pub(crate) const SEEN_PER_GUEST_MAX: usize = 4_096;

/// How long that is remembered beyond the answer's TTL, milliseconds: programs connect a little
/// later than they resolve.
pub(crate) const SEEN_GRACE_MS: u64 = 60_000;

/// Log lines per second about what one guest brings on itself (refusals, floods), after a burst of
/// [`LOG_LINES_BURST`]. What is left out is counted in the next line.
pub(crate) const LOG_LINES_PER_SECOND: u64 = 2;

/// See [`LOG_LINES_PER_SECOND`].
pub(crate) const LOG_LINES_BURST: u64 = 50;

/// How often connections that are over are swept up, milliseconds.
pub(crate) const SWEEP_MS: u64 = 1_000;

/// Connections of one guest that a reset has ended, whose errno is remembered: the guest asks when its
/// program looks at SO_ERROR after the end, soon or never. 12 bytes each.
pub(crate) const RESETS_REMEMBERED_MAX: usize = 1024;

/// Connections that one `status` lists; it says how many it left out.
pub(crate) const STATUS_CONNECTIONS_MAX: usize = 10_000;

/// Listeners that one `status` lists; it says how many it left out.
pub(crate) const STATUS_LISTENERS_MAX: usize = 10_000;

/// Rules that one `explain` lists: the last ones before the decision.
pub(crate) const EXPLAIN_RULES_MAX: usize = 200;

/// The least that is allowed at once under a limit of bytes per second: one buffer of the pump.
pub(crate) const BYTES_BURST_MIN: u64 = PUMP_BYTES as u64;

/// Configured publishes. Each is compared with every listener when it comes.
pub(crate) const PUBLISHES_MAX: usize = 10_000;

/// Sessions of one guest that may listen: one per agent, and an agent has one VM RPC stream.
pub(crate) const SESSIONS_PER_GUEST_MAX: usize = RPC_STREAMS_PER_GUEST_MAX;

/// Listeners of one guest, published or not. A forking server has one per port, a server with
/// SO_REUSEPORT one per worker; each costs about 300 bytes.
pub(crate) const LISTENERS_PER_GUEST_MAX: usize = 16_384;

/// Places that one guest's listeners take on the host, each a listening socket.
pub(crate) const ENDPOINTS_PER_GUEST_MAX: usize = 1_024;

/// Connections of one listener that wait for its program, however long a backlog it asks for: the
/// kernel's own bound (`net.core.somaxconn`).
pub(crate) const LISTEN_BACKLOG_MAX: u32 = 4_096;

/// Connections of one guest that wait for its programs, over all listeners. Each is a descriptor
/// here and two sockets in the guest.
pub(crate) const INBOUND_WAITING_MAX: usize = 8_192;

/// How often a guest at its limit of connections is looked at for whether one has ended,
/// milliseconds. Until then clients wait in the backlog of the host's socket.
pub(crate) const INBOUND_ROOM_MS: u64 = 50;

/// Channels of datagrams of one guest: one per agent that has a TUN device, which is one, and others
/// that take over from it.
pub(crate) const CHANNELS_PER_GUEST_MAX: usize = 16;

/// Flows of datagrams of one guest. Each is a descriptor of the host and a task; a guest that asks
/// more servers has its longest idle ones forgotten.
pub(crate) const FLOWS_PER_GUEST_MAX: usize = 4096;

/// How long ago a flow must have been used at least to make room for another, milliseconds: longer than
/// an answer takes.
pub(crate) const FLOW_BUSY_MS: u64 = 5_000;

/// How long a flow lives without a datagram, milliseconds. RFC 4787 (REQ-5) asks for two minutes at
/// least; five are its advice, and WireGuard's keepalive comes every 25 s.
pub(crate) const FLOW_IDLE_MS: u64 = 300_000;

/// How long a refused flow answers without the rules being asked again, milliseconds.
pub(crate) const FLOW_REFUSED_MS: u64 = 1_000;

/// Bytes that wait while a flow opens: one datagram of any size and a few more.
pub(crate) const FLOW_WAITING_BYTES_MAX: usize = 128 * 1024;

/// Ports of one `[[publish]]` for UDP: each is a socket of the host for as long as the guest is there.
pub(crate) const PUBLISHED_PORTS_MAX: usize = 256;

/// Sessions of datagrams with one service that stand at the same time; a peer or a neighbouring guest
/// has one per socket and place.
pub(crate) const SERVICE_SESSIONS_MAX: usize = 4096;

/// Who has asked the published ports of one guest, and may be answered.
pub(crate) const PUBLISHED_PEERS_MAX: usize = 65_536;

/// Bytes of messages that wait to be written to one guest's channel: some 10 ms of a fast link. More is
/// dropped, which is what senders of datagrams expect of a full queue.
pub(crate) const OUTBOX_BYTES_MAX: usize = 4 * 1024 * 1024;

/// Bytes of a channel that are read at once.
pub(crate) const CHANNEL_READ_BYTES: usize = 256 * 1024;

/// Configured peers. Each that has addresses is kept connected.
pub(crate) const PEERS_MAX: usize = 1000;

/// Connections that are kept with one peer: more than the cores of a machine help nobody.
pub(crate) const PEER_CONNECTIONS_MAX: usize = 8;

/// Bytes that one stream of a peer may have on its way unread when the configuration does not say:
/// 1 Gbit/s over 30 ms.
pub(crate) const STREAM_WINDOW_BYTES: u32 = 4 << 20;

/// The least that may be said: two packets of the largest size, or nothing moves.
pub(crate) const STREAM_WINDOW_BYTES_MIN: u32 = 16 << 10;

/// The same for all streams of a connection: 48 that are not read do not hold the others up.
pub(crate) const CONNECTION_WINDOW_BYTES: u32 = 256 << 20;

/// Bytes that all peers together may make the gateway hold when the configuration does not say.
pub(crate) const PEERS_MEMORY_BYTES: u64 = 512 << 20;

/// Streams that one peer may have open when the configuration does not say: a busy site's
/// connections, each of which costs some kilobytes.
pub(crate) const STREAMS_PER_PEER: u32 = 16_384;

/// After how long a silent peer is dead when the configuration does not say, milliseconds.
pub(crate) const DEAD_AFTER_MS: u64 = 12_000;

/// The least that may be said, milliseconds: a lost packet is repeated within a second or two.
pub(crate) const DEAD_AFTER_MS_MIN: u64 = 1_000;

/// Bytes of each buffer of the UDP socket when the configuration does not say: 8 ms at 8 Gbit/s,
/// the time that a busy machine may be away.
pub(crate) const SOCKET_BUFFER_BYTES: usize = 8 << 20;

/// The largest UDP payload that is tried when the configuration does not say: Ethernet's 1500 less
/// the headers of IPv6 and UDP.
pub(crate) const MTU_BYTES: u16 = 1452;

/// The least UDP payload of QUIC (RFC 9000, 14).
pub(crate) const MTU_BYTES_MIN: u16 = 1200;

/// Addresses in each list of `[overlay]`: interfaces times carriers, or bootstraps.
pub(crate) const OVERLAY_ADDRESSES_MAX: usize = 64;

/// Bytes of a network's name: it stands in the names of the overlay's protocols.
pub(crate) const NETWORK_NAME_BYTES_MAX: usize = 63;

/// Bytes of a file with a certificate or a list of revocations.
pub(crate) const MEMBERSHIP_FILE_BYTES_MAX: u64 = 256 * 1024;

/// Bytes of a private network's list of members: some 10,000 lines.
pub(crate) const MEMBERS_FILE_BYTES_MAX: u64 = 1 << 20;

/// `[[vsock]]` tables. Each connection that a guest's program opens by itself walks them.
pub(crate) const VSOCK_RULES_MAX: usize = 1024;

/// Clients of one guest's vsock socket that have not said CONNECT yet, or wait for the guest. Further
/// ones wait in the socket's backlog.
pub(crate) const VSOCK_CLIENTS_MAX: usize = 256;

/// How long such a client may take to say it, milliseconds. It writes a line to a Unix socket.
pub(crate) const VSOCK_HANDSHAKE_MS: u64 = 5_000;

/// Bytes of that line: "CONNECT 4294967295" and its end.
pub(crate) const VSOCK_HANDSHAKE_BYTES_MAX: usize = 32;

/// How long a connect to a Unix socket whose backlog is full is tried again, milliseconds. A program
/// that is alive accepts sooner; a guest's own patience is two seconds.
pub(crate) const VSOCK_CONNECT_MS: u64 = 1_500;
