//! Announced: a token between its announcement and the end of its dial.
//!
//! in: a token; out: the device hears that the dial began, and then exactly once how it ended. Owner:
//! the task of the call. Kept: dropped before the dial succeeded, it reports the failure. Bound:
//! [`limits::DIALS_PER_GUEST_MAX`] per guest.

use std::sync::Arc;

use outsock_core::address::VsockPort;
use outsock_device::FarEnd;
use outsock_vmrpc::Errno;
use outsock_vmrpc::socket::Token;
use tokio::sync::Notify;

use super::guest::{GuestSockets, LimitReached};
use crate::limits;

pub(crate) struct Announced {
    guest: Arc<GuestSockets>,
    token: Token,
    dialled: bool,
}

impl Announced {
    pub(crate) fn new(
        guest: Arc<GuestSockets>,
        token: Token,
    ) -> Result<(Self, Arc<Notify>), Errno> {
        let cancelled = Arc::new(Notify::new());
        {
            let mut dials = guest.dials();
            if dials.len() >= limits::DIALS_PER_GUEST_MAX {
                return Err(LimitReached::Dials.errno());
            }
            if dials.contains_key(&token) {
                return Err(Errno::EADDRINUSE);
            }
            dials.insert(token, Arc::clone(&cancelled));
        }
        let announced = Self { guest, token, dialled: false };
        let told = announced.guest.device.announce(VsockPort(token.raw()));
        told.map(|()| (announced, cancelled)).map_err(|_| Errno::ENOBUFS)
    }

    pub(crate) fn succeed(mut self, end: FarEnd) -> Result<(), Errno> {
        self.dialled = true;
        let told = self.guest.device.dial_ok(VsockPort(self.token.raw()), end);
        told.map_err(|_| Errno::ENOBUFS)
    }
}

impl Drop for Announced {
    fn drop(&mut self) {
        self.guest.dials().remove(&self.token);
        if !self.dialled {
            // An overloaded device times the REQUEST out by itself.
            let _ = self.guest.device.dial_failed(VsockPort(self.token.raw()));
        }
    }
}
