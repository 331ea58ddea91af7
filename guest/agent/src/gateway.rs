//! The link to the gateway's `socket` module: calls out, verdicts back, and what to do without it.
//!
//! in: connects and cancels from the supervisor's loop; out: [`Event`]s in its mailbox. Owner: the
//! loop; a reader thread per stream (in `outsock_vmrpc`) and, while the gateway is away, one thread
//! that tries to reach it. Kept: without a gateway every connect fails at once; a gateway that is
//! silent while connects wait is asked, and given up when it does not answer (a backend that
//! vanishes tells the guest nothing). Time is an argument.

mod inbound;

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::sync::mpsc::{RecvTimeoutError, sync_channel};
use std::time::{Duration, Instant};

use outsock_vmrpc::socket::inbound as wire;
use outsock_vmrpc::socket::options::{self, Inspection, SetOptions, SocketOption};
use outsock_vmrpc::socket::{self, Asserted, ConnectReply, ConnectRequest, Hello, Token};
use outsock_vmrpc::{Binding, Client, Errno, Fault, RpcError};

use crate::dial::{self, Dialer};
use crate::mailbox::Mailbox;
use crate::{limits, log, sys};

/// What other threads tell the loop.
#[derive(Debug)]
pub(crate) enum Event {
    /// How the dial for a token ended.
    Verdict(Token, Result<ConnectReply, Errno>),
    /// What the gateway says to the waiting call of this key.
    Answer(u64, Result<Inspection, Errno>),
    /// A call that set options of the connection, whose socket has this inode, has ended.
    OptionsSet(Token, u64),
    /// A session answered the question whether it lives.
    Alive(u64),
    /// A session is over.
    Lost(u64),
    /// The gateway is back.
    Back(Box<Session>),
    /// The gateway has been told of a listener.
    Listened(wire::Session, wire::ListenerId, Result<wire::ListenReply, Errno>),
    /// Someone wants to connect.
    Inbound(wire::Session, wire::Notices),
}

/// Why there is no session.
#[derive(Debug, thiserror::Error)]
pub(crate) enum OpenError {
    /// The stream cannot be opened.
    #[error("{error}: {}", dial::advice(error))]
    Unreachable { error: io::Error },
    /// It opened, and then nothing came.
    #[error("it accepts connections but does not answer: is that really outsock-gateway?")]
    Silent,
    /// The gateway serves no sockets to this guest.
    #[error("{0}")]
    Refused(RpcError),
}

/// One life of the gateway: the bound `socket` module on one stream.
#[derive(Debug)]
pub(crate) struct Session {
    number: u64,
    binding: Arc<Binding>,
    /// A second descriptor of the stream, to notice its end while no call is under way.
    watch: OwnedFd,
    hello: Hello,
}

impl Session {
    /// Opens a stream and binds the module; at most about `timeout`.
    fn open(dialer: &dyn Dialer, number: u64, timeout: Duration) -> Result<Self, OpenError> {
        let ((binding, hello), watch) = greeted(dialer, timeout, greet)?;
        Ok(Self { number, binding: Arc::new(binding), watch, hello })
    }

    /// Who the gateway takes this guest for.
    pub(crate) fn hello(&self) -> &Hello {
        &self.hello
    }
}

/// Opens a stream and greets the gateway on it; at most about `timeout`. Returns what `greet` does, and
/// a second descriptor of the stream.
pub(crate) fn greeted<T: Send + 'static>(
    dialer: &dyn Dialer,
    timeout: Duration,
    greet: fn(OwnedFd) -> Result<T, RpcError>,
) -> Result<(T, OwnedFd), OpenError> {
    let deadline = Instant::now() + timeout;
    let unreachable = |error| OpenError::Unreachable { error };
    let stream = dialer.control(timeout).map_err(unreachable)?;
    set_send_timeout(&stream).map_err(unreachable)?;
    let watch = stream.try_clone().map_err(unreachable)?;
    // The handshake blocks without limit, so it runs aside; ending the stream ends it too.
    let (sender, receiver) = sync_channel(1);
    std::thread::Builder::new()
        .name("handshake".to_owned())
        .spawn(move || {
            // Nobody listens any more when it took too long.
            let _ = sender.send(greet(stream));
        })
        .map_err(unreachable)?;
    let left = deadline.saturating_duration_since(Instant::now());
    match receiver.recv_timeout(left.max(Duration::from_millis(200))) {
        Ok(Ok(greeted)) => Ok((greeted, watch)),
        Ok(Err(error)) => Err(OpenError::Refused(error)),
        Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected) => {
            let _ = sys::socket::shutdown_both(watch.as_fd());
            Err(OpenError::Silent)
        }
    }
}

/// The loop writes calls itself: a gateway that has stopped reading must not stop it.
fn set_send_timeout(stream: &OwnedFd) -> io::Result<()> {
    let seconds = i64::try_from(limits::GATEWAY_SEND.as_secs()).unwrap_or(1);
    let value: Vec<u8> = [seconds, 0].into_iter().flat_map(i64::to_ne_bytes).collect();
    sys::socket::set_option(stream.as_fd(), libc::SOL_SOCKET, libc::SO_SNDTIMEO, &value)
}

fn greet(stream: OwnedFd) -> Result<(Binding, Hello), RpcError> {
    let binding = Client::new(stream)?.bind_module(socket::NAME, socket::ALL_VERSIONS)?;
    let hello = binding.perform_rpc(socket::HELLO, &[])?;
    let hello = Hello::decode(&hello).map_err(|error| RpcError::Protocol(error.0))?;
    Ok((binding, hello))
}

/// The errno that a program sees for each way in which a CONNECT call can fail.
fn errno_of(error: &RpcError) -> Errno {
    match error {
        RpcError::Function(errno) => *errno,
        // Too many connects at once: what TCP says when it runs out of ports.
        RpcError::Host(Fault::TooMany) => Errno::EAGAIN,
        RpcError::Host(Fault::NotAllowed) => Errno::EACCES,
        RpcError::Host(
            Fault::UnsupportedProtocol
            | Fault::NoSuchModule
            | Fault::UnsupportedVersion
            | Fault::NoSuchHandle
            | Fault::NoSuchFunction
            | Fault::BadArguments
            | Fault::ModuleGone
            | Fault::ResultTooLarge
            | Fault::ModuleUnavailable
            | Fault::NoSuchQueue
            | Fault::QueueNotShared
            | Fault::AlreadyServed,
        )
        | RpcError::Disconnected
        | RpcError::Protocol(_)
        | RpcError::ArgumentsTooLarge => NO_GATEWAY,
    }
}

/// What connects fail with while there is no gateway: as on a machine without a network.
pub(crate) const NO_GATEWAY: Errno = Errno::ENETUNREACH;

#[derive(Debug)]
struct Up {
    session: Box<Session>,
    /// When the gateway was last heard of.
    heard: Instant,
    /// When it was asked whether it lives, while the answer is out.
    asked: Option<Instant>,
    /// Under which listeners are registered there.
    inbound: Option<wire::Session>,
    /// Until then nothing is to be asked, so nobody has to look for the oldest wait.
    calm_until: Instant,
}

impl Up {
    fn new(session: Box<Session>, now: Instant) -> Self {
        Self { session, heard: now, asked: None, inbound: None, calm_until: now }
    }

    /// A connect may have begun to wait long after the gateway was heard.
    fn ask_at(&self, oldest_wait: Option<Instant>) -> Instant {
        let idle = self.heard + limits::GATEWAY_IDLE_PING_AFTER;
        oldest_wait.map_or(idle, |wait| idle.min(self.heard.max(wait) + limits::GATEWAY_PING_AFTER))
    }
}

/// The link, up or down.
#[derive(Debug)]
pub(crate) struct Link {
    dialer: Arc<dyn Dialer>,
    mailbox: Mailbox,
    up: Option<Up>,
    /// While it is down: when the gateway was last heard of, if connections of then may stand.
    silent_since: Option<Instant>,
    sessions: u64,
}

impl Link {
    /// Opens the first session.
    pub(crate) fn open(dialer: Arc<dyn Dialer>, mailbox: Mailbox) -> Result<Self, OpenError> {
        let session = Session::open(&*dialer, 0, limits::GATEWAY_START)?;
        let up = Up::new(Box::new(session), Instant::now());
        Ok(Self { dialer, mailbox, up: Some(up), silent_since: None, sessions: 0 })
    }

    pub(crate) fn session(&self) -> Option<&Session> {
        self.up.as_ref().map(|up| &*up.session)
    }

    /// The file whose end is the end of the session.
    pub(crate) fn watch(&self) -> Option<BorrowedFd<'_>> {
        self.up.as_ref().map(|up| up.session.watch.as_fd())
    }

    /// Announces a connect and opens its data connection, which travel together. `who` is asked only
    /// when the gateway wants to know.
    pub(crate) fn connect(
        &self,
        request: &ConnectRequest,
        who: impl FnOnce() -> Asserted,
        options: &[SocketOption],
    ) -> Result<OwnedFd, Errno> {
        let Some(up) = &self.up else { return Err(NO_GATEWAY) };
        let version = up.session.binding.version();
        let (function, arguments) = if version >= socket::V3 && !options.is_empty() {
            (options::CONNECT_WITH, options::encode_connect(request, &who(), options))
        } else if version >= socket::V2 {
            (socket::CONNECT, request.encode_v2(&who()))
        } else {
            (socket::CONNECT, request.encode())
        };
        let token = request.token;
        let mailbox = self.mailbox.clone();
        let number = up.session.number;
        up.session.binding.start_rpc(function, &arguments, move |outcome| {
            if outcome == Err(RpcError::Disconnected) {
                mailbox.post(Event::Lost(number));
            }
            let verdict = outcome.map_err(|error| errno_of(&error)).map(|bytes| {
                // The connection is there even when its name is not understood.
                ConnectReply::decode(&bytes).unwrap_or(ConnectReply { local: None })
            });
            mailbox.post(Event::Verdict(token, verdict));
        });
        self.dialer.data(token).map_err(|error| {
            self.cancel(token);
            dial::data_errno(&error)
        })
    }

    /// Gives up a dial. The host may have finished it already; then this is ignored there.
    pub(crate) fn cancel(&self, token: Token) {
        if let Some(up) = &self.up {
            up.session.binding.start_rpc(socket::CANCEL, &token.encode(), drop);
        }
    }

    /// Whether the gateway takes options and answers for single connections.
    pub(crate) fn has_options(&self) -> bool {
        self.up.as_ref().is_some_and(|up| up.session.binding.version() >= socket::V3)
    }

    /// Sets options of a connection; nobody waits for it.
    pub(crate) fn set_options(&self, token: Token, options: Vec<SocketOption>, inode: u64) {
        let mailbox = self.mailbox.clone();
        let arguments = SetOptions { token, options }.encode();
        self.start(options::SET_OPTIONS, &arguments, move |_| {
            mailbox.post(Event::OptionsSet(token, inode));
        });
    }

    /// Sets an option of a connection, for the waiting call `key`.
    pub(crate) fn set_option(&self, token: Token, option: SocketOption, key: u64) {
        let mailbox = self.mailbox.clone();
        let arguments = SetOptions { token, options: vec![option] }.encode();
        self.start(options::SET_OPTIONS, &arguments, move |outcome| {
            let outcome = outcome.map(|_| Inspection::default());
            mailbox.post(Event::Answer(key, outcome.map_err(|error| errno_of(&error))));
        });
    }

    /// Asks about a connection, for the waiting call `key`.
    pub(crate) fn inspect(&self, token: Token, key: u64) {
        let mailbox = self.mailbox.clone();
        self.start(options::INSPECT, &token.encode(), move |outcome| {
            let outcome = outcome
                .map_err(|error| errno_of(&error))
                .and_then(|bytes| Inspection::decode(&bytes).map_err(|_| Errno::EPROTO));
            mailbox.post(Event::Answer(key, outcome));
        });
    }

    fn start(
        &self,
        function: u32,
        arguments: &[u8],
        done: impl FnOnce(Result<Vec<u8>, RpcError>) + Send + 'static,
    ) {
        match &self.up {
            Some(up) => up.session.binding.start_rpc(function, arguments, done),
            None => done(Err(RpcError::Disconnected)),
        }
    }

    /// The gateway said something.
    pub(crate) fn heard(&mut self, now: Instant) {
        if let Some(up) = &mut self.up {
            up.heard = now;
            up.asked = None;
        }
    }

    /// When to look after the gateway next, while connections stand or `waiting` ones are under way.
    pub(crate) fn due(&self, waiting: bool) -> Option<Instant> {
        let up = self.up.as_ref()?;
        Some(match up.asked {
            Some(asked) => asked + limits::GATEWAY_PING_TIMEOUT,
            None if waiting => (up.heard + limits::GATEWAY_PING_AFTER).max(up.calm_until),
            None => up.heard + limits::GATEWAY_IDLE_PING_AFTER,
        })
    }

    /// When the gateway counts as gone, with all connections; `None` while it is there, or after that.
    pub(crate) fn gone_at(&self) -> Option<Instant> {
        self.silent_since.map(|since| since + limits::GATEWAY_GONE)
    }

    /// The connections have been ended.
    pub(crate) fn forget_connections(&mut self) {
        self.silent_since = None;
    }

    /// Looks after the gateway; `oldest_wait`: since when a connect waits. `false` when it has to be
    /// given up.
    pub(crate) fn look_after(&mut self, now: Instant, oldest_wait: Option<Instant>) -> bool {
        let Some(up) = &mut self.up else { return true };
        match up.asked {
            Some(asked) => now < asked + limits::GATEWAY_PING_TIMEOUT,
            None => {
                up.calm_until = up.ask_at(oldest_wait);
                if now < up.calm_until {
                    return true;
                }
                up.asked = Some(now);
                let (mailbox, number) = (self.mailbox.clone(), up.session.number);
                up.session.binding.start_rpc(socket::HELLO, &[], move |outcome| {
                    let event = if outcome.is_ok() { Event::Alive } else { Event::Lost };
                    mailbox.post(event(number));
                });
                true
            }
        }
    }

    /// Whether a session's number is that of the present one.
    pub(crate) fn is_present(&self, number: u64) -> bool {
        self.up.as_ref().is_some_and(|up| up.session.number == number)
    }

    /// Ends the session and starts to look for the next one. The caller fails what waits.
    pub(crate) fn lose(&mut self) {
        let Some(up) = self.up.take() else { return };
        self.silent_since = Some(up.heard);
        // Calls in flight and the unbinding on drop must not wait for a gateway that is not there.
        let _ = sys::socket::shutdown_both(up.session.watch.as_fd());
        drop(up);
        log::say(format_args!(
            "lost the gateway at {}: new connections fail with {NO_GATEWAY} until it is back",
            self.dialer.place()
        ));
        self.sessions += 1;
        let (dialer, mailbox, number) =
            (Arc::clone(&self.dialer), self.mailbox.clone(), self.sessions);
        let search = move || loop {
            match Session::open(&*dialer, number, limits::GATEWAY_START) {
                Ok(session) => return mailbox.post(Event::Back(Box::new(session))),
                Err(error) => log::note(format_args!("no gateway yet: {error}")),
            }
            std::thread::sleep(limits::GATEWAY_RETRY);
        };
        if let Err(error) = std::thread::Builder::new().name("search".to_owned()).spawn(search) {
            log::say(format_args!("cannot look for the gateway any more: {error}"));
        }
    }

    /// The gateway is back.
    pub(crate) fn resume(&mut self, session: Box<Session>, now: Instant) {
        log::say(format_args!("the gateway at {} is back", self.dialer.place()));
        self.silent_since = None;
        self.up = Some(Up::new(session, now));
    }
}
