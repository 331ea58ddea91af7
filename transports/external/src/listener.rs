//! Listener: a process that listens, and the socket of ours that it leads connections to.
//!
//! in:  an address; out: connections that came through the process
//! owner: the task that accepts; dropped, the process ends
//! keeps: a process that died starts again on the same address; whose connections they are is not known
//!        (the contract's extended port is not spoken), so a client has no address
//! bound: like any listener of this host
//!
//! The socket is on the loopback address, as the contract wants it: other programs of this host can
//! connect to it. Who must not be let in needs TLS with client certificates above.

use std::net::{Ipv4Addr, SocketAddr};

use async_trait::async_trait;
use outsock_transport::{
    AcceptError, Destination, Errno, Inbound, ListenError, Listener, Stream, Transport,
};
use outsock_transport_direct::Direct;

use crate::guard::Guarded;
use crate::settings::{ExternalSettings, Mode};
use crate::supervisor::Supervisor;

#[derive(Debug)]
struct Door {
    inner: Box<dyn Listener>,
    at: SocketAddr,
    process: Supervisor,
}

pub(crate) async fn listen(
    settings: &ExternalSettings,
    at: SocketAddr,
) -> Result<Box<dyn Listener>, ListenError> {
    let inner = Direct.listen(&Destination::Address((Ipv4Addr::LOCALHOST, 0).into())).await?;
    let Destination::Address(to) = inner.local() else {
        return Err(ListenError::Os(Errno::EAFNOSUPPORT));
    };
    let process = Supervisor::start(settings.clone(), Mode::Server { at, to });
    match process.ready().await {
        Ok(ready) => Ok(Box::new(Door { inner, at: ready.at, process })),
        Err(why) => {
            tracing::warn!(external = settings.method, why, "cannot listen");
            Err(ListenError::Os(Errno::ENETDOWN))
        }
    }
}

#[async_trait]
impl Listener for Door {
    fn local(&self) -> Destination {
        Destination::Address(self.at)
    }

    async fn accept(&mut self) -> Result<Inbound, AcceptError> {
        let inbound = self.inner.accept().await?;
        let wrong = |errno| AcceptError::Connection(errno);
        // A process that is gone by now has reset the connection with its end.
        let ready = self.process.now().ok_or_else(|| wrong(Errno::ECONNABORTED))?;
        let stream = inbound.stream.into_async().map_err(|error| wrong(Errno::of(&error)))?;
        let stream = Stream::Async(Box::pin(Guarded::new(stream, ready.life)));
        Ok(Inbound { stream, peer: None, local: Some(self.at) })
    }
}
