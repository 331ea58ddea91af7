//! TUN devices: an interface whose packets this process reads and writes.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::OpenOptionsExt;

use super::check;

// `include/uapi/linux/if_tun.h`; the libc crate has them for some targets only.
const SET_INTERFACE: libc::Ioctl = 0x4004_54ca_u32 as libc::Ioctl;
const SET_OFFLOAD: libc::Ioctl = 0x4004_54d0_u32 as libc::Ioctl;
const IFF_TUN: u16 = 0x0001;
const IFF_NO_PACKET_INFORMATION: u16 = 0x1000;
const IFF_VNET_HEADER: u16 = 0x4000;

/// Bytes of `struct virtio_net_hdr`, which stands before every packet.
pub(crate) const HEADER_BYTES: usize = 10;

/// Offloads: the kernel leaves checksums to us.
pub(crate) const OFFLOAD_CHECKSUM: u32 = 0x01;
/// Offloads: it hands over UDP datagrams of one send before it cuts them up (Linux 6.2).
pub(crate) const OFFLOAD_UDP: u32 = 0x20 | 0x40;

/// `struct ifreq`, as far as TUNSETIFF looks at it.
#[repr(C)]
struct Request {
    name: [u8; libc::IF_NAMESIZE],
    flags: u16,
    rest: [u8; 22],
}

const _: () = assert!(size_of::<Request>() == size_of::<libc::ifreq>());

/// Makes the interface, or takes one that nobody has. `EBUSY` when somebody has it. Non-blocking;
/// the interface goes with the file.
pub(crate) fn open(name: &str) -> io::Result<File> {
    let mut options = OpenOptions::new();
    let file =
        options.read(true).write(true).custom_flags(libc::O_NONBLOCK).open("/dev/net/tun")?;
    let mut request = Request {
        name: [0; libc::IF_NAMESIZE],
        flags: IFF_TUN | IFF_NO_PACKET_INFORMATION | IFF_VNET_HEADER,
        rest: [0; 22],
    };
    // The last byte stays zero.
    for (to, from) in request.name.iter_mut().take(libc::IF_NAMESIZE - 1).zip(name.bytes()) {
        *to = from;
    }
    // SAFETY: the kernel reads and writes one live `ifreq`, whose size `Request` has.
    check(unsafe { libc::ioctl(file.as_raw_fd(), SET_INTERFACE, &raw mut request) })?;
    Ok(file)
}

/// Says what the kernel may leave to us.
pub(crate) fn set_offload(tun: &File, offloads: u32) -> io::Result<()> {
    let offloads = libc::c_ulong::from(offloads);
    // SAFETY: no pointer is passed.
    check(unsafe { libc::ioctl(tun.as_raw_fd(), SET_OFFLOAD, offloads) }).map(drop)
}

/// The number of an interface.
pub(crate) fn interface_number(name: &str) -> io::Result<u32> {
    let name = std::ffi::CString::new(name)?;
    // SAFETY: a live C string.
    match unsafe { libc::if_nametoindex(name.as_ptr()) } {
        0 => Err(io::Error::last_os_error()),
        number => Ok(number),
    }
}
