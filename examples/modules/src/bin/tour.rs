//! A tour of VM RPC for guests, in Rust: every call of the SDK, and every error that a program meets.
//! `examples/c/tour.c` and `examples/python/tour.py` are the same tour.
//!
//! It needs the modules `kv` and `ticker`, and a module `secret` that the guest may not use.
#![forbid(unsafe_code)]

use std::process::ExitCode;
use std::time::Duration;

use outsock_example_modules::{kv, ticker, way};
use outsock_vmrpc::{Client, Fault, Put, QueueError, RpcError, Ticket, Version, VersionRange};

type Outcome = Result<(), Box<dyn std::error::Error>>;

fn main() -> ExitCode {
    match tour() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("tour: {error}");
            ExitCode::FAILURE
        }
    }
}

fn tour() -> Outcome {
    let client = way::client()?;
    binding(&client)?;
    calls(&client)?;
    events(&client)
}

fn binding(client: &Client) -> Outcome {
    let any = VersionRange::new(Version(1), Version(9)).ok_or("range")?;
    let later = VersionRange::new(Version(90), Version(99)).ok_or("range")?;
    for (name, versions, fault) in [
        ("nothing", any, Fault::NoSuchModule),
        ("kv", later, Fault::UnsupportedVersion),
        ("secret", any, Fault::NotAllowed),
    ] {
        match client.bind_module(name, versions) {
            Err(RpcError::Host(found)) if found == fault => println!("bind {name}: {fault:?}"),
            other => return Err(format!("bind {name}: {other:?}").into()),
        }
    }
    let module = client.bind_module("kv", any)?;
    println!("bind kv: version {}", module.version());
    module.unbind_module()?;
    println!("unbind kv");
    Ok(())
}

fn calls(client: &Client) -> Outcome {
    let module = client.bind_module(kv::NAME, kv::VERSIONS)?;
    for bytes in [0, 4096, 60_000] {
        let value = vec![b'x'; bytes];
        module.perform_rpc(kv::PUT, &kv::pair("key", &value))?;
        if module.perform_rpc(kv::GET, b"key")? != value {
            return Err("another value came back".into());
        }
        println!("put and get {bytes} bytes");
    }
    module.perform_rpc(kv::DELETE, b"key")?;
    match module.perform_rpc(kv::GET, b"key") {
        Err(RpcError::Function(errno)) => println!("get: {}", errno.name().unwrap_or("?")),
        other => return Err(format!("get: {other:?}").into()),
    }
    match module.perform_rpc(99, b"") {
        Err(RpcError::Host(Fault::NoSuchFunction)) => println!("call 99: NoSuchFunction"),
        other => return Err(format!("call 99: {other:?}").into()),
    }
    std::thread::scope(|scope| {
        let threads: Vec<_> = (0..64u8)
            .map(|i| {
                let module = &module;
                scope.spawn(move || {
                    let key = format!("key {i}");
                    module.perform_rpc(kv::PUT, &kv::pair(&key, &[i]))?;
                    module.perform_rpc(kv::GET, key.as_bytes()).map(|value| value == [i])
                })
            })
            .collect();
        for thread in threads {
            if !thread.join().map_err(|_| "a thread panicked")?? {
                return Err("another thread's value came back".into());
            }
        }
        println!("64 threads at once");
        Ok(())
    })
}

fn events(client: &Client) -> Outcome {
    let patience = Some(Duration::from_secs(60));
    let module = client.bind_module(ticker::NAME, ticker::VERSIONS)?;
    // An hour: the second tick comes only because we ask for it.
    let ticket = module.perform_rpc(ticker::START, &3_600_000u32.to_le_bytes())?;
    let queue = module.open_ev_queue(Ticket::decode(&ticket)?)?;
    eprintln!("events travel through {}", queue.form());
    for tick in 0..1000u64 {
        if queue.get_event_wait(patience)? != tick.to_le_bytes() {
            return Err("ticks came out of order".into());
        }
        if queue.put_event(&3_600_000u32.to_le_bytes())? != Put::Taken {
            return Err("the queue is full of one event".into());
        }
    }
    println!("1000 events each way");
    queue.get_event_wait(patience)?;
    match queue.get_event()? {
        None => println!("then the queue is empty"),
        Some(_) => return Err("a tick too many".into()),
    }
    match queue.put_event(&vec![0; 40_000]) {
        Err(QueueError::TooLarge) => println!("40000 bytes: TooLarge"),
        other => return Err(format!("40000 bytes: {other:?}").into()),
    }
    module.unbind_module()?;
    match queue.get_event_wait(patience) {
        Err(QueueError::Deleted) => println!("after unbind: Deleted"),
        other => return Err(format!("after unbind: {other:?}").into()),
    }
    Ok(())
}
