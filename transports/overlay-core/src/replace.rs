//! Replace: a file that is there in full, old or new, whatever happens.
//!
//! in: a path and bytes; out: the file. Owner: the caller. Kept: written aside, then renamed into place;
//! only its owner may read it. Bound: the caller's.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

/// Replaces a file, and makes its folder where that is missing.
///
/// # Errors
/// The system's.
pub fn replace(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty());
    if let Some(folder) = folder {
        std::fs::create_dir_all(folder)?;
    }
    let mut aside = path.to_owned().into_os_string();
    aside.push(".new");
    let mut file =
        OpenOptions::new().create(true).truncate(true).write(true).mode(0o600).open(&aside)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    std::fs::rename(&aside, path)?;
    folder.map_or(Ok(()), |folder| File::open(folder)?.sync_all())
}
