//! Channel: the way of datagrams to the gateway.
//!
//! in: messages to send; out: messages that came. Owner: the relay's thread; a thread of its own opens
//! it, because a gateway may be slow to answer or away. Kept: nothing here waits once it is open; a
//! channel that breaks is given up, and looked for again. Bound: [`limits::CHANNEL_BYTES_MAX`].

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;

use outsock_vmrpc::datagram::{self, Message, Messages, Open};
use outsock_vmrpc::socket::Token;
use outsock_vmrpc::{Client, Errno, Fault, RpcError};

use super::Event;
use super::interface::GUEST_V4;
use crate::dial::Dialer;
use crate::mailbox::Mailbox;
use crate::{limits, log, sys};

/// See the module.
#[derive(Debug)]
pub(super) struct Channel {
    stream: OwnedFd,
    waiting: Vec<u8>,
    messages: Messages,
    piece: Vec<u8>,
}

/// Why there is no channel.
#[derive(Debug, thiserror::Error)]
pub(super) enum OpenError {
    /// The gateway does not have such a thing for this guest; asking again would not help.
    #[error("{0}")]
    Refused(RpcError),
    /// It is away, or broken.
    #[error("{0}")]
    Failed(io::Error),
}

impl From<io::Error> for OpenError {
    fn from(error: io::Error) -> Self {
        Self::Failed(error)
    }
}

impl From<RpcError> for OpenError {
    fn from(error: RpcError) -> Self {
        match error {
            RpcError::Host(
                Fault::NoSuchModule
                | Fault::UnsupportedVersion
                | Fault::NotAllowed
                | Fault::NoSuchFunction,
            ) => Self::Refused(error),
            other => Self::Failed(io::Error::other(other.to_string())),
        }
    }
}

impl Channel {
    /// Opens a channel; blocks.
    pub(super) fn open(
        dialer: &dyn Dialer,
        v6: Option<std::net::Ipv6Addr>,
    ) -> Result<Self, OpenError> {
        let control = dialer.control(limits::GATEWAY_START)?;
        let binding = Client::new(control)?.bind_module(datagram::NAME, datagram::VERSIONS)?;
        let token = random_token()?;
        let open = Open { token, v4: Some(GUEST_V4), v6 };
        binding.perform_rpc(datagram::OPEN, &open.encode())?;
        let stream = dialer.data(token)?;
        let ready = sys::poll::wait_for(stream.as_fd(), sys::poll::WRITABLE, limits::CHANNEL_OPEN)?;
        let error = sys::socket::int_option(stream.as_fd(), libc::SOL_SOCKET, libc::SO_ERROR)?;
        match (ready, error) {
            (true, 0) => Ok(Self {
                stream,
                waiting: Vec::new(),
                messages: Messages::default(),
                piece: vec![0; limits::CHANNEL_READ_BYTES],
            }),
            (true, error) => Err(OpenError::Failed(io::Error::from_raw_os_error(error))),
            (false, _) => Err(OpenError::Failed(io::Error::from_raw_os_error(libc::ETIMEDOUT))),
        }
    }

    /// Looks for a gateway until there is one; what came of it goes to `events`.
    pub(super) fn search(
        dialer: Arc<dyn Dialer>,
        v6: Option<std::net::Ipv6Addr>,
        events: Mailbox<Event>,
    ) -> io::Result<()> {
        let search = move || loop {
            match Self::open(&*dialer, v6) {
                Ok(channel) => {
                    return events.post(Event::Opened(Box::new(channel)));
                }
                Err(OpenError::Refused(error)) => {
                    log::say(format_args!(
                        "the gateway carries no datagrams for this guest, so UDP and ping are refused: \
                         {error}"
                    ));
                    return events.post(Event::Refused);
                }
                Err(OpenError::Failed(error)) => {
                    log::note(format_args!("no channel for datagrams yet: {error}"));
                }
            }
            std::thread::sleep(limits::GATEWAY_RETRY);
        };
        std::thread::Builder::new().name("datagrams".to_owned()).spawn(search).map(drop)
    }

    /// Adds a message to those that wait.
    pub(super) fn put(&mut self, message: &Message<'_>) {
        // What is no message (a datagram longer than the wire says) cannot have come from a program.
        message.encode(&mut self.waiting);
    }

    /// Whether no more packets should be read before some have gone.
    pub(super) fn is_full(&self) -> bool {
        self.waiting.len() >= limits::CHANNEL_BYTES_MAX
    }

    /// Whether it waits for room in the stream.
    pub(super) fn is_waiting(&self) -> bool {
        !self.waiting.is_empty()
    }

    /// Writes as much as the stream takes.
    pub(super) fn flush(&mut self) -> io::Result<()> {
        let mut written = 0;
        while written < self.waiting.len() {
            match sys::socket::send(self.stream.as_fd(), &self.waiting[written..]) {
                Ok(length) => written += length,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        self.waiting.drain(..written);
        Ok(())
    }

    /// Reads what has come and shows each message.
    pub(super) fn read(&mut self, mut show: impl FnMut(&Message<'_>)) -> io::Result<()> {
        let length = match sys::socket::receive(self.stream.as_fd(), &mut self.piece) {
            Ok(0) => return Err(Errno::ECONNRESET.into()),
            Ok(length) => length,
            Err(error)
                if matches!(
                    error.kind(),
                    io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted
                ) =>
            {
                return Ok(());
            }
            Err(error) => return Err(error),
        };
        self.messages.push(&self.piece[..length]);
        while let Some(message) = self.messages.next().map_err(io::Error::other)? {
            show(&message);
        }
        Ok(())
    }
}

impl AsFd for Channel {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.stream.as_fd()
    }
}

fn random_token() -> io::Result<Token> {
    use std::io::Read;
    let mut bytes = [0u8; 4];
    std::fs::File::open("/dev/urandom")?.read_exact(&mut bytes)?;
    Ok(Token::from_random(u32::from_ne_bytes(bytes)))
}
