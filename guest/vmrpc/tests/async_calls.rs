//! The async guest SDK against the host side.
#![cfg(all(feature = "host", feature = "async"))]
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use outsock_vmrpc::host::{CallError, Caller, HostModule, Registry, serve};
use outsock_vmrpc::{
    AsyncClient, Errno, Fault, Form, ModuleName, QueueError, RpcError, Ticket, Version,
    VersionRange,
};

struct Echo;

#[async_trait::async_trait]
impl HostModule for Echo {
    fn name(&self) -> ModuleName {
        "echo".parse().unwrap()
    }

    fn versions(&self) -> VersionRange {
        VersionRange::only(Version(1))
    }

    async fn call(
        &self,
        caller: &Caller,
        _: Version,
        function: u32,
        arguments: Vec<u8>,
    ) -> Result<Vec<u8>, CallError> {
        match function {
            1 => Ok(arguments),
            2 => Err(CallError::Errno(Errno::ENOENT)),
            3 => std::future::pending().await,
            4 => {
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

async fn start() -> (tokio::task::JoinHandle<()>, AsyncClient) {
    let registry = Registry::new();
    registry.register_hm(Echo).unwrap();
    let (guest, host) = tokio::io::duplex(1 << 16);
    let served = tokio::spawn(async move {
        let _ = serve(host, &registry, Caller::new("web", 3)).await;
    });
    (served, AsyncClient::new(guest).await.unwrap())
}

#[tokio::test]
async fn calls_queues_errors_and_the_end() {
    let (served, client) = start().await;
    let unknown = client.bind_module("nothing", VersionRange::only(Version(1))).await.unwrap_err();
    assert_eq!(unknown, RpcError::Host(Fault::NoSuchModule));
    let echo = client.bind_module("echo", VersionRange::only(Version(1))).await.unwrap();
    assert_eq!(echo.version(), Version(1));
    let calls = (0..64u8).map(|i| {
        let echo = &echo;
        async move { assert_eq!(echo.perform_rpc(1, &[i; 4096]).await.unwrap(), [i; 4096]) }
    });
    for call in calls {
        call.await;
    }
    assert_eq!(echo.perform_rpc(2, b"").await, Err(RpcError::Function(Errno::ENOENT)));
    assert_eq!(echo.perform_rpc(1, &[0; 65_537]).await, Err(RpcError::ArgumentsTooLarge));
    let ticket = Ticket::decode(&echo.perform_rpc(4, b"").await.unwrap()).unwrap();
    let queue = echo.open_ev_queue(ticket).await.unwrap();
    assert_eq!(queue.form(), Form::Stream);
    for i in 0..1000u32 {
        queue.put_event_async(&i.to_le_bytes()).await.unwrap();
        assert_eq!(queue.get_event_async().await.unwrap(), i.to_le_bytes());
    }
    let never = echo.perform_rpc(3, b"");
    served.abort();
    assert_eq!(never.await, Err(RpcError::Disconnected));
    assert_eq!(queue.get_event_async().await, Err(QueueError::Disconnected));
    assert_eq!(echo.perform_rpc(1, b"").await, Err(RpcError::Disconnected));
}
