//! Directory: a private place for one run, removed when it ends.
//!
//! in: a purpose; out: paths short enough for Unix sockets. Owner: whoever made it. Kept: left-overs of
//! processes that were killed are removed by the next one. Bound: one directory per value.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use tempfile::TempDir;

const PREFIX: &str = "outsock-site-";

/// A temporary directory with a part that a guest may see.
#[derive(Debug)]
pub struct Directory(TempDir);

impl Directory {
    /// Makes one, and clears away those of dead processes.
    ///
    /// # Errors
    /// The system's.
    pub fn new() -> io::Result<Self> {
        let base = std::env::temp_dir();
        for entry in fs::read_dir(&base)?.flatten() {
            let name = entry.file_name().to_string_lossy().into_owned();
            let owner = name.strip_prefix(PREFIX).and_then(|rest| rest.split('-').next());
            let dead = owner
                .and_then(|owner| owner.parse::<u32>().ok())
                .is_some_and(|owner| !Path::new("/proc").join(owner.to_string()).exists());
            if dead {
                // Another process may remove it at the same moment.
                let _ = fs::remove_dir_all(entry.path());
            }
        }
        let prefix = format!("{PREFIX}{}-", std::process::id());
        let directory = tempfile::Builder::new().prefix(&prefix).tempdir_in(base)?;
        fs::create_dir(directory.path().join("share"))?;
        Ok(Self(directory))
    }

    /// A path in it that guests do not see.
    #[must_use]
    pub fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    /// The part that a guest finds at `/mnt/share`.
    #[must_use]
    pub fn share(&self) -> PathBuf {
        self.path("share")
    }

    /// Copies a program to where a guest finds it, and returns its path there. A guest does not see
    /// the host's `/tmp` and `/root`, where a workspace may be.
    ///
    /// # Errors
    /// The system's.
    pub fn share_program(&self, program: &Path, name: &str) -> io::Result<String> {
        fs::copy(program, self.share().join(name))?;
        Ok(format!("/mnt/share/{name}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_dead_process_left_is_removed() {
        // No process has this number: it is above the kernel's limit.
        let dead = std::env::temp_dir().join(format!("{PREFIX}4194305-left"));
        fs::create_dir_all(&dead).unwrap();
        let directory = Directory::new().unwrap();
        assert!(!dead.exists());
        let path = directory.share();
        assert!(path.is_dir());
        drop(directory);
        assert!(!path.exists());
    }
}
