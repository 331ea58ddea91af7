//! Datagrams: a session of datagrams between two gateways.
//!
//! in:  payloads of 0 to [`limits::DATAGRAM_BYTES_MAX`] bytes; out: the same at the other end, in any
//!      order, perhaps not all, as with UDP
//! owner: the task that holds the session; one task per session reads its stream
//! keeps: what fits into a QUIC datagram travels as one, after the session's id; what does not travels
//!        on the session's stream. Nothing is cut. A datagram over the limit is `EMSGSIZE`
//! bound: [`limits::DATAGRAMS_WAITING_MAX`] wait to be read, more are dropped and counted;
//!        [`limits::SESSIONS_MAX`] per connection
//!
//! On the wire: a QUIC datagram is `session u64, payload`, where the session is the id of its stream;
//! on the stream a payload is `length u16, payload`.

use std::collections::HashMap;
use std::io;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::{Bytes, BytesMut};
use outsock_transport::Errno;
use quinn::{Connection, ConnectionError, SendDatagramError, StreamId, VarInt};
use tokio::io::{AsyncReadExt, AsyncWriteExt, ReadHalf, WriteHalf};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

use crate::limits;
use crate::link::Link;
use crate::stream::QuicStream;

/// Bytes before the payload of a QUIC datagram.
const SESSION_BYTES: usize = 8;

/// Where a connection's datagrams go.
#[derive(Debug, Default)]
pub(crate) struct Sessions {
    table: Mutex<HashMap<u64, mpsc::Sender<Bytes>>>,
    pub(crate) dropped: AtomicU64,
}

/// What waits for the reader of a session.
#[derive(Debug)]
pub(crate) struct Queue {
    sender: mpsc::Sender<Bytes>,
    receiver: mpsc::Receiver<Bytes>,
}

fn number(id: StreamId) -> u64 {
    VarInt::from(id).into_inner()
}

impl Sessions {
    fn table(&self) -> MutexGuard<'_, HashMap<u64, mpsc::Sender<Bytes>>> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// `None` when there are too many.
    pub(crate) fn add(&self, id: StreamId) -> Option<Queue> {
        let mut table = self.table();
        if table.len() >= limits::SESSIONS_MAX {
            return None;
        }
        let (sender, receiver) = mpsc::channel(limits::DATAGRAMS_WAITING_MAX);
        table.insert(number(id), sender.clone());
        Some(Queue { sender, receiver })
    }

    fn remove(&self, id: StreamId) {
        self.table().remove(&number(id));
    }

    /// Hands the connection's datagrams out until it ends.
    pub(crate) async fn receive(&self, connection: &Connection) -> ConnectionError {
        loop {
            let datagram = match connection.read_datagram().await {
                Ok(datagram) => datagram,
                Err(error) => return error,
            };
            let delivered = datagram.first_chunk::<SESSION_BYTES>().is_some_and(|id| {
                let session = self.table().get(&u64::from_le_bytes(*id)).cloned();
                let payload = datagram.slice(SESSION_BYTES..);
                session.is_some_and(|session| session.try_send(payload).is_ok())
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
    link: Arc<Link>,
    id: StreamId,
    receiver: mpsc::Receiver<Bytes>,
    large: WriteHalf<QuicStream>,
    reading: JoinHandle<()>,
}

impl Datagrams {
    pub(crate) fn new(link: Arc<Link>, id: StreamId, queue: Queue, stream: QuicStream) -> Self {
        let (read, large) = tokio::io::split(stream);
        let Queue { sender, receiver } = queue;
        let reading = tokio::spawn(read_large(read, sender, Arc::clone(&link), id));
        Self { link, id, receiver, large, reading }
    }

    /// Bytes that fit into one QUIC datagram now; larger ones take the stream.
    pub fn small_bytes_max(&self) -> usize {
        let whole = self.link.connection.max_datagram_size().unwrap_or(0);
        whole.saturating_sub(SESSION_BYTES)
    }

    /// Sends one. Small ones may be lost, as with UDP; a large one waits for its stream.
    ///
    /// # Errors
    /// `EMSGSIZE` above [`limits::DATAGRAM_BYTES_MAX`]; the connection's errno when it is gone.
    pub async fn send(&mut self, payload: &[u8]) -> io::Result<()> {
        if payload.len() > limits::DATAGRAM_BYTES_MAX {
            return Err(Errno::EMSGSIZE.into());
        }
        let mut datagram = BytesMut::with_capacity(SESSION_BYTES + payload.len());
        datagram.extend_from_slice(&number(self.id).to_le_bytes());
        datagram.extend_from_slice(payload);
        match self.link.connection.send_datagram(datagram.freeze()) {
            Ok(()) => Ok(()),
            Err(SendDatagramError::ConnectionLost(error)) => {
                Err(crate::failure::of_connection(&error).into())
            }
            Err(
                SendDatagramError::TooLarge
                | SendDatagramError::UnsupportedByPeer
                | SendDatagramError::Disabled,
            ) => {
                let length = u16::try_from(payload.len()).unwrap_or(u16::MAX);
                self.large.write_all(&length.to_le_bytes()).await?;
                self.large.write_all(payload).await
            }
        }
    }

    /// Waits for one. `None` when the session has ended. Cancel-safe.
    pub async fn receive(&mut self) -> Option<Bytes> {
        self.receiver.recv().await
    }
}

impl Drop for Datagrams {
    fn drop(&mut self) {
        self.link.sessions.remove(self.id);
        // With both halves the stream is gone: reset, which ends the other side's session.
        self.reading.abort();
    }
}

/// Reads the stream; its end is the session's.
async fn read_large(
    mut stream: ReadHalf<QuicStream>,
    sender: mpsc::Sender<Bytes>,
    link: Arc<Link>,
    id: StreamId,
) {
    while let Ok(length) = stream.read_u16_le().await {
        let mut payload = vec![0; length.into()];
        if stream.read_exact(&mut payload).await.is_err() {
            break;
        }
        // Waiting here holds the sender of large datagrams up, which is better than losing them.
        if sender.send(payload.into()).await.is_err() {
            break;
        }
    }
    link.sessions.remove(id);
}
