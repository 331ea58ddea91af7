//! bind(): the guest's own, except where an outsourced socket is in the way.
//!
//! in: notifications; out: the kernel runs the call, on the program's own TCP socket. Owner: the
//! supervisor's loop. Kept: a shadow holds the port that its socket had been bound to only while the
//! program has the socket, so the kernel's EADDRINUSE is the true one. Bound: the sockets that were
//! bound before they were connected are looked at, no others.

use std::io;
use std::net::SocketAddr;
use std::time::Instant;

use crate::notify::{Answer, Notification};
use crate::supervisor::Supervisor;
use crate::table::State;

impl Supervisor {
    pub(crate) fn on_bind(
        &mut self,
        notification: &Notification,
        now: Instant,
    ) -> io::Result<Answer> {
        if self.table.is_empty() {
            return Ok(Answer::Native);
        }
        self.forget_closed(now);
        let subject = self.subject(notification)?;
        let state = self.entry(&subject).map(|socket| socket.state);
        // A connected vsock socket says EINVAL, as TCP does. After a failure the name is free again.
        if let Some(State::Failed(_) | State::Idle) = state {
            self.restore(notification, subject, now)?;
        }
        Ok(Answer::Native)
    }

    /// Lets go of the ports of sockets that the programs have closed.
    fn forget_closed(&mut self, now: Instant) {
        let bound = self.table.bound();
        if bound.is_empty() {
            return;
        }
        for inode in self.weak.look_at(&bound, now) {
            self.on_socket_gone(inode);
        }
    }

    /// Whether another socket leads from the same port to the same destination, which TCP refuses.
    pub(crate) fn is_taken(&mut self, own: SocketAddr, peer: SocketAddr, now: Instant) -> bool {
        if own.port() == 0 {
            return false;
        }
        self.forget_closed(now);
        let bound = self.table.bound();
        bound
            .into_iter()
            .filter_map(|inode| {
                self.table.get(inode).map(|socket| {
                    let lives =
                        matches!(socket.state, State::Connecting(_) | State::Connected { .. });
                    lives && socket.peer == peer && socket.bound == Some(own)
                })
            })
            .any(|same| same)
    }
}
