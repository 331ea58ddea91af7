//! ttrpc: the RPC of container runtimes over vsock, as a measure. One service that gives the payload back.
//!
//! in: connections; out: answers. Owner: the library's threads. Its synchronous client and server are
//! used, which are threads and blocking calls as the SDK's own.

use std::collections::HashMap;
use std::io;
use std::os::fd::IntoRawFd;
use std::os::unix::net::UnixStream;
use std::path::Path;

use anyhow::Result;
use ttrpc::proto::Code;
use ttrpc::{Client, MethodHandler, Request, Response, Server, TtrpcContext, get_status};

const SERVICE: &str = "bench";
const METHOD: &str = "echo";

struct Echo;

impl MethodHandler for Echo {
    fn handler(&self, context: TtrpcContext, request: Request) -> ttrpc::Result<()> {
        let mut response = Response::new();
        response.set_status(get_status(Code::OK, ""));
        response.payload = request.payload;
        context.respond(context.mh.stream_id, response)
    }
}

/// Serves at a Unix socket for as long as the value is there.
pub(crate) fn serve(path: &Path) -> Result<Server> {
    let echo: Box<dyn MethodHandler + Send + Sync> = Box::new(Echo);
    let mut server = Server::new()
        .bind(&format!("unix://{}", path.display()))?
        .register_service(HashMap::from([(format!("/{SERVICE}/{METHOD}"), echo)]));
    server.start()?;
    Ok(server)
}

/// A client over one connection.
pub(crate) fn connect(stream: UnixStream) -> Result<Client> {
    Ok(Client::new(stream.into_raw_fd())?)
}

/// One call, there and back.
pub(crate) fn call(client: &Client, payload: &[u8]) -> io::Result<()> {
    let mut request = Request::new();
    request.service = SERVICE.to_owned();
    request.method = METHOD.to_owned();
    request.payload = payload.to_vec();
    let response = client.request(request).map_err(io::Error::other)?;
    if response.payload.len() == payload.len() {
        Ok(())
    } else {
        Err(io::ErrorKind::InvalidData.into())
    }
}
