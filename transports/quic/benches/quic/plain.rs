//! Quinn alone: one connection on loopback, with the windows and the socket buffers that gateways have.
//!
//! in: nothing; out: streams whose far end reads all and answers with a byte. Owner: the bench.

use std::net::SocketAddr;
use std::sync::Arc;

use outsock_link::{Link, Quality};
use quinn::{
    AckFrequencyConfig, Connection, Endpoint, EndpointConfig, TokioRuntime, TransportConfig,
};
use tokio::io::{AsyncReadExt, AsyncWriteExt, Join};

use crate::common::{loopback, settings};

/// See the module.
pub(crate) struct Plain {
    connection: Connection,
    _endpoints: [Endpoint; 2],
    _link: Option<Link>,
}

/// As a gateway with one peer.
fn transport() -> Arc<TransportConfig> {
    let settings = settings();
    let mut acks = AckFrequencyConfig::default();
    acks.ack_eliciting_threshold(10_u32.into());
    let mut transport = TransportConfig::default();
    transport
        .stream_receive_window(settings.stream_window.into())
        .receive_window(settings.connection_window.into())
        .send_window(settings.connection_window.into())
        .max_concurrent_bidi_streams(settings.streams_max.into())
        .ack_frequency_config(Some(acks));
    Arc::new(transport)
}

fn socket() -> std::net::UdpSocket {
    let socket = std::net::UdpSocket::bind(loopback(0)).unwrap();
    let buffer = settings().socket_buffer;
    let _ = rustix::net::sockopt::set_socket_recv_buffer_size_force(&socket, buffer);
    let _ = rustix::net::sockopt::set_socket_send_buffer_size(&socket, buffer);
    socket
}

fn endpoint(server: Option<quinn::ServerConfig>) -> Endpoint {
    Endpoint::new(EndpointConfig::default(), server, socket(), Arc::new(TokioRuntime)).unwrap()
}

impl Plain {
    pub(crate) async fn start(quality: Option<Quality>) -> Self {
        let made = rcgen::generate_simple_self_signed(vec!["far".to_owned()]).unwrap();
        let certificate = made.cert.der().clone();
        let key = rustls::pki_types::PrivatePkcs8KeyDer::from(made.signing_key.serialize_der());
        let mut server =
            quinn::ServerConfig::with_single_cert(vec![certificate.clone()], key.into()).unwrap();
        server.transport_config(transport());
        let far = endpoint(Some(server));
        let mut roots = rustls::RootCertStore::empty();
        roots.add(certificate).unwrap();
        let mut client = quinn::ClientConfig::with_root_certificates(Arc::new(roots)).unwrap();
        client.transport_config(transport());
        let near = endpoint(None);
        tokio::spawn(serve(far.clone()));
        let mut to: SocketAddr = far.local_addr().unwrap();
        let mut link = None;
        if let Some(quality) = quality {
            let started = Link::start(loopback(0), to, quality).await.unwrap();
            to = started.address();
            link = Some(started);
        }
        let connection = near.connect_with(client, to, "far").unwrap().await.unwrap();
        Self { connection, _endpoints: [near, far], _link: link }
    }

    /// A stream.
    pub(crate) fn open(
        &self,
    ) -> impl Future<Output = Join<quinn::RecvStream, quinn::SendStream>> + use<> {
        let connection = self.connection.clone();
        async move {
            let (send, receive) = connection.open_bi().await.unwrap();
            tokio::io::join(receive, send)
        }
    }
}

async fn serve(far: Endpoint) {
    while let Some(incoming) = far.accept().await {
        let connection = incoming.await.unwrap();
        tokio::spawn(async move {
            while let Ok((mut send, mut receive)) = connection.accept_bi().await {
                tokio::spawn(async move {
                    let mut buffer = vec![0; 64 << 10];
                    // As a gateway reads: by tokio's trait.
                    while AsyncReadExt::read(&mut receive, &mut buffer).await.unwrap() > 0 {}
                    send.write_u8(1).await.unwrap();
                    send.shutdown().await.unwrap();
                    let _ = send.stopped().await;
                });
            }
        });
    }
}
