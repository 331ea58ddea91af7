//! The process of a virtual machine monitor: started so that nothing of it survives its guest.
//!
//! Enters: a `Command`. Leaves: a [`Monitor`]. The monitor owns the process group.
//! Invariant: the group is killed when the monitor is dropped, and by the kernel when this process dies.
//! Bound: one spawner thread per process.

use std::io;
use std::process::{Child, Command, ExitStatus};
use std::sync::OnceLock;
use std::sync::mpsc::{self, SyncSender};
use std::time::{Duration, Instant};

use crate::sys;

/// How often an exit is looked for while somebody waits for it.
const POLL_INTERVAL: Duration = Duration::from_millis(5);

type SpawnRequest = (Command, SyncSender<io::Result<Child>>);

/// Boots that wait for the spawner at a time; a further one waits to be taken in.
const SPAWN_REQUESTS_MAX: usize = 16;

/// A running virtual machine monitor.
#[derive(Debug)]
pub(crate) struct Monitor {
    child: Child,
}

/// PR_SET_PDEATHSIG follows the *thread* that forked: one that ends with its test or its task would take the guest
/// along. So one thread, which lives as long as the process, starts all of them.
fn spawner() -> io::Result<&'static SyncSender<SpawnRequest>> {
    static SPAWNER: OnceLock<SyncSender<SpawnRequest>> = OnceLock::new();
    if SPAWNER.get().is_none() {
        let (sender, receiver) = mpsc::sync_channel::<SpawnRequest>(SPAWN_REQUESTS_MAX);
        std::thread::Builder::new().name("guest-spawner".to_owned()).spawn(move || {
            for (mut command, reply) in receiver {
                // A caller that went away drops the child's handle, not the child: kill it here.
                if let Err(mpsc::SendError(Ok(child))) = reply.send(command.spawn()) {
                    drop(Monitor { child });
                }
            }
        })?;
        // Two first callers: the loser's thread ends with its sender.
        let _ = SPAWNER.set(sender);
    }
    SPAWNER.get().ok_or_else(|| io::Error::other("the thread that starts guests is gone"))
}

impl Monitor {
    pub(crate) fn spawn(mut command: Command) -> io::Result<Self> {
        sys::die_with_parent(&mut command);
        let (sender, receiver) = mpsc::sync_channel(1);
        let gone = || io::Error::other("the thread that starts guests is gone");
        spawner()?.send((command, sender)).map_err(|_| gone())?;
        let child = receiver.recv().map_err(|_| gone())??;
        Ok(Self { child })
    }

    pub(crate) fn process_id(&self) -> u32 {
        self.child.id()
    }

    /// The exit status if the process has ended.
    pub(crate) fn exited(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().ok().flatten()
    }

    /// Waits for the end of the process, at most until `deadline`.
    pub(crate) fn wait_until(&mut self, deadline: Instant) -> Option<ExitStatus> {
        loop {
            let status = self.exited();
            if status.is_some() || Instant::now() >= deadline {
                return status;
            }
            std::thread::sleep(POLL_INTERVAL);
        }
    }
}

impl Drop for Monitor {
    fn drop(&mut self) {
        // The group may outlive its leader (User Mode Linux has helpers), so kill it whether or not that one ended.
        sys::kill_group(self.child.id());
        // SIGKILL cannot be refused; an error says that the child was reaped already.
        let _ = self.child.wait();
    }
}
