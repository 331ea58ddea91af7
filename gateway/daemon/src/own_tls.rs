//! Own TLS: a program that speaks TLS by itself is not wrapped in TLS again.
//!
//! in: a connection that stands, encrypted, and the first bytes of whoever speaks first; out: the pump,
//! over the encrypted stream or over a plain one to the same place that is dialled then. Owner: the
//! connection's task. Kept: the connection that proved the far side's identity stood before the program
//! was told of success, so a wrong certificate is still a connect that fails; no byte of a program that
//! does not look like TLS goes over the plain one. This recognizes programs, it does not hold them: who
//! wants to look like TLS can. Bounds: [`hello::DECIDES`] bytes, [`limits::OWN_TLS_MS`] once one has come.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use outsock_device::BridgeStream;
use outsock_transport::{AsyncStream, DialError};
use outsock_transport_tls::hello::{self, Looks};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::Instant;

use crate::encrypt::Again;
use crate::limits;
use crate::pump::{Begun, pump_on};
use crate::throttle::Throttle;

/// Whether a connection turned out to carry the program's own TLS.
pub(crate) type Own = Arc<AtomicBool>;

/// Decides, then moves bytes until the end.
pub(crate) async fn carry(
    mut guest: BridgeStream,
    mut far: Pin<Box<dyn AsyncStream>>,
    again: Again,
    own: Own,
    throttle: Option<Arc<Throttle>>,
) {
    let (begun, looks) = first_bytes(&mut guest, &mut far).await;
    if looks != Looks::ClientHello {
        return pump_on(guest, far, throttle, begun).await;
    }
    own.store(true, Ordering::Relaxed);
    // It has carried nothing: a clean end, not a reset.
    let _ = far.shutdown().await;
    drop(far);
    match again
        .dial()
        .await
        .and_then(|stream| stream.into_async().map_err(|error| DialError::from_io(&error)))
    {
        Ok(plain) => pump_on(guest, plain, throttle, begun).await,
        Err(error) => {
            tracing::debug!(%error, "a program with its own TLS: the second dial failed");
            guest.reset(error.errno());
        }
    }
}

async fn first_bytes(
    guest: &mut BridgeStream,
    far: &mut Pin<Box<dyn AsyncStream>>,
) -> (Begun, Looks) {
    let mut begun = Begun::default();
    let (mut from_guest, mut from_far) = ([0; 512], [0; 512]);
    let mut deadline = None;
    loop {
        let patience = async {
            match deadline {
                Some(deadline) => tokio::time::sleep_until(deadline).await,
                None => std::future::pending().await,
            }
        };
        // An end or an error is said again to whoever reads next.
        tokio::select! {
            read = guest.read(&mut from_guest) => match read {
                Ok(count @ 1..) => begun.from_guest.extend_from_slice(&from_guest[..count]),
                Ok(_) | Err(_) => return (begun, Looks::Other),
            },
            // In TLS the client speaks first.
            read = far.read(&mut from_far) => {
                begun.from_far.extend_from_slice(&from_far[..read.unwrap_or(0)]);
                return (begun, Looks::Other);
            }
            () = patience => return (begun, Looks::Other),
        }
        match hello::looks(&begun.from_guest) {
            Looks::Unclear => {}
            clear => return (begun, clear),
        }
        let wait = Duration::from_millis(limits::OWN_TLS_MS);
        deadline.get_or_insert_with(|| Instant::now() + wait);
    }
}
