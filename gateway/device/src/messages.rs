//! Messages: SOCK_SEQPACKET between a guest and a Unix socket of the host.
//!
//! in: packets, the last of a message marked; out: one `sendmsg` per message, and the other way round
//! one or more packets per `recvmsg`. Owner: the vring worker. Kept: a message goes on whole or not at
//! all, and is one message on the other side; its bytes are copied once, which streams' are not. An
//! empty message of the host is left out: a guest could not tell it from an end. What AF_UNIX does not
//! have (MSG_EOR) is not carried. Bounds: the connection's credit, and what the guest has room for.

use std::collections::VecDeque;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};

use libc::iovec;
use outsock_core::address::Instant;
use outsock_core::limits::MESSAGE_BYTES_MAX;
use outsock_core::muxer::{ConnectionId, MessagePart, TurnEnd};
use outsock_vmrpc::Errno;

use crate::ends::End;
use crate::handle::DeviceCounters;
use crate::pieces;
use crate::ring::{Ring, RingError};
use crate::rx::{HEADER_LEN, untake};
use crate::worker::Worker;

/// What an end that carries messages keeps besides bytes.
#[derive(Debug, Default)]
pub(crate) struct Messages {
    /// Lengths of the messages in `End::pending` that are whole; none is zero.
    whole: VecDeque<usize>,
    /// Bytes behind them, of a message that goes on.
    part: usize,
    /// A message for the guest, read whole.
    out: Vec<u8>,
    /// How much of it the guest has.
    out_sent: usize,
}

/// What is next in a socket.
enum Next {
    End,
    Message(usize),
}

/// Makes a socket take the longest message, and tell an empty message from an end.
pub(crate) fn prepare(fd: &OwnedFd) -> io::Result<()> {
    let bytes = libc::c_int::try_from(MESSAGE_BYTES_MAX).unwrap_or(libc::c_int::MAX);
    set_option(fd, libc::SO_SNDBUF, bytes)?;
    set_option(fd, libc::SO_PASSCRED, 1)
}

fn set_option(fd: &OwnedFd, option: libc::c_int, value: libc::c_int) -> io::Result<()> {
    let len = libc::socklen_t::try_from(size_of_val(&value)).unwrap_or(0);
    // SAFETY: the descriptor is open, and the option's value and length agree.
    let result = unsafe {
        libc::setsockopt(fd.as_raw_fd(), libc::SOL_SOCKET, option, (&raw const value).cast(), len)
    };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Looks at the next message without taking it. Every message comes with its sender's credentials, an
/// end with none.
fn next(fd: RawFd) -> io::Result<Next> {
    // Room for the credentials and nothing else: no descriptor that a peer sends is taken in.
    let mut control = [0u64; 4];
    // SAFETY: all zeroes is a valid `msghdr`.
    let mut header: libc::msghdr = unsafe { std::mem::zeroed() };
    header.msg_control = control.as_mut_ptr().cast();
    header.msg_controllen = size_of_val(&control);
    let flags = libc::MSG_PEEK | libc::MSG_TRUNC | libc::MSG_DONTWAIT;
    // SAFETY: the descriptor is open; the kernel writes at most `msg_controllen` bytes into the live
    // buffer, and no payload.
    let len = unsafe { libc::recvmsg(fd, &raw mut header, flags) };
    match usize::try_from(len) {
        Err(_) => Err(io::Error::last_os_error()),
        Ok(0) if header.msg_controllen == 0 => Ok(Next::End),
        Ok(len) => Ok(Next::Message(len)),
    }
}

/// Forgets a message that was not ended: nobody will hear of it.
pub(crate) fn forget_part(end: &mut End) {
    if let Some(messages) = &mut end.messages {
        end.pending.truncate(end.pending.len() - std::mem::take(&mut messages.part));
    }
}

/// Writes as many whole messages as the far side takes; `Err` is how many bytes were lost because it
/// takes none any more.
pub(crate) fn write(end: &mut End) -> Result<u32, (Errno, u32)> {
    let Some(messages) = &mut end.messages else { return Ok(0) };
    let mut total = 0;
    while let Some(&len) = messages.whole.front() {
        let (first, second) = end.pending.as_slices();
        let first = &first[..first.len().min(len)];
        let second = &second[..len - first.len()];
        let piece = |bytes: &[u8]| iovec {
            iov_base: bytes.as_ptr().cast_mut().cast(),
            iov_len: bytes.len(),
        };
        match end.host.write(&[piece(first), piece(second)]) {
            Ok(_) => {
                messages.whole.pop_front();
                end.pending.drain(..len);
                total += len;
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => {
                total += end.pending.len();
                end.pending = VecDeque::new();
                *messages = Messages::default();
                return Err((Errno::of(&error), u32::try_from(total).unwrap_or(u32::MAX)));
            }
        }
    }
    if end.pending.is_empty() {
        end.pending = VecDeque::new();
    }
    Ok(u32::try_from(total).unwrap_or(u32::MAX))
}

impl Worker {
    /// Bytes of the guest, in `scratch`, that belong to a message.
    pub(crate) fn message_part(
        &mut self,
        now: Instant,
        id: ConnectionId,
        len: u32,
        part: MessagePart,
    ) {
        let bytes = len as usize;
        DeviceCounters::add(&self.counters.tx_bytes, u64::from(len));
        let Some(end) = self.ends.of(id) else { return };
        end.stats.count_from_guest(bytes);
        if end.broken {
            return self.muxer.forwarded(id, len);
        }
        let Some(messages) = &mut end.messages else { return };
        pieces::truncate(&mut self.scratch, bytes);
        pieces::take_rest(&self.scratch, 0, &mut end.pending);
        messages.part += bytes;
        if part == MessagePart::Goes || messages.part == 0 {
            return;
        }
        messages.whole.push_back(std::mem::take(&mut messages.part));
        match write(end) {
            Ok(written) => self.muxer.forwarded(id, written),
            Err((errno, lost)) => {
                end.broken = true;
                end.stats.note_reset(errno);
                self.muxer.forwarded(id, lost);
                self.far_side_broke(now, id);
            }
        }
    }

    /// One connection's turn: one message, or as much of it as there are chains for. The first chain is
    /// in `offered`, its pieces are in `scratch`.
    pub(crate) fn message_turn(
        &mut self,
        now: Instant,
        ring: &mut Ring<'_>,
        id: ConnectionId,
        bytes_max: usize,
        packets_max: usize,
    ) -> Result<(), RingError> {
        if !self.message_at_hand(now, id, bytes_max) {
            untake(ring, 1);
            return Ok(());
        }
        for packet in 0..packets_max {
            if packet > 0 {
                match self.take_rx(ring)? {
                    Some(taken) => {
                        self.offered.clear();
                        self.offered.push(taken);
                    }
                    None => break,
                }
            }
            let Some((head, chain)) = self.offered.pop() else { break };
            let Some(messages) = self.ends.of(id).and_then(|end| end.messages.as_mut()) else {
                untake(ring, 1);
                break;
            };
            let left = &messages.out[messages.out_sent..];
            let len = left.len().min(chain.payload_len);
            let part = if len == left.len() { MessagePart::Ends } else { MessagePart::Goes };
            let len32 = u32::try_from(len).unwrap_or(u32::MAX);
            if len == 0 {
                // A chain without room for payload cannot carry data.
                ring.push_used(head, 0);
                continue;
            }
            pieces::truncate(&mut self.scratch, len);
            pieces::fill(&self.scratch, [left, &[]]);
            messages.out_sent += len;
            if part == MessagePart::Ends {
                messages.out = Vec::new();
                messages.out_sent = 0;
            }
            if let Some(header) = self.muxer.sent_part(id, len32, part) {
                chain.write_header(&header.encode());
            }
            ring.push_used(head, HEADER_LEN + len32);
            if part == MessagePart::Ends {
                break;
            }
        }
        self.muxer.turn_over(now, id, TurnEnd::More);
        Ok(())
    }

    /// Whether there is a message, or the rest of one, for the guest now; reads one if need be. Ends the
    /// turn when there is none.
    fn message_at_hand(&mut self, now: Instant, id: ConnectionId, bytes_max: usize) -> bool {
        let Some(end) = self.ends.of(id) else { return false };
        let (Some(messages), Some(fd)) = (&mut end.messages, end.host.poll_fd()) else {
            return false;
        };
        if !messages.out.is_empty() {
            return true;
        }
        let bytes_ever = self.muxer.message_bytes_max(id) as usize;
        let next = match next(fd) {
            Ok(Next::Message(len)) if len > bytes_ever => Err(Errno::EMSGSIZE.into()),
            Ok(Next::Message(len)) if len > bytes_max => {
                let len = u32::try_from(len).unwrap_or(u32::MAX);
                self.muxer.message_waits(id, len);
                self.muxer.turn_over(now, id, TurnEnd::More);
                return false;
            }
            other => other,
        };
        let read = next.and_then(|next| match next {
            Next::End => Ok(None),
            Next::Message(len) => {
                let mut bytes = vec![0u8; len];
                let piece = iovec { iov_base: bytes.as_mut_ptr().cast(), iov_len: len };
                let read = end.host.read(&[piece])?;
                bytes.truncate(read);
                Ok(Some(bytes))
            }
        });
        match read {
            Ok(Some(bytes)) => {
                end.stats.count_to_guest(bytes.len());
                DeviceCounters::add(&self.counters.rx_bytes, bytes.len() as u64);
                let is_empty = bytes.is_empty();
                messages.out = bytes;
                if is_empty {
                    self.muxer.turn_over(now, id, TurnEnd::More);
                }
                !is_empty
            }
            Ok(None) => {
                let broken = end.broken;
                self.muxer.turn_over(now, id, TurnEnd::Drained);
                if broken {
                    self.muxer.host_reset(now, id);
                } else {
                    self.muxer.host_finished(now, id);
                }
                false
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                self.muxer.turn_over(now, id, TurnEnd::Drained);
                false
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {
                self.muxer.turn_over(now, id, TurnEnd::More);
                false
            }
            Err(error) => {
                end.stats.note_reset(Errno::of(&error));
                self.muxer.host_reset(now, id);
                false
            }
        }
    }
}
