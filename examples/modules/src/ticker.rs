//! `ticker`, version 1: an event queue both ways. The module ticks; the guest says how fast.

use std::time::Duration;

use outsock_vmrpc::host::{CallError, Caller, HostModule};
use outsock_vmrpc::{Errno, EventQueue, ModuleName, Version, VersionRange};

/// The module's name.
pub const NAME: &str = "ticker";
/// Its versions.
pub const VERSIONS: VersionRange = VersionRange::only(Version(1));

/// Function 1: start a ticker. Arguments: milliseconds between two ticks, 32 bits, 1 at least. The
/// result is the ticket of an event queue. Events to the guest: a tick's number, 64 bits, from 0.
/// Events from the guest: other milliseconds, 32 bits; the next tick comes at once.
pub const START: u32 = 1;

/// Bytes of each direction of the queue.
const QUEUE_BYTES: u32 = 64 * 1024;

/// The module. It has no state of its own: a ticker lives as long as its queue.
#[derive(Debug, Default)]
pub struct Ticker;

fn interval(bytes: &[u8]) -> Option<Duration> {
    let ms = u32::from_le_bytes(bytes.try_into().ok()?);
    (ms > 0).then(|| Duration::from_millis(u64::from(ms)))
}

#[async_trait::async_trait]
impl HostModule for Ticker {
    fn name(&self) -> ModuleName {
        NAME.parse().unwrap_or_else(|error| unreachable!("a constant: {error}"))
    }

    fn versions(&self) -> VersionRange {
        VERSIONS
    }

    async fn call(
        &self,
        caller: &Caller,
        _: Version,
        function: u32,
        arguments: Vec<u8>,
    ) -> Result<Vec<u8>, CallError> {
        if function != START {
            return Err(CallError::NoSuchFunction);
        }
        let every = interval(&arguments).ok_or(CallError::BadArguments)?;
        let queue = caller.make_ev_queue(QUEUE_BYTES);
        let queue = queue.map_err(|_| CallError::Errno(Errno::ENOBUFS))?;
        let ticket = queue.ticket().encode();
        tokio::spawn(tick(queue, every));
        Ok(ticket)
    }
}

/// Ends with the queue. A guest that takes no ticks misses some, it does not hold the ticker up.
async fn tick(queue: EventQueue, mut every: Duration) {
    for number in 0u64.. {
        if queue.put_event(&number.to_le_bytes()).is_err() {
            return;
        }
        match tokio::time::timeout(every, queue.get_event_async()).await {
            Ok(Ok(event)) => every = interval(&event).unwrap_or(every),
            Ok(Err(_)) => return,
            Err(_late) => {}
        }
    }
}
