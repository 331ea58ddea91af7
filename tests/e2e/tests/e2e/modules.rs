//! Modules: VM RPC from programs in the guest, in three languages, to modules that are processes on the
//! host; event queues in the guest's own memory.
//!
//! in: the examples; out: the tour that each takes. Owner: each test, which starts the modules' processes.
//! Kept: the guest's programs are root there, so their queues must lie in shared memory. Bound: the tour's
//! own limits.

use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use outsock_boot::{GuestCommand, GuestProcess, Output};
use outsock_site::{Directory, cargo, target_directory, tied, workspace};

use crate::Verdict;
use crate::host::program;
use crate::world::{FIRST, SECOND, World, run};

const TOUR: &str = include_str!("../../../../examples/tour.txt");
const STATIC_TARGET: &str = "x86_64-unknown-linux-gnu";
/// How long the modules' processes may take to register.
const START_TIMEOUT: Duration = Duration::from_secs(60);

/// The gateway's tables.
pub(crate) fn tables(directory: &Directory) -> String {
    let table = |name: &str, guest: &str| {
        let socket = directory.path(&format!("{name}.module")).display().to_string();
        format!("[[module]]\nname = {name:?}\nsocket = {socket:?}\nguests = [{guest:?}]\n")
    };
    table("kv", FIRST.0) + &table("ticker", FIRST.0) + &table("secret", SECOND.0)
}

/// A module's process.
struct Module(Child);

impl Drop for Module {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn built(arguments: &[&str], flags: &str) {
    let mut build = cargo();
    build.args(["build", "--release"]).args(arguments);
    if !flags.is_empty() {
        build.env("RUSTFLAGS", flags).env_remove("CARGO_ENCODED_RUSTFLAGS");
    }
    let built = build.output().unwrap();
    assert!(built.status.success(), "{}", String::from_utf8_lossy(&built.stderr));
}

/// Both modules, registered. Also what `outsock modules` is for.
fn modules(world: &World) -> [Module; 2] {
    built(&["-p", "outsock-example-modules", "--bins"], "");
    let modules = ["kv", "ticker"].map(|name| {
        let mut module = tied(target_directory().join(format!("release/{name}-module")));
        module.arg(world.directory.path(&format!("{name}.module")));
        Module(module.stdin(Stdio::null()).spawn().unwrap())
    });
    let begun = Instant::now();
    loop {
        let listed = listing(world, &["--json"]);
        if listed.contains("ticker") && !listed.contains(r#""available":false"#) {
            return modules;
        }
        assert!(begun.elapsed() < START_TIMEOUT, "{listed}");
        std::thread::sleep(Duration::from_millis(100));
    }
}

fn listing(world: &World, options: &[&str]) -> String {
    let command = [&["/mnt/share/outsock", "modules"], options].concat();
    let output = run(world.guest(), &GuestCommand::new(&command));
    assert!(output.status.success(), "{}", output.stderr_text());
    output.stdout_text()
}

fn took_the_tour(output: &Output) -> Verdict {
    assert_eq!(output.stdout_text(), TOUR, "{}", output.stderr_text());
    let said = output.stderr_text();
    assert!(said.contains("events travel through shared memory"), "{said}");
    Verdict::Passed
}

pub(crate) fn rust(world: &mut World) -> Verdict {
    let _modules = modules(world);
    let tour = ["-p", "outsock-example-modules", "--bin", "tour", "--target", STATIC_TARGET];
    built(&tour, "-C target-feature=+crt-static");
    let tour = target_directory().join(STATIC_TARGET).join("release/tour");
    let tour = world.directory.share_program(&tour, "tour-rust").unwrap();
    took_the_tour(&run(world.guest(), &GuestCommand::new(&[tour])))
}

pub(crate) fn c(world: &mut World) -> Verdict {
    let Some(cc) = program(&["cc", "gcc"]) else {
        return Verdict::Skipped("a C compiler".to_owned());
    };
    let _modules = modules(world);
    built(&["-p", "outsock-vmrpc-c"], "");
    let tour = world.directory.path("tour-c");
    let mut cc = Command::new(cc);
    cc.args(["-static", "-O1", "-I"]).arg(workspace().join("guest/vmrpc-c/include"));
    cc.arg("-o").arg(&tour).arg(workspace().join("examples/c/tour.c"));
    cc.arg(target_directory().join("release/liboutsock_rpc.a"));
    let compiled = cc.args(["-lpthread", "-ldl", "-lm"]).output().unwrap();
    assert!(compiled.status.success(), "{}", String::from_utf8_lossy(&compiled.stderr));
    let tour = world.directory.share_program(&tour, "tour-c").unwrap();
    took_the_tour(&run(world.guest(), &GuestCommand::new(&[tour])))
}

pub(crate) fn python(world: &mut World) -> Verdict {
    let _modules = modules(world);
    built(&["-p", "outsock-vmrpc-c"], "");
    let share = |from: &Path, name| world.directory.share_program(from, name).unwrap();
    share(&target_directory().join("release/liboutsock_rpc.so"), "liboutsock_rpc.so");
    share(&workspace().join("guest/python/outsock_rpc.py"), "outsock_rpc.py");
    let tour = share(&workspace().join("examples/python/tour.py"), "tour.py");
    let ctypes = run(world.guest(), &GuestCommand::new(&["python3", "-c", "import ctypes"]));
    if !ctypes.status.success() {
        return Verdict::Skipped(format!("ctypes in the guest: {}", ctypes.stderr_text()));
    }
    took_the_tour(&run(world.guest(), &GuestCommand::new(&["python3", &tour])))
}

/// A program is killed while the gateway is stopped, with ticks on their way to its pages: they belong to
/// nobody else before the gateway has let go of them.
pub(crate) fn killed(world: &mut World) -> Verdict {
    let _modules = modules(world);
    built(&["-p", "outsock-vmrpc-c"], "");
    let share = |from: &Path, name| world.directory.share_program(from, name).unwrap();
    share(&target_directory().join("release/liboutsock_rpc.so"), "liboutsock_rpc.so");
    share(&workspace().join("guest/python/outsock_rpc.py"), "outsock_rpc.py");
    let ctypes = run(world.guest(), &GuestCommand::new(&["python3", "-c", "import ctypes, mmap"]));
    if !ctypes.status.success() {
        return Verdict::Skipped(format!("ctypes in the guest: {}", ctypes.stderr_text()));
    }
    let command = GuestCommand::new(&["python3", "/mnt/share/pages.py"]);
    let mut pages = world.guest().spawn(&command).unwrap();
    let says = |pages: &GuestProcess, text| {
        let said = pages.wait_for_text(text, START_TIMEOUT).unwrap();
        let (out, err) = pages.output_so_far();
        let text = [out, err].map(|bytes| String::from_utf8_lossy(&bytes).into_owned());
        assert!(said, "{text:?}");
    };
    says(&pages, "ready");
    let gateway = world.gateway().process_id();
    signal(gateway, "STOP");
    pages.write_stdin(b"kill\n").unwrap();
    let held = pages.wait_for_text("held", START_TIMEOUT);
    // Whatever came of it: other tests need the gateway.
    signal(gateway, "CONT");
    held.unwrap();
    says(&pages, "held");
    pages.write_stdin(b"check\n").unwrap();
    says(&pages, "intact");
    let listed = listing(world, &[]);
    assert!(!listed.contains("event queue"), "{listed}");
    Verdict::Passed
}

fn signal(process: u32, name: &str) {
    let mut kill = Command::new("kill");
    let sent = kill.args(["-s", name, &process.to_string()]).status().unwrap();
    assert!(sent.success(), "SIG{name}: {sent}");
}

/// A program that is not root in the guest has its queues over the stream, and can tell.
pub(crate) fn unprivileged(world: &mut World) -> Verdict {
    let _modules = modules(world);
    let tour = world.directory.share().join("tour-rust");
    if !tour.exists() {
        return Verdict::Skipped("the tour in Rust, which another test builds".to_owned());
    }
    let drop = "import os, sys; os.setgroups([]); os.setgid(65534); os.setuid(65534); \
                os.execv(sys.argv[1], sys.argv[1:])";
    let command = ["python3", "-c", drop, "/mnt/share/tour-rust"];
    let output = run(world.guest(), &GuestCommand::new(&command));
    assert_eq!(output.stdout_text(), TOUR, "{}", output.stderr_text());
    assert!(output.stderr_text().contains("through stream"), "{}", output.stderr_text());
    let listed = listing(world, &[]);
    for word in ["kv", "process", "1-2", "there", "resolver", "socket", "gateway", "outsock ("] {
        assert!(listed.contains(word), "{word}: {listed}");
    }
    assert!(!listed.contains("secret"), "{listed}");
    Verdict::Passed
}
