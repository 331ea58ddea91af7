//! A proxy that is honest about ends: SOCKS5 and HTTP CONNECT on one port each, over the host's TCP.
#![allow(dead_code, unreachable_pub, reason = "each test file uses a part of it")]
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::net::SocketAddr;
use std::pin::Pin;
use std::time::Duration;

use outsock_transport::{AsyncStream, Destination, DialError, DialRequest, Errno, Transport};
use outsock_transport_direct::Direct;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

pub type End = Pin<Box<dyn AsyncStream>>;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Socks5,
    Http,
}

/// What the proxy wants to hear.
pub const LOGIN: (&str, &str) = ("alice", "open sesame");

/// Starts one; it runs as long as the runtime.
pub async fn proxy(kind: Kind, login: bool) -> Destination {
    let at = Destination::Address(([127, 0, 0, 1], 0).into());
    let mut door = Direct.listen(&at).await.unwrap();
    let at = door.local();
    tokio::spawn(async move {
        while let Ok(inbound) = door.accept().await {
            let near = inbound.stream.into_async().unwrap();
            tokio::spawn(async move {
                let _ = match kind {
                    Kind::Socks5 => socks5(near, login).await,
                    Kind::Http => http(near, login).await,
                };
            });
        }
    });
    at
}

async fn dial(to: Destination) -> Result<End, DialError> {
    let request = DialRequest { timeout: Duration::from_secs(30), ..DialRequest::to(to) };
    Ok(Direct.dial(request).await?.stream.into_async().unwrap())
}

/// The name that leads to this host.
pub const NAME: &str = "here.example";

fn destination(host: &str, port: u16) -> Destination {
    let host = if host == NAME { "127.0.0.1" } else { host };
    match host.parse() {
        Ok(ip) => Destination::Address(SocketAddr::new(ip, port)),
        Err(_) => Destination::Address(([127, 0, 0, 1], 1).into()),
    }
}

async fn socks5(mut near: End, login: bool) -> std::io::Result<()> {
    let [version, count] = read(&mut near).await?;
    assert_eq!(version, 5);
    let mut methods = vec![0; usize::from(count)];
    near.read_exact(&mut methods).await?;
    if login && methods.contains(&2) {
        near.write_all(&[5, 2]).await?;
        let [_] = read(&mut near).await?;
        let mut fields = Vec::new();
        for _ in 0..2 {
            let [length] = read(&mut near).await?;
            let mut field = vec![0; usize::from(length)];
            near.read_exact(&mut field).await?;
            fields.push(String::from_utf8(field).unwrap());
        }
        let fine = fields == [LOGIN.0, LOGIN.1];
        near.write_all(&[1, u8::from(!fine)]).await?;
        if !fine {
            return near.shutdown().await;
        }
    } else if login {
        near.write_all(&[5, 0xff]).await?;
        return near.shutdown().await;
    } else {
        near.write_all(&[5, 0]).await?;
    }
    let [_, command, _, kind] = read(&mut near).await?;
    assert_eq!(command, 1);
    let host = match kind {
        1 => std::net::IpAddr::from(read::<4>(&mut near).await?).to_string(),
        4 => std::net::IpAddr::from(read::<16>(&mut near).await?).to_string(),
        _ => {
            let [length] = read(&mut near).await?;
            let mut name = vec![0; usize::from(length)];
            near.read_exact(&mut name).await?;
            String::from_utf8(name).unwrap()
        }
    };
    let port = u16::from_be_bytes(read(&mut near).await?);
    match dial(destination(&host, port)).await {
        Ok(far) => {
            // As a name, for once: the longest kind of answer.
            near.write_all(b"\x05\x00\x00\x03\x05proxy\x00\x00").await?;
            relay(near, far).await;
        }
        Err(error) => {
            let code = match error.errno() {
                Errno::ECONNREFUSED => 5,
                Errno::ENETUNREACH | Errno::EACCES => 3,
                Errno::EHOSTUNREACH => 4,
                Errno::ETIMEDOUT => 6,
                _ => 1,
            };
            near.write_all(&[5, code, 0, 1, 0, 0, 0, 0, 0, 0]).await?;
            near.shutdown().await?;
        }
    }
    Ok(())
}

async fn http(mut near: End, login: bool) -> std::io::Result<()> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(near.read_u8().await?);
    }
    let head = String::from_utf8(head).unwrap();
    // "alice:open sesame"
    if login && !head.contains("Proxy-Authorization: Basic YWxpY2U6b3BlbiBzZXNhbWU=\r\n") {
        near.write_all(b"HTTP/1.1 407 Proxy Authentication Required\r\n\r\n").await?;
        return near.shutdown().await;
    }
    let authority = head.split(' ').nth(1).unwrap();
    let (host, port) = authority.rsplit_once(':').unwrap();
    let host = host.trim_matches(['[', ']']);
    match dial(destination(host, port.parse().unwrap())).await {
        Ok(far) => {
            near.write_all(b"HTTP/1.1 100 Continue\r\n\r\n").await?;
            near.write_all(b"HTTP/1.1 200 Connection established\r\nVia: 1.1 test\r\n\r\n").await?;
            relay(near, far).await;
        }
        Err(error) => {
            let reason = match error.errno() {
                Errno::ECONNREFUSED => "connection_refused",
                Errno::ETIMEDOUT => "connection_timeout",
                _ => "destination_ip_unroutable",
            };
            let answer = format!(
                "HTTP/1.1 502 Bad Gateway\r\nProxy-Status: test; error={reason}\r\n\
                 Content-Length: 5\r\n\r\nsorry"
            );
            near.write_all(answer.as_bytes()).await?;
            near.shutdown().await?;
        }
    }
    Ok(())
}

async fn read<const N: usize>(from: &mut End) -> std::io::Result<[u8; N]> {
    let mut bytes = [0; N];
    from.read_exact(&mut bytes).await?;
    Ok(bytes)
}

/// Each half on its own; what breaks one side breaks the other.
async fn relay(near: End, far: End) {
    let (mut near_read, mut near_write) = tokio::io::split(near);
    let (mut far_read, mut far_write) = tokio::io::split(far);
    let both = tokio::try_join!(
        half(&mut near_read, &mut far_write),
        half(&mut far_read, &mut near_write)
    );
    let (near, far) = (near_read.unsplit(near_write), far_read.unsplit(far_write));
    if let Err(error) = both {
        near.reset(Errno::of(&error));
        far.reset(Errno::of(&error));
    }
}

async fn half(
    from: &mut (impl AsyncRead + Unpin),
    to: &mut (impl AsyncWrite + Unpin),
) -> std::io::Result<()> {
    let mut buffer = vec![0; 65_536];
    loop {
        match from.read(&mut buffer).await? {
            0 => return to.shutdown().await,
            count => to.write_all(&buffer[..count]).await?,
        }
    }
}
