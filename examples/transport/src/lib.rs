//! Xor: a transport of one's own in under 100 lines: every byte XOR a key, over any other transport. Its
//! wire is that of `examples/external/xor.py`. See docs/writing-a-transport.md.
#![forbid(unsafe_code)]

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use async_trait::async_trait;
use outsock_transport::*;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// The transport: a key, and what carries it.
#[derive(Clone, Debug)]
pub struct Xor(pub u8, pub Arc<dyn Transport>);

#[async_trait]
impl Transport for Xor {
    fn kind(&self) -> &'static str {
        "xor"
    }

    fn capabilities(&self) -> Capabilities {
        self.1.capabilities()
    }

    async fn dial(&self, request: DialRequest) -> Result<Dialed, DialError> {
        let dialed = self.1.dial(request).await?;
        let stream = wrap(dialed.stream, self.0).map_err(|error| DialError::from_io(&error))?;
        Ok(Dialed { stream, ..dialed })
    }

    async fn listen(&self, at: &Destination) -> Result<Box<dyn Listener>, ListenError> {
        Ok(Box::new(Door(self.0, self.1.listen(at).await?)))
    }
}

#[derive(Debug)]
struct Door(u8, Box<dyn Listener>);

#[async_trait]
impl Listener for Door {
    fn local(&self) -> Destination {
        self.1.local()
    }

    async fn accept(&mut self) -> Result<Inbound, AcceptError> {
        let inbound = self.1.accept().await?;
        let wrong = |error| AcceptError::Connection(Errno::of(&error));
        Ok(Inbound { stream: wrap(inbound.stream, self.0).map_err(wrong)?, ..inbound })
    }
}

fn wrap(stream: Stream, key: u8) -> io::Result<Stream> {
    Ok(Stream::Async(Box::pin(Wire(key, stream.into_async()?))))
}

/// Both ends are those of the stream below: dropped, shut down or reset, it says so itself.
struct Wire(u8, Pin<Box<dyn AsyncStream>>);

impl AsyncStream for Wire {
    fn reset(self: Pin<Box<Self>>, errno: Errno) {
        Pin::into_inner(self).1.reset(errno);
    }
}

impl AsyncRead for Wire {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        ready!(self.1.as_mut().poll_read(cx, buf))?;
        buf.filled_mut()[before..].iter_mut().for_each(|byte| *byte ^= self.0);
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Wire {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let changed: Vec<u8> = bytes.iter().map(|byte| byte ^ self.0).collect();
        self.1.as_mut().poll_write(cx, &changed)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.1.as_mut().poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.1.as_mut().poll_shutdown(cx)
    }
}
