//! The guest SDK: bind modules and call their functions over one stream.
//!
//! in: a connected stream socket (AF_VSOCK to CID 2, [`crate::limits::VMRPC_PORT`]); out: results.
//! One reader thread per [`Client`] hands replies to whoever waits for them; callers write frames
//! themselves. Any number of threads may call at once, each blocks only itself. Kept: every started
//! call ends exactly once, with a result or an error, also when the stream dies. Bound:
//! [`crate::limits::CALLS_IN_FLIGHT_MAX`].

use std::collections::HashMap;
use std::io::{Read, Write};
use std::net::Shutdown;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, mpsc};

use crate::error::{Fault, RpcError};
use crate::frame::{self, Body, Bound, CallId, Decoder, Frame};
use crate::limits;
use crate::name::{Version, VersionRange};

type Outcome = Result<Vec<u8>, RpcError>;
type Done = Box<dyn FnOnce(Outcome) + Send>;

/// A stream to the gateway's host modules. Clones share it; it closes with the last.
#[derive(Clone, Debug)]
pub struct Client {
    shared: Arc<Shared>,
}

struct Shared {
    /// Any connected stream socket: std has no type for AF_VSOCK, and this one makes only calls
    /// that every family has.
    stream: UnixStream,
    /// Held while a whole frame is written, so that frames never interleave.
    write: Mutex<()>,
    calls: Mutex<Calls>,
}

struct Calls {
    next: u32,
    /// `None` once the stream is dead: no call can start any more.
    waiting: Option<HashMap<CallId, Done>>,
}

impl std::fmt::Debug for Shared {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Shared").field("stream", &self.stream).finish_non_exhaustive()
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        // Wakes the reader thread, which holds a descriptor of its own. Fails only if already dead.
        let _ = self.stream.shutdown(Shutdown::Both);
    }
}

/// The data under the lock is whole between statements, so a panic elsewhere does not spoil it.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Client {
    /// Takes a connected stream socket, greets the host, and starts the reader thread.
    pub fn new(stream: OwnedFd) -> Result<Self, RpcError> {
        let mut reader = UnixStream::from(stream);
        let stream = reader.try_clone().map_err(|_| RpcError::Disconnected)?;
        let calls = Calls { next: 0, waiting: Some(HashMap::new()) };
        let shared = Arc::new(Shared { stream, write: Mutex::new(()), calls: Mutex::new(calls) });
        let for_reader = Arc::downgrade(&shared);
        let client = Self { shared };
        std::thread::Builder::new()
            .name("vmrpc-reader".to_owned())
            .spawn(move || {
                let mut decoder = Decoder::new();
                let mut chunk = vec![0u8; 16 * 1024];
                let error = loop {
                    match read_some(&mut reader, &mut chunk, &mut decoder) {
                        Ok(frames) => {
                            let Some(shared) = for_reader.upgrade() else { return };
                            frames.into_iter().for_each(|frame| shared.finish(frame));
                        }
                        Err(error) => break error,
                    }
                };
                if let Some(shared) = for_reader.upgrade() {
                    shared.fail_all(&error);
                }
            })
            .map_err(|_| RpcError::Disconnected)?;
        client.wait(Body::Hello(frame::PROTOCOL))?;
        Ok(client)
    }

    /// Binds a host module by name, at the highest version that both sides have.
    pub fn bind_module(&self, name: &str, versions: VersionRange) -> Result<Binding, RpcError> {
        let result = self.wait(Body::Bind { name: name.to_owned(), versions })?;
        let bound = Bound::decode(&result).map_err(|error| RpcError::Protocol(error.0))?;
        Ok(Binding { client: self.clone(), bound })
    }

    fn wait(&self, body: Body) -> Outcome {
        let (sender, receiver) = mpsc::sync_channel(1);
        self.start(body, move |outcome| {
            // The receiver waits until this arrives; it cannot be gone.
            let _ = sender.send(outcome);
        });
        receiver.recv().unwrap_or(Err(RpcError::Disconnected))
    }

    fn start(&self, body: Body, done: impl FnOnce(Outcome) + Send + 'static) {
        let call = match self.shared.enter(Box::new(done)) {
            Ok(call) => call,
            Err((done, error)) => return done(Err(error)),
        };
        let mut bytes = Vec::new();
        if (Frame { call, body }).encode(&mut bytes).is_err() {
            return self.shared.finish_call(call, Err(RpcError::ArgumentsTooLarge));
        }
        let written = {
            let _whole_frame = lock(&self.shared.write);
            (&self.shared.stream).write_all(&bytes)
        };
        if written.is_err() {
            self.shared.finish_call(call, Err(RpcError::Disconnected));
        }
    }
}

fn read_some(
    stream: &mut UnixStream,
    chunk: &mut [u8],
    decoder: &mut Decoder,
) -> Result<Vec<Frame>, RpcError> {
    let n = loop {
        match stream.read(chunk) {
            Ok(0) => return Err(RpcError::Disconnected),
            Ok(n) => break n,
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
            Err(_) => return Err(RpcError::Disconnected),
        }
    };
    decoder.push(&chunk[..n]);
    let mut frames = Vec::new();
    while let Some(frame) = decoder.next().map_err(|error| RpcError::Protocol(error.0))? {
        frames.push(frame);
    }
    Ok(frames)
}

impl Shared {
    fn enter(&self, done: Done) -> Result<CallId, (Done, RpcError)> {
        let mut calls = lock(&self.calls);
        let mut call = CallId(calls.next);
        let Some(waiting) = calls.waiting.as_mut() else {
            return Err((done, RpcError::Disconnected));
        };
        if waiting.len() >= limits::CALLS_IN_FLIGHT_MAX {
            return Err((done, RpcError::Host(Fault::TooMany)));
        }
        while waiting.contains_key(&call) {
            call = CallId(call.0.wrapping_add(1));
        }
        waiting.insert(call, done);
        calls.next = call.0.wrapping_add(1);
        Ok(call)
    }

    fn finish(&self, frame: Frame) {
        // A frame other than a reply is not for a guest; ignoring it harms nobody.
        if let Body::Reply(outcome) = frame.body {
            self.finish_call(frame.call, outcome);
        }
    }

    fn finish_call(&self, call: CallId, outcome: Outcome) {
        let done = lock(&self.calls).waiting.as_mut().and_then(|waiting| waiting.remove(&call));
        if let Some(done) = done {
            done(outcome);
        }
    }

    fn fail_all(&self, error: &RpcError) {
        let waiting = lock(&self.calls).waiting.take();
        for done in waiting.into_iter().flat_map(HashMap::into_values) {
            done(Err(error.clone()));
        }
    }
}

/// A bound host module. Dropping it unbinds it.
#[derive(Debug)]
pub struct Binding {
    client: Client,
    bound: Bound,
}

impl Binding {
    /// The version of the module's interface that the host picked.
    pub fn version(&self) -> Version {
        self.bound.version
    }

    /// Calls function number `function` and waits for its result.
    pub fn perform_rpc(&self, function: u32, arguments: &[u8]) -> Result<Vec<u8>, RpcError> {
        self.client.wait(self.call_body(function, arguments))
    }

    /// Starts a call and returns at once; `done` runs once with the outcome, on the reader thread
    /// (so it must not block or call [`Self::perform_rpc`]), or on this one when the call cannot
    /// even start.
    pub fn start_rpc(
        &self,
        function: u32,
        arguments: &[u8],
        done: impl FnOnce(Result<Vec<u8>, RpcError>) + Send + 'static,
    ) {
        self.client.start(self.call_body(function, arguments), done);
    }

    /// Gives the module back. Dropping the binding does the same and ignores the outcome.
    pub fn unbind_module(self) -> Result<(), RpcError> {
        self.client.wait(Body::Unbind(self.bound.handle)).map(drop)
    }

    fn call_body(&self, function: u32, arguments: &[u8]) -> Body {
        Body::Call { handle: self.bound.handle, function, arguments: arguments.to_vec() }
    }
}

impl Drop for Binding {
    fn drop(&mut self) {
        self.client.start(Body::Unbind(self.bound.handle), drop);
    }
}
