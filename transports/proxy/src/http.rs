//! HTTP CONNECT: a tunnel through a web proxy, with Basic authentication.
//!
//! in:  a destination; out: the proxy's stream, or the errno of its status
//! owner: the dial's future
//! keeps: nothing behind the answer's blank line is read
//! bound: [`limits::HEAD_BYTES_MAX`], [`limits::HEADERS_MAX`]
//!
//! A status says little about why. Where the proxy says more, in `Proxy-Status` (RFC 9209) or in squid's
//! own header, that decides.

use std::io;
use std::sync::Arc;

use async_trait::async_trait;
use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use httparse::{EMPTY_HEADER, Response, Status};
use outsock_transport::{
    Capabilities, Destination, DialError, DialRequest, Dialed, Errno, ListenError, Listener,
    Transport,
};
use tokio::io::AsyncWriteExt;

use crate::auth::Auth;
use crate::upstream::{Upstream, Wire, broken};
use crate::{head, limits, socks5};

/// See the module.
#[derive(Clone, Debug)]
pub struct HttpConnect {
    upstream: Upstream,
    auth: Auth,
}

impl HttpConnect {
    /// The proxy at `server`, which `below` leads to.
    pub fn new(below: Arc<dyn Transport>, server: Destination, auth: Auth) -> Self {
        Self { upstream: Upstream::new(below, server), auth }
    }

    fn request(&self, destination: &Destination) -> Result<String, DialError> {
        let authority = match destination {
            Destination::Address(address) => {
                std::net::SocketAddr::new(address.ip().to_canonical(), address.port()).to_string()
            }
            Destination::Name { name, port } if is_plain(name) => format!("{name}:{port}"),
            Destination::Name { .. } => {
                return Err(DialError::UnsupportedDestination("a name with such characters"));
            }
            Destination::Unix(_) => {
                return Err(DialError::UnsupportedDestination("Unix sockets behind a proxy"));
            }
        };
        let login = match &self.auth {
            Auth::None => String::new(),
            Auth::Password { user, password } => {
                let token = BASE64_STANDARD.encode(format!("{user}:{password}"));
                format!("Proxy-Authorization: Basic {token}\r\n")
            }
        };
        Ok(format!("CONNECT {authority} HTTP/1.1\r\nHost: {authority}\r\n{login}\r\n"))
    }
}

/// Nothing that could end a line or look like something else.
fn is_plain(name: &str) -> bool {
    (1..=limits::FIELD_BYTES_MAX).contains(&name.len())
        && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-._".contains(&byte))
}

#[async_trait]
impl Transport for HttpConnect {
    fn kind(&self) -> &'static str {
        "http-connect"
    }

    fn capabilities(&self) -> Capabilities {
        socks5::capabilities()
    }

    async fn dial(&self, request: DialRequest) -> Result<Dialed, DialError> {
        let text = self.request(&request.destination)?;
        let exchange = async |mut wire: Wire| {
            wire.write_all(text.as_bytes()).await.map_err(|error| broken(&error))?;
            wire.flush().await.map_err(|error| broken(&error))?;
            hear(&mut wire).await?;
            Ok(wire)
        };
        self.upstream.ask(&request, exchange).await
    }

    async fn listen(&self, _at: &Destination) -> Result<Box<dyn Listener>, ListenError> {
        Err(ListenError::Unsupported("anything: proxies only dial"))
    }
}

async fn hear(wire: &mut Wire) -> Result<(), DialError> {
    let mut bytes = 0;
    loop {
        let head = head::read(wire).await.map_err(|error| match error.kind() {
            io::ErrorKind::InvalidData => misbehaved("the proxy's answer is too long"),
            _ => broken(&error),
        })?;
        bytes += head.len();
        if bytes > limits::HEAD_BYTES_MAX {
            return Err(misbehaved("the proxy's answers do not end"));
        }
        // An interim answer is followed by another.
        if let Some(outcome) = judge(&head) {
            return outcome;
        }
    }
}

fn misbehaved(what: &str) -> DialError {
    DialError::PeerMisbehaved(what.to_owned())
}

/// What an answer means; `None` = the answer is still to come.
fn judge(head: &[u8]) -> Option<Result<(), DialError>> {
    let mut headers = [EMPTY_HEADER; limits::HEADERS_MAX];
    let mut response = Response::new(&mut headers);
    let parsed = response.parse(head);
    let (Ok(Status::Complete(_)), Some(code)) = (parsed, response.code) else {
        return Some(Err(misbehaved("the proxy's answer is no HTTP")));
    };
    match code {
        100..=199 => None,
        200..=299 => Some(Ok(())),
        _ => {
            let value = |name: &str| {
                let mut found = response.headers.iter();
                let found = found.find(|header| header.name.eq_ignore_ascii_case(name));
                found.and_then(|header| std::str::from_utf8(header.value).ok())
            };
            let told = value("proxy-status").and_then(by_proxy_status);
            let told = told.or_else(|| value("x-squid-error").and_then(by_squid));
            Some(Err(told.unwrap_or_else(|| by_status(code))))
        }
    }
}

/// RFC 9209, 2.3: `NAME; error=REASON; ...`.
fn by_proxy_status(value: &str) -> Option<DialError> {
    let error = value.split([';', ',']).find_map(|part| part.trim().strip_prefix("error="))?;
    Some(match error {
        "dns_timeout" | "connection_timeout" | "connection_read_timeout" => DialError::TimedOut,
        "dns_error" | "destination_not_found" | "destination_unavailable" => {
            DialError::HostUnreachable
        }
        "destination_ip_prohibited" | "http_request_denied" => {
            DialError::Denied("the proxy's rules".to_owned())
        }
        "destination_ip_unroutable" => DialError::NetworkUnreachable,
        "connection_refused" => DialError::Refused,
        "connection_terminated" => DialError::Reset,
        "connection_limit_reached" => DialError::OutOfResources("connections at the proxy"),
        _ => return None,
    })
}

/// `ERR_CONNECT_FAIL 111`: the errno of the proxy's own connect.
fn by_squid(value: &str) -> Option<DialError> {
    let (name, number) = value.trim().split_once(' ')?;
    match (name, number.trim().parse().ok().and_then(Errno::new)) {
        ("ERR_CONNECT_FAIL", Some(errno)) => Some(DialError::from_io(&errno.into())),
        ("ERR_DNS_FAIL" | "ERR_CANNOT_FORWARD", _) => Some(DialError::HostUnreachable),
        ("ERR_ACCESS_DENIED", _) => Some(DialError::Denied("the proxy's rules".to_owned())),
        _ => None,
    }
}

fn by_status(code: u16) -> DialError {
    match code {
        407 => DialError::Denied("the proxy wants another user name or password".to_owned()),
        401 | 403 | 451 => DialError::Denied(format!("the proxy says {code}")),
        405 | 501 => DialError::Os(Errno::EOPNOTSUPP),
        408 | 504 => DialError::TimedOut,
        // "Bad gateway" and its kin: the proxy could not connect, and does not say why.
        404 | 500 | 502 | 503 => DialError::HostUnreachable,
        429 => DialError::OutOfResources("patience at the proxy"),
        _ => misbehaved("the proxy's status makes no sense for CONNECT"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn errno(head: &str) -> Option<Errno> {
        judge(head.as_bytes()).unwrap().err().map(|error| error.errno())
    }

    #[test]
    fn statuses_and_what_proxies_add() {
        assert_eq!(judge(b"HTTP/1.1 100 Continue\r\n\r\n"), None);
        assert_eq!(errno("HTTP/1.0 200 Connection established\r\n\r\n"), None);
        assert_eq!(errno("HTTP/1.1 407 x\r\n\r\n"), Some(Errno::EACCES));
        assert_eq!(errno("HTTP/1.1 503 x\r\n\r\n"), Some(Errno::EHOSTUNREACH));
        assert_eq!(errno("HTTP/1.1 504 x\r\n\r\n"), Some(Errno::ETIMEDOUT));
        assert_eq!(errno("HTTP/1.1 302 x\r\n\r\n"), Some(Errno::ECONNRESET));
        let squid = "HTTP/1.1 503 x\r\nX-Squid-Error: ERR_CONNECT_FAIL 111\r\n\r\n";
        assert_eq!(errno(squid), Some(Errno::ECONNREFUSED));
        let told = "HTTP/1.1 502 x\r\nproxy-status: p; error=connection_timeout\r\n\r\n";
        assert_eq!(errno(told), Some(Errno::ETIMEDOUT));
        assert_eq!(errno("SSH-2.0-OpenSSH\r\n\r\n"), Some(Errno::ECONNRESET));
    }

    #[test]
    fn names_cannot_add_lines() {
        let proxy = HttpConnect::new(
            Arc::new(outsock_transport_direct::Direct),
            Destination::Address(([127, 0, 0, 1], 1).into()),
            Auth::password("me", "pass").unwrap(),
        );
        let to = |name: &str| proxy.request(&Destination::Name { name: name.to_owned(), port: 7 });
        let text = to("a.example").unwrap();
        assert!(text.starts_with("CONNECT a.example:7 HTTP/1.1\r\n"), "{text}");
        assert!(text.contains("\r\nProxy-Authorization: Basic bWU6cGFzcw==\r\n"), "{text}");
        assert!(!format!("{proxy:?}").contains("pass\""));
        for bad in ["a\r\nx: y", "a b", "", "a:1", "a/b", "a@b"] {
            assert!(to(bad).is_err(), "{bad:?}");
        }
        let v6 = Destination::Address("[2001:db8::1]:80".parse().unwrap());
        assert!(proxy.request(&v6).unwrap().starts_with("CONNECT [2001:db8::1]:80 "));
    }
}
