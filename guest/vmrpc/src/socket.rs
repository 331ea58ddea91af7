//! The `socket` host module, versions 1 to 3: functions and arguments.
//!
//! A connect takes two steps that travel together: the agent calls [`CONNECT`] with a fresh token,
//! and opens a vsock connection to the host port of that number. The host answers the vsock REQUEST
//! when its own dial has ended, and the call with the names or the errno. Both sides see these
//! types; neither trusts the other to have formed them well.
//!
//! Version 2 differs in the arguments of [`CONNECT`] only: they say which program and user ask
//! ([`Asserted`]), and the destination may be a name. An agent binds [`ALL_VERSIONS`], looks at
//! `Binding::version` and encodes with [`ConnectRequest::encode`] for version 1 or
//! [`ConnectRequest::encode_v2`] from version 2 on.
//!
//! Version 3 adds functions of its own: [`inbound`], [`options`].

pub mod inbound;
pub mod options;

use std::net::SocketAddr;

use crate::limits;
use crate::name::{Version, VersionRange};
use crate::wire::{Malformed, Reader, Writer};

/// The module's name.
pub const NAME: &str = "socket";

/// The version that [`ConnectRequest::encode`] writes: bind this when nothing is asserted.
pub const VERSIONS: VersionRange = VersionRange::only(Version(1));

/// The version whose arguments are [`ConnectRequest::encode_v2`].
pub const V2: Version = Version(2);

/// The version that adds the functions of [`inbound`] and [`options`].
pub const V3: Version = Version(3);

/// Every version that this crate describes.
pub const ALL_VERSIONS: VersionRange = match VersionRange::new(Version(1), V3) {
    Some(range) => range,
    None => VersionRange::only(V3),
};

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
    /// A name, for programs that ask for one themselves. Version 2.
    Name {
        /// As a program would write it: letters of any case, with or without a final dot, at most
        /// [`limits::HOST_NAME_BYTES_MAX`] bytes.
        name: String,
        /// The port.
        port: u16,
    },
}

/// Who asks, as the guest says. Nobody on the host can check it: a rule that trusts it trusts the
/// guest's kernel and agent.
///
/// ```
/// use outsock_vmrpc::socket::Asserted;
/// let nothing = Asserted::default();
/// assert_eq!(nothing.program, None);
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Asserted {
    /// The program's path (`/proc/PID/exe`), at most [`limits::PROGRAM_BYTES_MAX`] bytes; a longer
    /// one, or one that is not UTF-8, is not said.
    pub program: Option<String>,
    /// The process.
    pub pid: Option<u32>,
    /// The effective user id.
    pub user_id: Option<u32>,
    /// The user's name in the guest, at most [`limits::USER_NAME_BYTES_MAX`] bytes.
    pub user_name: Option<String>,
}

impl Asserted {
    fn write(&self, writer: Writer) -> Writer {
        let text = |writer: Writer, text: &Option<String>, bytes_max| match text {
            Some(text) if text.len() <= bytes_max => writer.u8(1).text(text),
            Some(_) | None => writer.u8(0),
        };
        let number = |writer: Writer, number: Option<u32>| match number {
            Some(number) => writer.u8(1).u32(number),
            None => writer.u8(0),
        };
        let writer = text(writer, &self.program, limits::PROGRAM_BYTES_MAX);
        let writer = number(number(writer, self.pid), self.user_id);
        text(writer, &self.user_name, limits::USER_NAME_BYTES_MAX)
    }

    fn read(reader: &mut Reader<'_>) -> Result<Self, Malformed> {
        fn flag(reader: &mut Reader<'_>) -> Result<bool, Malformed> {
            match reader.u8()? {
                0 => Ok(false),
                1 => Ok(true),
                _ => Err(Malformed("bad flag")),
            }
        }
        fn text(reader: &mut Reader<'_>, bytes_max: usize) -> Result<Option<String>, Malformed> {
            let said = flag(reader)?;
            said.then(|| reader.text(bytes_max).map(str::to_owned)).transpose()
        }
        fn number(reader: &mut Reader<'_>) -> Result<Option<u32>, Malformed> {
            let said = flag(reader)?;
            said.then(|| reader.u32()).transpose()
        }
        Ok(Self {
            program: text(reader, limits::PROGRAM_BYTES_MAX)?,
            pid: number(reader)?,
            user_id: number(reader)?,
            user_name: text(reader, limits::USER_NAME_BYTES_MAX)?,
        })
    }
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
    /// As arguments of version 1, in which a name is no destination: the host refuses it.
    pub fn encode(&self) -> Vec<u8> {
        self.write().finish()
    }

    /// From arguments of version 1.
    pub fn decode(bytes: &[u8]) -> Result<Self, Malformed> {
        let mut reader = Reader::new(bytes);
        let request = Self::read(&mut reader)?;
        reader.finish()?;
        match request.destination {
            Destination::Address(_) => Ok(request),
            Destination::Name { .. } => Err(Malformed("unknown kind of destination")),
        }
    }

    /// As arguments of version 2.
    ///
    /// ```
    /// use outsock_vmrpc::socket::{Asserted, ConnectRequest, Destination, Token};
    /// let request = ConnectRequest {
    ///     token: Token::from_random(7),
    ///     destination: Destination::Name { name: "db.osaka.peer".into(), port: 5432 },
    ///     source: None,
    /// };
    /// let program = Some("/usr/bin/psql".to_owned());
    /// let who = Asserted { program, pid: Some(812), user_id: Some(1000), user_name: None };
    /// assert_eq!(ConnectRequest::decode_v2(&request.encode_v2(&who)), Ok((request, who)));
    /// ```
    pub fn encode_v2(&self, asserted: &Asserted) -> Vec<u8> {
        asserted.write(self.write()).finish()
    }

    /// From arguments of version 2.
    pub fn decode_v2(bytes: &[u8]) -> Result<(Self, Asserted), Malformed> {
        let mut reader = Reader::new(bytes);
        let request = Self::read(&mut reader)?;
        let asserted = Asserted::read(&mut reader)?;
        reader.finish()?;
        Ok((request, asserted))
    }

    fn write(&self) -> Writer {
        let writer = Writer::new().u32(self.token.0);
        let writer = match &self.destination {
            Destination::Address(address) => writer.u8(0).socket_addr(*address),
            Destination::Name { name, port } => writer.u8(1).text(name).u16(*port),
        };
        match self.source {
            Some(source) => writer.u8(1).socket_addr(source),
            None => writer.u8(0),
        }
    }

    fn read(reader: &mut Reader<'_>) -> Result<Self, Malformed> {
        let token = Token::read(reader)?;
        let destination = match reader.u8()? {
            0 => Destination::Address(reader.socket_addr()?),
            1 => {
                let name = reader.text(limits::HOST_NAME_BYTES_MAX + 1)?.to_owned();
                Destination::Name { name, port: reader.u16()? }
            }
            _ => return Err(Malformed("unknown kind of destination")),
        };
        let source = match reader.u8()? {
            0 => None,
            1 => Some(reader.socket_addr()?),
            _ => return Err(Malformed("bad flag")),
        };
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
