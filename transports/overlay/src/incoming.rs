//! Incoming: a stream that a peer opened, before it is answered.
//!
//! in:  a header that was read; out: a stream with bytes, or a refusal
//! owner: the task that decides about it
//! keeps: dropped unanswered, the peer's dial fails with a reset
//! bound: one per stream of the peer

use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::Poll;

use outsock_peer::{Bound, Framed, Open, PeerKey, Refusal, Reply, exchange};
use outsock_transport::{AsyncStream, Errno};
use tokio::io::{AsyncRead as _, AsyncWriteExt as _, ReadBuf};
use tokio::sync::Semaphore;

use crate::carried::Carried;
use crate::limits;

/// See the module.
#[derive(Debug)]
pub struct Incoming {
    key: PeerKey,
    open: Open,
    /// Shared with who waits for the peer to give up; taken when it is answered.
    stream: Arc<Mutex<Option<Carried>>>,
}

impl Incoming {
    pub(crate) fn new(key: PeerKey, open: Open, stream: Carried) -> Self {
        Self { key, open, stream: Arc::new(Mutex::new(Some(stream))) }
    }

    /// Who asks.
    pub fn key(&self) -> &PeerKey {
        &self.key
    }

    /// What for.
    pub fn open(&self) -> &Open {
        &self.open
    }

    fn take(&self) -> io::Result<Carried> {
        let stream = self.stream.lock().unwrap_or_else(PoisonError::into_inner).take();
        stream.ok_or_else(|| Errno::ECONNRESET.into())
    }

    /// Ends when the peer has given the dial up, or is gone.
    pub fn cancelled(&self) -> impl Future<Output = ()> + Send + 'static {
        let stream = Arc::clone(&self.stream);
        poll_fn(move |cx| {
            let mut stream = stream.lock().unwrap_or_else(PoisonError::into_inner);
            let Some(stream) = stream.as_mut() else { return Poll::Pending };
            // Nobody sends before the reply: whatever comes is the end.
            let mut byte = [0];
            Pin::new(stream).poll_read(cx, &mut ReadBuf::new(&mut byte)).map(|_| ())
        })
    }

    /// Says yes.
    ///
    /// # Errors
    /// The peer has given up meanwhile.
    pub async fn accept(self, bound: Bound) -> io::Result<Pin<Box<dyn AsyncStream>>> {
        let mut stream = self.take()?;
        exchange::reply(&mut stream, &Reply::Ok(bound)).await?;
        Ok(Box::pin(Framed::new(stream)))
    }

    /// Says no.
    pub async fn refuse(self, refusal: Refusal) {
        if let Ok(stream) = self.take() {
            refuse(stream, refusal).await;
        }
    }
}

/// Says no, and gives the answer a moment to arrive.
pub(crate) async fn refuse(mut stream: Carried, refusal: Refusal) {
    let say = async {
        if exchange::reply(&mut stream, &Reply::Refused(refusal)).await.is_ok() {
            // Dropped after its end, the stream's reply still arrives.
            let _ = stream.shutdown().await;
        }
    };
    let _ = tokio::time::timeout(limits::NEGOTIATION_TIMEOUT, say).await;
}

/// The same from where nobody can wait.
pub(crate) fn refuse_in_a_hurry(places: &Arc<Semaphore>, stream: Carried, text: &str) {
    let Ok(place) = Arc::clone(places).try_acquire_owned() else { return };
    let refusal = Refusal::new(Errno::EAGAIN, text);
    tokio::spawn(async move {
        refuse(stream, refusal).await;
        drop(place);
    });
}
