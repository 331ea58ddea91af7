//! Machine: what a VMM does to a running guest.
//!
//! in: pause, resume, reboot, memory plugged and unplugged, a ring disabled, the VMM's death; out:
//! vhost-user messages in the order in which QEMU sends them. Any thread may call; the frontend's
//! lock is taken before the stack's. Kept: while a message is under way the rings go on, except
//! where the operation is about stopping them. Bound: [`crate::limits::CONTROL_TIMEOUT`] per
//! message.

use std::fs::File;
use std::os::fd::AsRawFd;
use std::sync::Arc;

use vhost::VhostUserMemoryRegionInfo;

use crate::guest::{GuestError, VirtualGuest, boot};
use crate::limits;
use crate::memory::{GuestMemory, memory_file, userspace_address};
use crate::pages::Pool;
use crate::socket::Failure;
use crate::tombstone::Tombstones;
use crate::violation::ViolationKind;
use crate::worker::lock;

/// Regions that came after boot.
#[derive(Debug, Default)]
pub(crate) struct Plugged {
    regions: Vec<(File, u64, usize)>,
    /// Where event queues lie.
    pub(crate) queue_pages: Option<Arc<Pool>>,
}

/// Avail indices at which the rings were stopped.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Paused {
    bases: Vec<u16>,
}

impl VirtualGuest {
    /// Stops the rings, as for a snapshot or `stop` in QEMU's monitor.
    pub fn pause(&self) -> Result<Paused, GuestError> {
        let mut frontend = lock(&self.shared().frontend);
        self.shared().lock().paused = true;
        let queues = self.shared().kicks.len();
        let mut bases = Vec::with_capacity(queues);
        for queue in 0..queues {
            bases.push(frontend.stop_ring(queue)?);
        }
        let mut stack = self.shared().lock();
        let published = stack.driver.avail_indices();
        for (queue, (base, avail)) in bases.iter().zip(published).enumerate() {
            let ahead = base.wrapping_sub(avail);
            // A base behind the index is what the backend did not take yet: at most a ringful.
            if ahead != 0 && ahead < u16::MAX - limits::RING_SIZE_MAX {
                let kind = ViolationKind::BaseAhead { queue, base: *base, ahead };
                stack.driver.violations.add(None, kind);
            }
        }
        Ok(Paused { bases })
    }

    /// Starts the rings where they were stopped.
    pub fn resume(&self, paused: &Paused) -> Result<(), GuestError> {
        let shared = self.shared();
        let mut frontend = lock(&shared.frontend);
        let places = shared.lock().driver.places();
        for (queue, (places, base)) in places.iter().zip(&paused.bases).enumerate() {
            let (kick, call) = (&shared.kicks[queue], &shared.calls[queue]);
            frontend.start_ring(queue, places, *base, kick, call)?;
        }
        let mut stack = shared.lock();
        stack.paused = false;
        stack.driver.kick_all();
        drop(stack);
        shared.wake();
        Ok(())
    }

    /// Reboots: every connection of the guest is gone without a packet, rings and memory are new,
    /// ports start from the first again.
    pub fn reboot(&self) -> Result<(), GuestError> {
        let shared = self.shared();
        let mut frontend = lock(&shared.frontend);
        let options = {
            let mut stack = shared.lock();
            stack.paused = true;
            stack.fail_all(Failure::TransportReset);
            stack.options.clone()
        };
        for queue in 0..shared.kicks.len() {
            frontend.stop_ring(queue)?;
            frontend.enable_ring(queue, false)?;
        }
        frontend.reset_device()?;
        frontend.set_features_again()?;
        *lock(&self.owner.plugged) = Plugged::default();
        let mut driver = boot(&mut frontend, &options, &shared.kicks, &shared.calls)?;
        let mut stack = shared.lock();
        driver.violations = stack.driver.violations.clone();
        driver.stats = stack.driver.stats;
        stack.driver = driver;
        stack.tombstones = Tombstones::default();
        stack.restart_ports();
        stack.paused = false;
        drop(stack);
        shared.wake();
        Ok(())
    }

    /// Plugs in a region of memory that nothing uses, while the rings run: the backend has to map
    /// everything anew.
    pub fn plug_memory(&self, bytes: usize) -> Result<(), GuestError> {
        let file = memory_file(bytes)?;
        let mut plugged = lock(&self.owner.plugged);
        let address = self.next_address(&plugged);
        plugged.regions.push((file, address, bytes));
        self.send_memory(&plugged)
    }

    /// The memory that event queues lie in, plugged in when it is first asked for.
    pub(crate) fn queue_pages(&self) -> Result<Arc<Pool>, GuestError> {
        let mut plugged = lock(&self.owner.plugged);
        if let Some(pool) = &plugged.queue_pages {
            return Ok(Arc::clone(pool));
        }
        let address = self.next_address(&plugged);
        let memory = GuestMemory::at_address(limits::QUEUE_POOL_BYTES, address)?;
        plugged.regions.push((memory.file().try_clone()?, address, limits::QUEUE_POOL_BYTES));
        self.send_memory(&plugged)?;
        let pool = Arc::new(Pool::new(memory, address));
        plugged.queue_pages = Some(Arc::clone(&pool));
        Ok(pool)
    }

    fn next_address(&self, plugged: &Plugged) -> u64 {
        let boot_end = self.shared().lock().driver.memory.end();
        let end = plugged.regions.last().map_or(boot_end, |(_, at, bytes)| at + *bytes as u64);
        end + limits::REGION_GAP_BYTES
    }

    /// Unplugs the region that was plugged in last. Nothing happens when there is none.
    pub fn unplug_memory(&self) -> Result<(), GuestError> {
        let mut plugged = lock(&self.owner.plugged);
        if plugged.regions.pop().is_none() {
            return Ok(());
        }
        self.send_memory(&plugged)
    }

    fn send_memory(&self, plugged: &Plugged) -> Result<(), GuestError> {
        let mut frontend = lock(&self.shared().frontend);
        let mut table = self.shared().lock().driver.memory.table();
        table.extend(plugged.regions.iter().map(|(file, address, bytes)| {
            VhostUserMemoryRegionInfo {
                guest_phys_addr: *address,
                memory_size: *bytes as u64,
                userspace_addr: userspace_address(*address),
                mmap_offset: 0,
                mmap_handle: file.as_raw_fd(),
            }
        }));
        frontend.set_memory(&table)?;
        Ok(())
    }

    /// Disables or enables one ring without stopping it.
    pub fn enable_ring(&self, queue: usize, on: bool) -> Result<(), GuestError> {
        lock(&self.shared().frontend).enable_ring(queue, on)?;
        if on {
            self.shared().lock().driver.kick_all();
        }
        Ok(())
    }

    /// Hangs up without a word, as a VMM that is killed.
    pub fn disconnect(&self) {
        lock(&self.shared().frontend).disconnect();
        let mut stack = self.shared().lock();
        stack.gone = Some(Failure::Gone);
        stack.fail_all(Failure::Gone);
    }
}
