//! The suite through processes: the example in Python, which keeps halves and resets; Debian's
//! obfs4proxy, which keeps neither; and TLS over obfs4proxy, which then keeps both.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use async_trait::async_trait;
use outsock_transport::conformance::{self, Report, Setup, Staging};
use outsock_transport::{Destination, Transport};
use outsock_transport_external::{External, ExternalSettings};
use outsock_transport_tls::{
    Acceptor, ClientSettings, Connector, Identity, Roots, ServerSettings, Tls,
};
use tempfile::TempDir;

struct Through {
    dialer: Arc<dyn Transport>,
    listener: Arc<dyn Transport>,
    exceptions: fn(&str) -> Option<&'static str>,
    _folder: TempDir,
}

#[async_trait]
impl Setup for Through {
    fn dialer(&self) -> &dyn Transport {
        &*self.dialer
    }

    fn listener(&self) -> &dyn Transport {
        &*self.listener
    }

    fn listen_at(&self) -> Destination {
        Destination::Address(([127, 0, 0, 1], 0).into())
    }

    async fn refuses(&self) -> Staging {
        Staging::at(Destination::Address(([127, 0, 0, 1], 1).into()))
    }

    fn exception(&self, case: &str) -> Option<String> {
        (self.exceptions)(case).map(str::to_owned)
    }
}

/// What holds for any process.
fn of_a_process(case: &str) -> Option<&'static str> {
    match case {
        "dropped_listener_is_closed" => Some("the listening process ends a moment later"),
        "cancelled_dial_leaves_nothing" => {
            Some("a process may have connected before it hears that nobody waits")
        }
        _ => None,
    }
}

/// Past the capture of the test harness, so that it is seen in a green run too.
fn not_run(what: &str, why: &str) {
    let _ = writeln!(std::io::stderr().lock(), "conformance {what}: NOT RUN: {why}");
}

fn program(name: &str) -> Option<PathBuf> {
    let folders = ["/usr/bin", "/usr/local/bin"];
    folders.iter().map(|folder| Path::new(folder).join(name)).find(|path| path.exists())
}

fn python() -> Option<ExternalSettings> {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../examples/external/xor.py");
    let mut settings = ExternalSettings::new(program("python3")?, "xor".to_owned(), PathBuf::new());
    settings.arguments = vec![script.canonicalize().unwrap().into()];
    (settings.half_close, settings.reset) = (true, true);
    Some(settings)
}

fn at(folder: &TempDir, name: &str, settings: &ExternalSettings) -> ExternalSettings {
    ExternalSettings { state: folder.path().join(name), ..settings.clone() }
}

fn nothing_left_out(report: &Report, not_applicable: usize) {
    // Unreachable and silent hosts: what a process says of them is its own.
    assert_eq!(report.not_staged.len(), 2, "{:#?}", report.not_staged);
    assert_eq!(report.not_applicable.len(), not_applicable, "{:#?}", report.not_applicable);
}

#[test]
fn a_python_script() {
    let Some(settings) = python() else {
        return not_run("python", "no python3: apt-get install python3");
    };
    let report = conformance::run("python", || async {
        let folder = TempDir::new().unwrap();
        let mut client = at(&folder, "client", &settings);
        client.options = vec![("key".to_owned(), "42".to_owned())];
        let mut server = at(&folder, "server", &settings);
        server.server_options = vec![("key".to_owned(), "42".to_owned())];
        Through {
            dialer: Arc::new(External::new(client)),
            listener: Arc::new(External::new(server)),
            exceptions: of_a_process,
            _folder: folder,
        }
    });
    nothing_left_out(&report, 2);
}

#[test]
fn tls_over_a_python_script() {
    let Some(settings) = python() else {
        return not_run("tls over python", "no python3: apt-get install python3");
    };
    let report = conformance::run("tls over python", || async {
        let folder = TempDir::new().unwrap();
        let client = External::new(at(&folder, "client", &settings));
        let server = External::new(at(&folder, "server", &settings));
        let (connector, acceptor) = tls(folder.path());
        Through {
            dialer: Arc::new(Tls::over(Arc::new(client), Some(connector), None)),
            listener: Arc::new(Tls::over(Arc::new(server), None, Some(acceptor))),
            exceptions: of_a_process,
            _folder: folder,
        }
    });
    nothing_left_out(&report, 2);
}

/// A program that somebody is writing, by variables: docs/writing-a-transport.md.
#[test]
fn yours() {
    let variable = |name: &str| std::env::var(name).ok().filter(|text| !text.is_empty());
    let Some(words) = variable("OUTSOCK_PROGRAM") else { return };
    let mut words = words.split_whitespace().map(str::to_owned);
    let name = words.next().unwrap_or_default();
    let path = if name.starts_with('/') { Some(PathBuf::from(&name)) } else { program(&name) };
    let path = path.unwrap_or_else(|| panic!("OUTSOCK_PROGRAM: there is no program {name}"));
    let method = variable("OUTSOCK_METHOD").expect("OUTSOCK_METHOD: what it calls its transport");
    let mut settings = ExternalSettings::new(path, method, PathBuf::new());
    settings.arguments = words.map(Into::into).collect();
    settings.half_close = variable("OUTSOCK_HONEST_ENDS").is_some();
    settings.reset = settings.half_close;
    let options = variable("OUTSOCK_OPTIONS").unwrap_or_default();
    let pairs = options.split(';').filter_map(|pair| pair.split_once('='));
    settings.options = pairs.map(|(key, value)| (key.to_owned(), value.to_owned())).collect();
    settings.server_options.clone_from(&settings.options);
    let honest = settings.half_close;
    conformance::run("yours", || async {
        let folder = TempDir::new().unwrap();
        Through {
            dialer: Arc::new(External::new(at(&folder, "client", &settings))),
            listener: Arc::new(External::new(at(&folder, "server", &settings))),
            exceptions: if honest { of_a_process } else { of_obfs4 },
            _folder: folder,
        }
    });
}

/// Both ends with keys of their own; the client knows the server's.
async fn obfs4(program: PathBuf) -> (TempDir, External, External) {
    let folder = TempDir::new().unwrap();
    let settings = ExternalSettings::new(program, "obfs4".to_owned(), PathBuf::new());
    let server = at(&folder, "server", &settings);
    let listener = External::new(server.clone());
    // The first listener makes the keys, and the file that tells of them.
    let here = Destination::Address(([127, 0, 0, 1], 0).into());
    drop(listener.listen(&here).await.unwrap());
    let told = std::fs::read_to_string(server.state.join("obfs4_bridgeline.txt")).unwrap();
    let words = told.split_whitespace().filter_map(|word| word.split_once('='));
    let options = words.filter(|(key, _)| ["cert", "iat-mode"].contains(key));
    let mut client = at(&folder, "client", &settings);
    client.options = options.map(|(key, value)| (key.to_owned(), value.to_owned())).collect();
    (folder, External::new(client), listener)
}

fn of_obfs4(case: &str) -> Option<&'static str> {
    match case {
        "one_byte_writes" | "big_transfers_both_ways" | "both_halves_close" => {
            Some("obfs4proxy ends both directions with the first that ends")
        }
        _ => of_obfs4_under_tls(case),
    }
}

fn of_obfs4_under_tls(case: &str) -> Option<&'static str> {
    match case {
        "refused" => Some("obfs4proxy gives one reason for every failure"),
        _ => of_a_process(case),
    }
}

#[test]
fn obfs4proxy_as_it_is() {
    let Some(program) = program("obfs4proxy") else {
        return not_run("obfs4proxy", "no obfs4proxy: apt-get install obfs4proxy");
    };
    let report = conformance::run("obfs4proxy", || async {
        let (folder, client, listener) = obfs4(program).await;
        Through {
            dialer: Arc::new(client),
            listener: Arc::new(listener),
            exceptions: of_obfs4,
            _folder: folder,
        }
    });
    nothing_left_out(&report, 18);
}

#[test]
fn tls_over_obfs4proxy_keeps_halves_and_resets() {
    let Some(program) = program("obfs4proxy") else {
        return not_run("tls over obfs4proxy", "no obfs4proxy: apt-get install obfs4proxy");
    };
    let report = conformance::run("tls over obfs4proxy", || async {
        let (folder, client, listener) = obfs4(program).await;
        let (connector, acceptor) = tls(folder.path());
        Through {
            dialer: Arc::new(Tls::over(Arc::new(client), Some(connector), None)),
            listener: Arc::new(Tls::over(Arc::new(listener), None, Some(acceptor))),
            exceptions: of_obfs4_under_tls,
            _folder: folder,
        }
    });
    nothing_left_out(&report, 3);
}

fn tls(folder: &Path) -> (Connector, Acceptor) {
    let made = rcgen::generate_simple_self_signed(vec!["far.example".to_owned()]).unwrap();
    let identity = Identity { certificate: folder.join("pem"), key: folder.join("key") };
    std::fs::write(&identity.certificate, made.cert.pem()).unwrap();
    std::fs::write(&identity.key, made.signing_key.serialize_pem()).unwrap();
    let client = ClientSettings {
        server_name: Some("far.example".to_owned()),
        roots: vec![Roots::File(identity.certificate.clone())],
        ..ClientSettings::default()
    };
    let server = ServerSettings { identity, client_roots: Vec::new(), alpn: Vec::new() };
    (Connector::new(&client).unwrap(), Acceptor::new(&server).unwrap())
}
