//! Configuration: what each site's gateway is told.
//!
//! in: a topology, the sites' keys and addresses; out: the text of a gateway's file. Owner: nobody.
//! Kept: guests reach services of their own site and of linked sites by name, and nothing else unless
//! the topology says so. Bound: none of its own.

use std::fmt::Write;
use std::net::SocketAddr;
use std::path::Path;

use outsock_peer::PeerKey;

use crate::topology::{Allows, ServicePort, Site, Topology};

/// The first guest's CID; the next ones follow.
pub const FIRST_CID: u32 = 3;

/// A site as its peers see it.
#[derive(Clone, Debug)]
pub struct PeerPlace {
    /// Its name.
    pub name: String,
    /// Its key.
    pub key: PeerKey,
    /// Where to dial it; `None` = it dials.
    pub address: Option<SocketAddr>,
}

/// Where things of a site are.
#[derive(Clone, Debug)]
pub struct Own<'a> {
    /// The key file.
    pub key_file: &'a Path,
    /// The gateway's UDP address.
    pub listen: SocketAddr,
    /// The folder of the guests' sockets.
    pub folder: &'a Path,
}

/// The socket of a guest.
#[must_use]
pub fn socket(folder: &Path, guest: &str) -> std::path::PathBuf {
    folder.join(format!("{guest}.sock"))
}

/// The text of a site's gateway's file. Writing to a string cannot fail.
#[must_use]
pub fn gateway(topology: &Topology, site: &Site, own: &Own<'_>, peers: &[PeerPlace]) -> String {
    let mut text = "[gateway]\n\n".to_owned();
    let _ = writeln!(text, "[identity]\nkey_file = {:?}\nname = {:?}\n", own.key_file, site.name);
    let _ = writeln!(text, "[quic]\nlisten = \"{}\"\n", own.listen);
    for (guest, cid) in site.guests.iter().zip(FIRST_CID..) {
        let socket = socket(own.folder, &guest.name);
        let name = &guest.name;
        let _ = writeln!(text, "[[guest]]\nname = {name:?}\ncid = {cid}\nsocket = {socket:?}\n");
        let services = guest.services.iter();
        let services =
            services.flat_map(|(name, ports)| ports.ports().iter().map(move |p| (name, p)));
        for (service, ServicePort { port, udp }) in services {
            let protocol = if *udp { "udp" } else { "tcp" };
            let _ = writeln!(
                text,
                "[[publish]]\nname = \"service {service} ({protocol})\"\nguests = [{name:?}]\n\
                 ports = [{port}]\nprotocol = \"{protocol}\"\nlisten = \"service:{service}\"\n"
            );
        }
    }
    let anything = Allows { services: vec!["*".to_owned()], exit: Vec::new() };
    for peer in peers.iter().filter(|peer| topology.are_linked(&site.name, &peer.name)) {
        let allows = site.allows.get(&peer.name).unwrap_or(&anything);
        let _ = writeln!(text, "[[peer]]\nname = {:?}\nkey = \"{}\"", peer.name, peer.key);
        if let Some(address) = peer.address {
            let _ = writeln!(text, "addresses = [\"{address}\"]");
        }
        let _ = writeln!(text, "services = {:?}", allows.services);
        for rule in &allows.exit {
            let _ = writeln!(text, "[[peer.exit]]\n{rule}");
        }
        let name = &peer.name;
        let _ = writeln!(
            text,
            "\n[[route]]\nname = \"services in {name}\"\ndomains = [\".{name}.peer\"]\nvia = {name:?}\n"
        );
    }
    let _ = writeln!(
        text,
        "[[route]]\nname = \"services here\"\ndomains = [\".local.peer\", \".{}.peer\"]\n\
         via = \"local\"\n",
        site.name
    );
    text + &site.gateway
}
