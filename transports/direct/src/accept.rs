//! Accept: what an error of `accept()` means for the listener.
//!
//! in:  an error of the kernel
//! out: [`AcceptError::Connection`] where the next accept may work, else [`AcceptError::Ended`]
//! owner: the accepting task
//! keeps: an error that will not go away by itself does not make its caller spin
//! bound: [`limits::EXHAUSTED_PAUSE`]

use std::io;

use outsock_transport::{AcceptError, Errno};

use crate::limits;

/// Dropping the future loses the error only; the connection is still in the backlog.
pub(crate) async fn failed(error: io::Error) -> AcceptError {
    let errno = Errno::of(&error);
    match errno {
        Errno::EMFILE | Errno::ENFILE | Errno::ENOBUFS | Errno::ENOMEM => {
            tokio::time::sleep(limits::EXHAUSTED_PAUSE).await;
            AcceptError::Connection(errno)
        }
        Errno::EBADF | Errno::EFAULT | Errno::EINVAL => AcceptError::Ended(errno),
        // Linux passes on what happened to the new connection (accept(2)): ECONNABORTED, EPROTO,
        // ENETDOWN, EHOSTUNREACH, EPERM of a firewall.
        _ => AcceptError::Connection(errno),
    }
}
