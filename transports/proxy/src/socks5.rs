//! SOCKS5: the CONNECT command of RFC 1928, with RFC 1929's user name and password.
//!
//! in:  a destination; out: the proxy's stream, or the errno of its reply code
//! owner: the dial's future
//! keeps: exactly the bytes of the proxy's answers are read
//! bound: 2 + 2 + 262 bytes of answers

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use async_trait::async_trait;
use outsock_transport::{
    Capabilities, Destination, DialError, DialRequest, Dialed, Errno, ListenError, Listener,
    Transport,
};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::auth::Auth;
use crate::limits::FIELD_BYTES_MAX;
use crate::upstream::{Upstream, Wire, broken};

const VERSION: u8 = 5;
const NO_AUTH: u8 = 0;
const PASSWORD: u8 = 2;
const NONE_FITS: u8 = 0xff;
const PASSWORD_VERSION: u8 = 1;
const CONNECT: u8 = 1;
const IPV4: u8 = 1;
const NAME: u8 = 3;
const IPV6: u8 = 4;

/// See the module.
#[derive(Clone, Debug)]
pub struct Socks5 {
    upstream: Upstream,
    auth: Auth,
}

impl Socks5 {
    /// The proxy at `server`, which `below` leads to.
    pub fn new(below: Arc<dyn Transport>, server: Destination, auth: Auth) -> Self {
        Self { upstream: Upstream::new(below, server), auth }
    }
}

#[async_trait]
impl Transport for Socks5 {
    fn kind(&self) -> &'static str {
        "socks5"
    }

    fn capabilities(&self) -> Capabilities {
        capabilities()
    }

    async fn dial(&self, request: DialRequest) -> Result<Dialed, DialError> {
        let wanted = encode(&request.destination)?;
        let exchange = async |mut wire: Wire| {
            greet(&mut wire, &self.auth).await?;
            write(&mut wire, &wanted).await?;
            hear(&mut wire).await?;
            Ok(wire)
        };
        self.upstream.ask(&request, exchange).await
    }

    async fn listen(&self, _at: &Destination) -> Result<Box<dyn Listener>, ListenError> {
        Err(ListenError::Unsupported("anything: proxies only dial"))
    }
}

/// What any proxy can do.
pub(crate) fn capabilities() -> Capabilities {
    Capabilities {
        dials_addresses: true,
        dials_names: true,
        dials_unix: false,
        listens: false,
        half_close: true,
        reset: true,
        encrypted: false,
    }
}

/// The CONNECT request.
fn encode(destination: &Destination) -> Result<Vec<u8>, DialError> {
    let mut bytes = vec![VERSION, CONNECT, 0];
    let port = match destination {
        Destination::Address(address) => {
            match canonical(*address) {
                IpAddr::V4(ip) => {
                    bytes.push(IPV4);
                    bytes.extend(ip.octets());
                }
                IpAddr::V6(ip) => {
                    bytes.push(IPV6);
                    bytes.extend(ip.octets());
                }
            }
            address.port()
        }
        Destination::Name { name, port } => {
            let length = u8::try_from(name.len()).ok().filter(|length| *length > 0);
            let length =
                length.ok_or(DialError::UnsupportedDestination("a name of more than 255 bytes"))?;
            bytes.extend([NAME, length]);
            bytes.extend(name.as_bytes());
            *port
        }
        Destination::Unix(_) => {
            return Err(DialError::UnsupportedDestination("Unix sockets behind a proxy"));
        }
    };
    bytes.extend(port.to_be_bytes());
    Ok(bytes)
}

/// Mapped IPv4 is IPv4 to a proxy that may have no IPv6.
fn canonical(address: SocketAddr) -> IpAddr {
    address.ip().to_canonical()
}

async fn write(wire: &mut Wire, bytes: &[u8]) -> Result<(), DialError> {
    wire.write_all(bytes).await.map_err(|error| broken(&error))?;
    wire.flush().await.map_err(|error| broken(&error))
}

async fn read<const N: usize>(wire: &mut Wire) -> Result<[u8; N], DialError> {
    let mut bytes = [0; N];
    wire.read_exact(&mut bytes).await.map_err(|error| broken(&error))?;
    Ok(bytes)
}

fn misbehaved(what: &str) -> DialError {
    DialError::PeerMisbehaved(what.to_owned())
}

/// Agrees on who we are.
async fn greet(wire: &mut Wire, auth: &Auth) -> Result<(), DialError> {
    match auth {
        Auth::None => write(wire, &[VERSION, 1, NO_AUTH]).await?,
        Auth::Password { .. } => write(wire, &[VERSION, 2, NO_AUTH, PASSWORD]).await?,
    }
    let [version, method] = read(wire).await?;
    if version != VERSION {
        return Err(misbehaved("the proxy speaks no SOCKS5"));
    }
    match (method, auth) {
        (NO_AUTH, Auth::None | Auth::Password { .. }) => Ok(()),
        (PASSWORD, Auth::Password { user, password }) => log_in(wire, user, password).await,
        (NONE_FITS, Auth::None) => {
            Err(DialError::Denied("the proxy wants a user name and a password".to_owned()))
        }
        (NONE_FITS, Auth::Password { .. }) => {
            Err(DialError::Denied("the proxy takes no user name and password".to_owned()))
        }
        (_, Auth::None | Auth::Password { .. }) => {
            Err(misbehaved("the proxy chose a method that was not offered"))
        }
    }
}

async fn log_in(wire: &mut Wire, user: &str, password: &str) -> Result<(), DialError> {
    let mut bytes = vec![PASSWORD_VERSION];
    for field in [user, password] {
        // Both were checked when they were made.
        let length = field.len().min(FIELD_BYTES_MAX);
        bytes.push(u8::try_from(length).unwrap_or(u8::MAX));
        bytes.extend(&field.as_bytes()[..length]);
    }
    write(wire, &bytes).await?;
    let [_version, status] = read(wire).await?;
    match status {
        0 => Ok(()),
        _ => Err(DialError::Denied("the proxy refuses the user name or the password".to_owned())),
    }
}

/// The proxy's reply, to its last byte.
async fn hear(wire: &mut Wire) -> Result<(), DialError> {
    let [version, code, _, kind] = read(wire).await?;
    if version != VERSION {
        return Err(misbehaved("the proxy's reply is no SOCKS5"));
    }
    if code != 0 {
        return Err(refusal(code));
    }
    // Where it is bound: nobody asks.
    match kind {
        IPV4 => drop(read::<6>(wire).await?),
        IPV6 => drop(read::<18>(wire).await?),
        NAME => {
            let [length] = read(wire).await?;
            let mut rest = vec![0; usize::from(length) + 2];
            wire.read_exact(&mut rest).await.map_err(|error| broken(&error))?;
        }
        _ => return Err(misbehaved("the proxy's reply has an address of no known kind")),
    }
    Ok(())
}

/// A reply code as a dial's error: RFC 1928, 6, and those that Tor adds (proposal 304).
fn refusal(code: u8) -> DialError {
    match code {
        0 => misbehaved("success is no refusal"),
        // A general failure is most often a name or a host that the proxy cannot reach.
        1 => DialError::HostUnreachable,
        2 => DialError::Denied("the proxy's rules".to_owned()),
        3 => DialError::NetworkUnreachable,
        4 => DialError::HostUnreachable,
        5 => DialError::Refused,
        // "TTL expired": what proxies say for a time-out.
        6 => DialError::TimedOut,
        7 => DialError::Os(Errno::EOPNOTSUPP),
        8 => DialError::UnsupportedDestination("this kind of address by this proxy"),
        // An onion service: not found, not valid, no introduction, no rendezvous.
        0xf0..=0xf3 | 0xf6 => DialError::HostUnreachable,
        // Its client authorization: missing, wrong.
        0xf4 | 0xf5 => {
            DialError::Denied("the onion service lets only those in whom it knows".to_owned())
        }
        0xf7 => DialError::TimedOut,
        9..=0xef | 0xf8..=0xff => misbehaved("the proxy gives a reason of no known kind"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_code_has_an_errno() {
        let errno = |code| refusal(code).errno();
        assert_eq!(errno(1), Errno::EHOSTUNREACH);
        assert_eq!(errno(2), Errno::EACCES);
        assert_eq!(errno(3), Errno::ENETUNREACH);
        assert_eq!(errno(4), Errno::EHOSTUNREACH);
        assert_eq!(errno(5), Errno::ECONNREFUSED);
        assert_eq!(errno(6), Errno::ETIMEDOUT);
        assert_eq!(errno(7), Errno::EOPNOTSUPP);
        assert_eq!(errno(8), Errno::EAFNOSUPPORT);
        assert_eq!(errno(0xf4), Errno::EACCES);
        assert_eq!(errno(0xf7), Errno::ETIMEDOUT);
        assert_eq!(errno(0x77), Errno::ECONNRESET);
    }

    #[test]
    fn destinations_on_the_wire() {
        let address = |text: &str| Destination::Address(text.parse().unwrap());
        let name = |name: &str| Destination::Name { name: name.to_owned(), port: 443 };
        assert_eq!(encode(&address("1.2.3.4:80")).unwrap(), [5, 1, 0, 1, 1, 2, 3, 4, 0, 80]);
        assert_eq!(encode(&address("[::ffff:1.2.3.4]:80")).unwrap()[3..5], [1, 1]);
        let v6 = encode(&address("[2001:db8::1]:80")).unwrap();
        assert_eq!((v6[3], v6.len()), (4, 22));
        assert_eq!(encode(&name("a.example")).unwrap()[3..6], [3, 9, b'a']);
        assert!(encode(&name(&"a".repeat(256))).is_err());
        assert!(encode(&Destination::Unix("/x".into())).is_err());
    }
}
