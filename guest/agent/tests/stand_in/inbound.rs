//! Publishes listeners: each that is not on loopback, on a free port of 127.0.0.1.
//!
//! | Guest port | What happens |
//! |---|---|
//! | 61111 | EADDRINUSE: the place is taken |
//! | 61112 | EACCES |
//! | all others | published; the directory says where |
//!
//! The directory is a TCP server: who sends a guest port and a newline gets the address where it is
//! published, or an empty line. `all` gets the count of registered listeners.

use std::collections::{HashMap, VecDeque};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use outsock_vmrpc::Errno;
use outsock_vmrpc::host::CallError;
use outsock_vmrpc::limits::NOTICES_MAX;
use outsock_vmrpc::socket::Token;
use outsock_vmrpc::socket::inbound::{
    self as wire, ListenReply, ListenRequest, ListenerId, Notice, Notices, Refuse, Report, Unlisten,
};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Notify;

use super::{PREFACE_BYTES, SocketModule, State};

#[derive(Default)]
pub(super) struct Inbound {
    listeners: Mutex<HashMap<ListenerId, Published>>,
    notices: Mutex<VecDeque<Notice>>,
    ready: Notify,
    room: Notify,
    waiting: Mutex<HashMap<u32, tokio::task::AbortHandle>>,
    tokens: Mutex<u32>,
}

struct Published {
    request: ListenRequest,
    place: Option<SocketAddr>,
    outstanding: u32,
    task: Option<tokio::task::AbortHandle>,
}

impl Drop for Published {
    fn drop(&mut self) {
        if let Some(task) = &self.task {
            task.abort();
        }
    }
}

/// Ends the session when the agent's stream ends.
struct Session(Arc<State>);

impl Drop for Session {
    fn drop(&mut self) {
        self.0.inbound.listeners.lock().unwrap().clear();
        self.0.counters.lock().unwrap().listeners = 0;
    }
}

pub(super) async fn call(
    state: &Arc<State>,
    function: u32,
    arguments: &[u8],
) -> Result<Vec<u8>, CallError> {
    match function {
        wire::LISTEN => {
            let reply = listen(state, ListenRequest::decode(arguments)?).await;
            return reply.map(|reply| reply.encode()).map_err(CallError::Errno);
        }
        wire::UNLISTEN => {
            let unlisten = Unlisten::decode(arguments)?;
            state.inbound.listeners.lock().unwrap().remove(&unlisten.listener);
            count(state);
        }
        wire::INBOUND => {
            report(state, &Report::decode(arguments)?);
            return Ok(notices(state).await.encode());
        }
        wire::REPORT => report(state, &Report::decode(arguments)?),
        wire::ATTEND => {
            let _session = Session(Arc::clone(state));
            std::future::pending().await
        }
        wire::REFUSE => {
            let token = Refuse::decode(arguments)?.0;
            state.counters.lock().unwrap().refused += 1;
            if let Some(task) = state.inbound.waiting.lock().unwrap().remove(&token.raw()) {
                task.abort();
            }
        }
        _ => return Err(CallError::NoSuchFunction),
    }
    Ok(Vec::new())
}

fn count(state: &State) {
    let listeners = state.inbound.listeners.lock().unwrap().len();
    state.counters.lock().unwrap().listeners = listeners;
}

async fn listen(state: &Arc<State>, request: ListenRequest) -> Result<ListenReply, Errno> {
    let id = request.listener;
    let mut place = None;
    let mut task = None;
    if !request.address.ip().to_canonical().is_loopback() {
        match request.address.port() {
            61111 => return Err(Errno::EADDRINUSE),
            61112 => return Err(Errno::EACCES),
            _ => {}
        }
        let listener = TcpListener::bind("127.0.0.1:0").await.map_err(|error| Errno::of(&error))?;
        place = listener.local_addr().ok();
        task = Some(tokio::spawn(accept(Arc::clone(state), id, listener)).abort_handle());
    }
    let published = Published { request, place, outstanding: 0, task };
    state.inbound.listeners.lock().unwrap().insert(id, published);
    count(state);
    Ok(ListenReply { places: place.iter().map(ToString::to_string).collect() })
}

async fn accept(state: Arc<State>, id: ListenerId, listener: TcpListener) {
    loop {
        loop {
            let room = state.inbound.room.notified();
            let has_room = {
                let mut listeners = state.inbound.listeners.lock().unwrap();
                let Some(published) = listeners.get_mut(&id) else { return };
                published.outstanding < published.request.backlog.max(1)
            };
            if has_room {
                break;
            }
            let pause = std::time::Duration::from_millis(20);
            let _ = tokio::time::timeout(pause, room).await;
        }
        let Ok((client, peer)) = listener.accept().await else { continue };
        let local = client.local_addr().ok();
        let token = {
            let mut tokens = state.inbound.tokens.lock().unwrap();
            *tokens += 1;
            Token::from_random(0x3000_0000 + *tokens)
        };
        {
            let mut listeners = state.inbound.listeners.lock().unwrap();
            let Some(published) = listeners.get_mut(&id) else { return };
            published.outstanding += 1;
        }
        let task = tokio::spawn(serve(Arc::clone(&state), token, client));
        state.inbound.waiting.lock().unwrap().insert(token.raw(), task.abort_handle());
        let notice = Notice { token, listener: id, peer: Some(peer), local };
        state.inbound.notices.lock().unwrap().push_back(notice);
        state.inbound.ready.notify_one();
    }
}

/// Joins a client with the stream that the agent opens. Dropped, the client sees a reset.
async fn serve(state: Arc<State>, token: Token, client: TcpStream) {
    let zero = std::time::Duration::ZERO;
    #[allow(deprecated, reason = "the drop of an aborted task must reset, not close")]
    client.set_linger(Some(zero)).unwrap();
    let module = SocketModule(Arc::clone(&state));
    let Ok(mut data) = module.data_of(token).await else { return };
    state.counters.lock().unwrap().fetched += 1;
    let mut preface = vec![0u8; PREFACE_BYTES - 4];
    if data.read_exact(&mut preface).await.is_err() {
        return;
    }
    let mut client = client;
    if tokio::io::copy_bidirectional(&mut data, &mut client).await.is_ok() {
        #[allow(deprecated, reason = "as above")]
        let _ = client.set_linger(None);
    }
    state.inbound.waiting.lock().unwrap().remove(&token.raw());
}

fn report(state: &State, report: &Report) {
    let mut listeners = state.inbound.listeners.lock().unwrap();
    for (id, ended) in &report.ended {
        if let Some(published) = listeners.get_mut(id) {
            published.outstanding -= ended;
        }
    }
    state.inbound.room.notify_waiters();
}

async fn notices(state: &State) -> Notices {
    loop {
        let ready = state.inbound.ready.notified();
        {
            let mut notices = state.inbound.notices.lock().unwrap();
            let count = notices.len().min(NOTICES_MAX);
            if count > 0 {
                return Notices(notices.drain(..count).collect());
            }
        }
        ready.await;
    }
}

pub(super) async fn directory(state: Arc<State>) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((mut client, _)) = listener.accept().await {
            let mut line = String::new();
            let (read, mut write) = client.split();
            let _ = BufReader::new(read).read_line(&mut line).await;
            let answer = {
                let listeners = state.inbound.listeners.lock().unwrap();
                match line.trim().parse::<u16>() {
                    Ok(port) => {
                        let its = listeners.values();
                        let its = its.filter(|its| its.request.address.port() == port);
                        // The latest: it may follow one whose end is not known yet.
                        let its = its.max_by_key(|its| its.request.listener);
                        its.and_then(|its| its.place).map(|place| place.to_string())
                    }
                    Err(_) => Some(listeners.len().to_string()),
                }
            };
            let _ = write.write_all((answer.unwrap_or_default() + "\n").as_bytes()).await;
        }
    });
    address
}
