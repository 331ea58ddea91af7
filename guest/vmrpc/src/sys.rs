//! System calls of a real guest: the vsock stream and pinned pages.
//!
//! The one place of this crate with unsafe code, one operation per block.
//!
//! | Module | What it holds |
//! |---|---|
//! | `vsock` | a stream to the gateway, from a port that shows privilege |
//! | `pin` | memory whose pages stay where they are, and where that is |
//! | `keeper` | the process that holds it when this one has died |
//! | `mapped` | such memory as a ring sees it |

mod keeper;
mod mapped;
mod pin;
pub(crate) mod vsock;

pub use pin::PinnedPages;

use std::io;

/// The result of a system call that gives -1 for an error.
fn check<T: Copy + PartialOrd + Default>(result: T) -> io::Result<T> {
    if result < T::default() { Err(io::Error::last_os_error()) } else { Ok(result) }
}
