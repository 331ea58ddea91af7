//! Socket file: the name of a Unix listener, which outlives its process unless someone removes it.
//!
//! in:  a path
//! out: a guard that removes the file it stands for; the removal of a file nobody listens on
//! owner: the listener
//! keeps: only a socket that refuses is removed as stale, never a file of another kind, nor a
//!        socket that answers; the guard removes only the very file that it saw made
//! bound: one file
//!
//! Between another process's `bind()` and its `listen()` its socket refuses too, and may then be
//! taken for a stale one: two gateways that start on the same path in the same instant are a fault
//! of the configuration, and the later one wins.

use std::fs;
use std::io;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

use outsock_transport::Errno;
use socket2::{Domain, SockAddr, Socket, Type};

#[derive(Debug)]
pub(crate) struct SocketFile {
    path: PathBuf,
    identity: Identity,
}

/// Device and inode.
type Identity = (u64, u64);

impl SocketFile {
    /// The file that a `bind()` has just made.
    pub(crate) fn made(path: &Path) -> io::Result<Self> {
        let identity = identity(path)?;
        // A relative path must still be the same file after a chdir.
        Ok(Self { path: std::path::absolute(path)?, identity })
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        if identity(&self.path).is_ok_and(|now| now == self.identity) {
            // Nobody is left to be told; a file that stays is removed as stale at the next start.
            let _ = fs::remove_file(&self.path);
        }
    }
}

/// The socket at this path, of whatever process; a symbolic link is not followed.
fn identity(path: &Path) -> io::Result<Identity> {
    let meta = fs::symlink_metadata(path)?;
    if meta.file_type().is_socket() {
        Ok((meta.dev(), meta.ino()))
    } else {
        Err(Errno::EADDRINUSE.into())
    }
}

/// Removes a socket that nobody listens on; `EADDRINUSE` for anything else.
pub(crate) fn remove_stale(path: &Path) -> io::Result<()> {
    let before = identity(path)?;
    // A connection that is closed at once. It may not block: a full backlog is a living listener.
    let probe = Socket::new(Domain::UNIX, Type::STREAM.nonblocking().cloexec(), None)?;
    match probe.connect(&SockAddr::unix(path)?) {
        Err(error) if Errno::of(&error) == Errno::ECONNREFUSED => {}
        // It answers, or we may not ask (EACCES): not ours to remove.
        Ok(()) | Err(_) => return Err(Errno::EADDRINUSE.into()),
    }
    if identity(path)? != before {
        return Err(Errno::EADDRINUSE.into());
    }
    fs::remove_file(path)
}
