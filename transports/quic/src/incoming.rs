//! Incoming: a stream that a peer opened, before it is answered.
//!
//! in:  a header that was read; out: a stream with bytes, a session of datagrams, or a refusal
//! owner: the task that decides about it
//! keeps: dropped unanswered, the peer's dial fails with a reset
//! bound: one per stream of the peer

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;

use outsock_peer::{Bound, Open, Refusal, Reply, exchange};
use outsock_transport::{AsyncStream, Errno};
use tokio::io::AsyncWriteExt;

use crate::datagrams::{Datagrams, Sessions};
use crate::link::Link;
use crate::peer::Peer;
use crate::stream::QuicStream;

/// See the module.
#[derive(Debug)]
pub struct Incoming {
    peer: Arc<Peer>,
    link: Arc<Link>,
    open: Open,
    stream: QuicStream,
}

impl Incoming {
    pub(crate) fn new(peer: Arc<Peer>, link: Arc<Link>, open: Open, stream: QuicStream) -> Self {
        Self { peer, link, open, stream }
    }

    /// Who asks.
    pub fn peer(&self) -> &Arc<Peer> {
        &self.peer
    }

    /// What for.
    pub fn open(&self) -> &Open {
        &self.open
    }

    /// The address that the peer's packets come from.
    pub fn remote_address(&self) -> SocketAddr {
        self.link.connection.remote_address()
    }

    /// Ends when the peer has given the dial up, or is gone.
    pub fn cancelled(&mut self) -> impl Future<Output = ()> + Send + 'static {
        let stopped = self.stream.halves().0.stopped();
        async move {
            // Both outcomes mean that nobody waits.
            let _ = stopped.await;
        }
    }

    /// Says yes to a stream of bytes.
    ///
    /// # Errors
    /// The peer has given up meanwhile.
    pub async fn accept(mut self, bound: Bound) -> io::Result<Pin<Box<dyn AsyncStream>>> {
        exchange::reply(self.stream.halves().0, &Reply::Ok(bound)).await?;
        Ok(Box::pin(self.stream))
    }

    /// Says yes to a session of datagrams.
    ///
    /// # Errors
    /// The peer has given up meanwhile, or the connection has too many sessions.
    pub async fn accept_datagrams(mut self) -> io::Result<Datagrams> {
        let id = self.stream.halves().0.id();
        let Some(place) = Sessions::add(&self.link, id) else {
            self.refuse(Refusal::new(Errno::ENOBUFS, "too many sessions of datagrams")).await;
            return Err(Errno::ENOBUFS.into());
        };
        exchange::reply(self.stream.halves().0, &Reply::Ok(Bound::default())).await?;
        Ok(Datagrams::new(place, self.stream))
    }

    /// Says no.
    pub async fn refuse(self, refusal: Refusal) {
        refuse(self.stream, refusal).await;
    }
}

pub(crate) async fn refuse(mut stream: QuicStream, refusal: Refusal) {
    let reply = Reply::Refused(refusal);
    if exchange::reply(stream.halves().0, &reply).await.is_ok() {
        // Dropped after its FIN, the stream's reply still arrives.
        let _ = stream.shutdown().await;
    }
}
