//! What ends in the middle: processes, modules, guests, permissions, memory.

use std::sync::mpsc::{Receiver, sync_channel};
use std::time::{Duration, Instant};

use outsock_virtual_guest::Options;
use outsock_vmrpc::host::{CallError, Caller, HostModule};
use outsock_vmrpc::{
    Binding, Client, EventQueue, Fault, Form, ModuleName, Put, QueueError, RpcError, Ticket,
    Version, VersionRange,
};

use crate::world::{PATIENCE, World, bind, eventually, module};

const ECHO: u32 = 1;
const NEVER: u32 = 2;
const QUEUE: u32 = 3;

/// Echoes calls and events, and never ends a call of `NEVER`.
struct Slow;

#[async_trait::async_trait]
impl HostModule for Slow {
    fn name(&self) -> ModuleName {
        "slow".parse().unwrap()
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
            ECHO => Ok(arguments),
            NEVER => std::future::pending().await,
            QUEUE => {
                let queue = caller.make_ev_queue(65_536).map_err(|_| CallError::TooMany)?;
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

fn world() -> World {
    World::start(|folder| module(folder, "slow", "[\"*\"]"))
}

fn slow(client: &Client) -> Binding {
    bind(client, "slow", VersionRange::only(Version(1)))
}

/// 64 calls that do not end, all of them with the module.
fn in_flight(binding: &Binding) -> Receiver<Result<Vec<u8>, RpcError>> {
    let (sender, outcomes) = sync_channel(64);
    for _ in 0..64 {
        let sender = sender.clone();
        binding.start_rpc(NEVER, b"", move |outcome| sender.send(outcome).unwrap());
    }
    binding.perform_rpc(ECHO, b"").unwrap();
    outcomes
}

fn queue(binding: &Binding, form: Form) -> EventQueue {
    let ticket = Ticket::decode(&binding.perform_rpc(QUEUE, b"").unwrap()).unwrap();
    let queue = binding.open_ev_queue_as(ticket, form).unwrap();
    echoes(&queue);
    queue
}

fn echoes(queue: &EventQueue) {
    for i in 0..100u32 {
        queue.put_event_wait(&i.to_le_bytes(), PATIENCE).unwrap();
        assert_eq!(queue.get_event_wait(PATIENCE).unwrap(), i.to_le_bytes());
    }
}

fn until(what: &str, mut is_so: impl FnMut() -> bool) {
    let begun = Instant::now();
    while !is_so() {
        assert!(begun.elapsed() < Duration::from_secs(60), "{what}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

#[test]
fn a_process_that_dies_is_named_and_comes_back_without_harm() {
    let world = world();
    let process = world.serve(Slow);
    let client = world.guest.rpc_sharing().unwrap();
    let binding = slow(&client);
    let queues = [queue(&binding, Form::Shared), queue(&binding, Form::Stream)];
    let outcomes = in_flight(&binding);
    process.abort();
    for outcome in outcomes.iter().take(64) {
        assert_eq!(outcome, Err(RpcError::Host(Fault::ModuleUnavailable)));
    }
    for queue in &queues {
        assert_eq!(queue.get_event_wait(PATIENCE), Err(QueueError::ModuleGone));
    }
    until("it is away", || world.listing("slow")["available"] == false);
    assert_eq!(binding.perform_rpc(ECHO, b""), Err(RpcError::Host(Fault::ModuleUnavailable)));
    let _process = world.serve(Slow);
    assert_eq!(eventually(|| binding.perform_rpc(ECHO, b"again")), b"again");
    echoes(&queue(&binding, Form::Shared));
    world.guest.assert_clean();
}

#[test]
fn unregistering_under_calls_names_the_fault_and_others_go_on() {
    let world = world();
    let _process = world.serve(Slow);
    let client = world.guest.rpc_sharing().unwrap();
    let binding = slow(&client);
    let shared = queue(&binding, Form::Shared);
    let outcomes = in_flight(&binding);
    let config = std::fs::read_to_string(world.gateway.config()).unwrap();
    let without = config.split("[[module]]").next().unwrap().to_owned();
    std::fs::write(world.gateway.config(), without).unwrap();
    let reloaded = world.gateway.command("reload").output().unwrap();
    assert!(reloaded.status.success(), "{reloaded:?}");
    for outcome in outcomes.iter().take(64) {
        assert_eq!(outcome, Err(RpcError::Host(Fault::ModuleGone)));
    }
    assert_eq!(shared.get_event_wait(PATIENCE), Err(QueueError::ModuleGone));
    assert_eq!(binding.perform_rpc(ECHO, b""), Err(RpcError::Host(Fault::ModuleGone)));
    let gone = client.bind_module("slow", VersionRange::only(Version(1))).unwrap_err();
    assert_eq!(gone, RpcError::Host(Fault::NoSuchModule));
    // And back.
    std::fs::write(world.gateway.config(), config).unwrap();
    assert!(world.gateway.command("reload").output().unwrap().status.success());
    let _process = world.serve(Slow);
    assert_eq!(slow(&client).perform_rpc(ECHO, b"x").unwrap(), b"x");
}

#[test]
fn a_permission_that_is_taken_away_ends_bindings() {
    let world = world();
    let _process = world.serve(Slow);
    let client = world.guest.rpc().unwrap();
    let binding = slow(&client);
    let queue = queue(&binding, Form::Stream);
    let config = std::fs::read_to_string(world.gateway.config()).unwrap();
    let other = config.replace("guests = [\"*\"]", "guests = [\"other\"]");
    std::fs::write(world.gateway.config(), other).unwrap();
    assert!(world.gateway.command("reload").output().unwrap().status.success());
    assert_eq!(binding.perform_rpc(ECHO, b""), Err(RpcError::Host(Fault::NotAllowed)));
    assert_eq!(queue.get_event_wait(PATIENCE), Err(QueueError::ModuleGone));
    let refused = client.bind_module("slow", VersionRange::only(Version(1))).unwrap_err();
    assert_eq!(refused, RpcError::Host(Fault::NotAllowed));
}

#[test]
fn a_guest_that_dies_leaves_nothing_and_others_go_on() {
    let world = world();
    let _process = world.serve(Slow);
    let other = world.gateway.boot("other", Options::default()).unwrap();
    let others = slow(&other.rpc_sharing().unwrap());
    let others_queue = queue(&others, Form::Shared);
    let before = world.gateway.descriptors().unwrap();
    for _ in 0..3 {
        let client = world.guest.rpc_sharing().unwrap();
        let binding = slow(&client);
        let shared = queue(&binding, Form::Shared);
        let outcomes = in_flight(&binding);
        assert_eq!(world.listing("slow")["in_flight"], 64);
        // The guest's kernel starts over: nothing of it says good-bye.
        world.guest.reboot().unwrap();
        for outcome in outcomes.iter().take(64) {
            assert_eq!(outcome, Err(RpcError::Disconnected));
        }
        assert_eq!(shared.get_event_wait(PATIENCE), Err(QueueError::Disconnected));
        until("its calls are gone", || world.listing("slow")["in_flight"] == 0);
        until("its bindings are gone", || {
            world.listing("slow")["bindings"].as_array().unwrap().len() == 1
        });
        echoes(&others_queue);
    }
    until("its descriptors are closed", || world.gateway.descriptors().unwrap() <= before);
    world.guest.disconnect();
    echoes(&others_queue);
    other.assert_clean();
}

#[test]
fn queues_live_through_changes_of_the_memory_table_and_end_with_their_memory() {
    let world = world();
    let _process = world.serve(Slow);
    let client = world.guest.rpc_sharing().unwrap();
    let binding = slow(&client);
    let shared = queue(&binding, Form::Shared);
    let stream = queue(&binding, Form::Stream);
    std::thread::scope(|scope| {
        let traffic = scope.spawn(|| (0..100).for_each(|_| echoes(&shared)));
        while !traffic.is_finished() {
            world.guest.plug_memory(1 << 20).unwrap();
            world.guest.unplug_memory().unwrap();
        }
        traffic.join().unwrap();
    });
    // The region that the queue lies in goes: only this queue ends.
    world.guest.unplug_memory().unwrap();
    assert_eq!(shared.put_event(b"into nothing").unwrap(), Put::Taken);
    until("the host has seen it", || {
        let queues = world.listing("slow")["bindings"][0]["queues"].as_array().unwrap().len();
        queues == 1
    });
    echoes(&stream);
    assert_eq!(binding.perform_rpc(ECHO, b"x").unwrap(), b"x");
}

#[test]
fn an_unprivileged_stream_cannot_name_pages() {
    let world = world();
    let _process = world.serve(Slow);
    let client = world.guest.rpc_sharing_unprivileged().unwrap();
    let binding = slow(&client);
    let ticket = Ticket::decode(&binding.perform_rpc(QUEUE, b"").unwrap()).unwrap();
    let refused = binding.open_ev_queue_as(ticket, Form::Shared).unwrap_err();
    assert_eq!(refused, RpcError::Host(Fault::QueueNotShared));
    let queue = binding.open_ev_queue(ticket).unwrap();
    assert_eq!(queue.form(), Form::Stream);
    echoes(&queue);
}
