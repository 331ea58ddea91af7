//! Connections that come in: what version 3 of the `socket` module adds.
//!
//! An agent tells the host of every listening socket ([`LISTEN`]) and of its end ([`UNLISTEN`]). The
//! host's configuration decides which of them others can reach. When someone connects, the host
//! draws a [`Token`], holds the connection for it, and answers a call of [`INBOUND`] that the agent
//! keeps under way; the agent opens a vsock connection to the host port of that number, as for a
//! connect, and gets the bytes.
//!
//! Everything of one agent belongs to its [`Session`], which lives as long as a call of [`ATTEND`] is
//! under way: when the agent dies the stream ends, the call is dropped, and its listeners are gone.
//!
//! At most [`ListenRequest::backlog`] connections per listener are with the agent at a time; it reports
//! ([`Report`]) those that a program has taken, or that have ended before.

use std::net::SocketAddr;

use super::{Asserted, Token};
use crate::limits;
use crate::wire::{Malformed, Reader, Writer};

/// Function 10: a program listens. Arguments [`ListenRequest`], result [`ListenReply`]; an errno says
/// why it cannot be reached where the host's configuration wants it, and is what `listen()` shall
/// say. The same number again replaces the listener.
pub const LISTEN: u32 = 10;

/// Function 11: nobody listens any more. Arguments [`Unlisten`]. No result.
pub const UNLISTEN: u32 = 11;

/// Function 12: who wants to connect? Arguments [`Report`]; the result, [`Notices`], comes when there
/// is at least one.
pub const INBOUND: u32 = 12;

/// Function 13: a [`Report`] without a question. No result.
pub const REPORT: u32 = 13;

/// Function 14: a session lives while this call is under way. Arguments [`Session`]. It ends, with an
/// errno, only when the host wants no session.
pub const ATTEND: u32 = 14;

/// Function 15: no program will take these connections: reset them. Arguments [`Refuse`]. No result.
pub const REFUSE: u32 = 15;

/// One life of one agent, drawn at random by it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Session(pub u64);

impl Session {
    /// As arguments of [`ATTEND`].
    pub fn encode(self) -> Vec<u8> {
        self.write(Writer::new()).finish()
    }

    /// From arguments of [`ATTEND`].
    pub fn decode(bytes: &[u8]) -> Result<Self, Malformed> {
        let mut reader = Reader::new(bytes);
        let session = Self::read(&mut reader)?;
        reader.finish()?;
        Ok(session)
    }

    fn write(self, writer: Writer) -> Writer {
        writer.raw(&self.0.to_le_bytes())
    }

    fn read(reader: &mut Reader<'_>) -> Result<Self, Malformed> {
        let bytes = reader.bytes(8)?.first_chunk().copied();
        bytes.map(|bytes| Self(u64::from_le_bytes(bytes))).ok_or(Malformed("ends early"))
    }
}

/// Names a listener of a session. The agent's choice.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ListenerId(pub u32);

/// Arguments of [`LISTEN`].
///
/// ```
/// use outsock_vmrpc::socket::Asserted;
/// use outsock_vmrpc::socket::inbound::{ListenRequest, ListenerId, Session};
/// let request = ListenRequest {
///     session: Session(7),
///     listener: ListenerId(1),
///     address: "[::]:80".parse().unwrap(),
///     dual: true,
///     shared: false,
///     backlog: 511,
///     asserted: Asserted::default(),
/// };
/// assert_eq!(ListenRequest::decode(&request.encode()), Ok(request));
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ListenRequest {
    /// Whose.
    pub session: Session,
    /// Which.
    pub listener: ListenerId,
    /// The address that the program has bound in the guest.
    pub address: SocketAddr,
    /// An IPv6 socket that takes IPv4, too.
    pub dual: bool,
    /// SO_REUSEPORT: others may listen on the same address.
    pub shared: bool,
    /// How many connections may wait to be accepted; 0 counts as 1.
    pub backlog: u32,
    /// Who listens, as the guest says.
    pub asserted: Asserted,
}

impl ListenRequest {
    /// As arguments.
    pub fn encode(&self) -> Vec<u8> {
        let flags = u8::from(self.dual) | u8::from(self.shared) << 1;
        let writer = self.session.write(Writer::new()).u32(self.listener.0);
        let writer = writer.socket_addr(self.address).u8(flags).u32(self.backlog);
        self.asserted.write(writer).finish()
    }

    /// From arguments.
    pub fn decode(bytes: &[u8]) -> Result<Self, Malformed> {
        let mut reader = Reader::new(bytes);
        let session = Session::read(&mut reader)?;
        let listener = ListenerId(reader.u32()?);
        let address = reader.socket_addr()?;
        let flags = reader.u8()?;
        if flags > 3 {
            return Err(Malformed("bad flags"));
        }
        let (dual, shared) = (flags & 1 != 0, flags & 2 != 0);
        let backlog = reader.u32()?;
        let asserted = Asserted::read(&mut reader)?;
        reader.finish()?;
        Ok(Self { session, listener, address, dual, shared, backlog, asserted })
    }
}

/// Result of [`LISTEN`].
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ListenReply {
    /// Where others reach the listener, for messages; none where no rule publishes it. At most
    /// [`limits::PLACES_MAX`].
    pub places: Vec<String>,
}

impl ListenReply {
    /// As a result.
    pub fn encode(&self) -> Vec<u8> {
        let places = &self.places[..self.places.len().min(limits::PLACES_MAX)];
        let count = u16::try_from(places.len()).unwrap_or(0);
        places.iter().fold(Writer::new().u16(count), |writer, place| writer.text(place)).finish()
    }

    /// From a result.
    pub fn decode(bytes: &[u8]) -> Result<Self, Malformed> {
        let mut reader = Reader::new(bytes);
        let count = usize::from(reader.u16()?);
        if count > limits::PLACES_MAX {
            return Err(Malformed("too many places"));
        }
        let place = |_| reader.text(limits::PLACE_BYTES_MAX).map(str::to_owned);
        let places = (0..count).map(place).collect::<Result<_, _>>()?;
        reader.finish()?;
        Ok(Self { places })
    }
}

/// Arguments of [`UNLISTEN`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Unlisten {
    /// Whose.
    pub session: Session,
    /// Which.
    pub listener: ListenerId,
}

impl Unlisten {
    /// As arguments.
    pub fn encode(self) -> Vec<u8> {
        self.session.write(Writer::new()).u32(self.listener.0).finish()
    }

    /// From arguments.
    pub fn decode(bytes: &[u8]) -> Result<Self, Malformed> {
        let mut reader = Reader::new(bytes);
        let session = Session::read(&mut reader)?;
        let listener = ListenerId(reader.u32()?);
        reader.finish()?;
        Ok(Self { session, listener })
    }
}

/// Arguments of [`INBOUND`] and [`REPORT`]: how many connections of which listeners wait no more.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Report {
    /// Whose.
    pub session: Session,
    /// At most [`limits::REPORT_LISTENERS_MAX`].
    pub ended: Vec<(ListenerId, u32)>,
}

impl Report {
    /// As arguments.
    pub fn encode(&self) -> Vec<u8> {
        let ended = &self.ended[..self.ended.len().min(limits::REPORT_LISTENERS_MAX)];
        let count = u16::try_from(ended.len()).unwrap_or(0);
        let writer = self.session.write(Writer::new()).u16(count);
        ended.iter().fold(writer, |writer, (listener, n)| writer.u32(listener.0).u32(*n)).finish()
    }

    /// From arguments.
    pub fn decode(bytes: &[u8]) -> Result<Self, Malformed> {
        let mut reader = Reader::new(bytes);
        let session = Session::read(&mut reader)?;
        let count = usize::from(reader.u16()?);
        if count > limits::REPORT_LISTENERS_MAX {
            return Err(Malformed("too many listeners"));
        }
        let one = |_| Ok((ListenerId(reader.u32()?), reader.u32()?));
        let ended = (0..count).map(one).collect::<Result<_, _>>()?;
        reader.finish()?;
        Ok(Self { session, ended })
    }
}

/// Someone wants to connect.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Notice {
    /// The host port where the bytes are, for a few seconds.
    pub token: Token,
    /// To which listener.
    pub listener: ListenerId,
    /// Who; `None` where the transport knows no address.
    pub peer: Option<SocketAddr>,
    /// The address of the host that was dialled.
    pub local: Option<SocketAddr>,
}

/// Result of [`INBOUND`].
///
/// ```
/// use outsock_vmrpc::socket::Token;
/// use outsock_vmrpc::socket::inbound::{ListenerId, Notice, Notices};
/// let peer = "192.0.2.9:4711".parse().ok();
/// let notice = Notice { token: Token::from_random(1), listener: ListenerId(4), peer, local: None };
/// let notices = Notices(vec![notice]);
/// assert_eq!(Notices::decode(&notices.encode()), Ok(notices));
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Notices(pub Vec<Notice>);

impl Notices {
    /// As a result. At most [`limits::NOTICES_MAX`].
    pub fn encode(&self) -> Vec<u8> {
        let notices = &self.0[..self.0.len().min(limits::NOTICES_MAX)];
        let mut writer = Writer::new().u16(u16::try_from(notices.len()).unwrap_or(0));
        for notice in notices {
            writer = writer.u32(notice.token.raw()).u32(notice.listener.0);
            for name in [notice.peer, notice.local] {
                writer = match name {
                    Some(name) => writer.u8(1).socket_addr(name),
                    None => writer.u8(0),
                };
            }
        }
        writer.finish()
    }

    /// From a result.
    pub fn decode(bytes: &[u8]) -> Result<Self, Malformed> {
        let mut reader = Reader::new(bytes);
        let count = usize::from(reader.u16()?);
        if count > limits::NOTICES_MAX {
            return Err(Malformed("too many notices"));
        }
        let name = |reader: &mut Reader<'_>| match reader.u8()? {
            0 => Ok(None),
            1 => reader.socket_addr().map(Some),
            _ => Err(Malformed("bad flag")),
        };
        let mut notices = Vec::with_capacity(count);
        for _ in 0..count {
            let token = Token::read(&mut reader)?;
            let listener = ListenerId(reader.u32()?);
            let (peer, local) = (name(&mut reader)?, name(&mut reader)?);
            notices.push(Notice { token, listener, peer, local });
        }
        reader.finish()?;
        Ok(Self(notices))
    }
}

/// Arguments of [`REFUSE`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refuse(pub Token);

impl Refuse {
    /// As arguments.
    pub fn encode(&self) -> Vec<u8> {
        self.0.encode()
    }

    /// From arguments.
    pub fn decode(bytes: &[u8]) -> Result<Self, Malformed> {
        Token::decode(bytes).map(Self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_reads_back() {
        let reply = ListenReply { places: vec!["0.0.0.0:80".into(), "unix:/run/x".into()] };
        assert_eq!(ListenReply::decode(&reply.encode()), Ok(reply));
        let unlisten = Unlisten { session: Session(u64::MAX), listener: ListenerId(3) };
        assert_eq!(Unlisten::decode(&unlisten.encode()), Ok(unlisten));
        let ended = vec![(ListenerId(1), 5), (ListenerId(2), 6)];
        let report = Report { session: Session(1), ended };
        assert_eq!(Report::decode(&report.encode()), Ok(report));
        let session = Session(0x0102_0304_0506_0708);
        assert_eq!(Session::decode(&session.encode()), Ok(session));
    }

    #[test]
    fn counts_beyond_the_limit_and_cut_arguments_are_refused() {
        let notice = Notice {
            token: Token::from_random(9),
            listener: ListenerId(1),
            peer: "[2001:db8::1]:9".parse().ok(),
            local: "192.0.2.1:80".parse().ok(),
        };
        let bytes = Notices(vec![notice; 2]).encode();
        for end in 0..bytes.len() {
            assert!(Notices::decode(&bytes[..end]).is_err(), "{end}");
        }
        let many = u16::MAX.to_le_bytes();
        assert!(Notices::decode(&many).is_err());
        assert!(ListenReply::decode(&many).is_err());
        let report = [&[0; 8][..], &many].concat();
        assert_eq!(Report::decode(&report), Err(Malformed("too many listeners")));
    }
}
