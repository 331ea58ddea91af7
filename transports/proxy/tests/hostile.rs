//! Proxies that refuse, lie, say too much, or say nothing.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use std::net::TcpListener;
use std::sync::Arc;
use std::time::Duration;

use common::{Kind, LOGIN, proxy};
use outsock_transport::{Destination, DialError, DialRequest, Dialed, Errno, Stream, Transport};
use outsock_transport_direct::Direct;
use outsock_transport_memory::Network;
use outsock_transport_proxy::{Auth, HttpConnect, Socks5};
use proptest::prelude::*;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

fn transport(
    kind: Kind,
    below: Arc<dyn Transport>,
    server: Destination,
    auth: Auth,
) -> Arc<dyn Transport> {
    match kind {
        Kind::Socks5 => Arc::new(Socks5::new(below, server, auth)),
        Kind::Http => Arc::new(HttpConnect::new(below, server, auth)),
    }
}

fn somewhere() -> DialRequest {
    let to = Destination::Name { name: "db.example".to_owned(), port: 5432 };
    DialRequest { timeout: Duration::from_secs(20), ..DialRequest::to(to) }
}

/// What a dial gives when the proxy says `words` to whatever it hears, then ends or waits.
async fn told(kind: Kind, words: Vec<u8>, waits: bool) -> Result<Dialed, DialError> {
    let network = Network::new();
    let at = Destination::Address(([192, 0, 2, 1], 1080).into());
    let mut door = network.transport().listen(&at).await.unwrap();
    tokio::spawn(async move {
        let mut near = door.accept().await.unwrap().stream.into_async().unwrap();
        let _ = near.write_all(&words).await;
        let _ = near.flush().await;
        if !waits {
            let _ = near.shutdown().await;
        }
        let _ = near.read_to_end(&mut Vec::new()).await;
    });
    let auth = Auth::password("u", "p").unwrap();
    let request = DialRequest { timeout: Duration::from_secs(3), ..somewhere() };
    transport(kind, Arc::new(network.transport()), at, auth).dial(request).await
}

#[tokio::test]
async fn logins() {
    for kind in [Kind::Socks5, Kind::Http] {
        let server = proxy(kind, true).await;
        for auth in [Auth::None, Auth::password(LOGIN.0, "wrong").unwrap()] {
            let proxy = transport(kind, Arc::new(Direct), server.clone(), auth);
            let error = proxy.dial(somewhere()).await.unwrap_err();
            assert!(matches!(error, DialError::Denied(_)), "{kind:?}: {error:?}");
        }
        // A proxy that wants no login is told none.
        let open = proxy(kind, false).await;
        let auth = Auth::password(LOGIN.0, LOGIN.1).unwrap();
        let error = transport(kind, Arc::new(Direct), open, auth).dial(somewhere()).await;
        assert_eq!(error.unwrap_err(), DialError::Refused, "its own dial went on");
    }
}

#[tokio::test]
async fn a_proxy_that_is_not_there_is_no_refusal_by_the_destination() {
    let closed = Destination::Address(([127, 0, 0, 1], 1).into());
    let socks = Socks5::new(Arc::new(Direct), closed, Auth::None);
    assert_eq!(socks.dial(somewhere()).await.unwrap_err(), DialError::NetworkUnreachable);
    let nowhere = Destination::Name { name: "proxy.invalid".to_owned(), port: 1 };
    let socks = Socks5::new(Arc::new(Direct), nowhere, Auth::None);
    assert_eq!(socks.dial(somewhere()).await.unwrap_err(), DialError::NetworkUnreachable);
}

#[tokio::test(start_paused = true)]
async fn nonsense_silence_and_floods() {
    let errno = async |kind, words: &[u8], waits| {
        told(kind, words.to_vec(), waits).await.map(drop).unwrap_err().errno()
    };
    for kind in [Kind::Socks5, Kind::Http] {
        assert_eq!(errno(kind, b"", false).await, Errno::ECONNRESET);
        assert_eq!(errno(kind, b"", true).await, Errno::ETIMEDOUT);
        assert_eq!(errno(kind, b"SSH-2.0-OpenSSH_9.2\r\n\r\n", true).await, Errno::ECONNRESET);
        assert_eq!(errno(kind, &[0xff; 100_000], true).await, Errno::ECONNRESET);
    }
    for (words, expected) in [
        (&b"\x05\x00\x05\x02\x00\x01"[..], Errno::EACCES),
        (b"\x05\x02\x01\x01", Errno::EACCES),
        (b"\x05\xff", Errno::EACCES),
        (b"\x05\x01", Errno::ECONNRESET),
        (b"\x05\x00\x05\x00\x00\x07", Errno::ECONNRESET),
        (b"\x05\x00\x05\x00\x00\x03\xff short", Errno::ETIMEDOUT),
    ] {
        assert_eq!(errno(Kind::Socks5, words, true).await, expected, "{words:02x?}");
    }
    let endless = "HTTP/1.1 100 Continue\r\n\r\n".repeat(10_000);
    assert_eq!(errno(Kind::Http, endless.as_bytes(), true).await, Errno::ECONNRESET);
    let many = format!("HTTP/1.1 200 OK\r\n{}\r\n", "A: b\r\n".repeat(200));
    assert_eq!(errno(Kind::Http, many.as_bytes(), true).await, Errno::ECONNRESET);
}

/// The far side's first word comes right behind the proxy's last, in one packet.
#[tokio::test]
async fn nothing_of_the_far_sides_is_swallowed() {
    for (kind, answers) in [
        (Kind::Socks5, &b"\x05\x00\x05\x00\x00\x01\x00\x00\x00\x00\x00\x00220 ready"[..]),
        (Kind::Http, b"HTTP/1.1 200 OK\r\nA: b\r\n\r\n220 ready"),
    ] {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let at = Destination::Address(listener.local_addr().unwrap());
        let serving = std::thread::spawn(move || {
            use std::io::Write;
            let (mut near, _) = listener.accept().unwrap();
            near.write_all(answers).unwrap();
            near
        });
        let dialed = transport(kind, Arc::new(Direct), at, Auth::None).dial(somewhere()).await;
        let stream = dialed.unwrap().stream;
        assert!(matches!(stream, Stream::Socket(_)), "the device can serve it by itself");
        let mut stream = stream.into_async().unwrap();
        let mut word = [0; 9];
        stream.read_exact(&mut word).await.unwrap();
        assert_eq!(&word, b"220 ready");
        drop(serving.join().unwrap());
    }
}

/// A proxy behind a proxy, both logged into.
#[tokio::test]
async fn proxies_chain() {
    let (outer, inner) = (proxy(Kind::Http, true).await, proxy(Kind::Socks5, true).await);
    let auth = Auth::password(LOGIN.0, LOGIN.1).unwrap();
    let first = transport(Kind::Http, Arc::new(Direct), outer, auth.clone());
    let second = transport(Kind::Socks5, first, inner, auth);
    let at = Destination::Address(([127, 0, 0, 1], 0).into());
    let mut door = Direct.listen(&at).await.unwrap();
    let (dialed, inbound) = tokio::join!(second.dial(DialRequest::to(door.local())), door.accept());
    let mut near = dialed.unwrap().stream.into_async().unwrap();
    near.write_all(b"through both").await.unwrap();
    near.shutdown().await.unwrap();
    let mut text = String::new();
    let mut far = inbound.unwrap().stream.into_async().unwrap();
    far.read_to_string(&mut text).await.unwrap();
    assert_eq!(text, "through both");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]
    /// Whatever it says: an error or a connection, never a panic, never a wait beyond the time given.
    #[test]
    fn any_words(words in prop::collection::vec(any::<u8>(), 0..200), socks in any::<bool>()) {
        let kind = if socks { Kind::Socks5 } else { Kind::Http };
        let words = if socks { [&[5, 0, 5][..], &words].concat() } else { words };
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all().start_paused(true).build().unwrap();
        let _ = runtime.block_on(told(kind, words, true));
    }
}
