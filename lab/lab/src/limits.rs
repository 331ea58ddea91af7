//! Every limit of this crate, with its unit and its reason.

use std::time::Duration;

/// Bytes of a topology file.
pub const TOPOLOGY_BYTES_MAX: u64 = 1 << 20;

/// Sites of one lab: each has a gateway and guests of 256 MiB.
pub const SITES_MAX: usize = 16;

/// Guests of one site.
pub const GUESTS_PER_SITE_MAX: usize = 16;

/// Links of one lab; they get an address pair each of 198.51.100.0/24.
pub const LINKS_MAX: usize = 60;

/// How long a namespace's first process may take to be there.
pub const NAMESPACE_START: Duration = Duration::from_secs(5);

/// How long all gateways may take to connect to each other.
pub const CONNECT_TIME: Duration = Duration::from_secs(60);

/// How long programs that the topology starts may take until they listen.
pub const SERVICE_START: Duration = Duration::from_secs(15);

/// How often a condition is looked at that nothing tells of.
pub const POLL: Duration = Duration::from_millis(20);

/// Bytes of one question to a running lab: a command line and its standard input.
pub const QUESTION_BYTES_MAX: u64 = 24 << 20;

/// Questions that are answered at the same time.
pub const CLIENTS_MAX: usize = 64;

/// How long a command in a guest may run when nothing else is said.
pub const EXEC_TIME: Duration = Duration::from_secs(24 * 3600);
