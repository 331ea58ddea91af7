//! Guest images: a kernel, its modules and an init, in a cache directory.
//!
//! Enters: a [`Kernel`] and a directory. Leaves: an [`Image`], ready to boot any number of guests.
//! Owns the directory. Invariant: an image is complete or not there; every file appears by a rename.
//! Bound: packages are fetched once per directory and layout; a lock file lets one process work at a time.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::elf;
use crate::initramfs::Initramfs;
use crate::kernel::{Kernel, MonitorKind};
use crate::modules::{Module, ModuleError, ModuleTree};
use crate::packages::{PackageError, Suite, install_missing};
use crate::sys;

const GUEST_EXEC: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/guest-exec"));
const INIT: &[u8] = include_bytes!("init.sh");
const BUSYBOX: &str = "/bin/busybox";
/// Raised when the set of unpacked packages or their place changes.
const TREE_LAYOUT: u32 = 2;

/// Why an image is not ready.
#[derive(Debug, thiserror::Error)]
pub enum ImageError {
    /// A package could not be fetched or installed.
    #[error(transparent)]
    Package(#[from] PackageError),
    /// The kernel's modules could not be collected.
    #[error(transparent)]
    Module(#[from] ModuleError),
    /// The package does not hold what it should.
    #[error(
        "the package of {kernel} has no {what}: remove {directory} and prepare the image again"
    )]
    Incomplete {
        /// The kernel.
        kernel: Kernel,
        /// What is not there.
        what: &'static str,
        /// Where it was looked for.
        directory: PathBuf,
    },
    /// A file of the cache cannot be used.
    #[error("cannot use {path}: {source}; check the space and the permissions there")]
    File {
        /// File or directory.
        path: PathBuf,
        /// The system's word.
        source: io::Error,
    },
}

fn file_error(path: &Path) -> impl FnOnce(io::Error) -> ImageError {
    move |source| ImageError::File { path: path.to_owned(), source }
}

/// A kernel with all that a guest of it needs.
#[derive(Clone, Debug)]
pub struct Image {
    pub(crate) kernel: Kernel,
    /// What the monitor starts: a bzImage, or the program that *is* the kernel.
    pub(crate) program: PathBuf,
    /// QEMU only.
    pub(crate) initramfs: PathBuf,
    /// User Mode Linux only: holds `init`, `guest-exec` and `modules/`.
    pub(crate) files: PathBuf,
    /// The directory named like the kernel's release, for modprobe.
    pub(crate) modules: PathBuf,
    /// User Mode Linux only: where its libc is.
    pub(crate) libraries: Option<PathBuf>,
}

impl Image {
    /// Which kernel it is.
    #[must_use]
    pub fn kernel(&self) -> Kernel {
        self.kernel
    }

    /// The kernel's release, as `uname -r` will print it.
    #[must_use]
    pub fn release(&self) -> String {
        self.modules.file_name().unwrap_or_default().to_string_lossy().into_owned()
    }
}

/// A cache of guest images.
#[derive(Clone, Debug)]
pub struct Images {
    directory: PathBuf,
}

impl Images {
    /// Images below `directory`, which need not exist yet.
    #[must_use]
    pub fn new(directory: impl Into<PathBuf>) -> Self {
        Self { directory: directory.into() }
    }

    /// The workspace's own cache: `$OUTSOCK_GUESTS`, else `guests/` in the workspace's target directory.
    #[must_use]
    pub fn in_target_directory() -> Self {
        let variable =
            |name| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
        let target = || {
            variable("CARGO_TARGET_DIR")
                .unwrap_or_else(|| Path::new(env!("CARGO_MANIFEST_DIR")).join("../../target"))
        };
        Self::new(variable("OUTSOCK_GUESTS").unwrap_or_else(|| target().join("guests")))
    }

    /// Makes the image of `kernel`, or finds it. Installs missing host packages, fetches the kernel's package, and
    /// says through `progress` what it does.
    ///
    /// # Errors
    /// [`ImageError`], whose message says what to do.
    pub fn prepare(
        &self,
        kernel: Kernel,
        progress: &mut dyn FnMut(&str),
    ) -> Result<Image, ImageError> {
        let directory = self.directory.join(kernel.name());
        fs::create_dir_all(&directory).map_err(file_error(&directory))?;
        // The guest sees the host's file system: only absolute paths mean the same there.
        let directory = directory.canonicalize().map_err(file_error(&directory))?;
        let lock_path = directory.join("lock");
        let lock = File::create(&lock_path).map_err(file_error(&lock_path))?;
        sys::lock_exclusive(&lock).map_err(file_error(&lock_path))?;
        install_missing(kernel.host_packages(), progress)?;
        let tree = directory.join("tree");
        unpack_once(kernel, &directory, &tree, progress)?;
        match kernel.monitor() {
            MonitorKind::Qemu => qemu_image(kernel, &directory, &tree),
            MonitorKind::Uml => uml_image(kernel, &directory, &tree),
        }
    }
}

/// Fetches and unpacks the kernel's packages unless that is done.
fn unpack_once(
    kernel: Kernel,
    directory: &Path,
    tree: &Path,
    progress: &mut dyn FnMut(&str),
) -> Result<(), ImageError> {
    let stamp = directory.join("tree.layout");
    let layout = TREE_LAYOUT.to_string();
    if fs::read_to_string(&stamp).is_ok_and(|found| found == layout) {
        return Ok(());
    }
    remove_directory(tree)?;
    let unfinished = directory.join("tree.unfinished");
    remove_directory(&unfinished)?;
    let suite = Suite::open(kernel.suite(), directory.join("apt"), progress)?;
    match kernel.monitor() {
        MonitorKind::Qemu => {
            let package = suite.dependency("linux-image-amd64", "linux-image-")?;
            suite.unpack(&package, &unfinished, progress)?;
        }
        MonitorKind::Uml => {
            suite.unpack("user-mode-linux", &unfinished, progress)?;
            suite.unpack("libc6", &unfinished, progress)?;
        }
    }
    index_modules(kernel, &unfinished, progress)?;
    fs::rename(&unfinished, tree).map_err(file_error(tree))?;
    remove_directory(&directory.join("apt"))?;
    write_if_changed(&stamp, layout.as_bytes(), false)
}

/// `modprobe` in the guest wants `modules.dep`, which Debian's kernel packages make when they are installed (the one
/// of User Mode Linux brings it). Without it a guest still boots: init loads what it needs by itself.
fn index_modules(
    kernel: Kernel,
    tree: &Path,
    progress: &mut dyn FnMut(&str),
) -> Result<(), ImageError> {
    let modules = module_directory(kernel, tree)?;
    if modules.join("modules.dep.bin").exists() {
        return Ok(());
    }
    let release = modules.file_name().unwrap_or_default();
    // ROOT/lib/modules/RELEASE
    let root = modules.ancestors().nth(3).unwrap_or(tree);
    let status = Command::new("/sbin/depmod").arg("-b").arg(root).arg(release).status();
    if !status.is_ok_and(|status| status.success()) {
        progress("depmod failed: modprobe will not work in these guests");
    }
    Ok(())
}

fn remove_directory(path: &Path) -> Result<(), ImageError> {
    match fs::remove_dir_all(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(file_error(path)(error)),
        _ => Ok(()),
    }
}

/// The directory below `tree` that is named like the kernel's release.
fn module_directory(kernel: Kernel, tree: &Path) -> Result<PathBuf, ImageError> {
    for parent in ["lib/modules", "usr/lib/modules", "usr/lib/uml/modules"] {
        let Ok(entries) = fs::read_dir(tree.join(parent)) else { continue };
        for entry in entries.flatten() {
            if entry.path().join("modules.builtin").exists() {
                return Ok(entry.path());
            }
        }
    }
    Err(ImageError::Incomplete { kernel, what: "kernel modules", directory: tree.to_owned() })
}

fn qemu_image(kernel: Kernel, directory: &Path, tree: &Path) -> Result<Image, ImageError> {
    let modules = module_directory(kernel, tree)?;
    let release = modules.file_name().unwrap_or_default().to_string_lossy();
    let program = tree.join("boot").join(format!("vmlinuz-{release}"));
    if !program.exists() {
        return Err(ImageError::Incomplete { kernel, what: "vmlinuz", directory: tree.to_owned() });
    }
    let loaded = ModuleTree::open(&modules)?.collect(kernel.modules())?;
    let busybox = fs::read(BUSYBOX).map_err(file_error(Path::new(BUSYBOX)))?;
    let initramfs = directory.join("initramfs.cpio");
    write_if_changed(&initramfs, &pack(&loaded, &busybox), false)?;
    Ok(Image { kernel, program, initramfs, files: directory.to_owned(), modules, libraries: None })
}

fn pack(modules: &[Module], busybox: &[u8]) -> Vec<u8> {
    let mut archive = Initramfs::default();
    for name in ["bin", "dev", "proc", "sys", "mnt", "lower", "outsock", "outsock/modules"] {
        archive.directory(name);
    }
    archive.character_device("dev/console", 5, 1);
    archive.program("bin/busybox", busybox);
    archive.program("init", INIT);
    archive.program("outsock/guest-exec", GUEST_EXEC);
    for (index, module) in modules.iter().enumerate() {
        archive.program(&format!("outsock/modules/{index:02}-{}.ko", module.name), &module.bytes);
    }
    archive.finish()
}

fn uml_image(kernel: Kernel, directory: &Path, tree: &Path) -> Result<Image, ImageError> {
    let incomplete = |what| ImageError::Incomplete { kernel, what, directory: tree.to_owned() };
    let modules = module_directory(kernel, tree)?;
    let libraries = ["usr/lib/x86_64-linux-gnu", "lib/x86_64-linux-gnu"]
        .map(|path| tree.join(path))
        .into_iter()
        .find(|path| path.join("libc.so.6").exists())
        .ok_or_else(|| incomplete("libc.so.6"))?;
    let loader = libraries.join("ld-linux-x86-64.so.2");
    if !loader.exists() {
        return Err(incomplete("ld-linux-x86-64.so.2"));
    }
    // Started through its loader by hand, the kernel would find its heap in the wrong place and see no memory.
    let original =
        fs::read(tree.join("usr/bin/linux.uml")).map_err(|_| incomplete("usr/bin/linux.uml"))?;
    let patched = elf::with_loader(&original, loader.as_os_str().as_encoded_bytes());
    let program = directory.join("linux.uml");
    write_if_changed(
        &program,
        &patched.ok_or_else(|| incomplete("usr/bin/linux.uml that is an ELF program"))?,
        true,
    )?;
    let loaded = directory.join("modules");
    fs::create_dir_all(&loaded).map_err(file_error(&loaded))?;
    write_modules(&loaded, &ModuleTree::open(&modules)?.collect(kernel.modules())?)?;
    write_if_changed(&directory.join("init"), INIT, true)?;
    write_if_changed(&directory.join("guest-exec"), GUEST_EXEC, true)?;
    Ok(Image {
        kernel,
        program,
        initramfs: PathBuf::new(),
        files: directory.to_owned(),
        modules,
        libraries: Some(libraries),
    })
}

/// Makes `directory` hold these modules and no others: init loads every one that is there.
fn write_modules(directory: &Path, modules: &[Module]) -> Result<(), ImageError> {
    let numbered = modules.iter().enumerate();
    let names: Vec<String> =
        numbered.map(|(index, module)| format!("{index:02}-{}.ko", module.name)).collect();
    for entry in fs::read_dir(directory).map_err(file_error(directory))?.flatten() {
        if !names.iter().any(|name| entry.file_name() == name.as_str()) {
            fs::remove_file(entry.path()).map_err(file_error(&entry.path()))?;
        }
    }
    for (name, module) in names.iter().zip(modules) {
        write_if_changed(&directory.join(name), &module.bytes, false)?;
    }
    Ok(())
}

/// Writes by a rename, so that a guest that is booting sees the old file or the new one.
fn write_if_changed(path: &Path, bytes: &[u8], executable: bool) -> Result<(), ImageError> {
    if fs::read(path).is_ok_and(|found| found == bytes) {
        return Ok(());
    }
    let unfinished = path.with_extension("unfinished");
    fs::write(&unfinished, bytes).map_err(file_error(&unfinished))?;
    if executable {
        let mode = std::os::unix::fs::PermissionsExt::from_mode(0o755);
        fs::set_permissions(&unfinished, mode).map_err(file_error(&unfinished))?;
    }
    fs::rename(&unfinished, path).map_err(file_error(path))
}
