//! Socket options and counters of one connection: functions 20 to 22 of the `socket` host module,
//! version 3.
//!
//! in: options that a program set on its socket; out: the same on the host's socket, where the
//! transport has one. Neither side trusts the other: an option is one of [`SocketOption`] or the
//! arguments are malformed, and the host's kernel judges the value. A connection is named by its
//! token, which is only valid for the guest that announced it. Bound:
//! [`limits::SOCKET_OPTIONS_MAX`] per call.

use super::{Asserted, ConnectRequest, Token};
use crate::errno::Errno;
use crate::limits;
use crate::wire::{Malformed, Reader, Writer};

/// Function 20: as [`super::CONNECT`], for a socket that has options. Arguments: those of version 2,
/// then the options ([`encode_connect`]). Result [`super::ConnectReply`].
pub const CONNECT_WITH: u32 = 20;

/// Function 21: sets options of a connection. Arguments [`SetOptions`]. No result; the errno is that
/// of the first option that the host's kernel refused, `ENOTCONN` when there is no such connection.
/// Where the transport has no socket of the host's kernel, options without a meaning for it pass.
///
/// Two calls under way at once may take effect in either order: who sets the same option twice
/// waits for the first reply.
pub const SET_OPTIONS: u32 = 21;

/// Function 22: what the host's kernel says of a connection. Arguments: the [`Token`]. Result
/// [`Inspection`]; `ENOTCONN` when the host knows nothing of it any more.
pub const INSPECT: u32 = 22;

/// An option of a connection that can make a difference outside the guest.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum SocketOption {
    /// TCP_NODELAY. The host's sockets have it from the start.
    NoDelay(bool),
    /// SO_KEEPALIVE.
    KeepAlive(bool),
    /// TCP_KEEPIDLE, seconds.
    KeepIdle(u32),
    /// TCP_KEEPINTVL, seconds.
    KeepInterval(u32),
    /// TCP_KEEPCNT, probes.
    KeepCount(u32),
    /// TCP_USER_TIMEOUT, milliseconds; 0 is the system's own.
    UserTimeout(u32),
    /// IP_TOS or IPV6_TCLASS, whatever the host's socket has.
    TrafficClass(u8),
    /// IP_TTL or IPV6_UNICAST_HOPS.
    HopLimit(u8),
    /// TCP_MAXSEG, bytes. Has its full effect before the connect only.
    MaxSegment(u16),
    /// SO_SNDBUF as a program passes it, bytes: the kernel doubles it and knows a maximum.
    SendBuffer(u32),
    /// SO_RCVBUF, likewise.
    ReceiveBuffer(u32),
    /// SO_LINGER {1, 0}: closing the socket resets the connection and drops what is unsent.
    AbortOnClose(bool),
    /// TCP_CONGESTION, at most [`limits::CONGESTION_BYTES_MAX`] bytes. The host takes what its
    /// administrator allows every program (`tcp_allowed_congestion_control`).
    Congestion(String),
}

impl SocketOption {
    /// Whether the two set the same option.
    pub fn is_same_option(&self, other: &Self) -> bool {
        std::mem::discriminant(self) == std::mem::discriminant(other)
    }

    fn write(&self, writer: Writer) -> Writer {
        let (kind, value) = match self {
            Self::NoDelay(on) => (1, u32::from(*on)),
            Self::KeepAlive(on) => (2, u32::from(*on)),
            Self::KeepIdle(seconds) => (3, *seconds),
            Self::KeepInterval(seconds) => (4, *seconds),
            Self::KeepCount(probes) => (5, *probes),
            Self::UserTimeout(milliseconds) => (6, *milliseconds),
            Self::TrafficClass(class) => (7, u32::from(*class)),
            Self::HopLimit(hops) => (8, u32::from(*hops)),
            Self::MaxSegment(bytes) => (9, u32::from(*bytes)),
            Self::SendBuffer(bytes) => (10, *bytes),
            Self::ReceiveBuffer(bytes) => (11, *bytes),
            Self::AbortOnClose(on) => (12, u32::from(*on)),
            Self::Congestion(name) => return writer.u8(13).text(name),
        };
        writer.u8(kind).u32(value)
    }

    fn read(reader: &mut Reader<'_>) -> Result<Self, Malformed> {
        let kind = reader.u8()?;
        if kind == 13 {
            let name = reader.text(limits::CONGESTION_BYTES_MAX)?;
            return Ok(Self::Congestion(name.to_owned()));
        }
        let value = reader.u32()?;
        let flag = || match value {
            0 => Ok(false),
            1 => Ok(true),
            _ => Err(Malformed("bad flag")),
        };
        let byte = || u8::try_from(value).map_err(|_| Malformed("not a byte"));
        Ok(match kind {
            1 => Self::NoDelay(flag()?),
            2 => Self::KeepAlive(flag()?),
            3 => Self::KeepIdle(value),
            4 => Self::KeepInterval(value),
            5 => Self::KeepCount(value),
            6 => Self::UserTimeout(value),
            7 => Self::TrafficClass(byte()?),
            8 => Self::HopLimit(byte()?),
            9 => {
                let bytes = u16::try_from(value).map_err(|_| Malformed("segment too long"))?;
                Self::MaxSegment(bytes)
            }
            10 => Self::SendBuffer(value),
            11 => Self::ReceiveBuffer(value),
            12 => Self::AbortOnClose(flag()?),
            _ => return Err(Malformed("unknown socket option")),
        })
    }
}

fn write_all(options: &[SocketOption], writer: Writer) -> Writer {
    let options = &options[..options.len().min(limits::SOCKET_OPTIONS_MAX)];
    let count = u8::try_from(options.len()).unwrap_or(u8::MAX);
    options.iter().fold(writer.u8(count), |writer, option| option.write(writer))
}

fn read_all(reader: &mut Reader<'_>) -> Result<Vec<SocketOption>, Malformed> {
    let count = usize::from(reader.u8()?);
    if count > limits::SOCKET_OPTIONS_MAX {
        return Err(Malformed("too many socket options"));
    }
    (0..count).map(|_| SocketOption::read(reader)).collect()
}

/// Arguments of [`CONNECT_WITH`]. More than [`limits::SOCKET_OPTIONS_MAX`] options are cut.
///
/// ```
/// use outsock_vmrpc::socket::{Asserted, ConnectRequest, Destination, Token};
/// use outsock_vmrpc::socket::options::{SocketOption, decode_connect, encode_connect};
/// let request = ConnectRequest {
///     token: Token::from_random(7),
///     destination: Destination::Address("192.0.2.1:80".parse().unwrap()),
///     source: None,
/// };
/// let (who, options) = (Asserted::default(), vec![SocketOption::KeepIdle(30)]);
/// let bytes = encode_connect(&request, &who, &options);
/// assert_eq!(decode_connect(&bytes), Ok((request, who, options)));
/// ```
pub fn encode_connect(
    request: &ConnectRequest,
    asserted: &Asserted,
    options: &[SocketOption],
) -> Vec<u8> {
    write_all(options, asserted.write(request.write())).finish()
}

/// Parses the arguments of [`CONNECT_WITH`].
pub fn decode_connect(
    bytes: &[u8],
) -> Result<(ConnectRequest, Asserted, Vec<SocketOption>), Malformed> {
    let mut reader = Reader::new(bytes);
    let request = ConnectRequest::read(&mut reader)?;
    let asserted = Asserted::read(&mut reader)?;
    let options = read_all(&mut reader)?;
    reader.finish()?;
    Ok((request, asserted, options))
}

/// Arguments of [`SET_OPTIONS`].
///
/// ```
/// use outsock_vmrpc::socket::Token;
/// use outsock_vmrpc::socket::options::{SetOptions, SocketOption};
/// let options = vec![SocketOption::NoDelay(false), SocketOption::Congestion("reno".into())];
/// let set = SetOptions { token: Token::from_random(7), options };
/// assert_eq!(SetOptions::decode(&set.encode()), Ok(set));
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SetOptions {
    /// Of which connection.
    pub token: Token,
    /// Set in this order; more than [`limits::SOCKET_OPTIONS_MAX`] are cut.
    pub options: Vec<SocketOption>,
}

impl SetOptions {
    /// As arguments.
    pub fn encode(&self) -> Vec<u8> {
        write_all(&self.options, Writer::new().u32(self.token.0)).finish()
    }

    /// From arguments.
    pub fn decode(bytes: &[u8]) -> Result<Self, Malformed> {
        let mut reader = Reader::new(bytes);
        let token = Token::read(&mut reader)?;
        let options = read_all(&mut reader)?;
        reader.finish()?;
        Ok(Self { token, options })
    }
}

/// Result of [`INSPECT`]. What the transport has no answer for is `None`.
///
/// ```
/// use outsock_vmrpc::Errno;
/// use outsock_vmrpc::socket::options::Inspection;
/// let it = Inspection { reset: Some(Errno::ECONNRESET), ..Inspection::default() };
/// assert_eq!(Inspection::decode(&it.encode()), Ok(it));
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Inspection {
    /// Why the far side's end broke, if it did. A guest's kernel reads a reset as an end.
    pub reset: Option<Errno>,
    /// The bytes of the host kernel's `struct tcp_info`, at most [`limits::TCP_INFO_BYTES_MAX`].
    pub tcp_info: Option<Vec<u8>>,
    /// TCP_CONGESTION.
    pub congestion: Option<String>,
    /// TCP_MAXSEG, bytes.
    pub max_segment: Option<u32>,
    /// Bytes of the guest that the far side has not acknowledged (SIOCOUTQ).
    pub out_queue: Option<u32>,
}

impl Inspection {
    /// As a result.
    pub fn encode(&self) -> Vec<u8> {
        let number = |writer: Writer, number: Option<u32>| match number {
            Some(number) => writer.u8(1).u32(number),
            None => writer.u8(0),
        };
        let reset = self.reset.map_or(0, |errno| errno.raw().cast_unsigned());
        let mut writer = Writer::new().u32(reset);
        let info = self.tcp_info.as_deref().unwrap_or_default();
        let info = &info[..info.len().min(limits::TCP_INFO_BYTES_MAX)];
        writer = writer.u16(u16::try_from(info.len()).unwrap_or(0)).raw(info);
        writer = match &self.congestion {
            Some(name) => writer.u8(1).text(name),
            None => writer.u8(0),
        };
        number(number(writer, self.max_segment), self.out_queue).finish()
    }

    /// From a result.
    pub fn decode(bytes: &[u8]) -> Result<Self, Malformed> {
        fn flag(reader: &mut Reader<'_>) -> Result<bool, Malformed> {
            match reader.u8()? {
                0 => Ok(false),
                1 => Ok(true),
                _ => Err(Malformed("bad flag")),
            }
        }
        fn number(reader: &mut Reader<'_>) -> Result<Option<u32>, Malformed> {
            let said = flag(reader)?;
            said.then(|| reader.u32()).transpose()
        }
        let mut reader = Reader::new(bytes);
        let reset = match i32::try_from(reader.u32()?) {
            Ok(0) => None,
            Ok(raw) => Some(Errno::new(raw).ok_or(Malformed("not an errno"))?),
            Err(_) => return Err(Malformed("not an errno")),
        };
        let length = usize::from(reader.u16()?);
        if length > limits::TCP_INFO_BYTES_MAX {
            return Err(Malformed("counters too long"));
        }
        let tcp_info =
            (length > 0).then(|| reader.bytes(length).map(<[u8]>::to_vec)).transpose()?;
        let congestion = flag(&mut reader)?
            .then(|| reader.text(limits::CONGESTION_BYTES_MAX).map(str::to_owned))
            .transpose()?;
        let (max_segment, out_queue) = (number(&mut reader)?, number(&mut reader)?);
        reader.finish()?;
        Ok(Self { reset, tcp_info, congestion, max_segment, out_queue })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn every_option() -> Vec<SocketOption> {
        vec![
            SocketOption::NoDelay(true),
            SocketOption::KeepAlive(false),
            SocketOption::KeepIdle(1),
            SocketOption::KeepInterval(2),
            SocketOption::KeepCount(3),
            SocketOption::UserTimeout(4),
            SocketOption::TrafficClass(255),
            SocketOption::HopLimit(64),
            SocketOption::MaxSegment(1200),
            SocketOption::SendBuffer(u32::MAX),
            SocketOption::ReceiveBuffer(0),
            SocketOption::AbortOnClose(true),
            SocketOption::Congestion("a-name-of-15-by".to_owned()),
        ]
    }

    #[test]
    fn every_option_crosses_and_no_other_does() {
        let set = SetOptions { token: Token::from_random(1), options: every_option() };
        let bytes = set.encode();
        assert_eq!(SetOptions::decode(&bytes), Ok(set));
        for cut in 0..bytes.len() {
            assert!(SetOptions::decode(&bytes[..cut]).is_err(), "{cut}");
        }
        let one = |kind, value: u32| {
            let token = Token::from_random(1).raw();
            let bytes = Writer::new().u32(token).u8(1).u8(kind).u32(value).finish();
            SetOptions::decode(&bytes)
        };
        for (kind, value) in [(0, 1), (14, 1), (255, 0), (1, 2), (7, 256), (9, 65_536), (12, 7)] {
            assert!(one(kind, value).is_err(), "{kind} {value}");
        }
        let long = SocketOption::Congestion("sixteen-letters!".to_owned());
        let set = SetOptions { token: Token::from_random(1), options: vec![long] };
        assert!(SetOptions::decode(&set.encode()).is_err());
    }

    #[test]
    fn too_many_options_are_cut_by_who_writes_and_refused_by_who_reads() {
        let many = vec![SocketOption::KeepIdle(1); limits::SOCKET_OPTIONS_MAX + 1];
        let set = SetOptions { token: Token::from_random(1), options: many };
        let read = SetOptions::decode(&set.encode()).unwrap();
        assert_eq!(read.options.len(), limits::SOCKET_OPTIONS_MAX);
        let count = u8::try_from(limits::SOCKET_OPTIONS_MAX + 1).unwrap();
        let mut writer = Writer::new().u32(Token::from_random(1).raw()).u8(count);
        for _ in 0..count {
            writer = writer.u8(3).u32(1);
        }
        assert!(SetOptions::decode(&writer.finish()).is_err());
    }

    #[test]
    fn an_inspection_crosses_with_any_of_its_parts() {
        let full = Inspection {
            reset: Some(Errno::ECONNRESET),
            tcp_info: Some(vec![1; 240]),
            congestion: Some("cubic".to_owned()),
            max_segment: Some(1448),
            out_queue: Some(0),
        };
        for it in [full.clone(), Inspection::default(), Inspection { tcp_info: None, ..full }] {
            let bytes = it.encode();
            for cut in 0..bytes.len() {
                assert!(Inspection::decode(&bytes[..cut]).is_err(), "{cut}");
            }
            assert_eq!(Inspection::decode(&bytes), Ok(it));
        }
    }
}
