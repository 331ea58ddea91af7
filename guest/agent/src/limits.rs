//! Every bound of the agent, with its unit and reason.

use std::time::Duration;

/// Sockets outsourced at the same time by one `outsock run`. Each holds one descriptor of the
/// supervisor (the shadow) and about 3 KiB of kernel memory; a connect above it fails with ENFILE.
pub(crate) const SOCKETS_MAX: usize = 65_536;

/// Descriptors that the supervisor asks for: one per socket, and room for connects in flight
/// (three each) and the epoll sets.
pub(crate) const DESCRIPTORS_WANTED: u64 = 4 * 65_536;

/// Sockets per weak set. A sweep reads one set as a text of about 100 bytes per socket, in one go:
/// this keeps it below 100 KiB and a third of a millisecond.
pub(crate) const WEAK_SET_SOCKETS_MAX: usize = 1024;

/// Between two looks at a weak set that holds connecting sockets: how late the host learns that a
/// program gave up a connect by closing the socket.
pub(crate) const SWEEP_CONNECTING: Duration = Duration::from_millis(250);

/// Between two looks at a weak set in which all is settled: how long a closed socket's shadow (its
/// descriptor, and its local port if it had been bound) may outlive it.
pub(crate) const SWEEP_SETTLED: Duration = Duration::from_secs(5);

/// A settled set is also looked at when this many sockets joined it since the last look, so that
/// short connections never fill the table; the cost per connection stays constant.
pub(crate) const SWEEP_JOINED: usize = 512;

/// Processes whose pidfd and epoll sets are remembered. One descriptor each; the oldest is
/// forgotten first, which costs a look-up later and nothing else.
pub(crate) const PROCESSES_MAX: usize = 1024;

/// Threads whose process is remembered. Above it all are forgotten, which costs one look-up each.
pub(crate) const THREADS_MAX: usize = 8192;

/// Users whose names are remembered. Above it all are forgotten, which costs one look-up each.
pub(crate) const USERS_MAX: usize = 1024;

/// Bytes of /etc/passwd that are looked through: some 20,000 users.
pub(crate) const USER_FILE_BYTES_MAX: u64 = 1024 * 1024;

/// How old a user's name may be before the file's time of change is looked at again.
pub(crate) const USER_FILE_CHECK: Duration = Duration::from_secs(1);

/// How long the call that makes an epoll set may take after the supervisor has let it pass. Until then
/// a process's sets are looked for at every connect instead of remembered.
pub(crate) const EPOLL_CREATION: Duration = Duration::from_millis(200);

/// Sockets that are known to have been duplicated before they were connected. The oldest is
/// forgotten first; its second descriptor then keeps the guest's own socket after a connect.
pub(crate) const DUPLICATED_MAX: usize = 1024;

/// How long `outsock run` looks for a gateway before it says that there is none.
pub(crate) const GATEWAY_START: Duration = Duration::from_secs(2);

/// Between two attempts to reach a gateway that went away.
pub(crate) const GATEWAY_RETRY: Duration = Duration::from_secs(1);

/// A connect that has not been answered for this long makes the agent ask whether the gateway still
/// lives: dials may be slow, the gateway itself answers at once.
pub(crate) const GATEWAY_PING_AFTER: Duration = Duration::from_secs(1);

/// A gateway that has said nothing for this long is asked, too, while connections stand: nothing else
/// tells a program that only reads that it will never read again. One call of 50 bytes.
pub(crate) const GATEWAY_IDLE_PING_AFTER: Duration = Duration::from_secs(5);

/// A gateway that has said nothing for this long, and is not back, is gone: its connections are ended.
/// Long enough for one that was stopped for a moment to go on with all of them.
pub(crate) const GATEWAY_GONE: Duration = Duration::from_secs(20);

/// A gateway that does not answer that question for this long is taken for dead. Generous, because
/// a paused virtual machine or a stopped gateway may come back.
pub(crate) const GATEWAY_PING_TIMEOUT: Duration = Duration::from_secs(5);

/// How long one write of a call may take. A call is 50 bytes and the stream's window 256 KiB, so it
/// takes no time unless the gateway has stopped reading with thousands of calls under way.
pub(crate) const GATEWAY_SEND: Duration = Duration::from_secs(2);

/// How long the kernel keeps a vsock connect alive (SO_VM_SOCKETS_CONNECT_TIMEOUT; its default is
/// 2 s). Longer than any dial: TCP itself gives up after about 130 s, and the gateway has limits of
/// its own; this only bounds what a lost gateway leaves behind.
pub(crate) const VSOCK_CONNECT_TIMEOUT: Duration = Duration::from_secs(300);

/// The guest's receive window of one data connection, in bytes. The kernel's default of 256 KiB
/// also caps what the guest may send ahead.
pub(crate) const VSOCK_BUFFER_BYTES: u64 = 1024 * 1024;

/// How long the verdict on a connect may follow after its vsock connection has ended or opened. The
/// gateway sends the verdict first, so this passes only when the gateway is broken.
pub(crate) const VERDICT_GRACE: Duration = Duration::from_secs(2);

/// How long a question about a connection waits for the gateway, which answers from memory; then the
/// guest's own kernel answers as well as it can.
pub(crate) const INQUIRY_PATIENCE: Duration = Duration::from_secs(2);

/// The first look for signals of a thread that waits in connect(); then twice as long each time, up
/// to [`SIGNAL_CHECK_MAX`]. A look costs about 15 us.
pub(crate) const SIGNAL_CHECK_MIN: Duration = Duration::from_millis(2);

/// See [`SIGNAL_CHECK_MIN`]. Bounds how late a Ctrl-C is seen during a connect.
pub(crate) const SIGNAL_CHECK_MAX: Duration = Duration::from_millis(40);

/// The same for a thread that waits in accept(), which idle servers do for days: a look every 200 ms
/// costs nothing.
pub(crate) const SIGNAL_CHECK_ACCEPT_MAX: Duration = Duration::from_millis(200);

/// Listening sockets of the supervised programs that the gateway is told of. Further ones are local.
pub(crate) const LISTENERS_MAX: usize = 16_384;

/// Connections that may wait to be accepted, however long a backlog a program asks for; the kernel
/// has a bound of its own (`net.core.somaxconn`).
pub(crate) const BACKLOG_MAX: u32 = 4096;

/// Between two looks for closed listeners while others can reach one: how late the gateway hears that
/// a program has closed its listener and lives on. A look costs about 20 us.
pub(crate) const LISTENERS_LOOK: Duration = Duration::from_millis(20);

/// How long a connection for which nobody listens any more waits for somebody who listens anew on the
/// same address, as a server does that starts over, before it is reset.
pub(crate) const HEIR_PATIENCE: Duration = Duration::from_millis(200);

/// How often another port is tried when the kernel has chosen one that is taken on the host.
pub(crate) const LISTEN_TRIES: u32 = 16;

/// How long listen() waits for the gateway's answer, which takes as long as a bind() on the host.
pub(crate) const LISTEN_PATIENCE: Duration = Duration::from_secs(10);

/// How long a report of connections that wait no more may be put off while a backlog has room: it
/// mostly travels with the next question then.
pub(crate) const REPORT_DELAY: Duration = Duration::from_millis(100);

/// How long a supervisor whose programs have ended stays to have the connections reset that nobody has
/// accepted.
pub(crate) const REFUSE_PATIENCE: Duration = Duration::from_secs(1);

/// Listeners that are gone and remembered: their connections go to who listens on the same address now.
/// The gateway hears of an end within milliseconds.
pub(crate) const LISTENERS_GONE: usize = 64;

/// Looks for signals per second over all waiting threads: 2 % of one core.
pub(crate) const SIGNAL_CHECKS_PER_SECOND: u32 = 1500;

/// Bytes of a socket address that a call may carry (`sizeof(struct sockaddr_storage)`); the kernel
/// refuses longer ones itself.
pub(crate) const ADDRESS_BYTES_MAX: usize = 128;

/// Bytes of an option's value that are passed to a shadow socket. The longest that TCP or IP take
/// from a program without privileges is TCP_INFO, about 280 bytes.
pub(crate) const OPTION_BYTES_MAX: usize = 1024;

/// Relatives of a process that are looked at for a socket that fork has shared. A chain of shells and
/// wrappers has a handful.
pub(crate) const KIN_MAX: usize = 64;

/// Sockets that are relayed at the same time, with two threads and four descriptors each. Beyond it
/// only the process that connects gets the connection.
pub(crate) const RELAYS_MAX: usize = 256;

/// How long a connection over the guest's own loopback may take; it takes microseconds.
pub(crate) const RELAY_PATIENCE: Duration = Duration::from_secs(1);

/// Bytes that the supervisor sends for a program in one call.
pub(crate) const SEND_BYTES_MAX: usize = 256 * 1024;

/// Pieces of a message (UIO_MAXIOV).
pub(crate) const PIECES_MAX: usize = 1024;

/// Bytes that a look into a receive queue asks for at first, where the kernel does not count them.
pub(crate) const PEEK_BYTES_MIN: usize = 64 * 1024;

/// Bytes that it asks for when there is more: as much as a data connection may hold.
pub(crate) const PEEK_BYTES_MAX: usize = 1024 * 1024;

/// Bytes of a text from /proc. The longest is fdinfo of an epoll set: 100 bytes per registration.
pub(crate) const PROC_TEXT_BYTES_MAX: u64 = 64 * 1024 * 1024;

/// How long `outsock run` waits for its resolver. It reaches the gateway at the same time as the
/// supervisor does, so this passes only when a machine is very busy.
pub(crate) const RESOLVER_START: Duration = Duration::from_secs(5);

/// Bytes of the reason why there is no resolver.
pub(crate) const MESSAGE_BYTES_MAX: u64 = 4096;

/// Sockets that the resolver's process sends at a time, of one kind, for programs that ask a nameserver.
/// Twice as many lie ready at most, and half of them are always there unless there is a burst, which
/// waits for 100 us or so.
pub(crate) const SOCKETS_PER_ORDER: usize = 4;

/// Calls that wait for such a socket: each is a waiting thread. One more is left to the kernel.
pub(crate) const PARKED_MAX: usize = 4096;

/// Where nameservers listen.
pub(crate) const DNS_PORT: u16 = 53;

/// DNS queries under way, each with a copy of itself (4 KiB at most). The gateway admits 256 of a
/// guest; one more than this is answered with SERVFAIL.
pub(crate) const DNS_QUERIES_MAX: usize = 1024;

/// How long the gateway may take for an answer (10 s by its contract) until it counts as gone.
pub(crate) const DNS_ANSWER: Duration = Duration::from_secs(12);

/// Connections of DNS over TCP; one more is closed at once.
pub(crate) const DNS_STREAMS_MAX: usize = 128;

/// Queries under way on one such connection; more wait in it.
pub(crate) const DNS_STREAM_QUERIES_MAX: usize = 64;

/// Bytes of answers that wait for a program to read them, until its next query waits, too.
pub(crate) const DNS_STREAM_OUTBOX_BYTES: usize = 256 * 1024;

/// How long such a connection may be idle (RFC 7766, 6.2.3, wants some seconds).
pub(crate) const DNS_STREAM_IDLE: Duration = Duration::from_secs(30);

/// Addresses known to be nameservers, over all programs. The oldest is forgotten first.
pub(crate) const NAMESERVERS_MAX: usize = 32;

/// Bytes of a resolv.conf that are looked through.
pub(crate) const RESOLV_CONF_BYTES_MAX: u64 = 64 * 1024;

const _: () = assert!(DNS_ANSWER.as_secs() < DNS_STREAM_IDLE.as_secs());
const _: () = assert!(WEAK_SET_SOCKETS_MAX < SOCKETS_MAX);
const _: () = assert!(
    GATEWAY_IDLE_PING_AFTER.as_secs() + GATEWAY_PING_TIMEOUT.as_secs() < GATEWAY_GONE.as_secs()
);
const _: () = assert!(SIGNAL_CHECK_MIN.as_nanos() < SIGNAL_CHECK_MAX.as_nanos());
const _: () = assert!(PEEK_BYTES_MAX as u64 >= VSOCK_BUFFER_BYTES);

/// The MTU of the TUN device, in bytes: the longest IPv4 packet. The host cuts up what its own networks
/// do not take.
pub(crate) const TUN_MTU: u32 = 65_535;

/// Bytes of a packet that is read from the TUN device: an IPv6 header and the longest body, or the
/// longest run of datagrams that a program sent at once.
pub(crate) const TUN_PACKET_BYTES: usize = 40 + 65_535;

/// Packets that are read from the TUN device before the channel is looked at.
pub(crate) const TUN_BATCH: usize = 64;

/// Extension headers of an IPv6 packet that are looked behind.
pub(crate) const EXTENSION_HEADERS_MAX: usize = 8;

/// A packet with no more hops left than this is a probe of a traceroute (30 hops at most, by default):
/// hops cannot be counted through the gateway, so it is refused. Programs start with 64 or more.
pub(crate) const HOPS_TRACED_MAX: u8 = 30;

/// Datagrams of which some fragments have come, and not yet the last.
pub(crate) const FRAGMENTED_MAX: usize = 16;

/// Bytes of a datagram in fragments: the longest body of an IPv6 packet.
pub(crate) const FRAGMENTED_BYTES_MAX: usize = 65_535;

/// Bytes of a packet that an ICMP error quotes (RFC 1812, 4.3.2.3: 576 with its headers).
pub(crate) const ICMP_QUOTED_V4: usize = 576 - 28;

/// The same for IPv6 (RFC 4443, 2.4: 1280 with its headers).
pub(crate) const ICMP_QUOTED_V6: usize = 1280 - 48;

/// The MTU that is said of a way whose true one is not known: the least that every IPv6 way has.
pub(crate) const MTU_SAID: u32 = 1280;

/// Bytes of messages that wait for the channel. Above it no packet is read, and the kernel drops what
/// its own queue (500 packets) does not hold.
pub(crate) const CHANNEL_BYTES_MAX: usize = 1024 * 1024;

/// Bytes of a channel that are read at once.
pub(crate) const CHANNEL_READ_BYTES: usize = 256 * 1024;

/// How long a channel may take to stand.
pub(crate) const CHANNEL_OPEN: Duration = Duration::from_secs(5);

/// How long packets wait for the first channel, in the kernel's queue. The gateway has answered the
/// agent a moment before, so only a busy machine takes long.
pub(crate) const CHANNEL_FIRST: Duration = Duration::from_secs(10);

/// Between two attempts to take the TUN device over from another agent.
pub(crate) const TUN_RETRY: Duration = Duration::from_millis(250);
