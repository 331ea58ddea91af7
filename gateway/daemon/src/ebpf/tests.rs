//! The example's object, compiled with clang and run by this host's kernel.

use std::path::{Path, PathBuf};
use std::process::Command;

use super::*;

const BOOT_CLOCK: u32 = 1;
const LOAD: u32 = 2;
const CALLS: u32 = 3;

/// Compiles a source. `cargo xtask test` installs clang for this part.
fn compiled(source: &Path, folder: &Path) -> PathBuf {
    let object = folder.join("module.bpf.o");
    let mut clang = Command::new("clang");
    clang.args(["-O2", "-g", "-target", "bpf", "-Wall", "-Werror", "-c", "-o"]).arg(&object);
    let status = clang.arg(source).status().unwrap_or_else(|error| panic!("clang: {error}"));
    assert!(status.success());
    object
}

fn example() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../examples/ebpf/hostinfo.bpf.c")
}

fn load(object: &Path, functions: &[&str]) -> Result<EbpfModule, String> {
    let functions: Vec<String> = functions.iter().map(|name| (*name).to_owned()).collect();
    EbpfModule::load("hostinfo".parse().unwrap(), object, &functions, Version(3))
}

#[tokio::test]
async fn the_kernel_answers() {
    let folder = tempfile::tempdir().unwrap();
    let object = compiled(&example(), folder.path());
    let module = load(&object, &["boot_clock", "load", "calls"]).unwrap();
    let caller = Caller::new("web", 3);
    let call = async |function, arguments: &[u8]| {
        module.call(&caller, Version(3), function, arguments.to_vec()).await
    };
    let seconds = async || {
        let bytes = call(BOOT_CLOCK, b"").await.unwrap();
        u64::from_le_bytes(bytes.as_slice().try_into().unwrap()) / 1_000_000_000
    };
    let before = seconds().await;
    let uptime = std::fs::read_to_string("/proc/uptime").unwrap();
    let uptime: u64 = uptime.split('.').next().unwrap().parse().unwrap();
    let after = seconds().await;
    assert!((before..=after).contains(&uptime), "{before} {uptime} {after}");
    assert_eq!(call(CALLS, b"").await.unwrap(), 2u64.to_le_bytes(), "its map keeps state");
    let symbols = std::fs::read_to_string("/proc/kallsyms").unwrap();
    let averages = call(LOAD, b"").await;
    if symbols.lines().any(|line| line.ends_with(" avenrun")) {
        let averages = averages.unwrap();
        assert_eq!(averages.len(), 24);
        let load = u64::from_le_bytes(*averages.first_chunk().unwrap());
        println!("load {load} / 2048; {}", std::fs::read_to_string("/proc/loadavg").unwrap());
        assert!(load < 2048 * 10_000, "{load}");
    } else {
        // A kernel without CONFIG_KALLSYMS_ALL does not say where it keeps them.
        assert_eq!(averages, Err(CallError::Errno(Errno::ENOENT)));
    }
    // The function's own error, and what the module refuses by itself.
    assert_eq!(call(LOAD, b"x").await, Err(CallError::Errno(Errno::EINVAL)));
    assert_eq!(call(0, b"").await, Err(CallError::NoSuchFunction));
    assert_eq!(call(4, b"").await, Err(CallError::NoSuchFunction));
    assert_eq!(call(LOAD, &[0; 4097]).await, Err(CallError::BadArguments));
}

#[test]
fn what_is_wrong_with_an_object_is_said() {
    let folder = tempfile::tempdir().unwrap();
    let missing = load(&folder.path().join("nothing.o"), &["f"]).unwrap_err();
    assert!(missing.contains("nothing.o"), "{missing}");
    let text = folder.path().join("text.o");
    std::fs::write(&text, "no object").unwrap();
    assert!(load(&text, &["f"]).is_err());
    let object = compiled(&example(), folder.path());
    let unknown = load(&object, &["boot_clock", "reboot"]).unwrap_err();
    assert!(unknown.contains("reboot"), "{unknown}");
    // A program that the verifier does not take.
    let source = folder.path().join("wild.bpf.c");
    let wild = "#define SEC(n) __attribute__((section(n), used))\n\
                SEC(\"syscall\") int wild(int *call) { return *(int *)(long)call[0]; }\n\
                char LICENSE[] SEC(\"license\") = \"GPL\";\n";
    std::fs::write(&source, wild).unwrap();
    let object = compiled(&source, folder.path());
    let refused = load(&object, &["wild"]).unwrap_err();
    assert!(refused.contains("does not take it"), "{refused}");
}
