//! The host's end of the command channel: many commands over one byte stream that is not vsock.
//!
//! Enters: commands, their standard input, signals. Leaves: what they print and how they end.
//! Owns the stream and the state of every command that runs. Invariant: the reading thread never waits for a
//! caller, so one command cannot hold up another. Bound: [`OUTPUT_BYTES_MAX`] kept per output and command,
//! [`COMMANDS_MAX`] commands.

use std::collections::HashMap;
use std::io::{self, Read, Write};
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crate::frame::{self, Frame, Kind, MAGIC, PAYLOAD_BYTES_MAX, Ready, Start};
use crate::limits::{COMMANDS_MAX, OUTPUT_BYTES_MAX};

/// The guest's program always reads: a write that waits longer meets a guest that hangs.
const WRITE_TIMEOUT: Duration = Duration::from_secs(20);

/// How a command came to its end.
#[derive(Clone, Debug)]
pub(crate) enum End {
    Exited { code: i32, signal: i32 },
    NotStarted { errno: i32, message: String },
}

/// What is known of one command.
#[derive(Clone, Debug, Default)]
pub(crate) struct Progress {
    pub(crate) stdout: Vec<u8>,
    pub(crate) stderr: Vec<u8>,
    /// An output went over its limit; what came after it is lost.
    pub(crate) overflowed: bool,
    pub(crate) end: Option<End>,
}

#[derive(Debug, Default)]
struct State {
    ready: Option<Ready>,
    closed: bool,
    /// Bytes sent that the guest has not said it took.
    in_flight: usize,
    next: u32,
    commands: HashMap<u32, Progress>,
}

#[derive(Debug, Default)]
struct Shared {
    state: Mutex<State>,
    changed: Condvar,
}

/// The channel's host end.
#[derive(Debug)]
pub(crate) struct Channel {
    writer: Mutex<UnixStream>,
    shared: Arc<Shared>,
    /// Bytes that may be in flight to the guest.
    window: usize,
}

/// A window of this many steps keeps the guest busy while an acknowledgement is on its way.
const STEPS_PER_WINDOW: usize = 4;

/// Writes into the window.
struct Windowed<'a> {
    stream: &'a mut UnixStream,
    shared: &'a Shared,
    window: usize,
}

impl Write for Windowed<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let room = self.shared.wait(Instant::now() + WRITE_TIMEOUT, |state| {
            let room = self.window.saturating_sub(state.in_flight).min(bytes.len());
            state.in_flight += room;
            (room > 0).then_some(room)
        });
        let room = room.ok().flatten().ok_or_else(|| io::Error::from(io::ErrorKind::TimedOut))?;
        self.stream.write_all(&bytes[..room])?;
        Ok(room)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Why the channel did not do as asked.
#[derive(Debug)]
pub(crate) enum ChannelError {
    /// The guest's end is gone or out of step.
    Closed,
    /// [`COMMANDS_MAX`] commands run.
    Full,
    /// One frame cannot hold it.
    TooLarge,
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn read_all(&self, mut reader: impl Read) {
        // Whatever ends the loop, a broken stream or the guest's end, means the same to those who wait.
        let _ = self.read_frames(&mut reader);
        self.state().closed = true;
        self.changed.notify_all();
    }

    fn read_frames(&self, reader: &mut impl Read) -> io::Result<()> {
        skip_to_magic(reader)?;
        while let Some(frame) = frame::read_frame(reader)? {
            self.accept(frame)?;
            self.changed.notify_all();
        }
        Ok(())
    }

    fn accept(&self, frame: Frame) -> io::Result<()> {
        let mut state = self.state();
        if frame.kind == Kind::Ready {
            state.ready = Some(Ready::decode(&frame.payload)?);
            return Ok(());
        }
        if frame.kind == Kind::Taken {
            let (taken, _, _) = frame::decode_pair(&frame.payload)?;
            state.in_flight = state.in_flight.saturating_sub(usize::try_from(taken).unwrap_or(0));
            return Ok(());
        }
        // A command whose caller gave up may still speak.
        let Some(progress) = state.commands.get_mut(&frame.command) else { return Ok(()) };
        match frame.kind {
            Kind::Stdout => progress.overflowed |= !keep(&mut progress.stdout, &frame.payload),
            Kind::Stderr => progress.overflowed |= !keep(&mut progress.stderr, &frame.payload),
            Kind::Exit => {
                let (code, signal, _) = frame::decode_pair(&frame.payload)?;
                progress.end = Some(End::Exited { code, signal });
            }
            Kind::Failed => {
                let (errno, _, message) = frame::decode_pair(&frame.payload)?;
                let message = String::from_utf8_lossy(message).into_owned();
                progress.end = Some(End::NotStarted { errno, message });
            }
            Kind::Start
            | Kind::Stdin
            | Kind::StdinEnd
            | Kind::Signal
            | Kind::Shutdown
            | Kind::Ready
            | Kind::Taken => {
                return Err(io::Error::other("the guest sent a frame that only a host sends"));
            }
        }
        Ok(())
    }

    /// Waits until `done` gives something, the channel closes (`Err`) or `deadline` passes (`None`).
    fn wait<T>(
        &self,
        deadline: Instant,
        mut done: impl FnMut(&mut State) -> Option<T>,
    ) -> Result<Option<T>, ChannelError> {
        let mut state = self.state();
        loop {
            if let Some(value) = done(&mut state) {
                return Ok(Some(value));
            }
            if state.closed {
                return Err(ChannelError::Closed);
            }
            let Some(left) =
                deadline.checked_duration_since(Instant::now()).filter(|left| !left.is_zero())
            else {
                return Ok(None);
            };
            state =
                self.changed.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner).0;
        }
    }
}

fn skip_to_magic(reader: &mut impl Read) -> io::Result<()> {
    let mut window = [0; MAGIC.len()];
    while window != MAGIC {
        window.rotate_left(1);
        let last = window.len() - 1;
        reader.read_exact(&mut window[last..])?;
    }
    Ok(())
}

fn keep(output: &mut Vec<u8>, bytes: &[u8]) -> bool {
    let room = OUTPUT_BYTES_MAX - output.len();
    output.extend_from_slice(&bytes[..bytes.len().min(room)]);
    bytes.len() <= room
}

impl Channel {
    /// `step` is the number of bytes after which the guest says that it took them.
    pub(crate) fn open(stream: UnixStream, step: usize) -> io::Result<Self> {
        stream.set_write_timeout(Some(WRITE_TIMEOUT))?;
        let reader = io::BufReader::with_capacity(PAYLOAD_BYTES_MAX, stream.try_clone()?);
        let shared = Arc::new(Shared::default());
        let reading = Arc::clone(&shared);
        std::thread::Builder::new()
            .name("guest-channel".to_owned())
            .spawn(move || reading.read_all(reader))?;
        Ok(Self { writer: Mutex::new(stream), shared, window: step * STEPS_PER_WINDOW })
    }

    fn send(&self, kind: Kind, command: u32, payload: &[u8]) -> Result<(), ChannelError> {
        let mut writer = self.writer.lock().unwrap_or_else(PoisonError::into_inner);
        let mut windowed =
            Windowed { stream: &mut writer, shared: &self.shared, window: self.window };
        frame::write_frame(&mut windowed, kind, command, payload).map_err(|_| {
            // Half a frame may be out: nothing after it would be understood.
            let _ = writer.shutdown(Shutdown::Both);
            ChannelError::Closed
        })
    }

    /// Waits for the guest's first word; `None` if it did not come in time.
    pub(crate) fn wait_ready(&self, deadline: Instant) -> Result<Option<Ready>, ChannelError> {
        self.shared.wait(deadline, |state| state.ready.take())
    }

    /// Whether the guest's end is gone.
    pub(crate) fn is_closed(&self) -> bool {
        self.shared.state().closed
    }

    /// Starts a command and returns its number.
    pub(crate) fn start(&self, start: &Start) -> Result<u32, ChannelError> {
        let payload = start.encode();
        if payload.len() > PAYLOAD_BYTES_MAX {
            return Err(ChannelError::TooLarge);
        }
        let command = {
            let mut state = self.shared.state();
            if state.commands.len() >= COMMANDS_MAX {
                return Err(ChannelError::Full);
            }
            state.next = state.next.wrapping_add(1);
            let command = state.next;
            state.commands.insert(command, Progress::default());
            command
        };
        self.send(Kind::Start, command, &payload).inspect_err(|_| self.forget(command))?;
        Ok(command)
    }

    pub(crate) fn write_stdin(&self, command: u32, bytes: &[u8]) -> Result<(), ChannelError> {
        bytes.chunks(PAYLOAD_BYTES_MAX).try_for_each(|chunk| self.send(Kind::Stdin, command, chunk))
    }

    pub(crate) fn close_stdin(&self, command: u32) -> Result<(), ChannelError> {
        self.send(Kind::StdinEnd, command, &[])
    }

    pub(crate) fn signal(&self, command: u32, signal: i32) -> Result<(), ChannelError> {
        self.send(Kind::Signal, command, &frame::encode_pair(signal, 0))
    }

    /// Asks the guest to power off.
    pub(crate) fn shut_down(&self) -> Result<(), ChannelError> {
        self.send(Kind::Shutdown, 0, &[])
    }

    /// Waits until `done` says so of the command; `None` if it did not in time.
    pub(crate) fn wait<T>(
        &self,
        command: u32,
        deadline: Instant,
        mut done: impl FnMut(&Progress) -> Option<T>,
    ) -> Result<Option<T>, ChannelError> {
        self.shared.wait(deadline, |state| state.commands.get(&command).and_then(&mut done))
    }

    /// A copy of what is known of the command.
    pub(crate) fn progress(&self, command: u32) -> Progress {
        self.shared.state().commands.get(&command).cloned().unwrap_or_default()
    }

    /// How the command ended, if it has.
    pub(crate) fn end_of(&self, command: u32) -> Option<End> {
        self.shared.state().commands.get(&command).and_then(|progress| progress.end.clone())
    }

    /// What is known of the command, of which nothing is kept then.
    pub(crate) fn take(&self, command: u32) -> Progress {
        self.shared.state().commands.remove(&command).unwrap_or_default()
    }

    pub(crate) fn forget(&self, command: u32) {
        self.shared.state().commands.remove(&command);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const STEP: usize = 64 * 1024;

    fn soon() -> Instant {
        Instant::now() + Duration::from_secs(10)
    }

    #[test]
    fn garbage_before_the_magic_is_skipped_and_the_end_wakes_all() {
        let (host, mut guest) = UnixStream::pair().unwrap();
        let channel = Channel::open(host, STEP).unwrap();
        let ready = Ready { cid: 9, release: "x".to_owned() };
        guest.write_all(b"login: \nOUT").unwrap();
        guest.write_all(&MAGIC).unwrap();
        frame::write_frame(&mut guest, Kind::Ready, 0, &ready.encode()).unwrap();
        assert_eq!(channel.wait_ready(soon()).unwrap(), Some(ready));
        let command = channel.start(&Start::default()).unwrap();
        frame::write_frame(&mut guest, Kind::Stdout, command, b"one").unwrap();
        frame::write_frame(&mut guest, Kind::Stdout, command + 1, b"nobody's").unwrap();
        frame::write_frame(&mut guest, Kind::Exit, command, &frame::encode_pair(3, -1)).unwrap();
        let end = channel.wait(command, soon(), |progress| progress.end.clone()).unwrap();
        assert!(matches!(end, Some(End::Exited { code: 3, signal: -1 })), "{end:?}");
        assert_eq!(channel.take(command).stdout, b"one");
        drop(guest);
        assert!(matches!(channel.wait(command, soon(), |_| None::<()>), Err(ChannelError::Closed)));
    }

    #[test]
    fn commands_and_their_size_are_bounded() {
        let (host, _guest) = UnixStream::pair().unwrap();
        let channel = Channel::open(host, STEP).unwrap();
        let large = Start { argv: vec![vec![b'x'; PAYLOAD_BYTES_MAX]], ..Start::default() };
        assert!(matches!(channel.start(&large), Err(ChannelError::TooLarge)));
        for _ in 0..COMMANDS_MAX {
            channel.start(&Start::default()).unwrap();
        }
        assert!(matches!(channel.start(&Start::default()), Err(ChannelError::Full)));
    }

    #[test]
    fn no_more_is_sent_than_the_window_holds() {
        let (host, mut guest) = UnixStream::pair().unwrap();
        let step = 100;
        let channel = Channel::open(host, step).unwrap();
        guest.write_all(&MAGIC).unwrap();
        let sender = std::thread::spawn(move || channel.write_stdin(1, &[7; 1000]));
        let mut window = vec![0; step * STEPS_PER_WINDOW];
        guest.read_exact(&mut window).unwrap();
        guest.set_nonblocking(true).unwrap();
        let mut more = [0; 1000];
        assert_eq!(guest.read(&mut more).unwrap_err().kind(), io::ErrorKind::WouldBlock);
        guest.set_nonblocking(false).unwrap();
        frame::write_frame(&mut guest, Kind::Taken, 0, &frame::encode_pair(400, 0)).unwrap();
        guest.read_exact(&mut more[..400]).unwrap();
        frame::write_frame(&mut guest, Kind::Taken, 0, &frame::encode_pair(400, 0)).unwrap();
        guest.read_exact(&mut more[..209]).unwrap();
        sender.join().unwrap().unwrap();
    }
}
