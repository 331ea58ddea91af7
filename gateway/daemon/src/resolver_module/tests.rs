//! The desk, and the choice of a way by name, against a resolver of the test's own.

use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::str::FromStr;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};

use hickory_proto::op::{MessageType, OpCode, Query};
use hickory_proto::rr::rdata::{MX, NULL, SOA, TXT};
use hickory_proto::rr::{DNSClass, Name};
use outsock_core::route::Protocol;
use outsock_vmrpc::socket::Asserted;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, UdpSocket};

use super::*;
use crate::choose::{Asker, Wanted, choose};
use crate::config::Config;
use crate::own::OwnAddresses;

/// A resolver on a loopback port, and what it was asked.
struct Server {
    at: SocketAddr,
    by_udp: Arc<AtomicUsize>,
    by_tcp: Arc<AtomicUsize>,
}

fn name(text: &str) -> Name {
    Name::from_str(text).unwrap()
}

fn zone(query: &Query, asked: usize) -> Message {
    let mut reply = Message::response(0, OpCode::Query);
    reply.metadata.recursion_available = true;
    reply.add_query(query.clone());
    let mut add = |data| {
        reply.add_answer(Record::from_rdata(query.name().clone(), 300, data));
    };
    let a = |ip: &str| RData::A(ip.parse::<std::net::Ipv4Addr>().unwrap().into());
    let aaaa = |ip: &str| RData::AAAA(ip.parse::<std::net::Ipv6Addr>().unwrap().into());
    match (query.name().to_ascii().to_ascii_lowercase().as_str(), query.query_type()) {
        ("www.example.", RecordType::A) => add(a("203.0.113.7")),
        ("www.example.", RecordType::AAAA) => add(aaaa("2001:db8::7")),
        ("host.corp.example.", RecordType::A) => add(a("203.0.113.8")),
        ("evil.corp.example.", RecordType::A) => add(a("127.0.0.1")),
        ("evil.corp.example.", RecordType::AAAA) => add(aaaa("::ffff:169.254.169.254")),
        // Public at first, the host itself from then on.
        ("rebind.corp.example.", RecordType::A) if asked < 2 => add(a("203.0.113.9")),
        ("rebind.corp.example.", RecordType::A) => add(a("127.0.0.1")),
        ("mail.example.", RecordType::MX) => add(RData::MX(MX::new(10, name("mx.example.")))),
        ("text.example.", RecordType::TXT) => add(RData::TXT(TXT::new(vec!["words".to_owned()]))),
        ("odd.example.", RecordType::Unknown(65_280)) => add(RData::Unknown {
            code: RecordType::Unknown(65_280),
            rdata: NULL::with(vec![1, 2, 3]),
        }),
        ("large.example.", RecordType::TXT) => {
            for n in 0..40 {
                add(RData::TXT(TXT::new(vec![format!("{n:0>200}")])));
            }
        }
        ("silent.example.", _) => reply.metadata.response_code = ResponseCode::ServFail,
        (other, _) => {
            if !other.ends_with("example.") || other.starts_with("nx") {
                reply.metadata.response_code = ResponseCode::NXDomain;
            }
            let soa = SOA::new(name("ns.example."), name("me.example."), 1, 60, 60, 60, 60);
            reply.add_authority(Record::from_rdata(name("example."), 60, RData::SOA(soa)));
        }
    }
    reply
}

fn reply(bytes: &[u8], asked: usize) -> Message {
    let query = Message::from_vec(bytes).unwrap();
    let mut reply = zone(&query.queries[0], asked);
    reply.metadata.id = query.metadata.id;
    reply.metadata.recursion_desired = true;
    reply
}

async fn server() -> Server {
    // A port that is free for UDP may be some client's for TCP: then another one.
    let (udp, tcp, at) = loop {
        let udp = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        let at = udp.local_addr().unwrap();
        if let Ok(tcp) = TcpListener::bind(at).await {
            break (udp, tcp, at);
        }
    };
    let (by_udp, by_tcp) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let count = Arc::clone(&by_udp);
    tokio::spawn(async move {
        let mut buffer = [0; 4096];
        while let Ok((n, from)) = udp.recv_from(&mut buffer).await {
            let reply = reply(&buffer[..n], count.fetch_add(1, SeqCst));
            let mut bytes = reply.to_vec().unwrap();
            if bytes.len() > 1232 {
                bytes = reply.truncate().to_vec().unwrap();
            }
            udp.send_to(&bytes, from).await.unwrap();
        }
    });
    let count = Arc::clone(&by_tcp);
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = tcp.accept().await {
            let count = Arc::clone(&count);
            tokio::spawn(async move {
                while let Ok(length) = stream.read_u16().await {
                    let mut query = vec![0; usize::from(length)];
                    stream.read_exact(&mut query).await.unwrap();
                    let bytes = reply(&query, count.fetch_add(1, SeqCst)).to_vec().unwrap();
                    stream.write_u16(u16::try_from(bytes.len()).unwrap()).await.unwrap();
                    stream.write_all(&bytes).await.unwrap();
                }
            });
        }
    });
    Server { at, by_udp, by_tcp }
}

struct Scene {
    server: Server,
    policy: Arc<Policy>,
    names: Arc<Names>,
    seen: Seen,
    _folder: tempfile::TempDir,
}

const ROUTES: &str = r#"
[[route]]
name = "peers"
domains = ["*.peer"]
refuse = "EPERM"
[[route]]
name = "corp"
domains = [".corp.example"]
via = "direct"
[[route]]
name = "public"
to = ["203.0.113.0/24"]
domains = ["!bad.example"]
via = "direct"
"#;

impl Scene {
    async fn new(guest: &str) -> Self {
        let server = server().await;
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("names");
        let text = format!(
            "[names]\nnameservers = [{:?}]\nfile = {file:?}\n\
             [[guest]]\nname = \"web\"\ncid = 3\nsocket = \"/x\"\n{guest}\n{ROUTES}",
            server.at.to_string()
        );
        let config = Config::parse(&text, Path::new("test")).unwrap();
        let names = Names::open(&config.names).unwrap();
        let policy = Policy::build(config, None).unwrap();
        Self { server, policy, names, seen: Seen::default(), _folder: folder }
    }

    async fn ask(&self, name: &str, kind: RecordType) -> Message {
        let mut query = Message::new(7, MessageType::Query, OpCode::Query);
        query.metadata.recursion_desired = true;
        query.add_query(Query::query(Name::from_ascii(name).unwrap(), kind));
        let bytes = query.to_vec().unwrap();
        let question = answer::read(&bytes).unwrap().unwrap();
        let settings = self.policy.guest("web").unwrap();
        let desk = Desk { policy: &self.policy, names: &self.names, seen: &self.seen, settings };
        let reply = desk.answer(&question).await;
        assert_eq!(reply.metadata.id, 7);
        let asked = &Message::from_vec(&bytes).unwrap().queries[0];
        assert!(reply.queries[0].name().eq_case(asked.name()), "the question comes back as it was");
        Message::from_vec(&answer::write(&reply, u16::MAX).unwrap()).unwrap()
    }

    async fn addresses(&self, name: &str) -> Vec<IpAddr> {
        let mut addresses = Vec::new();
        for kind in [RecordType::A, RecordType::AAAA] {
            let reply = self.ask(name, kind).await;
            addresses.extend(reply.answers.iter().filter_map(|record| address(&record.data)));
        }
        addresses
    }

    async fn choose(&self, name: Option<&str>, ip: Option<&str>) -> Result<Vec<IpAddr>, String> {
        let own = OwnAddresses::new().unwrap();
        let wanted = Wanted {
            asker: Asker::Guest(self.policy.guest("web").unwrap()),
            asserted: &Asserted::default(),
            protocol: Protocol::Tcp,
            name: name.map(str::to_owned),
            address: ip.map(|ip| ip.parse().unwrap()),
            port: 80,
        };
        let rule = |rule| self.policy.config.rule_name(rule).to_owned();
        match choose(&self.policy, &own, &wanted).await {
            Ok(chosen) => Ok(chosen.addresses.unwrap_or_default()),
            Err(refused) => Err(format!("{}: {:?}", rule(refused.rule), refused.errno)),
        }
    }
}

fn ips(texts: &[&str]) -> Vec<IpAddr> {
    texts.iter().map(|text| text.parse().unwrap()).collect()
}

#[tokio::test]
async fn names_that_a_route_picks_get_addresses_of_the_pool() {
    let scene = Scene::new("").await;
    assert_eq!(scene.addresses("db.peer").await, ips(&["198.18.0.1", "fd6f:7574:736f::1"]));
    assert_eq!(scene.addresses("DB.Peer.").await, ips(&["198.18.0.1", "fd6f:7574:736f::1"]));
    assert_eq!(scene.addresses("host.corp.example").await[0], ips(&["198.18.0.2"])[0]);
    let reply = scene.ask("db.peer", RecordType::A).await;
    assert!(reply.answers[0].ttl <= 10, "short");
    // Nothing leads past the rule, and the name exists whatever is asked about it.
    for kind in [RecordType::HTTPS, RecordType::SVCB, RecordType::MX] {
        let reply = scene.ask("db.peer", kind).await;
        assert_eq!(reply.metadata.response_code, ResponseCode::NoError, "{kind}");
        assert!(reply.answers.is_empty());
    }
    let reverse = scene.ask("1.0.18.198.in-addr.arpa.", RecordType::PTR).await;
    assert_eq!(reverse.answers[0].data.to_string(), "db.peer.");
    let nobody = scene.ask("9.0.18.198.in-addr.arpa.", RecordType::PTR).await;
    assert_eq!(nobody.metadata.response_code, ResponseCode::NXDomain);
    let asked = scene.server.by_udp.load(SeqCst);
    assert_eq!(asked, 1, "only the MX went to the host's resolver");
}

#[tokio::test]
async fn other_names_are_passed_on_with_every_type_and_cached() {
    let scene = Scene::new("").await;
    assert_eq!(scene.addresses("www.example").await, ips(&["203.0.113.7", "2001:db8::7"]));
    let mail = scene.ask("mail.example", RecordType::MX).await;
    assert_eq!(mail.answers[0].data.to_string(), "10 mx.example.");
    assert_eq!(scene.ask("text.example", RecordType::TXT).await.answers.len(), 1);
    let odd = scene.ask("odd.example", RecordType::Unknown(65_280)).await;
    assert!(
        matches!(&odd.answers[0].data, RData::Unknown { rdata, .. } if rdata.anything == [1, 2, 3])
    );
    let none = scene.ask("nx.example", RecordType::A).await;
    assert_eq!(none.metadata.response_code, ResponseCode::NXDomain);
    assert_eq!(none.authorities.len(), 1, "the SOA says how long");
    let empty = scene.ask("www.example", RecordType::TXT).await;
    assert_eq!(empty.metadata.response_code, ResponseCode::NoError);
    let failed = scene.ask("silent.example", RecordType::A).await;
    assert_eq!(failed.metadata.response_code, ResponseCode::ServFail);
    let before = scene.server.by_udp.load(SeqCst);
    for _ in 0..50 {
        scene.addresses("www.example").await;
        scene.ask("nx.example", RecordType::A).await;
    }
    assert_eq!(scene.server.by_udp.load(SeqCst), before, "cached, also what is not there");
}

#[tokio::test]
async fn large_answers_come_over_tcp_and_are_truncated_for_who_takes_less() {
    let scene = Scene::new("").await;
    let reply = scene.ask("large.example", RecordType::TXT).await;
    assert_eq!(reply.answers.len(), 40);
    assert!(scene.server.by_tcp.load(SeqCst) > 0);
    let small = Message::from_vec(&answer::write(&reply, 512).unwrap()).unwrap();
    assert!(small.metadata.truncation && small.answers.is_empty());
    assert_eq!(small.queries, reply.queries);
}

#[tokio::test]
async fn a_guest_resolves_what_it_may() {
    let routed = Scene::new("resolve = \"routed\"").await;
    assert_eq!(routed.addresses("db.peer").await.len(), 2);
    let other = routed.ask("www.example", RecordType::A).await;
    assert_eq!(other.metadata.response_code, ResponseCode::Refused);
    assert!(routed.ask("db.peer", RecordType::TXT).await.answers.is_empty());
    let none = Scene::new("resolve = \"none\"").await;
    let reply = none.ask("db.peer", RecordType::A).await;
    assert_eq!(reply.metadata.response_code, ResponseCode::Refused);
    assert_eq!(routed.server.by_udp.load(SeqCst) + none.server.by_udp.load(SeqCst), 0);
}

#[tokio::test]
async fn a_plain_address_is_matched_by_the_name_just_resolved() {
    let scene = Scene::new("").await;
    scene.addresses("www.example").await;
    let ip = ips(&["203.0.113.7"])[0];
    assert_eq!(scene.seen.name_of(ip, clock::now()).as_deref(), Some("www.example"));
    let (www, bad) = (Some("www.example"), Some("bad.example"));
    assert_eq!(scene.choose(www, Some("203.0.113.7")).await.unwrap(), [ip]);
    assert!(scene.choose(bad, Some("203.0.113.7")).await.is_err());
}

#[tokio::test]
async fn a_name_that_leads_to_the_host_leads_nowhere() {
    let scene = Scene::new("").await;
    let host = scene.choose(Some("host.corp.example"), None).await;
    assert_eq!(host.unwrap(), ips(&["203.0.113.8"]));
    let evil = scene.choose(Some("evil.corp.example"), None).await;
    assert_eq!(evil.unwrap_err(), "the default: EACCES");
    // No address at all: the rule stands, and the dial says that there is no host.
    assert_eq!(scene.choose(Some("none.corp.example"), None).await, Ok(Vec::new()));
    let peer = scene.choose(Some("db.peer"), None).await;
    assert_eq!(peer.unwrap_err(), "peers: EPERM");
}

#[tokio::test]
async fn rebinding_between_check_and_connect_is_impossible() {
    let scene = Scene::new("").await;
    let first = scene.choose(Some("rebind.corp.example"), None).await;
    // The address that was decided about is the one that will be dialled: nothing asks again.
    assert_eq!(first.unwrap(), ips(&["203.0.113.9"]));
    scene.server.by_udp.store(100, SeqCst);
    let fresh = Policy::build(config_of(&scene), None).unwrap();
    let later = Scene { policy: fresh, ..scene };
    let second = later.choose(Some("rebind.corp.example"), None).await;
    assert_eq!(second.unwrap_err(), "the default: EACCES");
}

/// The same configuration, with a resolver that remembers nothing.
fn config_of(scene: &Scene) -> Config {
    let text = format!(
        "[names]\nnameservers = [{:?}]\n[[guest]]\nname = \"web\"\ncid = 3\nsocket = \"/x\"\n{ROUTES}",
        scene.server.at.to_string()
    );
    Config::parse(&text, Path::new("test")).unwrap()
}

#[test]
fn hostile_messages_are_answered_or_dropped() {
    assert!(answer::read(b"short").is_none());
    let mut query = Message::new(9, MessageType::Query, OpCode::Query);
    query.add_query(Query::query(name("a.example."), RecordType::A));
    let good = query.to_vec().unwrap();
    let code = |bytes: &[u8]| answer::read(bytes).unwrap().unwrap_err().metadata.response_code;
    let mut reply = good.clone();
    reply[2] |= 0x80;
    assert!(answer::read(&reply).is_none(), "an answer is no query");
    let mut update = good.clone();
    update[2] |= 5 << 3;
    assert_eq!(code(&update), ResponseCode::NotImp);
    assert_eq!(code(&good[..good.len() - 3]), ResponseCode::FormErr);
    let mut two = query.clone();
    two.add_query(Query::query(name("b.example."), RecordType::A));
    assert_eq!(code(&two.to_vec().unwrap()), ResponseCode::FormErr);
    let mut chaos = Query::query(name("version.bind."), RecordType::TXT);
    chaos.set_query_class(DNSClass::CH);
    query.queries = vec![chaos];
    assert_eq!(code(&query.to_vec().unwrap()), ResponseCode::Refused);
    query.queries = vec![Query::query(name("example."), RecordType::AXFR)];
    assert_eq!(code(&query.to_vec().unwrap()), ResponseCode::Refused);
    // A name that points at itself, for ever.
    let mut circle = good[..12].to_vec();
    circle.extend([0xc0, 12, 0, 1, 0, 1]);
    assert_eq!(code(&circle), ResponseCode::FormErr);
}
