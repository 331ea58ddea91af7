//! World: a gateway with modules, their processes, and ways into a virtual guest for programs.

use std::io::Read;
use std::net::Shutdown;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use outsock_harness::{Gateway, Setup};
use outsock_site::{cargo, target_directory, workspace};
use outsock_virtual_guest::{Options, VirtualGuest};
use outsock_vmrpc::host::{HostModule, run_module};
use outsock_vmrpc::limits::VMRPC_PORT;
use outsock_vmrpc::{Binding, Client, Fault, RpcError, VersionRange};

pub(crate) const PATIENCE: Option<Duration> = Some(Duration::from_secs(60));

/// The folder of the gateway and of the C library, built once.
pub(crate) fn built() -> PathBuf {
    static BUILT: OnceLock<()> = OnceLock::new();
    BUILT.get_or_init(|| {
        let mut build = cargo();
        build.args(["build", "--release", "-p", "outsock-gateway", "-p", "outsock-vmrpc-c"]);
        let built = build.output().unwrap();
        assert!(built.status.success(), "{}", String::from_utf8_lossy(&built.stderr));
    });
    target_directory().join("release")
}

/// A process that ends with the value.
#[derive(Debug)]
pub(crate) struct Process(pub(crate) Child);

impl Process {
    pub(crate) fn start(command: &mut Command) -> Self {
        Self(
            command
                .stdin(Stdio::null())
                .spawn()
                .unwrap_or_else(|error| panic!("{command:?}: {error}")),
        )
    }

    pub(crate) fn kill(&mut self) {
        // Fails only when it has ended.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill();
    }
}

pub(crate) struct World {
    pub(crate) gateway: Gateway,
    pub(crate) guest: VirtualGuest,
    pub(crate) runtime: tokio::runtime::Runtime,
}

/// Tables of modules; `secret` is for nobody.
pub(crate) fn module(folder: &Path, name: &str, guests: &str) -> String {
    let socket = folder.join(format!("{name}.sock")).display().to_string();
    format!("[[module]]\nname = {name:?}\nsocket = {socket:?}\nguests = {guests}\n")
}

impl World {
    /// Guests `web` and `other`; `tables` may say more.
    pub(crate) fn start(tables: impl FnOnce(&Path) -> String) -> Self {
        // The gateway's own folder is made when it starts; the modules' sockets need one before.
        let folder = std::env::temp_dir().join(format!("outsock-modules-{}", unique()));
        std::fs::create_dir_all(&folder).unwrap();
        let setup = Setup::new(built().join("outsock-gateway")).guest("web", 3).guest("other", 4);
        let gateway = setup.toml(&tables(&folder)).start().unwrap();
        let guest = gateway.boot("web", Options::default()).unwrap();
        let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
        std::fs::write(gateway.folder().join("modules"), folder.display().to_string()).unwrap();
        Self { gateway, guest, runtime }
    }

    /// Where the modules' sockets are.
    pub(crate) fn folder(&self) -> PathBuf {
        std::fs::read_to_string(self.gateway.folder().join("modules")).unwrap().into()
    }

    pub(crate) fn socket(&self, module: &str) -> PathBuf {
        self.folder().join(format!("{module}.sock"))
    }

    /// A module in this process; aborting the task is its death.
    pub(crate) fn serve(&self, module: impl HostModule) -> tokio::task::JoinHandle<()> {
        let path = self.socket(module.name().as_str());
        self.runtime.spawn(async move {
            let stream = tokio::net::UnixStream::connect(path).await.unwrap();
            let _ = run_module(stream, Arc::new(module)).await;
        })
    }

    /// `outsock-gateway modules --json`.
    pub(crate) fn listing(&self, module: &str) -> serde_json::Value {
        let output = self.gateway.command("modules").arg("--json").output().unwrap();
        let listing: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
        let modules = listing["modules"].as_array().unwrap().iter();
        modules.clone().find(|listed| listed["name"] == module).unwrap().clone()
    }

    /// A Unix socket that leads to the guest's VM RPC, for programs.
    pub(crate) fn way_in(&self) -> PathBuf {
        let path = self.folder().join(format!("way-{}", unique()));
        let listener = UnixListener::bind(&path).unwrap();
        let guest = self.guest.clone();
        std::thread::spawn(move || {
            for program in listener.incoming() {
                let Ok(program) = program else { return };
                let Ok(connection) = guest.open(VMRPC_PORT) else { return };
                let inside = UnixStream::from(connection.into_fd().unwrap());
                let (from, to) = (program.try_clone().unwrap(), inside.try_clone().unwrap());
                std::thread::spawn(move || pump(&from, &to));
                std::thread::spawn(move || pump(&inside, &program));
            }
        });
        path
    }
}

impl Drop for World {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(self.folder());
    }
}

fn unique() -> String {
    static NEXT: std::sync::atomic::AtomicU32 = std::sync::atomic::AtomicU32::new(0);
    let number = NEXT.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
    format!("{}-{number}", std::process::id())
}

fn pump(mut from: &UnixStream, mut to: &UnixStream) {
    let _ = std::io::copy(&mut from, &mut to);
    let _ = to.shutdown(Shutdown::Write);
}

/// Tries again while what runs the module is not there yet.
pub(crate) fn eventually<T>(mut attempt: impl FnMut() -> Result<T, RpcError>) -> T {
    let begun = Instant::now();
    loop {
        match attempt() {
            Err(RpcError::Host(Fault::ModuleUnavailable)) if begun.elapsed().as_secs() < 60 => {
                std::thread::sleep(Duration::from_millis(5));
            }
            outcome => return outcome.unwrap(),
        }
    }
}

pub(crate) fn bind(client: &Client, name: &str, versions: VersionRange) -> Binding {
    eventually(|| client.bind_module(name, versions))
}

/// Runs a program to its end; what it printed.
pub(crate) fn output(command: &mut Command) -> String {
    let mut child = command
        .stdout(Stdio::piped())
        .spawn()
        .unwrap_or_else(|error| panic!("{command:?}: {error}"));
    let mut text = String::new();
    child.stdout.take().unwrap().read_to_string(&mut text).unwrap();
    let status = child.wait().unwrap();
    assert!(status.success(), "{command:?}: {status}\n{text}");
    text
}

pub(crate) fn example(path: &str) -> PathBuf {
    workspace().join("examples").join(path)
}
