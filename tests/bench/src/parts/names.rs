//! Names: how long the address of a name from the gateway's pool takes in a real guest, against a
//! nameserver on loopback that answers at once.

use std::net::UdpSocket;
use std::process::Command;

use anyhow::{Context, Result, bail};
use outsock_boot::{BootOptions, Guest, Images, Kernel};
use outsock_harness::Setup;

use crate::case::{Case, Metric, Samples};
use crate::cli::Cli;
use crate::client::NAME;
use crate::contestant::{Contestant, RealGuest, compete};
use crate::lab::Server;
use crate::limits;
use crate::report::{Pair, PartReport, Target};

const GUEST: (&str, u64) = ("uml", 3);

/// Milliseconds that half of the answers may take.
const MS_MAX: f64 = 1.0;

/// The same client on the host.
#[derive(Debug)]
struct OnLoopback {
    server: String,
}

impl OnLoopback {
    const NAME: &str = "native loopback UDP";

    /// Starts the server: a thread that answers every query with one address, until the process ends.
    fn start() -> Result<Self> {
        let socket = UdpSocket::bind("127.0.0.1:0")?;
        let server = format!("dns:{}", socket.local_addr()?);
        std::thread::Builder::new().name("nameserver".to_owned()).spawn(move || {
            let mut message = [0; 512];
            while let Ok((length, asker)) = socket.recv_from(&mut message) {
                message[2] |= 0x80;
                message[7] = 1;
                let answer = [&message[..length], &[0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 5, 0, 4][..]];
                // Who has gone needs no answer.
                let _ = socket.send_to(&[answer.concat(), vec![198, 18, 0, 1]].concat(), asker);
            }
        })?;
        Ok(Self { server })
    }
}

impl Contestant for OnLoopback {
    fn name(&self) -> &str {
        Self::NAME
    }

    fn measure(&mut self, case: Case) -> Result<Samples> {
        let case = serde_json::to_string(&case)?;
        let client = std::env::current_exe()?;
        let output = Command::new(client).args(["client", &self.server, &case]).output()?;
        if !output.status.success() {
            bail!("{}", String::from_utf8_lossy(&output.stderr).trim());
        }
        serde_json::from_slice(&output.stdout).context("the client gave no samples")
    }
}

/// Measures the part.
pub(crate) fn measure(cli: &Cli) -> Result<PartReport> {
    let server = Server::start()?;
    let route = format!("[[route]]\ndomains = [{NAME:?}]\nvia = \"direct\"\n");
    let setup = Setup::new(&cli.gateway).guest(GUEST.0, GUEST.1).toml(&route);
    let gateway =
        setup.start().with_context(|| format!("{}: see --help", cli.gateway.display()))?;
    let image =
        Images::in_target_directory().prepare(Kernel::Uml72, &mut |line| eprintln!("  {line}"))?;
    let share = super::uml::share(cli)?;
    let guest = Guest::boot(BootOptions {
        vsock_socket: Some(gateway.socket(GUEST.0)),
        share: Some(share.path().to_owned()),
        ..BootOptions::new(image)
    })?;
    let mut contestants: Vec<Box<dyn Contestant + '_>> = vec![
        Box::new(OnLoopback::start()?),
        Box::new(RealGuest::of_gateways_names(&guest, &gateway, &server)),
    ];
    let case = Case::Lookups { count: limits::LOOKUPS / cli.shrink() };
    let results = compete(&mut contestants, &[case], cli.rounds());
    let release = format!("UML {}", guest.release());
    let pair = Pair { guest: &release, ours: RealGuest::OURS, theirs: OnLoopback::NAME };
    let mut rows = pair.rows(&results, case, None);
    if let Some((row, median)) =
        rows.first_mut().zip(results.median(RealGuest::OURS, case, Metric::Median))
    {
        row.target = Some(Target::at_most(MS_MAX, "ms", median * 1e3));
    }
    let notes = vec![
        "Each time: socket(), connect() to the nameserver (which the agent intercepts), send, receive, \
         close. The guest has one processor."
            .to_owned(),
    ];
    let title = "Real guest: names of the gateway's pool".to_owned();
    Ok(PartReport { title, notes, rows, samples: results.into_series() })
}
