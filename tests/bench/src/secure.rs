//! The far end's other doors: TLS 1.3, SOCKS5 that leads to nowhere else, and plain TCP to compare them with.
//!
//! in: connections; out: the same conversations as over TCP, one thread each. The proxy serves what it is
//! asked for by itself, so that the figures show what the gateway does and not what a proxy costs.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::sync::Arc;

use anyhow::Result;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ServerConfig, ServerConnection, StreamOwned};

use crate::protocol::{self, Purpose, Volume};

/// Opens the doors; their addresses: TLS, SOCKS5, plain.
pub(crate) fn open(certificate: &Path, key: &Path) -> Result<[SocketAddr; 3]> {
    let config = Arc::new(config(certificate, key)?);
    let tls = serve(move |mut stream| {
        stream.set_nodelay(true)?;
        let mut session = ServerConnection::new(Arc::clone(&config)).map_err(io::Error::other)?;
        session.complete_io(&mut stream)?;
        converse(StreamOwned::new(session, stream))
    })?;
    let socks5 = serve(|mut stream| {
        socks5(&mut stream)?;
        converse(stream)
    })?;
    let plain = serve(|stream| {
        stream.set_nodelay(true)?;
        converse(stream)
    })?;
    Ok([tls, socks5, plain])
}

fn config(certificate: &Path, key: &Path) -> Result<ServerConfig> {
    let chain = CertificateDer::pem_file_iter(certificate)?.collect::<Result<Vec<_>, _>>()?;
    let key = PrivateKeyDer::from_pem_file(key)?;
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .with_no_client_auth()
        .with_single_cert(chain, key)?;
    Ok(config)
}

fn serve(
    one: impl Fn(TcpStream) -> io::Result<()> + Clone + Send + 'static,
) -> io::Result<SocketAddr> {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let address = listener.local_addr()?;
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let one = one.clone();
            // The near end sees an error as the end of its stream.
            std::thread::spawn(move || drop(one(stream)));
        }
    });
    Ok(address)
}

/// A proxy's half of the set-up, for any destination by IPv4.
fn socks5(stream: &mut TcpStream) -> io::Result<()> {
    stream.set_nodelay(true)?;
    stream.read_exact(&mut [0; 3])?;
    stream.write_all(&[5, 0])?;
    stream.read_exact(&mut [0; 10])?;
    stream.write_all(&[5, 0, 0, 1, 0, 0, 0, 0, 0, 0])
}

fn converse(mut stream: impl Read + Write) -> io::Result<()> {
    let mut first = [0];
    stream.read_exact(&mut first)?;
    match Purpose::of(first[0]) {
        Some(Purpose::Source) => {
            let volume = Volume::receive(&mut stream)?;
            protocol::pour(volume, &mut stream)?;
            stream.flush()?;
        }
        Some(Purpose::Sink) => {
            let volume = Volume::receive(&mut stream)?;
            protocol::drain(volume.bytes, &mut stream)?;
            stream.write_all(&[1])?;
            stream.flush()?;
        }
        Some(Purpose::Answer) => {
            stream.write_all(&first)?;
            stream.flush()?;
        }
        Some(Purpose::Echo) => loop {
            let mut bytes = [0; 4096];
            let count = stream.read(&mut bytes)?;
            if count == 0 {
                return Ok(());
            }
            stream.write_all(&bytes[..count])?;
            stream.flush()?;
        },
        Some(Purpose::Stall) | None => {}
    }
    // The near end closes first, so that ports in TIME_WAIT are always its own.
    let _ = stream.read(&mut [0]);
    Ok(())
}
