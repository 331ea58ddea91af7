//! The guest SDK against the host side over a real socket pair.
#![cfg(feature = "host")]
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::sync::Arc;

use outsock_vmrpc::host::{CallError, Caller, HostModule, Registry, serve};
use outsock_vmrpc::{Client, Errno, Fault, ModuleName, RpcError, Version, VersionRange};

struct Echo {
    gate: Arc<tokio::sync::Semaphore>,
}

const ECHO: u32 = 1;
const FAIL: u32 = 2;
const WAIT: u32 = 3;
const HUGE: u32 = 4;

#[async_trait::async_trait]
impl HostModule for Echo {
    fn name(&self) -> ModuleName {
        "echo".parse().unwrap()
    }

    fn versions(&self) -> VersionRange {
        VersionRange::new(Version(2), Version(4)).unwrap()
    }

    async fn call(
        &self,
        caller: &Caller,
        _: Version,
        function: u32,
        arguments: Vec<u8>,
    ) -> Result<Vec<u8>, CallError> {
        assert_eq!(&*caller.guest, "web");
        match function {
            ECHO => Ok(arguments),
            FAIL => Err(CallError::Errno(Errno::EHOSTUNREACH)),
            WAIT => {
                self.gate.acquire().await.unwrap().forget();
                Ok(arguments)
            }
            HUGE => Ok(vec![0; 1 << 20]),
            _ => Err(CallError::NoSuchFunction),
        }
    }
}

fn start() -> (tokio::runtime::Runtime, Registry, Arc<tokio::sync::Semaphore>, Client) {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    let registry = Registry::new();
    let gate = Arc::new(tokio::sync::Semaphore::new(0));
    registry.register_hm(Echo { gate: Arc::clone(&gate) }).unwrap();
    let (guest, host) = UnixStream::pair().unwrap();
    host.set_nonblocking(true).unwrap();
    let served = registry.clone();
    runtime.spawn(async move {
        let host = tokio::net::UnixStream::from_std(host).unwrap();
        serve(host, &served, Caller::new("web", 3)).await
    });
    let client = Client::new(OwnedFd::from(guest)).unwrap();
    (runtime, registry, gate, client)
}

fn versions(first: u16, last: u16) -> VersionRange {
    VersionRange::new(Version(first), Version(last)).unwrap()
}

#[test]
fn bind_picks_the_highest_common_version_or_names_the_fault() {
    let (_runtime, registry, _gate, client) = start();
    assert_eq!(client.bind_module("echo", versions(1, 3)).unwrap().version(), Version(3));
    let fault = |name, v| client.bind_module(name, v).unwrap_err();
    assert_eq!(fault("echo", versions(5, 9)), RpcError::Host(Fault::UnsupportedVersion));
    assert_eq!(fault("nothing", versions(1, 9)), RpcError::Host(Fault::NoSuchModule));
    assert_eq!(fault("Bad Name", versions(1, 9)), RpcError::Host(Fault::NoSuchModule));
    assert!(registry.register_hm(Echo { gate: Arc::new(tokio::sync::Semaphore::new(0)) }).is_err());
}

#[test]
fn results_errors_and_limits_come_back_by_name() {
    let (_runtime, _registry, _gate, client) = start();
    let echo = client.bind_module("echo", versions(2, 2)).unwrap();
    assert_eq!(echo.perform_rpc(ECHO, b"abc").unwrap(), b"abc");
    let big = vec![7u8; outsock_vmrpc::limits::PAYLOAD_BYTES_MAX];
    assert_eq!(echo.perform_rpc(ECHO, &big).unwrap(), big);
    assert_eq!(echo.perform_rpc(ECHO, &[0; 65_537]), Err(RpcError::ArgumentsTooLarge));
    assert_eq!(echo.perform_rpc(FAIL, b""), Err(RpcError::Function(Errno::EHOSTUNREACH)));
    assert_eq!(echo.perform_rpc(99, b""), Err(RpcError::Host(Fault::NoSuchFunction)));
    assert_eq!(echo.perform_rpc(HUGE, b""), Err(RpcError::Host(Fault::ResultTooLarge)));
    echo.unbind_module().unwrap();
}

#[test]
fn calls_are_pipelined_and_a_slow_one_blocks_nobody() {
    let (_runtime, _registry, gate, client) = start();
    let echo = Arc::new(client.bind_module("echo", versions(2, 4)).unwrap());
    let waiting: Vec<_> = (0..64u8)
        .map(|i| {
            let echo = Arc::clone(&echo);
            std::thread::spawn(move || echo.perform_rpc(WAIT, &[i]))
        })
        .collect();
    for i in 0..100u8 {
        assert_eq!(echo.perform_rpc(ECHO, &[i]).unwrap(), [i]);
    }
    gate.add_permits(64);
    for (i, thread) in waiting.into_iter().enumerate() {
        assert_eq!(thread.join().unwrap().unwrap(), [u8::try_from(i).unwrap()]);
    }
}

#[test]
fn unregistering_ends_calls_in_flight_with_a_named_fault() {
    let (_runtime, registry, _gate, client) = start();
    let echo = client.bind_module("echo", versions(2, 4)).unwrap();
    let (sender, receiver) = std::sync::mpsc::sync_channel(8);
    for _ in 0..8 {
        let sender = sender.clone();
        echo.start_rpc(WAIT, b"", move |outcome| sender.send(outcome).unwrap());
    }
    // This call comes back after the eight have been started, so all are in flight now.
    echo.perform_rpc(ECHO, b"").unwrap();
    assert!(registry.unregister_hm(&"echo".parse().unwrap()));
    for _ in 0..8 {
        assert_eq!(receiver.recv().unwrap(), Err(RpcError::Host(Fault::ModuleGone)));
    }
    assert_eq!(echo.perform_rpc(ECHO, b""), Err(RpcError::Host(Fault::ModuleGone)));
}

#[test]
fn a_dead_host_ends_every_call() {
    let (runtime, _registry, _gate, client) = start();
    let echo = client.bind_module("echo", versions(2, 4)).unwrap();
    let (sender, receiver) = std::sync::mpsc::sync_channel(1);
    echo.start_rpc(WAIT, b"", move |outcome| sender.send(outcome).unwrap());
    runtime.shutdown_background();
    assert_eq!(receiver.recv().unwrap(), Err(RpcError::Disconnected));
    assert_eq!(echo.perform_rpc(ECHO, b""), Err(RpcError::Disconnected));
}
