//! An initramfs: a cpio archive in the `newc` form.
//!
//! Enters: names, modes and bytes. Leaves: one archive. Owns nothing.
//! Invariant: the same entries give the same bytes (no time, no inode, no owner of this machine).
//! Bound: a file has at most 4 GiB, the format's own limit; larger ones are cut at the field, never here.

/// Bytes to which cpio aligns names and contents.
const ALIGNMENT: usize = 4;
const DIRECTORY_MODE: u32 = 0o040_755;
const PROGRAM_MODE: u32 = 0o100_755;
const DEVICE_MODE: u32 = 0o020_600;

/// Builds an archive, entry by entry.
#[derive(Debug, Default)]
pub(crate) struct Initramfs {
    bytes: Vec<u8>,
    entries: u32,
}

impl Initramfs {
    pub(crate) fn directory(&mut self, name: &str) {
        self.entry(name, DIRECTORY_MODE, (0, 0), &[]);
    }

    /// A file that may be executed.
    pub(crate) fn program(&mut self, name: &str, contents: &[u8]) {
        self.entry(name, PROGRAM_MODE, (0, 0), contents);
    }

    pub(crate) fn character_device(&mut self, name: &str, major: u32, minor: u32) {
        self.entry(name, DEVICE_MODE, (major, minor), &[]);
    }

    /// The archive with its closing entry.
    pub(crate) fn finish(mut self) -> Vec<u8> {
        self.entry("TRAILER!!!", 0, (0, 0), &[]);
        self.bytes
    }

    fn entry(&mut self, name: &str, mode: u32, device: (u32, u32), contents: &[u8]) {
        self.entries += 1;
        let length = |count: usize| u32::try_from(count).unwrap_or(u32::MAX);
        let fields = [
            self.entries, // inode
            mode,
            0, // user
            0, // group
            1, // links
            0, // modification time
            length(contents.len()),
            0, // device of the file system, major
            0, // and minor
            device.0,
            device.1,
            length(name.len() + 1),
            0, // checksum, not used by newc
        ];
        self.bytes.extend_from_slice(b"070701");
        for field in fields {
            self.bytes.extend_from_slice(format!("{field:08x}").as_bytes());
        }
        self.bytes.extend_from_slice(name.as_bytes());
        self.bytes.push(0);
        self.align();
        self.bytes.extend_from_slice(contents);
        self.align();
    }

    fn align(&mut self) {
        self.bytes.resize(self.bytes.len().next_multiple_of(ALIGNMENT), 0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> Vec<u8> {
        let mut archive = Initramfs::default();
        archive.directory("bin");
        archive.program("bin/a", b"hello");
        archive.character_device("console", 5, 1);
        archive.finish()
    }

    #[test]
    fn the_archive_is_newc_and_deterministic() {
        let bytes = sample();
        assert_eq!(bytes, sample());
        assert_eq!(bytes.len() % ALIGNMENT, 0);
        let text = String::from_utf8_lossy(&bytes);
        assert_eq!(text.matches("070701").count(), 4);
        assert!(
            text.contains("bin/a\0") && text.contains("hello\0\0\0") && text.contains("TRAILER!!!")
        );
    }
}
