//! Event queues between the guest SDK and the host side, in both forms, over a real socket pair.
#![cfg(feature = "host")]
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod memory;
mod ring;

use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use outsock_vmrpc::host::{CallError, Caller, HostModule, Registry, Terms, serve_with};
use outsock_vmrpc::queue::ring::RingMemory;
use outsock_vmrpc::{
    Client, EventQueue, Fault, Form, ModuleName, Put, QueueError, RpcError, Ticket, Version,
    VersionRange,
};

const MAKE: u32 = 1;
/// Only as long as a machine may take that does a lot besides.
const PATIENCE: Option<Duration> = Some(Duration::from_secs(60));

/// Makes queues and leaves them to the test.
#[derive(Clone, Default)]
struct Maker(Arc<Mutex<Vec<EventQueue>>>);

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
        function: u32,
        arguments: Vec<u8>,
    ) -> Result<Vec<u8>, CallError> {
        assert_eq!(function, MAKE);
        let bytes = u32::from_le_bytes(arguments.try_into().map_err(|_| CallError::BadArguments)?);
        let queue = caller.make_ev_queue(bytes).map_err(|_| CallError::TooMany)?;
        // A head start: it waits for the guest to open the queue.
        assert_eq!(queue.put_event(b"first").unwrap(), Put::Taken);
        let ticket = queue.ticket().encode();
        self.0.lock().unwrap().push(queue);
        Ok(ticket)
    }
}

struct World {
    runtime: Option<tokio::runtime::Runtime>,
    registry: Registry,
    maker: Maker,
    guest: memory::Guest,
    client: Client,
}

fn world(host_shares: bool) -> World {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    let registry = Registry::new();
    let maker = Maker::default();
    registry.register_hm(maker.clone()).unwrap();
    let (guest_end, host_end) = UnixStream::pair().unwrap();
    host_end.set_nonblocking(true).unwrap();
    let guest = memory::Guest::default();
    let served = registry.clone();
    let memory = host_shares.then(|| Arc::new(guest.clone()) as _);
    runtime.spawn(async move {
        let host_end = tokio::net::UnixStream::from_std(host_end).unwrap();
        let terms = Terms { memory, ..Terms::default() };
        serve_with(host_end, &served, Caller::new("web", 3), terms).await
    });
    let client = Client::with_pages(OwnedFd::from(guest_end), Box::new(guest.clone())).unwrap();
    World { runtime: Some(runtime), registry, maker, guest, client }
}

impl World {
    fn bind(&self) -> outsock_vmrpc::Binding {
        self.client.bind_module("maker", VersionRange::only(Version(1))).unwrap()
    }

    /// Both sides of a new queue.
    fn queue(&self, binding: &outsock_vmrpc::Binding, bytes: u32, form: Form) -> [EventQueue; 2] {
        let ticket = binding.perform_rpc(MAKE, &bytes.to_le_bytes()).unwrap();
        let ticket = Ticket::decode(&ticket).unwrap();
        let guest = binding.open_ev_queue_as(ticket, form).unwrap();
        assert_eq!(guest.get_event_wait(PATIENCE).unwrap(), b"first");
        let host = self.maker.0.lock().unwrap().pop().unwrap();
        assert_eq!((guest.form(), host.form()), (form, form));
        [guest, host]
    }
}

const FORMS: [Form; 2] = [Form::Shared, Form::Stream];

#[test]
fn full_and_empty_are_answers_and_order_is_kept() {
    let world = world(true);
    let binding = world.bind();
    for form in FORMS {
        let [guest, host] = world.queue(&binding, 4096, form);
        for (from, to) in [(&guest, &host), (&host, &guest)] {
            assert_eq!(to.get_event().unwrap(), None);
            let mut put = 0u32;
            while from.put_event(&put.to_le_bytes()).unwrap() == Put::Taken {
                put += 1;
            }
            assert!((254..=256).contains(&put), "{form}: {put} of 16 bytes in 4096");
            for i in 0..put {
                assert_eq!(to.get_event_wait(PATIENCE).unwrap(), i.to_le_bytes(), "{form}");
            }
            assert_eq!(to.get_event().unwrap(), None);
            assert_eq!(from.put_event(&[0; 2041]), Err(QueueError::TooLarge));
            from.put_event_wait(&[7; 2040], PATIENCE).unwrap();
            assert_eq!(to.get_event_wait(PATIENCE).unwrap(), [7; 2040]);
        }
        let short = Some(Duration::from_millis(5));
        assert_eq!(guest.get_event_wait(short), Err(QueueError::TimedOut));
        guest.del_ev_queue();
    }
}

#[test]
fn many_events_of_all_sizes_pass_both_ways_at_once() {
    let world = world(true);
    let binding = world.bind();
    for form in FORMS {
        let [guest, host] = world.queue(&binding, 16_384, form);
        let event = |i: usize| vec![u8::try_from(i % 251).unwrap(); i * 37 % 3000];
        let count = 5_000;
        std::thread::scope(|scope| {
            for (from, to) in [(&guest, &host), (&host, &guest)] {
                scope.spawn(move || {
                    (0..count).for_each(|i| from.put_event_wait(&event(i), PATIENCE).unwrap());
                });
                scope.spawn(move || {
                    for i in 0..count {
                        assert!(to.get_event_wait(PATIENCE).unwrap() == event(i), "{form}: {i}");
                    }
                });
            }
        });
        let (guest, host) = (guest.status(), host.status());
        assert_eq!((guest.put, host.got), (count as u64, count as u64));
        println!("{form}: {} + {} wake-ups", guest.wakes_sent, host.wakes_sent);
    }
}

#[test]
fn async_tasks_wait_too() {
    let world = world(true);
    let binding = world.bind();
    for form in FORMS {
        let [guest, host] = world.queue(&binding, 4096, form);
        let echo = world.runtime.as_ref().unwrap().spawn(async move {
            while let Ok(event) = host.get_event_async().await {
                host.put_event_async(&event).await.unwrap();
            }
        });
        for i in 0..1000u32 {
            guest.put_event_wait(&i.to_le_bytes(), PATIENCE).unwrap();
            assert_eq!(guest.get_event_wait(PATIENCE).unwrap(), i.to_le_bytes());
        }
        guest.del_ev_queue();
        world.runtime.as_ref().unwrap().block_on(echo).unwrap();
    }
}

#[test]
fn a_guest_that_may_not_share_gets_the_stream_and_can_tell() {
    let world = world(false);
    let binding = world.bind();
    let make = || Ticket::decode(&binding.perform_rpc(MAKE, &4096u32.to_le_bytes()).unwrap());
    let refused = binding.open_ev_queue_as(make().unwrap(), Form::Shared).unwrap_err();
    assert_eq!(refused, RpcError::Host(Fault::QueueNotShared));
    let queue = binding.open_ev_queue(make().unwrap()).unwrap();
    assert_eq!(queue.form(), Form::Stream);
    assert_eq!(queue.get_event_wait(PATIENCE).unwrap(), b"first");
}

#[test]
fn both_sides_learn_of_the_end_and_why() {
    let world = world(true);
    for form in FORMS {
        let binding = world.bind();
        let [guest, host] = world.queue(&binding, 4096, form);
        // What arrived can still be taken out.
        assert_eq!(host.put_event(b"last").unwrap(), Put::Taken);
        host.del_ev_queue();
        assert_eq!(guest.get_event_wait(PATIENCE).unwrap(), b"last");
        assert_eq!(guest.get_event_wait(PATIENCE), Err(QueueError::Deleted));
        assert_eq!(guest.put_event(b"x"), Err(QueueError::Deleted));

        let [guest, host] = world.queue(&binding, 4096, form);
        guest.del_ev_queue();
        assert_eq!(host.get_event_wait(PATIENCE), Err(QueueError::Disconnected));

        let [_guest, host] = world.queue(&binding, 4096, form);
        binding.unbind_module().unwrap();
        assert_eq!(host.get_event_wait(PATIENCE), Err(QueueError::Deleted));
    }
}

#[test]
fn unregistering_ends_queues_and_so_does_a_dead_host() {
    let mut world = world(true);
    let binding = world.bind();
    let [shared, _host] = world.queue(&binding, 4096, Form::Shared);
    let [stream, _other] = world.queue(&binding, 4096, Form::Stream);
    assert!(world.registry.unregister_hm(&"maker".parse().unwrap()));
    for queue in [shared, stream] {
        assert_eq!(queue.get_event_wait(PATIENCE), Err(QueueError::ModuleGone));
    }
    world.registry.register_hm(world.maker.clone()).unwrap();
    let binding = world.bind();
    let [shared, _host] = world.queue(&binding, 4096, Form::Shared);
    let [stream, _other] = world.queue(&binding, 4096, Form::Stream);
    world.runtime.take().unwrap().shutdown_background();
    for queue in [shared, stream] {
        assert_eq!(queue.get_event_wait(PATIENCE), Err(QueueError::Disconnected));
    }
}

#[test]
fn limits_hold() {
    let world = world(true);
    let binding = world.bind();
    let make = |bytes: u32| binding.perform_rpc(MAKE, &bytes.to_le_bytes());
    for bytes in [0, 1, 4095, 5000, 2048, 2 * 1024 * 1024] {
        assert_eq!(make(bytes).unwrap_err(), RpcError::Host(Fault::TooMany), "{bytes}");
    }
    let mut made = 0;
    while make(4096).is_ok() {
        made += 1;
    }
    assert_eq!(made, outsock_vmrpc::limits::QUEUES_PER_STREAM_MAX);
    world.maker.0.lock().unwrap().clear();
    make(1024 * 1024).unwrap();
}

#[test]
fn a_garbled_ring_or_lost_memory_ends_its_queue_only() {
    let world = world(true);
    let binding = world.bind();
    let [guest, host] = world.queue(&binding, 4096, Form::Shared);
    // The index of the host's ring of events from the guest.
    world.guest.any().store(0, 4);
    assert_eq!(host.get_event(), Err(QueueError::Garbled));
    assert_eq!(host.put_event(b"x"), Err(QueueError::Garbled));
    drop((guest, host));
    let [guest, host] = world.queue(&binding, 4096, Form::Shared);
    let [stream, other] = world.queue(&binding, 4096, Form::Stream);
    world.guest.unplugged.store(true, std::sync::atomic::Ordering::Relaxed);
    assert_eq!(host.put_event(b"x"), Err(QueueError::Unmapped));
    assert_eq!(other.put_event(b"y").unwrap(), Put::Taken);
    assert_eq!(stream.get_event_wait(PATIENCE).unwrap(), b"y");
    drop(guest);
}

#[test]
fn listings_say_who_bound_what() {
    let world = world(true);
    let binding = world.bind();
    let [guest, host] = world.queue(&binding, 4096, Form::Shared);
    assert_eq!(host.put_event(b"12345678").unwrap(), Put::Taken);
    binding.perform_rpc(MAKE, b"bad").unwrap_err();
    let [module] = &world.registry.list()[..] else { panic!("one module") };
    assert_eq!((module.calls, module.errors, module.in_flight), (2, 1, 0));
    let [bound] = &module.bindings[..] else { panic!("one binding") };
    assert_eq!((&*bound.guest, bound.version, bound.calls), ("web", Version(1), 2));
    assert!(bound.client.contains(&std::process::id().to_string()), "{}", bound.client);
    let [queue] = &bound.queues[..] else { panic!("one queue") };
    assert_eq!((queue.form, queue.to_send_bytes, queue.put), (Some(Form::Shared), 16, 2));
    drop(guest);
    binding.unbind_module().unwrap();
    assert!(world.registry.list()[0].bindings.is_empty());
}

/// The answer to a close means it: the guest may give the pages to somebody else.
#[test]
fn after_a_close_the_host_touches_nothing_and_has_what_had_arrived() {
    let world = world(true);
    let binding = world.bind();
    let [guest, host] = world.queue(&binding, 4096, Form::Shared);
    let putting = host.clone();
    let busy = std::thread::spawn(move || {
        while putting.put_event(b"once more").is_ok() {
            let _ = putting.status();
        }
    });
    for i in 0..3u32 {
        guest.put_event_wait(&i.to_le_bytes(), PATIENCE).unwrap();
    }
    let memory = world.guest.any();
    guest.del_ev_queue();
    // Behind the close on the same stream, so answered after it.
    binding.perform_rpc(MAKE, &4096u32.to_le_bytes()).unwrap();
    let contents = |memory: &memory::Memory| {
        let mut bytes = vec![0; 3 * 4096];
        memory.read(0, &mut bytes);
        bytes
    };
    let before = contents(&memory);
    for i in 0..3u32 {
        assert_eq!(host.get_event().unwrap().unwrap(), i.to_le_bytes());
    }
    assert_eq!(host.get_event(), Err(QueueError::Disconnected));
    assert_eq!(host.put_event_wait(b"late", PATIENCE), Err(QueueError::Disconnected));
    busy.join().unwrap();
    assert!(contents(&memory) == before, "somebody wrote to the pages");
}
