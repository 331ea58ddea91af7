//! Upstream: the gateway's `resolver` module, over a stream of its own.
//!
//! in: queries; out: the outcome of each, on the reader thread of the stream (in `outsock_vmrpc`), or at
//! once while there is no gateway. Owner: the stub's loop; while the gateway is away, one thread tries
//! to reach it. Kept: a query ends at most once; those of a session that is given up do not end here.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;

use outsock_vmrpc::resolver::{self, QueryRequest};
use outsock_vmrpc::{Binding, Client, RpcError};

use crate::dial::Dialer;
use crate::mailbox::Mailbox;
use crate::{gateway, limits, sys};

/// What other threads tell the stub's loop.
#[derive(Debug)]
pub(super) enum Event {
    /// An answer for a stream, by the stream's key; `None` ends the stream.
    Answer(u64, Option<Vec<u8>>),
    /// The supervisor has lost the gateway.
    Lost,
    /// The gateway is back.
    Back(Session),
}

/// One life of the gateway.
#[derive(Debug)]
pub(super) struct Session {
    binding: Binding,
    /// A second descriptor of the stream, to notice its end.
    watch: OwnedFd,
}

impl Session {
    fn open(dialer: &dyn Dialer) -> Result<Self, gateway::OpenError> {
        let greet = |stream| Client::new(stream)?.bind_module(resolver::NAME, resolver::VERSIONS);
        let (binding, watch) = gateway::greeted(dialer, limits::GATEWAY_START, greet)?;
        Ok(Self { binding, watch })
    }
}

/// See the module.
#[derive(Debug)]
pub(super) struct Upstream {
    dialer: Arc<dyn Dialer>,
    mailbox: Mailbox<Event>,
    session: Option<Session>,
}

impl Upstream {
    /// Binds the module; says why it cannot.
    pub(super) fn open(dialer: Arc<dyn Dialer>, mailbox: Mailbox<Event>) -> Result<Self, String> {
        let session = Session::open(&*dialer).map_err(|error| error.to_string())?;
        Ok(Self { dialer, mailbox, session: Some(session) })
    }

    /// Passes a query on. `done` must not block.
    pub(super) fn ask(
        &self,
        query: &QueryRequest,
        done: impl FnOnce(Result<Vec<u8>, RpcError>) + Send + 'static,
    ) {
        match &self.session {
            Some(session) => session.binding.start_rpc(resolver::QUERY, &query.encode(), done),
            None => done(Err(RpcError::Disconnected)),
        }
    }

    /// The file whose end is the end of the session.
    pub(super) fn watch(&self) -> Option<BorrowedFd<'_>> {
        self.session.as_ref().map(|session| session.watch.as_fd())
    }

    /// Gives the session up, with all its queries, and looks for the next one.
    pub(super) fn lose(&mut self) {
        let Some(session) = self.session.take() else { return };
        // The unbinding on drop must not wait for a gateway that is not there.
        let _ = sys::socket::shutdown_both(session.watch.as_fd());
        drop(session);
        let (dialer, mailbox) = (Arc::clone(&self.dialer), self.mailbox.clone());
        let search = move || loop {
            std::thread::sleep(limits::GATEWAY_RETRY);
            if let Ok(session) = Session::open(&*dialer) {
                return mailbox.post(Event::Back(session));
            }
        };
        // Without threads nothing of the agent works; names then fail until it is started again.
        let _ = std::thread::Builder::new().name("search".to_owned()).spawn(search);
    }

    /// The gateway is back.
    pub(super) fn resume(&mut self, session: Session) {
        self.session = Some(session);
    }
}
