//! One running guest.
//!
//! Enters: [`BootOptions`]. Leaves: a [`Guest`] that runs commands. The guest owns its monitor's process group, its
//! command channel, its console and its run directory. Invariant: nothing of a guest outlives its `Guest`, nor the
//! process that booted it. Bound: every wait has a deadline; `limits.rs` has them.

use std::ffi::OsStr;
use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use tempfile::TempDir;

use crate::accel::Accelerator;
use crate::channel::{Channel, ChannelError};
use crate::command::{self, GuestCommand, GuestProcess, Output, RunError};
use crate::console::Console;
use crate::frame::Ready;
use crate::image::Image;
use crate::kernel::MonitorKind;
use crate::limits::{BOOT_TIMEOUT, SHUTDOWN_TIMEOUT, SOCKET_PATH_BYTES_MAX, VSOCK_SOCKET_TIMEOUT};
use crate::process::Monitor;
use crate::{qemu, uml};

const SOCKET_POLL_INTERVAL: Duration = Duration::from_millis(10);
/// After the channel broke: time for the console's last words to come through.
const LAST_WORDS: Duration = Duration::from_millis(300);

/// How to boot a guest.
#[derive(Clone, Debug)]
pub struct BootOptions {
    /// The kernel and what goes with it.
    pub image: Image,
    /// The guest's host name (letters, digits, `-`).
    pub name: String,
    /// The socket of a vhost-user vsock backend that listens there, or will within ten seconds. `None`: a guest
    /// without a vsock device.
    pub vsock_socket: Option<PathBuf>,
    /// The CID that the backend must have given; the boot fails if the guest sees another one.
    pub cid: Option<u32>,
    /// The guest's memory.
    pub memory_mib: u32,
    /// The guest's processors. User Mode Linux has one, whatever is said here.
    /// One by default: under QEMU's software emulation a second processor sometimes runs into the
    /// breakpoint that the kernel patches its code with (`Oops: int3` in the first seconds).
    pub cpus: u32,
    /// A host directory that the guest may write, at `/mnt/share`.
    pub share: Option<PathBuf>,
    /// How QEMU runs the guest's instructions.
    pub accelerator: Accelerator,
    /// Added to the kernel's command line.
    pub kernel_arguments: Vec<String>,
    /// A file for all that the console prints.
    pub console_log: Option<PathBuf>,
    /// How long the guest may take to come up.
    pub boot_timeout: Duration,
}

impl BootOptions {
    /// A guest of `image` named `guest`, with 512 MiB, two processors, no vsock device and no share directory.
    #[must_use]
    pub fn new(image: Image) -> Self {
        Self {
            image,
            name: "guest".to_owned(),
            vsock_socket: None,
            cid: None,
            memory_mib: 512,
            cpus: 1,
            share: None,
            accelerator: Accelerator::Auto,
            kernel_arguments: Vec::new(),
            console_log: None,
            boot_timeout: BOOT_TIMEOUT,
        }
    }
}

/// Why a guest did not come up.
#[derive(Debug, thiserror::Error)]
pub enum BootError {
    /// An option cannot be used.
    #[error("cannot boot the guest: {0}")]
    Option(String),
    /// Nobody listens at the vsock socket.
    #[error(
        "no vhost-user socket appeared at {0} within {VSOCK_SOCKET_TIMEOUT:?}: start the gateway first"
    )]
    NoVsockSocket(PathBuf),
    /// The monitor does not start.
    #[error(
        "cannot start {program}: {source}; prepare the guest image (again), it installs what is missing"
    )]
    Start {
        /// The program.
        program: String,
        /// The system's word.
        source: io::Error,
    },
    /// The monitor or the kernel ended.
    #[error("the guest ended while it booted ({status}); its console ends:\n{console}")]
    Died {
        /// The monitor's exit status.
        status: String,
        /// The console's last lines.
        console: String,
    },
    /// It is not up in time.
    #[error("the guest was not up after {timeout:?} and was killed; its console ends:\n{console}")]
    TimedOut {
        /// The limit.
        timeout: Duration,
        /// The console's last lines.
        console: String,
    },
    /// The backend gave another CID.
    #[error(
        "the guest's vsock CID is {found:?}, not {wanted}: the vhost-user backend at the socket serves another guest"
    )]
    WrongCid {
        /// What the options say.
        wanted: u32,
        /// What the guest sees.
        found: Option<u32>,
    },
}

/// A guest did not power off in time; it was killed.
#[derive(Debug, thiserror::Error)]
#[error(
    "the guest did not power off within {SHUTDOWN_TIMEOUT:?} and was killed; its console ends:\n{0}"
)]
pub struct ShutdownError(String);

/// A running guest. Dropping it kills it.
#[derive(Debug)]
pub struct Guest {
    // Dropped first: its end closes the other side of all that follows.
    monitor: Monitor,
    channel: Arc<Channel>,
    console: Console,
    ready: Ready,
    boot_time: Duration,
    _run_directory: Option<TempDir>,
}

impl Guest {
    /// Boots a guest and waits until it takes commands.
    ///
    /// # Errors
    /// [`BootError`], with the console's last lines where there are any.
    pub fn boot(options: BootOptions) -> Result<Self, BootError> {
        let options = checked(options)?;
        if let Some(socket) = &options.vsock_socket {
            wait_for_socket(socket)?;
        }
        let began = Instant::now();
        let (command, run_directory) = monitor_command(&options)?;
        let (monitor, channel, console) = start(command, &options)?;
        let mut guest = Self {
            monitor,
            channel: Arc::new(channel),
            console,
            ready: Ready { cid: u32::MAX, release: String::new() },
            boot_time: Duration::ZERO,
            _run_directory: run_directory,
        };
        guest.ready = guest.wait_ready(began + options.boot_timeout, options.boot_timeout)?;
        guest.boot_time = began.elapsed();
        match options.cid {
            Some(wanted) if guest.cid() != Some(wanted) => {
                Err(BootError::WrongCid { wanted, found: guest.cid() })
            }
            _ => Ok(guest),
        }
    }

    fn wait_ready(&mut self, deadline: Instant, timeout: Duration) -> Result<Ready, BootError> {
        match self.channel.wait_ready(deadline) {
            Ok(Some(ready)) => Ok(ready),
            Ok(None) => Err(BootError::TimedOut { timeout, console: self.console.tail() }),
            Err(ChannelError::Closed | ChannelError::Full | ChannelError::TooLarge) => {
                let status = self.monitor.wait_until(Instant::now() + LAST_WORDS);
                std::thread::sleep(LAST_WORDS);
                let status = status.map_or_else(
                    || "the monitor still ran".to_owned(),
                    |status| status.to_string(),
                );
                Err(BootError::Died { status, console: self.console.tail() })
            }
        }
    }

    /// Runs a command with a plain environment, without standard input, for at most
    /// [`COMMAND_TIMEOUT`](crate::limits::COMMAND_TIMEOUT).
    ///
    /// # Errors
    /// [`RunError`]; an exit code other than 0 is none.
    pub fn run<S: AsRef<OsStr>>(&self, argv: &[S]) -> Result<Output, RunError> {
        self.run_command(&GuestCommand::new(argv))
    }

    /// Runs a command.
    ///
    /// # Errors
    /// [`RunError`]; an exit code other than 0 is none.
    pub fn run_command(&self, command: &GuestCommand) -> Result<Output, RunError> {
        command::run(&self.channel, &self.console, command)
    }

    /// Starts a command in the background. Its standard input stays open until
    /// [`GuestProcess::close_stdin`].
    ///
    /// # Errors
    /// [`RunError`]; that the program does not exist is told by [`GuestProcess::wait`].
    pub fn spawn(&self, command: &GuestCommand) -> Result<GuestProcess, RunError> {
        command::spawn(&self.channel, &self.console, command, true)
    }

    /// The guest's vsock CID; `None` without a vsock device.
    #[must_use]
    pub fn cid(&self) -> Option<u32> {
        (self.ready.cid != u32::MAX).then_some(self.ready.cid)
    }

    /// The kernel's release, as `uname -r` prints it in the guest.
    #[must_use]
    pub fn release(&self) -> &str {
        &self.ready.release
    }

    /// From the start of the monitor until the guest took commands.
    #[must_use]
    pub fn boot_time(&self) -> Duration {
        self.boot_time
    }

    /// The process id of the monitor, for its memory and processor time in /proc.
    #[must_use]
    pub fn process_id(&self) -> u32 {
        self.monitor.process_id()
    }

    /// What the console printed, its last 256 KiB.
    #[must_use]
    pub fn console(&self) -> String {
        self.console.text()
    }

    /// Whether the guest still runs.
    pub fn is_running(&mut self) -> bool {
        self.monitor.exited().is_none()
    }

    /// Powers the guest off and waits for its end.
    ///
    /// # Errors
    /// [`ShutdownError`] if it had to be killed.
    pub fn shutdown(mut self) -> Result<(), ShutdownError> {
        // A guest that is gone already is off.
        let _ = self.channel.shut_down();
        match self.monitor.wait_until(Instant::now() + SHUTDOWN_TIMEOUT) {
            Some(_) => Ok(()),
            None => Err(ShutdownError(self.console.tail())),
        }
    }
}

/// Makes paths absolute (the guest sees the same ones) and refuses what a command line cannot carry.
fn checked(mut options: BootOptions) -> Result<BootOptions, BootError> {
    let refuse = |why: String| Err(BootError::Option(why));
    if options.name.is_empty()
        || !options.name.chars().all(|letter| letter.is_ascii_alphanumeric() || letter == '-')
    {
        return refuse(format!(
            "the name \"{}\" may have only letters, digits and '-'",
            options.name
        ));
    }
    if options.memory_mib < 128 {
        return refuse(format!(
            "{} MiB of memory are too little: give it at least 128",
            options.memory_mib
        ));
    }
    if let Some(share) = &options.share {
        match share.canonicalize() {
            Ok(path) if path.is_dir() => options.share = Some(path),
            Ok(path) => return refuse(format!("the share {} is no directory", path.display())),
            Err(error) => {
                return refuse(format!(
                    "the share directory {}: {error}; create it",
                    share.display()
                ));
            }
        }
    }
    if let Some(socket) = &options.vsock_socket {
        let path = std::path::absolute(socket).map_err(|error| {
            BootError::Option(format!("the vsock socket {}: {error}", socket.display()))
        })?;
        if path.as_os_str().len() > SOCKET_PATH_BYTES_MAX {
            return refuse(format!(
                "the socket path {} is longer than {SOCKET_PATH_BYTES_MAX} bytes, the most that a Unix socket can have",
                path.display()
            ));
        }
        options.vsock_socket = Some(path);
    }
    if options.image.kernel.monitor() == MonitorKind::Uml {
        let paths =
            [Some(&options.image.files), options.share.as_ref(), options.vsock_socket.as_ref()];
        if let Some(path) = paths.into_iter().flatten().find(|path| !uml::can_carry(path)) {
            let path = path.display();
            return refuse(format!(
                "User Mode Linux cannot take the path \"{path}\": no spaces, ':', ',' or '\"'"
            ));
        }
    }
    Ok(options)
}

fn wait_for_socket(socket: &Path) -> Result<(), BootError> {
    let deadline = Instant::now() + VSOCK_SOCKET_TIMEOUT;
    while !socket.exists() {
        if Instant::now() >= deadline {
            return Err(BootError::NoVsockSocket(socket.to_owned()));
        }
        std::thread::sleep(SOCKET_POLL_INTERVAL);
    }
    Ok(())
}

/// What init is told: the kernel hands unknown `NAME=value` words of its command line on as environment.
fn init_environment(options: &BootOptions) -> String {
    let image = &options.image;
    let mut words = vec![format!("OUTSOCK_NAME={}", options.name)];
    words.push(format!("OUTSOCK_STEP={}", image.kernel.channel_step()));
    match image.kernel.monitor() {
        MonitorKind::Qemu => {
            words.push("OUTSOCK_MONITOR=qemu".to_owned());
            if options.share.is_some() {
                words.push("OUTSOCK_SHARE=9p".to_owned());
            }
        }
        MonitorKind::Uml => {
            words.push("OUTSOCK_MONITOR=uml".to_owned());
            words.push(format!("OUTSOCK_FILES={}", image.files.display()));
            if let Some(share) = &options.share {
                words.push(format!("OUTSOCK_SHARE={}", share.display()));
            }
        }
    }
    if let Some(modules) = image.modules.parent().filter(|path| uml::can_carry(path)) {
        words.push(format!("OUTSOCK_MODULES={}", modules.display()));
    }
    words.join(" ")
}

fn monitor_command(options: &BootOptions) -> Result<(Command, Option<TempDir>), BootError> {
    let environment = init_environment(options);
    match options.image.kernel.monitor() {
        MonitorKind::Qemu => Ok((qemu::command(options, &environment), None)),
        MonitorKind::Uml => {
            let run_directory = uml::run_directory().map_err(|error| {
                BootError::Option(format!("no run directory for User Mode Linux: {error}"))
            })?;
            let memory = options.memory_mib;
            let memory_directory = uml::memory_directory(memory).ok_or_else(|| {
                BootError::Option(format!(
                    "{memory} MiB fit neither into /dev/shm nor into the temporary directory"
                ))
            })?;
            let command =
                uml::command(options, &environment, run_directory.path(), &memory_directory);
            Ok((command, Some(run_directory)))
        }
    }
}

/// Starts the monitor with the command channel as its standard input and the console as its two outputs.
fn start(
    mut command: Command,
    options: &BootOptions,
) -> Result<(Monitor, Channel, Console), BootError> {
    let program = Path::new(command.get_program())
        .file_name()
        .unwrap_or_default()
        .to_string_lossy()
        .into_owned();
    let failed = |source| BootError::Start { program: program.clone(), source };
    let log = match &options.console_log {
        Some(path) => Some(File::create(path).map_err(|error| {
            BootError::Option(format!("the console log {}: {error}", path.display()))
        })?),
        None => None,
    };
    let (host, guest) = UnixStream::pair().map_err(failed)?;
    let (reader, writer) = io::pipe().map_err(failed)?;
    let errors = writer.try_clone().map_err(failed)?;
    command.stdin(Stdio::from(OwnedFd::from(guest))).stdout(writer).stderr(errors);
    let console = Console::drain(reader, log).map_err(failed)?;
    let channel = Channel::open(host, options.image.kernel.channel_step()).map_err(failed)?;
    let monitor = Monitor::spawn(command).map_err(failed)?;
    Ok((monitor, channel, console))
}
