//! Pump: bytes between a guest's bridge and a transport's async stream.
//!
//! One task per connection, two directions. Ends go through as they are: a FIN closes one half of
//! the other side, a reset or a broken side resets the other. Kept: a side's bytes are read only
//! when the other side took the ones before. Bound: [`limits::PUMP_BYTES`] per direction.

use std::pin::Pin;
use std::sync::Arc;

use outsock_device::BridgeStream;
use outsock_transport::{AsyncStream, Errno};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

use crate::limits;
use crate::throttle::Throttle;

/// Which side broke first, and how.
enum Broke {
    Guest(Errno),
    Far(Errno),
}

/// A side that can be broken off.
pub(crate) trait Side: AsyncRead + AsyncWrite + Unpin {
    /// Breaks it off.
    fn reset(self, errno: Errno);
}

impl Side for BridgeStream {
    fn reset(self, errno: Errno) {
        Self::reset(self, errno);
    }
}

impl Side for Pin<Box<dyn AsyncStream>> {
    fn reset(self, errno: Errno) {
        AsyncStream::reset(self, errno);
    }
}

/// Moves bytes until both directions have ended or one side broke, no faster than the guest's limit.
/// The near side is a guest, or the peer that stands for one.
pub(crate) async fn pump(
    guest: impl Side,
    far: Pin<Box<dyn AsyncStream>>,
    throttle: Option<Arc<Throttle>>,
) {
    pump_on(guest, far, throttle, Begun::default()).await;
}

/// What was read before, and still has to reach the other side.
#[derive(Debug, Default)]
pub(crate) struct Begun {
    pub(crate) from_guest: Vec<u8>,
    pub(crate) from_far: Vec<u8>,
}

/// The same, where somebody has looked at the first bytes.
pub(crate) async fn pump_on(
    guest: impl Side,
    far: Pin<Box<dyn AsyncStream>>,
    throttle: Option<Arc<Throttle>>,
    begun: Begun,
) {
    let throttle = throttle.as_deref();
    let (mut guest_read, mut guest_write) = tokio::io::split(guest);
    let (mut far_read, mut far_write) = tokio::io::split(far);
    let result = tokio::try_join!(
        half(&mut guest_read, &mut far_write, Broke::Guest, Broke::Far, throttle, begun.from_guest),
        half(&mut far_read, &mut guest_write, Broke::Far, Broke::Guest, throttle, begun.from_far),
    );
    let guest = guest_read.unsplit(guest_write);
    let far = far_read.unsplit(far_write);
    match result {
        Ok(_) => {}
        Err(Broke::Guest(errno)) => far.reset(errno),
        Err(Broke::Far(errno)) => {
            guest.reset(errno);
            far.reset(errno);
        }
    }
}

async fn half(
    from: &mut (impl AsyncRead + Unpin),
    to: &mut (impl AsyncWrite + Unpin),
    from_broke: fn(Errno) -> Broke,
    to_broke: fn(Errno) -> Broke,
    throttle: Option<&Throttle>,
    first: Vec<u8>,
) -> Result<(), Broke> {
    if !first.is_empty() {
        let written = async {
            to.write_all(&first).await?;
            to.flush().await
        };
        written.await.map_err(|error| to_broke(Errno::of(&error)))?;
    }
    let mut buffer = vec![0; limits::PUMP_BYTES];
    loop {
        let n = from.read(&mut buffer).await.map_err(|error| from_broke(Errno::of(&error)))?;
        if let Some(throttle) = throttle {
            throttle.pass(n).await;
        }
        let written = async {
            if n == 0 {
                return to.shutdown().await;
            }
            to.write_all(&buffer[..n]).await?;
            to.flush().await
        };
        written.await.map_err(|error| to_broke(Errno::of(&error)))?;
        if n == 0 {
            return Ok(());
        }
    }
}
