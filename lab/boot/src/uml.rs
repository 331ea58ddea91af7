//! User Mode Linux: its command line and its run directory.
//!
//! Enters: boot options. Leaves: a `Command` whose standard input is the command channel and whose standard output
//! is the console. Owns the run directory (UML's management socket lives there). Invariant: the guest's memory is
//! an unlinked file that the kernel itself shares with its vhost-user backend; no network device.
//! Bound: memory must fit where its file is, checked before the start.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::Command;

use tempfile::TempDir;

use crate::guest::BootOptions;
use crate::sys;

const RUN_DIRECTORY_PREFIX: &str = "outsock-uml-";
const SHARED_MEMORY: &str = "/dev/shm";
/// Left free beside a guest's memory.
const SPARE_BYTES: u64 = 16 * 1024 * 1024;
/// The virtio device type of vsock.
const VIRTIO_ID_VSOCK: u32 = 19;

/// Makes the run directory, and removes those of processes that died without doing so.
pub(crate) fn run_directory() -> io::Result<TempDir> {
    let base = std::env::temp_dir();
    for entry in fs::read_dir(&base)?.flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        let owner = name.strip_prefix(RUN_DIRECTORY_PREFIX).and_then(|rest| rest.split('-').next());
        if owner
            .and_then(|owner| owner.parse().ok())
            .is_some_and(|owner: u32| !sys::process_exists(owner))
        {
            // Another process may remove it at the same moment.
            let _ = fs::remove_dir_all(entry.path());
        }
    }
    let prefix = format!("{RUN_DIRECTORY_PREFIX}{}-", std::process::id());
    tempfile::Builder::new().prefix(&prefix).tempdir_in(base)
}

/// Where a file of `memory_mib` fits: in memory if it can, else in the directory for temporary files.
/// `None` if it fits nowhere.
pub(crate) fn memory_directory(memory_mib: u32) -> Option<PathBuf> {
    let needed = u64::from(memory_mib) * 1024 * 1024 + SPARE_BYTES;
    let candidates = [PathBuf::from(SHARED_MEMORY), std::env::temp_dir()];
    candidates.into_iter().find(|path| sys::free_bytes(path).is_ok_and(|free| free >= needed))
}

/// Whether the kernel's command line can carry `path`: it splits at spaces, and the device option at colons.
pub(crate) fn can_carry(path: &Path) -> bool {
    path.to_str().is_some_and(|text| !text.contains([' ', '\t', '\n', ':', ',', '"']))
}

/// The command that runs `options`; `environment` is what init wants to know, for the kernel's command line.
pub(crate) fn command(
    options: &BootOptions,
    environment: &str,
    run_directory: &Path,
    memory_directory: &Path,
) -> Command {
    let image = &options.image;
    let mut uml = Command::new(&image.program);
    uml.env_clear().env("HOME", run_directory).env("TMPDIR", memory_directory);
    if let Some(libraries) = &image.libraries {
        uml.env("LD_LIBRARY_PATH", libraries);
    }
    uml.arg(format!("mem={}M", options.memory_mib));
    uml.arg(format!("uml_dir={}", run_directory.display()))
        .arg(format!("umid={}", umid(&options.name)));
    uml.args(["root=none", "rootfstype=hostfs", "rootflags=/", "ro", "loglevel=4", "panic=1"]);
    uml.args(["con0=null,fd:1", "con=null", "ssl0=fd:0", "ssl=null"]);
    if let Some(socket) = &options.vsock_socket {
        uml.arg(format!("virtio_uml.device={}:{VIRTIO_ID_VSOCK}", socket.display()));
    }
    uml.arg(format!("init={}", image.files.join("init").display()));
    uml.args(&options.kernel_arguments);
    uml.args(environment.split(' '));
    uml
}

/// A name that UML may use for a file.
fn umid(name: &str) -> String {
    name.chars()
        .map(|letter| if letter.is_ascii_alphanumeric() { letter } else { '-' })
        .take(32)
        .collect()
}
