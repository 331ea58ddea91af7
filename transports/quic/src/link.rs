//! Link: one QUIC connection between two gateways.
//!
//! in:  an authenticated connection; out: the peer's streams, as [`Incoming`]; its control messages
//! owner: the peer's list; one task per link serves it until the connection ends
//! keeps: a link counts only after both sides have greeted each other, so that a gateway that refuses
//!        our key in the last step of the handshake is not taken for a working one
//! bound: the connection's stream limit, [`limits::OPENS_PER_SECOND`], [`limits::OPEN_TIMEOUT`] of the
//!        protocol for each header

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use outsock_peer::limits::HOPS_MAX;
use outsock_peer::{Control, ExchangeError, Refusal, exchange};
use outsock_transport::{DialError, Errno};
use quinn::{Connection, RecvStream, SendStream, Side};
use tokio::task::JoinSet;

use crate::datagrams::Sessions;
use crate::failure::{self, CLOSE_PROTOCOL};
use crate::incoming::Incoming;
use crate::limits;
use crate::peer::Peer;
use crate::stream::{Counted, QuicStream};
use crate::tuning::Rate;

/// See the module.
#[derive(Debug)]
pub(crate) struct Link {
    pub(crate) connection: Connection,
    pub(crate) began: Instant,
    /// The peer's life, as it said.
    pub(crate) life: u64,
    pub(crate) sessions: Sessions,
    pub(crate) opened_by_peer: AtomicU64,
    pub(crate) refused: AtomicU64,
    control: Mutex<Option<SendStream>>,
    streams: Counted,
    draining: AtomicBool,
    opens: Rate,
    log: Rate,
}

impl Link {
    /// Greets, and waits for the peer's greeting. The rest of its control stream is for [`Link::serve`].
    pub(crate) async fn greet(
        connection: Connection,
        our_life: u64,
    ) -> Result<(Arc<Self>, RecvStream), DialError> {
        let lost = |error: &quinn::ConnectionError| failure::of_handshake(error);
        let greeting = async {
            let mut ours = connection.open_uni().await.map_err(|error| lost(&error))?;
            let hello = Control::Hello { life: our_life }.encode();
            // A failure shows in what the peer says, or that it says nothing.
            let _ = ours.write_all(&hello).await;
            let mut theirs = connection.accept_uni().await.map_err(|error| lost(&error))?;
            let greeted = Control::read(&mut theirs).await;
            Ok::<_, DialError>((ours, greeted, theirs))
        };
        let (ours, greeted, theirs) = tokio::time::timeout(limits::HANDSHAKE_TIMEOUT, greeting)
            .await
            .map_err(|_| DialError::HostUnreachable)??;
        let life = match greeted {
            Ok(Control::Hello { life }) => life,
            Ok(Control::Drain) => return Err(DialError::NetworkDown),
            Err(error) => {
                let reason = connection.close_reason();
                connection.close(CLOSE_PROTOCOL.into(), b"no greeting");
                return Err(match reason {
                    Some(reason) => failure::of_handshake(&reason),
                    None => DialError::PeerMisbehaved(format!("no greeting: {error}")),
                });
            }
        };
        let link = Self {
            connection,
            began: Instant::now(),
            life,
            sessions: Sessions::default(),
            opened_by_peer: AtomicU64::new(0),
            refused: AtomicU64::new(0),
            control: Mutex::new(Some(ours)),
            streams: Arc::new(()),
            draining: AtomicBool::new(false),
            opens: Rate::new(limits::OPENS_PER_SECOND, limits::OPENS_PER_SECOND),
            log: Rate::for_log(),
        };
        Ok((Arc::new(link), theirs))
    }

    /// Whether we dialled it.
    pub(crate) fn is_ours(&self) -> bool {
        self.connection.side() == Side::Client
    }

    /// Streams that are not over.
    pub(crate) fn streams(&self) -> usize {
        Arc::strong_count(&self.streams) - 1
    }

    pub(crate) fn count(&self) -> Counted {
        Arc::clone(&self.streams)
    }

    /// Whether the peer takes new streams over it.
    pub(crate) fn is_open(&self) -> bool {
        !self.draining.load(Ordering::Acquire) && self.connection.close_reason().is_none()
    }

    /// Tells the peer to open no more streams.
    pub(crate) async fn say_drain(&self) {
        let control = self.control.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(mut control) = control {
            // A peer that is gone opens none anyway.
            let _ = control.write_all(&Control::Drain.encode()).await;
            *self.control.lock().unwrap_or_else(PoisonError::into_inner) = Some(control);
        }
    }

    /// Serves the peer until the connection ends.
    pub(crate) async fn serve(self: Arc<Self>, peer: Arc<Peer>, control: RecvStream) {
        let mut streams = JoinSet::new();
        let listening = self.listen(control);
        let datagrams = self.sessions.receive(&self.connection);
        tokio::pin!(listening, datagrams);
        let error = loop {
            tokio::select! {
                stream = self.connection.accept_bi() => match stream {
                    Ok((send, receive)) => {
                        self.opened_by_peer.fetch_add(1, Ordering::Relaxed);
                        let stream = QuicStream::new(send, receive, self.count());
                        let (link, peer) = (Arc::clone(&self), Arc::clone(&peer));
                        streams.spawn(async move { link.header(&peer, stream).await });
                    }
                    Err(error) => break error,
                },
                Some(_) = streams.join_next() => {}
                error = &mut datagrams => break error,
                () = &mut listening => {}
            }
        };
        tracing::info!(peer = %peer.name(), %error, "connection to a peer ended");
    }

    /// Hears the peer's control messages; never ends before the connection does.
    async fn listen(&self, mut control: RecvStream) {
        loop {
            match Control::read(&mut control).await {
                Ok(Control::Drain) => self.draining.store(true, Ordering::Release),
                Ok(Control::Hello { .. }) => {}
                Err(_) => break,
            }
        }
        std::future::pending::<()>().await;
    }

    /// Reads one header and hands the stream on.
    async fn header(self: &Arc<Self>, peer: &Arc<Peer>, mut stream: QuicStream) {
        let refusal = if peer.is_draining() {
            Refusal::new(Errno::ENETDOWN, "the gateway is about to end")
        } else if self.opens.admit().is_none() {
            Refusal::new(Errno::EAGAIN, "too many streams in too short a time")
        } else {
            match exchange::accept(stream.halves().1).await {
                Ok(open) if open.hops > HOPS_MAX => {
                    Refusal::new(Errno::ELOOP, "the routes lead in a circle: too many gateways")
                }
                Ok(open) => {
                    let incoming = Incoming::new(Arc::clone(peer), Arc::clone(self), open, stream);
                    return self.hand_on(peer, incoming).await;
                }
                // It gave the dial up, or is gone.
                Err(ExchangeError::Broken(_)) => return,
                Err(error) => match error.refusal() {
                    Some(refusal) => refusal,
                    None => return,
                },
            }
        };
        self.note(peer, &refusal);
        crate::incoming::refuse(stream, refusal).await;
    }

    async fn hand_on(&self, peer: &Arc<Peer>, incoming: Incoming) {
        if let Some(place) = peer.place().await {
            return place.send(Box::new(incoming));
        }
        let refusal = Refusal::new(Errno::EAGAIN, "the gateway has too many streams to look at");
        self.note(peer, &refusal);
        incoming.refuse(refusal).await;
    }

    fn note(&self, peer: &Peer, refusal: &Refusal) {
        self.refused.fetch_add(1, Ordering::Relaxed);
        if let Some(left_out) = self.log.admit() {
            let reason = &refusal.reason;
            tracing::warn!(peer = %peer.name(), left_out, reason, "refused a peer's stream");
        }
    }
}
