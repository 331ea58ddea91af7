//! Exchange: how a header and its reply travel, over any pair of byte streams.
//!
//! in:  the two halves of a carrier's stream
//! out: the peer's header, or its reply
//! owner: the task that opens or serves the stream
//! keeps: not one byte beyond the message is read, so the payload may follow at once
//! bound: [`limits::OPEN_BYTES_MAX`], [`limits::REPLY_BYTES_MAX`], [`limits::OPEN_TIMEOUT`]

use std::io;

use outsock_transport::{DialError, Errno};
use outsock_vmrpc::wire::Malformed;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

use crate::limits;
use crate::open::{Open, OpenError};
use crate::reply::{Bound, Refusal, Reply};

/// Why a header or reply did not come.
#[derive(Debug, thiserror::Error)]
pub enum ExchangeError {
    /// The header is none; the refusal to send is [`ExchangeError::refusal`].
    #[error(transparent)]
    Open(#[from] OpenError),
    /// The reply is none.
    #[error("the peer's reply is malformed: {0}")]
    Reply(Malformed),
    /// The stream broke.
    #[error("the peer's stream broke: {0}")]
    Broken(io::Error),
    /// The stream stood still.
    #[error("the peer began a stream and did not say what for")]
    Silent,
}

impl ExchangeError {
    /// What to answer, where an answer can still be read.
    pub fn refusal(&self) -> Option<Refusal> {
        match self {
            Self::Open(OpenError::Version(_)) => {
                Some(Refusal::new(Errno::EPROTONOSUPPORT, self.to_string()))
            }
            Self::Open(_) => Some(Refusal::new(Errno::EPROTO, self.to_string())),
            Self::Silent => Some(Refusal::new(Errno::ETIMEDOUT, self.to_string())),
            Self::Reply(_) | Self::Broken(_) => None,
        }
    }
}

/// Asks: sends a header and waits for the reply. The caller sets the time limit.
pub async fn ask(
    send: &mut (impl AsyncWrite + Unpin),
    receive: &mut (impl AsyncRead + Unpin),
    open: &Open,
) -> Result<Bound, DialError> {
    let broken = |error: &io::Error| match Errno::of(error) {
        Errno::ECONNRESET | Errno::EPIPE => DialError::Reset,
        errno => DialError::of_errno(errno),
    };
    send.write_all(&open.encode()).await.map_err(|error| broken(&error))?;
    send.flush().await.map_err(|error| broken(&error))?;
    let (_, body) = match message(receive, limits::REPLY_BYTES_MAX).await {
        Ok(Ok(message)) => message,
        Ok(Err(length)) => {
            let text = format!("a reply of {length} bytes is too long");
            return Err(DialError::PeerMisbehaved(text));
        }
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => {
            return Err(DialError::PeerMisbehaved("it ended a stream without a reply".to_owned()));
        }
        Err(error) => return Err(broken(&error)),
    };
    match Reply::decode(&body) {
        Ok(Reply::Ok(bound)) => Ok(bound),
        Ok(Reply::Refused(refusal)) => Err(refusal.into()),
        Err(error) => Err(DialError::PeerMisbehaved(error.to_string())),
    }
}

/// Accepts: reads the header of a stream that the peer opened.
pub async fn accept(receive: &mut (impl AsyncRead + Unpin)) -> Result<Open, ExchangeError> {
    let header = message(receive, limits::OPEN_BYTES_MAX);
    let header = tokio::time::timeout(limits::OPEN_TIMEOUT, header).await;
    let (version, body) = header
        .map_err(|_| ExchangeError::Silent)?
        .map_err(ExchangeError::Broken)?
        .map_err(OpenError::TooLong)?;
    Ok(Open::decode(version, &body)?)
}

/// Sends a reply.
pub async fn reply(send: &mut (impl AsyncWrite + Unpin), reply: &Reply) -> io::Result<()> {
    send.write_all(&reply.encode()).await?;
    send.flush().await
}

/// Version and body of one message; or its length, when that is over the limit.
pub(crate) async fn message(
    receive: &mut (impl AsyncRead + Unpin),
    bytes_max: usize,
) -> io::Result<Result<(u8, Vec<u8>), usize>> {
    let mut prefix = [0; 3];
    receive.read_exact(&mut prefix).await?;
    let [version, low, high] = prefix;
    let length = usize::from(u16::from_le_bytes([low, high]));
    if length > bytes_max {
        return Ok(Err(length));
    }
    let mut body = vec![0; length];
    receive.read_exact(&mut body).await?;
    Ok(Ok((version, body)))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use tokio::io::duplex;

    use super::*;
    use crate::open::{StreamKind, Target};

    fn open() -> Open {
        Open {
            kind: StreamKind::Stream,
            hops: 1,
            trace: 7,
            origin: "web".to_owned(),
            target: Target::Service { name: "db".to_owned(), port: 5432 },
        }
    }

    #[tokio::test]
    async fn a_stream_opens_and_bytes_may_follow_at_once() {
        let (mut near, mut far) = duplex(64);
        let served = tokio::spawn(async move {
            let asked = accept(&mut far).await.unwrap();
            reply(&mut far, &Reply::Ok(Bound::default())).await.unwrap();
            far.write_all(b"early").await.unwrap();
            asked
        });
        let (mut receive, mut send) = tokio::io::split(&mut near);
        assert_eq!(ask(&mut send, &mut receive, &open()).await, Ok(Bound::default()));
        let mut text = [0; 5];
        receive.read_exact(&mut text).await.unwrap();
        assert_eq!(&text, b"early");
        assert_eq!(served.await.unwrap(), open());
    }

    #[tokio::test]
    async fn another_version_is_refused_by_name() {
        let (mut near, mut far) = duplex(256);
        let served = tokio::spawn(async move {
            let error = accept(&mut far).await.unwrap_err();
            let refusal = error.refusal().unwrap();
            reply(&mut far, &Reply::Refused(refusal)).await.unwrap();
        });
        let mut bytes = open().encode();
        bytes[0] = 9;
        near.write_all(&bytes).await.unwrap();
        let (_, body) = message(&mut near, limits::REPLY_BYTES_MAX).await.unwrap().unwrap();
        let Ok(Reply::Refused(refusal)) = Reply::decode(&body) else { panic!("a refusal") };
        assert_eq!(refusal.errno, Errno::EPROTONOSUPPORT);
        assert!(refusal.reason.contains("version 9"), "{}", refusal.reason);
        served.await.unwrap();
    }

    #[tokio::test(start_paused = true)]
    async fn silence_ends() {
        let (_near, mut far) = duplex(64);
        let error = accept(&mut far).await.unwrap_err();
        assert!(matches!(error, ExchangeError::Silent), "{error}");
    }

    proptest! {
        #[test]
        fn any_bytes_end_in_a_header_or_an_error(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
            runtime.block_on(async {
                let _ = accept(&mut &bytes[..]).await;
                let _ = ask(&mut tokio::io::sink(), &mut &bytes[..], &open()).await;
            });
        }
    }
}
