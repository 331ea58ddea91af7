//! Testing: nodes, an authority and a moment for this crate's tests.

use std::net::SocketAddr;

use outsock_peer::Identity;

use crate::address::{Address, Carrier};
use crate::authority::Authority;
use crate::certificate::Certificate;
use crate::name::Label;
use crate::network::NetworkId;
use crate::record::Record;
use crate::time::UnixTime;

pub(crate) const NOW: UnixTime = UnixTime(1_800_000_000);

pub(crate) fn authority() -> (Identity, Authority) {
    let root = Identity::from_seed([100; 32]).unwrap();
    let trust = Authority::new(root.key());
    (root, trust)
}

pub(crate) fn open_record(node: &Identity, network: NetworkId) -> Record {
    let at: SocketAddr = "198.51.100.7:4001".parse().unwrap();
    Record {
        network,
        key: node.key(),
        life: 1,
        sequence: 10,
        issued: NOW,
        lifetime_s: 3600,
        addresses: vec![Address { carrier: Carrier::Quic, at, relay: None }],
        services: vec!["web".to_owned()],
        certificate: None,
        supernode: None,
    }
}

pub(crate) fn certified(root: &Identity, node: &Identity, name: &str) -> Record {
    let name = Label::parse(name).unwrap();
    let certificate = Certificate::sign(root, node.key(), name, NOW, 3600).unwrap();
    let record = open_record(node, NetworkId::private(root.key()));
    Record { certificate: Some(certificate), ..record }
}
