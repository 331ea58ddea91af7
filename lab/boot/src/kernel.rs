//! The kernels that a guest may run.
//!
//! Enters: a name. Leaves: a [`Kernel`] and what is needed to fetch it. Owns nothing.
//! Invariant: one entry per layout of vsock buffers that outsock keeps working. Bound: the list is closed.

use std::fmt;
use std::str::FromStr;

/// A guest kernel, with the monitor that runs it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Kernel {
    /// Debian 12's kernel under QEMU: two descriptors (44 + 4096 bytes) per receive buffer.
    Qemu61,
    /// Debian 13's kernel under QEMU: one descriptor per receive buffer.
    Qemu612,
    /// Debian unstable's User Mode Linux: transmits up to 64 KiB as many descriptors.
    Uml72,
}

/// The program that runs a kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum MonitorKind {
    Qemu,
    Uml,
}

/// An error that names the kernels that there are.
#[derive(Debug, thiserror::Error)]
#[error("there is no guest kernel \"{0}\": use one of qemu-6.1, qemu-6.12, uml-7.2")]
pub struct UnknownKernel(String);

impl Kernel {
    /// All of them, oldest first.
    pub const ALL: [Self; 3] = [Self::Qemu61, Self::Qemu612, Self::Uml72];

    /// The name in commands, directories and reports.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Qemu61 => "qemu-6.1",
            Self::Qemu612 => "qemu-6.12",
            Self::Uml72 => "uml-7.2",
        }
    }

    /// What `uname -r` starts with.
    #[must_use]
    pub fn release_prefix(self) -> &'static str {
        match self {
            Self::Qemu61 => "6.1.",
            Self::Qemu612 => "6.12.",
            Self::Uml72 => "7.2.",
        }
    }

    pub(crate) fn monitor(self) -> MonitorKind {
        match self {
            Self::Qemu61 | Self::Qemu612 => MonitorKind::Qemu,
            Self::Uml72 => MonitorKind::Uml,
        }
    }

    /// The Debian suite whose package it is.
    pub(crate) fn suite(self) -> &'static str {
        match self {
            Self::Qemu61 => "bookworm",
            Self::Qemu612 => "trixie",
            Self::Uml72 => "sid",
        }
    }

    /// Debian packages that the machine must have to prepare and run it.
    #[must_use]
    pub fn host_packages(self) -> &'static [&'static str] {
        match self.monitor() {
            MonitorKind::Qemu => &["qemu-system-x86", "busybox-static", "xz-utils", "kmod"],
            MonitorKind::Uml => &["busybox-static", "kmod"],
        }
    }

    /// Bytes after which the guest says that it took them from the command channel. A tty holds 4 KiB and, under
    /// User Mode Linux, stalls for good when it is full: what is in flight must stay well below that.
    pub(crate) fn channel_step(self) -> usize {
        match self.monitor() {
            MonitorKind::Qemu => 64 * 1024,
            MonitorKind::Uml => 512,
        }
    }

    /// Modules that init loads, before what they depend on is added.
    pub(crate) fn modules(self) -> &'static [&'static str] {
        match self.monitor() {
            MonitorKind::Qemu => &[
                "virtio_pci",
                "virtio_console",
                "virtio_rng",
                "9pnet_virtio",
                "9p",
                "overlay",
                "vsock",
                "vmw_vsock_virtio_transport",
                "vsock_loopback",
            ],
            MonitorKind::Uml => {
                &["overlay", "vsock", "vmw_vsock_virtio_transport", "vsock_loopback"]
            }
        }
    }
}

impl fmt::Display for Kernel {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(self.name())
    }
}

impl FromStr for Kernel {
    type Err = UnknownKernel;

    fn from_str(name: &str) -> Result<Self, UnknownKernel> {
        let found = Self::ALL.into_iter().find(|kernel| kernel.name() == name);
        found.ok_or_else(|| UnknownKernel(name.to_owned()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_name_leads_back_to_its_kernel() {
        for kernel in Kernel::ALL {
            assert_eq!(kernel.to_string().parse::<Kernel>().unwrap(), kernel);
        }
        assert!("qemu-5".parse::<Kernel>().unwrap_err().to_string().contains("uml-7.2"));
    }
}
