//! What the agent in a guest does about listeners.

use std::net::{SocketAddr, TcpStream};
use std::sync::mpsc::{Receiver, sync_channel};
use std::time::Duration;

use outsock_virtual_guest::{Connection, VirtualGuest};
use outsock_vmrpc::socket::inbound::{
    self, ListenReply, ListenRequest, ListenerId, Notice, Notices, Report, Session, Unlisten,
};
use outsock_vmrpc::socket::{self, Asserted};
use outsock_vmrpc::{Binding, Errno, RpcError};

pub const PATIENCE: Duration = Duration::from_secs(20);

/// See the module.
pub struct Agent {
    pub guest: VirtualGuest,
    pub binding: Binding,
    pub session: Session,
}

impl Agent {
    pub fn new(guest: &VirtualGuest, session: u64) -> Self {
        let client = guest.rpc().unwrap();
        let binding = client.bind_module(socket::NAME, socket::ALL_VERSIONS).unwrap();
        let session = Session(session);
        binding.start_rpc(inbound::ATTEND, &session.encode(), drop);
        Self { guest: guest.clone(), binding, session }
    }

    pub fn listen_with(
        &self,
        id: u32,
        address: &str,
        backlog: u32,
    ) -> Result<Vec<SocketAddr>, Errno> {
        let program = Some("/usr/sbin/server".to_owned());
        let request = ListenRequest {
            session: self.session,
            listener: ListenerId(id),
            address: address.parse().unwrap(),
            dual: false,
            shared: false,
            backlog,
            asserted: Asserted { program, ..Asserted::default() },
        };
        match self.binding.perform_rpc(inbound::LISTEN, &request.encode()) {
            Ok(reply) => {
                let places = ListenReply::decode(&reply).unwrap().places;
                Ok(places.iter().map(|place| place.parse().unwrap()).collect())
            }
            Err(RpcError::Function(errno)) => Err(errno),
            Err(error) => panic!("{error}"),
        }
    }

    /// Listens where one rule publishes.
    pub fn listen(&self, id: u32, address: &str) -> SocketAddr {
        let places = self.listen_with(id, address, 16).unwrap();
        assert_eq!(places.len(), 1, "{places:?}");
        places[0]
    }

    pub fn unlisten(&self, id: u32) {
        let unlisten = Unlisten { session: self.session, listener: ListenerId(id) };
        self.binding.perform_rpc(inbound::UNLISTEN, &unlisten.encode()).unwrap();
    }

    pub fn ask(&self, ended: Vec<(ListenerId, u32)>) -> Receiver<Vec<Notice>> {
        let (sender, receiver) = sync_channel(1);
        let report = Report { session: self.session, ended };
        self.binding.start_rpc(inbound::INBOUND, &report.encode(), move |outcome| {
            if let Ok(bytes) = outcome {
                let _ = sender.send(Notices::decode(&bytes).unwrap().0);
            }
        });
        receiver
    }

    pub fn report(&self, id: u32, ended: u32) {
        let ended = vec![(ListenerId(id), ended)];
        let report = Report { session: self.session, ended };
        self.binding.perform_rpc(inbound::REPORT, &report.encode()).unwrap();
    }

    /// The next connection: its notice and its bytes.
    pub fn accept(&self) -> (Notice, Connection) {
        let notices = self.ask(Vec::new()).recv_timeout(PATIENCE).unwrap();
        assert_eq!(notices.len(), 1, "{notices:?}");
        (notices[0], self.fetch(&notices[0]))
    }

    pub fn fetch(&self, notice: &Notice) -> Connection {
        self.guest.open(notice.token.raw()).unwrap()
    }
}

/// A client from outside.
pub fn connect(to: SocketAddr) -> TcpStream {
    let stream = TcpStream::connect(to).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream
}
