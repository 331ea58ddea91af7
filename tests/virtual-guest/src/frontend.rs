//! Frontend: the vhost-user conversation with the backend.
//!
//! in: a socket path and what the guest wants; out: negotiated features, the CID, started and
//! stopped rings. Owned by the guest behind a lock of its own, so that a slow backend never stops
//! the rings. Kept: every message waits for the backend's answer where REPLY_ACK is negotiated, so
//! a refusal is seen at its cause. Bound: [`limits::CONTROL_TIMEOUT`] per message.

use std::os::unix::net::UnixStream;
use std::path::Path;

use outsock_core::address::Cid;
use vhost::vhost_user::message::{
    VhostUserConfigFlags, VhostUserHeaderFlag, VhostUserProtocolFeatures,
};
use vhost::vhost_user::{Frontend as Endpoint, VhostUserFrontend};
use vhost::{VhostBackend, VhostUserMemoryRegionInfo, VringConfigData};
use vmm_sys_util::eventfd::EventFd;

use crate::limits;
use crate::memory::userspace_address;
use crate::options::Options;
use crate::ring::RingPlaces;

const INDIRECT_DESC: u64 = 1 << 28;
const EVENT_IDX: u64 = 1 << 29;
const PROTOCOL_FEATURES: u64 = 1 << 30;
const VERSION_1: u64 = 1 << 32;

/// Why the backend cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum FrontendError {
    /// The socket cannot be reached.
    #[error("cannot connect to {path}: {error}")]
    Connect {
        /// The socket's path.
        path: String,
        /// The system's error.
        #[source]
        error: std::io::Error,
    },
    /// A message failed, or the backend refused it.
    #[error("vhost-user {message}: {error}")]
    Message {
        /// Which message.
        message: &'static str,
        /// What the library reports.
        #[source]
        error: vhost::Error,
    },
    /// The device is older than any guest that we play.
    #[error("the backend does not offer VIRTIO_F_VERSION_1")]
    NoVersion1,
    /// It serves fewer queues than the guest has.
    #[error("the backend serves {offered} queues, the guest has {wanted}")]
    TooFewQueues {
        /// The backend's.
        offered: u64,
        /// The guest's.
        wanted: usize,
    },
    /// It has no configuration space and no CID was given.
    #[error("the backend has no configuration space to read the CID from: set Options::cid")]
    NoCid,
    /// A descriptor could not be duplicated.
    #[error("cannot duplicate a descriptor: {0}")]
    Descriptor(#[source] std::io::Error),
}

fn at(message: &'static str) -> impl FnOnce(vhost::Error) -> FrontendError {
    move |error| FrontendError::Message { message, error }
}

/// The conversation with one backend.
pub(crate) struct Frontend {
    endpoint: Endpoint,
    socket: UnixStream,
    features: u64,
    protocol: VhostUserProtocolFeatures,
}

impl std::fmt::Debug for Frontend {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Frontend")
            .field("socket", &self.socket)
            .field("features", &self.features)
            .finish_non_exhaustive()
    }
}

impl Frontend {
    /// Connects and negotiates.
    pub(crate) fn connect(path: &Path, options: &Options) -> Result<Self, FrontendError> {
        let failed = |error| FrontendError::Connect { path: path.display().to_string(), error };
        let socket = UnixStream::connect(path).map_err(failed)?;
        socket.set_read_timeout(Some(limits::CONTROL_TIMEOUT)).map_err(failed)?;
        socket.set_write_timeout(Some(limits::CONTROL_TIMEOUT)).map_err(failed)?;
        let copy = socket.try_clone().map_err(FrontendError::Descriptor)?;
        let mut frontend = Self {
            endpoint: Endpoint::from_stream(copy, options.queues as u64),
            socket,
            features: 0,
            protocol: VhostUserProtocolFeatures::empty(),
        };
        frontend.negotiate(options)?;
        Ok(frontend)
    }

    fn negotiate(&mut self, options: &Options) -> Result<(), FrontendError> {
        let endpoint = &mut self.endpoint;
        let offered = endpoint.get_features().map_err(at("GET_FEATURES"))?;
        if offered & VERSION_1 == 0 {
            return Err(FrontendError::NoVersion1);
        }
        endpoint.set_owner().map_err(at("SET_OWNER"))?;
        if offered & PROTOCOL_FEATURES != 0 {
            let wanted = VhostUserProtocolFeatures::CONFIG
                | VhostUserProtocolFeatures::MQ
                | VhostUserProtocolFeatures::REPLY_ACK
                | VhostUserProtocolFeatures::RESET_DEVICE;
            let offers = endpoint.get_protocol_features().map_err(at("GET_PROTOCOL_FEATURES"))?;
            self.protocol = offers & wanted;
            endpoint.set_protocol_features(self.protocol).map_err(at("SET_PROTOCOL_FEATURES"))?;
            if self.protocol.contains(VhostUserProtocolFeatures::REPLY_ACK) {
                endpoint.set_hdr_flags(VhostUserHeaderFlag::NEED_REPLY);
            }
            if self.protocol.contains(VhostUserProtocolFeatures::MQ) {
                let offered = endpoint.get_queue_num().map_err(at("GET_QUEUE_NUM"))?;
                if offered < options.queues as u64 {
                    return Err(FrontendError::TooFewQueues { offered, wanted: options.queues });
                }
            }
        }
        let mut wanted = VERSION_1 | PROTOCOL_FEATURES;
        wanted |= if options.event_idx { EVENT_IDX } else { 0 };
        wanted |= if options.indirect { INDIRECT_DESC } else { 0 };
        self.features = offered & wanted;
        self.endpoint.set_features(self.features).map_err(at("SET_FEATURES"))
    }

    /// Whether EVENT_IDX is negotiated.
    pub(crate) fn event_idx(&self) -> bool {
        self.features & EVENT_IDX != 0
    }

    /// Whether indirect descriptors are negotiated.
    pub(crate) fn indirect(&self) -> bool {
        self.features & INDIRECT_DESC != 0
    }

    /// A copy of the socket, to see the backend go.
    pub(crate) fn socket(&self) -> Result<UnixStream, FrontendError> {
        self.socket.try_clone().map_err(FrontendError::Descriptor)
    }

    /// Reads the guest's CID from the configuration space.
    pub(crate) fn cid(&mut self) -> Result<Cid, FrontendError> {
        if !self.protocol.contains(VhostUserProtocolFeatures::CONFIG) {
            return Err(FrontendError::NoCid);
        }
        let (_, payload) = self
            .endpoint
            .get_config(0, 8, VhostUserConfigFlags::empty(), &[0; 8])
            .map_err(at("GET_CONFIG"))?;
        let bytes = payload.first_chunk::<8>().ok_or(FrontendError::NoCid)?;
        Ok(Cid(u64::from_le_bytes(*bytes)))
    }

    /// Shares guest memory.
    pub(crate) fn set_memory(
        &mut self,
        regions: &[VhostUserMemoryRegionInfo],
    ) -> Result<(), FrontendError> {
        self.endpoint.set_mem_table(regions).map(drop).map_err(at("SET_MEM_TABLE"))
    }

    /// Hands a ring to the backend and starts it at avail index `base`.
    pub(crate) fn start_ring(
        &mut self,
        queue: usize,
        places: &RingPlaces,
        base: u16,
        kick: &EventFd,
        call: &EventFd,
    ) -> Result<(), FrontendError> {
        let endpoint = &mut self.endpoint;
        let config = VringConfigData {
            queue_max_size: places.size,
            queue_size: places.size,
            flags: 0,
            desc_table_addr: userspace_address(places.descriptors.address),
            used_ring_addr: userspace_address(places.used.address),
            avail_ring_addr: userspace_address(places.avail.address),
            log_addr: None,
        };
        endpoint.set_vring_num(queue, places.size).map_err(at("SET_VRING_NUM"))?;
        endpoint.set_vring_addr(queue, &config).map_err(at("SET_VRING_ADDR"))?;
        endpoint.set_vring_base(queue, base).map_err(at("SET_VRING_BASE"))?;
        endpoint.set_vring_call(queue, call).map_err(at("SET_VRING_CALL"))?;
        endpoint.set_vring_kick(queue, kick).map_err(at("SET_VRING_KICK"))?;
        self.enable_ring(queue, true)
    }

    /// Enables or disables a ring that is started.
    pub(crate) fn enable_ring(&mut self, queue: usize, on: bool) -> Result<(), FrontendError> {
        if self.features & PROTOCOL_FEATURES == 0 {
            // Without protocol features a ring is enabled from the start.
            return Ok(());
        }
        self.endpoint.set_vring_enable(queue, on).map_err(at("SET_VRING_ENABLE"))
    }

    /// Stops a ring; the answer is the avail index up to which the backend took entries.
    pub(crate) fn stop_ring(&mut self, queue: usize) -> Result<u16, FrontendError> {
        let base = self.endpoint.get_vring_base(queue).map_err(at("GET_VRING_BASE"))?;
        // The upper half belongs to packed rings.
        #[expect(clippy::cast_possible_truncation, reason = "only the low half is the index")]
        let base = base as u16;
        Ok(base)
    }

    /// Resets the device, where the backend can.
    pub(crate) fn reset_device(&mut self) -> Result<(), FrontendError> {
        if !self.protocol.contains(VhostUserProtocolFeatures::RESET_DEVICE) {
            return Ok(());
        }
        self.endpoint.reset_device().map_err(at("RESET_DEVICE"))
    }

    /// Sends the negotiated features again, as a VMM does after a reset.
    pub(crate) fn set_features_again(&mut self) -> Result<(), FrontendError> {
        self.endpoint.set_features(self.features).map_err(at("SET_FEATURES"))
    }

    /// Hangs up, as a VMM that dies.
    pub(crate) fn disconnect(&self) {
        // Fails only when the backend hung up first.
        let _ = self.socket.shutdown(std::net::Shutdown::Both);
    }
}
