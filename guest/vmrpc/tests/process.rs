//! A host module in a process of its own: calls, queues, its death and its return.
#![cfg(feature = "host")]
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::time::Duration;

use outsock_vmrpc::host::{
    CallError, Caller, HostModule, LinkError, ModuleError, ProcessModule, ProcessSlot, Registry,
    run_module, serve,
};
use outsock_vmrpc::{
    Binding, Client, Errno, Fault, ModuleName, QueueError, RpcError, Ticket, Version, VersionRange,
};
use tokio::task::JoinHandle;

const ECHO: u32 = 1;
const FAIL: u32 = 2;
const NEVER: u32 = 3;
const QUEUE: u32 = 4;
const WHO: u32 = 5;
const PATIENCE: Option<Duration> = Some(Duration::from_secs(60));

struct Module(VersionRange);

#[async_trait::async_trait]
impl HostModule for Module {
    fn name(&self) -> ModuleName {
        "far".parse().unwrap()
    }

    fn versions(&self) -> VersionRange {
        self.0
    }

    async fn call(
        &self,
        caller: &Caller,
        version: Version,
        function: u32,
        arguments: Vec<u8>,
    ) -> Result<Vec<u8>, CallError> {
        match function {
            ECHO => Ok(arguments),
            FAIL => Err(CallError::Errno(Errno::ENOENT)),
            NEVER => std::future::pending().await,
            WHO => Ok(format!("{} {} {version}", caller.guest, caller.cid).into_bytes()),
            QUEUE => {
                let queue = caller.make_ev_queue(4096).map_err(|_| CallError::TooMany)?;
                let ticket = queue.ticket().encode();
                tokio::spawn(async move {
                    while let Ok(event) = queue.get_event_async().await {
                        let _ = queue.put_event_async(&event).await;
                    }
                });
                Ok(ticket)
            }
            _ => Err(CallError::NoSuchFunction),
        }
    }
}

struct World {
    runtime: tokio::runtime::Runtime,
    registry: Registry,
    slot: ProcessSlot,
}

impl World {
    fn new() -> Self {
        let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
        let registry = Registry::new();
        let (module, slot) = ProcessModule::new("far".parse().unwrap());
        registry.register_hm(module).unwrap();
        Self { runtime, registry, slot }
    }

    /// A process; aborting the first task kills it.
    #[expect(clippy::type_complexity, reason = "two tasks")]
    fn process(
        &self,
        versions: VersionRange,
    ) -> (JoinHandle<Result<(), ModuleError>>, JoinHandle<Result<(), LinkError>>) {
        let (ours, theirs) = tokio::io::duplex(1 << 16);
        let slot = self.slot.clone();
        let link = self.runtime.spawn(async move { slot.serve(ours).await });
        (self.runtime.spawn(run_module(theirs, Arc::new(Module(versions)))), link)
    }

    fn guest(&self) -> Client {
        let (guest, host) = UnixStream::pair().unwrap();
        host.set_nonblocking(true).unwrap();
        let registry = self.registry.clone();
        self.runtime.spawn(async move {
            let host = tokio::net::UnixStream::from_std(host).unwrap();
            serve(host, &registry, Caller::new("web", 3)).await
        });
        Client::new(OwnedFd::from(guest)).unwrap()
    }

    /// Binds once the process is there.
    fn bind(client: &Client) -> Binding {
        loop {
            match client.bind_module("far", versions(1, 9)) {
                Err(RpcError::Host(Fault::ModuleUnavailable)) => std::thread::yield_now(),
                outcome => return outcome.unwrap(),
            }
        }
    }
}

fn versions(first: u16, last: u16) -> VersionRange {
    VersionRange::new(Version(first), Version(last)).unwrap()
}

#[test]
fn a_process_serves_calls_and_queues() {
    let world = World::new();
    let client = world.guest();
    let away = client.bind_module("far", versions(1, 9)).unwrap_err();
    assert_eq!(away, RpcError::Host(Fault::ModuleUnavailable));
    let (_process, _link) = world.process(versions(2, 3));
    let far = World::bind(&client);
    assert_eq!(far.version(), Version(3));
    assert_eq!(far.perform_rpc(WHO, b"").unwrap(), b"web 3 3");
    let big = vec![7; outsock_vmrpc::limits::PAYLOAD_BYTES_MAX];
    assert_eq!(far.perform_rpc(ECHO, &big).unwrap(), big);
    assert_eq!(far.perform_rpc(FAIL, b""), Err(RpcError::Function(Errno::ENOENT)));
    assert_eq!(far.perform_rpc(99, b""), Err(RpcError::Host(Fault::NoSuchFunction)));
    let ticket = Ticket::decode(&far.perform_rpc(QUEUE, b"").unwrap()).unwrap();
    let queue = far.open_ev_queue(ticket).unwrap();
    for i in 0..2000u32 {
        queue.put_event_wait(&i.to_le_bytes(), PATIENCE).unwrap();
        assert_eq!(queue.get_event_wait(PATIENCE).unwrap(), i.to_le_bytes());
    }
}

#[test]
fn its_death_is_named_and_its_return_goes_unnoticed() {
    let world = World::new();
    let client = world.guest();
    let (process, link) = world.process(versions(1, 3));
    let far = World::bind(&client);
    let (sender, outcomes) = std::sync::mpsc::sync_channel(64);
    for _ in 0..64 {
        let sender = sender.clone();
        far.start_rpc(NEVER, b"", move |outcome| sender.send(outcome).unwrap());
    }
    let ticket = Ticket::decode(&far.perform_rpc(QUEUE, b"").unwrap()).unwrap();
    let queue = far.open_ev_queue(ticket).unwrap();
    process.abort();
    for _ in 0..64 {
        let outcome = outcomes.recv().unwrap();
        assert_eq!(outcome, Err(RpcError::Host(Fault::ModuleUnavailable)));
    }
    assert_eq!(queue.get_event_wait(PATIENCE), Err(QueueError::ModuleGone));
    let _ = world.runtime.block_on(link);
    assert_eq!(far.perform_rpc(ECHO, b"x"), Err(RpcError::Host(Fault::ModuleUnavailable)));

    // The binding stays; a process that serves its version goes on.
    let (process, link) = world.process(versions(1, 2));
    let older = loop {
        match far.perform_rpc(ECHO, b"x") {
            Err(RpcError::Host(Fault::ModuleUnavailable)) => std::thread::yield_now(),
            outcome => break outcome,
        }
    };
    assert_eq!(older, Err(RpcError::Host(Fault::UnsupportedVersion)));
    process.abort();
    let _ = world.runtime.block_on(link);
    let (_process, _link) = world.process(versions(3, 4));
    let again = loop {
        match far.perform_rpc(WHO, b"") {
            Err(RpcError::Host(Fault::ModuleUnavailable)) => std::thread::yield_now(),
            outcome => break outcome,
        }
    };
    assert_eq!(again.unwrap(), b"web 3 3");
    let ticket = Ticket::decode(&far.perform_rpc(QUEUE, b"").unwrap()).unwrap();
    let queue = far.open_ev_queue(ticket).unwrap();
    queue.put_event_wait(b"back", PATIENCE).unwrap();
    assert_eq!(queue.get_event_wait(PATIENCE).unwrap(), b"back");
}

#[test]
fn a_second_process_and_a_wrong_name_are_refused_by_name() {
    let world = World::new();
    let (_first, _link) = world.process(versions(1, 1));
    World::bind(&world.guest());
    let (second, _link) = world.process(versions(1, 1));
    let refused = world.runtime.block_on(second).unwrap().unwrap_err();
    assert!(refused.to_string().contains("another process"), "{refused}");
    let (other, slot) = ProcessModule::new("other".parse().unwrap());
    world.registry.register_hm(other).unwrap();
    let (ours, theirs) = tokio::io::duplex(1 << 16);
    let link = world.runtime.spawn(async move { slot.serve(ours).await });
    let module = run_module(theirs, Arc::new(Module(versions(1, 1))));
    let refused = world.runtime.block_on(module).unwrap_err();
    assert!(matches!(refused, ModuleError::Refused(RpcError::Host(Fault::NoSuchModule))));
    assert!(matches!(world.runtime.block_on(link).unwrap(), Err(LinkError::WrongName { .. })));
}

#[test]
fn dropped_calls_are_cancelled_and_unregistering_names_the_fault() {
    let world = World::new();
    let client = world.guest();
    let (_process, _link) = world.process(versions(1, 1));
    let far = World::bind(&client);
    let (sender, outcome) = std::sync::mpsc::sync_channel(1);
    far.start_rpc(NEVER, b"", move |outcome| sender.send(outcome).unwrap());
    far.perform_rpc(ECHO, b"").unwrap();
    assert!(world.registry.unregister_hm(&"far".parse().unwrap()));
    assert_eq!(outcome.recv().unwrap(), Err(RpcError::Host(Fault::ModuleGone)));
    assert_eq!(far.perform_rpc(ECHO, b""), Err(RpcError::Host(Fault::ModuleGone)));
}
