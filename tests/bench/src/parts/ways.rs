//! Ways out against the plain one: TLS by rule, SOCKS5, an external transport; the same virtual guest, the
//! same conversations.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use anyhow::{Context, Result, bail};
use outsock_harness::Setup;
use outsock_virtual_guest::Layout;

use super::guest_of;
use crate::case::{Case, Direction};
use crate::cli::Cli;
use crate::contestant::{Contestant, VirtualContestant, compete};
use crate::lab::{SERVER, Server, Way};
use crate::report::{Pair, PartReport, Row, Target};
use crate::results::median;
use crate::{flows, limits};

/// TLS, of plain TCP.
const RATIO_MIN_TLS: f64 = 0.7;
/// SOCKS5, of plain TCP, after the set-up.
const RATIO_MIN_SOCKS5: f64 = 0.95;
const NAME: &str = "bench.example";

/// Measures the part.
pub(crate) fn measure(cli: &Cli) -> Result<PartReport> {
    let folder = tempfile::tempdir()?;
    let (certificate, key) = (folder.path().join("pem"), folder.path().join("key"));
    let made = rcgen::generate_simple_self_signed(vec![NAME.to_owned()])?;
    std::fs::write(&certificate, made.cert.pem())?;
    std::fs::write(&key, made.signing_key.serialize_pem())?;
    let server = Server::with_doors(&certificate, &key)?;
    let (obfs4, mut notes) = match Obfs4::start(folder.path(), &server) {
        Ok(obfs4) => (Some(obfs4), Vec::new()),
        Err(error) => (None, vec![format!("External transports are left out: {error:#}.")]),
    };
    notes.push(
        "TLS 1.3 with AES-256-GCM; the server's end is rustls, too, so both ends and the gateway share the \
         processors. All ways end at one server with a thread for each connection. The SOCKS5 server serves by itself what it is asked for. External is \
         obfs4proxy at both ends, two more processes."
            .to_owned(),
    );
    let layout = Layout::linux_6_12();
    let mut ways = vec![Way::Tcp, Way::Tls, Way::Socks5];
    ways.extend(obfs4.as_ref().map(|_| Way::External));
    let places: Vec<_> =
        ways.iter().zip(0..).map(|(way, n)| (way.name(), guest_of(&layout, n).1)).collect();
    let gateway = gateway(cli, &server, &places, &certificate, obfs4.as_ref())?;
    let mut guests = Vec::new();
    for (way, (name, cid)) in ways.into_iter().zip(&places) {
        let place = (&gateway, *name, *cid);
        let mut guest =
            VirtualContestant::of_gateway_with_agent(layout.clone(), place, way, &server)?;
        guest.call(way.name());
        guests.push(guest);
    }
    let mut rows = together(cli, &guests)?;
    let mut contestants: Vec<Box<dyn Contestant + '_>> =
        guests.into_iter().map(|guest| Box::new(guest) as Box<dyn Contestant>).collect();
    let cases = cli.cases(1);
    let results = compete(&mut contestants, &cases, cli.rounds());
    let theirs = Way::Tcp.name();
    for &case in &cases {
        for (way, least) in [
            (Way::Tls, Some(RATIO_MIN_TLS)),
            (Way::Socks5, Some(RATIO_MIN_SOCKS5)),
            (Way::External, None),
        ] {
            if way == Way::External && obfs4.is_none() {
                continue;
            }
            let target = least.filter(|_| matches!(case, Case::Stream { message: 65_536, .. }));
            let pair = Pair { guest: way.name(), ours: way.name(), theirs };
            rows.extend(pair.rows(&results, case, target));
        }
    }
    let title = "Ways out against plain TCP, virtual guest 6.12".to_owned();
    Ok(PartReport { title, notes, rows, samples: results.into_series() })
}

/// 64 streams at a time.
fn together(cli: &Cli, guests: &[VirtualContestant<'_>]) -> Result<Vec<Row>> {
    let bytes = limits::WAYS_FLOW_BYTES / cli.shrink();
    let count = limits::WAYS_FLOWS;
    let mut rows = Vec::new();
    for direction in [Direction::Out, Direction::In] {
        let mut rates = vec![Vec::new(); guests.len()];
        for round in 1..=cli.rounds() {
            eprintln!("  round {round}/{}: {count} streams {direction:?}", cli.rounds());
            for (guest, rates) in guests.iter().zip(&mut rates) {
                rates.push(flows::throughput(guest, direction, count, bytes)?);
            }
        }
        let medians: Vec<f64> = rates.iter().filter_map(|rates| median(rates)).collect();
        let Some((plain, others)) = medians.split_first() else { bail!("no rounds") };
        for (guest, rate) in guests[1..].iter().zip(others) {
            let ratio = rate / plain;
            let least = match guest.name() {
                name if name == Way::Tls.name() => Some(RATIO_MIN_TLS),
                name if name == Way::Socks5.name() => Some(RATIO_MIN_SOCKS5),
                _ => None,
            };
            let way = if direction == Direction::Out { "from" } else { "to" };
            rows.push(Row {
                what: format!("{count} streams at a time {way} the guest"),
                guest: guest.name().to_owned(),
                outsock: format!("{:.2} GB/s", rate / 1e9),
                against: format!("{}: {:.2} GB/s", guests[0].name(), plain / 1e9),
                ratio: Some(ratio),
                target: least.map(|least| Target::at_least(least, ratio)),
            });
        }
    }
    Ok(rows)
}

fn gateway(
    cli: &Cli,
    server: &Server,
    guests: &[(&str, u64)],
    certificate: &Path,
    obfs4: Option<&Obfs4>,
) -> Result<outsock_harness::Gateway> {
    let [tls, socks5, plain] = server.doors().context("the server has no other doors")?;
    let port = |way: Way| way.destination().port();
    let mut tables = format!(
        "[[transport]]\nname = \"proxy\"\nkind = \"socks5\"\nserver = \"{socks5}\"\n\
         [[route]]\nto = [\"{SERVER}\"]\nports = [{}]\nvia = \"proxy\"\n\
         [[route]]\nto = [\"{SERVER}\"]\nports = [{}]\nvia = \"direct\"\ntarget = \"{tls}\"\n\
         encrypt = \"tls\"\n[route.tls]\nserver_name = \"{NAME}\"\nca = [{certificate:?}]\n",
        port(Way::Socks5),
        port(Way::Tls),
    );
    if let Some(Obfs4 { at, certificate, state, program, .. }) = obfs4 {
        tables += &format!(
            "[[transport]]\nname = \"bridge\"\nkind = \"external\"\nprogram = {program:?}\n\
             method = \"obfs4\"\nstate = {state:?}\noptions = {{ cert = {certificate:?}, iat-mode = \"0\" }}\n\
             [[route]]\nto = [\"{SERVER}\"]\nports = [{}]\nvia = \"bridge\"\ntarget = \"{at}\"\n",
            port(Way::External),
        );
    }
    let mut setup = Setup::new(&cli.gateway)
        .route(&SERVER.to_string(), port(Way::Tcp), &plain.to_string())
        .toml(&tables);
    for (name, cid) in guests {
        setup = setup.guest(name, *cid);
    }
    let hint = || format!("cannot start the gateway {}: see --help", cli.gateway.display());
    setup.start().with_context(hint)
}

/// obfs4proxy as the far end of an external transport.
#[derive(Debug)]
struct Obfs4 {
    process: Child,
    program: PathBuf,
    at: std::net::SocketAddr,
    certificate: String,
    state: PathBuf,
}

impl Obfs4 {
    fn start(folder: &Path, server: &Server) -> Result<Self> {
        let program = PathBuf::from("/usr/bin/obfs4proxy");
        if !program.exists() {
            bail!("no obfs4proxy: apt-get install obfs4proxy");
        }
        let [_, _, plain] = server.doors().context("the server has no other doors")?;
        let at = std::net::TcpListener::bind("127.0.0.1:0")?.local_addr()?;
        let far = folder.join("far");
        let process = Command::new(&program)
            .env("TOR_PT_MANAGED_TRANSPORT_VER", "1")
            .env("TOR_PT_STATE_LOCATION", &far)
            .env("TOR_PT_SERVER_TRANSPORTS", "obfs4")
            .env("TOR_PT_SERVER_BINDADDR", format!("obfs4-{at}"))
            .env("TOR_PT_ORPORT", plain.to_string())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .spawn()?;
        let mut obfs4 =
            Self { process, program, at, certificate: String::new(), state: folder.join("near") };
        let deadline = std::time::Instant::now() + limits::START_TIMEOUT;
        while std::net::TcpStream::connect(at).is_err() {
            if std::time::Instant::now() > deadline {
                bail!("obfs4proxy does not listen");
            }
            std::thread::sleep(std::time::Duration::from_millis(20));
        }
        let told = std::fs::read_to_string(far.join("obfs4_bridgeline.txt"))?;
        let found = told.split_whitespace().find_map(|word| word.strip_prefix("cert="));
        obfs4.certificate = found.context("no cert= in the bridge line")?.to_owned();
        Ok(obfs4)
    }
}

impl Drop for Obfs4 {
    fn drop(&mut self) {
        // Already gone is as good.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}
