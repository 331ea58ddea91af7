//! A caller's memory: one copy in, one copy out.
//!
//! in: a thread and an address in it; out: bytes. A copy is all or nothing: a range that is only
//! partly mapped is `EFAULT`, as it would be for the kernel's own copy. The caller may change its
//! memory at any time, so nobody reads the same bytes twice.

use std::io;

use super::check_size;

/// Copies `buffer.len()` bytes from the thread's memory.
pub(crate) fn read(thread: u32, address: u64, buffer: &mut [u8]) -> io::Result<()> {
    if buffer.is_empty() {
        return Ok(());
    }
    let length = buffer.len();
    let local = libc::iovec { iov_base: buffer.as_mut_ptr().cast(), iov_len: length };
    let remote = remote_range(address, length)?;
    // SAFETY: `local` describes a live, writable slice; `remote` is only dereferenced by the kernel
    // in the other process, which checks it.
    let result = unsafe {
        libc::process_vm_readv(thread.cast_signed(), &raw const local, 1, &raw const remote, 1, 0)
    };
    whole(check_size(result)?, length)
}

/// Copies `bytes` into the thread's memory.
pub(crate) fn write(thread: u32, address: u64, bytes: &[u8]) -> io::Result<()> {
    if bytes.is_empty() {
        return Ok(());
    }
    let local = libc::iovec { iov_base: bytes.as_ptr().cast_mut().cast(), iov_len: bytes.len() };
    let remote = remote_range(address, bytes.len())?;
    // SAFETY: `local` describes a live slice that the kernel only reads here; `remote` is only
    // dereferenced by the kernel in the other process, which checks it.
    let result = unsafe {
        libc::process_vm_writev(thread.cast_signed(), &raw const local, 1, &raw const remote, 1, 0)
    };
    whole(check_size(result)?, bytes.len())
}

fn remote_range(address: u64, length: usize) -> io::Result<libc::iovec> {
    let fault = || io::Error::from_raw_os_error(libc::EFAULT);
    let start = usize::try_from(address).map_err(|_| fault())?;
    start.checked_add(length).ok_or_else(fault)?;
    Ok(libc::iovec { iov_base: std::ptr::without_provenance_mut(start), iov_len: length })
}

fn whole(copied: usize, wanted: usize) -> io::Result<()> {
    if copied == wanted { Ok(()) } else { Err(io::Error::from_raw_os_error(libc::EFAULT)) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn copies_are_whole_or_fail() {
        let me = std::process::id();
        let mut there = [1u8, 2, 3, 4];
        let address = u64::try_from(there.as_mut_ptr().expose_provenance()).unwrap();
        let mut here = [0u8; 4];
        read(me, address, &mut here).unwrap();
        assert_eq!(here, [1, 2, 3, 4]);
        assert_eq!(read(me, 8, &mut here).unwrap_err().raw_os_error(), Some(libc::EFAULT));
        assert_eq!(write(me, 0, &here).unwrap_err().raw_os_error(), Some(libc::EFAULT));
        assert_eq!(write(me, u64::MAX, &here).unwrap_err().raw_os_error(), Some(libc::EFAULT));
        read(me, 0, &mut []).unwrap();
    }
}
