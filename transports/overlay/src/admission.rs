//! Admission: the first stream of every connection, before any other protocol is answered.
//!
//! in:  a connection whose peer has proved its key (noise, TLS), over TCP, QUIC or a relay
//! out: the same connection, or an error: the swarm never sees a connection to a stranger
//! owner: the connection's handshake
//! keeps: both sides name their network and show what it asks for; who belongs to another network, or
//!        shows nothing, is told so and cut. The dialling side speaks first, so a gateway shows its
//!        certificate only to whom has shown one
//! bound: [`limits::ADMISSION_BYTES_MAX`], [`limits::HANDSHAKE_TIMEOUT`]
//!
//! On the wire: the dialling side's hello and its end; then `1` and the other side's hello, or `2` and a
//! reason, and the end.

use std::fmt;
use std::future::poll_fn;
use std::io;
use std::pin::pin;
use std::sync::Arc;
use std::task::Poll;

use futures::{AsyncReadExt as _, AsyncWriteExt as _};
use libp2p::PeerId;
use libp2p::core::muxing::{StreamMuxerBox, StreamMuxerExt as _, SubstreamBox};
use libp2p::core::{ConnectedPoint, Endpoint};
use outsock_peer::PeerKey;

use crate::key::peer_key;
use crate::limits;

/// How an error begins that is a gate's word.
pub(crate) const NOT_ADMITTED: &str = "not admitted to the network";

const ADMITTED: u8 = 1;
const REFUSED: u8 = 2;

/// What a network asks of its members.
pub trait Gate: fmt::Debug + Send + Sync + 'static {
    /// What this gateway shows.
    fn hello(&self) -> Vec<u8>;

    /// Looks at what a peer shows.
    ///
    /// # Errors
    /// Why it is no member, without any secret: the peer is told.
    fn admit(&self, hello: &[u8], key: &PeerKey) -> Result<(), String>;
}

/// Has both sides show themselves. For `Transport::and_then`.
pub(crate) async fn admit(
    gate: Arc<dyn Gate>,
    (peer, mut muxer): (PeerId, StreamMuxerBox),
    point: ConnectedPoint,
) -> io::Result<(PeerId, StreamMuxerBox)> {
    let key = peer_key(&peer).ok_or_else(|| refused("its key is not an Ed25519 key"))?;
    if is_dialer(&point) {
        let stream = substream(&mut muxer, true).await?;
        let talk = ask(&*gate, &key, stream);
        driven(&mut muxer, talk).await?;
    } else {
        let stream = substream(&mut muxer, false).await?;
        let talk = answer(&*gate, &key, stream);
        driven(&mut muxer, talk).await?;
    }
    Ok((peer, muxer))
}

/// A hole punch has two sides that dial; they have agreed who plays the listener.
fn is_dialer(point: &ConnectedPoint) -> bool {
    match point {
        ConnectedPoint::Dialer { role_override: Endpoint::Dialer, .. } => true,
        ConnectedPoint::Dialer { role_override: Endpoint::Listener, .. }
        | ConnectedPoint::Listener { .. } => false,
    }
}

async fn ask(gate: &dyn Gate, key: &PeerKey, stream: SubstreamBox) -> io::Result<()> {
    let (receive, mut send) = stream.split();
    let hello = gate.hello();
    let say = async {
        send.write_all(&hello).await?;
        send.close().await
    };
    // A peer that refuses may end the stream before it has read all.
    let (_, heard) = futures::future::join(say, all(receive)).await;
    let heard = heard?;
    match heard.split_first() {
        Some((&ADMITTED, hello)) => gate.admit(hello, key).map_err(|text| refused(&text)),
        Some((&REFUSED, reason)) => {
            let reason = String::from_utf8_lossy(reason);
            let reason: String = reason.chars().flat_map(char::escape_debug).take(200).collect();
            Err(refused(&format!("it says: {reason}")))
        }
        Some(_) | None => Err(refused("it does not speak this protocol")),
    }
}

async fn answer(gate: &dyn Gate, key: &PeerKey, stream: SubstreamBox) -> io::Result<()> {
    let (receive, mut send) = stream.split();
    let hello = all(receive).await?;
    let verdict = gate.admit(&hello, key);
    let reply = match &verdict {
        Ok(()) => [&[ADMITTED], &*gate.hello()].concat(),
        Err(reason) => [&[REFUSED], reason.as_bytes()].concat(),
    };
    send.write_all(&reply).await?;
    send.close().await?;
    if let Err(reason) = verdict {
        // What closes now takes the reason with it: it gets a moment to arrive.
        tokio::time::sleep(limits::REFUSAL_TIME).await;
        return Err(refused(&reason));
    }
    Ok(())
}

async fn all(receive: impl futures::AsyncRead + Unpin) -> io::Result<Vec<u8>> {
    let mut heard = Vec::new();
    receive.take(limits::ADMISSION_BYTES_MAX + 1).read_to_end(&mut heard).await?;
    if heard.len() as u64 > limits::ADMISSION_BYTES_MAX {
        return Err(refused("its first message is too long"));
    }
    Ok(heard)
}

fn refused(text: &str) -> io::Error {
    io::Error::new(io::ErrorKind::PermissionDenied, format!("{NOT_ADMITTED}: {text}"))
}

async fn substream(muxer: &mut StreamMuxerBox, ours: bool) -> io::Result<SubstreamBox> {
    poll_fn(|cx| {
        let stream =
            if ours { muxer.poll_outbound_unpin(cx) } else { muxer.poll_inbound_unpin(cx) };
        match stream {
            Poll::Ready(stream) => Poll::Ready(stream),
            Poll::Pending => progress(muxer, cx),
        }
    })
    .await
}

/// A stream moves only while its connection is polled.
async fn driven<T>(
    muxer: &mut StreamMuxerBox,
    talk: impl Future<Output = io::Result<T>>,
) -> io::Result<T> {
    let mut talk = pin!(talk);
    poll_fn(|cx| match talk.as_mut().poll(cx) {
        Poll::Ready(outcome) => Poll::Ready(outcome),
        Poll::Pending => progress(muxer, cx),
    })
    .await
}

fn progress<T>(muxer: &mut StreamMuxerBox, cx: &mut std::task::Context<'_>) -> Poll<io::Result<T>> {
    match muxer.poll_unpin(cx) {
        Poll::Ready(Ok(_)) => {
            // The peer's address changed, or so; there may be more.
            cx.waker().wake_by_ref();
            Poll::Pending
        }
        Poll::Ready(Err(error)) => Poll::Ready(Err(error)),
        Poll::Pending => Poll::Pending,
    }
}
