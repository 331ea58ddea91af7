//! Host: real servers as processes, on loopback, with ports that the system chose.
//!
//! in: a program and its options; out: a [`ServerProcess`]. Owner: the world, dropping one kills it. Kept:
//! each dies with this process, whatever ends that. Bound: [`START_TIMEOUT`].

use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use outsock_site::{Directory, tied};

const START_TIMEOUT: Duration = Duration::from_secs(10);
const POLL: Duration = Duration::from_millis(20);

/// A server that runs.
#[derive(Debug)]
pub(crate) struct ServerProcess {
    child: Child,
    pub(crate) address: SocketAddr,
}

impl Drop for ServerProcess {
    fn drop(&mut self) {
        // Its own process group: what it forked ends too.
        let group = format!("-{}", self.child.id());
        let _ = Command::new("kill").args(["-KILL", "--", &group]).stderr(Stdio::null()).status();
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A port that is free now. Another program could take it before its server does; then that server fails
/// to start, which is seen.
pub(crate) fn free_address() -> SocketAddr {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    listener.local_addr().unwrap()
}

/// Where nobody listens.
pub(crate) fn closed_address() -> SocketAddr {
    free_address()
}

/// The first of these files that exists.
pub(crate) fn program(names: &[&str]) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let mut directories: Vec<PathBuf> = std::env::split_paths(&path).collect();
    directories.extend(["/usr/sbin".into(), "/sbin".into()]);
    let candidates =
        names.iter().flat_map(|name| directories.iter().map(move |path| path.join(name)));
    candidates.into_iter().find(|candidate| candidate.is_file())
}

pub(crate) fn start(
    command: &mut Command,
    address: SocketAddr,
    log: &Path,
) -> Result<ServerProcess, String> {
    let name = format!("{command:?}");
    let file = std::fs::File::create(log).map_err(|error| error.to_string())?;
    let errors = file.try_clone().map_err(|error| error.to_string())?;
    let child = command
        .stdin(Stdio::null())
        .stdout(file)
        .stderr(errors)
        .spawn()
        .map_err(|error| format!("{name}: {error}"))?;
    let mut server = ServerProcess { child, address };
    let deadline = Instant::now() + START_TIMEOUT;
    while TcpStream::connect(address).is_err() {
        let ended = server.child.try_wait().ok().flatten();
        if ended.is_some() || Instant::now() > deadline {
            let said = std::fs::read_to_string(log).unwrap_or_default();
            return Err(format!("{name} does not listen; it said: {}", said.trim()));
        }
        std::thread::sleep(POLL);
    }
    Ok(server)
}

/// `git daemon` for the repositories in `base`.
pub(crate) fn git_daemon(directory: &Directory, base: &Path) -> Result<ServerProcess, String> {
    let output = Command::new("git").arg("--exec-path").output().map_err(|_| missing("git"))?;
    // The program itself: `git` would stand between us and it.
    let daemon = Path::new(String::from_utf8_lossy(&output.stdout).trim()).join("git-daemon");
    if !daemon.is_file() {
        return Err(missing("git"));
    }
    let address = free_address();
    let mut command = tied(daemon);
    command.args(["--listen=127.0.0.1", "--reuseaddr", "--export-all"]);
    command.arg(format!("--port={}", address.port()));
    command.arg(format!("--base-path={}", base.display()));
    start(&mut command, address, &directory.path("git-daemon.log"))
}

/// The agent's `ends.py`, which says how connections end.
pub(crate) fn ends(directory: &Directory) -> Result<ServerProcess, String> {
    const PROGRAM: &str = include_str!("../../../../guest/agent/tests/programs/ends.py");
    let python = program(&["python3"]).ok_or_else(|| missing("python3"))?;
    let file = directory.path("ends.py");
    std::fs::write(&file, PROGRAM).map_err(|error| error.to_string())?;
    let address = free_address();
    let mut command = tied(python);
    command.arg(file).arg(address.to_string());
    start(&mut command, address, &directory.path("ends.log"))
}

/// `iperf3 -s`.
pub(crate) fn iperf3(directory: &Directory) -> Result<ServerProcess, String> {
    let iperf3 = program(&["iperf3"]).ok_or_else(|| missing("iperf3"))?;
    let address = free_address();
    let mut command = tied(iperf3);
    command.args(["-s", "-B", "127.0.0.1", "-p", &address.port().to_string()]);
    start(&mut command, address, &directory.path("iperf3.log"))
}

/// An sshd with keys of its own. The client's key is `ssh_key` in the shared directory.
pub(crate) fn sshd(directory: &Directory) -> Result<ServerProcess, String> {
    let sshd = program(&["sshd"]).ok_or(
        "no sshd on this machine; apt-get install openssh-server brings it (and starts Debian's ssh service, \
         so the tests do not do that by themselves)",
    )?;
    let privilege_separation = Path::new("/run/sshd");
    if !privilege_separation.exists() {
        // Root's sshd insists on this one; the service would have made it.
        let made = std::fs::DirBuilder::new().mode(0o755).create(privilege_separation);
        made.map_err(|error| format!("sshd needs the directory /run/sshd: {error}"))?;
    }
    let (host_key, client_key) = (directory.path("host_key"), directory.share().join("ssh_key"));
    for key in [&host_key, &client_key] {
        let made = Command::new("ssh-keygen")
            .args(["-q", "-t", "ed25519", "-N", "", "-f"])
            .arg(key)
            .status();
        if !made.is_ok_and(|status| status.success()) {
            return Err(missing("openssh-client"));
        }
    }
    let address = free_address();
    let public = client_key.with_extension("pub");
    let config = format!(
        "Port {}\nListenAddress 127.0.0.1\nHostKey {}\nPidFile none\nUsePAM no\nStrictModes no\n\
         PermitRootLogin prohibit-password\nPasswordAuthentication no\nAuthorizedKeysFile {}\n",
        address.port(),
        host_key.display(),
        public.display(),
    );
    let file = directory.path("sshd_config");
    std::fs::write(&file, config).map_err(|error| error.to_string())?;
    let mut command = tied(sshd);
    command.args(["-D", "-e", "-f"]).arg(file);
    start(&mut command, address, &directory.path("sshd.log"))
}

/// A repository to clone, and the commit that its head is.
pub(crate) fn repository(path: &Path) -> Result<String, String> {
    let git = |arguments: &[&str]| {
        let output = Command::new("git")
            .args(["-c", "user.name=outsock", "-c", "user.email=outsock@invalid", "-C"])
            .arg(path)
            .args(arguments)
            .output()
            .map_err(|_| missing("git"))?;
        if output.status.success() {
            Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
        } else {
            Err(String::from_utf8_lossy(&output.stderr).into_owned())
        }
    };
    std::fs::create_dir_all(path).map_err(|error| error.to_string())?;
    git(&["init", "--quiet"])?;
    // Random-looking, so that the pack is as large as the files.
    let bytes = outsock_e2e::pattern::bytes(300_000);
    for number in 0..20_usize {
        let file = path.join(format!("file-{number}"));
        std::fs::write(file, &bytes[number * 1000..]).map_err(|error| error.to_string())?;
    }
    git(&["add", "."])?;
    git(&["commit", "--quiet", "-m", "files"])?;
    git(&["rev-parse", "HEAD"])
}

pub(crate) fn missing(package: &str) -> String {
    format!("not on this machine: apt-get install {package}")
}
