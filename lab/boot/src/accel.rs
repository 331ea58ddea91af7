//! Whether this machine can run a stock kernel with hardware virtualization.
//!
//! Enters: /proc/cpuinfo and /dev/kvm. Leaves: an [`Accelerator`]. Owns nothing.
//! Invariant: `Kvm` only where the processor itself says that it can. Bound: two files are looked at, nothing waits.

use std::fs::{self, OpenOptions};

/// How QEMU runs the guest's instructions.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Accelerator {
    /// [`Accelerator::Kvm`] where it truly works, else [`Accelerator::Tcg`].
    #[default]
    Auto,
    /// Hardware virtualization.
    Kvm,
    /// Software emulation: works everywhere, ten to thirty times slower.
    Tcg,
}

impl Accelerator {
    /// Replaces `Auto` by what works here.
    #[must_use]
    pub fn resolve(self) -> Self {
        match self {
            Self::Auto if kvm_works() => Self::Kvm,
            Self::Auto => Self::Tcg,
            Self::Kvm | Self::Tcg => self,
        }
    }
}

/// A /dev/kvm that opens is no proof: some hosts offer one that runs only a paravirtual guest, and a stock kernel
/// hangs there for ever. Without `vmx` or `svm` among the processor's flags it is taken as not there.
fn kvm_works() -> bool {
    let cpu_info = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    has_virtualization_flag(&cpu_info)
        && OpenOptions::new().read(true).write(true).open("/dev/kvm").is_ok()
}

fn has_virtualization_flag(cpu_info: &str) -> bool {
    let flags = cpu_info.lines().find(|line| line.starts_with("flags"));
    flags.is_some_and(|line| line.split_whitespace().any(|flag| flag == "vmx" || flag == "svm"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_processors_own_flags_count() {
        assert!(has_virtualization_flag("processor\t: 0\nflags\t\t: fpu vmx sse\n"));
        assert!(has_virtualization_flag("flags\t\t: svm\n"));
        assert!(!has_virtualization_flag("model name\t: svm vmx\nflags\t\t: fpu svm_lock\n"));
        assert!(!has_virtualization_flag(""));
        assert_eq!(Accelerator::Tcg.resolve(), Accelerator::Tcg);
        assert_ne!(Accelerator::Auto.resolve(), Accelerator::Auto);
    }
}
