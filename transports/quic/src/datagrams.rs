//! Datagrams: a session of datagrams between two gateways, as a [`Flow`].
//!
//! in:  payloads of 0 to [`limits::DATAGRAM_BYTES_MAX`] bytes; out: the same at the other end, in any
//!      order, perhaps not all, as with UDP
//! owner: the task that holds the session; two tasks per session serve its stream
//! keeps: what fits into a QUIC datagram travels as one, after the session's id; what does not travels
//!        on the session's stream, as news of the far end do. Nothing is cut and nobody waits: what
//!        finds no room is refused with `WouldBlock`, or dropped and counted where it arrives. A
//!        datagram over the limit is `EMSGSIZE`
//! bound: [`limits::SESSIONS_MAX`] per connection; [`limits::DATAGRAM_WAITING_BYTES_MAX`] bytes of
//!        all of them wait to be read, as many to be sent on their streams
//!
//! On the wire: a QUIC datagram is `session u64, payload`, where the session is the id of its stream;
//! on the stream a payload is `length u16, payload`, and [`NEWS`] in the place of a length is followed
//! by an errno, u16.

use std::collections::HashMap;
use std::io;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use async_trait::async_trait;
use bytes::{Bytes, BytesMut};
use outsock_transport::{Budget, Errno, Flow, Inbox};
use quinn::{Connection, ConnectionError, SendDatagramError, StreamId, VarInt};
use tokio::io::{AsyncReadExt, AsyncWriteExt, ReadHalf, WriteHalf};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio::task::JoinHandle;

use crate::limits;
use crate::link::Link;
use crate::stream::QuicStream;

/// Bytes before the payload of a QUIC datagram.
const SESSION_BYTES: usize = 8;

/// No length of a datagram.
const NEWS: u16 = 0xffff;

/// Where a connection's datagrams go.
#[derive(Debug)]
pub(crate) struct Sessions {
    table: Mutex<HashMap<u64, Arc<Inbox>>>,
    inboxes: Budget,
    /// Bytes that may wait for the sessions' streams.
    large: Arc<Semaphore>,
    pub(crate) dropped: AtomicU64,
}

impl Default for Sessions {
    fn default() -> Self {
        Self {
            table: Mutex::default(),
            inboxes: Budget::new(limits::DATAGRAM_WAITING_BYTES_MAX),
            large: Arc::new(Semaphore::new(limits::DATAGRAM_WAITING_BYTES_MAX)),
            dropped: AtomicU64::new(0),
        }
    }
}

/// A session's place in the table. Dropping it gives it back.
#[derive(Debug)]
pub(crate) struct Place {
    link: Arc<Link>,
    id: StreamId,
    inbox: Arc<Inbox>,
}

impl Drop for Place {
    fn drop(&mut self) {
        self.link.sessions.table().remove(&number(self.id));
    }
}

fn number(id: StreamId) -> u64 {
    VarInt::from(id).into_inner()
}

impl Sessions {
    fn table(&self) -> MutexGuard<'_, HashMap<u64, Arc<Inbox>>> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A place for the session of a stream; `None` when there are too many.
    pub(crate) fn add(link: &Arc<Link>, id: StreamId) -> Option<Place> {
        let sessions = &link.sessions;
        let mut table = sessions.table();
        if table.len() >= limits::SESSIONS_MAX {
            return None;
        }
        let inbox = Arc::new(Inbox::new(&sessions.inboxes));
        table.insert(number(id), Arc::clone(&inbox));
        Some(Place { link: Arc::clone(link), id, inbox })
    }

    /// How many there are.
    pub(crate) fn count(&self) -> usize {
        self.table().len()
    }

    /// Hands the connection's datagrams out until it ends.
    pub(crate) async fn receive(&self, connection: &Connection) -> ConnectionError {
        loop {
            let datagram = match connection.read_datagram().await {
                Ok(datagram) => datagram,
                Err(error) => return error,
            };
            let delivered =
                datagram.split_first_chunk::<SESSION_BYTES>().is_some_and(|(id, payload)| {
                    let inbox = self.table().get(&u64::from_le_bytes(*id)).cloned();
                    inbox.is_some_and(|inbox| inbox.put(payload))
                });
            if !delivered {
                self.dropped.fetch_add(1, Ordering::Relaxed);
            }
        }
    }
}

/// See the module.
#[derive(Debug)]
pub struct Datagrams {
    place: Place,
    /// For the stream: whole pieces.
    pieces: mpsc::Sender<Piece>,
    tasks: [JoinHandle<()>; 2],
}

/// Bytes for the stream, and the room that they take until they are there.
#[derive(Debug)]
struct Piece {
    bytes: Bytes,
    _room: OwnedSemaphorePermit,
}

impl Datagrams {
    pub(crate) fn new(place: Place, stream: QuicStream) -> Self {
        let (read, write) = tokio::io::split(stream);
        let (pieces, waiting) = mpsc::channel(limits::PIECES_WAITING_MAX);
        let (inbox, link) = (Arc::clone(&place.inbox), Arc::clone(&place.link));
        let reading = tokio::spawn(async move {
            read_pieces(read, &inbox, &link).await;
            inbox.end();
        });
        let writing = tokio::spawn(write_pieces(write, waiting));
        Self { place, pieces, tasks: [reading, writing] }
    }

    fn connection(&self) -> &Connection {
        &self.place.link.connection
    }

    /// Bytes that fit into one QUIC datagram now; larger ones take the stream.
    pub fn small_bytes_max(&self) -> usize {
        self.connection().max_datagram_size().unwrap_or(0).saturating_sub(SESSION_BYTES)
    }

    /// Tells the other gateway news of the far end, which its guest gets as a failure of its socket. Where
    /// there is no room, it does not hear of it, as of an ICMP error that was lost.
    pub fn tell(&self, errno: Errno) {
        let code = u16::try_from(errno.raw()).unwrap_or(0);
        let _ = self.on_stream(NEWS, &code.to_le_bytes());
    }

    fn on_stream(&self, head: u16, body: &[u8]) -> io::Result<()> {
        let length = size_of::<u16>() + body.len();
        let permits = u32::try_from(length).unwrap_or(u32::MAX);
        let room = Arc::clone(&self.place.link.sessions.large).try_acquire_many_owned(permits);
        let room = room.map_err(|_| io::ErrorKind::WouldBlock)?;
        let mut bytes = BytesMut::with_capacity(length);
        bytes.extend_from_slice(&head.to_le_bytes());
        bytes.extend_from_slice(body);
        let sent = self.pieces.try_send(Piece { bytes: bytes.freeze(), _room: room });
        sent.map_err(|error| match error {
            mpsc::error::TrySendError::Full(_) => io::ErrorKind::WouldBlock.into(),
            mpsc::error::TrySendError::Closed(_) => Errno::ECONNRESET.into(),
        })
    }
}

#[async_trait]
impl Flow for Datagrams {
    fn local(&self) -> Option<SocketAddr> {
        None
    }

    fn try_send(&self, payload: &[u8]) -> io::Result<()> {
        if payload.len() > limits::DATAGRAM_BYTES_MAX {
            return Err(Errno::EMSGSIZE.into());
        }
        let on_stream = || {
            let length = u16::try_from(payload.len()).map_err(|_| Errno::EMSGSIZE)?;
            self.on_stream(length, payload)
        };
        if payload.len() > self.small_bytes_max() {
            return on_stream();
        }
        let length = SESSION_BYTES + payload.len();
        if self.connection().datagram_send_buffer_space() < length {
            // quinn would drop an older one, which has waited longer.
            return Err(io::ErrorKind::WouldBlock.into());
        }
        let mut datagram = BytesMut::with_capacity(length);
        datagram.extend_from_slice(&number(self.place.id).to_le_bytes());
        datagram.extend_from_slice(payload);
        match self.connection().send_datagram(datagram.freeze()) {
            Ok(()) => Ok(()),
            Err(SendDatagramError::ConnectionLost(error)) => {
                Err(crate::failure::of_connection(&error).into())
            }
            // The path has shrunk meanwhile.
            Err(
                SendDatagramError::TooLarge
                | SendDatagramError::UnsupportedByPeer
                | SendDatagramError::Disabled,
            ) => on_stream(),
        }
    }

    fn try_receive(&self, buffer: &mut [u8]) -> io::Result<usize> {
        self.place.inbox.take(buffer)
    }

    async fn readable(&self) -> io::Result<()> {
        self.place.inbox.readable().await;
        Ok(())
    }
}

impl Drop for Datagrams {
    fn drop(&mut self) {
        // With both halves the stream is gone: reset, which ends the other side's session.
        self.tasks.iter().for_each(JoinHandle::abort);
    }
}

/// Reads the stream; its end is the session's.
async fn read_pieces(mut stream: ReadHalf<QuicStream>, inbox: &Inbox, link: &Link) {
    while let Ok(length) = stream.read_u16_le().await {
        if length == NEWS {
            let Ok(code) = stream.read_u16_le().await else { return };
            inbox.tell(crate::failure::errno_of_code(VarInt::from(code)));
            continue;
        }
        let mut payload = vec![0; length.into()];
        if stream.read_exact(&mut payload).await.is_err() {
            return;
        }
        if !inbox.put(&payload) {
            link.sessions.dropped.fetch_add(1, Ordering::Relaxed);
        }
    }
}

/// Writes to the stream until the session or the stream ends.
async fn write_pieces(mut stream: WriteHalf<QuicStream>, mut waiting: mpsc::Receiver<Piece>) {
    while let Some(piece) = waiting.recv().await {
        if stream.write_all(&piece.bytes).await.is_err() {
            return;
        }
    }
}
