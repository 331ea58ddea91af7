//! The same tour in Rust, C and Python, with the key-value module in Rust and in Python; the small
//! example programs; the guest's and the host's listing.

use std::process::Command;

use outsock_example_modules::{kv, ticker};

use crate::world::{Process, World, bind, built, example, module, output};

/// What every tour prints.
const TOUR: &str = include_str!("../../../tour.txt");

fn world() -> World {
    World::start(|folder| {
        module(folder, "kv", "[\"web\"]")
            + &module(folder, "ticker", "[\"*\"]")
            + &module(folder, "secret", "[\"other\"]")
    })
}

fn rust_module(world: &World) -> Process {
    Process::start(Command::new(env!("CARGO_BIN_EXE_kv-module")).arg(world.socket("kv")))
}

fn python(script: &str) -> Command {
    let mut python = Command::new("python3");
    python.arg(example(script)).env("PYTHONPATH", example("../guest/python"));
    python.env("OUTSOCK_RPC_LIBRARY", built().join("liboutsock_rpc.so"));
    python
}

fn tours(world: &World) {
    let _ticker = Process::start(
        Command::new(env!("CARGO_BIN_EXE_ticker-module")).arg(world.socket("ticker")),
    );
    let client = world.guest.rpc().unwrap();
    bind(&client, kv::NAME, kv::VERSIONS);
    bind(&client, ticker::NAME, ticker::VERSIONS);
    let way = world.way_in();
    let mut rust = Command::new(env!("CARGO_BIN_EXE_tour"));
    assert_eq!(output(rust.env("OUTSOCK_RPC_SOCKET", &way)), TOUR, "Rust");
    assert_eq!(output(c_tour(world).env("OUTSOCK_RPC_SOCKET", &way)), TOUR, "C");
    assert_eq!(output(python("python/tour.py").env("OUTSOCK_RPC_SOCKET", &way)), TOUR, "Python");
}

/// Compiles it as its head says.
fn c_tour(world: &World) -> Command {
    let program = world.folder().join("tour");
    let mut cc = Command::new("cc");
    cc.args(["-Wall", "-Wextra", "-Werror", "-O1", "-I"]);
    cc.arg(example("../guest/vmrpc-c/include")).arg("-o").arg(&program);
    cc.arg(example("c/tour.c")).arg(built().join("liboutsock_rpc.a"));
    output(cc.args(["-lpthread", "-ldl", "-lm"]));
    Command::new(program)
}

#[test]
fn three_languages_take_the_same_tour() {
    let world = world();
    let _kv = rust_module(&world);
    tours(&world);
    let listed = world.listing("kv");
    assert_eq!(listed["kind"], "process");
    assert!(listed["calls"].as_u64().unwrap() > 3 * 128, "{listed}");
    assert_eq!(listed["in_flight"], 0, "{listed}");
}

#[test]
fn a_module_in_python_is_the_same_to_them() {
    let world = world();
    let _kv = Process::start(python("python/kv_module.py").arg(world.socket("kv")));
    tours(&world);
}

#[test]
fn the_small_programs_do_what_they_say() {
    let world = world();
    let _kv = rust_module(&world);
    let _ticker = Process::start(
        Command::new(env!("CARGO_BIN_EXE_ticker-module")).arg(world.socket("ticker")),
    );
    let client = world.guest.rpc().unwrap();
    bind(&client, kv::NAME, kv::VERSIONS);
    bind(&client, ticker::NAME, ticker::VERSIONS);
    let way = world.way_in();
    let kv = |words: &[&str]| {
        let mut kv = Command::new(env!("CARGO_BIN_EXE_kv"));
        output(kv.args(words).env("OUTSOCK_RPC_SOCKET", &way))
    };
    kv(&["put", "colour", "green"]);
    assert_eq!(kv(&["get", "colour"]), "green");
    assert_eq!(kv(&["count"]), "1\n");
    kv(&["delete", "colour"]);
    assert_eq!(kv(&["count"]), "0\n");
    let mut ticker = Command::new(env!("CARGO_BIN_EXE_ticker"));
    let ticks = output(ticker.args(["10", "4"]).env("OUTSOCK_RPC_SOCKET", &way));
    assert_eq!(ticks, "ticks through stream\ntick 0\ntick 1\ntick 2\ntick 3\n");
    let listed = output(&mut world.gateway.command("modules"));
    for word in ["kv", "process", "1-2", "there", "resolver", "gateway", "secret", "away"] {
        assert!(listed.contains(word), "{word}: {listed}");
    }
}
