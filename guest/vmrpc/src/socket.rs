//! The `socket` host module, version 1: functions and arguments.
//!
//! A connect takes two steps that travel together: the agent calls [`CONNECT`] with a fresh token,
//! and opens a vsock connection to the host port of that number. The host answers the vsock REQUEST
//! when its own dial has ended, and the call with the names or the errno. Both sides see these
//! types; neither trusts the other to have formed them well.

use std::net::SocketAddr;

use crate::limits;
use crate::name::{Version, VersionRange};
use crate::wire::{Malformed, Reader, Writer};

/// The module's name.
pub const NAME: &str = "socket";

/// The versions that this crate describes.
pub const VERSIONS: VersionRange = VersionRange::only(Version(1));

/// Function 1: dial a destination for a token. Arguments [`ConnectRequest`], result
/// [`ConnectReply`]; an errno says why the dial failed.
pub const CONNECT: u32 = 1;

/// Function 2: give up a dial. Arguments: the [`Token`]. No result.
pub const CANCEL: u32 = 2;

/// Function 3: who the gateway takes this guest for. No arguments; result [`Hello`].
pub const HELLO: u32 = 3;

/// Names one outsourced connection: the host port that its vsock connection goes to. Chosen at
/// random by the agent, used once, and only valid for the guest that announced it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Token(u32);

impl Token {
    /// `None` outside [`limits::TOKEN_MIN`] ..= [`limits::TOKEN_MAX`].
    pub fn new(raw: u32) -> Option<Self> {
        (limits::TOKEN_MIN..=limits::TOKEN_MAX).contains(&raw).then_some(Self(raw))
    }

    /// Any number, folded into the range of tokens.
    pub fn from_random(random: u32) -> Self {
        Self(limits::TOKEN_MIN | (random & (limits::TOKEN_MAX - limits::TOKEN_MIN)))
    }

    /// The host port.
    pub fn raw(self) -> u32 {
        self.0
    }

    /// The token as arguments of [`CANCEL`].
    pub fn encode(self) -> Vec<u8> {
        Writer::new().u32(self.0).finish()
    }

    /// Parses the arguments of [`CANCEL`].
    pub fn decode(bytes: &[u8]) -> Result<Self, Malformed> {
        let mut reader = Reader::new(bytes);
        let token = Self::read(&mut reader)?;
        reader.finish()?;
        Ok(token)
    }

    fn read(reader: &mut Reader<'_>) -> Result<Self, Malformed> {
        Self::new(reader.u32()?).ok_or(Malformed("not a token"))
    }
}

/// Where a program in the guest wants to connect to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Destination {
    /// The address that stood in the program's `connect()`.
    Address(SocketAddr),
}

/// Arguments of [`CONNECT`].
///
/// ```
/// use outsock_vmrpc::socket::{ConnectRequest, Destination, Token};
/// let request = ConnectRequest {
///     token: Token::from_random(7),
///     destination: Destination::Address("192.0.2.1:80".parse().unwrap()),
///     source: None,
/// };
/// assert_eq!(ConnectRequest::decode(&request.encode()), Ok(request));
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConnectRequest {
    /// The token that the vsock connection will carry as its host port.
    pub token: Token,
    /// Where to.
    pub destination: Destination,
    /// The local address that the program bound before connecting, if any. A wish: the host uses
    /// its port where the transport can, and its address never.
    pub source: Option<SocketAddr>,
}

impl ConnectRequest {
    /// As arguments.
    pub fn encode(&self) -> Vec<u8> {
        let Destination::Address(address) = self.destination;
        let writer = Writer::new().u32(self.token.0).u8(0).socket_addr(address);
        match self.source {
            Some(source) => writer.u8(1).socket_addr(source).finish(),
            None => writer.u8(0).finish(),
        }
    }

    /// From arguments.
    pub fn decode(bytes: &[u8]) -> Result<Self, Malformed> {
        let mut reader = Reader::new(bytes);
        let token = Token::read(&mut reader)?;
        let destination = match reader.u8()? {
            0 => Destination::Address(reader.socket_addr()?),
            _ => return Err(Malformed("unknown kind of destination")),
        };
        let source = match reader.u8()? {
            0 => None,
            1 => Some(reader.socket_addr()?),
            _ => return Err(Malformed("bad flag")),
        };
        reader.finish()?;
        Ok(Self { token, destination, source })
    }
}

/// Result of [`CONNECT`]: the names that `getsockname` and `getpeername` will report.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ConnectReply {
    /// The local name of the far socket, as the transport reports it; `None` where it has none.
    pub local: Option<SocketAddr>,
}

impl ConnectReply {
    /// As a result.
    pub fn encode(&self) -> Vec<u8> {
        match self.local {
            Some(local) => Writer::new().u8(1).socket_addr(local).finish(),
            None => Writer::new().u8(0).finish(),
        }
    }

    /// From a result.
    pub fn decode(bytes: &[u8]) -> Result<Self, Malformed> {
        let mut reader = Reader::new(bytes);
        let local = match reader.u8()? {
            0 => None,
            1 => Some(reader.socket_addr()?),
            _ => return Err(Malformed("bad flag")),
        };
        reader.finish()?;
        Ok(Self { local })
    }
}

/// Result of [`HELLO`]: who the gateway takes this guest for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hello {
    /// The guest's name in the gateway's configuration.
    pub guest: String,
    /// The gateway's version, for messages.
    pub gateway_version: String,
}

impl Hello {
    /// As a result.
    pub fn encode(&self) -> Vec<u8> {
        Writer::new().text(&self.guest).text(&self.gateway_version).finish()
    }

    /// From a result.
    pub fn decode(bytes: &[u8]) -> Result<Self, Malformed> {
        let mut reader = Reader::new(bytes);
        let guest = reader.text(limits::HOST_NAME_BYTES_MAX)?.to_owned();
        let gateway_version = reader.text(limits::HOST_NAME_BYTES_MAX)?.to_owned();
        reader.finish()?;
        Ok(Self { guest, gateway_version })
    }
}
