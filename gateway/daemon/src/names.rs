//! Names: the synthetic pool with its file.
//!
//! in: names that guests resolve; out: address pairs, and back. Owner: shared; two short locks. Kept:
//! an assignment is in the file before a guest hears of it, so that after a restart of the gateway
//! every address still means its name. Bound: the pool's own size and shares.

mod journal;

use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use outsock_core::pool::{Addresses, Exhausted, Lookup, Pool};

use crate::clock;
use crate::config::NamesConfig;
use journal::Journal;
pub(crate) use journal::JournalError;

/// Why a name gets no address now.
#[derive(Debug, thiserror::Error)]
pub(crate) enum AssignError {
    /// See [`Exhausted`].
    #[error(transparent)]
    Exhausted(#[from] Exhausted),
    /// The assignment could not be written down.
    #[error(transparent)]
    Journal(#[from] JournalError),
}

/// What an address is to the pool.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Found {
    /// None of the pool's.
    Outside,
    /// The pool's, and no name has it.
    Unassigned,
    /// The pool's, of this name.
    Name(String),
}

/// The pool with its file.
#[derive(Debug)]
pub(crate) struct Names {
    pool: Mutex<Pool>,
    journal: Mutex<Journal>,
}

impl Names {
    /// Opens the file and brings back what it holds.
    pub(crate) fn open(config: &NamesConfig) -> anyhow::Result<Arc<Self>> {
        let mut pool = Pool::new(config.pool_v4, config.pool_v6)?;
        let header = format!("outsock-names 1 {} {}", config.pool_v4, config.pool_v6);
        let journal = Journal::open(&config.file, &header, &mut pool, clock::now())?;
        if !pool.is_empty() {
            tracing::info!(names = pool.len(), file = %config.file.display(), "known names");
        }
        Ok(Arc::new(Self { pool: Mutex::new(pool), journal: Mutex::new(journal) }))
    }

    fn pool(&self) -> MutexGuard<'_, Pool> {
        self.pool.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The addresses of a name.
    pub(crate) fn assign(&self, name: &str, guest: &str) -> Result<Addresses, AssignError> {
        // The journal's lock is the outer one: lines stand in it in the order of assignment.
        let mut journal = self.journal.lock().unwrap_or_else(PoisonError::into_inner);
        let (addresses, new) = self.pool().assign(name, guest, clock::now())?;
        if new.is_some() || journal.is_behind() {
            journal.note(new.map(|slot| (slot, name, guest)), &self.pool)?;
        }
        Ok(addresses)
    }

    /// What an address is.
    pub(crate) fn find(&self, ip: IpAddr) -> Found {
        match self.pool().lookup(ip) {
            Lookup::Outside => Found::Outside,
            Lookup::Unassigned => Found::Unassigned,
            Lookup::Name(name) => Found::Name(name.to_owned()),
        }
    }

    /// Keeps the addresses of a name for as long as the returned value lives.
    pub(crate) fn hold(self: &Arc<Self>, name: &str) -> Held {
        self.pool().hold(name);
        Held { names: Arc::clone(self), name: name.to_owned() }
    }
}

/// A connection to a name of the pool.
#[derive(Debug)]
pub(crate) struct Held {
    names: Arc<Names>,
    name: String,
}

impl Drop for Held {
    fn drop(&mut self) {
        self.names.pool().release(&self.name, clock::now());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(folder: &std::path::Path) -> NamesConfig {
        NamesConfig {
            pool_v4: "198.18.0.0/24".parse().unwrap(),
            pool_v6: "fd00:1::/64".parse().unwrap(),
            file: folder.join("deep/names"),
            nameservers: Vec::new(),
        }
    }

    #[test]
    fn addresses_mean_their_names_after_a_restart_and_a_crash() {
        let folder = tempfile::tempdir().unwrap();
        let config = config(folder.path());
        let names = Names::open(&config).unwrap();
        let db = names.assign("db.peer", "web").unwrap();
        let mail = names.assign("mail.peer", "web").unwrap();
        // No farewell: a killed process leaves the file as it is, perhaps with half a line.
        std::mem::forget(names);
        let mut text = std::fs::read_to_string(&config.file).unwrap();
        text.push_str("3\thalf.pe");
        std::fs::write(&config.file, text).unwrap();
        let names = Names::open(&config).unwrap();
        assert_eq!(names.find(IpAddr::V4(db.v4)), Found::Name("db.peer".to_owned()));
        assert_eq!(names.find(IpAddr::V6(mail.v6)), Found::Name("mail.peer".to_owned()));
        assert_eq!(names.assign("db.peer", "other").unwrap(), db);
        assert_eq!(names.find("198.18.0.3".parse().unwrap()), Found::Unassigned);
        let next = names.assign("next.peer", "web").unwrap();
        assert!(![db, mail].contains(&next));
    }

    #[test]
    fn another_pool_begins_anew_and_foreign_files_are_left_alone() {
        let folder = tempfile::tempdir().unwrap();
        let mut config = config(folder.path());
        Names::open(&config).unwrap().assign("db.peer", "web").unwrap();
        config.pool_v4 = "198.19.0.0/24".parse().unwrap();
        let names = Names::open(&config).unwrap();
        assert_eq!(names.find("198.19.0.1".parse().unwrap()), Found::Unassigned);
        drop(names);
        std::fs::write(&config.file, "root:x:0:0\n").unwrap();
        let error = Names::open(&config).unwrap_err().to_string();
        assert!(error.contains("is not a file of names"), "{error}");
        assert_eq!(std::fs::read_to_string(&config.file).unwrap(), "root:x:0:0\n");
    }

    #[test]
    fn nothing_is_promised_that_cannot_be_written() {
        let folder = tempfile::tempdir().unwrap();
        let config = config(folder.path());
        let names = Names::open(&config).unwrap();
        names.journal.lock().unwrap().break_for_test();
        std::fs::remove_dir_all(config.file.parent().unwrap()).unwrap();
        std::fs::write(config.file.parent().unwrap(), "in the way").unwrap();
        assert!(matches!(names.assign("a.peer", "web"), Err(AssignError::Journal(_))));
        assert!(matches!(names.assign("a.peer", "web"), Err(AssignError::Journal(_))));
        std::fs::remove_file(config.file.parent().unwrap()).unwrap();
        let a = names.assign("a.peer", "web").unwrap();
        let again = Names::open(&config).unwrap();
        assert_eq!(again.find(IpAddr::V4(a.v4)), Found::Name("a.peer".to_owned()));
    }
}
