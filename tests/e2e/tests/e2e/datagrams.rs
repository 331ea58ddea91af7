//! Datagrams: UDP and ping of unmodified programs.
//!
//! in: a world; out: a verdict each. Owner: the caller. Kept: what a program sees is compared with what
//! a kernel with a network would have told it.

use std::fmt::Write;
use std::net::{SocketAddr, UdpSocket};
use std::time::Duration;

use outsock_boot::GuestCommand;
use outsock_e2e::UdpEcho;

use crate::Verdict;
use crate::host::{missing, program};
use crate::net::{HOST, HOST6, IPERF3, REFUSED_BY_RULE, STRANGER};
use crate::programs::need;
use crate::world::{FIRST, World, run};

/// The ports that guests know.
const ECHO: u16 = 8;
const CLOSED: u16 = 102;
/// A port on which a program of the guest serves.
const SERVED: u16 = 5300;
/// The host that answers to ping.
const PINGED: &str = "192.0.2.9";

/// Servers in this process.
pub(crate) struct UdpServers {
    v4: UdpEcho,
    /// `None` on a host without IPv6.
    v6: Option<UdpEcho>,
    /// Where [`SERVED`] of the guests is reached.
    published: SocketAddr,
}

impl UdpServers {
    pub(crate) fn start() -> Self {
        let (v4, v6) = (UdpEcho::start(false).unwrap(), UdpEcho::start(true).ok());
        Self { v4, v6, published: closed() }
    }

    /// Rules that lead to them.
    pub(crate) fn rules(&self) -> String {
        let mut text = String::new();
        let mut rule = |to: &str, protocol: &str, port: Option<u16>, target: &str| {
            let ports = port.map(|port| format!("ports = [{port}]\n")).unwrap_or_default();
            write!(
                text,
                "[[route]]\nto = [\"{to}\"]\nprotocol = \"{protocol}\"\n{ports}via = \"direct\"\n\
                 target = \"{target}\"\n\n"
            )
            .unwrap();
        };
        rule(&format!("{HOST}/32"), "udp", Some(ECHO), &self.v4.address().to_string());
        rule(&format!("{HOST}/32"), "udp", Some(CLOSED), &closed().to_string());
        if let Some(v6) = &self.v6 {
            rule(&format!("{HOST6}/128"), "udp", Some(ECHO), &v6.address().to_string());
        }
        rule(&format!("{PINGED}/32"), "icmp", None, "127.0.0.1:1");
        write!(
            text,
            "[[publish]]\nname = \"datagrams\"\nguests = [\"{}\"]\nports = [{SERVED}]\n\
             protocol = \"udp\"\nlisten = \"{}\"\n\n",
            FIRST.0, self.published
        )
        .unwrap();
        text
    }
}

/// A place where nobody listens.
fn closed() -> SocketAddr {
    UdpSocket::bind("127.0.0.1:0").unwrap().local_addr().unwrap()
}

pub(crate) fn semantics(world: &mut World) -> Verdict {
    need!("python3", "python3");
    let host6 = if world.udp.v6.is_some() { HOST6 } else { "-" };
    let refused = REFUSED_BY_RULE.iter().find(|(_, errno)| *errno == "EHOSTUNREACH").unwrap().0;
    let numbers = [ECHO, CLOSED, refused].map(|port| port.to_string());
    let [echo, closed, refused] = &numbers;
    let script = "/mnt/share/datagrams.py";
    let said = world.succeed(&["python3", script, HOST, host6, echo, closed, refused, STRANGER]);
    let expected = "connected\nunconnected\nfailures\nown\nsegments\nmany\n";
    assert_eq!(said, expected);
    Verdict::Passed
}

/// A server in the guest, asked from outside.
pub(crate) fn server(world: &mut World) -> Verdict {
    need!("python3", "python3");
    let script = format!(
        "import socket\n\
         s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); s.bind(('0.0.0.0', {SERVED}))\n\
         print('ready', flush=True)\n\
         while True:\n\
         \x20   data, sender = s.recvfrom(70000)\n\
         \x20   s.sendto(sender[0].encode() + b' ' + data, sender)\n"
    );
    let server = World::spawn(world.guest(), &["python3", "-c", &script]);
    assert!(server.wait_for_text("ready", Duration::from_secs(120)).unwrap());
    let clients = [(); 2].map(|()| UdpSocket::bind("127.0.0.1:0").unwrap());
    for client in &clients {
        client.set_read_timeout(Some(Duration::from_secs(1))).unwrap();
        let mut buffer = [0; 100];
        // A datagram may be lost, and the port opens a moment after the agent has started.
        let answer = (0..60).find_map(|_| {
            client.send_to(b"hello", world.udp.published).unwrap();
            client.recv_from(&mut buffer).ok()
        });
        let (length, from) = answer.expect("the guest's server answers");
        assert_eq!((&buffer[..length], from), (&b"192.0.0.1 hello"[..], world.udp.published));
    }
    server.kill().unwrap_or_else(|error| panic!("{error}"));
    device(world, false);
    Verdict::Passed
}

pub(crate) fn iperf3(world: &mut World) -> Verdict {
    need!("iperf3", "iperf3");
    if let Err(reason) = &world.processes.iperf3 {
        return Verdict::Skipped(reason.clone());
    }
    let port = IPERF3.to_string();
    for (direction, length) in [(None, "1400"), (Some("-R"), "1400"), (None, "16000")] {
        let fixed = ["iperf3", "-c", HOST, "-p", &port, "-u", "-b", "4M", "-t", "2", "-l", length];
        let argv: Vec<&str> = fixed.into_iter().chain(direction).chain(["-J"]).collect();
        let report = world.succeed(&argv);
        let packets = field(&report, "packets");
        let lost = field(&report, "lost_packets");
        // A bitrate that every guest keeps up with: what is lost then was lost by us.
        assert!(packets > 20.0 && lost * 20.0 < packets, "{direction:?}: {lost} of {packets} lost");
    }
    Verdict::Passed
}

/// A number of iperf3's summary.
fn field(report: &str, name: &str) -> f64 {
    let summary = report.rfind("\"sum\"").map_or(report, |at| &report[at..]);
    let from = summary.find(&format!("\"{name}\":")).unwrap_or_else(|| panic!("{report}"));
    let number = summary[from..].split([':', ',']).nth(1).unwrap_or_default().trim();
    number.parse().unwrap_or_else(|error| panic!("{name}: {number:?}: {error}"))
}

pub(crate) fn ping(world: &mut World) -> Verdict {
    need!("ping", "iputils-ping");
    let output = world.outsock(&["ping", "-n", "-c", "3", "-i", "0.2", "-w", "30", PINGED]);
    let said = output.stdout_text();
    if said.contains("Packet filtered") && world.gateway().log().contains("ping_group_range") {
        return Verdict::Skipped("this host lets no program send ICMP echo".to_owned());
    }
    assert!(said.contains("3 received"), "{said}{}", output.stderr_text());
    // No rule lets it: refused, at once.
    let output = world.outsock(&["ping", "-n", "-c", "1", "-w", "30", STRANGER]);
    let said = output.stdout_text();
    assert!(said.contains("Packet filtered") && said.contains("192.0.0.1"), "{said}");
    Verdict::Passed
}

/// Hops cannot be counted through a gateway: traceroute is told so by the first one, and ends.
pub(crate) fn traceroute(world: &mut World) -> Verdict {
    need!("traceroute", "traceroute");
    let said = world.succeed(&["traceroute", "-n", "-q", "1", "-w", "20", HOST]);
    let hops: Vec<&str> = said.lines().skip(1).collect();
    assert!(matches!(hops[..], [hop] if hop.contains("192.0.0.1") && hop.contains("!X")), "{said}");
    Verdict::Passed
}

/// Waits in the guest until the device is there, or is not.
fn device(world: &World, there: bool) {
    let test = if there { "test -e" } else { "test ! -e" };
    let look = format!(
        "for n in $(seq 600); do {test} /sys/class/net/outsock0 && exit 0; sleep 0.1; done; exit 1"
    );
    let output = run(world.guest(), &GuestCommand::new(&["sh", "-c", &look]));
    assert!(output.status.success(), "never: {test} outsock0");
}

/// What is not outsourced fails at once while an agent has the device: here the TCP of a program that
/// nobody supervises.
pub(crate) fn the_rest_is_prohibited(world: &mut World) -> Verdict {
    need!("python3", "python3");
    let agent = World::spawn(world.guest(), &["sleep", "600"]);
    device(world, true);
    let script = format!(
        "import errno, socket\n\
         s = socket.socket(); s.settimeout(60)\n\
         try: s.connect(({HOST:?}, 80))\n\
         except TimeoutError: print('hangs')\n\
         except OSError as e: print(errno.errorcode[e.errno])\n"
    );
    let output = run(world.guest(), &GuestCommand::new(&["python3", "-c", &script]));
    assert_eq!(output.stdout_text(), "EHOSTUNREACH\n", "{}", output.stderr_text());
    agent.kill().unwrap_or_else(|error| panic!("{error}"));
    device(world, false);
    Verdict::Passed
}

/// One agent serves the whole guest; the next takes over when it ends, and leaves nothing behind.
pub(crate) fn agents_take_turns(world: &mut World) -> Verdict {
    need!("python3", "python3");
    let first = World::spawn(world.guest(), &["sleep", "600"]);
    device(world, true);
    let script = format!(
        "import socket, time\n\
         s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); s.settimeout(1)\n\
         def ask(word):\n\
         \x20   for _ in range(100):\n\
         \x20       try:\n\
         \x20           s.sendto(word, ({HOST:?}, {ECHO})); return s.recv(9)\n\
         \x20       except OSError: time.sleep(0.2)\n\
         print(ask(b'one'), flush=True); input(); print(ask(b'two'), flush=True)\n"
    );
    let mut second = World::spawn(world.guest(), &["python3", "-c", &script]);
    let patience = Duration::from_secs(120);
    assert!(second.wait_for_text("one", patience).unwrap(), "{:?}", second.output_so_far());
    first.kill().unwrap_or_else(|error| panic!("{error}"));
    second.write_stdin(b"\n").unwrap();
    assert!(second.wait_for_text("two", patience).unwrap(), "{:?}", second.output_so_far());
    second.wait(patience).unwrap();
    device(world, false);
    if program(&["ip"]).is_some() {
        let rules = run(world.guest(), &GuestCommand::new(&["ip", "rule"])).stdout_text();
        assert!(!rules.contains("1042"), "{rules}");
    }
    Verdict::Passed
}
