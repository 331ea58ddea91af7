//! Worker: what runs on the vring thread of one guest.
//!
//! in: kicks, poll events of host ends, bells of bridges, commands of the daemon, time; out:
//! packets on the RX ring, bytes on host ends, news to the daemon. Owner: the vring thread; the
//! mutex around it is for the type system and for set-up calls of the vhost-user thread. Keeps: the
//! loop never blocks and never fails: whatever a guest does ends at most its own connections. TX is
//! drained also when RX is blocked, or the two sides would wait for each other.

use std::os::fd::AsRawFd;
use std::sync::atomic::Ordering;
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use libc::iovec;
use outsock_core::address::{Cid, Instant, VsockPort};
use outsock_core::limits::TOKENS_MAX;
use outsock_core::muxer::{Action, ConnectionId, DialVerdict, Muxer};
use outsock_vmrpc::Errno;
use outsock_vmrpc::limits::VMRPC_PORT;
use std::collections::HashMap;
use std::io;
use vhost_user_backend::VringMutex;
use vmm_sys_util::epoll::{ControlOperation, Epoll, EpollEvent, EventSet};
use vmm_sys_util::eventfd::EventFd;
use vmm_sys_util::timerfd::TimerFd;

use crate::bridge::{Bells, bridge};
use crate::chain::Chain;
use crate::end::HostEnd;
use crate::ends::{EndKey, Ends, Role, write_pending};
use crate::handle::{Command, DeviceCounters, FarEnd, Mailbox, News, NewsSender};
use crate::limits;
use crate::memory::MemoryMap;
use crate::messages;
use crate::plain::Call;
use crate::queue_memory::QueueMemory;
use crate::ring::RingError;

/// RX: device to driver.
pub(crate) const RX: usize = 0;
/// TX: driver to device.
pub(crate) const TX: usize = 1;

const KEY_MAILBOX: u64 = u64::MAX;
const KEY_BELLS: u64 = u64::MAX - 1;
const KEY_TIMER: u64 = u64::MAX - 2;

/// Bytes of several packets of one connection on their way to one `sendmsg`.
#[derive(Debug, Default)]
pub(crate) struct Gather {
    pub(crate) id: Option<ConnectionId>,
    pub(crate) pieces: Vec<iovec>,
    pub(crate) bytes: usize,
    pub(crate) heads: Vec<u16>,
}

/// The worker's state. The passes over the rings are in `tx.rs` and `rx.rs`.
pub(crate) struct Worker {
    pub(crate) muxer: Muxer,
    pub(crate) ends: Ends,
    /// Ends whose REQUEST has not come, by token.
    held: HashMap<VsockPort, FarEnd>,
    /// Connections to the guest that it has not answered.
    pub(crate) calls: HashMap<ConnectionId, Call>,
    epoll: Epoll,
    events: Vec<EpollEvent>,
    timer: TimerFd,
    timer_at: Option<Instant>,
    epoch: std::time::Instant,
    pub(crate) memory: Option<Arc<MemoryMap>>,
    /// The same for event queues, whose rings other threads use.
    queue_memory: QueueMemory,
    mailbox: Arc<Mailbox>,
    bells: Arc<Bells>,
    bells_event: EventFd,
    news: NewsSender,
    pub(crate) counters: Arc<DeviceCounters>,
    /// The driver's next chain of each ring, to see that it was set up anew.
    ring_position: [Option<u16>; 2],
    pub(crate) gather: Gather,
    /// Pieces of the chain at hand, reused.
    pub(crate) scratch: Vec<iovec>,
    /// RX chains offered to one read, reused.
    pub(crate) offered: Vec<(u16, Chain)>,
}

// SAFETY: the raw pointers inside (`iovec`, `Chain`) are empty between passes, and a pass runs on
// one thread with the mutex around the worker held.
unsafe impl Send for Worker {}

impl std::fmt::Debug for Worker {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Worker").field("muxer", &self.muxer).finish_non_exhaustive()
    }
}

impl Worker {
    pub(crate) fn new(
        cid: Cid,
        mailbox: Arc<Mailbox>,
        bells: Arc<Bells>,
        bells_event: EventFd,
        news: NewsSender,
        counters: Arc<DeviceCounters>,
    ) -> io::Result<Self> {
        let epoll = Epoll::new()?;
        let timer = TimerFd::new().map_err(io::Error::from)?;
        for (fd, key) in [
            (mailbox.event.as_raw_fd(), KEY_MAILBOX),
            (bells_event.as_raw_fd(), KEY_BELLS),
            (timer.as_raw_fd(), KEY_TIMER),
        ] {
            epoll.ctl(ControlOperation::Add, fd, EpollEvent::new(EventSet::IN, key))?;
        }
        Ok(Self {
            muxer: Muxer::new(cid, &[VsockPort(VMRPC_PORT)]),
            ends: Ends::new(),
            held: HashMap::new(),
            calls: HashMap::new(),
            epoll,
            events: vec![EpollEvent::default(); limits::EVENTS_MAX],
            timer,
            timer_at: None,
            epoch: std::time::Instant::now(),
            memory: None,
            queue_memory: QueueMemory::default(),
            mailbox,
            bells,
            bells_event,
            news,
            counters,
            ring_position: [None; 2],
            gather: Gather::default(),
            scratch: Vec::new(),
            offered: Vec::new(),
        })
    }

    /// The descriptor that is readable when there is work besides kicks.
    pub(crate) fn poll_fd(&self) -> i32 {
        self.epoll.as_raw_fd()
    }

    pub(crate) fn now(&self) -> Instant {
        Instant(u64::try_from(self.epoch.elapsed().as_millis()).unwrap_or(u64::MAX))
    }

    /// Does all work there is. Bounded: when a guest keeps it busy it comes back for the rest, so
    /// that the thread can be told to end.
    pub(crate) fn work(&mut self, vrings: &[VringMutex]) {
        let (Some(rx), Some(tx)) = (vrings.get(RX), vrings.get(TX)) else { return };
        for _ in 0..limits::WORK_ROUNDS_MAX {
            let now = self.now();
            let heard = self.hear(now);
            let sent = self.tx_pass(now, tx);
            let received = self.rx_pass(now, rx);
            if !(heard || sent || received) {
                self.arm_timer(now);
                return;
            }
        }
        self.arm_timer(self.now());
        let _ = self.mailbox.event.write(1);
    }

    /// Takes poll events, commands, bells and deadlines. Returns whether there were any.
    fn hear(&mut self, now: Instant) -> bool {
        let mut events = std::mem::take(&mut self.events);
        let count = self.epoll.wait(0, &mut events).unwrap_or(0);
        for event in &events[..count] {
            match event.data() {
                KEY_MAILBOX => {
                    let _ = self.mailbox.event.read();
                    self.take_commands(now);
                }
                KEY_BELLS => {
                    let _ = self.bells_event.read();
                    for key in self.bells.take() {
                        self.end_event(now, EndKey(key), EventSet::IN | EventSet::OUT);
                    }
                }
                KEY_TIMER => {
                    let _ = self.timer.wait();
                    self.timer_at = None;
                    self.muxer.late(now);
                    for end in self.ends.give_up(now) {
                        end.host.reset();
                    }
                    self.run_actions(now);
                }
                key => self.end_event(now, EndKey(key), event.event_set()),
            }
        }
        self.events = events;
        count > 0
    }

    fn take_commands(&mut self, now: Instant) {
        let mut commands = {
            let mut queue = self.mailbox.commands.lock().unwrap_or_else(PoisonError::into_inner);
            std::mem::take(&mut *queue)
        };
        for command in commands.drain(..) {
            match command {
                Command::Announce(token) => {
                    if !self.muxer.announce(now, token) {
                        let _ = self.tell(News::CancelDial(token));
                    }
                }
                Command::DialFailed(token) => self.muxer.dial_failed(now, token),
                Command::Reset(token) => self.muxer.reset_token(now, token),
                Command::DialOk(token, far) => match self.muxer.dial_ok(now, token) {
                    DialVerdict::Attach(id) => self.attach(now, id, far),
                    DialVerdict::Hold => {
                        debug_assert!(self.held.len() < TOKENS_MAX);
                        self.held.insert(token, far);
                    }
                    DialVerdict::Drop => far.host.reset(),
                },
                Command::Plain(plain) => self.muxer.set_plain(plain),
                Command::Accept(id, far) if self.muxer.accept(now, id) => self.attach(now, id, far),
                Command::Accept(_, far) => far.host.reset(),
                Command::Refuse(id) => self.muxer.refuse(now, id),
                Command::Call(opening) => self.call(now, opening),
            }
            self.run_actions(now);
        }
        // Reuse the allocation unless it grew out of proportion.
        if commands.capacity() <= 1024 {
            let mut queue = self.mailbox.commands.lock().unwrap_or_else(PoisonError::into_inner);
            if queue.is_empty() {
                std::mem::swap(&mut *queue, &mut commands);
            }
        }
    }

    fn end_event(&mut self, now: Instant, key: EndKey, set: EventSet) {
        let Some(end) = self.ends.at(key) else { return };
        if let HostEnd::Bridge(bridge) = &end.host {
            bridge.heard();
        }
        let ended = EventSet::READ_HANG_UP | EventSet::HANG_UP | EventSet::ERROR;
        end.hung_up |= set.intersects(ended);
        match end.role {
            Role::Serves(id) => {
                if set.contains(EventSet::OUT) && !end.pending.is_empty() {
                    self.flush(now, key);
                }
                if set.intersects(ended | EventSet::IN) {
                    self.muxer.host_readable(id);
                }
                // Nobody will read up to the error: say it now.
                if set.contains(EventSet::ERROR) && !self.muxer.can_read(id) {
                    if let Some(end) = self.ends.at(key) {
                        end.stats.note_reset(Errno::ECONNRESET);
                    }
                    self.muxer.host_reset(now, id);
                }
            }
            Role::Lingers { .. } => self.flush(now, key),
        }
        self.run_actions(now);
    }

    /// Whether the daemon will hear it.
    pub(crate) fn tell(&self, news: News) -> bool {
        // A full channel: the daemon does not keep up. A stream is reset by being dropped; a dial
        // that should have been cancelled ends by itself.
        let told = self.news.try_send(news);
        if let Err(error) = &told {
            tracing::debug!(%error, "news dropped");
        }
        told.is_ok()
    }

    fn arm_timer(&mut self, now: Instant) {
        let next = match (self.muxer.next_deadline(), self.ends.next_deadline()) {
            (Some(a), Some(b)) => Some(a.min(b)),
            (a, b) => a.or(b),
        };
        if next == self.timer_at {
            return;
        }
        let armed = match next {
            // Zero would disarm it.
            Some(at) => {
                self.timer.reset(Duration::from_millis((at.0 - now.0.min(at.0)).max(1)), None)
            }
            None => self.timer.clear(),
        };
        self.timer_at = if armed.is_ok() { next } else { None };
    }

    /// Before a pass: `false` when the ring is not to be served. Sees a ring that was set up anew,
    /// which means that the guest's driver started over.
    pub(crate) fn begin_pass(&mut self, queue: usize, next_avail: u16) {
        let known = self.ring_position[queue];
        if known.is_some_and(|position| position != next_avail) {
            self.reset();
        }
    }

    pub(crate) fn end_pass(&mut self, queue: usize, next_avail: u16) {
        self.ring_position[queue] = Some(next_avail);
    }

    pub(crate) fn ring_broken(&self, error: RingError) {
        DeviceCounters::add(&self.counters.broken_rings, 1);
        tracing::debug!(%error, "ring not served");
    }

    /// Forgets the guest: its driver started over, or its VMM is gone.
    pub(crate) fn reset(&mut self) {
        self.muxer.reset();
        for end in self.ends.drain() {
            end.host.reset();
        }
        for (_, far) in self.held.drain() {
            far.host.reset();
        }
        // Whoever waits for one hears of it by the end of its channel.
        self.calls.clear();
        self.ring_position = [None; 2];
        self.counters.open.store(0, Ordering::Relaxed);
        self.queue_memory.end_life();
        let _ = self.tell(News::GuestGone);
    }

    /// The frontend shares other memory from now on.
    pub(crate) fn set_memory(&mut self, memory: Option<Arc<MemoryMap>>) {
        self.queue_memory.set(memory.clone());
        self.memory = memory;
    }

    /// The frontend is gone: so is the guest, and its memory is unmapped.
    pub(crate) fn hang_up(&mut self) {
        self.reset();
        self.set_memory(None);
    }

    pub(crate) fn publish_counters(&self) {
        let muxer = self.muxer.counters();
        self.counters.open.store(self.muxer.connections() as u64, Ordering::Relaxed);
        self.counters.opened.store(muxer.opened, Ordering::Relaxed);
        self.counters.misbehaved.store(muxer.misbehaved, Ordering::Relaxed);
        self.counters.forged.store(muxer.forged, Ordering::Relaxed);
    }
}

// === Host ends ===

impl Worker {
    pub(crate) fn run_actions(&mut self, now: Instant) {
        while let Some(action) = self.muxer.next_action() {
            match action {
                Action::OpenService(id, port, from) => {
                    let (end, stream) = bridge(&self.bells);
                    self.attach(now, id, FarEnd::new(HostEnd::Bridge(end)));
                    let memory = self.queue_memory.of_this_life();
                    let _ = self.tell(News::Service { port, from, stream, memory });
                }
                Action::Attach(id, token) => match self.held.remove(&token) {
                    Some(far) => self.attach(now, id, far),
                    None => self.muxer.host_reset(now, id),
                },
                Action::DropHeld(token) => {
                    if let Some(far) = self.held.remove(&token) {
                        far.host.reset();
                    }
                }
                Action::CancelDial(token) => {
                    let _ = self.tell(News::CancelDial(token));
                }
                Action::Ask(id, request) => self.ask(now, id, request),
                Action::Called(id) => self.called(now, id),
                Action::CallFailed(id) => self.call_failed(id),
                Action::FinishWrite(id) => self.finish_write(now, id),
                Action::CloseAfterFlush(id) => self.close_after_flush(now, id),
                Action::Abort(id) => {
                    if let Some(end) = self.ends.remove(id) {
                        end.host.reset();
                    }
                }
            }
        }
    }

    pub(crate) fn attach(&mut self, now: Instant, id: ConnectionId, far: FarEnd) {
        let is_bridge = far.host.poll_fd().is_none();
        match self.ends.insert(&self.epoll, id, far) {
            // A socket's first poll event comes by itself.
            Ok(_) if is_bridge => self.muxer.host_readable(id),
            Ok(_) => {}
            Err((far, error)) => {
                tracing::warn!(%error, "cannot poll a connection");
                far.host.reset();
                self.muxer.host_reset(now, id);
            }
        }
    }

    fn finish_write(&mut self, now: Instant, id: ConnectionId) {
        let Some(end) = self.ends.of(id) else { return };
        messages::forget_part(end);
        if end.pending.is_empty() {
            end.host.finish_write();
            self.muxer.flushed(now, id);
        } else {
            end.finish_wanted = true;
        }
    }

    fn close_after_flush(&mut self, now: Instant, id: ConnectionId) {
        let Some(end) = self.ends.of(id) else { return };
        if end.stats.aborts_on_close() {
            if let Some(end) = self.ends.remove(id) {
                end.host.reset();
            }
            return;
        }
        messages::forget_part(end);
        if end.pending.is_empty() || end.broken {
            if let Some(end) = self.ends.remove(id) {
                end.host.close();
            }
            return;
        }
        end.finish_wanted = true;
        if let Some(oldest) = self.ends.linger(id, now.after_ms(limits::LINGERING_MS)) {
            oldest.host.reset();
        }
    }

    /// Writes what waits. Called when the far side takes bytes again.
    fn flush(&mut self, now: Instant, key: EndKey) {
        let Some(end) = self.ends.at(key) else { return };
        let written = write_pending(end);
        match (end.role, written) {
            (Role::Serves(id), Ok(written)) => {
                let flushed = end.finish_wanted && end.pending.is_empty();
                if flushed {
                    end.finish_wanted = false;
                    end.host.finish_write();
                }
                self.muxer.forwarded(id, written);
                if flushed {
                    self.muxer.flushed(now, id);
                }
            }
            (Role::Serves(id), Err((errno, lost))) => {
                end.broken = true;
                end.stats.note_reset(errno);
                self.muxer.forwarded(id, lost);
                self.far_side_broke(now, id);
            }
            (Role::Lingers { .. }, Ok(written)) => {
                if end.pending.is_empty() {
                    if let Some(end) = self.ends.remove_at(key) {
                        end.host.close();
                    }
                } else if written > 0 {
                    end.role = Role::Lingers { deadline: now.after_ms(limits::LINGERING_MS) };
                }
            }
            (Role::Lingers { .. }, Err(_)) => {
                self.ends.remove_at(key);
            }
        }
    }

    /// Writing failed. What the far side sent before still goes to the guest if it can.
    pub(crate) fn far_side_broke(&mut self, now: Instant, id: ConnectionId) {
        if self.muxer.can_read(id) {
            self.muxer.host_readable(id);
        } else {
            self.muxer.host_reset(now, id);
        }
    }
}
