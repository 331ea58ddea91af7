//! Journal: the pool's assignments in a file.
//!
//! in: new assignments; out: the same ones after a restart. Lines are appended, without waiting for
//! the disk: what a crash of the whole host loses, its guests have lost as well. Rewritten whole
//! (aside, then renamed into place) at start, when it has grown, and after a failed write. Kept: a
//! half line at the end is no assignment. Bound: twice as many lines as names, and some.

use std::collections::HashMap;
use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use outsock_core::address::Instant;
use outsock_core::pool::{Pool, Slot};

/// Lines more than names before the file is rewritten.
const STALE_LINES_MAX: usize = 1_000;

/// Why the file of names cannot be used.
#[derive(Debug, thiserror::Error)]
pub(crate) enum JournalError {
    /// It holds something else.
    #[error("{0} is not a file of names: move it away, or set [names] file to another path")]
    Foreign(PathBuf),
    /// It cannot be read or written.
    #[error("the file of names {path}: {source}")]
    Io {
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

#[derive(Debug)]
pub(super) struct Journal {
    path: PathBuf,
    header: String,
    file: Option<File>,
    lines: usize,
}

impl Journal {
    pub(super) fn open(
        path: &Path,
        header: &str,
        pool: &mut Pool,
        now: Instant,
    ) -> Result<Self, JournalError> {
        let failed = |source| JournalError::Io { path: path.to_owned(), source };
        match std::fs::read(path) {
            // A half line at the end may be half a character, too.
            Ok(bytes) => restore(&String::from_utf8_lossy(&bytes), header, pool, now)
                .ok_or_else(|| JournalError::Foreign(path.to_owned()))?,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(failed(error)),
        }
        let mut journal =
            Self { path: path.to_owned(), header: header.to_owned(), file: None, lines: 0 };
        journal.rewrite(pool).map_err(failed)?;
        Ok(journal)
    }

    /// Whether the file lacks assignments since a write failed.
    pub(super) fn is_behind(&self) -> bool {
        self.file.is_none()
    }

    /// Writes down a new assignment, and all earlier ones where the file lacks them.
    pub(super) fn note(
        &mut self,
        new: Option<(Slot, &str, &str)>,
        pool: &Mutex<Pool>,
    ) -> Result<(), JournalError> {
        let result = match (&mut self.file, new) {
            (Some(_), None) => Ok(()),
            (Some(file), Some((slot, name, guest))) => {
                self.lines += 1;
                file.write_all(line(slot, name, guest).as_bytes())
            }
            (None, _) => Ok(()),
        };
        let pool = pool.lock().unwrap_or_else(PoisonError::into_inner);
        let grown = self.lines > 2 * pool.len() + STALE_LINES_MAX;
        let result = match result {
            Ok(()) if self.file.is_some() && !grown => Ok(()),
            Ok(()) => self.rewrite(&pool),
            Err(error) => Err(error),
        };
        result.map_err(|source| {
            self.file = None;
            JournalError::Io { path: self.path.clone(), source }
        })
    }

    fn rewrite(&mut self, pool: &Pool) -> io::Result<()> {
        let folder = self.path.parent().filter(|folder| !folder.as_os_str().is_empty());
        if let Some(folder) = folder {
            std::fs::create_dir_all(folder)?;
        }
        let mut text = format!("{}\n", self.header);
        let mut lines = 0;
        for (slot, name, guest) in pool.assignments() {
            text.push_str(&line(slot, name, guest));
            lines += 1;
        }
        let mut aside = self.path.clone().into_os_string();
        aside.push(".new");
        let mut file =
            OpenOptions::new().create(true).truncate(true).write(true).mode(0o600).open(&aside)?;
        file.write_all(text.as_bytes())?;
        file.sync_all()?;
        std::fs::rename(&aside, &self.path)?;
        if let Some(folder) = folder {
            File::open(folder)?.sync_all()?;
        }
        self.file = Some(file);
        self.lines = lines;
        Ok(())
    }

    #[cfg(test)]
    pub(super) fn break_for_test(&mut self) {
        self.file = None;
    }
}

fn line(slot: Slot, name: &str, guest: &str) -> String {
    format!("{}\t{name}\t{guest}\n", slot.0)
}

/// `None` for a file of something else. One of another pool holds nothing for this one.
fn restore(text: &str, header: &str, pool: &mut Pool, now: Instant) -> Option<()> {
    let Some((first, rest)) = text.split_once('\n') else {
        return text.is_empty().then_some(());
    };
    if first != header {
        return first.starts_with("outsock-names ").then_some(());
    }
    // Later lines win: an address may have gone from an idle name to another one.
    let mut by_slot: HashMap<u32, (&str, &str)> = HashMap::new();
    let mut by_name: HashMap<&str, u32> = HashMap::new();
    for line in rest.split_inclusive('\n') {
        let Some(line) = line.strip_suffix('\n') else { continue };
        let mut fields = line.splitn(3, '\t');
        let slot = fields.next().and_then(|slot| slot.parse().ok());
        let (Some(slot), Some(name), Some(guest)) = (slot, fields.next(), fields.next()) else {
            tracing::warn!(line, "a line of the file of names is left out");
            continue;
        };
        if let Some(old) = by_name.insert(name, slot) {
            by_slot.remove(&old);
        }
        if let Some((old, _)) = by_slot.insert(slot, (name, guest)) {
            by_name.remove(old);
        }
    }
    for (slot, (name, guest)) in by_slot {
        pool.restore(Slot(slot), name, guest, now);
    }
    Some(())
}
