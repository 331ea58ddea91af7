//! Backend: the face of the device that vhost-user sees.
//!
//! in: the frontend's negotiation, memory tables, kicks; out: calls into the [`Worker`]. One vring
//! worker thread per guest serves all its queues. `handle_event` never fails: an error would end
//! that thread for good, and nothing that a guest does may cause it.

use std::io;
use std::os::fd::{AsRawFd, FromRawFd, IntoRawFd};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use outsock_core::address::Cid;
use vhost::vhost_user::message::VhostUserProtocolFeatures;
use vhost_user_backend::{VhostUserBackend, VringMutex};
use virtio_bindings::virtio_config::VIRTIO_F_VERSION_1;
use virtio_bindings::virtio_ring::{VIRTIO_RING_F_EVENT_IDX, VIRTIO_RING_F_INDIRECT_DESC};
use vm_memory::{GuestAddressSpace, GuestMemoryAtomic, GuestMemoryMmap};
use vmm_sys_util::epoll::EventSet;
use vmm_sys_util::event::{EventConsumer, EventNotifier};
use vmm_sys_util::eventfd::{EFD_CLOEXEC, EFD_NONBLOCK, EventFd};

use crate::limits;
use crate::memory::MemoryMap;
use crate::worker::Worker;

const VHOST_USER_F_PROTOCOL_FEATURES: u64 = 1 << 30;

/// `VIRTIO_VSOCK_F_SEQPACKET`: messages (virtio 1.3, 5.10.3).
const VIRTIO_VSOCK_F_SEQPACKET: u64 = 1;

/// The backend of one guest.
#[derive(Debug)]
pub(crate) struct Backend {
    cid: Cid,
    worker: Mutex<Worker>,
    /// Ends the vring thread of the frontend at hand.
    exit: EventFd,
}

impl Backend {
    pub(crate) fn new(cid: Cid, worker: Worker) -> io::Result<Self> {
        let exit = EventFd::new(EFD_NONBLOCK | EFD_CLOEXEC)?;
        Ok(Self { cid, worker: Mutex::new(worker), exit })
    }

    /// A panic in the worker is a bug, and its guest's state may be half changed; other guests have
    /// workers of their own.
    pub(crate) fn worker(&self) -> MutexGuard<'_, Worker> {
        self.worker.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl VhostUserBackend for Backend {
    type Bitmap = ();
    type Vring = VringMutex;

    fn num_queues(&self) -> usize {
        limits::QUEUES
    }

    fn max_queue_size(&self) -> usize {
        usize::from(limits::QUEUE_SIZE_MAX)
    }

    fn features(&self) -> u64 {
        1 << VIRTIO_F_VERSION_1
            | 1 << VIRTIO_RING_F_EVENT_IDX
            | 1 << VIRTIO_RING_F_INDIRECT_DESC
            | 1 << VIRTIO_VSOCK_F_SEQPACKET
            | VHOST_USER_F_PROTOCOL_FEATURES
    }

    fn protocol_features(&self) -> VhostUserProtocolFeatures {
        VhostUserProtocolFeatures::CONFIG
            | VhostUserProtocolFeatures::MQ
            | VhostUserProtocolFeatures::REPLY_ACK
            | VhostUserProtocolFeatures::RESET_DEVICE
    }

    fn reset_device(&self) {
        self.worker().reset();
    }

    /// The vrings know it themselves.
    fn set_event_idx(&self, _enabled: bool) {}

    /// `struct virtio_vsock_config`: the guest's CID, 64 bits (virtio 1.3, 5.10.4).
    fn get_config(&self, offset: u32, size: u32) -> Vec<u8> {
        let config = self.cid.0.to_le_bytes();
        let start = (offset as usize).min(config.len());
        let end = start.saturating_add(size as usize).min(config.len());
        config[start..end].to_vec()
    }

    fn update_memory(&self, memory: GuestMemoryAtomic<GuestMemoryMmap>) -> io::Result<()> {
        let table = memory.memory().into_inner();
        self.worker().set_memory(Some(Arc::new(MemoryMap::new(table))));
        Ok(())
    }

    fn exit_event(&self, _thread_index: usize) -> Option<(EventConsumer, EventNotifier)> {
        // What was written for the last frontend's thread, which has ended.
        let _ = self.exit.read();
        let notifier = self.exit.try_clone().ok()?;
        // SAFETY: the library takes the raw descriptor out of the consumer and never closes it, so
        // it stays ours; a descriptor of its own would be leaked with each frontend. Checked by a
        // test that counts descriptors.
        let consumer = unsafe { EventConsumer::from_raw_fd(self.exit.as_raw_fd()) };
        // SAFETY: the clone's descriptor is open, and given away with `into_raw_fd`.
        let notifier = unsafe { EventNotifier::from_raw_fd(notifier.into_raw_fd()) };
        Some((consumer, notifier))
    }

    fn handle_event(
        &self,
        _device_event: u16,
        _set: EventSet,
        vrings: &[VringMutex],
        _thread: usize,
    ) -> io::Result<()> {
        self.worker().work(vrings);
        Ok(())
    }
}
