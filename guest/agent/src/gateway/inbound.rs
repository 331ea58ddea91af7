//! The link's other direction: listeners to the gateway, and news of who wants to connect.
//!
//! in: listeners, their end, reports from the supervisor's loop; out: [`Event`]s in its mailbox. Owner:
//! the loop. Kept: of one session of the gateway there is one inbound session, begun with its first
//! listener, and exactly one question "who wants to connect?" is out. A gateway whose module has no
//! version 3 publishes nothing. Bound: `outsock_vmrpc::limits::NOTICES_MAX` per answer.

use std::os::fd::OwnedFd;
use std::sync::mpsc::sync_channel;
use std::time::Duration;

use outsock_vmrpc::socket::inbound::{
    self, ListenReply, ListenRequest, ListenerId, Notices, Refuse, Report, Session, Unlisten,
};
use outsock_vmrpc::socket::{self, Token};
use outsock_vmrpc::{Errno, RpcError};

use super::{Event, Link, NO_GATEWAY, Up};
use crate::dial;

impl Link {
    /// The inbound session, begun if there is none yet. `None` without a gateway that publishes.
    pub(crate) fn inbound_session(&mut self, fresh: impl FnOnce() -> u64) -> Option<Session> {
        let up = self.up.as_mut()?;
        if up.session.binding.version() < socket::V3 {
            return None;
        }
        if up.inbound.is_none() {
            let session = Session(fresh());
            up.inbound = Some(session);
            up.session.binding.start_rpc(inbound::ATTEND, &session.encode(), drop);
            self.ask_inbound(Vec::new());
        }
        self.up.as_ref()?.inbound
    }

    /// Whether an answer came from the present session.
    pub(crate) fn is_inbound(&self, session: Session) -> bool {
        self.up.as_ref().and_then(|up| up.inbound) == Some(session)
    }

    /// Whether there has been a listener in the present session.
    pub(crate) fn has_listened(&self) -> bool {
        self.inbound().is_some()
    }

    /// Tells of a listener; [`Event::Listened`] answers.
    pub(crate) fn listen(&self, request: &ListenRequest) {
        let Some(up) = &self.up else { return };
        let mailbox = self.mailbox.clone();
        let (session, listener) = (request.session, request.listener);
        up.session.binding.start_rpc(inbound::LISTEN, &request.encode(), move |outcome| {
            let reply = match outcome {
                Ok(bytes) => Ok(ListenReply::decode(&bytes).unwrap_or_default()),
                Err(RpcError::Function(errno)) => Err(errno),
                Err(_) => Err(NO_GATEWAY),
            };
            mailbox.post(Event::Listened(session, listener, reply));
        });
    }

    /// Nobody listens any more.
    pub(crate) fn unlisten(&self, listener: ListenerId) {
        if let Some((up, session)) = self.inbound() {
            let unlisten = Unlisten { session, listener };
            up.session.binding.start_rpc(inbound::UNLISTEN, &unlisten.encode(), drop);
        }
    }

    /// Asks who wants to connect; [`Event::Inbound`] answers.
    pub(crate) fn ask_inbound(&self, ended: Vec<(ListenerId, u32)>) {
        let Some((up, session)) = self.inbound() else { return };
        let mailbox = self.mailbox.clone();
        let report = Report { session, ended };
        up.session.binding.start_rpc(inbound::INBOUND, &report.encode(), move |outcome| {
            // Without an answer there is no gateway any more, which other calls tell, or one that
            // publishes nothing.
            if let Ok(bytes) = outcome {
                mailbox.post(Event::Inbound(session, Notices::decode(&bytes).unwrap_or_default()));
            }
        });
    }

    /// Tells that connections wait no more.
    pub(crate) fn report(&self, ended: Vec<(ListenerId, u32)>) {
        if let Some((up, session)) = self.inbound() {
            let report = Report { session, ended };
            up.session.binding.start_rpc(inbound::REPORT, &report.encode(), drop);
        }
    }

    /// Has the host reset a connection, and closes its stream only then: else the far side would see
    /// an orderly end.
    pub(crate) fn refuse(&self, token: Token, stream: Option<OwnedFd>) {
        if let Some((up, _)) = self.inbound() {
            let arguments = Refuse(token).encode();
            up.session.binding.start_rpc(inbound::REFUSE, &arguments, move |_| drop(stream));
        }
    }

    /// Waits until the gateway has heard all calls so far, which it takes in their order.
    pub(crate) fn flush(&self, timeout: Duration) {
        let Some(up) = &self.up else { return };
        let (sender, receiver) = sync_channel(1);
        up.session.binding.start_rpc(socket::HELLO, &[], move |_| {
            // Nobody waits any more when it took too long.
            let _ = sender.send(());
        });
        let _ = receiver.recv_timeout(timeout);
    }

    /// Opens the stream of a connection that the host holds.
    pub(crate) fn fetch(&self, token: Token) -> Result<OwnedFd, Errno> {
        self.dialer.data(token).map_err(|error| dial::data_errno(&error))
    }

    fn inbound(&self) -> Option<(&Up, Session)> {
        let up = self.up.as_ref()?;
        Some((up, up.inbound?))
    }
}
