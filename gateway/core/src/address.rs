//! Numbers that must never be swapped: CIDs, ports, connection keys, instants.

use std::fmt;

/// A context id: names a guest, or the host.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Cid(pub u64);

impl Cid {
    /// The host (`VMADDR_CID_HOST`).
    pub const HOST: Self = Self(2);

    /// The lowest CID that a guest may have: 0 to 2 are reserved.
    pub const GUEST_MIN: Self = Self(3);

    /// The highest: `VMADDR_CID_ANY` is the next one, and drivers read 32 bits.
    pub const GUEST_MAX: Self = Self(0xffff_fffe);
}

impl fmt::Display for Cid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

/// A vsock port.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct VsockPort(pub u32);

/// Names a connection of one guest.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ConnectionKey {
    /// The port on the guest's side.
    pub guest: VsockPort,
    /// The port on the host's side.
    pub host: VsockPort,
}

/// A moment, in milliseconds of a clock that only goes forward. The core has no clock: every
/// moment is an argument.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Instant(pub u64);

impl Instant {
    /// The moment `ms` milliseconds later.
    #[must_use]
    pub fn after_ms(self, ms: u64) -> Self {
        Self(self.0.saturating_add(ms))
    }
}
