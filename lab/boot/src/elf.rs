//! Gives a dynamic ELF program another loader, so that it runs with a libc that is not the machine's.
//!
//! Enters: the bytes of a 64-bit little-endian program. Leaves: a copy whose `PT_INTERP` names another loader.
//! Owns nothing. Invariant: nothing moves, the new name is appended; the kernel reads it by file offset.
//! Bound: every offset is checked, a program that is no such file is refused.

const PT_INTERP: u32 = 3;
const PROGRAM_HEADERS_OFFSET_AT: usize = 32;
const PROGRAM_HEADER_BYTES_AT: usize = 54;
const PROGRAM_HEADER_COUNT_AT: usize = 56;

/// Returns `program` with `loader` as its interpreter; `None` if it is not a dynamic 64-bit ELF program.
pub(crate) fn with_loader(program: &[u8], loader: &[u8]) -> Option<Vec<u8>> {
    // Magic, 64 bit, little endian.
    if !program.starts_with(b"\x7fELF\x02\x01") {
        return None;
    }
    let table = usize::try_from(read_u64(program, PROGRAM_HEADERS_OFFSET_AT)?).ok()?;
    let header_bytes = usize::from(read_u16(program, PROGRAM_HEADER_BYTES_AT)?);
    let count = usize::from(read_u16(program, PROGRAM_HEADER_COUNT_AT)?);
    let headers = (0..count).map(|index| table.checked_add(index * header_bytes));
    let header = headers.flatten().find(|at| read_u32(program, *at) == Some(PT_INTERP))?;
    let mut patched = program.to_vec();
    let length = u64::try_from(loader.len() + 1).ok()?;
    write_u64(&mut patched, header + 8, u64::try_from(program.len()).ok()?)?; // p_offset
    write_u64(&mut patched, header + 32, length)?; // p_filesz
    write_u64(&mut patched, header + 40, length)?; // p_memsz
    patched.extend_from_slice(loader);
    patched.push(0);
    Some(patched)
}

fn field<const N: usize>(bytes: &[u8], at: usize) -> Option<[u8; N]> {
    bytes.get(at..at.checked_add(N)?)?.try_into().ok()
}

fn read_u16(bytes: &[u8], at: usize) -> Option<u16> {
    field(bytes, at).map(u16::from_le_bytes)
}

fn read_u32(bytes: &[u8], at: usize) -> Option<u32> {
    field(bytes, at).map(u32::from_le_bytes)
}

fn read_u64(bytes: &[u8], at: usize) -> Option<u64> {
    field(bytes, at).map(u64::from_le_bytes)
}

fn write_u64(bytes: &mut [u8], at: usize, value: u64) -> Option<()> {
    bytes.get_mut(at..at.checked_add(8)?)?.copy_from_slice(&value.to_le_bytes());
    Some(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_machines_shell_gets_another_loader() {
        let shell = std::fs::read("/bin/sh").unwrap();
        let patched = with_loader(&shell, b"/no/such/loader").unwrap();
        assert!(patched.ends_with(b"/no/such/loader\0"));
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("sh");
        std::fs::write(&path, &patched).unwrap();
        let mode = std::os::unix::fs::PermissionsExt::from_mode(0o755);
        std::fs::set_permissions(&path, mode).unwrap();
        let error = std::process::Command::new(&path).arg("-c").arg(":").status().unwrap_err();
        assert_eq!(error.kind(), std::io::ErrorKind::NotFound);
    }

    #[test]
    fn what_is_no_program_is_refused() {
        assert_eq!(with_loader(b"#!/bin/sh", b"/x"), None);
        assert_eq!(with_loader(b"\x7fELF\x02\x01", b"/x"), None);
        let mut hostile = vec![0xff; 64];
        hostile[..6].copy_from_slice(b"\x7fELF\x02\x01");
        assert_eq!(with_loader(&hostile, b"/x"), None);
    }
}
