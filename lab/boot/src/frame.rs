//! Frames of the command channel between host and guest.
//!
//! Enters: a kind, a command's number and a payload. Leaves: the same on the other side.
//! Owned by nobody: pure functions over `Read` and `Write`; the host library and the guest's program both
//! compile this file. Invariant: a frame is written whole by one call, so frames of several commands never mix.
//! Bound: [`PAYLOAD_BYTES_MAX`] per frame, checked before anything is allocated.

use std::io::{self, Read, Write};

/// What the guest sends first. A tty may have garbage before it; the host skips to here.
pub(crate) const MAGIC: [u8; 8] = *b"\nOUTSOC1";

/// Bytes in one frame at most: holds a command line with a large environment, and small enough that one
/// command's output does not hold up the others.
pub(crate) const PAYLOAD_BYTES_MAX: usize = 128 * 1024;

const HEADER_BYTES: usize = 9;

/// What a frame says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// Host: start a command; payload is [`Start`].
    Start,
    /// Host: bytes for the command's standard input.
    Stdin,
    /// Host: the standard input ends here.
    StdinEnd,
    /// Host: send the signal (payload: i32) to the command's process group.
    Signal,
    /// Host: power the guest off.
    Shutdown,
    /// Guest: init is done; payload is [`Ready`].
    Ready,
    /// Guest: bytes of the command's standard output.
    Stdout,
    /// Guest: bytes of the command's standard error.
    Stderr,
    /// Guest: the command ended; payload is the exit code and the signal (two i32, -1 = none).
    Exit,
    /// Guest: the command could not start; payload is the errno (i32) and a message.
    Failed,
    /// Guest: it has taken so many bytes (payload: i32) more from the channel.
    Taken,
}

const KINDS: [(Kind, u8); 11] = [
    (Kind::Start, 1),
    (Kind::Stdin, 2),
    (Kind::StdinEnd, 3),
    (Kind::Signal, 4),
    (Kind::Shutdown, 5),
    (Kind::Ready, 16),
    (Kind::Stdout, 17),
    (Kind::Stderr, 18),
    (Kind::Exit, 19),
    (Kind::Failed, 20),
    (Kind::Taken, 21),
];

impl Kind {
    fn to_byte(self) -> u8 {
        KINDS.iter().find(|(kind, _)| *kind == self).map_or(0, |(_, byte)| *byte)
    }

    fn from_byte(byte: u8) -> Option<Self> {
        KINDS.iter().find(|(_, known)| *known == byte).map(|(kind, _)| *kind)
    }
}

/// One frame.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Frame {
    pub(crate) kind: Kind,
    pub(crate) command: u32,
    pub(crate) payload: Vec<u8>,
}

/// A command to start.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Start {
    pub(crate) argv: Vec<Vec<u8>>,
    pub(crate) environment: Vec<(Vec<u8>, Vec<u8>)>,
    pub(crate) directory: Vec<u8>,
}

/// What the guest says of itself when it is up.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Ready {
    /// The vsock CID, or `u32::MAX` where there is no vsock device.
    pub(crate) cid: u32,
    /// The kernel's release, as `uname -r` prints it.
    pub(crate) release: String,
}

fn invalid(message: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, message.to_owned())
}

/// Writes one frame by one `write_all`.
pub(crate) fn write_frame(
    writer: &mut impl Write,
    kind: Kind,
    command: u32,
    payload: &[u8],
) -> io::Result<()> {
    let length = match u32::try_from(payload.len()) {
        Ok(length) if payload.len() <= PAYLOAD_BYTES_MAX => length,
        _ => return Err(invalid("a frame of the command channel is too large")),
    };
    let mut bytes = Vec::with_capacity(HEADER_BYTES + payload.len());
    bytes.extend_from_slice(&length.to_le_bytes());
    bytes.extend_from_slice(&command.to_le_bytes());
    bytes.push(kind.to_byte());
    bytes.extend_from_slice(payload);
    writer.write_all(&bytes)?;
    writer.flush()
}

/// Reads one frame; `None` where the stream ends between two frames.
pub(crate) fn read_frame(reader: &mut impl Read) -> io::Result<Option<Frame>> {
    let mut header = [0; HEADER_BYTES];
    loop {
        match reader.read(&mut header[..1]) {
            Ok(0) => return Ok(None),
            Ok(_) => break,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    reader.read_exact(&mut header[1..])?;
    let (length, rest) = header.split_at(4);
    let length = decode_u32(length)? as usize;
    if length > PAYLOAD_BYTES_MAX {
        return Err(invalid("the command channel is out of step: a frame's length is impossible"));
    }
    let kind = Kind::from_byte(rest[4])
        .ok_or_else(|| invalid("the command channel is out of step: unknown frame"))?;
    let mut payload = vec![0; length];
    reader.read_exact(&mut payload)?;
    Ok(Some(Frame { kind, command: decode_u32(&rest[..4])?, payload }))
}

fn decode_u32(bytes: &[u8]) -> io::Result<u32> {
    bytes
        .try_into()
        .map(u32::from_le_bytes)
        .map_err(|_| invalid("a frame of the command channel is too short"))
}

/// Appends `bytes` after its length.
fn put(buffer: &mut Vec<u8>, bytes: &[u8]) {
    put_count(buffer, bytes.len());
    buffer.extend_from_slice(bytes);
}

/// A count that does not fit into u32 cannot fit into a frame either: `write_frame` refuses it.
fn put_count(buffer: &mut Vec<u8>, count: usize) {
    buffer.extend_from_slice(&u32::try_from(count).unwrap_or(u32::MAX).to_le_bytes());
}

fn take<'a>(bytes: &mut &'a [u8], count: usize) -> io::Result<&'a [u8]> {
    let (head, tail) = bytes
        .split_at_checked(count)
        .ok_or_else(|| invalid("a frame of the command channel is cut short"))?;
    *bytes = tail;
    Ok(head)
}

fn take_count(bytes: &mut &[u8]) -> io::Result<usize> {
    Ok(decode_u32(take(bytes, 4)?)? as usize)
}

fn take_string(bytes: &mut &[u8]) -> io::Result<Vec<u8>> {
    let count = take_count(bytes)?;
    Ok(take(bytes, count)?.to_vec())
}

impl Start {
    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut buffer = Vec::new();
        put(&mut buffer, &self.directory);
        put_count(&mut buffer, self.argv.len());
        for argument in &self.argv {
            put(&mut buffer, argument);
        }
        put_count(&mut buffer, self.environment.len());
        for (name, value) in &self.environment {
            put(&mut buffer, name);
            put(&mut buffer, value);
        }
        buffer
    }

    pub(crate) fn decode(mut bytes: &[u8]) -> io::Result<Self> {
        let bytes = &mut bytes;
        let mut start = Self { directory: take_string(bytes)?, ..Self::default() };
        for _ in 0..take_count(bytes)? {
            start.argv.push(take_string(bytes)?);
        }
        for _ in 0..take_count(bytes)? {
            start.environment.push((take_string(bytes)?, take_string(bytes)?));
        }
        Ok(start)
    }
}

impl Ready {
    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut buffer = self.cid.to_le_bytes().to_vec();
        put(&mut buffer, self.release.as_bytes());
        buffer
    }

    pub(crate) fn decode(mut bytes: &[u8]) -> io::Result<Self> {
        let bytes = &mut bytes;
        let cid = decode_u32(take(bytes, 4)?)?;
        Ok(Self { cid, release: String::from_utf8_lossy(&take_string(bytes)?).into_owned() })
    }
}

/// Two i32: an exit code and a signal, or an errno and nothing.
pub(crate) fn encode_pair(first: i32, second: i32) -> Vec<u8> {
    let mut buffer = first.to_le_bytes().to_vec();
    buffer.extend_from_slice(&second.to_le_bytes());
    buffer
}

/// The two i32 at the start of a payload, and what follows them.
pub(crate) fn decode_pair(mut bytes: &[u8]) -> io::Result<(i32, i32, &[u8])> {
    let bytes = &mut bytes;
    let first = decode_u32(take(bytes, 4)?)?.cast_signed();
    let second = decode_u32(take(bytes, 4)?)?.cast_signed();
    Ok((first, second, bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_frame_survives_the_wire() {
        let start = Start {
            argv: vec![b"printf".to_vec(), b"\xff\0".to_vec(), Vec::new()],
            environment: vec![(b"A".to_vec(), b"b=c".to_vec())],
            directory: b"/".to_vec(),
        };
        let mut wire = Vec::new();
        write_frame(&mut wire, Kind::Start, 7, &start.encode()).unwrap();
        write_frame(&mut wire, Kind::Exit, u32::MAX, &encode_pair(-1, 9)).unwrap();
        let mut reader = wire.as_slice();
        let frame = read_frame(&mut reader).unwrap().unwrap();
        assert_eq!((frame.kind, frame.command), (Kind::Start, 7));
        assert_eq!(Start::decode(&frame.payload).unwrap(), start);
        let frame = read_frame(&mut reader).unwrap().unwrap();
        assert_eq!(decode_pair(&frame.payload).unwrap(), (-1, 9, &[][..]));
        assert_eq!(read_frame(&mut reader).unwrap(), None);
        let ready = Ready { cid: 3, release: "6.1".to_owned() };
        assert_eq!(Ready::decode(&ready.encode()).unwrap(), ready);
    }

    #[test]
    fn a_stream_out_of_step_is_an_error_and_allocates_nothing() {
        assert!(read_frame(&mut &[0xff; 64][..]).is_err());
        assert!(read_frame(&mut &[1, 0, 0, 0, 0, 0, 0, 0, 99, 0][..]).is_err());
        assert!(read_frame(&mut &[1, 0, 0][..]).is_err());
        assert!(Start::decode(&[0xff; 16]).is_err());
        assert!(
            write_frame(&mut Vec::new(), Kind::Stdin, 0, &vec![0; PAYLOAD_BYTES_MAX + 1]).is_err()
        );
    }
}
