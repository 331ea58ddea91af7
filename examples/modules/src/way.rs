//! How the example programs reach the gateway: vsock, or a Unix socket that leads there.

use std::os::fd::OwnedFd;

use outsock_vmrpc::Client;
use outsock_vmrpc::client::ConnectError;

/// A client. Where OUTSOCK_RPC_SOCKET names a Unix socket, that one is used (tests have one that leads to a virtual guest); a real guest
/// needs nothing.
pub fn client() -> Result<Client, ConnectError> {
    match std::env::var("OUTSOCK_RPC_SOCKET") {
        Ok(path) => Ok(Client::new(inherited(&path).map_err(ConnectError::Stream)?)?),
        Err(_) => Client::connect(),
    }
}

/// A connection to a Unix socket that leads to the gateway.
pub fn inherited(path: &str) -> std::io::Result<OwnedFd> {
    std::os::unix::net::UnixStream::connect(path).map(OwnedFd::from)
}
