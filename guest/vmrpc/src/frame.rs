//! Frames: what travels on a VM RPC stream, and their codec. No I/O.
//!
//! ```text
//!  0       4     5     6        8         12       16
//!  | len   | kind| 0   | handle | call id | code   | payload (len bytes)
//! ```
//!
//! The same frames travel between a gateway and the process of a host module ([`crate::host`]), where
//! the process plays the host and the gateway the guest: it passes on who has bound the module, calls
//! and cancelled calls; and the process makes event queues.
//!
//! All integers little-endian. in: bytes as they come off the stream; out: [`Frame`]s. A frame is
//! refused as soon as its header is bad, so a decoder never holds more than one frame plus what the
//! caller pushed. Bound: [`limits::PAYLOAD_BYTES_MAX`] per frame.

use crate::errno::Errno;
use crate::error::{Fault, RpcError};
use crate::limits;
use crate::name::{Version, VersionRange};
use crate::queue::{QueueError, QueueId};
use crate::wire::{Reader, Writer};

/// Bytes before the payload.
pub const HEADER_BYTES: usize = 16;

/// The version of the frames themselves. It changes only when a peer could not skip the change.
pub const PROTOCOL: VersionRange = VersionRange::only(Version(1));

/// Names a binding on its stream. Given out by the host.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Handle(pub u16);

/// Names a call in flight on its stream. Chosen by the guest; a reply carries it back.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct CallId(pub u32);

/// What a frame says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Body {
    /// Guest to host, first on every stream.
    Hello {
        /// The protocol versions the guest speaks.
        versions: VersionRange,
        /// How the program in the guest calls itself, for listings; at most
        /// [`limits::CLIENT_NAME_BYTES_MAX`] bytes. Nobody checks it.
        client: String,
    },
    /// Guest to host: bind a module by name, at one of these versions. Answered by `Reply`, whose
    /// result is [`Bound`].
    Bind {
        /// The module's name, checked by the host.
        name: String,
        /// The versions that the guest can use.
        versions: VersionRange,
    },
    /// Guest to host: give a handle back. Answered by an empty `Reply`.
    Unbind(Handle),
    /// Guest to host: call a function of a bound module.
    Call {
        /// The binding.
        handle: Handle,
        /// The function's number.
        function: u32,
        /// Its arguments.
        arguments: Vec<u8>,
    },
    /// Host to guest: what became of a call.
    Reply(Result<Vec<u8>, RpcError>),
    /// Guest to host: open an event queue, in these pages, or without any: over the stream.
    /// Answered by an empty `Reply`.
    OpenQueue {
        /// The queue.
        queue: QueueId,
        /// The pages.
        pages: Option<Pages>,
    },
    /// Guest to host: close an event queue. Answered by an empty `Reply` when the host does not
    /// touch its pages any more.
    CloseQueue(QueueId),
    /// Both ways: an event, in the stream form.
    Event {
        /// The queue.
        queue: QueueId,
        /// The event.
        event: Vec<u8>,
    },
    /// Both ways: so many bytes of events were taken out, in the stream form.
    Credit {
        /// The queue.
        queue: QueueId,
        /// Bytes, as [`crate::queue::ring::cost`] counts them.
        bytes: u32,
    },
    /// Both ways: look at the rings, in the shared form.
    Wake(QueueId),
    /// Host to guest: the queue takes no more events.
    QueueEnded {
        /// The queue.
        queue: QueueId,
        /// Why.
        why: QueueError,
    },
    /// Process to gateway, first on every stream: the module that it serves. Answered by an empty
    /// `Reply`.
    Register {
        /// The module's name.
        name: String,
        /// The versions that it serves.
        versions: VersionRange,
    },
    /// Gateway to process: a guest has bound the module; `Unbind` says that it has not any more.
    Binding {
        /// Names the binding on this stream.
        handle: Handle,
        /// The version that was picked.
        version: Version,
        /// What tickets of its event queues start from: the n-th queue (from 0) of a binding is
        /// `handle << 16 | n` on this stream and `tickets + n` in its ticket.
        tickets: u32,
        /// The guest's CID.
        cid: u64,
        /// The guest's name.
        guest: String,
    },
    /// Gateway to process: nobody waits for this call any more. The reply, if any, is dropped.
    Cancel,
    /// Process to gateway: make an event queue. If it cannot be, `QueueEnded` says so.
    MakeQueue {
        /// Its number on this stream.
        queue: QueueId,
        /// Bytes of each direction.
        bytes: u32,
    },
}

/// Guest-physical pages that hold an event queue, in order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pages {
    /// Bytes of each: a power of two from 4 KiB to 2 MiB.
    pub page_bytes: u32,
    /// Where they start; at most [`limits::QUEUE_PAGES_MAX`].
    pub addresses: Vec<u64>,
}

impl Pages {
    /// Bytes of a page, at most: a huge page.
    pub const PAGE_BYTES_MAX: u32 = 2 * 1024 * 1024;

    fn encode(&self) -> Vec<u8> {
        let start = Writer::new().u32(self.page_bytes);
        self.addresses
            .iter()
            .fold(start, |writer, address| writer.raw(&address.to_le_bytes()))
            .finish()
    }

    fn decode(bytes: &[u8]) -> Result<Self, FrameError> {
        let (page_bytes, addresses) = bytes.split_first_chunk().ok_or(FrameError("pages"))?;
        let page_bytes = u32::from_le_bytes(*page_bytes);
        let (addresses, rest) = addresses.as_chunks::<8>();
        let good = page_bytes.is_power_of_two()
            && (4096..=Self::PAGE_BYTES_MAX).contains(&page_bytes)
            && addresses.len() <= limits::QUEUE_PAGES_MAX
            && rest.is_empty();
        let addresses = addresses.iter().copied().map(u64::from_le_bytes).collect();
        if good { Ok(Self { page_bytes, addresses }) } else { Err(FrameError("pages")) }
    }
}

/// One frame.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Frame {
    /// The call that the frame asks for or answers.
    pub call: CallId,
    /// What it says.
    pub body: Body,
}

/// The result of [`Body::Bind`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bound {
    /// The handle for calls.
    pub handle: Handle,
    /// The version that the host picked: the highest both sides have.
    pub version: Version,
}

impl Bound {
    /// As a result.
    pub fn encode(self) -> Vec<u8> {
        Writer::new().u16(self.handle.0).u16(self.version.0).finish()
    }

    /// From a result.
    pub fn decode(bytes: &[u8]) -> Result<Self, FrameError> {
        let mut reader = Reader::new(bytes);
        let parsed = (|| {
            let bound = Self { handle: Handle(reader.u16()?), version: Version(reader.u16()?) };
            reader.finish().map(|()| bound)
        })();
        parsed.map_err(|_| FrameError("bind result"))
    }
}

/// Bytes that are no frame. The stream cannot be used any further.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("malformed frame: {0}")]
pub struct FrameError(pub &'static str);

const KIND_HELLO: u8 = 1;
const KIND_BIND: u8 = 2;
const KIND_UNBIND: u8 = 3;
const KIND_CALL: u8 = 4;
const KIND_REPLY_OK: u8 = 5;
const KIND_REPLY_ERRNO: u8 = 6;
const KIND_REPLY_FAULT: u8 = 7;
const KIND_OPEN_QUEUE: u8 = 8;
const KIND_CLOSE_QUEUE: u8 = 9;
const KIND_EVENT: u8 = 10;
const KIND_CREDIT: u8 = 11;
const KIND_WAKE: u8 = 12;
const KIND_QUEUE_ENDED: u8 = 13;
const KIND_REGISTER: u8 = 14;
const KIND_BINDING: u8 = 15;
const KIND_CANCEL: u8 = 16;
const KIND_MAKE_QUEUE: u8 = 17;

impl Frame {
    /// Appends the frame to `out`. `Err` when its payload is over the limit: nothing is appended.
    ///
    /// ```
    /// use outsock_vmrpc::frame::{Body, CallId, Decoder, Frame};
    /// let frame = Frame { call: CallId(7), body: Body::Reply(Ok(b"four".to_vec())) };
    /// let mut bytes = Vec::new();
    /// frame.encode(&mut bytes).unwrap();
    /// let mut decoder = Decoder::new();
    /// decoder.push(&bytes);
    /// assert_eq!(decoder.next(), Ok(Some(frame)));
    /// assert_eq!(decoder.next(), Ok(None));
    /// ```
    pub fn encode(&self, out: &mut Vec<u8>) -> Result<(), FrameError> {
        let no_handle = Handle(0);
        let owned;
        let (kind, handle, code, payload): (u8, Handle, u32, &[u8]) = match &self.body {
            Body::Hello { versions, client } => {
                owned = encode_versions(Writer::new(), *versions, client);
                (KIND_HELLO, no_handle, 0, &owned)
            }
            Body::Bind { name, versions } => {
                owned = encode_versions(Writer::new().text(name), *versions, "");
                (KIND_BIND, no_handle, 0, &owned)
            }
            Body::Unbind(handle) => (KIND_UNBIND, *handle, 0, &[]),
            Body::Call { handle, function, arguments } => {
                (KIND_CALL, *handle, *function, arguments)
            }
            Body::Reply(Ok(result)) => (KIND_REPLY_OK, no_handle, 0, result),
            Body::Reply(Err(RpcError::Function(errno))) => {
                (KIND_REPLY_ERRNO, no_handle, errno.raw().unsigned_abs(), &[])
            }
            Body::Reply(Err(RpcError::Host(fault))) => {
                (KIND_REPLY_FAULT, no_handle, u32::from(fault.code()), &[])
            }
            Body::Reply(Err(
                RpcError::Disconnected | RpcError::Protocol(_) | RpcError::ArgumentsTooLarge,
            )) => return Err(FrameError("an error of the guest's side does not travel")),
            Body::OpenQueue { queue, pages } => {
                owned = pages.as_ref().map(Pages::encode).unwrap_or_default();
                (KIND_OPEN_QUEUE, no_handle, queue.0, &owned)
            }
            Body::CloseQueue(queue) => (KIND_CLOSE_QUEUE, no_handle, queue.0, &[]),
            Body::Event { queue, event } => (KIND_EVENT, no_handle, queue.0, event),
            Body::Credit { queue, bytes } => {
                owned = bytes.to_le_bytes().to_vec();
                (KIND_CREDIT, no_handle, queue.0, &owned)
            }
            Body::Wake(queue) => (KIND_WAKE, no_handle, queue.0, &[]),
            Body::QueueEnded { queue, why } => {
                owned = why.code().to_le_bytes().to_vec();
                (KIND_QUEUE_ENDED, no_handle, queue.0, &owned)
            }
            Body::Register { name, versions } => {
                owned = encode_versions(Writer::new().text(name), *versions, "");
                (KIND_REGISTER, no_handle, 0, &owned)
            }
            Body::Binding { handle, version, tickets, cid, guest } => {
                let writer = Writer::new().u32(*tickets).raw(&cid.to_le_bytes());
                owned = writer.raw(guest.as_bytes()).finish();
                (KIND_BINDING, *handle, u32::from(version.0), &owned)
            }
            Body::Cancel => (KIND_CANCEL, no_handle, 0, &[]),
            Body::MakeQueue { queue, bytes } => {
                owned = bytes.to_le_bytes().to_vec();
                (KIND_MAKE_QUEUE, no_handle, queue.0, &owned)
            }
        };
        if payload.len() > limits::PAYLOAD_BYTES_MAX {
            return Err(FrameError("payload over the limit"));
        }
        let length = u32::try_from(payload.len()).map_err(|_| FrameError("payload"))?;
        out.reserve(HEADER_BYTES + payload.len());
        out.extend(length.to_le_bytes());
        out.extend([kind, 0]);
        out.extend(handle.0.to_le_bytes());
        out.extend(self.call.0.to_le_bytes());
        out.extend(code.to_le_bytes());
        out.extend(payload);
        Ok(())
    }
}

fn encode_versions(writer: Writer, versions: VersionRange, rest: &str) -> Vec<u8> {
    writer.u16(versions.first().0).u16(versions.last().0).raw(rest.as_bytes()).finish()
}

fn read_versions(reader: &mut Reader<'_>) -> Result<VersionRange, FrameError> {
    let mut version = || reader.u16().map(Version).map_err(|_| FrameError("versions"));
    VersionRange::new(version()?, version()?).ok_or(FrameError("empty version range"))
}

/// Cuts a byte stream into frames.
#[derive(Debug, Default)]
pub struct Decoder {
    bytes: Vec<u8>,
    start: usize,
}

impl Decoder {
    /// An empty decoder.
    pub fn new() -> Self {
        Self::default()
    }

    /// Takes bytes off the stream, in any pieces.
    pub fn push(&mut self, bytes: &[u8]) {
        if self.start > 0 && self.start == self.bytes.len() {
            self.bytes.clear();
            self.start = 0;
        }
        self.bytes.extend_from_slice(bytes);
    }

    /// Whether a frame has begun and not ended: an end of stream now is an error.
    pub fn is_mid_frame(&self) -> bool {
        self.start < self.bytes.len()
    }

    /// The next whole frame; `None` when more bytes are needed.
    #[expect(clippy::should_implement_trait, reason = "fallible, and not an end when None")]
    pub fn next(&mut self) -> Result<Option<Frame>, FrameError> {
        let Some((header, rest)) = self.bytes[self.start..].split_first_chunk::<HEADER_BYTES>()
        else {
            return Ok(None);
        };
        let [l0, l1, l2, l3, kind, reserved, h0, h1, c0, c1, c2, c3, k0, k1, k2, k3] = *header;
        let length = u32::from_le_bytes([l0, l1, l2, l3]) as usize;
        if length > limits::PAYLOAD_BYTES_MAX {
            return Err(FrameError("length over the limit"));
        }
        if reserved != 0 || !(KIND_HELLO..=KIND_MAKE_QUEUE).contains(&kind) {
            return Err(FrameError("unknown kind"));
        }
        let Some(payload) = rest.get(..length) else {
            return Ok(None);
        };
        let handle = Handle(u16::from_le_bytes([h0, h1]));
        let code = u32::from_le_bytes([k0, k1, k2, k3]);
        let body = parse_body(kind, handle, code, payload)?;
        self.start += HEADER_BYTES + length;
        if self.start > limits::PAYLOAD_BYTES_MAX {
            self.bytes.drain(..self.start);
            self.start = 0;
        }
        Ok(Some(Frame { call: CallId(u32::from_le_bytes([c0, c1, c2, c3])), body }))
    }
}

fn parse_body(kind: u8, handle: Handle, code: u32, payload: &[u8]) -> Result<Body, FrameError> {
    let mut reader = Reader::new(payload);
    let empty = |body| if payload.is_empty() { Ok(body) } else { Err(FrameError("payload")) };
    match kind {
        KIND_HELLO => {
            let versions = read_versions(&mut reader)?;
            let client = payload.get(4..).unwrap_or_default();
            let client = &client[..client.len().min(limits::CLIENT_NAME_BYTES_MAX)];
            Ok(Body::Hello { versions, client: String::from_utf8_lossy(client).into_owned() })
        }
        KIND_BIND => {
            let (name, versions) = name_and_versions(reader)?;
            Ok(Body::Bind { name, versions })
        }
        KIND_UNBIND => empty(Body::Unbind(handle)),
        KIND_CALL => Ok(Body::Call { handle, function: code, arguments: payload.to_vec() }),
        KIND_REPLY_OK => Ok(Body::Reply(Ok(payload.to_vec()))),
        KIND_REPLY_ERRNO => {
            let errno = i32::try_from(code).ok().and_then(Errno::new).ok_or(FrameError("errno"))?;
            empty(Body::Reply(Err(RpcError::Function(errno))))
        }
        KIND_REPLY_FAULT => {
            let fault = u16::try_from(code).ok().and_then(Fault::from_code);
            empty(Body::Reply(Err(RpcError::Host(fault.ok_or(FrameError("fault code"))?))))
        }
        KIND_OPEN_QUEUE => {
            let pages = (!payload.is_empty()).then(|| Pages::decode(payload)).transpose()?;
            Ok(Body::OpenQueue { queue: QueueId(code), pages })
        }
        KIND_CLOSE_QUEUE => empty(Body::CloseQueue(QueueId(code))),
        KIND_EVENT => Ok(Body::Event { queue: QueueId(code), event: payload.to_vec() }),
        KIND_CREDIT => Ok(Body::Credit { queue: QueueId(code), bytes: word(payload)? }),
        KIND_WAKE => empty(Body::Wake(QueueId(code))),
        KIND_REGISTER => {
            let (name, versions) = name_and_versions(reader)?;
            Ok(Body::Register { name, versions })
        }
        KIND_BINDING => parse_binding(handle, code, payload),
        KIND_CANCEL => empty(Body::Cancel),
        KIND_MAKE_QUEUE => Ok(Body::MakeQueue { queue: QueueId(code), bytes: word(payload)? }),
        KIND_QUEUE_ENDED => {
            let why = QueueError::from_code(word(payload)?);
            Ok(Body::QueueEnded { queue: QueueId(code), why })
        }
        _ => Err(FrameError("unknown kind")),
    }
}

fn name_and_versions(mut reader: Reader<'_>) -> Result<(String, VersionRange), FrameError> {
    let name = reader.text(limits::MODULE_NAME_BYTES_MAX).map_err(|_| FrameError("module name"))?;
    let name = name.to_owned();
    let versions = read_versions(&mut reader)?;
    reader.finish().map_err(|_| FrameError("name and versions"))?;
    Ok((name, versions))
}

fn parse_binding(handle: Handle, code: u32, payload: &[u8]) -> Result<Body, FrameError> {
    let bad = FrameError("binding");
    let (tickets, rest) = payload.split_first_chunk().ok_or(bad)?;
    let (cid, guest) = rest.split_first_chunk().ok_or(bad)?;
    Ok(Body::Binding {
        handle,
        version: Version(u16::try_from(code).map_err(|_| bad)?),
        tickets: u32::from_le_bytes(*tickets),
        cid: u64::from_le_bytes(*cid),
        guest: std::str::from_utf8(guest).map_err(|_| bad)?.to_owned(),
    })
}

fn word(payload: &[u8]) -> Result<u32, FrameError> {
    payload.try_into().map(u32::from_le_bytes).map_err(|_| FrameError("payload"))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn any_body() -> impl Strategy<Value = Body> {
        let versions = (0u16..9, 0u16..9)
            .prop_map(|(a, b)| VersionRange::new(Version(a.min(b)), Version(a.max(b))).unwrap());
        let bytes = || proptest::collection::vec(any::<u8>(), 0..200);
        prop_oneof![
            (versions.clone(), "[a-z]{0,20}")
                .prop_map(|(versions, client)| Body::Hello { versions, client }),
            ("[a-z]{1,20}", versions).prop_map(|(name, versions)| Body::Bind { name, versions }),
            any::<u16>().prop_map(|h| Body::Unbind(Handle(h))),
            (any::<u16>(), any::<u32>(), bytes()).prop_map(|(h, function, arguments)| {
                Body::Call { handle: Handle(h), function, arguments }
            }),
            bytes().prop_map(|b| Body::Reply(Ok(b))),
            (1i32..4096).prop_map(|n| Body::Reply(Err(RpcError::Function(Errno::new(n).unwrap())))),
            (0usize..Fault::ALL.len())
                .prop_map(|i| Body::Reply(Err(RpcError::Host(Fault::ALL[i])))),
            any_queue_body(),
        ]
    }

    fn any_queue_body() -> impl Strategy<Value = Body> {
        let bytes = proptest::collection::vec(any::<u8>(), 0..200);
        let pages = (12u32..22, proptest::collection::vec(any::<u64>(), 0..20));
        let pages = pages.prop_map(|(bits, addresses)| Pages { page_bytes: 1 << bits, addresses });
        let ends = [QueueError::Deleted, QueueError::ModuleGone, QueueError::Garbled];
        let end = (0usize..3).prop_map(move |i| ends[i]);
        let queue = || any::<u32>().prop_map(QueueId);
        prop_oneof![
            (queue(), proptest::option::of(pages))
                .prop_map(|(queue, pages)| Body::OpenQueue { queue, pages }),
            queue().prop_map(Body::CloseQueue),
            (queue(), bytes).prop_map(|(queue, event)| Body::Event { queue, event }),
            (queue(), any::<u32>()).prop_map(|(queue, bytes)| Body::Credit { queue, bytes }),
            queue().prop_map(Body::Wake),
            (queue(), end).prop_map(|(queue, why)| Body::QueueEnded { queue, why }),
            "[a-z]{1,20}".prop_map(|name| {
                Body::Register { name, versions: VersionRange::only(Version(3)) }
            }),
            (any::<u16>(), any::<u32>(), any::<u64>(), "[a-z]{1,20}").prop_map(
                |(n, tickets, cid, guest)| {
                    let (handle, version) = (Handle(n), Version(n));
                    Body::Binding { handle, version, tickets, cid, guest }
                }
            ),
            Just(Body::Cancel),
            (queue(), any::<u32>()).prop_map(|(queue, bytes)| Body::MakeQueue { queue, bytes }),
        ]
    }

    proptest! {
        #[test]
        fn frames_survive_any_cut(
            bodies in proptest::collection::vec((any::<u32>(), any_body()), 1..12),
            piece in 1usize..40,
        ) {
            let frames: Vec<Frame> =
                bodies.into_iter().map(|(id, body)| Frame { call: CallId(id), body }).collect();
            let mut bytes = Vec::new();
            for frame in &frames {
                frame.encode(&mut bytes).unwrap();
            }
            let mut decoder = Decoder::new();
            let mut seen = Vec::new();
            for chunk in bytes.chunks(piece) {
                decoder.push(chunk);
                while let Some(frame) = decoder.next().unwrap() {
                    seen.push(frame);
                }
            }
            prop_assert_eq!(seen, frames);
            prop_assert!(!decoder.is_mid_frame());
        }

        #[test]
        fn any_bytes_are_frames_or_an_error(bytes in proptest::collection::vec(any::<u8>(), 0..400)) {
            let mut decoder = Decoder::new();
            decoder.push(&bytes);
            while let Ok(Some(frame)) = decoder.next() {
                let mut again = Vec::new();
                frame.encode(&mut again).unwrap();
            }
        }
    }

    #[test]
    fn a_length_over_the_limit_is_refused_before_its_payload_comes() {
        let mut decoder = Decoder::new();
        let mut header = [0u8; HEADER_BYTES];
        header[..4].copy_from_slice(&u32::MAX.to_le_bytes());
        header[4] = KIND_CALL;
        decoder.push(&header);
        assert_eq!(decoder.next(), Err(FrameError("length over the limit")));
    }
}
