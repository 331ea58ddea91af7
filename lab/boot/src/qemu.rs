//! QEMU's command line.
//!
//! Enters: boot options. Leaves: a `Command` whose standard input is the command channel and whose standard output
//! is the console. Owns nothing. Invariant: the guest's memory is one shared memfd, which a vhost-user backend
//! needs; no network device; nothing is written but the share directory. Bound: none needed, no loop.

use std::ffi::OsString;
use std::path::Path;
use std::process::Command;

use crate::accel::Accelerator;
use crate::guest::BootOptions;

const PROGRAM: &str = "qemu-system-x86_64";

/// QEMU splits options at commas; a doubled one is a comma.
fn escaped(path: &Path) -> OsString {
    let text = path.as_os_str().to_string_lossy();
    if text.contains(',') {
        OsString::from(text.replace(',', ",,"))
    } else {
        path.as_os_str().to_owned()
    }
}

fn with_path(before: &str, path: &Path, after: &str) -> OsString {
    let mut option = OsString::from(before);
    option.push(escaped(path));
    option.push(after);
    option
}

/// The command that runs `options`; `environment` is what init wants to know, for the kernel's command line.
pub(crate) fn command(options: &BootOptions, environment: &str) -> Command {
    let image = &options.image;
    let memory = options.memory_mib;
    let mut qemu = Command::new(PROGRAM);
    qemu.args(["-nodefaults", "-no-user-config", "-display", "none", "-no-reboot"]);
    qemu.args(["-name", &options.name.replace(',', ",,")]);
    qemu.args(["-object", &format!("memory-backend-memfd,id=memory,size={memory}M,share=on")]);
    qemu.args(["-m", &format!("{memory}M"), "-smp", &options.cpus.to_string()]);
    qemu.args(["-machine", "q35,memory-backend=memory"]);
    match options.accelerator.resolve() {
        Accelerator::Kvm => qemu.args(["-accel", "kvm", "-cpu", "host"]),
        Accelerator::Auto | Accelerator::Tcg => {
            qemu.args(["-accel", "tcg,thread=multi", "-cpu", "max"])
        }
    };
    qemu.arg("-kernel").arg(&image.program).arg("-initrd").arg(&image.initramfs);
    let extra = options.kernel_arguments.join(" ");
    qemu.args(["-append", &format!("console=ttyS0 loglevel=4 panic=-1 {extra} {environment}")]);
    qemu.args(["-chardev", "file,id=console,path=/dev/stdout", "-serial", "chardev:console"]);
    qemu.args(["-chardev", "socket,id=commands,fd=0", "-device", "virtio-serial-pci"]);
    qemu.args(["-device", "virtserialport,chardev=commands,name=outsock-commands"]);
    qemu.args(["-device", "virtio-rng-pci"]);
    qemu.args(["-fsdev", "local,id=root,path=/,security_model=none,readonly=on,multidevs=remap"]);
    qemu.args(["-device", "virtio-9p-pci,fsdev=root,mount_tag=outsock-root"]);
    if let Some(share) = &options.share {
        qemu.arg("-fsdev").arg(with_path(
            "local,id=share,security_model=none,multidevs=remap,path=",
            share,
            "",
        ));
        qemu.args(["-device", "virtio-9p-pci,fsdev=share,mount_tag=outsock-share"]);
    }
    if let Some(socket) = &options.vsock_socket {
        qemu.arg("-chardev").arg(with_path("socket,id=vsock,path=", socket, ""));
        qemu.args(["-device", "vhost-user-vsock-pci,chardev=vsock"]);
    }
    qemu
}
