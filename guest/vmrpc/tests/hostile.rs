//! Any frames in any order, from a guest to the host side and from a module's process to the gateway's
//! side: answers or an end, never a panic, and other streams do not notice.
#![cfg(feature = "host")]
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use outsock_vmrpc::frame::{Body, CallId, Frame, Handle, PROTOCOL, Pages};
use outsock_vmrpc::host::{CallError, Caller, HostModule, ProcessModule, Registry, serve};
use outsock_vmrpc::{ModuleName, QueueError, QueueId, Version, VersionRange};
use proptest::prelude::*;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

/// Makes a queue with each call, and answers what comes through it.
struct Maker;

#[async_trait::async_trait]
impl HostModule for Maker {
    fn name(&self) -> ModuleName {
        "maker".parse().unwrap()
    }

    fn versions(&self) -> VersionRange {
        VersionRange::only(Version(1))
    }

    async fn call(
        &self,
        caller: &Caller,
        _: Version,
        _: u32,
        _: Vec<u8>,
    ) -> Result<Vec<u8>, CallError> {
        let queue = caller.make_ev_queue(4096).map_err(|_| CallError::TooMany)?;
        let ticket = queue.ticket().encode();
        tokio::spawn(async move {
            while let Ok(event) = queue.get_event_async().await {
                let _ = queue.put_event(&event);
            }
        });
        Ok(ticket)
    }
}

fn any_frame() -> impl Strategy<Value = Frame> {
    let versions = VersionRange::only(Version(1));
    // Few numbers, so that many of them are real.
    let queue = || prop_oneof![0u32..6, 0x8000_0000u32..0x8000_0003].prop_map(QueueId);
    let bytes = || proptest::collection::vec(any::<u8>(), 0..2100);
    let pages = Pages { page_bytes: 4096, addresses: vec![0; 3] };
    let body = prop_oneof![
        Just(Body::Hello { versions: PROTOCOL, client: "x".to_owned() }),
        Just(Body::Bind { name: "maker".to_owned(), versions }),
        (0u16..4).prop_map(|handle| Body::Unbind(Handle(handle))),
        (0u16..4, bytes()).prop_map(|(handle, arguments)| Body::Call {
            handle: Handle(handle),
            function: 1,
            arguments
        }),
        queue().prop_map(|queue| Body::OpenQueue { queue, pages: None }),
        queue().prop_map(move |queue| Body::OpenQueue { queue, pages: Some(pages.clone()) }),
        queue().prop_map(Body::CloseQueue),
        (queue(), bytes()).prop_map(|(queue, event)| Body::Event { queue, event }),
        (queue(), 0u32..5000).prop_map(|(queue, bytes)| Body::Credit { queue, bytes }),
        queue().prop_map(Body::Wake),
        queue().prop_map(|queue| Body::QueueEnded { queue, why: QueueError::Deleted }),
        Just(Body::Register { name: "far".to_owned(), versions }),
        Just(Body::Cancel),
        (0u32..3, 0u32..3).prop_map(|(handle, number)| Body::MakeQueue {
            queue: QueueId(handle << 16 | number),
            bytes: 4096
        }),
        bytes().prop_map(|result| Body::Reply(Ok(result))),
    ];
    (0u32..8, body).prop_map(|(call, body)| Frame { call: CallId(call), body })
}

fn encoded(first: Body, frames: &[Frame]) -> Vec<u8> {
    let mut bytes = Vec::new();
    Frame { call: CallId(0), body: first }.encode(&mut bytes).unwrap();
    frames.iter().for_each(|frame| frame.encode(&mut bytes).unwrap());
    bytes
}

proptest! {
    #[test]
    fn a_guest_may_send_anything(frames in proptest::collection::vec(any_frame(), 0..60)) {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(async {
            let registry = Registry::new();
            registry.register_hm(Maker).unwrap();
            let (guest, host) = tokio::io::duplex(1 << 20);
            let served = registry.clone();
            let session =
                tokio::spawn(async move { serve(host, &served, Caller::new("web", 3)).await });
            let (mut answers, mut to_host) = tokio::io::split(guest);
            let hello = Body::Hello { versions: PROTOCOL, client: String::new() };
            // The host may have hung up already.
            let _ = to_host.write_all(&encoded(hello, &frames)).await;
            let _ = to_host.shutdown().await;
            let _ = answers.read_to_end(&mut Vec::new()).await;
            // An error is an answer; a panic is none.
            let _ = session.await.unwrap();
            assert!(registry.list()[0].bindings.is_empty());
            assert_eq!(registry.list()[0].in_flight, 0);
        });
    }

    #[test]
    fn a_process_may_send_anything(frames in proptest::collection::vec(any_frame(), 0..60)) {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(async {
            let (module, slot) = ProcessModule::new("far".parse().unwrap());
            let registry = Registry::new();
            registry.register_hm(module).unwrap();
            let (process, gateway) = tokio::io::duplex(1 << 20);
            let link = tokio::spawn(async move { slot.serve(gateway).await });
            let (mut answers, mut to_gateway) = tokio::io::split(process);
            let versions = VersionRange::only(Version(1));
            let register = Body::Register { name: "far".to_owned(), versions };
            let _ = to_gateway.write_all(&encoded(register, &frames)).await;
            let _ = to_gateway.shutdown().await;
            let _ = answers.read_to_end(&mut Vec::new()).await;
            let _ = link.await.unwrap();
            assert!(!registry.list()[0].available);
        });
    }
}
