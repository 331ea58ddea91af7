//! Reply: what a gateway answers to an [`Open`](crate::Open) header.
//!
//! in:  how the far dial ended; or bytes of a peer
//! out: [`Reply`], and for the dialling side a [`DialError`] with the far side's errno
//! owner: nobody; a plain value
//! keeps: success is said only after the far socket has connected; an errno is a Linux one, 1 to 4095
//! bound: [`limits::REPLY_BYTES_MAX`]
//!
//! # On the wire
//!
//! `version u8, length u16, status u8`; status 0 is followed by the bound and the peer's address
//! (each `0`, or `1 address`), status 1 by `errno u32, reason text`.

use std::net::SocketAddr;

use outsock_transport::{DialError, Errno};
use outsock_vmrpc::wire::{Malformed, Reader, Writer};

use crate::limits;
use crate::open::{VERSION, cut, with_prefix};

/// The far socket's names.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Bound {
    /// Its own, for `getsockname`.
    pub local: Option<SocketAddr>,
    /// Whom it is connected to.
    pub peer: Option<SocketAddr>,
}

/// No.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// What the program gets.
    pub errno: Errno,
    /// Why, for people. Empty where the errno says it all: it is then a kernel's own.
    pub reason: String,
}

/// The answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reply {
    /// The far socket has connected.
    Ok(Bound),
    /// It has not.
    Refused(Refusal),
}

impl Refusal {
    /// With a reason.
    pub fn new(errno: Errno, reason: impl Into<String>) -> Self {
        Self { errno, reason: reason.into() }
    }

    /// What a failed dial of this gateway means to the peer that asked for it.
    pub fn of(error: &DialError) -> Self {
        let plain = DialError::of_errno(error.errno()) == *error;
        let reason = if plain { String::new() } else { error.to_string() };
        Self { errno: error.errno(), reason }
    }
}

impl From<Refusal> for DialError {
    fn from(refusal: Refusal) -> Self {
        if refusal.reason.is_empty() {
            Self::of_errno(refusal.errno)
        } else {
            Self::Relayed { errno: refusal.errno, reason: refusal.reason }
        }
    }
}

impl Reply {
    /// The bytes, the version and length included.
    pub fn encode(&self) -> Vec<u8> {
        let body = match self {
            Self::Ok(bound) => {
                let writer = Writer::new().u8(0);
                let writer = [bound.local, bound.peer].into_iter().fold(writer, put_address);
                writer.finish()
            }
            Self::Refused(Refusal { errno, reason }) => {
                let number = u32::try_from(errno.raw()).unwrap_or(0);
                let reason = cut(reason, limits::REASON_BYTES_MAX);
                Writer::new().u8(1).u32(number).text(reason).finish()
            }
        };
        with_prefix(VERSION, &body)
    }

    /// Reads what follows version and length. The reply to a header of another version comes in the
    /// replying side's version: this form is that of every version.
    pub fn decode(body: &[u8]) -> Result<Self, Malformed> {
        let mut reader = Reader::new(body);
        let reply = match reader.u8()? {
            0 => Self::Ok(Bound { local: address(&mut reader)?, peer: address(&mut reader)? }),
            1 => {
                let errno = i32::try_from(reader.u32()?).ok().and_then(Errno::new);
                let errno = errno.ok_or(Malformed("no errno"))?;
                let reason = reader.text(limits::REASON_BYTES_MAX)?.escape_debug().to_string();
                Self::Refused(Refusal { errno, reason })
            }
            _ => return Err(Malformed("unknown status")),
        };
        reader.finish()?;
        Ok(reply)
    }
}

fn put_address(writer: Writer, address: Option<SocketAddr>) -> Writer {
    match address {
        None => writer.u8(0),
        Some(address) => writer.u8(1).socket_addr(address),
    }
}

fn address(reader: &mut Reader<'_>) -> Result<Option<SocketAddr>, Malformed> {
    match reader.u8()? {
        0 => Ok(None),
        1 => Ok(Some(reader.socket_addr()?)),
        _ => Err(Malformed("neither an address nor none")),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn addresses() -> impl Strategy<Value = Option<SocketAddr>> {
        proptest::option::of(any::<SocketAddr>().prop_map(|mut address| {
            if let SocketAddr::V6(v6) = &mut address {
                v6.set_flowinfo(0);
            }
            address
        }))
    }

    proptest! {
        #[test]
        fn a_reply_leads_back(
            local in addresses(), peer in addresses(), errno in 1..=4095_i32, reason in "[ -!#-&(-\\[\\]-~]{0,100}",
        ) {
            let refusal = Refusal::new(Errno::new(errno).unwrap(), reason);
            for reply in [Reply::Ok(Bound { local, peer }), Reply::Refused(refusal)] {
                let bytes = reply.encode();
                prop_assert!(bytes.len() <= 3 + limits::REPLY_BYTES_MAX);
                prop_assert_eq!(Reply::decode(&bytes[3..]), Ok(reply));
            }
        }

        #[test]
        fn any_bytes_are_a_reply_or_an_error(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = Reply::decode(&bytes);
        }
    }

    #[test]
    fn a_kernels_error_comes_through_as_it_was() {
        for error in [DialError::Refused, DialError::TimedOut, DialError::HostUnreachable] {
            assert_eq!(DialError::from(Refusal::of(&error)), error);
        }
        let denied = DialError::Denied("by a firewall".to_owned());
        let relayed = DialError::from(Refusal::of(&denied));
        assert_eq!(relayed.errno(), Errno::EACCES);
        assert!(relayed.to_string().contains("by a firewall"), "{relayed}");
    }
}
