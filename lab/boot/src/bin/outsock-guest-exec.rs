//! Runs inside the guest: starts commands that the host asks for and sends back what they print.
//!
//! Enters: frames on standard input (the command channel, a virtio port or a raw tty), and as its argument the number
//! of bytes after which it says that it took them. Leaves: frames on the same
//! descriptor. It owns the processes that it starts, each in its own process group. Invariant: one `Exit` or
//! `Failed` per `Start`, after the command's output. Bound: the host allows a bounded number of commands and
//! bytes of standard input; output is never kept, a slow channel stops the command instead.

#[allow(dead_code, reason = "the host's library uses the other half of this file")]
#[path = "../frame.rs"]
mod frame;

use std::collections::HashMap;
use std::ffi::OsString;
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, AsRawFd};
use std::os::raw::{c_int, c_ulong};
use std::os::unix::ffi::OsStringExt;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::{self, SyncSender};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use frame::{Frame, Kind, Ready, Start};

/// A background process may hold the output open after its parent is gone: wait this long, then say `Exit`.
const OUTPUT_GRACE: Duration = Duration::from_millis(500);
/// Bytes per read of a command's output.
const OUTPUT_CHUNK_BYTES: usize = 64 * 1024;
/// `_IO(7, 0xb9)` of linux/vm_sockets.h.
const IOCTL_VM_SOCKETS_GET_LOCAL_CID: c_ulong = 0x7b9;
/// linux/vm_sockets.h: no device, and the CID that vsock_loopback has when it is alone.
const VMADDR_CID_ANY: u32 = u32::MAX;
const VMADDR_CID_LOCAL: u32 = 1;

unsafe extern "C" {
    fn kill(pid: c_int, signal: c_int) -> c_int;
    fn ioctl(descriptor: c_int, request: c_ulong, ...) -> c_int;
}

type Channel = Arc<Mutex<File>>;
type Commands = Arc<Mutex<HashMap<u32, Running>>>;

/// A command that has not ended yet.
struct Running {
    process_group: c_int,
    stdin: Arc<Stdin>,
}

/// What a command has not read yet. The host bounds its bytes; the thread that reads frames must never wait here,
/// or one command that does not read would hold up all others.
#[derive(Default)]
struct Stdin {
    /// The bytes, and whether they are the last ones.
    pending: Mutex<(Vec<u8>, bool)>,
    changed: Condvar,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn send(channel: &Channel, kind: Kind, command: u32, payload: &[u8]) {
    if let Err(error) = frame::write_frame(&mut *lock(channel), kind, command, payload) {
        // Without the channel nothing can be said or done any more; init powers the guest off.
        eprintln!("guest-exec: the command channel is broken: {error}");
        std::process::exit(1);
    }
}

fn main() -> io::Result<()> {
    let descriptor = io::stdin().as_fd().try_clone_to_owned()?;
    let source = File::from(descriptor.try_clone()?);
    let channel: Channel = Arc::new(Mutex::new(File::from(descriptor)));
    let step = std::env::args().nth(1).and_then(|step| step.parse().ok()).unwrap_or(1);
    let mut reader = Acknowledging { source, channel: Arc::clone(&channel), taken: 0, step };
    let commands = Commands::default();
    let release = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    let ready = Ready { cid: local_cid(), release: release.trim().to_owned() };
    lock(&channel).write_all(&frame::MAGIC)?;
    send(&channel, Kind::Ready, 0, &ready.encode());
    while let Some(frame) = frame::read_frame(&mut reader)? {
        match frame.kind {
            Kind::Start => start(&channel, &commands, &frame),
            Kind::Stdin | Kind::StdinEnd => feed(&commands, &frame),
            Kind::Signal => signal(&commands, &frame)?,
            Kind::Shutdown => break,
            Kind::Ready | Kind::Stdout | Kind::Stderr | Kind::Exit | Kind::Failed | Kind::Taken => {
                eprintln!(
                    "guest-exec: the host sent a frame that only a guest sends: {:?}",
                    frame.kind
                );
            }
        }
    }
    Ok(())
}

/// Tells the host of the bytes that were read, so that it never sends more than the device between can hold.
struct Acknowledging {
    source: File,
    channel: Channel,
    taken: usize,
    step: usize,
}

impl Read for Acknowledging {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.source.read(buffer)?;
        self.taken += count;
        if self.taken >= self.step {
            let taken = i32::try_from(self.taken).unwrap_or(i32::MAX);
            send(&self.channel, Kind::Taken, 0, &frame::encode_pair(taken, 0));
            self.taken = 0;
        }
        Ok(count)
    }
}

/// This guest's CID, or `VMADDR_CID_ANY` where there is no vsock device.
fn local_cid() -> u32 {
    let Ok(device) = File::open("/dev/vsock") else { return VMADDR_CID_ANY };
    let mut cid = VMADDR_CID_ANY;
    // SAFETY: the descriptor is open, and the request writes one u32 to the address of a live u32.
    let result = unsafe { ioctl(device.as_raw_fd(), IOCTL_VM_SOCKETS_GET_LOCAL_CID, &raw mut cid) };
    if result < 0 || cid == VMADDR_CID_LOCAL { VMADDR_CID_ANY } else { cid }
}

fn start(channel: &Channel, commands: &Commands, frame: &Frame) {
    match Start::decode(&frame.payload).and_then(|start| spawn(&start)) {
        Ok(child) => supervise(channel, commands, frame.command, child),
        Err(error) => {
            let mut payload = frame::encode_pair(error.raw_os_error().unwrap_or(0), 0);
            payload.extend_from_slice(error.to_string().as_bytes());
            send(channel, Kind::Failed, frame.command, &payload);
        }
    }
}

fn spawn(start: &Start) -> io::Result<Child> {
    let text = |bytes: &Vec<u8>| OsString::from_vec(bytes.clone());
    let mut argv = start.argv.iter().map(text);
    let program = argv.next().ok_or_else(|| io::Error::other("an empty command line"))?;
    Command::new(program)
        .args(argv)
        .env_clear()
        .envs(start.environment.iter().map(|(name, value)| (text(name), text(value))))
        .current_dir(text(&start.directory))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .process_group(0)
        .spawn()
}

/// Hands the three streams and the end of `child` to threads of their own.
fn supervise(channel: &Channel, commands: &Commands, command: u32, mut child: Child) {
    let process_group = c_int::try_from(child.id()).unwrap_or(0);
    let stdin = Arc::new(Stdin::default());
    lock(commands).insert(command, Running { process_group, stdin: Arc::clone(&stdin) });
    if let Some(pipe) = child.stdin.take() {
        std::thread::spawn(move || write_stdin(pipe, &stdin));
    }
    let (done_sender, done_receiver) = mpsc::sync_channel(2);
    if let Some(stdout) = child.stdout.take() {
        forward(channel, command, Kind::Stdout, stdout, done_sender.clone());
    }
    if let Some(stderr) = child.stderr.take() {
        forward(channel, command, Kind::Stderr, stderr, done_sender);
    }
    let (channel, commands) = (Arc::clone(channel), Arc::clone(commands));
    std::thread::spawn(move || {
        let status = child.wait();
        for _ in 0..2 {
            // Both senders gone or silent for long: either way the command itself is over.
            let _ = done_receiver.recv_timeout(OUTPUT_GRACE);
        }
        if let Some(running) = lock(&commands).remove(&command) {
            // Else its writer would wait for more for ever.
            running.stdin.push(&[], true);
        }
        let (code, signal) =
            status.map_or((255, -1), |s| (s.code().unwrap_or(-1), s.signal().unwrap_or(-1)));
        send(&channel, Kind::Exit, command, &frame::encode_pair(code, signal));
    });
}

impl Stdin {
    fn push(&self, bytes: &[u8], last: bool) {
        let mut pending = lock(&self.pending);
        pending.0.extend_from_slice(bytes);
        pending.1 |= last;
        self.changed.notify_one();
    }

    /// Waits for bytes or for their end.
    fn take(&self) -> (Vec<u8>, bool) {
        let pending = lock(&self.pending);
        let waiting = self.changed.wait_while(pending, |(bytes, last)| bytes.is_empty() && !*last);
        let mut pending = waiting.unwrap_or_else(PoisonError::into_inner);
        (std::mem::take(&mut pending.0), pending.1)
    }
}

fn write_stdin(mut pipe: ChildStdin, stdin: &Stdin) {
    loop {
        let (bytes, last) = stdin.take();
        // An error says that the command closed its input; what still comes for it has no reader.
        if pipe.write_all(&bytes).is_err() || last {
            return;
        }
    }
}

fn forward(
    channel: &Channel,
    command: u32,
    kind: Kind,
    mut source: impl Read + Send + 'static,
    done: SyncSender<()>,
) {
    let channel = Arc::clone(channel);
    std::thread::spawn(move || {
        let mut chunk = vec![0; OUTPUT_CHUNK_BYTES];
        loop {
            match source.read(&mut chunk) {
                Ok(0) => break,
                Ok(count) => send(&channel, kind, command, &chunk[..count]),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(_) => break,
            }
        }
        // The receiver may have given up on this stream.
        let _ = done.send(());
    });
}

fn feed(commands: &Commands, frame: &Frame) {
    if let Some(running) = lock(commands).get(&frame.command) {
        running.stdin.push(&frame.payload, frame.kind == Kind::StdinEnd);
    }
}

fn signal(commands: &Commands, frame: &Frame) -> io::Result<()> {
    let (signal, _, _) = frame::decode_pair(&frame.payload)?;
    let process_group =
        lock(commands).get(&frame.command).map_or(0, |running| running.process_group);
    if process_group > 1 {
        // SAFETY: no memory is involved; the group is of a command started here that has not been reported as ended.
        let _ = unsafe { kill(-process_group, signal) };
    }
    Ok(())
}
