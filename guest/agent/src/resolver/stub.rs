//! Stub: DNS messages of programs in, VM RPC to the gateway, answers back.
//!
//! in: datagrams and streams at port 53 of the private network; out: one answer per query, to where it
//! came from. Nothing is looked into and nothing is cached; the contract is `outsock_vmrpc::resolver`.
//! Owner: the main thread of the resolver's process; the gateway's answers to datagrams go back from the
//! thread that reads them. Kept: every query that is one gets an answer,
//! SERVFAIL when there is no better one; no program delays another. Bounds:
//! [`limits::DNS_QUERIES_MAX`], [`limits::DNS_STREAMS_MAX`], [`limits::DNS_ANSWER`].

use std::collections::{BTreeMap, HashMap};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use outsock_vmrpc::limits::{DNS_ANSWER_BYTES_MAX, DNS_QUERY_BYTES_MAX};
use outsock_vmrpc::resolver::{self, QueryRequest};
use outsock_vmrpc::{Errno, Fault, RpcError};

use super::network::{Network, Servers};
use super::stream::Stream;
use super::upstream::{Event, Upstream};
use crate::limits;
use crate::mailbox::Mailbox;
use crate::sys::datagram::{self, ReturnPath};
use crate::sys::poll::{Epoll, PEER_CLOSED, READABLE};

/// What an event of the loop is about. Larger numbers are streams.
const FROM_MAILBOX: u64 = 0;
const FROM_GATEWAY: u64 = 1;
const FROM_UDP: [u64; 2] = [2, 3];
const FROM_TCP: [u64; 2] = [4, 5];
const STREAM_MIN: u64 = 16;

/// Who wants an answer.
#[derive(Debug)]
enum Asker {
    /// By UDP: the server's socket, and the way back.
    Datagram(Arc<OwnedFd>, Box<ReturnPath>),
    /// By TCP: the stream.
    Stream(u64),
}

#[derive(Debug)]
struct Pending {
    asker: Asker,
    query: Vec<u8>,
    deadline: Instant,
}

/// The queries under way, by key and so by age. Who takes one out answers it: the loop, or the thread
/// that reads the gateway's answers.
#[derive(Clone, Debug)]
struct Queries {
    pending: Arc<Mutex<BTreeMap<u64, Pending>>>,
    mailbox: Mailbox<Event>,
}

impl Queries {
    fn pending(&self) -> MutexGuard<'_, BTreeMap<u64, Pending>> {
        self.pending.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Ends a query as a call to the gateway has ended.
    fn finish(&self, key: u64, outcome: Result<Vec<u8>, RpcError>) {
        let Some(Pending { asker, query, .. }) = self.pending().remove(&key) else { return };
        let answer = match outcome {
            Ok(answer) => Some(answer),
            // No query that could be answered: the contract says so.
            Err(RpcError::Function(Errno::EMSGSIZE | Errno::EINVAL)) => None,
            Err(_) => resolver::servfail(&query),
        };
        match (asker, answer) {
            // A program that has gone meanwhile, or reads nothing, misses its answer only.
            (Asker::Datagram(socket, path), Some(answer)) => {
                drop(datagram::send(socket.as_fd(), &answer, &path));
            }
            (Asker::Datagram(..), None) => {}
            (Asker::Stream(stream), answer) => self.mailbox.post(Event::Answer(stream, answer)),
        }
    }
}

/// See the module.
#[derive(Debug)]
pub(super) struct Stub {
    poll: Epoll,
    servers: Vec<Servers>,
    upstream: Upstream,
    queries: Queries,
    streams: HashMap<u64, Stream>,
    next_key: u64,
}

impl Stub {
    pub(super) fn new(
        network: Network,
        upstream: Upstream,
        mailbox: Mailbox<Event>,
    ) -> io::Result<Self> {
        let poll = Epoll::new()?;
        poll.add(mailbox.as_fd(), READABLE, FROM_MAILBOX)?;
        let servers: Vec<_> = [Some(network.v4), network.v6].into_iter().flatten().collect();
        for (at, of) in servers.iter().enumerate() {
            poll.add(of.udp.as_fd(), READABLE, FROM_UDP[at])?;
            poll.add(of.tcp.as_fd(), READABLE, FROM_TCP[at])?;
        }
        let stub = Self {
            poll,
            servers,
            upstream,
            queries: Queries { pending: Arc::default(), mailbox },
            streams: HashMap::new(),
            next_key: STREAM_MIN,
        };
        stub.watch_gateway()?;
        Ok(stub)
    }

    /// Serves as long as the process lives.
    pub(super) fn serve(mut self) -> io::Result<()> {
        let mut buffer = vec![0u8; DNS_QUERY_BYTES_MAX];
        loop {
            let due = self.next_due();
            let timeout = due.map(|due| due.saturating_duration_since(Instant::now()));
            for event in self.poll.wait(timeout)? {
                let now = Instant::now();
                match event.data {
                    FROM_MAILBOX => self.read_mail(now)?,
                    FROM_GATEWAY => self.lose_gateway(),
                    2 | 3 => self.read_datagram(at(event.data, FROM_UDP), &mut buffer, now),
                    4 | 5 => self.accept(at(event.data, FROM_TCP), now)?,
                    key => self.on_stream(key, event.events, now),
                }
            }
            self.on_time(Instant::now());
        }
    }

    fn next_due(&self) -> Option<Instant> {
        let oldest = self.queries.pending().values().next().map(|pending| pending.deadline);
        let idle = self.streams.values().map(Stream::idle_until).min();
        [oldest, idle].into_iter().flatten().min()
    }

    fn watch_gateway(&self) -> io::Result<()> {
        self.upstream.watch().map_or(Ok(()), |file| self.poll.add(file, PEER_CLOSED, FROM_GATEWAY))
    }

    fn key(&mut self) -> u64 {
        self.next_key += 1;
        self.next_key
    }

    fn read_datagram(&mut self, at: usize, buffer: &mut [u8], now: Instant) {
        let Some(server) = self.servers.get(at) else { return };
        // Errors of a datagram socket (a refused answer) are about what was sent before.
        let Ok((length, path)) = datagram::receive(server.udp.as_fd(), buffer) else { return };
        let Some(query) = buffer.get(..length) else { return };
        if resolver::is_acceptable_length(query) {
            let asker = Asker::Datagram(Arc::clone(&server.udp), Box::new(path));
            self.ask(asker, query.to_vec(), resolver::answer_bytes_max(query), now);
        }
    }

    fn accept(&mut self, at: usize, now: Instant) -> io::Result<()> {
        let Some(server) = self.servers.get(at) else { return Ok(()) };
        let Ok((socket, _)) = server.tcp.accept() else { return Ok(()) };
        // One more than the limit is closed at once: its program tries again, or another server.
        if self.streams.len() >= limits::DNS_STREAMS_MAX {
            return Ok(());
        }
        let key = self.key();
        let stream = Stream::new(socket, now)?;
        self.poll.add(stream.as_fd(), stream.wanted(), key)?;
        self.streams.insert(key, stream);
        Ok(())
    }

    fn on_stream(&mut self, key: u64, events: u32, now: Instant) {
        let Some(stream) = self.streams.get_mut(&key) else { return };
        stream.advance(events, now);
        self.after_stream(key, now);
    }

    /// Passes on what a stream has asked, and looks after its registration.
    fn after_stream(&mut self, key: u64, now: Instant) {
        while let Some(query) = self.streams.get_mut(&key).and_then(Stream::next_query) {
            let most = u16::try_from(DNS_ANSWER_BYTES_MAX).unwrap_or(u16::MAX);
            self.ask(Asker::Stream(key), query, most, now);
        }
        let Some(stream) = self.streams.get(&key) else { return };
        if stream.is_over() || self.poll.modify(stream.as_fd(), stream.wanted(), key).is_err() {
            self.streams.remove(&key);
        }
    }

    fn ask(&mut self, asker: Asker, query: Vec<u8>, answer_bytes_max: u16, now: Instant) {
        let key = self.key();
        let request = QueryRequest { answer_bytes_max, message: query.clone() };
        let deadline = now + limits::DNS_ANSWER;
        let pending = Pending { asker, query, deadline };
        let full = {
            let mut queries = self.queries.pending();
            queries.insert(key, pending);
            queries.len() > limits::DNS_QUERIES_MAX
        };
        if full {
            return self.queries.finish(key, Err(RpcError::Host(Fault::TooMany)));
        }
        let queries = self.queries.clone();
        self.upstream.ask(&request, move |outcome| queries.finish(key, outcome));
    }

    fn read_mail(&mut self, now: Instant) -> io::Result<()> {
        for event in self.queries.mailbox.take_all() {
            match event {
                Event::Answer(key, answer) => {
                    if let Some(stream) = self.streams.get_mut(&key) {
                        stream.answer(answer.as_deref(), now);
                        self.after_stream(key, now);
                    }
                }
                Event::Lost => self.lose_gateway(),
                Event::Back(session) => {
                    self.upstream.resume(session);
                    self.watch_gateway()?;
                }
            }
        }
        Ok(())
    }

    fn on_time(&mut self, now: Instant) {
        let oldest = self.queries.pending().values().next().map(|pending| pending.deadline);
        if oldest.is_some_and(|deadline| deadline <= now) {
            // The gateway answers sooner, with SERVFAIL at the latest: it is not there any more.
            self.lose_gateway();
        }
        let idle = |stream: &Stream| stream.idle_until() <= now;
        self.streams.retain(|_, stream| !idle(stream));
    }

    fn lose_gateway(&mut self) {
        if let Some(watch) = self.upstream.watch() {
            // Closing the descriptor is not enough: the reader thread has another one.
            let _ = self.poll.delete(watch);
        }
        self.upstream.lose();
        let keys: Vec<_> = self.queries.pending().keys().copied().collect();
        keys.into_iter().for_each(|key| self.queries.finish(key, Err(RpcError::Disconnected)));
    }
}

fn at(data: u64, numbers: [u64; 2]) -> usize {
    usize::from(data != numbers[0])
}

impl AsFd for Stream {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket().as_fd()
    }
}
