//! Datagrams: services of datagrams that guests of one gateway offer.
//!
//! in:  listeners with a service's name; sessions that guests and peers open
//! out: both ends of a session, as [`Flow`]s
//! owner: the table of [`Local`](crate::Local); each end belongs to who holds it
//! keeps: one listener per service; when one end is gone, the other one has ended
//! bound: `ACCEPT_BACKLOG_MAX` sessions wait per service, [`SESSION_BYTES_MAX`] for all datagrams that
//!        wait in one session

use std::collections::HashMap;
use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use async_trait::async_trait;
use outsock_transport::limits::{ACCEPT_BACKLOG_MAX, DATAGRAM_BYTES_MAX, INBOX_BYTES_MAX};
use outsock_transport::{Budget, DialError, Errno, Flow, Inbox, ListenError};
use tokio::sync::mpsc;

/// Bytes of datagrams that wait in one session, both ways.
pub const SESSION_BYTES_MAX: usize = 2 * INBOX_BYTES_MAX;

/// The listeners.
#[derive(Clone, Debug, Default)]
pub(crate) struct Doors(Arc<Mutex<HashMap<String, mpsc::Sender<Session>>>>);

/// A session that somebody opened.
#[derive(Debug)]
pub struct Session {
    /// The service's end.
    pub flow: Pipe,
    /// An address that stands for who opened it.
    pub client: Option<SocketAddr>,
}

/// Takes the sessions of one service. Dropping it closes the service.
#[derive(Debug)]
pub struct SessionListener {
    backlog: mpsc::Receiver<Session>,
}

/// One end of a session.
#[derive(Debug)]
pub struct Pipe {
    ours: Arc<Inbox>,
    theirs: Arc<Inbox>,
}

impl Doors {
    fn table(&self) -> MutexGuard<'_, HashMap<String, mpsc::Sender<Session>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn is_open(&self, service: &str) -> bool {
        self.table().get(service).is_some_and(|door| !door.is_closed())
    }

    pub(crate) fn listen(&self, service: &str) -> Result<SessionListener, ListenError> {
        let mut table = self.table();
        table.retain(|_, door| !door.is_closed());
        if table.contains_key(service) {
            return Err(ListenError::AddressInUse);
        }
        let backlog_max = usize::try_from(ACCEPT_BACKLOG_MAX).unwrap_or(usize::MAX);
        let (sender, backlog) = mpsc::channel(backlog_max);
        table.insert(service.to_owned(), sender);
        Ok(SessionListener { backlog })
    }

    pub(crate) fn open(
        &self,
        service: &str,
        client: Option<SocketAddr>,
    ) -> Result<Pipe, DialError> {
        let door = self.table().get(service).cloned().ok_or(DialError::Refused)?;
        let (near, far) = pipe();
        door.try_send(Session { flow: far, client }).map_err(|error| match error {
            mpsc::error::TrySendError::Full(_) => DialError::OutOfResources("sessions that wait"),
            mpsc::error::TrySendError::Closed(_) => DialError::Refused,
        })?;
        Ok(near)
    }
}

impl SessionListener {
    /// Waits for a session. `None` never comes while it is held. Cancel-safe.
    pub async fn accept(&mut self) -> Option<Session> {
        self.backlog.recv().await
    }
}

/// A session's two ends.
fn pipe() -> (Pipe, Pipe) {
    let budget = Budget::new(SESSION_BYTES_MAX);
    let (one, other) = (Arc::new(Inbox::new(&budget)), Arc::new(Inbox::new(&budget)));
    let back = Pipe { ours: Arc::clone(&other), theirs: Arc::clone(&one) };
    (Pipe { ours: one, theirs: other }, back)
}

/// What an echo request to a service leads to: itself. It says that the service's gateway is there and
/// that somebody listens.
pub(crate) fn mirror() -> Pipe {
    let ours = Arc::new(Inbox::new(&Budget::new(INBOX_BYTES_MAX)));
    Pipe { theirs: Arc::clone(&ours), ours }
}

#[async_trait]
impl Flow for Pipe {
    fn local(&self) -> Option<SocketAddr> {
        None
    }

    fn try_send(&self, datagram: &[u8]) -> io::Result<()> {
        if datagram.len() > DATAGRAM_BYTES_MAX {
            return Err(Errno::EMSGSIZE.into());
        }
        if self.theirs.put(datagram) { Ok(()) } else { Err(io::ErrorKind::WouldBlock.into()) }
    }

    fn try_receive(&self, buffer: &mut [u8]) -> io::Result<usize> {
        self.ours.take(buffer)
    }

    async fn readable(&self) -> io::Result<()> {
        self.ours.readable().await;
        Ok(())
    }
}

impl Drop for Pipe {
    fn drop(&mut self) {
        self.ours.end();
        self.theirs.end();
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

    use super::*;

    #[tokio::test]
    async fn a_session_carries_datagrams_both_ways_until_one_end_is_gone() {
        let doors = Doors::default();
        assert_eq!(doors.open("dns", None).unwrap_err(), DialError::Refused);
        let mut listener = doors.listen("dns").unwrap();
        assert!(doors.listen("dns").is_err() && doors.is_open("dns"));
        let near = doors.open("dns", "198.18.0.1:50000".parse().ok()).unwrap();
        let Session { flow: far, client } = listener.accept().await.unwrap();
        assert_eq!(client, "198.18.0.1:50000".parse().ok());
        near.try_send(b"question").unwrap();
        far.try_send(b"").unwrap();
        let mut buffer = [0; 16];
        far.readable().await.unwrap();
        assert_eq!(far.try_receive(&mut buffer).unwrap(), 8);
        assert_eq!(near.try_receive(&mut buffer).unwrap(), 0);
        let error = near.try_send(&vec![0; DATAGRAM_BYTES_MAX + 1]).unwrap_err();
        assert_eq!(Errno::of(&error), Errno::EMSGSIZE);
        drop(far);
        near.readable().await.unwrap();
        let error = near.try_receive(&mut buffer).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::UnexpectedEof);
        drop(listener);
        assert_eq!(doors.open("dns", None).unwrap_err(), DialError::Refused);
        doors.listen("dns").unwrap();
    }

    #[tokio::test]
    async fn a_mirror_answers() {
        let mirror = mirror();
        mirror.try_send(b"\0\x01data").unwrap();
        mirror.readable().await.unwrap();
        assert_eq!(mirror.try_receive(&mut [0; 16]).unwrap(), 6);
    }
}
