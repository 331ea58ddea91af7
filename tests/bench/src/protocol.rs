//! What near and far end say to each other.
//!
//! in: a request; out: its bytes. The first byte says what the connection is for, so that one port
//! serves all. Bound: [`REQUEST_BYTES`].

use std::io::{self, Read, Write};

/// Bytes of a request for a stream.
pub(crate) const REQUEST_BYTES: usize = 13;

/// What a connection is for: its first byte.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Purpose {
    /// The far end reads so many bytes, then answers with one.
    Sink,
    /// The far end sends so many bytes.
    Source,
    /// The far end sends everything back.
    Echo,
    /// The far end answers with one byte and waits for the end.
    Answer,
    /// The far end never reads again.
    Stall,
}

impl Purpose {
    /// Its byte.
    pub(crate) fn byte(self) -> u8 {
        match self {
            Self::Sink => b'S',
            Self::Source => b'P',
            Self::Echo => b'E',
            Self::Answer => b'A',
            Self::Stall => b'Z',
        }
    }

    /// The purpose of a byte.
    pub(crate) fn of(byte: u8) -> Option<Self> {
        let all = [Self::Sink, Self::Source, Self::Echo, Self::Answer, Self::Stall];
        all.into_iter().find(|purpose| purpose.byte() == byte)
    }
}

/// How much a stream carries, in messages of which size.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Volume {
    pub(crate) bytes: u64,
    pub(crate) message: u32,
}

impl Volume {
    /// Asks for a stream.
    pub(crate) fn send(self, purpose: Purpose, to: &mut impl Write) -> io::Result<()> {
        let mut request = [0; REQUEST_BYTES];
        request[0] = purpose.byte();
        request[1..9].copy_from_slice(&self.bytes.to_le_bytes());
        request[9..].copy_from_slice(&self.message.to_le_bytes());
        to.write_all(&request)
    }

    /// Reads what follows the purpose.
    pub(crate) fn receive(from: &mut impl Read) -> io::Result<Self> {
        let (mut bytes, mut message) = ([0; 8], [0; 4]);
        from.read_exact(&mut bytes)?;
        from.read_exact(&mut message)?;
        Ok(Self { bytes: u64::from_le_bytes(bytes), message: u32::from_le_bytes(message) })
    }
}

/// Sends a stream's bytes, message by message.
pub(crate) fn pour(volume: Volume, to: &mut impl Write) -> io::Result<()> {
    let message = vec![0x5a; volume.message.max(1) as usize];
    let mut left = volume.bytes;
    while left > 0 {
        let len = usize::try_from(left).map_or(message.len(), |left| left.min(message.len()));
        to.write_all(&message[..len])?;
        left -= len as u64;
    }
    Ok(())
}

/// Takes a stream's bytes.
pub(crate) fn drain(bytes: u64, from: &mut impl Read) -> io::Result<()> {
    let mut buffer = vec![0; crate::limits::READ_BYTES];
    let mut left = bytes;
    while left > 0 {
        let most = usize::try_from(left).map_or(buffer.len(), |left| left.min(buffer.len()));
        match from.read(&mut buffer[..most])? {
            0 => return Err(io::ErrorKind::UnexpectedEof.into()),
            len => left -= len as u64,
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_comes_back() {
        let volume = Volume { bytes: 1 << 40, message: 65_536 };
        let mut bytes = Vec::new();
        volume.send(Purpose::Source, &mut bytes).unwrap();
        assert_eq!(bytes.len(), REQUEST_BYTES);
        assert_eq!(Purpose::of(bytes[0]), Some(Purpose::Source));
        assert_eq!(Volume::receive(&mut &bytes[1..]).unwrap(), volume);
        assert_eq!(Purpose::of(0), None);
    }

    #[test]
    fn streams_are_as_long_as_asked() {
        let mut bytes = Vec::new();
        pour(Volume { bytes: 1000, message: 256 }, &mut bytes).unwrap();
        assert_eq!(bytes.len(), 1000);
        drain(1000, &mut bytes.as_slice()).unwrap();
        assert!(drain(1001, &mut bytes.as_slice()).is_err());
    }
}
