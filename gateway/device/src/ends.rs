//! Ends: the table of all host ends of one guest, found by connection or by poll key.
//!
//! Owner: the vring worker. Keeps: an end belongs to one connection, or lingers after it; its poll
//! key is never used twice, so a late event reaches nobody. Bound: one end per connection, plus
//! [`limits::LINGERING_MAX`].

use std::collections::VecDeque;
use std::io;
use std::sync::Arc;

use libc::iovec;
use outsock_core::address::Instant;
use outsock_core::muxer::ConnectionId;
use outsock_vmrpc::Errno;
use vmm_sys_util::epoll::{ControlOperation, Epoll, EpollEvent, EventSet};

use crate::end::HostEnd;
use crate::handle::FarEnd;
use crate::limits;
use crate::messages::{self, Messages};
use crate::stats::ConnectionStats;

/// Names an end in poll events. Its upper half is a generation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct EndKey(pub(crate) u64);

impl EndKey {
    fn new(index: u32, generation: u32) -> Self {
        Self(u64::from(generation) << 32 | u64::from(index))
    }

    fn index(self) -> usize {
        // The lower half, by construction.
        (self.0 & 0xffff_ffff) as usize
    }

    fn generation(self) -> u32 {
        u32::try_from(self.0 >> 32).unwrap_or(u32::MAX)
    }
}

/// What becomes of an end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Role {
    /// It serves a connection.
    Serves(ConnectionId),
    /// The guest closed; the bytes that wait still go out, while there is progress.
    Lingers {
        /// Given up then.
        deadline: Instant,
    },
}

/// One host end and what the worker knows of it.
#[derive(Debug)]
pub(crate) struct End {
    pub(crate) host: HostEnd,
    pub(crate) stats: Arc<ConnectionStats>,
    pub(crate) role: Role,
    /// Bytes of the guest that the far side has not taken. At most the `buf_alloc` that the guest
    /// was told.
    pub(crate) pending: VecDeque<u8>,
    /// FIN is due when nothing is pending.
    pub(crate) finish_wanted: bool,
    /// Writing failed: the far side takes nothing any more.
    pub(crate) broken: bool,
    /// A poll event said that the far side ended: read until it shows.
    pub(crate) hung_up: bool,
    /// How many RX chains the next read should offer.
    pub(crate) read_chains: usize,
    /// Of an end that carries messages.
    pub(crate) messages: Option<Messages>,
}

#[derive(Debug, Default)]
struct Place {
    generation: u32,
    end: Option<End>,
}

/// The table.
#[derive(Debug)]
pub(crate) struct Ends {
    places: Vec<Place>,
    free: Vec<u32>,
    /// By `ConnectionId::index`.
    by_connection: Vec<Option<(ConnectionId, EndKey)>>,
    lingering: VecDeque<EndKey>,
}

impl Ends {
    pub(crate) fn new() -> Self {
        Self {
            places: Vec::new(),
            free: Vec::new(),
            by_connection: Vec::new(),
            lingering: VecDeque::new(),
        }
    }

    /// Takes an end in and polls it. The first poll event, or the caller, looks at it once.
    pub(crate) fn insert(
        &mut self,
        epoll: &Epoll,
        id: ConnectionId,
        far: FarEnd,
    ) -> Result<EndKey, (FarEnd, io::Error)> {
        let index = match self.free.pop() {
            Some(index) => index,
            None => {
                let Ok(index) = u32::try_from(self.places.len()) else {
                    return Err((far, io::ErrorKind::OutOfMemory.into()));
                };
                self.places.push(Place::default());
                index
            }
        };
        let place = &mut self.places[index as usize];
        let key = EndKey::new(index, place.generation);
        if let Some(fd) = far.host.poll_fd() {
            let interest =
                EventSet::IN | EventSet::OUT | EventSet::READ_HANG_UP | EventSet::EDGE_TRIGGERED;
            let event = EpollEvent::new(interest, key.0);
            if let Err(error) = epoll.ctl(ControlOperation::Add, fd, event) {
                self.free.push(index);
                return Err((far, error));
            }
        }
        if let HostEnd::Bridge(bridge) = &far.host {
            bridge.attach(key.0);
        }
        place.end = Some(End {
            host: far.host,
            stats: far.stats,
            role: Role::Serves(id),
            pending: VecDeque::new(),
            finish_wanted: false,
            broken: false,
            hung_up: false,
            read_chains: 1,
            messages: far.messages.then(Messages::default),
        });
        let slot = id.index as usize;
        if self.by_connection.len() <= slot {
            self.by_connection.resize(slot + 1, None);
        }
        self.by_connection[slot] = Some((id, key));
        Ok(key)
    }

    /// The end of a connection.
    pub(crate) fn of(&mut self, id: ConnectionId) -> Option<&mut End> {
        let key = self.key_of(id)?;
        self.at(key)
    }

    fn key_of(&self, id: ConnectionId) -> Option<EndKey> {
        let (owner, key) = (*self.by_connection.get(id.index as usize)?)?;
        (owner == id).then_some(key)
    }

    /// The end with a poll key.
    pub(crate) fn at(&mut self, key: EndKey) -> Option<&mut End> {
        let place = self.places.get_mut(key.index())?;
        if place.generation == key.generation() { place.end.as_mut() } else { None }
    }

    /// Takes the end of a connection out. Closing its socket stops the polling.
    pub(crate) fn remove(&mut self, id: ConnectionId) -> Option<End> {
        let key = self.key_of(id)?;
        self.by_connection[id.index as usize] = None;
        self.remove_at(key)
    }

    /// Takes the end with a poll key out.
    pub(crate) fn remove_at(&mut self, key: EndKey) -> Option<End> {
        let place = self.places.get_mut(key.index())?;
        if place.generation != key.generation() {
            return None;
        }
        let end = place.end.take()?;
        place.generation = place.generation.wrapping_add(1);
        self.free.push(u32::try_from(key.index()).ok()?);
        Some(end)
    }

    /// Lets the end of a dead connection linger until its bytes are out. Returns the oldest
    /// lingering end when there are too many.
    pub(crate) fn linger(&mut self, id: ConnectionId, deadline: Instant) -> Option<End> {
        let key = self.key_of(id)?;
        self.by_connection[id.index as usize] = None;
        self.at(key)?.role = Role::Lingers { deadline };
        self.lingering.push_back(key);
        if self.lingering.len() <= limits::LINGERING_MAX {
            return None;
        }
        let oldest = self.lingering.pop_front()?;
        self.remove_at(oldest)
    }

    /// Takes out lingering ends that are done for by `now`, and forgets those that have gone.
    pub(crate) fn give_up(&mut self, now: Instant) -> Vec<End> {
        let mut given_up = Vec::new();
        let mut keys = std::mem::take(&mut self.lingering);
        keys.retain(|&key| match self.at(key).map(|end| end.role) {
            Some(Role::Lingers { deadline }) if deadline <= now => {
                given_up.extend(self.remove_at(key));
                false
            }
            Some(Role::Lingers { .. } | Role::Serves(_)) => true,
            None => false,
        });
        self.lingering = keys;
        given_up
    }

    /// When [`Self::give_up`] should be called next.
    pub(crate) fn next_deadline(&mut self) -> Option<Instant> {
        // The oldest is looked at; it may have progressed since, then the call finds nothing.
        while let Some(&key) = self.lingering.front() {
            match self.at(key).map(|end| end.role) {
                Some(Role::Lingers { deadline }) => return Some(deadline),
                Some(Role::Serves(_)) | None => self.lingering.pop_front(),
            };
        }
        None
    }

    /// Takes everything out.
    pub(crate) fn drain(&mut self) -> Vec<End> {
        self.by_connection.clear();
        self.lingering.clear();
        let mut ends = Vec::new();
        for (index, place) in self.places.iter_mut().enumerate() {
            if let Some(end) = place.end.take() {
                place.generation = place.generation.wrapping_add(1);
                self.free.extend(u32::try_from(index));
                ends.push(end);
            }
        }
        ends
    }
}

/// Writes as much of what waits as the far side takes; `Err` is how many bytes were lost because it
/// takes none any more.
pub(crate) fn write_pending(end: &mut End) -> Result<u32, (Errno, u32)> {
    if end.messages.is_some() {
        return messages::write(end);
    }
    let mut total = 0;
    while !end.pending.is_empty() {
        let (first, second) = end.pending.as_slices();
        let piece = |bytes: &[u8]| iovec {
            iov_base: bytes.as_ptr().cast_mut().cast(),
            iov_len: bytes.len(),
        };
        match end.host.write(&[piece(first), piece(second)]) {
            Ok(n) => {
                end.pending.drain(..n);
                total += n;
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => {
                total += end.pending.len();
                end.pending = Default::default();
                return Err((Errno::of(&error), u32::try_from(total).unwrap_or(u32::MAX)));
            }
        }
    }
    if end.pending.is_empty() {
        end.pending = Default::default();
    }
    Ok(u32::try_from(total).unwrap_or(u32::MAX))
}
