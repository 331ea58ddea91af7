//! Who is let through, who is not, and what the program sees: over the memory transport.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use std::sync::Arc;

use common::Authority;
use outsock_transport::{Destination, DialError, DialRequest, Errno, Stream, Transport};
use outsock_transport_memory::Network;
use outsock_transport_tls::{
    Acceptor, ClientSettings, Connector, Identity, Roots, ServerSettings, Setting, Tls,
};
use rcgen::{CertificateParams, date_time_ymd};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

fn at(name: &str) -> Destination {
    Destination::Name { name: name.to_owned(), port: 443 }
}

fn trusting(authority: &Authority) -> ClientSettings {
    ClientSettings { roots: vec![Roots::File(authority.file())], ..ClientSettings::default() }
}

/// Dials a server with these settings as `db.example`, and sends a word each way. What the server
/// read, and what the client got or why it did not connect.
async fn talk(
    client: &ClientSettings,
    server: &ServerSettings,
) -> (Option<String>, Result<String, DialError>) {
    let network = Network::new();
    let below: Arc<dyn Transport> = Arc::new(network.transport());
    let acceptor = Some(Acceptor::new(server).unwrap());
    let listening = Tls::over(Arc::clone(&below), None, acceptor);
    let mut door = listening.listen(&at("db.example")).await.unwrap();
    let serving = tokio::spawn(async move {
        let mut stream = door.accept().await.ok()?.stream.into_async().unwrap();
        let mut word = [0; 5];
        stream.read_exact(&mut word).await.ok()?;
        stream.write_all(b"world").await.ok()?;
        stream.shutdown().await.ok()?;
        Some(String::from_utf8_lossy(&word).into_owned())
    });
    let dialling = Tls::over(below, Some(Connector::new(client).unwrap()), None);
    let answer = match dialling.dial(DialRequest::to(at("db.example"))).await {
        Ok(dialed) => {
            let mut stream = dialed.stream.into_async().unwrap();
            stream.write_all(b"hello").await.unwrap();
            stream.flush().await.unwrap();
            let mut text = String::new();
            let read = stream.read_to_string(&mut text).await;
            Ok(read.map_or_else(|error| Errno::of(&error).to_string(), |_| text))
        }
        Err(error) => Err(error),
    };
    (serving.await.unwrap(), answer)
}

async fn refused(client: &ClientSettings, server: &ServerSettings, why: &str) {
    let (heard, answer) = talk(client, server).await;
    let error = answer.expect_err("this server must not be talked to");
    assert!(matches!(error, DialError::NotAuthenticated(_)), "{error:?}");
    assert_eq!(error.errno(), Errno::EACCES);
    assert!(error.to_string().contains(why), "{error}");
    assert_eq!(heard, None, "not a byte went to the wrong server");
}

async fn works(client: &ClientSettings, server: &ServerSettings) {
    let (heard, answer) = talk(client, server).await;
    assert_eq!(answer, Ok("world".to_owned()));
    assert_eq!(heard.as_deref(), Some("hello"));
}

#[tokio::test]
async fn the_right_certificate_and_every_wrong_one() {
    let (authority, stranger) = (Authority::new(), Authority::new());
    let client = trusting(&authority);
    works(&client, &authority.server(&["db.example"])).await;
    refused(&client, &authority.server(&["other.example"]), "not valid for name").await;
    refused(&client, &stranger.server(&["db.example"]), "UnknownIssuer").await;
    let dated = |change: fn(&mut CertificateParams)| ServerSettings {
        identity: authority.sign(&["db.example"], change),
        ..authority.server(&[])
    };
    let expired = dated(|params| params.not_after = date_time_ymd(2020, 1, 1));
    refused(&client, &expired, "expired").await;
    let early = dated(|params| params.not_before = date_time_ymd(2090, 1, 1));
    refused(&client, &early, "not valid yet").await;
    let named = ClientSettings { server_name: Some("other.example".to_owned()), ..client };
    works(&named, &authority.server(&["other.example"])).await;
    let below = ClientSettings { server_name: Some("a.osaka.example".to_owned()), ..named.clone() };
    works(&below, &authority.server(&["*.osaka.example"])).await;
    refused(&named, &authority.server(&["db.example"]), "not valid for name").await;
}

#[tokio::test]
async fn addresses_are_names_too() {
    let authority = Authority::new();
    let by_address =
        ClientSettings { server_name: Some("192.0.2.7".to_owned()), ..trusting(&authority) };
    works(&by_address, &authority.server(&["192.0.2.7"])).await;
    refused(&by_address, &authority.server(&["192.0.2.8"]), "not valid for name").await;
}

#[tokio::test]
async fn a_pinned_key_alone_and_beside_roots() {
    let (authority, stranger) = (Authority::new(), Authority::new());
    let server = stranger.server(&["whatever"]);
    let unknown = "sha256//AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=".parse().unwrap();
    let wrong = ClientSettings { pins: vec![unknown], ..ClientSettings::default() };
    let (_, answer) = talk(&wrong, &server).await;
    let error = answer.unwrap_err().to_string();
    // The message says which key it was, so that it can be pinned after a look.
    let (_, found) = error.split_once("sha256//").unwrap();
    let found = format!("sha256//{}", &found[..44]);
    refused(&wrong, &server, "not pinned").await;
    let right = ClientSettings { pins: vec![unknown, found.parse().unwrap()], ..wrong };
    works(&right, &server).await;
    // With roots, both must hold.
    let both = ClientSettings { roots: vec![Roots::File(authority.file())], ..right };
    refused(&both, &server, "UnknownIssuer").await;
    let both = ClientSettings { roots: vec![Roots::File(stranger.file())], ..both };
    refused(&both, &server, "not valid for name").await;
    let both = ClientSettings { server_name: Some("whatever".to_owned()), ..both };
    works(&both, &server).await;
}

#[tokio::test]
async fn client_certificates() {
    let (authority, stranger) = (Authority::new(), Authority::new());
    let client = trusting(&authority);
    let server = ServerSettings {
        client_roots: vec![authority.file()],
        ..authority.server(&["db.example"])
    };
    let with = |identity: Identity| ClientSettings { identity: Some(identity), ..client.clone() };
    works(&with(authority.sign(&["client"], |_| ())), &server).await;
    // In TLS 1.3 the client has connected before the server looks at its certificate (RFC 8446, 4.4.2):
    // it is told by a reset, and the server has not heard a word.
    for client in [client.clone(), with(stranger.sign(&["client"], |_| ()))] {
        let (heard, answer) = talk(&client, &server).await;
        assert_eq!(heard, None);
        assert_eq!(answer, Ok(Errno::ECONNRESET.to_string()));
    }
}

#[tokio::test]
async fn application_protocols_are_agreed_upon() {
    let authority = Authority::new();
    let alpn = |names: &[&str]| names.iter().map(ToString::to_string).collect::<Vec<_>>();
    let client = ClientSettings { alpn: alpn(&["h2", "http/1.1"]), ..trusting(&authority) };
    let server = ServerSettings { alpn: alpn(&["http/1.1"]), ..authority.server(&["db.example"]) };
    works(&client, &server).await;
    let other = ServerSettings { alpn: alpn(&["postgresql"]), ..server };
    let (_, answer) = talk(&client, &other).await;
    let error = answer.unwrap_err();
    assert!(matches!(error, DialError::PeerMisbehaved(_)), "{error:?}");
    assert!(error.to_string().contains("NoApplicationProtocol"), "{error}");
}

/// A server that speaks no TLS, and one that hangs up.
#[tokio::test]
async fn no_fall_back_to_plain_text() {
    let authority = Authority::new();
    for reply in [&b"220 mail.example ESMTP\r\n"[..], b""] {
        let network = Network::new();
        let below: Arc<dyn Transport> = Arc::new(network.transport());
        let mut door = below.listen(&at("db.example")).await.unwrap();
        let serving = tokio::spawn(async move {
            let mut stream = door.accept().await.unwrap().stream.into_async().unwrap();
            stream.write_all(reply).await.unwrap();
            stream.shutdown().await.unwrap();
            let mut got = Vec::new();
            let _ = stream.read_to_end(&mut got).await;
            got
        });
        let tls = Tls::over(below, Some(Connector::new(&trusting(&authority)).unwrap()), None);
        let error = tls.dial(DialRequest::to(at("db.example"))).await.unwrap_err();
        assert!(matches!(error, DialError::PeerMisbehaved(_)), "{error:?}");
        assert_eq!(error.errno(), Errno::ECONNRESET);
        // It saw a ClientHello and an alert, nothing else.
        assert_eq!(serving.await.unwrap().first(), Some(&0x16));
    }
}

/// The path below ends cleanly in the middle of the stream: to the program that is no end.
#[tokio::test]
async fn an_end_without_close_notify_is_a_reset() {
    let authority = Authority::new();
    let (near, far) = std::os::unix::net::UnixStream::pair().unwrap();
    let connector = Connector::new(&trusting(&authority)).unwrap();
    let acceptor = Acceptor::new(&authority.server(&["db.example"])).unwrap();
    let cut = far.try_clone().unwrap();
    let to = at("db.example");
    let (near, far) = tokio::join!(
        connector.connect(Stream::Socket(near.into()), true, &to),
        acceptor.accept(Stream::Socket(far.into()), true)
    );
    let (mut near, mut far) = (near.unwrap(), far.unwrap());
    far.write_all(b"half a mess").await.unwrap();
    far.flush().await.unwrap();
    cut.shutdown(std::net::Shutdown::Write).unwrap();
    let mut got = Vec::new();
    for _ in 0..2 {
        let error = near.read_to_end(&mut got).await.unwrap_err();
        assert_eq!(Errno::of(&error), Errno::ECONNRESET);
    }
    assert_eq!(got, b"half a mess");
    near.reset(Errno::ECONNRESET);
}

#[test]
fn bad_settings_are_named() {
    let authority = Authority::new();
    let (one, two) = (authority.sign(&["a"], |_| ()), authority.sign(&["b"], |_| ()));
    let setting = |change: &dyn Fn(&mut ClientSettings)| {
        let mut settings = trusting(&authority);
        change(&mut settings);
        let error = Connector::new(&settings).unwrap_err();
        (error.setting, error.message)
    };
    let crossed = Identity { certificate: one.certificate.clone(), key: two.key.clone() };
    let (which, why) = setting(&|settings| settings.identity = Some(crossed.clone()));
    assert_eq!(which, Setting::Key);
    assert!(why.contains("is not the key of the certificate"), "{why}");
    let swapped = Identity { certificate: one.key.clone(), key: one.certificate.clone() };
    assert_eq!(setting(&|s| s.identity = Some(swapped.clone())).0, Setting::Certificate);
    assert_eq!(setting(&|s| s.roots = vec![Roots::File(one.key.clone())]).0, Setting::Roots);
    assert_eq!(setting(&|s| s.alpn = vec![String::new()]).0, Setting::Alpn);
    assert_eq!(setting(&|s| s.server_name = Some("a b".into())).0, Setting::ServerName);
}
